"""Semantic selection: of several initial noises, keep the one in which the model soonest sees a sharp picture.

Every candidate is an untouched draw of N(0, I), so nothing about the noise's distribution is bent. All are shown to the
sampler's own first call, under guidance; the sharpest pictures' draws are followed further, with DDIM / Euler steps between the
calls, and of these the one goes on whose last picture is the sharpest.

What a diffusion model predicts early is the mean of all pictures that may still come of the noise: where it has not made up its
mind, things are in two places, or two things in one, and edges are many and faint. Few sharp edges say that it has.
Noisy latents and noise levels are those of `lib_noiseorder.model`: x = alpha·x0 + sigma·eps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from .model import Draw, Model, NoiseLevel
from .plans import SamplerRun, SelectionPlan, in_steps
from .questions import SILENT, Observer, Questions
from .report import OrderedNoise, Report
from .tensors import require_floating, require_same_shape, to_compute


def select(
    plan: SelectionPlan, draw: Draw, model: Model, report: Report | None = None, observer: Observer = SILENT
) -> OrderedNoise:
    """Choose among `plan.draws` noises per picture.

    A picture's choice depends on its own draws and prompt alone, not on the rest of the batch, and is the same from
    call to call.

    Args:
        plan: how closely to look.
        draw: `draw(k)` gives the k-th independent N(0, I) noise [B, …], k = 1 … n; 1 is the host's own.
        model: the host's model with its prompt and sampler.
        report: filled in; a fresh one without it.
        observer: told what goes on.

    Returns:
        The chosen noises, of the shape, dtype and device of the draws, and the report. A draw whose score is not finite
        never wins. A picture none of whose draws has a finite score keeps its first draw, as do all pictures if the
        sampler has too few steps; the report says so. Where nothing was compared, the report's `chosen` stays empty.

    Raises:
        ValueError: draws or predictions of unequal shapes. What the host raises passes through.
    """
    first = require_floating("draw 1", draw(1))
    if report is None:
        report = Report.before(first)
    if plan.draws == 1:
        return OrderedNoise(first, report)
    steps = len(model.sampler_levels)
    if steps < plan.steps:
        report.skip("selection", f"the sampler has {in_steps(steps)}, the comparison follows {plan.steps}")
        return OrderedNoise(first, report)

    candidates: list[_Candidate] = []
    for k in range(1, plan.draws + 1):
        noise = first if k == 1 else draw(k)
        require_same_shape(f"draw {k}", noise, "draw 1", first)
        candidates.append(_Candidate(noise, model.start(noise)))
    asking = partial(Questions, model, report, observer, "selection")
    score = _scores(asking, candidates, plan)
    for number, candidate in enumerate(candidates, 1):
        assert candidate.cond is not None
        observer.candidate(number, candidate.cond)

    finite = torch.isfinite(score)
    lost = int((~finite.any(0)).sum())
    if lost:
        report.skip("selection", f"no finite score for {lost} of {len(first)} pictures, which keep their first draw")
    best = score.masked_fill(~finite, torch.inf).argmin(0).tolist()  # the first where none is finite
    noise = torch.stack([candidates[which].noise[row] for row, which in enumerate(best)])
    report.chosen = [which + 1 for which in best]
    report.scores = score.T.tolist()
    report.reusable_evaluations = plan.reusable(SamplerRun.of(model))
    return OrderedNoise(noise, report)


@dataclass
class _Candidate:
    """One noise per picture that is being looked at."""

    noise: Tensor
    x: Tensor
    """The sampler's noisy latent, as far as it was followed."""
    cond: Tensor | None = None
    """The last prediction of x0 with the prompt."""
    uncond: Tensor | None = None
    """The last one without it; None where it was not asked."""

    @classmethod
    def of(cls, candidates: Sequence[_Candidate], which: Sequence[int]) -> _Candidate:
        """For every picture of the batch the candidate of that index, as far as it was followed."""

        taken = [candidates[index] for index in which]

        def mixed(tensors: Sequence[Tensor]) -> Tensor:
            return torch.stack([tensor[row] for row, tensor in enumerate(tensors)])

        cond = [candidate.cond for candidate in taken if candidate.cond is not None]
        uncond = [candidate.uncond for candidate in taken if candidate.uncond is not None]
        noise, x = mixed([candidate.noise for candidate in taken]), mixed([candidate.x for candidate in taken])
        return cls(noise, x, mixed(cond), mixed(uncond) if uncond else None)

    def hand_back(self, candidates: Sequence[_Candidate], which: Sequence[int]) -> None:
        """Give every picture's last prediction to the candidate that `of` took it from."""
        assert self.cond is not None
        for row, index in enumerate(which):
            cond = candidates[index].cond
            assert cond is not None
            candidates[index].cond = torch.cat([cond[:row], self.cond[row : row + 1], cond[row + 1 :]])  # theirs stay whole

    def guided(self, guidance: float) -> Tensor:
        """x0 under classifier-free guidance, as last predicted."""
        assert self.cond is not None
        return self.cond if self.uncond is None else self.uncond + guidance * (self.cond - self.uncond)

    def step(self, guidance: float, level: NoiseLevel, target: NoiseLevel) -> None:
        """One DDIM / Euler step: x0 is kept, the noise that x implies is carried to the target level."""
        x0 = self.guided(guidance)
        self.x = target.alpha * x0 + target.sigma / level.sigma * (self.x - level.alpha * x0)


