"""Semantic selection: of several initial noises, keep the one whose picture the model itself can best believe in.

Every candidate is an untouched draw of N(0, I), so nothing about the noise's distribution is bent. Per candidate:

    glance    the sampler's own first model call, under guidance; the winner's answer is remembered for the sampler
    jump      one deterministic (DDIM / Euler) step from there down to `preview_share`
    preview   one prediction of the clean picture x0, with the prompt
    judge     that picture noised again to `judging_share` with one fixed noise; one more prediction with the prompt
    score     the mean squared distance between the picture and what the model made of it; the lowest wins

A picture that shows what the prompt says, in a way the model knows, is one that the model restores. Noisy latents and
noise levels are those of `lib_noiseorder.denoiser`: x = alpha·x0 + sigma·eps; sigma / (alpha + sigma) is the noise share.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from .denoiser import NoiseLevel
from .tensors import require_floating, require_same_shape, to_compute

_JUDGING_SEED = 9


@dataclass(frozen=True)
class SelectionPlan:
    """How many noises are looked at, and how closely.

    Raises:
        ValueError: a value out of its range.
    """

    draws: int = 3
    """Candidates per picture; 1 selects nothing."""
    preview_share: float | None = 0.8
    """Noise share of the preview. None leaves glance and jump out: the picture is what the model predicts with the
    prompt in the sampler's first call."""
    judging_share: float = 0.84
    """Noise share under which the previewed picture is judged."""
    looks: int = 1
    """How many fixed noises the picture is judged with, 1 or 2; the second is the first one's negative."""

    def __post_init__(self) -> None:
        for name, low, high in (("draws", 1, 16), ("looks", 1, 2)):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} must be from {low} to {high}, got {getattr(self, name)}")
        for name in ("preview_share", "judging_share"):
            value = getattr(self, name)
            if value is not None and not 0 < value < 1:
                raise ValueError(f"{name} must be between 0 and 1, got {value}")

    def remembered(self, guidance: float) -> int:
        """Evaluations of the winner's glance, which the sampler need not pay again."""
        return 1 if self.preview_share is None or guidance == 1 else 2

    def evaluations(self, guidance: float) -> int:
        """Evaluations per picture, the remembered ones included."""
        if self.draws == 1:
            return 0
        return self.draws * (self.remembered(guidance) + (self.preview_share is not None) + self.looks)


