"""One run of the host's sampler: the noise that it starts from, and what becomes of it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from modules import errors
from modules.shared import state
from torch import Tensor

from ...answers import Answers
from ...model import Draw
from ...ordering import (
    choose,
    choose_finished,
    erased_candidate,
    finishes,
    inject_semantics,
    starting_from_a_picture,
)
from ...report import Report, in_one_line
from ...settings import CUSTOM, INFOTEXT_PREFIX, NoiseOrderSettings
from ...tensors import mean_and_std
from ..model.checkpoint import checkpoint_of, family_of
from ..model.company import CannotAsk
from ..model.host_model import HostModel
from ..model.probe import Interrupted, Sampling, ask_model
from .judged_pictures import PictureJudge
from .run_again import RunAgain
from .seed_keyed_draws import extra_draws, picture_seeds
from .sheets import Shown
from .watching import Watching


class SamplerPass:
    """The ordering of the noise of one sampler run.

    Attributes:
        report: what has happened so far.
        finished: whether the host's sampler has run.
    """

    def __init__(self, settings: NoiseOrderSettings, first: Tensor, host_rng: Any, shown: Shown | None = None):
        """
        Args:
            settings: what to do.
            first: the host's own unit-variance noise [B, …].
            host_rng: the host's ImageRNG that it came from.
            shown: where to keep what is to be shown.
        """
        self.report = Report.before(first)
        self._seeds = picture_seeds(host_rng)
        self.finished = False
        self._settings = settings
        self._shown = shown
        self._answers: Answers | None = None
        self._chosen: Tensor | None = None
        draw_more = extra_draws(host_rng)
        self._draw = lambda k: first if k == 1 else draw_more(k)

    def erased(self) -> Tensor:
        """The erased noise; a copy of the host's own if that fails."""
        try:
            noise = erased_candidate(self._settings, self._draw, 1)
        except Exception as error:
            self._skip("erasure", error)
            noise = self._draw(1).clone()
        self._given = noise.clone()  # the host goes on with `noise` and may change it in place
        return noise

    def ordered(self, sampling: Sampling, noise: Tensor) -> Tensor:
        """The noise chosen and injected as the settings say; the noise as it is if anything fails.

        The host's img2img noise multiplier is divided out meanwhile: the model is shown unit-variance noise.
        """
        settings, multiplier = self._settings, sampling.noise_multiplier
        self._rows = len(noise)  # a video's frames have a seed each, but only the first one's noise is used
        unit = noise / multiplier if multiplier != 1 else noise
        asked_for = ["selection"] * chooses(settings) + ["injection"] * (settings.strength != 0)
        try:
            if asked_for:
                ordered = self._asked(sampling, unit, lambda model: self._work(sampling, unit, model))
            else:
                ordered = inject_semantics(settings, unit, None, self.report).noise
            if self._shown and self.changes_noise:
                self._shown.changed(self._before_the_change(), ordered)
        except Interrupted:
            ordered = self._as_far_as_it_came(unit)
            self.report.skip(self._missing(asked_for), "interrupted")
        except CannotAsk as reason:
            ordered = self._as_far_as_it_came(unit)
            self.report.skip(self._missing(asked_for), str(reason))
        except Exception as error:
            ordered = self._as_far_as_it_came(unit)
            self._skip(self._missing(asked_for), error)
        if ordered is not unit:
            noise = ordered * multiplier if multiplier != 1 else ordered
        return noise

    @property
    def finishes(self) -> bool:
        """Whether the sampler itself is to make a finished picture of every noise that is compared."""
        return finishes(self._settings)

    def best_finished(self, sampling: Sampling, noise: Tensor, sample: Callable[[Tensor], Tensor]) -> Tensor:
        """The finished latents that a judge prefers; the host's own run from the noise if anything fails before there are any.

        Args:
            sample: the host's sampler, from noise.
        """
        settings, multiplier, report = self._settings, sampling.noise_multiplier, self.report
        self._rows, unit = len(noise), noise / multiplier if multiplier != 1 else noise
        started, again = time.perf_counter(), RunAgain(sampling.p)

        def finish(start: Tensor) -> Tensor:
            ordered = self._injected(sampling, start)
            return again.run(lambda: sample(ordered * multiplier if multiplier != 1 else ordered.clone()))

        try:
            if self._is_replaced(unit):
                raise CannotAsk("another script replaced the noise")
            latents = choose_finished(
                settings, self._candidates(settings, unit), family_of(checkpoint_of(sampling.p.sd_model)), finish, report,
                lambda: PictureJudge(sampling.p, settings).of_finished(), seeds=self._seeds, observer=Watching(self._shown),
                stopped=_stopped,
            )  # fmt: skip
            if self._shown:
                self._shown.compared(report, finished=True)
            return latents
        except Exception as error:
            if again.rows:  # it is the host's sampler that fails
                raise
            if isinstance(error, CannotAsk):
                report.skip("selection", str(error))
            else:
                self._skip("selection", error)
            return sample(noise)
        finally:
            report.evaluations += sum(again.rows) // self._rows
            report.reused(again.rows[0] // self._rows if again.rows else 0)
            report.took(time.perf_counter() - started)
            self.finished = True

    @property
    def changes_noise(self) -> bool:
        """Whether the noise is more than chosen: erased, injected into or scaled."""
        settings = self._settings
        return settings.erasure_samples > 1 or settings.noise_scale != 1 or self.report.correlation is not None

    @contextmanager
    def reusing_answers(self, p: Any) -> Iterator[None]:
        """The host's sampler runs: answer its first calls from what was asked already."""
        try:
            with self._answering(p):
                yield
        finally:
            self.report.reused(0 if self._answers is None else self._answers.reused // self._rows)
            self._answers = None
            self.finished = True

    # -- inside ----------------------------------------------------------------------------------------------------

    def _work(self, sampling: Sampling, unit: Tensor, model: HostModel) -> Tensor:
        """Selection and injection with the loaded checkpoint."""
        settings, report, watching = self._settings, self.report, Watching(self._shown)
        if sampling.latent is not None:
            settings = starting_from_a_picture(settings, sampling.p.denoising_strength, model.noisiest)
        if chooses(settings) and self._is_replaced(unit):
            report.skip("selection", "another script replaced the noise")
            settings = dataclasses.replace(settings, preset=CUSTOM, selection="off", chosen="")
        candidates = self._candidates(settings, unit)
        noise = self._chosen = choose(
            settings, candidates, model, report, seeds=self._seeds, observer=watching,
            judging=lambda: PictureJudge(sampling.p, settings).of_predictions(),
        )  # fmt: skip
        if report.reusable_evaluations:
            self._answers = model.answers
            self._answers.most = report.reusable_evaluations * self._rows  # samplers' second steps may be Euler steps, too
        if self._shown:
            self._shown.compared(report)
        return inject_semantics(settings, noise, model, report, observer=watching).noise

    def _candidates(self, settings: NoiseOrderSettings, unit: Tensor) -> Draw:
        """The noises to compare, of which the sampler was given the first."""
        return lambda k: unit if k == 1 else erased_candidate(settings, self._draw, k)[: len(unit)].to(unit)

    def _is_replaced(self, unit: Tensor) -> bool:
        """Whether the sampler was given other noise than ours."""
        return not torch.allclose(unit, self._given[: len(unit)].to(unit), atol=1e-4)

    def _injected(self, sampling: Sampling, unit: Tensor) -> Tensor:
        """A noise with what the settings inject."""
        settings, report = self._settings, self.report
        if settings.strength == 0:
            return inject_semantics(settings, unit, None, report).noise

        def work(model: HostModel) -> Tensor:
            placed = settings
            if sampling.latent is not None:
                placed = starting_from_a_picture(settings, sampling.p.denoising_strength, model.noisiest)
            return inject_semantics(placed, unit, model, report).noise

        return self._asked(sampling, unit, work)

    def _asked(self, sampling: Sampling, unit: Tensor, work: Callable[[HostModel], Tensor]) -> Tensor:
        """What `work` makes of the model; if it fails, the report counts the question that failed, too."""
        report, before = self.report, self.report.evaluations

        def counted(model: HostModel) -> Tensor:
            try:
                return work(model)
            except Exception:
                report.evaluations = before + model.answers.asked // self._rows
                raise

        return ask_model(sampling, self._settings, unit, counted)

    def _before_the_change(self) -> Tensor:
        """The noise that was chosen, where one was, else the host's own."""
        return self._chosen if self._chosen is not None and self.report.chosen else self._draw(1)

    def _as_far_as_it_came(self, unit: Tensor) -> Tensor:
        """What is left when something fails: the noise that was chosen, as the report says, or the erased one."""
        noise = unit if self._chosen is None else self._chosen
        self.report.mean_after, self.report.std_after = mean_and_std(noise)
        return noise

    def _missing(self, asked_for: list[str]) -> str:
        done = () if self._chosen is None else ("selection",)
        return " and ".join(name for name in asked_for if name not in done) or "noise scale"

    def _answering(self, p: Any) -> AbstractContextManager[None]:
        if self._answers is None:
            return nullcontext()
        try:
            return self._answers.answering(*checkpoint_of(p.sd_model).model_function(p.sampler.model_wrap_cfg))
        except Exception:
            errors.report(f"{INFOTEXT_PREFIX}: the remembered answers cannot be used, the model is asked again", exc_info=True)
            return nullcontext()

    def _skip(self, what: str, error: Exception) -> None:
        errors.report(f"{INFOTEXT_PREFIX}: {what} failed, the picture is made all the same", exc_info=True)
        self.report.skip(what, in_one_line(error))


def _stopped() -> bool:
    return bool(state.interrupted or state.skipped)


def chooses(settings: NoiseOrderSettings) -> bool:
    """Whether a picture may get another draw than its first."""
    return settings.selection != "off" or bool(settings.chosen)