_Asking = Callable[[int], Questions]
"""The model, to be asked about so many candidates in turn."""


def _scores(asking: _Asking, candidates: Sequence[_Candidate], plan: SelectionPlan) -> Tensor:
    """Scores [n, B] on the CPU; lower is better. Of a picture's draws that drop out, the sharpest comes next to the finalists.

    Those get the finalists' worst score and, on top, by how much they fall short at the first call of the weakest finalist.
    Infinite where no finalist has a finite score.
    """
    first = _followed(asking(len(candidates)), candidates, range(1 if plan.drops_draws else plan.steps))
    if not plan.drops_draws:
        return -first
    ranked = first.masked_fill(~torch.isfinite(first), -torch.inf).argsort(dim=0, descending=True, stable=True)
    numbers = ranked[: plan.finalists].sort(0).values  # [finalists, B]; a batch of finalists mixes draws
    finalists = [_Candidate.of(candidates, row.tolist()) for row in numbers]
    judged = -_followed(asking(len(finalists)), finalists, range(1, plan.steps))
    for finalist, row in zip(finalists, numbers):
        finalist.hand_back(candidates, row.tolist())
    worst = judged.masked_fill(~torch.isfinite(judged), -torch.inf).amax(0)
    behind = torch.where(torch.isfinite(worst), worst, torch.inf)
    score = behind + first.gather(0, numbers).amin(0) - first
    return score.scatter(0, numbers, judged)


def _followed(questions: Questions, candidates: Sequence[_Candidate], calls: range) -> Tensor:
    """How sharp every candidate's picture is at the last of these calls of the sampler, [n, B] on the CPU."""
    model, levels = questions.model, questions.model.sampler_levels
    for number in calls:
        if number:
            for candidate in candidates:
                candidate.step(model.guidance, levels[number - 1], levels[number])
        _predict(questions, candidates, levels[number])
    return torch.stack([sharpness(candidate.guided(model.guidance)).cpu() for candidate in candidates])


def _predict(questions: Questions, candidates: Sequence[_Candidate], level: NoiseLevel) -> None:
    """Give every candidate the model's answer to its latent at this level."""
    if questions.model.guidance == 1:
        answers = questions.predict([candidate.x for candidate in candidates], [level] * len(candidates))
        for candidate, cond in zip(candidates, answers):
            candidate.cond, candidate.uncond = cond, None
    else:
        for candidate in candidates:
            candidate.cond, candidate.uncond = questions.predict_pair(candidate.x, level)


def sharpness(x0: Tensor) -> Tensor:
    """How few and sharp the edges of a clean picture are that the model sees: per picture [B], fp32; higher is sharper.

    The root mean square of the differences between neighbours over their mean absolute value: the inverse of the normalised
    sparsity measure of Krishnan, Tay & Fergus, "Blind deconvolution using a normalized sparsity measure" (CVPR 2011), which
    is lowest for a sharp picture and independent of its contrast. 1 or more, or NaN for a picture without any edge.

    Args:
        x0: [B, C, H, W], or with more axes in between (frames), of which the last two count; tokens [B, n, C] or a sound
            [B, C, n], whose neighbours lie along the longer axis; or [B, n].
    """
    x0 = to_compute(x0)
    axes = (-1, -2) if x0.ndim > 3 else (-1 if x0.ndim < 3 or x0.shape[-1] > x0.shape[-2] else -2,)
    edges = torch.cat([x0.diff(dim=axis).flatten(1) for axis in axes], 1)
    return (edges.square().mean(1).sqrt() / edges.abs().mean(1)).float()
