"""Semantic selection: of several initial noises, keep the one whose picture the model itself can best believe in.

Every candidate is an untouched draw of N(0, I), so nothing about the noise's distribution is bent. Per candidate:

    glances   the sampler's own first model calls, under guidance, with DDIM / Euler steps between them;
              the winner's answers are remembered for the sampler

Where the plan has finalists, only the draws with the strongest response in their first glance are followed on:

    response  how strongly and how locally the prompt shapes the picture that the model sees in this noise

A draw is scored by that alone, the highest wins, or its picture is shown to the model once more:

    jump      one deterministic step from there down to `preview_share`
    preview   one prediction of the clean picture x0, with the prompt; without a jump it is the last glance's
    judge     that picture, noised again to `judging_share` with one fixed noise, is shown to the model
    score     how badly the model restores the picture with the prompt, or how far its restorations with and without
              the prompt are apart; mean squares, the lowest wins

An eps model with a non-zero terminal SNR finds the traces of a picture in the noise at its very first call, and a noise in
which the prompt finds much to work with may come out right more often. A flow model sees nothing in pure noise. A few steps
later a picture that shows what the prompt says, in a way the model knows, is one that the model restores.
Noisy latents and noise levels are those of `lib_noiseorder.denoiser`: x = alpha·x0 + sigma·eps; sigma / (alpha + sigma) is
the noise share.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from .denoiser import NoiseLevel
from .tensors import require_floating, require_same_shape, to_compute

_JUDGING_SEED = 9


QUESTIONS = {"response": 0, "prompted": 1, "dispute": 2}
"""What a candidate is scored by, and what that costs in evaluations: how strongly the prompt shapes what the last glance
saw; how badly the model restores the picture, noised again, with the prompt; or how far its restorations with and without
the prompt are apart."""


@dataclass(frozen=True)
class SelectionPlan:
    """How many noises are looked at, and how closely.

    Raises:
        ValueError: a value out of its range.
    """

    draws: int = 3
    """Candidates per picture; 1 selects nothing."""
    steps: int = 1
    """Glances: first calls of the sampler that every candidate is followed for. The answer to the very first one is
    valid for every sampler; those after it only where the sampler itself takes DDIM / Euler steps."""
    preview_share: float | None = 0.87
    """Noise share of the preview. None: no jump, the picture is the one predicted with the prompt in the last glance."""
    question: str = "prompted"
    """One of QUESTIONS."""
    judging_share: float = 0.8
    """Noise share under which the picture is judged; not used by the response."""
    finalists: int | None = None
    """How many draws are looked at further after the first glance, those with the strongest response. None: all."""

    def __post_init__(self) -> None:
        for name, low, high in (("draws", 1, 16), ("steps", 1, 1000)):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} must be from {low} to {high}, got {getattr(self, name)}")
        for name in ("preview_share", "judging_share"):
            value = getattr(self, name)
            if value is not None and not 0 < value < 1:
                raise ValueError(f"{name} must be between 0 and 1, got {value}")
        if self.question not in QUESTIONS:
            raise ValueError(f"question must be one of {', '.join(QUESTIONS)}, got {self.question!r}")
        if self.finalists is not None and self.finalists < 1:
            raise ValueError(f"finalists must be at least 1, or None for all, got {self.finalists}")
        if self.question == "response" and self.preview_share is not None:
            raise ValueError(f"preview_share must be None where the response is scored, got {self.preview_share}")

    def remembered(self, guidance: float, follows: bool = True, whole_calls: bool = False) -> int:
        """Evaluations of the winner's glances, which the sampler need not pay again.

        Args:
            guidance: the sampler's guidance scale.
            follows: as in `Preview`.
            whole_calls: the host cannot reuse a glance that was asked with the prompt only.
        """
        per_step = 1 if guidance == 1 else 2
        if not follows and self.steps > 1:
            return per_step
        asked_in_last = 1 if self._ends_with_the_prompt_only else per_step
        return (self.steps - 1) * per_step + (0 if whole_calls and asked_in_last < per_step else asked_in_last)

    def evaluations(self, guidance: float) -> int:
        """Evaluations per picture, the remembered ones included."""
        if self.draws == 1:
            return 0
        whole = self.remembered(guidance) + (self.preview_share is not None) + QUESTIONS[self.question]
        first = min(1 if guidance == 1 else 2, whole)
        return self.draws * first + self._followed * (whole - first) if self._halves else self.draws * whole

    @property
    def model_calls(self) -> int:
        """Calls of the model, each of one or two evaluations; what a progress line counts."""
        if self.draws == 1:
            return 0
        whole = self.steps + (self.preview_share is not None) + (self.question != "response")
        return self.draws + self._followed * (whole - 1) if self._halves else self.draws * whole

    @property
    def _halves(self) -> bool:
        return self.finalists is not None and self.finalists < self.draws

    @property
    def _followed(self) -> int:
        return self.finalists if self._halves else self.draws

    @property
    def _ends_with_the_prompt_only(self) -> bool:
        """Whether the last glance needs no answer without the prompt: its picture is all that is wanted of it."""
        return self.preview_share is None and self.question != "response" and not (self._halves and self.steps == 1)


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
        """One evaluation: the clean latent x0 [B, …] predicted from x, with the prompt; x must not be modified."""
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
    """Per picture the score of every draw; lower is better. Infinite for a draw that was not looked at further."""
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


def extra_evaluations(
    plan: SelectionPlan, guidance: float, follows: bool = True, remembers: bool = True, whole_calls: bool = False
) -> int:
    """Evaluations per picture that a selection adds to a sampler run; what a panel announces beforehand.

    Args:
        plan: how it is done.
        guidance: the sampler's guidance scale; at 1 its calls cost one evaluation instead of two.
        follows: as in `Preview`.
        remembers: the host answers the sampler's first calls from the winner's glances.
        whole_calls: as in `SelectionPlan.remembered`.
    """
    if plan.draws == 1:
        return 0
    return plan.evaluations(guidance) - (plan.remembered(guidance, follows, whole_calls) if remembers else 0)


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
        looked_at: list[_Candidate] = []
        for k in range(1, plan.draws + 1):
            noise = first if k == 1 else draw(k)
            require_same_shape(f"draw {k}", noise, "draw 1", first)
            candidate = _Candidate(torch.full((len(first),), k), noise, preview.start(noise))
            if plan._halves:
                candidate.glances.append(_glance(host, candidate.start, 1, plan))
            else:
                candidate.score = _scored(host, candidate, plan)
            looked_at.append(candidate)
        if plan._halves:
            looked_at = _strongest(looked_at, plan._followed, preview.guidance)
            for candidate in looked_at:
                candidate.score = _scored(host, candidate, plan)
    except _Interrupted:
        report.skipped.append("selection: interrupted")
        return untouched

    score = torch.stack([candidate.score for candidate in looked_at])  # [n, B]
    finite = torch.isfinite(score)
    lost = int((~finite.any(0)).sum())
    if lost:
        report.skipped.append(f"selection: no finite score for {lost} of {len(first)} pictures, which keep their first draw")
    winner = _chosen(looked_at, score.masked_fill(~finite, torch.inf).argmin(0))
    keeps_first = ~finite.any(0)
    noise = torch.where(keeps_first.to(first.device).view(-1, *[1] * (first.ndim - 1)), first, winner.noise)
    report.chosen = torch.where(keeps_first, 1, winner.number).tolist()
    report.scores = _by_draw(looked_at, score, plan.draws)
    report.remembered = plan.remembered(preview.guidance, preview.follows)
    return SelectedNoise(noise, tuple(winner.glances if preview.follows else winner.glances[:1]), report)


@dataclass
class _Candidate:
    """One noise per picture that is being looked at, not necessarily the same draw of every picture."""

    number: Tensor
    """Which draw of each picture [B], counted from 1; on the CPU."""
    noise: Tensor
    start: Tensor
    """The sampler's first noisy latent for it."""
    glances: list[Glance] = field(default_factory=list)
    score: Tensor | None = None
    """[B] on the CPU, lower is better."""


