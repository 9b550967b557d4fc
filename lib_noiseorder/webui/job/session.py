"""One batch's way through the WebUI: armed noise source → wrapped samplers → report. Leaves nothing behind."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

from modules import errors
from torch import Tensor

from ...answers import Restore, shadow
from ...chosen import of_hires_pass
from ...ordering import judged_at
from ...report import Report, in_one_line
from ...settings import (
    CHOSEN,
    EVALUATIONS,
    HIRES_CHOSEN,
    INFOTEXT_KEYS,
    INFOTEXT_PREFIX,
    JUDGE_HASH,
    KNOB,
    SCORE,
    SKIPPED,
    NoiseOrderSettings,
)
from ..model.probe import Sampling
from .outcome import Batch, complaint, note_batch
from .picture_texts import PictureTexts
from .sampler_pass import SamplerPass, chooses
from .sheets import Sheet, Shown

_ON_JOB = "_noise_order_session"
_HIRES = "hires pass: "


class Session:
    """The ordering of the initial noise of one batch, from `process_batch` to `postprocess_batch`."""

    def __init__(
        self, settings: NoiseOrderSettings, names_choice: bool = True, shows_sheets: bool = True, left_out: Sequence[str] = ()
    ):
        """
        Args:
            settings: what to do.
            names_choice: whether the infotext says which draw was chosen, so that it can be replayed.
            shows_sheets: whether sheets may be added to the job's pictures.
            left_out: what was asked for and is not made, because a script takes the job's pictures.
        """
        self.settings = settings
        self._names_choice = names_choice
        self._first: SamplerPass | None = None
        self._hires: SamplerPass | None = None
        self._left_alone = "everything: this job does not sample from the seed's noise"
        self._failure = ""
        self._told: set[str] = set()
        self._sheet = Sheet() if settings.show_injected and shows_sheets else None
        self._left_out = [f"{what}: a script takes this job's pictures" for what in left_out]
        self._for_sampler = settings
        self._started = time.perf_counter()
        self._unhook: list[tuple[Any, Restore]] = []

    @staticmethod
    def of(p: Any) -> Session | None:
        return getattr(p, _ON_JOB, None)

    # -- process_batch ---------------------------------------------------------------------------------------------

    def arm(self, p: Any) -> None:
        """Let the first `p.rng.next()` of the batch give the erased noise."""
        setattr(p, _ON_JOB, self)
        switch = _refiner_takes_over(p)
        if judged_at(self.settings) is not None and self.settings.judge_at > switch:
            self._for_sampler = dataclasses.replace(self.settings, judge_at=switch)
            self._left_out.append(f"judge at {self.settings.judge_at:g}: judged at {switch:g}, where the refiner takes over")
        self._replace_once(p.rng, "next", functools.partial(self._next, p.rng))

    def _next(self, host_rng: Any, next_noise: Callable[[], Tensor]) -> Tensor:
        noise = next_noise()
        try:
            self._first = SamplerPass(self._for_sampler, noise.clone(), host_rng, self._shown())
            self._left_alone = f"{_wanted(self.settings)}: the host's sampler was not seen, a script samples in its own way"
            return self._first.erased()
        except Exception as error:
            self._first = None
            self._give_up(error)
            return noise

    # -- process_before_every_sampling -----------------------------------------------------------------------------

    def wrap_sampler(self, p: Any) -> None:
        """Let the next call of the host's sampler start from the ordered noise, after every other script's hook.

        Some hosts call the hook twice before their hires pass: the second time finds the sampler wrapped.
        """
        if any(owner is p.sampler for owner, _ in self._unhook):
            return
        if getattr(p, "is_hr_pass", False):
            if not self.settings.hires_pass:
                if self._first is None:
                    self._left_alone = "everything: there was a hires pass only, and that is left alone"
                return
        elif self._first is None or self._first.finished:
            return
        self._replace_once(p.sampler, "sample", self._txt2img)
        self._replace_once(p.sampler, "sample_img2img", self._img2img)

    def _txt2img(self, sample, p, x, conditioning, unconditional_conditioning, *args, **kwargs):
        sampling = Sampling(p, None, conditioning, unconditional_conditioning, kwargs.get("image_conditioning"))
        rest = conditioning, unconditional_conditioning, *args
        return self._sampled(self._first, sampling, x, lambda noise: sample(p, noise, *rest, **kwargs))

    def _img2img(self, sample, p, x, noise, conditioning, unconditional_conditioning, *args, **kwargs):
        hires = getattr(p, "is_hr_pass", False)
        running, noise = self._hires_begun(p, noise) if hires else (self._first, noise)
        sampling = Sampling(
            p, x, conditioning, unconditional_conditioning, kwargs.get("image_conditioning"),
            noise_multiplier=getattr(p, "initial_noise_multiplier", 1.0) or 1.0, steps=kwargs.get("steps"),
        )  # fmt: skip
        rest = conditioning, unconditional_conditioning, *args
        return self._sampled(running, sampling, noise, lambda noise: sample(p, x, noise, *rest, **kwargs))

    def _hires_begun(self, p: Any, noise: Tensor) -> tuple[SamplerPass | None, Tensor]:
        """The hires pass and its erased noise; the host's noise alone if it cannot begin."""
        try:
            settings = dataclasses.replace(self._for_sampler, chosen=of_hires_pass(self.settings.chosen))
            self._hires = SamplerPass(settings, noise.clone(), p.rng, self._shown("Hires pass"))
            return self._hires, self._hires.erased()
        except Exception as error:
            self._hires = None
            self._give_up(error)
            return None, noise

    def _ordered(self, running: SamplerPass, sampling: Sampling, noise: Tensor) -> Tensor:
        try:
            return running.ordered(sampling, noise)
        except Exception as error:
            self._give_up(error)
            return noise

    def _sampled(
        self, running: SamplerPass | None, sampling: Sampling, noise: Tensor, sample: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """The host's sampler runs from what becomes of the noise; then write into the infotext what happened."""
        try:
            if running is None:
                return sample(noise)
            if running.finishes:
                return running.best_finished(sampling, noise, sample)
            noise = self._ordered(running, sampling, noise)
            with running.reusing_answers(sampling.p):
                return sample(noise)
        finally:
            try:
                self._write(sampling.p)
            except Exception:
                errors.report(f"{INFOTEXT_PREFIX}: the infotext could not be written", exc_info=True)

    # -- postprocess_batch -----------------------------------------------------------------------------------------

    def close(self, p: Any) -> None:
        """Take every wrapper off; say so if the noise never reached the sampler."""
        self._take_off()
        if Session.of(p) is self:
            delattr(p, _ON_JOB)
        self._write(p)
        if self._sheet:
            self._sheet.keep(p)
        changes_noise = any(one.changes_noise for one in self._passes()[:1])  # the report has the first pass's statistics
        note_batch(p, Batch(self.report, time.perf_counter() - self._started, changes_noise))

    @property
    def report(self) -> Report:
        """What happened in all passes of the batch."""
        passes = self._passes()
        reasons = [(_HIRES if one is self._hires else "") + reason for one in passes for reason in one.report.skipped]
        if self._failure:
            reasons.append(f"everything: {self._failure}")
        if not passes:
            return Report(skipped=[*(reasons or [self._left_alone]), *self._left_out])
        whole = dataclasses.replace(passes[0].report, skipped=[*reasons, *self._left_out])
        for later in passes[1:]:
            whole = whole.followed_by(later.report)
        return whole

    # -- inside ----------------------------------------------------------------------------------------------------

    def _shown(self, run: str = "") -> Shown | None:
        return None if self._sheet is None else self._sheet.begin(run)

    def _passes(self) -> list[SamplerPass]:
        """The sampler's runs that are over."""
        return [one for one in (self._first, self._hires) if one is not None and one.finished]

    def _give_up(self, error: Exception) -> None:
        self._failure = in_one_line(error)
        errors.report(f"{INFOTEXT_PREFIX}: failed, the picture is made all the same", exc_info=True)

    def _replace_once(self, owner: Any, name: str, replacement: Callable[..., Any]) -> None:
        """Shadow owner.name by replacement(original, …) for one call."""

        def once(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            self._take_off()
            return replacement(original, *args, **kwargs)

        self._unhook.append((owner, shadow(owner, name, once)))

    def _take_off(self) -> None:
        while self._unhook:
            self._unhook.pop()[1]()

    def _write(self, p: Any) -> None:
        report = self.report
        parameters: dict[str, Any] = {**self.settings.to_infotext(), **outcome_infotext(report)}
        parameters.pop(CHOSEN, None)  # a picture names its own draw, not what was wished for others
        for key, one in ((CHOSEN, self._first), (HIRES_CHOSEN, self._hires)):
            if one is not None and any(one.report.chosen) and self._names_choice:
                texts = [str(draw) if draw else "" for draw in one.report.chosen]
                parameters[key] = PictureTexts.of(p, key).note(p, texts)
        if self._first is not None and self._first.report.judge:
            parameters[JUDGE_HASH] = self._first.report.judge
            texts = ["" if score is None else f"{score:.4g}" for score in self._first.report.kept_scores]
            parameters[SCORE] = PictureTexts.of(p, SCORE).note(p, texts)
        p.extra_generation_params.update(parameters)
        for reason in report.skipped:
            if reason not in self._told:
                self._told.add(reason)
                print(f"{INFOTEXT_PREFIX}: skipped {reason}")
                p.comment(complaint(f"skipped {reason}"))


def _refiner_takes_over(p: Any) -> float:
    """The share of the steps after which a refiner goes on, as the setting `judge_at` may say it; 1 without one."""
    switch = getattr(p, "refiner_switch_at", None)
    if switch is None or getattr(p, "refiner_checkpoint_info", None) is None:
        return 1.0
    return max(float(switch), KNOB["judge_at"].minimum or 0.0)


def _wanted(settings: NoiseOrderSettings) -> str:
    """What was going to be done with the noise, for a reason why it was not."""
    steps = {
        "erasure": settings.erasure_samples > 1,
        "selection": chooses(settings),
        "injection": settings.strength != 0,
    }
    return " and ".join(name for name, wanted in steps.items() if wanted) or "everything"


def outcome_infotext(report: Report) -> dict[str, Any]:
    """What happened, as infotext parameters. Nothing that differs between two runs of the same seed."""
    outcome = {EVALUATIONS: str(report.extra_evaluations)}
    if report.skipped:
        outcome[SKIPPED] = "; ".join(report.skipped)
    return outcome


def forget(p: Any) -> None:
    """Remove our infotext parameters: grid cells share one dictionary, and a cell may be switched off."""
    for key in INFOTEXT_KEYS:
        p.extra_generation_params.pop(key, None)
