"""The loaded checkpoint behind the host's guided denoiser, in the core's terms."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from modules.shared import state
from torch import Tensor

from ..denoiser import NoiseLevel, along_noise
from .memory import Memory
from .sampler_course import sampler_course, takes_euler_steps


class HostModel:
    """Asks the host's guided denoiser; `lib_noiseorder.denoiser.Denoiser` and `lib_noiseorder.selection.Preview`.

    Noisy latents are in the host's own convention, k-diffusion's x = x0 + sigma·eps or a flow model's
    x = (1 − sigma)·x0 + sigma·eps, and so are the noise levels given out here.

    Attributes:
        guidance: the job's classifier-free guidance scale; 1 where the host has no negative prompt to ask with.
        family: "flow" for flow models, "eps" for all others.
        follows: whether the sampler takes Euler steps.
        evaluations: what one question costs per picture.
        memory: every answer given so far.
    """

    def __init__(
        self, p: Any, model: Any, extra_args: dict[str, Any], latent: Tensor | None, noise_multiplier: float
    ):
        self._p = p
        self._model = model
        self._arguments = extra_args
        self._latent = latent
        self._noise_multiplier = noise_multiplier
        self._asked = 0
        self._flow = is_flow(p.sd_model)
        self.family = "flow" if self._flow else "eps"
        self.follows = takes_euler_steps(p)
        self.memory = Memory()
        self._sigmas = model.inner_model.sigmas
        self._pair: tuple[Tensor, Tensor] | None = None
        self.guidance = 1.0 if extra_args["uncond"] is None else float(extra_args["cond_scale"])
        # A1111 leaves the noise of the unconditional half out, but not its picture: shapes would not match
        self._needs_both_halves = hasattr(model, "combine_denoised") and _conditions_on_a_picture(extra_args["image_cond"])
        self.evaluations = 2 if self._needs_both_halves else 1

    # -- Denoiser --------------------------------------------------------------------------------------------------

    def __call__(self, noise: Tensor, timestep: float) -> Tensor:
        level = self.level(timestep) if self._flow else self._at(timestep)
        x = noise if self._flow else noise * (level.sigma**2 + 1) ** 0.5
        return along_noise(self.predict(x, level), x, level, "x0", flow=self._flow)

    # -- Preview ---------------------------------------------------------------------------------------------------

    @property
    def levels(self) -> list[NoiseLevel]:
        return [self._level(sigma) for sigma in self._course[0]]

    def start(self, noise: Tensor) -> Tensor:
        return self._course[1](noise * self._noise_multiplier)

    def level(self, noise_share: float) -> NoiseLevel:
        sigma = noise_share if self._flow else noise_share / (1 - noise_share)
        return self._level(self._sigmas[(self._sigmas - sigma).abs().argmin()].item())

    def predict(self, x: Tensor, level: NoiseLevel) -> Tensor:
        # guidance scale 1 and an unlimited "negative guidance minimum sigma" at an odd step are the hosts' own ways
        # of leaving the unconditional half of an evaluation out
        least_sigma = 0.0 if self._needs_both_halves else float("inf")
        return self._ask(x, level, self._step(level) // 2 * 2 + 1, cond_scale=1.0, s_min_uncond=least_sigma)[0]

    def predict_pair(self, x: Tensor, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        return self._ask(x, level, self._step(level), cond_scale=self.guidance, s_min_uncond=0.0)

    # -- inside ----------------------------------------------------------------------------------------------------

    @cached_property
    def _course(self):
        return sampler_course(self._p, self._latent, self._sigmas, self._flow)

    def _at(self, timestep: float) -> NoiseLevel:
        return self._level(self._sigmas[round(timestep * (len(self._sigmas) - 1))].item())

    def _level(self, sigma: float) -> NoiseLevel:
        return NoiseLevel.flow(sigma) if self._flow else NoiseLevel(1.0, sigma)

    def _step(self, level: NoiseLevel) -> int:
        """The sampler's step that prompt schedules would have reached at this noise level."""
        return sum(sigma > level.sigma for sigma in self._course[0])

    def _ask(self, x: Tensor, level: NoiseLevel, step: int, **how: float) -> tuple[Tensor, Tensor]:
        """x0 with the prompt and without, as the host's denoiser predicts them before guidance."""
        self._asked += 1
        state.textinfo = f"Noise Order: reading the prompt's semantics, question {self._asked}"
        self._model.step = step
        with self._before_guidance(), self.memory.recording(*model_function(self._p.sd_model, self._model)):
            self._model(x, x.new_full((len(x),), level.sigma), **{**self._arguments, **how})
        return self._pair

    @contextmanager
    def _before_guidance(self) -> Iterator[None]:
        """Record both predictions before guidance, and leave other extensions' guidance out."""
        unet = getattr(getattr(self._p.sd_model, "forge_objects", None), "unet", None)
        if unet is None:
            self._model.combine_denoised = self._record_a1111
            yield
            return
        options = unet.model_options
        unet.model_options = {**options, "sampler_post_cfg_function": [self._record_forge]}
        unet.model_options.pop("sampler_cfg_function", None)
        try:
            yield
        finally:
            unet.model_options = options

    def _record_forge(self, args: dict[str, Any]) -> Tensor:
        self._pair = args["cond_denoised"], args["uncond_denoised"]
        return args["denoised"]

    def _record_a1111(self, x_out: Tensor, conds_list: list, uncond: Any, cond_scale: float, *_: Any, **__: Any) -> Tensor:
        """Stands in for `CFGDenoiser.combine_denoised`; several `AND` prompts of a picture give their weighted mean."""
        prompted = []
        for conds in conds_list:
            total = sum(weight for _, weight in conds) or 1.0
            prompted.append(sum(x_out[index] * (weight / total) for index, weight in conds))
        self._pair = torch.stack(prompted), x_out[-len(conds_list) :]
        return self._pair[0]


def model_function(sd_model: Any, guided_denoiser: Any) -> tuple[Any, str]:
    """The object and the name of its method that both hosts' guided denoisers ask for every evaluation."""
    objects = getattr(sd_model, "forge_objects", None)
    return (guided_denoiser.inner_model, "forward") if objects is None else (objects.unet.model, "apply_model")


def is_flow(sd_model: Any) -> bool:
    """Whether the checkpoint is a flow model (Flux, SD3 …)."""
    objects = getattr(sd_model, "forge_objects", None)
    predictor = getattr(getattr(getattr(objects, "unet", None), "model", None), "predictor", None)
    if predictor is not None:
        return predictor.prediction_type == "const"
    return bool(getattr(sd_model, "is_sd3", False))


def _conditions_on_a_picture(image_conditioning: Tensor | None) -> bool:
    """Whether an inpainting or unCLIP checkpoint gets a picture besides the noise, and not the hosts' 1×1 stand-in."""
    return image_conditioning is not None and image_conditioning.shape[2:] != (1, 1)
