"""The one way through: draw → erase → select → ask the model at the key timesteps → aggregate → inject."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .formulas import aggregate, erase, inject, inject_calibrated, key_timesteps
from .model import Denoiser
from .plans import SelectionPlan, plan_for
from .selection import Preview, select
from .settings import CUSTOM, KNOB, NoiseOrderSettings
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
    remembered: bool = False
    """Whether the noise was put in order before, so that nothing was asked again; the other figures are of then."""
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
        denoiser: `denoiser(noise, timestep)`; see `lib_noiseorder.model`. None: no injection.
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
) -> Tensor:
    """The candidate that the settings' selection keeps for every picture; the first where nothing is compared.

    Args:
        settings: what to do; `enabled` is taken for granted.
        candidate: `candidate(k)` gives the k-th noise [B, …].
        preview: the host's sampler and model; None: no selection.
        report: filled in.
    """
    started = time.perf_counter()
    noise = candidate(1)
    if settings.selection != "off":
        if preview is None:
            report.skipped.append("selection: no preview for this model")
        else:
            noise = _selected(settings, candidate, noise, preview, report)
    report.seconds += time.perf_counter() - started
    return noise


def _selected(settings, candidate, first, preview, report) -> Tensor:
    plan, scale = _plan(settings, preview)
    if plan.draws == 1:
        report.skipped.append("selection: the sampler takes too few steps for a comparison within its cost limit")
        return first

    def scaled(k: int) -> Tensor:
        noise = first if k == 1 else candidate(k)
        return noise if scale == 1 else noise * scale

    selected = select(plan, scaled, preview)
    report.evaluations += selected.report.evaluations
    report.skipped += selected.report.skipped
    if not selected.glances:
        return first
    report.saved_evaluations = selected.report.remembered
    report.chosen = selected.report.chosen
    return selected.noise


def _plan(settings: NoiseOrderSettings, preview: Preview) -> tuple[SelectionPlan, float]:
    how = preview.family, preview.guidance, preview.follows
    return plan_for(settings.selection, *how, settings.selection_draws, len(preview.levels))


def questions(settings: NoiseOrderSettings, preview: Preview) -> int:
    """How many model calls selection and injection are going to make, for a progress line; fewer if something fails."""
    injection = len(key_timesteps(settings)) if settings.strength != 0 else 0
    if settings.selection == "off":
        return injection
    plan, _ = _plan(settings, preview)
    return injection + plan.model_calls


def starting_from_a_picture(settings: NoiseOrderSettings, denoising_strength: float, noisiest: float) -> NoiseOrderSettings:
    """The settings for img2img and whatever else starts from a picture.

    The strength is multiplied by the denoising strength: the less the picture may change, the less is injected. The key
    timesteps are taken relative to the sampler's start, so that none is noisier than what the sampler will see.

    Args:
        denoising_strength: 0 leaves the picture as it is, 1 starts from noise alone.
        noisiest: the sampler's start as a key timestep; see `lib_noiseorder.model`.
    """
    lowest = KNOB["layout_timestep"].minimum
    timesteps = {
        name: max(lowest, getattr(settings, name) * min(noisiest, 1.0))
        for name in ("layout_timestep", "structure_timestep", "detail_timestep")
    }
    strength = settings.strength * min(max(denoising_strength, 0.0), 1.0)
    return dataclasses.replace(settings, preset=CUSTOM, strength=strength, **timesteps)


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
    timesteps = [step.timestep for step in steps]
    several = getattr(denoiser, "several", None)
    predictions = []
    for prediction in several(noise, timesteps) if several else (denoiser(noise, timestep) for timestep in timesteps):
        predictions.append(prediction)
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