class Preview(Protocol):
    """What selection asks of a host: its model's predictions of the clean latent, at noise levels of its schedule."""

    guidance: float
    """Classifier-free guidance scale; 1 means that the sampler never asks without the prompt."""
    first: NoiseLevel
    """Where the sampler starts."""

    def start(self, noise: Tensor) -> Tensor:
        """The sampler's first noisy latent, at `first`, for unit-variance noise [B, …]; img2img adds its picture here."""
        ...

    def level(self, noise_share: float) -> NoiseLevel:
        """The model's noise level whose sigma / (alpha + sigma) is nearest to `noise_share`."""
        ...

    def predict(self, x: Tensor, level: NoiseLevel) -> Tensor:
        """One evaluation: the clean latent x0 [B, …] predicted from x, with the prompt."""
        ...

    def predict_pair(self, x: Tensor, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        """Two evaluations, where possible as one batch: x0 with the prompt, x0 without."""
        ...


@dataclass
class SelectionReport:
    """What happened in the selection of one batch."""

    evaluations: int = 0
    """Model evaluations per picture, the remembered ones included."""
    remembered: int = 0
    """How many of them a host saves that answers the sampler's first call from `SelectedNoise.glance`."""
    chosen: list[int] = field(default_factory=list)
    """Which draw every picture got, counted from 1."""
    scores: list[list[float]] = field(default_factory=list)
    """Per picture the score of every draw; lower is better."""
    skipped: list[str] = field(default_factory=list)
    """What was left out, and why."""


@dataclass(frozen=True)
class Glance:
    """The model's answer to the sampler's first call: valid for every sampler, since all of them begin with it."""

    prompted: Tensor
    """x0 with the prompt [B, …]."""
    unprompted: Tensor | None
    """x0 without it; None where it was not asked."""


@dataclass(frozen=True)
class SelectedNoise:
    noise: Tensor
    """The chosen noises [B, …]: shape, dtype and device of the draws."""
    glance: Glance | None
    """The answer to the sampler's first call for these noises; None if the model was not asked."""
    report: SelectionReport


def extra_evaluations(plan: SelectionPlan, guidance: float, remembers: bool = True) -> int:
    """Evaluations per picture that a selection adds to a sampler run; what a panel announces beforehand.

    Args:
        plan: how it is done.
        guidance: the sampler's guidance scale; at 1 its calls cost one evaluation instead of two.
        remembers: the host answers the sampler's first call from the winner's glance.
    """
    if plan.draws == 1:
        return 0
    return plan.evaluations(guidance) - (plan.remembered(guidance) if remembers else 0)


def select(
    plan: SelectionPlan,
    draw: Callable[[int], Tensor],
    preview: Preview,
    interrupted: Callable[[], bool] = lambda: False,
) -> SelectedNoise:
    """Choose among `plan.draws` noises per picture.

    A picture's choice depends on its own draws and prompt alone, not on the rest of the batch, and is the same from
    call to call.

    Args:
        plan: how closely to look.
        draw: `draw(k)` gives the k-th independent N(0, I) noise [B, …], k = 1 … n; 1 is the host's own.
        preview: the host's sampler and model.
        interrupted: asked before every model call; once it says True, the first draw comes back.

    Returns:
        The chosen noises. A draw whose score is not finite never wins. A picture none of whose draws has a finite
        score keeps its first draw, as do all pictures if the sampler starts at less noise than the preview needs
        (img2img at a low denoising strength); the report says so.

    Raises:
        ValueError: draws or predictions of unequal shapes. What the host raises passes through.
    """
    first = require_floating("draw 1", draw(1))
    report = SelectionReport(chosen=[1] * len(first))
    untouched = SelectedNoise(first, None, report)
    if plan.draws == 1:
        return untouched
    if plan.preview_share is not None and _share(preview.level(plan.preview_share)) >= _share(preview.first):
        report.skipped.append("selection: the sampler starts at less noise than the preview needs")
        return untouched

    host = _Counted(preview, report, interrupted)
    noises, glances, scores = [], [], []
    try:
        for k in range(1, plan.draws + 1):
            noise = first if k == 1 else draw(k)
            require_same_shape(f"draw {k}", noise, "draw 1", first)
            glance, picture = _previewed(host, preview.start(noise), plan)
            noises.append(noise)
            glances.append(glance)
            scores.append(_score(host, picture, plan))
    except _Interrupted:
        report.skipped.append("selection: interrupted")
        return untouched

    score = torch.stack(scores)  # [n, B]
    finite = torch.isfinite(score)
    lost = int((~finite.any(0)).sum())
    if lost:
        report.skipped.append(f"selection: no finite score for {lost} of {len(first)} pictures, which keep their first draw")
    best = score.masked_fill(~finite, torch.inf).argmin(0)
    report.chosen, report.scores = (best + 1).tolist(), score.T.tolist()
    report.remembered = plan.remembered(preview.guidance)

    def chosen(candidates: list[Tensor]) -> Tensor:
        return torch.stack([candidates[k][index] for index, k in enumerate(best.tolist())])

    unprompted = [glance.unprompted for glance in glances]
    glance = Glance(chosen([glance.prompted for glance in glances]), None if None in unprompted else chosen(unprompted))
    return SelectedNoise(chosen(noises), glance, report)


def _previewed(host: _Counted, x: Tensor, plan: SelectionPlan) -> tuple[Glance, Tensor]:
    """The answer to the sampler's first call at x, and the picture x0 that the model sees coming."""
    level = host.preview.first
    if plan.preview_share is None:
        glance = Glance(host.predict(x, level), None)
        return glance, glance.prompted
    if host.preview.guidance == 1:
        glance = Glance(host.predict(x, level), None)
        x0 = glance.prompted
    else:
        glance = Glance(*host.predict_pair(x, level))
        x0 = glance.unprompted + host.preview.guidance * (glance.prompted - glance.unprompted)
    target = host.preview.level(plan.preview_share)
    x = target.alpha * x0 + target.sigma / level.sigma * (x - level.alpha * x0)
    return glance, host.predict(x, target)


def _score(host: _Counted, picture: Tensor, plan: SelectionPlan) -> Tensor:
    """Per picture [B], how far the model's restoration is from it; on the CPU.

    The judging noise is the same for every picture, draw and call, so that only the pictures differ.
    """
    level = host.preview.level(plan.judging_share)
    generator = torch.Generator().manual_seed(_JUDGING_SEED)
    noise = torch.randn(picture.shape[1:], generator=generator).to(picture.device, picture.dtype)
    total = torch.zeros(len(picture))
    for sign in (1, -1)[: plan.looks]:
        restored = host.predict(level.alpha * picture + sign * level.sigma * noise, level)
        total += (to_compute(restored) - to_compute(picture)).square().flatten(1).mean(1).float().cpu()
    return total


def _share(level: NoiseLevel) -> float:
    return level.sigma / (level.alpha + level.sigma)


class _Interrupted(Exception):
    pass


class _Counted:
    """The host's model with its evaluations counted, its answers checked and interruptions heard."""

    def __init__(self, preview: Preview, report: SelectionReport, interrupted: Callable[[], bool]):
        self.preview, self._report, self._interrupted = preview, report, interrupted

    def predict(self, x: Tensor, level: NoiseLevel) -> Tensor:
        self._count(1)
        prediction = self.preview.predict(x, level)
        require_same_shape("prediction", prediction, "noise", x)
        return prediction

    def predict_pair(self, x: Tensor, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        self._count(2)
        pair = self.preview.predict_pair(x, level)
        for prediction in pair:
            require_same_shape("prediction", prediction, "noise", x)
        return pair

    def _count(self, evaluations: int) -> None:
        if self._interrupted():
            raise _Interrupted
        self._report.evaluations += evaluations


AUTOMATIC: Mapping[str, SelectionPlan] = {
    "eps": SelectionPlan(draws=3, preview_share=0.8, judging_share=0.84),
    "flow": SelectionPlan(draws=3, preview_share=0.6, judging_share=0.5),
}
LIGHT: Mapping[str, SelectionPlan] = {
    "eps": SelectionPlan(draws=2, preview_share=None, judging_share=0.87),
    "flow": SelectionPlan(draws=2, preview_share=None, judging_share=0.5),
}