def _chosen(candidates: Sequence[_Candidate], which: Tensor) -> _Candidate:
    """Of every picture the candidate `which` [B]; noise, glances and number come along."""

    def pick(tensors: Sequence[Tensor]) -> Tensor:
        return torch.stack([tensors[which[index]][index] for index in range(len(which))])

    glances = [
        Glance(pick([g.prompted for g in step]), None if step[0].unprompted is None else pick([g.unprompted for g in step]))
        for step in zip(*(candidate.glances for candidate in candidates))
    ]
    return _Candidate(*(pick([getattr(c, name) for c in candidates]) for name in ("number", "noise", "start")), glances)


def _strongest(candidates: Sequence[_Candidate], count: int, guidance: float) -> list[_Candidate]:
    """The `count` candidates of every picture with the strongest response in their first glance, strongest first."""
    strength = torch.stack([response(candidate.glances[0], guidance).cpu() for candidate in candidates])  # [n, B]
    order = strength.nan_to_num(-torch.inf).argsort(dim=0, descending=True, stable=True)
    return [_chosen(candidates, which) for which in order[:count]]


def _by_draw(candidates: Sequence[_Candidate], score: Tensor, draws: int) -> list[list[float]]:
    """Per picture the score of every draw; infinite for those that were not looked at further."""
    scores = torch.full((score.shape[1], draws), torch.inf)
    for candidate, row in zip(candidates, score):
        scores[torch.arange(len(row)), candidate.number - 1] = row
    return scores.tolist()


