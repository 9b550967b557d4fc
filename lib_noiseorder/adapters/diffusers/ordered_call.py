"""A call of a pipeline whose initial latents are put in order: rehearsed, asked about, and made again for a judge."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
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
from ...report import OrderedNoise, Report
from ...settings import INFOTEXT_PREFIX
from ..given_settings import Given, given_settings
from ..noise_keyed_draws import further_draws
from .arguments import CALLBACKS, check_call, check_pipeline, guidance_scales, has_callback, makes_videos, parameters
from .finished_runs import FinishedRuns
from .judge import GivenJudge, PromptedJudge, brought, judged_by
from .latents import Layout, drawn_as, layouts
from .model import PipelineModel
from .models import denoising_models, why_not_asked, why_not_remembered
from .pictures import NO_PICTURES, pictures_of
from .probe import PipelineProbe
from .rehearsal import Rehearsal, Replayed, Unusable, rehearse
from .schedule import takes_euler_steps


class OrderedCall:
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
        judge = brought(judge)
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
