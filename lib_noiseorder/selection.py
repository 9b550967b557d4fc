"""Semantic selection: of several initial noises, keep the one whose picture the model itself finds most believable.

Every candidate is an untouched draw, so nothing about the noise's distribution is bent. Each is followed for the first
few steps of the sampler; the picture predicted there is noised again, with one fixed noise, to one noise level, and the
model is asked about it. The candidate with the lowest score goes on, from where its preview stopped.

Steps are deterministic (DDIM, or Euler for flow): x0 is kept and the implied noise is carried to the next level. Noisy
latents and noise levels are those of `lib_noiseorder.denoiser`: x = alpha·x0 + sigma·eps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from .denoiser import NoiseLevel
from .tensors import require_floating, require_same_shape, to_compute

QUESTIONS = ("prompt-free", "prompted", "dispute")
"""What the model is asked about a predicted picture, noised again: how badly it restores the picture without the prompt,
how badly with it, or how far the two restorations are apart."""

_JUDGING_SEED = 9


@dataclass(frozen=True)
class SelectionPlan:
    """How noises are previewed and judged.

    Raises:
        ValueError: a value out of its range.
    """

    draws: int = 2
    """Candidates n per picture; 1 selects nothing."""
    steps: int = 4
    """Sampler steps k that every candidate is followed for."""
    question: str = "prompted"
    """One of QUESTIONS."""
    noise_share: float = 0.75
    """How much noise a predicted picture is judged under: sigma / (alpha + sigma), the t of a flow model."""
    looks: int = 2
    """Fixed noises the picture is judged with, 1 or 2; the second is the first one's mirror image −e."""
    noise_scale: float = 1.0
    """What the candidates are multiplied by."""

    def __post_init__(self) -> None:
        if self.question not in QUESTIONS:
            raise ValueError(f"question must be one of {', '.join(QUESTIONS)}, got {self.question!r}")
        for name, low, high in (("draws", 1, 16), ("steps", 1, 50), ("looks", 1, 2)):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} must be from {low} to {high}, got {getattr(self, name)}")
        if not 0 < self.noise_share < 1:
            raise ValueError(f"noise_share must be between 0 and 1, got {self.noise_share}")


AUTOMATIC: dict[str, SelectionPlan] = {
    "eps": SelectionPlan(draws=2, steps=4, question="prompted", noise_share=0.77, looks=2),
    "flow": SelectionPlan(draws=2, steps=4, question="dispute", noise_share=0.1, looks=1),
}
LIGHT: dict[str, SelectionPlan] = {
    "eps": SelectionPlan(draws=2, steps=1, question="prompt-free", noise_share=0.77, looks=1),
    "flow": SelectionPlan(draws=2, steps=1, question="prompt-free", noise_share=0.77, looks=1),
}


