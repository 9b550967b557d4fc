"""The one way through: draw → erase → select → ask the model at the key timesteps → aggregate → inject."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .denoiser import Denoiser
from .erasure import erase
from .injection import aggregate, inject, inject_calibrated
from .keysteps import key_timesteps
from .selection import Preview, plan_for, select
from .settings import NoiseOrderSettings
from .tensors import correlation, mean_and_std, to_compute

Draw = Callable[[int], Tensor]
"""Gives the k-th independent N(0, I) noise [B, …] of the pictures of a batch, k = 1, 2, …; 1 is the host's own."""


@dataclass
class Report:
    """What happened to the noise of one batch."""

    evaluations: int = 0
    """Model evaluations per picture."""
    saved_evaluations: int = 0
    """How many of them the host's sampler need not repeat, if the host remembers the answers."""
    seconds: float = 0.0
    """Wall-clock time of drawing, asking and injecting."""
    mean_before: float = 0.0
    std_before: float = 0.0
    mean_after: float = 0.0
    std_after: float = 0.0
    """Mean and standard deviation over the batch, before (first draw) and after."""
    correlation: float | None = None
    """Mean correlation of the semantics with the noise; None where the model was not asked."""
    chosen: list[int] = field(default_factory=list)
    """Which candidate the selection kept for every picture, counted from 1; empty where nothing was compared."""
    skipped: list[str] = field(default_factory=list)
    """What was left out, and why."""

    @classmethod
    def before(cls, noise: Tensor) -> Report:
        """A report that knows the noise as the host drew it."""
        mean, std = mean_and_std(noise)
        return cls(mean_before=mean, std_before=std)


@dataclass(frozen=True)
class OrderedNoise:
    noise: Tensor
    """What the sampler starts from: shape, dtype and device of the draws."""
    report: Report


def order_noise(
    settings: NoiseOrderSettings, draw: Draw, denoiser: Denoiser | None, preview: Preview | None = None
) -> OrderedNoise:
    """Put the initial noise of a batch in order.

    Args:
        settings: what to do. Switched off, the first draw comes back bit for bit.
        draw: `draw(k)` gives the k-th independent noise [B, …]; as many are asked for as erasure and selection need.
        denoiser: `denoiser(noise, timestep)`; see `lib_noiseorder.denoiser`. None: no injection.
        preview: the host's sampler and model; see `lib_noiseorder.selection`. None: no selection.

    Returns:
        The noise and a report. A sample whose predictions are not finite keeps its erased noise; the report says so.

    Raises:
        ValueError: draws or predictions of unequal shapes. What draw, denoiser or preview raise passes through.
    """
    started = time.perf_counter()
    if not settings.enabled:
        return OrderedNoise(draw(1), Report(skipped=["switched off"]))
    first = draw(1)
    report = Report.before(first)

    def candidate(k: int) -> Tensor:
        return erased_candidate(settings, lambda number: first if number == 1 else draw(number), k)

    noise = select_candidate(settings, candidate, preview, report)
    ordered = inject_semantics(settings, noise, denoiser, report)
    report.seconds = time.perf_counter() - started
    return ordered


def erased_candidate(settings: NoiseOrderSettings, draw: Draw, k: int) -> Tensor:
    """The k-th candidate of a selection, k = 1, 2, …: the k-th group of draws, erased. Without selection there is one."""
    group = settings.erasure_samples
    return erase(map(draw, range((k - 1) * group + 1, k * group + 1)))


def select_candidate(
    settings: NoiseOrderSettings,
    candidate: Draw,
    preview: Preview | None,
    report: Report,
    interrupted: Callable[[], bool] = lambda: False,
) -> Tensor:
    """The candidate that the settings' selection keeps for every picture; the first where nothing is compared.

    Args:
        settings: what to do; `enabled` is taken for granted.
        candidate: `candidate(k)` gives the k-th noise [B, …].
        preview: the host's sampler and model; None: no selection.
        report: filled in.
        interrupted: asked before every model call; once it says True, the first candidate comes back.
    """
    started = time.perf_counter()
    noise = candidate(1)
    if settings.selection != "off":
        if preview is None:
            report.skipped.append("selection: no preview for this model")
        else:
            noise = _selected(settings, candidate, noise, preview, report, interrupted)
    report.seconds += time.perf_counter() - started
    return noise


def _selected(settings, candidate, first, preview, report, interrupted) -> Tensor:
    how = preview.family, preview.guidance, preview.follows
    plan, scale = plan_for(settings.selection, *how, settings.selection_draws, len(preview.levels))

    if plan.draws == 1:
        report.skipped.append("selection: the sampler takes too few steps for a comparison within its cost limit")
        return first

    def scaled(k: int) -> Tensor:
        noise = first if k == 1 else candidate(k)
        return noise if scale == 1 else noise * scale

    selected = select(plan, scaled, preview, interrupted)
    report.evaluations += selected.report.evaluations
    report.skipped += selected.report.skipped
    if not selected.glances:
        return first
    report.saved_evaluations = selected.report.remembered
    report.chosen = selected.report.chosen
    return selected.noise


def inject_semantics(
    settings: NoiseOrderSettings, noise: Tensor, denoiser: Denoiser | None, report: Report | None = None
) -> OrderedNoise:
    """The second half of `order_noise`, for hosts that erase and inject at different places.

    Args:
        settings: what to do; `enabled` is taken for granted, selection is not done here.
        noise: purified noise z_T [B, …]. Comes back as it is (the same tensor) where nothing was to be done.
        denoiser: as in `order_noise`.
        report: filled in and returned; a fresh one without it.
    """
    started = time.perf_counter()
    if report is None:
        report = Report.before(noise)
    adjusted = noise
    if settings.strength != 0:
        if denoiser is None:
            report.skipped.append("injection: no denoiser for this model")
        else:
            adjusted = _injected(settings, noise, denoiser, report)
    if settings.noise_scale != 1:
        adjusted = adjusted * settings.noise_scale
    report.mean_after, report.std_after = mean_and_std(adjusted)
    report.seconds += time.perf_counter() - started
    return OrderedNoise(adjusted, report)


def _injected(settings: NoiseOrderSettings, noise: Tensor, denoiser: Denoiser, report: Report) -> Tensor:
    steps = key_timesteps(settings)
    predictions = []
    for step in steps:
        predictions.append(denoiser(noise, step.timestep))
        report.evaluations += getattr(denoiser, "evaluations", 1)
    semantics = aggregate(predictions, [step.weight for step in steps])
    usable = torch.isfinite(to_compute(semantics)).reshape(len(noise), -1).all(1)
    if not usable.all():
        lost = int((~usable).sum())
        report.skipped.append(f"injection: the model's predictions are not finite for {lost} of {len(noise)} pictures")
        if not usable.any():
            return noise
    rule = inject if settings.injection == "literal" else inject_calibrated
    keep = usable.view(-1, *[1] * (noise.ndim - 1))
    report.correlation = correlation(semantics[usable], noise[usable])
    return torch.where(keep, rule(noise, semantics.masked_fill(~keep, 0), settings.strength), noise)
