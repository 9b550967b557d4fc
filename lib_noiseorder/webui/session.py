"""One batch's way through the WebUI: armed noise source → wrapped sampler → report. Leaves nothing behind."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from modules import errors
from torch import Tensor

from ..ordering import Report, erased_candidate, inject_semantics, select_candidate
from ..settings import CUSTOM, INFOTEXT_PREFIX, NoiseOrderSettings
from .draws import extra_draws
from .host_model import HostModel, model_function
from .memory import Memory
from .outcome import note_batch
from .probe import Interrupted, Sampling, ask_model
from .showing import Showing

_ON_JOB = "_noise_order_session"


class Session:
    """The ordering of the initial noise of one batch, from `process_batch` to `postprocess_batch`."""

    def __init__(self, settings: NoiseOrderSettings):
        self.settings = settings
        self.report: Report | None = None
        self.finished = False
        self._showing = Showing() if settings.show_injected else None
        self._started = time.perf_counter()
        self._memory: Memory | None = None
        self._unhook: list[Callable[[], None]] = []

    @staticmethod
    def of(p: Any) -> Session | None:
        return getattr(p, _ON_JOB, None)

    # -- process_batch ---------------------------------------------------------------------------------------------

    def arm(self, p: Any) -> None:
        """Let the first `p.rng.next()` of the batch give the erased noise."""
        setattr(p, _ON_JOB, self)
        self._replace_once(p.rng, "next", self._erased)

    def _erased(self, next_noise: Callable[[], Tensor], *, of: Any) -> Tensor:
        first = next_noise()
        self.report = Report.before(first)
        draw_more = extra_draws(of)
        self._draw = lambda k: first if k == 1 else draw_more(k)
        try:
            noise = erased_candidate(self.settings, self._draw, 1)
        except Exception as error:
            self._skip("erasure", error)
            noise = first.clone()
        self._given = noise.clone()  # the host goes on with `noise` and may change it in place
        return noise

    # -- process_before_every_sampling -----------------------------------------------------------------------------

    def wrap_sampler(self, p: Any) -> None:
        """Let the next call of the host's sampler start from the ordered noise, after every other script's hook."""
        if self.finished or self.report is None or getattr(p, "is_hr_pass", False):
            return
        self._replace_once(p.sampler, "sample", self._txt2img)
        self._replace_once(p.sampler, "sample_img2img", self._img2img)

    def _txt2img(self, sample, p, x, conditioning, unconditional_conditioning, *args, of=None, **kwargs):
        sampling = Sampling(p, None, conditioning, unconditional_conditioning, kwargs.get("image_conditioning"))
        x = self._ordered(sampling, x)
        with self._remembering(p):
            return sample(p, x, conditioning, unconditional_conditioning, *args, **kwargs)

    def _img2img(self, sample, p, x, noise, conditioning, unconditional_conditioning, *args, of=None, **kwargs):
        multiplier = getattr(p, "initial_noise_multiplier", 1.0) or 1.0
        image_conditioning = kwargs.get("image_conditioning")
        sampling = Sampling(p, x, conditioning, unconditional_conditioning, image_conditioning, multiplier)
        noise = self._ordered(sampling, noise)
        with self._remembering(p):
            return sample(p, x, noise, conditioning, unconditional_conditioning, *args, **kwargs)

    def _ordered(self, sampling: Sampling, noise: Tensor) -> Tensor:
        """The noise selected and injected as the settings say; the noise as it is if anything fails.

        The host's img2img noise multiplier is divided out meanwhile: the model is shown unit-variance noise.
        """
        settings, report, multiplier = self.settings, self.report, sampling.noise_multiplier
        unit = noise / multiplier if multiplier != 1 else noise
        asks = "injection" if settings.selection == "off" else "selection and injection"
        try:
            if self._showing:
                self._showing.add("noise before", self._draw(1))
            if settings.asks_the_model:
                ordered = ask_model(sampling, unit, lambda model: self._work(unit, model))
            else:
                ordered = inject_semantics(settings, unit, None, report).noise
            if self._showing:
                self._showing.add("noise after", ordered)
            if ordered is not unit:
                noise = ordered * multiplier if multiplier != 1 else ordered
        except Interrupted:
            report.skipped.append(f"{asks}: interrupted")
        except Exception as error:
            self._skip(asks, error)
        return noise

    def _work(self, unit: Tensor, model: HostModel) -> Tensor:
        """Selection and injection with the loaded checkpoint."""
        settings, report = self.settings, self.report
        if settings.selection != "off" and not torch.allclose(unit, self._given.to(unit), atol=1e-4):
            report.skipped.append("selection: another script replaced the noise")
            settings = dataclasses.replace(settings, preset=CUSTOM, selection="off")

        def candidate(k: int) -> Tensor:
            return unit if k == 1 else erased_candidate(settings, self._draw, k).to(unit)

        with self._watching(model):
            noise = select_candidate(settings, candidate, model, report)
            self._memory = model.memory if report.saved_evaluations else None
            if self._showing and report.chosen:
                self._showing.add_candidates()
            ordered = inject_semantics(settings, noise, model, report).noise
            if self._showing and report.correlation is not None:
                self._showing.add_predictions(settings)
                self._showing.add("injected", _unit(ordered / settings.noise_scale - noise))
        return ordered

    def _watching(self, model: HostModel) -> AbstractContextManager[None]:
        return self._showing.watching(model) if self._showing else nullcontext()

    @contextmanager
    def _remembering(self, p: Any) -> Iterator[None]:
        """The host's sampler runs: answer its first questions from memory; then report."""
        try:
            if self._memory is None:
                yield
                return
            with self._memory.answering(*model_function(p.sd_model, p.sampler.model_wrap_cfg)):
                yield
        finally:
            self.report.saved_evaluations = self._memory.hits // len(p.seeds) if self._memory is not None else 0
            self._memory = None
            self._finish(p)

    # -- postprocess_batch -----------------------------------------------------------------------------------------

    def close(self, p: Any) -> None:
        """Take every wrapper off; say so if the noise never reached the sampler."""
        while self._unhook:
            self._unhook.pop()()
        if not self.finished:
            if self.report is None:
                self.report = Report()
            self.report.skipped.append("everything: this job does not sample from the seed's noise")
            self._finish(p)
        if Session.of(p) is self:
            delattr(p, _ON_JOB)
        if self._showing:
            self._showing.keep(p)
        note_batch(p, self.report, time.perf_counter() - self._started)

    # -- inside ----------------------------------------------------------------------------------------------------

    def _replace_once(self, owner: Any, name: str, replacement: Callable[..., Any]) -> None:
        """Shadow owner.name by replacement(original, …, of=owner) for one call."""
        shadowed = vars(owner).get(name)
        original = getattr(owner, name)

        def restore() -> None:
            if vars(owner).get(name) is once:
                if shadowed is None:
                    delattr(owner, name)
                else:
                    setattr(owner, name, shadowed)

        def once(*args: Any, **kwargs: Any) -> Any:
            while self._unhook:
                self._unhook.pop()()
            return replacement(original, *args, of=owner, **kwargs)

        setattr(owner, name, once)
        self._unhook.append(restore)

    def _skip(self, what: str, error: Exception) -> None:
        reason = f"{type(error).__name__}: {error}".strip().splitlines()[0][:160]
        errors.report(f"{INFOTEXT_PREFIX}: {what} failed, the picture is made all the same", exc_info=True)
        self.report.skipped.append(f"{what}: {reason}")

    def _finish(self, p: Any) -> None:
        self.finished = True
        p.extra_generation_params.update(self.settings.to_infotext())
        p.extra_generation_params.update(outcome_infotext(self.report))
        for reason in self.report.skipped:
            print(f"{INFOTEXT_PREFIX}: skipped {reason}")
            p.comment(f"{INFOTEXT_PREFIX}: skipped {reason}")


def _unit(direction: Tensor) -> Tensor:
    return direction / direction.std().clamp(min=1e-9)


def outcome_infotext(report: Report) -> dict[str, Any]:
    """What happened, as infotext parameters. Nothing that differs between two runs of the same seed."""
    outcome = {f"{INFOTEXT_PREFIX} evaluations": str(report.evaluations - report.saved_evaluations)}
    if report.chosen:
        outcome[f"{INFOTEXT_PREFIX} chosen"] = list(report.chosen)  # the hosts give every picture its own entry
    if report.skipped:
        outcome[f"{INFOTEXT_PREFIX} skipped"] = "; ".join(report.skipped)
    return outcome


def forget(p: Any) -> None:
    """Remove our infotext parameters: grid cells share one dictionary, and a cell may be switched off."""
    for key in [key for key in p.extra_generation_params if key.startswith(INFOTEXT_PREFIX)]:
        del p.extra_generation_params[key]