def _why_not(plan: SelectionPlan, preview: Preview) -> str | None:
    if len(preview.levels) < plan.steps:
        return f"the sampler has {len(preview.levels)} steps, previews follow {plan.steps}"
    if plan.preview_share is not None and _share(preview.level(plan.preview_share)) >= _share(preview.levels[plan.steps - 1]):
        return "the sampler starts at less noise than the preview needs"
    return None


def _scored(host: _Counted, candidate: _Candidate, plan: SelectionPlan) -> Tensor:
    """The candidate followed as far as the plan says, and its score [B]; the glances it had are not asked for again."""
    preview, guidance, x = host.preview, host.preview.guidance, candidate.start
    for number, level in enumerate(preview.levels[: plan.steps], 1):
        if number > len(candidate.glances):
            candidate.glances.append(_glance(host, x, number, plan))
        if number < plan.steps:
            x = _step(x, _guided(candidate.glances[number - 1], guidance), level, preview.levels[number])
    last = candidate.glances[-1]
    if plan.question == "response":
        return -response(last, guidance).cpu()
    if plan.preview_share is None:
        return _judged(host, last.prompted, plan)
    target = preview.level(plan.preview_share)
    return _judged(host, host.predict(_step(x, _guided(last, guidance), level, target), target), plan)


def _glance(host: _Counted, x: Tensor, number: int, plan: SelectionPlan) -> Glance:
    """The answer to the sampler's call of this number, counted from 1."""
    preview = host.preview
    level = preview.levels[number - 1]
    if preview.guidance == 1 or (number == plan.steps and plan._ends_with_the_prompt_only):
        return Glance(host.predict(x, level), None)
    return Glance(*host.predict_pair(x, level))


def response(glance: Glance, guidance: float) -> Tensor:
    """How strongly the prompt shapes the picture that the model sees: per picture [B], fp32; higher is stronger.

    √(κ(g)·κ(d)) with g the picture x0 under guidance, d what the prompt changes about it, and κ(x) the fourth root of the
    mean fourth power of x around its mean over the picture: few strong places count for more than a faint veil. Without
    an answer for no prompt d is left out.
    """
    strength = _peakedness(_guided(glance, guidance))
    if glance.unprompted is None:
        return strength
    return (strength * _peakedness(glance.prompted - glance.unprompted)).sqrt()


def _peakedness(x: Tensor) -> Tensor:
    """Fourth root of the mean fourth power [B], every channel around its own mean."""
    flat = to_compute(x).flatten(2) if x.ndim > 2 else to_compute(x).unsqueeze(1)
    return (flat - flat.mean(2, keepdim=True)).pow(4).mean((1, 2)).pow(0.25).float()


def _guided(glance: Glance, guidance: float) -> Tensor:
    """x0 under classifier-free guidance."""
    if glance.unprompted is None:
        return glance.prompted
    return glance.unprompted + guidance * (glance.prompted - glance.unprompted)


def _step(x: Tensor, x0: Tensor, level: NoiseLevel, target: NoiseLevel) -> Tensor:
    """One DDIM / Euler step: x0 is kept, and the noise that x implies is carried to the target level."""
    return target.alpha * x0 + target.sigma / level.sigma * (x - level.alpha * x0)


def _judged(host: _Counted, picture: Tensor, plan: SelectionPlan) -> Tensor:
    """Per picture [B] the answer to the plan's question, on the CPU; lower is better.

    The judging noise is the same for every picture, draw and call, so that only the pictures differ.
    """
    level = host.preview.level(plan.judging_share)
    generator = torch.Generator().manual_seed(_JUDGING_SEED)
    noise = torch.randn(picture.shape[1:], generator=generator).to(picture.device, picture.dtype)
    x = level.alpha * picture + level.sigma * noise
    if plan.question == "dispute":
        restored, reference = host.predict_pair(x, level)
    else:
        restored, reference = host.predict(x, level), picture
    return (to_compute(restored) - to_compute(reference)).square().flatten(1).mean(1).float().cpu()


