"""Semantic selection: of several initial noises, keep the one whose picture the model itself can best believe in.

Every candidate is an untouched draw of N(0, I), so nothing about the noise's distribution is bent. Per candidate:

    glances   the sampler's own first model calls, under guidance, with DDIM / Euler steps between them;
              the winner's answers are remembered for the sampler

A draw is scored by the last glance alone, or its picture is shown to the model once more:

    response  how pronounced the picture is that the model sees there under guidance; the highest wins

    jump      one deterministic step from there down to `preview_share`
    preview   one prediction of the clean picture x0, with the prompt; without a jump it is the last glance's
    judge     that picture, noised again to `judging_share` with one fixed noise, is shown to the model
    score     how badly the model restores the picture with the prompt, or how far its restorations with and without
              the prompt are apart; mean squares, the lowest wins

An eps model with a non-zero terminal SNR finds the traces of a picture in the noise at its very first call, and a noise in
which the prompt finds much to work with comes out right more often. A flow model sees nothing in pure noise. A few steps
later a picture that shows what the prompt says, in a way the model knows, is one that the model restores.
Noisy latents and noise levels are those of `lib_noiseorder.model`: x = alpha·x0 + sigma·eps; sigma / (alpha + sigma) is
the noise share.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from .model import NoiseLevel
from .plans import SelectionPlan
from .tensors import require_floating, require_same_shape, to_compute

_JUDGING_SEED = 9


class Preview(Protocol):
    """What selection asks of a host: its model's predictions of the clean latent, at noise levels of its schedule."""

    family: str
    """"flow" for flow models, "eps" for all others; decides the plan."""
    guidance: float
    """Classifier-free guidance scale; 1 means that the sampler never asks without the prompt."""
    levels: Sequence[NoiseLevel]
    """The levels of the sampler's calls, noisiest first, without the final clean one."""
    follows: bool
    """Whether the sampler takes DDIM / Euler steps, so that it would ask what the glances after the first one asked."""

    def start(self, noise: Tensor) -> Tensor:
        """The sampler's first noisy latent, at `levels[0]`, for unit-variance noise [B, …]; img2img adds its picture here."""
        ...

    def level(self, noise_share: float) -> NoiseLevel:
        """The model's noise level whose sigma / (alpha + sigma) is nearest to `noise_share`."""
        ...

    def predict(self, x: Tensor, level: NoiseLevel) -> Tensor:
        """One evaluation: the clean latent x0 [B, …] predicted from x, with the prompt; x must not be modified.

        A preview with an attribute `room` is also asked about up to so many latents of every picture at once, one batch
        after the other: [room·B, …].
        """
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
    """How many of them a host saves that answers the sampler's first calls from `SelectedNoise.glances`."""
    chosen: list[int] = field(default_factory=list)
    """Which draw every picture got, counted from 1."""
    scores: list[list[float]] = field(default_factory=list)
    """Per picture the score of every draw; lower is better."""
    skipped: list[str] = field(default_factory=list)
    """What was left out, and why."""


@dataclass(frozen=True)
class Glance:
    """The model's answer to one call of the sampler."""

    prompted: Tensor
    """x0 with the prompt [B, …]."""
    unprompted: Tensor | None
    """x0 without it; None where it was not asked."""


