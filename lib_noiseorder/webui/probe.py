"""Asking the loaded checkpoint before sampling, through a sampler of the host's own.

A second sampler is made whose sampling function is ours: the host prepares the model, the conditioning, prompt
schedules, `AND`, ControlNet and whatever other extensions patched, exactly as for a picture, then hands us its
guided denoiser instead of running its steps. One code path for every host; nothing of the host is reimplemented.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from modules import sd_samplers
from modules.shared import state
from torch import Tensor

from ..denoiser import NoiseLevel, along_noise

T = TypeVar("T")


class Interrupted(Exception):
    """The user interrupted or skipped while the model was being asked."""


@dataclass(frozen=True)
class Sampling:
    """The arguments of the host's call of its sampler, to be repeated by the probe."""

    p: Any
    conditioning: Any
    unconditional_conditioning: Any
    image_conditioning: Any


def ask_model(sampling: Sampling, noise: Tensor, questions: int, work: Callable[[HostDenoiser], T]) -> T:
    """Run `work` with a denoiser of the loaded checkpoint, inside the host's own sampling environment.

    Everything the probe touches on the way (infotext parameters, progress, refiner, the CPU's random state) is put back.

    Args:
        sampling: the arguments of the host's sampler call.
        noise: [B, …] on the sampler's device; only its shape is used.
        questions: how many evaluations are announced to the progress display.
        work: gets the denoiser; its result is returned.

    Raises:
        Interrupted: the user interrupted or skipped meanwhile.
        Whatever `work` raises.
    """
    p = sampling.p
    outcome: list[T] = []
    failure: list[Exception] = []

    def in_place_of_the_steps(model, x, extra_args=None, disable=None, callback=None):
        model.mask = model.nmask = None  # the question is about the noise alone, not about an inpainting blend
        try:
            outcome.append(work(HostDenoiser(p, model, extra_args, questions)))
        except Exception as error:  # the host's clean-up after the steps must run
            failure.append(error)
        return x

    probe = sd_samplers.create_sampler("Euler", p.sd_model)
    probe.func = in_place_of_the_steps
    probe.get_sigmas = lambda p, steps: probe.model_wrap.sigmas.detach().cpu().flip(0)[:2]
    devices = [noise.device] if noise.device.type == "cuda" else []
    with _kept(p), _conditional_only(p), torch.random.fork_rng(devices=devices):
        probe.sample(
            p,
            noise.clone(),
            sampling.conditioning,
            sampling.unconditional_conditioning,
            steps=questions,
            image_conditioning=sampling.image_conditioning,
        )
    if failure:
        raise failure[0]
    if not outcome:
        raise Interrupted("interrupted")
    return outcome[0]


class HostDenoiser:
    """`lib_noiseorder.denoiser.Denoiser` over the host's guided denoiser, asked for its conditional prediction only."""

    def __init__(self, p: Any, model: Any, extra_args: dict[str, Any], questions: int):
        self._p = p
        self._model = model
        self._questions = questions
        self._asked = 0
        self._kind = prediction_kind(p.sd_model)
        # guidance scale 1 and an unlimited "negative guidance minimum sigma" are the hosts' own ways of
        # leaving the unconditional half of an evaluation out
        self._extra_args = {**extra_args, "cond_scale": 1.0, "s_min_uncond": float("inf")}
        self.evaluations = 1
        if hasattr(model, "combine_denoised"):
            model.combine_denoised = _mean_of_prompts
            if _conditions_on_a_picture(extra_args["image_cond"]):
                # A1111 leaves the noise of the unconditional half out, but not its picture: shapes would not match
                self._extra_args["s_min_uncond"] = 0.0
                self.evaluations = 2

    def __call__(self, noise: Tensor, timestep: float) -> Tensor:
        self._asked += 1
        state.textinfo = f"Noise Order: reading the prompt's semantics {self._asked}/{self._questions}"
        sigmas = self._model.inner_model.sigmas
        sigma = sigmas[round(timestep * (len(sigmas) - 1))].to(noise)
        if self._kind == "flow":
            x, level = noise, NoiseLevel.flow(sigma.item())
        else:
            x, level = noise * (sigma**2 + 1).sqrt(), NoiseLevel(1.0, sigma.item())
        # the step that prompt schedules would have reached; odd, because the hosts skip the negative prompt at odd ones
        self._model.step = round((1 - timestep) * max(self._p.steps - 1, 0)) // 2 * 2 + 1
        recorder = getattr(self._p, _RECORDER, None)
        denoised = self._model(x, sigma.expand(len(noise)), **self._extra_args)
        if recorder:
            denoised = recorder.pop()
        return along_noise(denoised, x, level, "x0", flow=self._kind == "flow")


def prediction_kind(sd_model: Any) -> str:
    """The checkpoint's family: "eps", "v" or "flow"."""
    objects = getattr(sd_model, "forge_objects", None)
    predictor = getattr(getattr(getattr(objects, "unet", None), "model", None), "predictor", None)
    if predictor is not None:
        return {"const": "flow", "v_prediction": "v"}.get(predictor.prediction_type, "eps")
    if getattr(sd_model, "is_sd3", False):
        return "flow"
    return "v" if getattr(sd_model, "parameterization", "eps") == "v" else "eps"


def _mean_of_prompts(x_out, conds_list, uncond, cond_scale, *_, **__):
    """Stands in for the guidance of A1111's CFGDenoiser: the weighted mean of a picture's `AND` prompts, no guidance."""
    means = []
    for conds in conds_list:
        total = sum(weight for _, weight in conds) or 1.0
        means.append(sum(x_out[index] * (weight / total) for index, weight in conds))
    return torch.stack(means)


def _conditions_on_a_picture(image_conditioning: Tensor | None) -> bool:
    """Whether an inpainting or unCLIP checkpoint gets a picture besides the noise, and not the hosts' 1×1 stand-in."""
    return image_conditioning is not None and image_conditioning.shape[2:] != (1, 1)


_RECORDER = "_noise_order_conditional"


@contextmanager
def _conditional_only(p: Any) -> Iterator[None]:
    """On Forge: take the conditional prediction before guidance, and leave other extensions' guidance patches out."""
    unet = getattr(getattr(p.sd_model, "forge_objects", None), "unet", None)
    if unet is None:
        yield
        return
    recorded: list[Tensor] = []

    def record(args: dict[str, Any]) -> Tensor:
        recorded.append(args["cond_denoised"])
        return args["denoised"]

    options = unet.model_options
    unet.model_options = {**options, "sampler_post_cfg_function": [record]}
    unet.model_options.pop("sampler_cfg_function", None)
    setattr(p, _RECORDER, recorded)
    try:
        yield
    finally:
        unet.model_options = options
        delattr(p, _RECORDER)


@contextmanager
def _kept(p: Any) -> Iterator[None]:
    """Put back what a sampler run changes on the job and in the progress display; no refiner meanwhile."""
    parameters = dict(p.extra_generation_params)
    progress = state.sampling_steps, state.sampling_step, state.textinfo
    refiner = getattr(p, "refiner_checkpoint_info", None)
    p.refiner_checkpoint_info = None
    try:
        yield
    finally:
        p.refiner_checkpoint_info = refiner
        p.extra_generation_params.clear()
        p.extra_generation_params.update(parameters)
        state.sampling_steps, state.sampling_step, state.textinfo = progress
