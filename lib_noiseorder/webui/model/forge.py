"""What is Forge's own about a loaded checkpoint, and its relatives' (reForge, Forge Neo, Forge Classic).

The only file that knows `forge_objects`; `a1111.py` has the same methods for AUTOMATIC1111.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from ...answers import value_replaced
from .a1111 import RecordPair
from .company import without_extensions

_AFTER_THE_ANSWER = ("sampler_post_cfg_function", "sampler_cfg_function")
"""Patches that act on guidance, after the model's answer; questions leave them out."""
_PICTURES = ("ref_latents", "concat_latent", "lq_latent")
"""What Forge Neo keeps beside the call of a network that looks at pictures: a latent, or a list of such."""
_SCHEDULES = ("sampling_sigmas", "sample_sigmas")
_FOREIGN_PARTS = ("object_patches", "controlnet_linked_list", "extra_model_patchers_during_sampling")


class Forge:
    """A checkpoint loaded by Forge or one of its relatives."""

    @staticmethod
    def loaded(sd_model: Any) -> bool:
        """Whether a checkpoint is one of these hosts'."""
        return getattr(sd_model, "forge_objects", None) is not None

    @staticmethod
    def running() -> bool:
        """Whether this is one of these hosts, whatever is loaded."""
        return "modules_forge" in sys.modules

    def __init__(self, sd_model: Any):
        self._unet = sd_model.forge_objects.unet

    @property
    def prediction(self) -> str:
        """The host's own name for what the checkpoint predicts."""
        model = self._unet.model
        return model.predictor.prediction_type if hasattr(model, "predictor") else model.model_type.name.lower()

    @property
    def network(self) -> Any:
        """The host's object around the diffusion network, which is its `diffusion_model`."""
        return self._unet.model

    @property
    def around(self) -> Any:
        """The object whose `apply_model` calls the network."""
        return self._unet.model

    @property
    def options(self) -> dict[str, Any]:
        """Patches that take part in the model's answers, by name."""
        return {name: value for name, value in self._unet.model_options.items() if name not in _AFTER_THE_ANSWER}

    @property
    def written_by_samplers(self) -> dict[str, Any]:
        """The very dictionary that samplers write into for the network to read, as Forge Neo's do their schedule."""
        return self._unet.model_options.get("transformer_options", {})

    @property
    def shown_pictures(self) -> str | None:
        """Pictures that the network looks at besides the latents, in words; None if there are none.

        Some networks (Qwen-Image-Edit's) put them beside one latent only.
        """
        given = (getattr(_beside_the_call(), name, None) for name in _PICTURES)
        shown = any(isinstance(one, Tensor) or any(part is not None for part in one or ()) for one in given)
        return "reference pictures" if shown else None

    @property
    def foreign_part(self) -> str | None:
        """What takes part in the model's answers besides network and options, in words; None if nothing."""
        if getattr(_beside_the_call(), "context_handler", None) is not None:
            return "context windows"
        return next((f"{kind} on the network" for kind in _FOREIGN_PARTS if getattr(self._unet, kind, None)), None)

    @property
    def asks_both_halves_at_guidance_1(self) -> bool:
        """Whether samplers ask without the prompt where it makes no difference, too: if a patch wants to see it."""
        return bool(self._unet.model_options.get("disable_cfg1_optimization"))

    @property
    def conditioned_on_a_picture(self) -> bool:
        """Whether every question needs both halves; never here."""
        return False

    def bring_back(self) -> None:
        """Have the network where it is asked again, after something else may have taken its place on the GPU."""
        for name in ("backend.memory_management", "ldm_patched.modules.model_management"):
            if name in sys.modules:
                sys.modules[name].load_model_gpu(self._unet)
                return

    def needs_both_halves(self, image_conditioning: Tensor | None) -> bool:
        """Whether a question with the prompt alone must be asked with both prompts; never here."""
        return False

    def model_function(self, guided_denoiser: Any) -> tuple[Any, str]:
        """The object and the name of its method that the guided denoiser asks for every evaluation."""
        return self._unet.model, "apply_model"

    @contextmanager
    def before_guidance(self, guided_denoiser: Any, record: RecordPair, sigma: float | None, pair: bool) -> Iterator[None]:
        """Have both predictions recorded before guidance; other extensions' guidance and patches are left out meanwhile.

        Where the sampler's schedule is shown to the network, its nearest noise level is `sigma`: what looks its step up
        there finds one. None: the sampler shows none, and what an earlier one has left there is as the sampler sees it.
        Nothing that is written into the options meanwhile stays. Several `AND` prompts of a picture give their weighted mean
        or, of a pair, what the host's guidance would make of them, where the weights add up.
        """

        def in_place_of_guidance(args: dict[str, Any]) -> Tensor:
            cond, uncond = args["cond_denoised"], args["uncond_denoised"]
            weight = sum(part.get("strength", 1.0) for part in args["cond"])
            record(uncond + weight * (cond - uncond) if pair and weight != 1 else cond, uncond)
            return args["denoised"]

        options = {**without_extensions(self._unet.model_options), "sampler_post_cfg_function": [in_place_of_guidance]}
        if "transformer_options" in options:
            written = options["transformer_options"] = dict(options["transformer_options"])
            if sigma is not None:
                written.update({name: _with_level(written[name], sigma) for name in _SCHEDULES if name in written})
        options.pop("sampler_cfg_function", None)
        if not options.get("sampler_pre_cfg_function"):  # nobody is left who needs the unconditional half at guidance 1
            options.pop("disable_cfg1_optimization", None)
        with value_replaced(self._unet, "model_options", options):
            yield


def _beside_the_call() -> Any:
    """Where Forge Neo keeps what its networks read besides their arguments; None on its relatives."""
    return getattr(sys.modules.get("backend.args"), "dynamic_args", None)


def _with_level(sigmas: Tensor, sigma: float) -> Tensor:
    """A schedule that a noise level is in: the same one if it is there, else a copy with the nearest level moved."""
    distances = (sigmas - sigma).abs()
    if distances.min() == 0:
        return sigmas
    moved = sigmas.clone()
    moved[distances.argmin()] = sigma
    return moved