def _share(level: NoiseLevel) -> float:
    return level.sigma / (level.alpha + level.sigma)


class _Interrupted(Exception):
    pass


class _Counted:
    """The host's model with its evaluations counted, its answers checked and interruptions heard."""

    def __init__(self, preview: Preview, report: SelectionReport, interrupted: Callable[[], bool]):
        self.preview, self._report, self._interrupted = preview, report, interrupted

    def predict(self, x: Tensor, level: NoiseLevel) -> Tensor:
        self._count(getattr(self.preview, "evaluations", 1))
        prediction = self.preview.predict(x, level)
        require_same_shape("prediction", prediction, "noise", x)
        return prediction

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


COST_LIMIT = 0.4
"""What Automatic may add to a sampler's evaluations, as a share of them."""
PLANNED_FOR = 16
"""Sampler steps that the plans below are given for; `plan_for` follows the same share of another number of steps."""
AUTOMATIC: Mapping[str, SelectionPlan] = {
    "eps": SelectionPlan(draws=4, finalists=2, steps=3, preview_share=None, question="prompted", judging_share=0.8),
    "flow": SelectionPlan(draws=2, steps=4, preview_share=None, question="dispute", judging_share=0.1),
}
"""The best confirmed plan at no more than 40 % more evaluations, by kind of model; docs/evidence.md has the figures."""
AUTOMATIC_NOISE_SCALE: Mapping[str, float] = {"eps": 1.0, "flow": 0.95}
"""What Automatic multiplies the draws by."""
ONE_GLANCE: Mapping[str, SelectionPlan] = {
    "eps": AUTOMATIC["eps"],
    "flow": SelectionPlan(draws=3, steps=1, preview_share=0.6, question="prompted", judging_share=0.1),
}
"""Automatic for samplers that do not take DDIM / Euler steps, and so could use one remembered answer only."""
LIGHT: Mapping[str, SelectionPlan] = {
    "eps": SelectionPlan(draws=2, steps=1, preview_share=None, question="response"),
    "flow": SelectionPlan(draws=2, steps=1, preview_share=None, question="prompted", judging_share=0.5),
}
"""At most three evaluations more; four where a host cannot reuse an answer that was asked with the prompt only."""


def plan_for(
    selection: str, family: str, guidance: float, follows: bool = True, draws: int = 0, steps: int = PLANNED_FOR
) -> tuple[SelectionPlan, float]:
    """The plan for a model and its sampler, and what the draws are to be multiplied by.

    Args:
        selection: "automatic" or "light".
        family: "flow" for flow models; anything else is treated as "eps".
        guidance: at 1 the model is never asked without the prompt, so there is nothing to dispute with.
        follows: as in `Preview`.
        draws: how many noises to compare; 0 keeps the plan's own number.
        steps: how many steps the sampler takes. Automatic compares fewer noises, or none (a plan of one draw), where
            it would cost more than COST_LIMIT; an explicit number of draws is done whatever it costs.

    Raises:
        ValueError: another selection, or more than 16 draws.
    """
    if selection not in ("automatic", "light"):
        raise ValueError(f"selection must be automatic or light, got {selection!r}")
    family = "flow" if family == "flow" else "eps"
    if selection == "light":
        plan, scale = LIGHT[family], 1.0
    else:
        plan, scale = (AUTOMATIC if follows else ONE_GLANCE)[family], AUTOMATIC_NOISE_SCALE[family]
    if guidance == 1 and plan.question == "dispute":
        plan = replace(plan, question="prompted")
    if plan.steps > 1:
        plan = replace(plan, steps=max(1, round(plan.steps * steps / PLANNED_FOR)))
    if draws:
        return replace(plan, draws=draws), scale
    return (_affordable(plan, guidance, follows, steps) if selection == "automatic" else plan), scale


def _affordable(plan: SelectionPlan, guidance: float, follows: bool, steps: int) -> SelectionPlan:
    """The closest look within COST_LIMIT: the plan itself, with one glance less, or with fewer draws; one draw if none is."""
    limit = COST_LIMIT * steps * (1 if guidance == 1 else 2)
    for draws in range(plan.draws, 1, -1):
        for glances in range(plan.steps, max(plan.steps - 2, 0), -1):
            smaller = replace(plan, draws=draws, steps=glances)
            if extra_evaluations(smaller, guidance, follows) <= limit:
                return smaller
    return replace(plan, draws=1)