@dataclass(frozen=True)
class SelectedNoise:
    noise: Tensor
    """The chosen noises [B, …]: shape, dtype and device of the draws."""
    glances: tuple[Glance, ...]
    """The answers to the sampler's first calls for these noises, as many as it will ask again."""
    report: SelectionReport


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
        score keeps its first draw, as do all pictures if the sampler has too few steps or starts at less noise than
        the preview needs (img2img at a low denoising strength); the report says so.

    Raises:
        ValueError: draws or predictions of unequal shapes. What the host raises passes through.
    """
    first = require_floating("draw 1", draw(1))
    report = SelectionReport(chosen=[1] * len(first))
    untouched = SelectedNoise(first, (), report)
    if plan.draws == 1:
        return untouched
    reason = _why_not(plan, preview)
    if reason:
        report.skipped.append(f"selection: {reason}")
        return untouched

    host = _Counted(preview, report, interrupted)
    try:
        candidates: list[_Candidate] = []
        for k in range(1, plan.draws + 1):
            noise = first if k == 1 else draw(k)
            require_same_shape(f"draw {k}", noise, "draw 1", first)
            candidates.append(_Candidate(noise, preview.start(noise)))
        score = _scored(host, candidates, plan)  # [n, B]
    except _Interrupted:
        report.skipped.append("selection: interrupted")
        return untouched

    finite = torch.isfinite(score)
    lost = int((~finite.any(0)).sum())
    if lost:
        report.skipped.append(f"selection: no finite score for {lost} of {len(first)} pictures, which keep their first draw")
    best = score.masked_fill(~finite, torch.inf).argmin(0)  # the first where none is finite
    noise, glances = _chosen(candidates, best)
    report.chosen = [which + 1 for which in best.tolist()]
    report.scores = score.T.tolist()
    report.remembered = plan.remembered(preview.guidance, preview.follows)
    return SelectedNoise(noise, glances if preview.follows else glances[:1], report)


@dataclass
class _Candidate:
    """One noise per picture that is being looked at."""

    noise: Tensor
    x: Tensor
    """The sampler's noisy latent, as far as it was followed."""
    glances: list[Glance] = field(default_factory=list)


def _chosen(candidates: Sequence[_Candidate], which: Tensor) -> tuple[Tensor, tuple[Glance, ...]]:
    """Of every picture the noise and the glances of the candidate `which` [B]."""

    def pick(tensors: Sequence[Tensor]) -> Tensor:
        return torch.stack([tensors[which[index]][index] for index in range(len(which))])

    glances = tuple(
        Glance(pick([g.prompted for g in step]), None if step[0].unprompted is None else pick([g.unprompted for g in step]))
        for step in zip(*(candidate.glances for candidate in candidates))
    )
    return pick([candidate.noise for candidate in candidates]), glances


def _why_not(plan: SelectionPlan, preview: Preview) -> str | None:
    if len(preview.levels) < plan.steps:
        return f"the sampler has {len(preview.levels)} steps, previews follow {plan.steps}"
    if plan.preview_share is not None and _share(preview.level(plan.preview_share)) >= _share(preview.levels[plan.steps - 1]):
        return "the sampler starts at less noise than the preview needs"
    return None


def _scored(host: _Counted, candidates: Sequence[_Candidate], plan: SelectionPlan) -> Tensor:
    """The candidates followed as far as the plan says, and their scores [n, B] on the CPU; lower is better."""
    preview = host.preview
    for number in range(1, plan.steps + 1):
        _look(host, candidates, number, plan)
        if number < plan.steps:
            _advance(candidates, preview.guidance, preview.levels[number - 1], preview.levels[number])
    if plan.question == "response":
        return torch.stack([-response(candidate.glances[-1], preview.guidance).cpu() for candidate in candidates])
    if plan.preview_share is None:
        pictures = [candidate.glances[-1].prompted for candidate in candidates]
    else:
        target = preview.level(plan.preview_share)
        _advance(candidates, preview.guidance, preview.levels[plan.steps - 1], target)
        pictures = host.predict([candidate.x for candidate in candidates], target)
    return _judged(host, pictures, plan)


def _look(host: _Counted, candidates: Sequence[_Candidate], number: int, plan: SelectionPlan) -> None:
    """Give every candidate the answer to the sampler's call of this number, counted from 1."""
    preview = host.preview
    level = preview.levels[number - 1]
    if preview.guidance == 1 or (number == plan.steps and plan.ends_with_the_prompt_only):
        answers = [Glance(prompted, None) for prompted in host.predict([candidate.x for candidate in candidates], level)]
    else:
        answers = [Glance(*host.predict_pair(candidate.x, level)) for candidate in candidates]
    for candidate, glance in zip(candidates, answers):
        candidate.glances.append(glance)


