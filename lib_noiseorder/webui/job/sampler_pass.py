"""One run of the host's sampler: the noise that it starts from, and what becomes of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from modules import errors
from modules.shared import state
from torch import Tensor

from ...answers import Memory
from ...ordering import (
    OrderedNoise,
    Report,
    erased_candidate,
    inject_semantics,
    questions,
    select_candidate,
    starting_from_a_picture,
)
from ...settings import CUSTOM, INFOTEXT_PREFIX, NoiseOrderSettings
from ..model.host_model import HostModel, model_function
from ..model.probe import Interrupted, Sampling, ask_model
from ..model.remembered import RememberedNoise
from .seed_keyed_draws import extra_draws
from .sheets import Showing


class SamplerPass:
    """The ordering of the noise of one sampler run.

    Attributes:
        report: what has happened so far.
        finished: whether the host's sampler has run.
    """

    def __init__(
        self,
        settings: NoiseOrderSettings,
        first: Tensor,
        host_rng: Any,
        showing: Showing | None = None,
        remembered: RememberedNoise | None = None,
    ):
        """
        Args:
            settings: what to do.
            first: the host's own unit-variance noise [B, …].
            host_rng: the host's ImageRNG that it came from.
            showing: where to keep what is to be shown.
            remembered: the ordered noise of earlier jobs; None asks anew.
        """
        self.report = Report.before(first)
        self.finished = False
        self._settings = settings
        self._showing = showing
        self._memory: Memory | None = None
        self._host_rng = host_rng
        self._remembered = None if showing else remembered  # what is to be shown must be asked
        self._to_keep: tuple[bytes | None, Tensor] | None = None
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
        """The noise selected and injected as the settings say; the noise as it is if anything fails.

        The host's img2img noise multiplier is divided out meanwhile: the model is shown unit-variance noise.
        """
        settings, multiplier = self._settings, sampling.noise_multiplier
        self._rows = len(noise)  # a video's frames have a seed each, but only the first one's noise is used
        unit = noise / multiplier if multiplier != 1 else noise
        asks = "injection" if settings.selection == "off" else "selection and injection"
        try:
            if self._showing:
                self._showing.add("noise before", self._draw(1))
            if settings.asks_the_model:
                ordered = ask_model(sampling, unit, lambda model: self._work(sampling, unit, model))
            else:
                ordered = inject_semantics(settings, unit, None, self.report).noise
            if self._showing:
                self._showing.add("noise after", ordered)
            if ordered is not unit:
                noise = ordered * multiplier if multiplier != 1 else ordered
        except Interrupted:
            self.report.skipped.append(f"{asks}: interrupted")
        except Exception as error:
            self._skip(asks, error)
        return noise

    @contextmanager
    def remembering(self, p: Any) -> Iterator[None]:
        """The host's sampler runs: answer its first questions from memory; then remember its noise for later jobs."""
        try:
            with self._answering(p):
                yield
        finally:
            if not self.report.remembered:
                self.report.saved_evaluations = self._memory.hits // self._rows if self._memory is not None else 0
            self._memory = None
            self.finished = True
        self._keep()

    # -- inside ----------------------------------------------------------------------------------------------------

    def _work(self, sampling: Sampling, unit: Tensor, model: HostModel) -> Tensor:
        """Selection and injection with the loaded checkpoint."""
        settings, report = self._settings, self.report
        if sampling.latent is not None:
            settings = starting_from_a_picture(settings, sampling.p.denoising_strength, model.noisiest)
        if settings.selection != "off" and not torch.allclose(unit, self._given[: len(unit)].to(unit), atol=1e-4):
            report.skipped.append("selection: another script replaced the noise")
            settings = dataclasses.replace(settings, preset=CUSTOM, selection="off")
        found = self._found(sampling, settings, model, unit)
        if found is not None:
            self.report = dataclasses.replace(found.report, seconds=0.0, remembered=True)
            return found.noise.to(unit)
        model.questions = questions(settings, model)

        def candidate(k: int) -> Tensor:
            return unit if k == 1 else erased_candidate(settings, self._draw, k)[: len(unit)].to(unit)

        with self._watching(model):
            noise = select_candidate(settings, candidate, model, report)
            reusable = report.saved_evaluations and model.answers_for(sampling.p.sampler.model_wrap_cfg)
            self._memory = model.memory if reusable else None
            if self._showing and report.chosen:
                self._showing.add_candidates()
            ordered = inject_semantics(settings, noise, model, report).noise
            if self._showing and report.correlation is not None:
                self._showing.add_predictions(settings)
                self._showing.add("injected", _unit(ordered / settings.noise_scale - noise))
        if self._remembered is not None:  # anew: hosts bring a LoRA into the weights with the first question only
            self._to_keep = self._remembered.key(sampling, settings, model, unit, self._host_rng), ordered.clone()
        return ordered

    def _answering(self, p: Any) -> AbstractContextManager[None]:
        if self._memory is None:
            return nullcontext()
        try:
            return self._memory.answering(*model_function(p.sd_model, p.sampler.model_wrap_cfg))
        except Exception:
            errors.report(f"{INFOTEXT_PREFIX}: the remembered answers cannot be used, the model is asked again", exc_info=True)
            return nullcontext()

    def _found(self, sampling: Sampling, settings: NoiseOrderSettings, model: HostModel, unit: Tensor) -> OrderedNoise | None:
        if self._remembered is None or self.report.skipped:
            return None
        return self._remembered.find(self._remembered.key(sampling, settings, model, unit, self._host_rng))

    def _keep(self) -> None:
        """Remember the noise of a pass that went through without anything left out."""
        if self._to_keep is not None and not (self.report.skipped or state.interrupted or state.skipped):
            self._remembered.keep(*self._to_keep, self.report)
        self._to_keep = None

    def _watching(self, model: HostModel) -> AbstractContextManager[None]:
        return self._showing.watching(model) if self._showing else nullcontext()

    def _skip(self, what: str, error: Exception) -> None:
        errors.report(f"{INFOTEXT_PREFIX}: {what} failed, the picture is made all the same", exc_info=True)
        self.report.skipped.append(f"{what}: {reason_of(error)}")


def reason_of(error: Exception) -> str:
    """An exception in one line, for the infotext."""
    return f"{type(error).__name__}: {error}".strip().splitlines()[0][:160]


def _unit(direction: Tensor) -> Tensor:
    return direction / direction.std().clamp(min=1e-9)
