"""What is AUTOMATIC1111's own about a loaded checkpoint. `forge.py` has the same methods for Forge and its relatives."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from modules import shared
from torch import Tensor

RecordPair = Callable[[Tensor, Tensor], None]
"""Takes x0 with the prompt and x0 without, both [B, …], as predicted before guidance."""


class A1111:
    """A checkpoint loaded by AUTOMATIC1111."""

    def __init__(self, sd_model: Any):
        self._sd_model = sd_model

    @property
    def prediction(self) -> str:
        """The host's own name for what the checkpoint predicts."""
        if getattr(self._sd_model, "is_sd3", False):
            return "sd3"
        return getattr(self._sd_model, "parameterization", "nothing known")

    @property
    def network(self) -> Any:
        """The host's object around the diffusion network, which is its `diffusion_model`."""
        return self._sd_model.model

    @property
    def around(self) -> Any:
        """The object whose `apply_model` calls the network."""
        return self._sd_model

    @property
    def options(self) -> dict[str, Any]:
        """Patches that take part in the model's answers, by name; none here."""
        return {}

    @property
    def written_by_samplers(self) -> dict[str, Any]:
        """What samplers write for the network to read; nothing here."""
        return {}

    @property
    def shown_pictures(self) -> str | None:
        """Pictures that the network looks at besides the latents, in words; never here."""
        return None

    @property
    def foreign_part(self) -> str | None:
        """What takes part in the model's answers besides network and options, in words; None if nothing."""
        other = getattr(sys.modules.get("modules.sd_unet"), "current_unet", None)
        return "another network takes part" if other is not None or getattr(shared, "loaded_hypernetworks", None) else None

    @property
    def asks_both_halves_at_guidance_1(self) -> bool:
        """Whether samplers ask without the prompt where it makes no difference, too."""
        return True

    @property
    def conditioned_on_a_picture(self) -> bool:
        """Whether every question needs both halves, as `needs_both_halves` finds when there is a picture."""
        return getattr(self.network, "conditioning_key", "crossattn") != "crossattn"

    def bring_back(self) -> None:
        """Have the network where it is asked again, after something else may have taken its place; the host does so itself."""

    def needs_both_halves(self, image_conditioning: Tensor | None) -> bool:
        """Whether a question with the prompt alone must be asked with both prompts.

        A1111 leaves the noise of the unconditional half out, but not its picture: the shapes would not match where an
        inpainting or unCLIP checkpoint gets a picture besides the noise, and not the hosts' 1×1 stand-in.
        """
        return image_conditioning is not None and image_conditioning.shape[2:] != (1, 1)

    def model_function(self, guided_denoiser: Any) -> tuple[Any, str]:
        """The object and the name of its method that the guided denoiser asks for every evaluation."""
        return guided_denoiser.inner_model, "forward"

    @contextmanager
    def before_guidance(self, guided_denoiser: Any, record: RecordPair, sigma: float | None, pair: bool) -> Iterator[None]:
        """Have both predictions recorded before guidance; other extensions' guidance is left out meanwhile.

        Several `AND` prompts of a picture give their weighted mean or, of a pair, what the host's guidance would make of
        them, where the weights add up.
        """

        def in_place_of_combine_denoised(x_out: Tensor, conds_list: list, *_: Any, **__: Any) -> Tensor:
            cond, uncond = [], x_out[-len(conds_list) :]
            for conds, without in zip(conds_list, uncond):
                total = sum(weight for _, weight in conds)
                if pair:
                    cond.append(sum(x_out[index] * weight for index, weight in conds) + (1 - total) * without)
                else:
                    cond.append(sum(x_out[index] * (weight / (total or 1.0)) for index, weight in conds))
            both = torch.stack(cond), uncond
            record(*both)
            return both[0]

        guided_denoiser.combine_denoised = in_place_of_combine_denoised  # the probe's own: nobody else asks it
        yield
