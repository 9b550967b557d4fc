"""Ordered initial latents for diffusers pipelines.

    latents = ordered_latents(pipe, prompt="a blue pizza", generator=generator, settings=settings)
    image = pipe(prompt="a blue pizza", generator=generator, latents=latents).images[0]

Give both calls the same arguments; `run_ordered` makes both, and does not ask the model twice. The generator is advanced as
by the pipeline itself, so that a sampler which draws from it goes on as in a plain call. diffusers itself is not imported:
whoever has a pipeline has it already.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...chosen import chosen_draws
from ...knobs import SettingsError
from ...model import Draw
from ...ordering import order_noise
from ...report import OrderedNoise, Report, in_one_line
from ...settings import INFOTEXT_PREFIX, NoiseOrderSettings
from ..given_settings import given_settings
from ..noise_keyed_draws import further_draws
from .arguments import CALLBACKS, check_call, check_pipeline, guidance_scales, has_callback, parameters
from .latents import Layout, drawn_as, layouts
from .model import PipelineModel
from .models import calls_replaced, denoising_models, why_not_asked, why_not_remembered
from .probe import PipelineProbe
from .rehearsal import RandomStates, Rehearsal, Replayed, Unusable, rehearse
from .remembered import AnsweredModels
from .schedule import takes_euler_steps

Given = NoiseOrderSettings | Mapping[str, Any] | None


def ordered_latents(pipe: Any, prompt: Any = None, *, settings: Given = None, **call: Any) -> Tensor:
    """The `latents` to call the pipeline with; what was left out comes as a warning.

    Arguments, result and errors are those of `order_latents`, whose noise this is.
    """
    ordered = order_latents(pipe, prompt, settings=settings, **call)
    for reason in ordered.report.skipped:
        warnings.warn(f"{INFOTEXT_PREFIX}: skipped {reason}", stacklevel=2)
    return ordered.noise


def order_latents(pipe: Any, prompt: Any = None, *, settings: Given = None, **call: Any) -> OrderedNoise:
    """Put the initial latents of a pipeline's next call in order.

    Args:
        pipe: any pipeline whose `latents` are its initial noise and whose scheduler's noise levels are known; whether they are
            is found out by going through its call once with nothing evaluated. Adapters, offloading and guidance are honoured.
        prompt: as in the pipeline's call; None where `prompt_embeds` are given.
        settings: what to do; see `given_settings`. `chosen` lists draws in the order of the pictures, or one for all.
        call: the other arguments of the pipeline's call. `latents` among them are taken for draw 1; without them it is
            the pipeline's own noise for `generator`, or for the global random state. Callbacks are not called.

    Returns:
        The noise, of the shape, dtype and device that the pipeline takes as `latents` (SD [B, 4, h, w], Flux
        [B, tokens, 64], Wan [B, 16, f, h, w]; unit variance), and the report. With one generator per picture, a picture
        does not depend on the rest of the batch. If another thread interrupts the pipeline meanwhile, or somebody has put
        into the model what nobody can put back after a question, draw 1 comes back and the report says so.

    Raises:
        TypeError: a pipeline that cannot be ordered, or an argument that its call does not know.
        ValueError: arguments that cannot be used; latents of a wrong shape; a scheduler without a known noise schedule.
            All before the first evaluation of the denoising model. What the pipeline raises passes through, and
            leaves it as it was.
    """
    return _Ordering(pipe, prompt, settings, call, remembers=False).done()


class Interrupted(Exception):
    """The pipeline was interrupted before its own run began."""


@dataclass(frozen=True)
class OrderedRun:
    output: Any
    """What the pipeline returned."""
    noise: Tensor | None
    """The latents it started from; None where it drew them itself because the ordering failed."""
    report: Report


def run_ordered(pipe: Any, prompt: Any = None, *, settings: Given = None, **call: Any) -> OrderedRun:
    """The pipeline's call from ordered noise, without paying twice for what a selection has asked already.

    The answers given for the winner are remembered: the first call's with every scheduler, and those after it where
    the scheduler takes DDIM or Euler steps. They are given only to the
    very same question of the very same model. Up to rounding, the pictures are those from `ordered_latents` with the same
    choice. Where the ordering fails, the pipeline runs as it would without, and the report says why.

    Arguments and errors are those of `order_latents`; callbacks are called as the pipeline itself runs.

    Raises:
        Interrupted: another thread interrupted the pipeline while its model was asked, so that there is no picture.
    """
    ordering = _Ordering(pipe, prompt, settings, call, remembers=True)
    generators = RandomStates(call.get("generator"))
    try:
        ordered = ordering.done()
    except Exception as error:
        known = isinstance(error, (Unusable, SettingsError))
        if known and not (ordering.probe is not None and ordering.probe.evaluated):
            raise
        generators.put_back()
        report = Report()
        report.skip("everything", in_one_line(error))
        return OrderedRun(pipe(**ordering.own_call), call.get("latents"), report)
    if ordering.interrupted:
        raise Interrupted(f"{INFOTEXT_PREFIX}: interrupted while the model was asked")
    own_call, report, probe = {**ordering.own_call, "latents": ordered.noise}, ordered.report, ordering.probe
    if not report.reusable_evaluations or probe is None:
        return OrderedRun(pipe(**own_call), ordered.noise, report)
    first_step_only = ordering.rehearsal.slots[0] if has_callback(own_call) else None
    probe.answers.most = report.reusable_evaluations * ordering.pictures
    answered = AnsweredModels(probe.answers, ordering.pictures, first_step_only)
    with calls_replaced(denoising_models(pipe), answered.model):
        output = pipe(**own_call)
    report.reused(probe.answers.reused // ordering.pictures)
    return OrderedRun(output, ordered.noise, report)


class _Ordering:
    """The work of `order_latents`.

    Attributes:
        own_call: the arguments of the pipeline's own call.
        pictures: how many it makes.
        probe: what was answered is in there; None where nothing was asked.
        interrupted: whether another thread interrupted the pipeline.
    """

    def __init__(self, pipe: Any, prompt: Any, settings: Given, call: Mapping[str, Any], remembers: bool):
        self._started = time.perf_counter()
        self._settings = given_settings(settings)
        self.own_call = {**call} if prompt is None else {**call, "prompt": prompt}
        check_pipeline(pipe, self.own_call)
        self.pictures = check_call(self.own_call)
        chosen_draws(self._settings.chosen, self.pictures, None)
        self._pipe, self._remembers, self._name = pipe, remembers, type(pipe).__name__
        self.probe: PipelineProbe | None = None
        self.interrupted = False
        self.rehearsal = Rehearsal(self.pictures)
        self._others = Replayed()

    def done(self) -> OrderedNoise:
        given = self.own_call.get("latents")
        call = self._call_for_questions()
        if given is not None:  # the pipeline would not draw, and so must nobody's generator be advanced
            call["generator"] = _nobodys()
        self.rehearsal = rehearse(self._pipe, call, self.pictures, self._others)
        noise, drawn = self._noise()
        self.interrupted = bool(getattr(self._pipe, "_interrupt", False))
        unheard = why_not_asked(denoising_models(self._pipe))
        candidates = layouts(noise, drawn)
        ordered, layout, first = None, candidates[0], noise
        if not self.interrupted and unheard is None:
            ordered, layout, first = self._asked({**call, "generator": _nobodys()}, candidates)
        elif given is not None:
            layout = next((one for one in candidates if one.argument(noise).shape == given.shape), layout)
            first = self._checked(given, layout)
        if ordered is None:
            ordered = OrderedNoise(first, Report.before(first))
            ordered.report.skip("everything", unheard or "interrupted")
        ordered.report.took(time.perf_counter() - self._started)
        return OrderedNoise(layout.argument(ordered.noise), ordered.report)

    def _call_for_questions(self) -> dict[str, Any]:
        # some pipelines write into the dictionaries they are given
        call = {name: dict(value) if type(value) is dict else value for name, value in self.own_call.items()}
        for name in ("latents", *CALLBACKS):
            call.pop(name, None)
        if "output_type" in parameters(self._pipe):
            call["output_type"] = "latent"
        return call

    def _noise(self) -> tuple[Tensor, Tensor]:
        """The pipeline's own initial latents, and the draw that they are."""
        noise = self.rehearsal.noise
        if noise is None:
            raise RuntimeError(f"{INFOTEXT_PREFIX}: {self._name} ended without sampling")
        drawn = drawn_as(noise, self.rehearsal.drawn)
        if drawn is None:
            raise Unusable(f"{self._name} starts from more than the noise that it draws")
        return noise, drawn

    def _checked(self, given: Tensor, layout: Layout) -> Tensor:
        own = self.rehearsal.noise
        assert own is not None
        needed = layout.argument(own).shape
        if given.shape != needed:
            shapes = f"{tuple(given.shape)}, {self._name} needs {tuple(needed)}"
            raise SettingsError(f"{INFOTEXT_PREFIX}: latents have shape {shapes}")
        return layout.latents(given.to(own))

    def _asked(self, call: dict[str, Any], candidates: Sequence[Layout]) -> tuple[OrderedNoise | None, Layout, Tensor]:
        """What the pipeline's answers made of draw 1, the layout that it takes, and draw 1; None if it was interrupted."""
        rehearsal, given = self.rehearsal, self.own_call.get("latents")
        reuses = self._remembers and why_not_remembered(denoising_models(self._pipe)) is None
        euler = takes_euler_steps(rehearsal.scheduler, call) and not has_callback(self.own_call)
        if has_callback(self.own_call):  # it may leave guidance out after the first step
            rehearsal.slots[1:] = [1] * len(rehearsal.slots[1:])
        own = rehearsal.noise
        assert own is not None
        for layout in candidates:
            first = own if given is None else self._checked(given, layout)
            draw = further_draws(first)

            def work(probe: PipelineProbe, draw: Draw = draw) -> OrderedNoise:
                return order_noise(self._settings, draw, PipelineModel(probe, rehearsal, euler, reuses))

            self.probe = PipelineProbe(self._pipe, rehearsal, self._others, work)
            try:
                ordered = self.probe.run({**call, "latents": layout.argument(own).clone()}, guidance_scales(self._pipe, call))
            except Exception:
                if self.probe.started or layout is candidates[-1]:
                    raise
                continue
            self.interrupted = ordered is None
            return ordered, layout, first
        raise AssertionError("there is always a candidate")


def _nobodys() -> torch.Generator:
    """A generator whose state is of no interest."""
    return torch.Generator().manual_seed(0)
