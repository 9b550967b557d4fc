"""Ordered initial latents for diffusers pipelines.

    latents = ordered_latents(pipe, prompt="a blue pizza", generator=generator, settings=settings)
    image = pipe(prompt="a blue pizza", generator=generator, latents=latents).images[0]

Give both calls the same arguments; `run_ordered` makes both, and does not ask the model twice. The generator is advanced as
by the pipeline itself, so that a sampler which draws from it goes on as in a plain call. diffusers itself is not imported:
whoever has a pipeline has it already.
"""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...judges import JudgeError
from ...judging import Judging
from ...knobs import SettingsError
from ...ordering import (
    compares,
    erased_candidate,
    finishes,
    furthest_followed,
    inject_semantics,
    judged_at,
    order_noise,
)
from ...report import OrderedNoise, Report, in_one_line
from ...settings import INFOTEXT_PREFIX, NoiseOrderSettings
from ..given_settings import given_settings
from ..noise_keyed_draws import further_draws
from .arguments import CALLBACKS, check_call, check_pipeline, guidance_scales, has_callback, makes_videos, parameters
from .finished_runs import FinishedRuns
from .judge import GivenJudge, PromptedJudge, judged_by
from .latents import Layout, drawn_as, layouts
from .model import PipelineModel
from .models import calls_replaced, denoising_models, why_not_asked, why_not_remembered
from .pictures import NO_PICTURES, pictures_of
from .probe import PipelineProbe
from .rehearsal import RandomStates, Rehearsal, Replayed, Unusable, rehearse
from .remembered import AnsweredModels
from .schedule import takes_euler_steps

Given = NoiseOrderSettings | Mapping[str, Any] | None


def ordered_latents(pipe: Any, prompt: Any = None, *, settings: Given = None, judge: GivenJudge = None, **call: Any) -> Tensor:
    """The `latents` to call the pipeline with; what was left out comes as a warning.

    Arguments, result and errors are those of `order_latents`, whose noise this is.
    """
    ordered = order_latents(pipe, prompt, settings=settings, judge=judge, **call)
    for reason in ordered.report.skipped:
        warnings.warn(f"{INFOTEXT_PREFIX}: skipped {reason}", stacklevel=2)
    return ordered.noise


def order_latents(
    pipe: Any, prompt: Any = None, *, settings: Given = None, judge: GivenJudge = None, **call: Any
) -> OrderedNoise:
    """Put the initial latents of a pipeline's next call in order.

    Args:
        pipe: any pipeline whose `latents` are its initial noise and whose scheduler's noise levels are known; whether they are
            is found out by going through its call once with nothing evaluated. Adapters, offloading and guidance are honoured.
        prompt: as in the pipeline's call; None where `prompt_embeds` are given.
        settings: what to do; see `given_settings`. `chosen` lists draws in the order of the pictures, or one for all.
        judge: who says which noise is best instead of the model itself: a function of pictures [B, 3, H, W] in 0…1 and their
            prompts that gives scores [B], higher is better, and is asked about one picture at a time; or the name or folder
            of a judge, see `lib_noiseorder.judges.load`. Without it, the one that the setting `judge` names. It sees what the
            pipeline's own decoder makes of the pictures that are coming, after the share `judge_at` of the steps.
        call: the other arguments of the pipeline's call. `latents` among them are taken for draw 1; without them it is
            the pipeline's own noise for `generator`, or for the global random state. Callbacks are not called.

    Returns:
        The noise, of the shape, dtype and device that the pipeline takes as `latents` (SD [B, 4, h, w], Flux
        [B, tokens, 64], Wan [B, 16, f, h, w]; unit variance), and the report. With one generator per picture, a picture
        does not depend on the rest of the batch. If another thread interrupts the pipeline meanwhile, or somebody has put
        into the model what nobody can put back after a question, draw 1 comes back and the report says so. Where a judge is
        missing, cannot be loaded or fails, or cannot judge what the call makes, nothing is compared, and the report says so.

    Raises:
        TypeError: a pipeline that cannot be ordered, or an argument that its call does not know.
        ValueError: arguments that cannot be used; latents of a wrong shape; a scheduler without a known noise schedule; a
            judge of finished pictures (`judge_at` 1), which `run_ordered` alone makes.
            All before the first evaluation of the denoising model. What the pipeline raises passes through, and
            leaves it as it was.
    """
    return _Ordering(pipe, prompt, settings, judge, call, runs=False).done()


class Interrupted(Exception):
    """The pipeline was interrupted before its own run began."""


@dataclass(frozen=True)
class OrderedRun:
    output: Any
    """What the pipeline returned; where finished pictures were judged, with every picture from the run that was kept."""
    noise: Tensor | None
    """The latents it started from; None where it drew them itself because the ordering failed."""
    report: Report
    """What was chosen and what it cost. Where a judge chose, `judge` says which one, `scores` what it gave every noise, and
    `kept_scores` what it gave those that were kept. Where finished pictures were judged, `evaluations` are those of all runs,
    `saved_evaluations` those of one."""