class Preview(Protocol):
    """What selection asks of a host: the sampler's noise levels, and the model's predictions of the clean latent."""

    levels: Sequence[NoiseLevel]
    """The levels the sampler will visit, noisiest first, without the final clean one."""
    guidance: float
    """Classifier-free guidance scale; 1 means that the sampler never asks without the prompt."""

    def start(self, noise: Tensor) -> Tensor:
        """The sampler's first noisy latent, at `levels[0]`, for unit-variance noise [B, …]; img2img adds its picture here."""
        ...

    def level(self, noise_share: float) -> NoiseLevel:
        """The model's noise level whose sigma / (alpha + sigma) is nearest to `noise_share`."""
        ...

    def predict(self, x: Tensor, level: NoiseLevel, prompted: bool) -> Tensor:
        """One evaluation: the clean latent x0 [B, …] predicted from x, with or without the prompt."""
        ...

    def predict_pair(self, x: Tensor, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        """Two evaluations, where possible as one batch: x0 with the prompt, x0 without."""
        ...


@dataclass
class SelectionReport:
    """What happened in the selection of one batch."""

    evaluations: int = 0
    """Model evaluations per picture, the winner's remembered steps included."""
    remembered: int = 0
    """How many of them a host saves that lets the sampler go on from the preview."""
    chosen: list[int] = field(default_factory=list)
    """Which draw every picture got, counted from 1."""
    scores: list[list[float]] = field(default_factory=list)
    """Per picture the score of every draw; lower is better."""
    skipped: list[str] = field(default_factory=list)
    """What was left out, and why."""


@dataclass(frozen=True)
class SelectedNoise:
    noise: Tensor
    """The chosen noises [B, …]: shape, dtype and device of the draws."""
    x: Tensor | None
    """The noisy latent [B, …] at `levels[steps]`, where the sampler can go on; None if nothing was previewed."""
    steps: int
    """How many sampler steps are already done in `x`."""
    report: SelectionReport


def extra_evaluations(plan: SelectionPlan, guidance: float = 7.0, remembers: bool = True) -> int:
    """Evaluations per picture that a selection adds to a sampler run; what a panel announces.

    Args:
        plan: how it is done.
        guidance: the sampler's guidance scale; at 1 a step costs one evaluation instead of two.
        remembers: the host lets the sampler go on from the winner's preview, so that its first steps are not paid twice.
    """
    if plan.draws == 1:
        return 0
    steps = plan.steps * (1 if guidance == 1 else 2)
    judging = plan.looks * (2 if plan.question == "dispute" else 1)
    return plan.draws * (steps + judging) - (steps if remembers else 0)


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
        plan: how to preview and judge.
        draw: `draw(k)` gives the k-th independent N(0, I) noise [B, …], k = 1 … n; 1 is the host's own.
        preview: the host's sampler and model.
        interrupted: asked before every model call; once it says True, the first draw comes back.

    Returns:
        The chosen noise and how far its preview came. A draw whose score is not finite never wins; if no draw of a
        picture has a finite score, or the sampler has too few steps, the picture keeps its first draw, and the report
        says so.

    Raises:
        ValueError: draws or predictions of unequal shapes. What the host raises passes through.
    """
    report = SelectionReport()
    first = require_floating("draw 1", draw(1)) * plan.noise_scale if plan.noise_scale != 1 else require_floating("draw 1", draw(1))
    untouched = SelectedNoise(first, None, 0, report)
    report.chosen = [1] * len(first)
    if plan.draws == 1:
        return untouched
    steps = plan.steps
    if len(preview.levels) <= steps:
        report.skipped.append(f"selection: the sampler has {len(preview.levels)} steps, and previews need more than {steps}")
        return untouched

    asks = _Asks(preview, report, interrupted)
    noises, latents, scores = [], [], []
    try:
        for k in range(1, plan.draws + 1):
            noise = first if k == 1 else draw(k) * plan.noise_scale
            require_same_shape(f"draw {k}", noise, "draw 1", first)
            x, x0 = _follow(asks, preview.start(noise), steps)
            noises.append(noise)
            latents.append(x)
            scores.append(_score(asks, x0, plan))
    except _Interrupted:
        report.skipped.append("selection: interrupted")
        return untouched

    score = torch.stack(scores)  # [n, B]
    finite = torch.isfinite(score)
    lost = int((~finite.any(0)).sum())
    if lost:
        report.skipped.append(f"selection: no finite score for {lost} of {len(first)} pictures, which keep their first draw")
    chosen = score.masked_fill(~finite, torch.inf).argmin(0)
    report.chosen = [int(index) + 1 for index in chosen]
    report.scores = score.T.tolist()
    report.remembered = steps * asks.per_step
    picture = torch.arange(len(first), device=first.device)
    chosen = chosen.to(first.device)
    return SelectedNoise(torch.stack(noises)[chosen, picture], torch.stack(latents)[chosen, picture], steps, report)


class _Interrupted(Exception):
    pass


class _Asks:
    """The host's model, with its evaluations counted and interruptions heard."""

    def __init__(self, preview: Preview, report: SelectionReport, interrupted: Callable[[], bool]):
        self.preview, self._report, self._interrupted = preview, report, interrupted
        self.per_step = 1 if preview.guidance == 1 else 2

    def __call__(self, x: Tensor, level: NoiseLevel, prompted: bool) -> Tensor:
        self._count(1)
        return self._checked(self.preview.predict(x, level, prompted), x)

    def pair(self, x: Tensor, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        self._count(2)
        prompted, unprompted = self.preview.predict_pair(x, level)
        return self._checked(prompted, x), self._checked(unprompted, x)

    def guided(self, x: Tensor, level: NoiseLevel) -> Tensor:
        if self.per_step == 1:
            return self(x, level, True)
        prompted, unprompted = self.pair(x, level)
        return unprompted + self.preview.guidance * (prompted - unprompted)

    def _count(self, evaluations: int) -> None:
        if self._interrupted():
            raise _Interrupted
        self._report.evaluations += evaluations

    @staticmethod
    def _checked(prediction: Tensor, x: Tensor) -> Tensor:
        require_same_shape("prediction", prediction, "noise", x)
        return prediction


def _follow(asks: _Asks, x: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """The first `steps` sampler steps: the noisy latent after them, and the picture x0 predicted in the last one."""
    levels = asks.preview.levels
    for level, following in zip(levels[:steps], levels[1 : steps + 1]):
        x0 = asks.guided(x, level)
        x = (following.alpha * x0 + following.sigma * (x - level.alpha * x0) / level.sigma).to(x.dtype)
    return x, x0


def _score(asks: _Asks, x0: Tensor, plan: SelectionPlan) -> Tensor:
    """Per picture [B] what the plan's question measures; lower is better.

    The judging noise is the same for every picture, draw and call, so that only the pictures differ.
    """
    level = asks.preview.level(plan.noise_share)
    generator = torch.Generator().manual_seed(_JUDGING_SEED)
    noise = torch.randn(x0.shape[1:], generator=generator).to(x0.device, x0.dtype)
    total = torch.zeros(len(x0), device=x0.device)
    for sign in (1, -1)[: plan.looks]:
        x = level.alpha * x0 + level.sigma * sign * noise
        if plan.question == "dispute":
            restored, wanted = asks.pair(x, level)
        else:
            restored, wanted = asks(x, level, plan.question == "prompted"), x0
        total += (to_compute(restored) - to_compute(wanted)).square().reshape(len(x0), -1).mean(1)
    return total.cpu()
