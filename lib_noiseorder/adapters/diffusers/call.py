"""Ordered initial latents for diffusers pipelines.

    latents = ordered_latents(pipe, prompt="a blue pizza", generator=generator, settings=settings)
    image = pipe(prompt="a blue pizza", generator=generator, latents=latents).images[0]

Give both calls the same arguments; `run_ordered` makes both, and does not ask the model twice. The generator is advanced as
by the pipeline itself, so that a sampler which draws from it goes on as in a plain call. diffusers itself is not imported:
whoever has a pipeline has it already.
"""

from __future__ import annotations

import inspect
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...chosen import check_without_seeds
from ...model import Draw, NoiseLevel, clean
from ...ordering import order_noise
from ...report import OrderedNoise, Report
from ...settings import INFOTEXT_PREFIX, NoiseOrderSettings
from ..given_settings import given_settings
from ..noise_keyed_draws import further_draws
from .models import Answer, AnsweredModels, denoising_models, forwards_replaced, why_not_remembered
from .probe import PipelineProbe, Question
from .schedule import Schedule, is_known, takes_euler_steps

SUPPORTED = (
    "StableDiffusionPipeline",
    "StableDiffusionXLPipeline",
    "StableDiffusion3Pipeline",
    "FluxPipeline",
    "WanPipeline",
    "WanImageToVideoPipeline",
)
"""Pipelines, and classes made from them, whose `latents` argument is the initial noise."""

_CALLBACKS = ("callback", "callback_steps", "callback_on_step_end")
_OUTPUTS = ("pil", "np", "pt", "latent")


def ordered_latents(
    pipe: Any, prompt: Any = None, *, settings: NoiseOrderSettings | Mapping[str, Any] | None = None, **call: Any
) -> Tensor:
    """The `latents` to call the pipeline with; what was left out comes as a warning.

    Arguments, result and errors are those of `order_latents`, whose noise this is.
    """
    ordered = order_latents(pipe, prompt, settings=settings, **call)
    for reason in ordered.report.skipped:
        warnings.warn(f"{INFOTEXT_PREFIX}: skipped {reason}", stacklevel=2)
    return ordered.noise


def order_latents(
    pipe: Any, prompt: Any = None, *, settings: NoiseOrderSettings | Mapping[str, Any] | None = None, **call: Any
) -> OrderedNoise:
    """Put the initial latents of a pipeline's next call in order.

    Args:
        pipe: one of SUPPORTED, with any scheduler of discrete timesteps. Adapters, offloading and guidance are honoured.
        prompt: as in the pipeline's call; None where `prompt_embeds` are given.
        settings: what to do; see `given_settings`. `chosen` lists draws in the order of the pictures, or one for all.
        call: the other arguments of the pipeline's call. `latents` among them are taken for draw 1; without them it is
            the pipeline's own noise for `generator`, or for the global random state. Callbacks are not called.

    Returns:
        The noise, of the shape, dtype and device that the pipeline itself would draw (SD [B, 4, h, w], Flux
        [B, tokens, 64], Wan [B, 16, f, h, w]; unit variance), and the report. With one generator per picture, a picture
        does not depend on the rest of the batch. If another thread interrupts the pipeline meanwhile, draw 1 comes
        back and the report says so.

    Raises:
        TypeError: no supported pipeline, or an argument that its call does not know.
        ValueError: arguments that cannot be used; latents of a wrong shape; a scheduler without a known noise schedule.
            All before the first evaluation of the denoising model. What the pipeline raises passes through, and
            leaves it as it was.
    """
    return _order(pipe, prompt, settings, call, remembers=False)[0]


class Interrupted(Exception):
    """The pipeline was interrupted before its own run began."""


@dataclass(frozen=True)
class OrderedRun:
    output: Any
    """What the pipeline returned."""
    noise: Tensor
    """The latents it started from."""
    report: Report