def run_ordered(pipe: Any, prompt: Any = None, *, settings: Given = None, judge: GivenJudge = None, **call: Any) -> OrderedRun:
    """The pipeline's call from ordered noise, without paying twice for what a selection has asked already.

    The answers given for the winner are remembered: the first call's with every scheduler, and those after it where
    the scheduler takes DDIM or Euler steps. They are given only to the
    very same question of the very same model. Up to rounding, the pictures are those from `ordered_latents` with the same
    choice. Where the ordering fails, the pipeline runs as it would without, and the report says why.

    A judge of finished pictures (`judge_at` 1) is shown those of a whole run of the pipeline for every noise that `extra_cost`
    buys; every run begins with the generators and the global random state as the first did. The picture kept is, to the bit,
    the one that the setting `chosen` makes of that noise alone. If another thread interrupts the pipeline, the best one so far
    is kept. Only calls that make pictures can be judged: no videos, and no `output_type` "latent".

    Arguments and errors are those of `order_latents`; callbacks are called as the pipeline itself runs, in every run.

    Raises:
        Interrupted: another thread interrupted the pipeline while its model was asked, so that there is no picture.
    """
    ordering = _Ordering(pipe, prompt, settings, judge, call, runs=True)
    generators = RandomStates(call.get("generator"))
    finished = None
    try:
        ordered = ordering.done()
        if ordering.finishes and ordering.probe is not None and not ordering.interrupted:
            finished = ordering.runs()
            ordering.finish(finished, ordered.report)
    except Exception as error:
        refused = isinstance(error, (Unusable, SettingsError)) and not ordering.evaluations
        if refused or (finished and error is finished.failed):
            raise
        generators.put_back()
        report = Report(evaluations=ordering.evaluations)
        report.skip("everything", in_one_line(error))
        return OrderedRun(pipe(**ordering.own_call), call.get("latents"), report)
    if ordering.interrupted or (finished and finished.noise is None):
        raise Interrupted(f"{INFOTEXT_PREFIX}: interrupted while the model was asked")
    if finished:
        return OrderedRun(finished.output, finished.noise, ordered.report)
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
    """The work of `order_latents`, and what comes before the runs of a judge of finished pictures.

    Attributes:
        own_call: the arguments of the pipeline's own call.
        pictures: how many it makes.
        probe: what was answered is in there; None where nothing was asked.
        interrupted: whether another thread interrupted the pipeline.
        finishes: whether finished pictures are judged, so that no noise is chosen before the pipeline runs.
    """

    def __init__(self, pipe: Any, prompt: Any, settings: Given, judge: GivenJudge, call: Mapping[str, Any], runs: bool):
        """
        Args:
            runs: whether the pipeline's own call follows.
        """
        self._started = time.perf_counter()
        self._settings = judged_by(judge, given_settings(settings))
        self.own_call = {**call} if prompt is None else {**call, "prompt": prompt}
        check_pipeline(pipe, self.own_call)
        self.pictures = check_call(self.own_call)
        self._pipe, self._runs, self._name = pipe, runs, type(pipe).__name__
        self.probe: PipelineProbe | None = None
        self.interrupted = False
        self.rehearsal = Rehearsal(self.pictures)
        self._others = Replayed()
        self._layout, self._draw, self._family = Layout(), further_draws(torch.zeros(self.pictures, 1)), "eps"
        compared = compares(self._settings, self.pictures) and self._settings.enabled
        self.finishes = compared and finishes(self._settings)
        if self.finishes and not runs:
            what = "judge_at = 1 is about finished pictures, which run_ordered makes; here it must be below 1"
            raise SettingsError(f"{INFOTEXT_PREFIX}: {what}")
        self._judge = self._found(judge) if compared and judged_at(self._settings) is not None else None
        self.finishes = self.finishes and isinstance(self._judge, PromptedJudge)

    def _found(self, judge: GivenJudge) -> PromptedJudge | JudgeError:
        """The judge, or why there is none."""
        try:
            if makes_videos(self._pipe) or (self.finishes and self.own_call.get("output_type") == "latent"):
                raise JudgeError(NO_PICTURES)
            return PromptedJudge.of(judge, self._settings, self.own_call, self.pictures)
        except JudgeError as error:
            return error

    def done(self) -> OrderedNoise:
        if getattr(self._pipe, "_interrupt", False):  # of an earlier call; the pipeline's own begins like this, too
            self._pipe._interrupt = False
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
            ordered, layout, first = self._asked(candidates)
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
        own = self._own_noise
        needed = layout.argument(own).shape
        if given.shape != needed:
            shapes = f"{tuple(given.shape)}, {self._name} needs {tuple(needed)}"
            raise SettingsError(f"{INFOTEXT_PREFIX}: latents have shape {shapes}")
        return layout.latents(given.to(own))

    @property
    def _own_noise(self) -> Tensor:
        assert self.rehearsal.noise is not None
        return self.rehearsal.noise

    def _asked(self, candidates: Sequence[Layout]) -> tuple[OrderedNoise | None, Layout, Tensor]:
        """What the pipeline's answers made of draw 1, the layout that it takes, and draw 1; None if it was interrupted."""
        rehearsal, given = self.rehearsal, self.own_call.get("latents")
        if has_callback(self.own_call):  # it may leave guidance out after the first step
            rehearsal.slots[1:] = [1] * len(rehearsal.slots[1:])
        shown = self._others.kept()
        for layout in candidates:
            first = self._own_noise if given is None else self._checked(given, layout)
            self._layout, self._draw = layout, further_draws(first)
            call = self._probing_call()

            def pictures(x0: Tensor, call: Mapping[str, Any] = call) -> Tensor:
                return pictures_of(self._pipe, call, rehearsal, x0, shown)

            def work(model: PipelineModel, pictures: Callable[[Tensor], Tensor] = pictures) -> OrderedNoise:
                return self._ordered(model, pictures)

            try:
                ordered = self._probed(work)
            except Exception:
                if (self.probe is not None and self.probe.started) or layout is candidates[-1]:
                    raise
                continue
            self.interrupted = ordered is None or bool(getattr(self._pipe, "_interrupt", False))
            return ordered, layout, first
        raise AssertionError("there is always a candidate")

    def _probing_call(self) -> dict[str, Any]:
        latents = self._layout.argument(self._own_noise).clone()
        return {**self._call_for_questions(), "generator": _nobodys(), "latents": latents}

    def _probed(self, work: Callable[[PipelineModel], OrderedNoise]) -> OrderedNoise | None:
        """The work, done while the pipeline answers; None if it was interrupted."""
        call, models, rehearsal = self._probing_call(), denoising_models(self._pipe), self.rehearsal
        reuses = self._runs and not self.finishes and why_not_remembered(models) is None
        steady = rehearsal.steady >= furthest_followed(self._settings, len(rehearsal.timesteps))
        euler = steady and takes_euler_steps(rehearsal.scheduler, call) and not has_callback(self.own_call)

        def with_model(probe: PipelineProbe) -> OrderedNoise:
            return work(PipelineModel(probe, rehearsal, euler, reuses))

        self.probe = PipelineProbe(self._pipe, rehearsal, self._others, with_model)
        return self.probe.run(call, guidance_scales(self._pipe, call))

    def _ordered(self, model: PipelineModel, pictures: Callable[[Tensor], Tensor]) -> OrderedNoise:
        if self.finishes:
            self._family = model.family
            return OrderedNoise(self._draw(1), Report.before(self._draw(1)))

        def judging() -> Judging:
            if isinstance(self._judge, JudgeError):
                raise self._judge
            assert self._judge is not None
            return self._judge.judging(pictures, remembers=True)

        return order_noise(self._settings, self._draw, model, judging=judging)

    @property
    def evaluations(self) -> int:
        """How many the last probe has made per picture."""
        return 0 if self.probe is None else self.probe.evaluations

    def runs(self) -> FinishedRuns:
        """The pipeline's runs, of which none has been made."""
        return FinishedRuns(self._pipe, self.own_call, self.pictures, self._start)

    def finish(self, runs: FinishedRuns, report: Report) -> None:
        """Make them, and keep the best."""
        assert isinstance(self._judge, PromptedJudge)
        self._report = report

        def candidate(k: int) -> Tensor:
            return erased_candidate(self._settings, self._draw, k)

        runs.best(self._settings, candidate, self._family, self._judge, report)
        report.took(time.perf_counter() - self._started)

    def _start(self, noise: Tensor) -> Tensor | None:
        """The latents of a run; None if the pipeline was interrupted while it was asked what to inject."""

        def injected(model: PipelineModel | None) -> OrderedNoise:
            return inject_semantics(self._settings, noise, model, copy.deepcopy(self._report))

        try:
            ordered = injected(None) if self._settings.strength == 0 else self._probed(injected)
        except Exception:
            self._report.evaluations += self.evaluations  # a comparison that ends here has cost this, too
            raise
        if ordered is None:
            self._report.evaluations += self.evaluations
            return None
        vars(self._report).update(vars(ordered.report))
        return self._layout.argument(ordered.noise)


def _nobodys() -> torch.Generator:
    """A generator whose state is of no interest."""
    return torch.Generator().manual_seed(0)