def _advance(candidates: Sequence[_Candidate], guidance: float, level: NoiseLevel, target: NoiseLevel) -> None:
    """Take every candidate one DDIM / Euler step on: x0 is kept, the noise that x implies is carried to the target level."""
    for candidate in candidates:
        x0 = _guided(candidate.glances[-1], guidance)
        candidate.x = target.alpha * x0 + target.sigma / level.sigma * (candidate.x - level.alpha * x0)


def response(glance: Glance, guidance: float) -> Tensor:
    """How pronounced the picture is that the model sees under guidance: per picture [B], fp32; higher is stronger.

    The fourth root of the mean fourth power of the clean picture x0, every channel around its own mean: few strong places
    count for more than a faint veil.
    """
    x0 = to_compute(_guided(glance, guidance))
    flat = x0.flatten(2) if x0.ndim > 2 else x0.unsqueeze(1)
    return (flat - flat.mean(2, keepdim=True)).pow(4).mean((1, 2)).pow(0.25).float()


def _guided(glance: Glance, guidance: float) -> Tensor:
    """x0 under classifier-free guidance."""
    if glance.unprompted is None:
        return glance.prompted
    return glance.unprompted + guidance * (glance.prompted - glance.unprompted)


def _judged(host: _Counted, pictures: Sequence[Tensor], plan: SelectionPlan) -> Tensor:
    """Per candidate's picture [B, …] the answer to the plan's question, [n, B] on the CPU; lower is better.

    The judging noise is the same for every picture, draw and call, so that only the pictures differ.
    """
    level = host.preview.level(plan.judging_share)
    generator = torch.Generator().manual_seed(_JUDGING_SEED)
    noise = torch.randn(pictures[0].shape[1:], generator=generator).to(pictures[0].device, pictures[0].dtype)
    noisy = (level.alpha * picture + level.sigma * noise for picture in pictures)
    if plan.question == "dispute":
        return torch.stack([_distance(*host.predict_pair(x, level)) for x in noisy])
    return torch.stack([_distance(*both) for both in zip(host.predict(list(noisy), level), pictures)])


def _distance(a: Tensor, b: Tensor) -> Tensor:
    """Mean square of the difference [B], fp32, on the CPU."""
    return (to_compute(a) - to_compute(b)).square().flatten(1).mean(1).float().cpu()


def _share(level: NoiseLevel) -> float:
    return level.sigma / (level.alpha + level.sigma)


class _Interrupted(Exception):
    pass


class _Counted:
    """The host's model with its evaluations counted, its answers checked and interruptions heard."""

    def __init__(self, preview: Preview, report: SelectionReport, interrupted: Callable[[], bool]):
        self.preview, self._report, self._interrupted = preview, report, interrupted

    def predict(self, latents: Sequence[Tensor], level: NoiseLevel) -> list[Tensor]:
        """x0 with the prompt for every one of the latents [B, …], as many at once as the preview has room for."""
        room, answers = getattr(self.preview, "room", 1), []
        for start in range(0, len(latents), room):
            asked = latents[start : start + room]
            self._count(len(asked) * getattr(self.preview, "evaluations", 1))
            x = torch.cat(list(asked)) if len(asked) > 1 else asked[0]
            prediction = self.preview.predict(x, level)
            require_same_shape("prediction", prediction, "noise", x)
            answers += prediction.chunk(len(asked))
        return answers

    def predict_pair(self, x: Tensor, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        self._count(getattr(self.preview, "pair_evaluations", 2))
        pair = self.preview.predict_pair(x, level)
        for prediction in pair:
            require_same_shape("prediction", prediction, "noise", x)
        return pair

    def _count(self, evaluations: int) -> None:
        if self._interrupted():
            raise _Interrupted
        self._report.evaluations += evaluations