def run_ordered(
    pipe: Any, prompt: Any = None, *, settings: NoiseOrderSettings | Mapping[str, Any] | None = None, **call: Any
) -> OrderedRun:
    """The pipeline's call from ordered noise, without paying twice for what a selection has asked already.

    The answers given for the winner are remembered: the first call's with every scheduler, and those after it where
    the scheduler takes DDIM or Euler steps, which makes the more careful selection affordable. Up to rounding, the
    pictures are those from `ordered_latents` with the same choice.

    Arguments and errors are those of `order_latents`; callbacks are called as the pipeline itself runs.

    Raises:
        Interrupted: another thread interrupted the pipeline while its model was asked, so that there is no picture.
    """
    ordered, probe = _order(pipe, prompt, settings, call, remembers=True)
    if probe.result is None:
        raise Interrupted(f"{INFOTEXT_PREFIX}: interrupted while the model was asked")
    if prompt is not None:
        call["prompt"] = prompt
    call["latents"] = ordered.noise
    if not ordered.report.reusable_evaluations:
        return OrderedRun(pipe(**call), ordered.noise, ordered.report)
    pictures = len(ordered.noise)
    with forwards_replaced(denoising_models(pipe), AnsweredModels(probe.answers, pictures).forward):
        output = pipe(**call)
    ordered.report.reused(probe.answers.reused // pictures)
    return OrderedRun(output, ordered.noise, ordered.report)


def _order(
    pipe: Any, prompt: Any, settings: NoiseOrderSettings | Mapping[str, Any] | None, call: Mapping[str, Any], remembers: bool
) -> tuple[OrderedNoise, PipelineProbe]:
    """The work of `order_latents`; with the probe, which remembers what was answered."""
    started = time.perf_counter()
    settings = given_settings(settings)
    check_without_seeds(settings.chosen)
    # some pipelines write into the dictionaries they are given
    call = {name: dict(value) if type(value) is dict else value for name, value in call.items()}
    if prompt is not None:
        call["prompt"] = prompt
    _check_pipeline(pipe, call)
    _check_call(pipe, call)
    given = call.pop("latents", None)
    for name in _CALLBACKS:
        call.pop(name, None)
    call["output_type"] = "latent"
    if given is not None:  # the pipeline would not draw, and so must nobody's generator be advanced
        call["generator"] = torch.Generator().manual_seed(0)
    reuses = remembers and why_not_remembered(denoising_models(pipe)) is None
    draw: Draw | None = None

    def work(probe: PipelineProbe) -> OrderedNoise:
        nonlocal draw
        assert probe.noise is not None, "the work begins when the pipeline has drawn"
        if draw is None:
            draw = further_draws(_first(probe.noise, given, type(pipe).__name__))
        model = PipelineModel(probe, _guidance(pipe, call), takes_euler_steps(probe.scheduler, call), reuses)
        return order_noise(settings, draw, model)

    probe = PipelineProbe(pipe, work)
    ordered = probe.run(call)
    if ordered is None:
        if probe.noise is None:
            raise RuntimeError(f"{INFOTEXT_PREFIX}: {type(pipe).__name__} ended without sampling")
        noise = _first(probe.noise, given, type(pipe).__name__)
        ordered = OrderedNoise(noise, Report.before(noise))
        ordered.report.skip("everything", "interrupted")
    ordered.report.took(time.perf_counter() - started)
    return ordered, probe


def _first(own: Tensor, given: Tensor | None, pipeline: str) -> Tensor:
    """Draw 1: the latents given, if they are what the pipeline needs; its own without them."""
    if given is None:
        return own
    if given.shape != own.shape:
        shapes = f"{tuple(given.shape)}, {pipeline} needs {tuple(own.shape)}"
        raise ValueError(f"{INFOTEXT_PREFIX}: latents have shape {shapes}")
    return given.to(own)


class PipelineModel:
    """A pipeline that is being asked; a `lib_noiseorder.model.Model`.

    Noisy latents are variance preserving for eps-, v- and x0-models, x = (1 − sigma)·x0 + sigma·eps for flow models.
    """

    latents_per_call = 1
    cond_evaluations = 1
    pair_evaluations = 2
    reuses_prompt_only = True
    sampler_evaluations = None

    def __init__(self, probe: PipelineProbe, guidance: float, takes_euler_steps: bool, reuses_answers: bool):
        self.takes_euler_steps, self.reuses_answers = takes_euler_steps, reuses_answers
        self._probe = probe
        self._schedule = Schedule(probe.scheduler)
        self.guidance = guidance if probe.guided else 1.0
        self.family = "flow" if self._schedule.parameterisation == "flow" else "eps"
        self.sampler_levels = list(self._schedule.sampler_levels)

    def start(self, noise: Tensor) -> Tensor:
        return self._schedule.start(noise.float())

    def noisy(self, noise: Tensor, level: NoiseLevel) -> Tensor:
        return noise.float()

    def level_at(self, timestep: float) -> NoiseLevel:
        return self._schedule.level_at(timestep)

    def nearest_level(self, noise_share: float) -> NoiseLevel:
        return self._schedule.nearest_level(noise_share)

    def predict(self, latents: Sequence[Tensor], levels: Sequence[NoiseLevel]) -> list[Tensor]:
        return [self._clean(self._ask(x, level, False).cond, x, level) for x, level in zip(latents, levels)]

    def predict_pair(self, x: Tensor, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        answer = self._ask(x, level, True)
        if answer.uncond is None:
            raise RuntimeError("the pipeline did not ask its model without the prompt")
        return self._clean(answer.cond, x, level), self._clean(answer.uncond, x, level)

    def _ask(self, x: Tensor, level: NoiseLevel, pair: bool) -> Answer:
        return self._probe.ask(Question(x, self._schedule.timestep(level), pair))

    def _clean(self, output: Tensor, x: Tensor, level: NoiseLevel) -> Tensor:
        return clean(output.float(), x, level, self._schedule.parameterisation)


# -- what is checked before anything runs ------------------------------------------------------------------------------


def _check_pipeline(pipe: Any, call: Mapping[str, Any]) -> None:
    name = type(pipe).__name__
    if not {kind.__name__ for kind in type(pipe).__mro__} & set(SUPPORTED):
        raise TypeError(f"{INFOTEXT_PREFIX}: pipe is a {name}, not one of {', '.join(SUPPORTED)}")
    known = inspect.signature(type(pipe).__call__).parameters
    for argument in call:
        if argument not in known and argument not in _CALLBACKS:
            raise TypeError(f"{INFOTEXT_PREFIX}: {name} takes no argument {argument!r}")
    if not is_known(pipe.scheduler):
        raise ValueError(f"{INFOTEXT_PREFIX}: the noise schedule of {type(pipe.scheduler).__name__} is not known")


def _check_call(pipe: Any, call: Mapping[str, Any]) -> None:
    prompt, embeds = call.get("prompt"), call.get("prompt_embeds")
    if (prompt is None) == (embeds is None):
        raise ValueError(f"{INFOTEXT_PREFIX}: give either prompt or prompt_embeds")
    if prompt is not None and (not isinstance(prompt, (str, list)) or not prompt):
        raise ValueError(f"{INFOTEXT_PREFIX}: prompt must be a text or a list of texts, not {prompt!r}")
    if call.get("output_type", "latent") not in _OUTPUTS:
        raise ValueError(f"{INFOTEXT_PREFIX}: output_type = {call['output_type']!r} is not one of {', '.join(_OUTPUTS)}")
    steps = call.get("num_inference_steps", 1)
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
        raise ValueError(f"{INFOTEXT_PREFIX}: num_inference_steps = {steps!r} is not an integer from 1 on")
    per_prompt = call.get("num_images_per_prompt", call.get("num_videos_per_prompt")) or 1
    prompts = len(prompt) if isinstance(prompt, list) else 1 if embeds is None else len(embeds)
    pictures = prompts * per_prompt
    _check_generator(call.get("generator"), pictures)
    latents = call.get("latents")
    if latents is None:
        return
    if not isinstance(latents, Tensor) or not latents.is_floating_point():
        kind = latents.dtype if isinstance(latents, Tensor) else type(latents).__name__
        raise ValueError(f"{INFOTEXT_PREFIX}: latents must be a floating-point tensor, not {kind}")
    if latents.ndim == 0 or len(latents) != pictures:
        raise ValueError(f"{INFOTEXT_PREFIX}: latents have shape {tuple(latents.shape)} for {pictures} pictures")
    if not bool(torch.isfinite(latents).all()):
        raise ValueError(f"{INFOTEXT_PREFIX}: latents are not finite")


def _check_generator(generator: Any, pictures: int) -> None:
    generators = generator if isinstance(generator, list) else [generator]
    if not all(isinstance(one, torch.Generator) or (one is None and generator is None) for one in generators):
        raise ValueError(f"{INFOTEXT_PREFIX}: generator must be a torch.Generator or a list of them, one per picture")
    if isinstance(generator, list) and len(generator) != pictures:
        raise ValueError(f"{INFOTEXT_PREFIX}: generator has {len(generator)} entries for {pictures} pictures")


def _guidance(pipe: Any, call: Mapping[str, Any]) -> float:
    """The classifier-free guidance scale of the call; Flux' `guidance_scale` is a distilled one, not this."""
    known = inspect.signature(type(pipe).__call__).parameters
    name = "true_cfg_scale" if "true_cfg_scale" in known else "guidance_scale"
    return float(call.get(name, known[name].default))
