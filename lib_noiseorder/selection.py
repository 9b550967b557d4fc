"""Semantic selection: of several initial noises, keep the one in which the model soonest sees a clear picture.

Every candidate is an untouched draw of N(0, I), so nothing about the noise's distribution is bent. All are shown to the
sampler's own first call, under guidance. The draws whose pictures are the most pronounced there (`response`) are followed
further, with DDIM / Euler steps between the calls, and of these the one whose last picture is the sharpest (`sharpness`), or
scores best with a judge, wins.

What a diffusion model predicts early is the mean of all pictures that may still come of the noise: where it has not made up its
mind, things are in two places, or two things in one, and all is faint and blurred. Few strong places and few sharp edges say
that it has.
Noisy latents and noise levels are those of `lib_noiseorder.model`: x = alpha·x0 + sigma·eps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from .judging import Judging
from .model import Draw, Model, NoiseLevel
from .plans import SamplerRun, SelectionPlan, in_steps
from .questions import SILENT, Observer, Questions
from .report import OrderedNoise, Report
from .tensors import require_floating, require_same_shape, to_compute


def select(
    plan: SelectionPlan,
    draw: Draw,
    model: Model,
    report: Report | None = None,
    observer: Observer = SILENT,
    judging: Judging | None = None,
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
        judging: who scores the last pictures; None: their sharpness does.

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
    score = _scores(asking, candidates, plan, judging)
    for number, candidate in enumerate(candidates, 1):
        if candidate.cond is not None:
            observer.candidate(number, candidate.cond)

    finite = torch.isfinite(score)
    lost = int((~finite.any(0)).sum())
    if lost:
        report.skip("selection", f"no finite score for {lost} of {len(first)} pictures, which keep their first draw")
    best = score.masked_fill(~finite, -torch.inf).argmax(0).tolist()  # the first where none is finite
    noise = torch.stack([candidates[which].noise[row] for row, which in enumerate(best)])
    report.chosen = [which + 1 for which in best]
    report.scores = score.T.tolist()
    report.judge = judging.digest if judging else ""
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


def _scores(asking: _Asking, candidates: Sequence[_Candidate], plan: SelectionPlan, judging: Judging | None) -> Tensor:
    """How good every draw's last picture is, [n, B] on the CPU; higher is better.

    Draws that drop out get the worst score of the picture's finalists, less what they fall short of the weakest of those at the
    first call; none where there is a judge, who has not seen them. Infinite where no finalist has a finite score.
    """
    questions = asking(len(candidates))
    guidance = questions.model.guidance
    if not plan.drops_draws:
        return _followed(questions, candidates, range(plan.steps), judging)
    _follow(questions, candidates, range(1))
    strength = _of_pictures(response, candidates, guidance)
    ranked = strength.masked_fill(~torch.isfinite(strength), -torch.inf).argsort(dim=0, descending=True, stable=True)
    numbers = ranked[: plan.finalists]  # [finalists, B], the strongest first; a batch of finalists mixes draws
    if judging is None:
        numbers = numbers.sort(0).values
    finalists = [_Candidate.of(candidates, row.tolist()) for row in numbers]
    judged = _followed(asking(len(finalists)), finalists, range(1, plan.steps), judging)
    for finalist, row in zip(finalists, numbers):
        finalist.hand_back(candidates, row.tolist())
    if judging is not None:
        return torch.full_like(strength, torch.nan).scatter(0, numbers, judged)
    worst = judged.masked_fill(~torch.isfinite(judged), torch.inf).amin(0)
    score = worst - (strength.gather(0, numbers).amin(0) - strength)
    return score.scatter(0, numbers, judged)


def _followed(questions: Questions, candidates: Sequence[_Candidate], calls: range, judging: Judging | None) -> Tensor:
    """The scores of candidates that were followed through these calls, [n, B] on the CPU.

    Where a score can be good enough, one after the other: a candidate that no picture needs any more is not followed, and a
    picture that needs none has no score of it.
    """
    guidance = questions.model.guidance
    if judging is None or judging.enough is None:
        _follow(questions, candidates, calls)
        return _of_pictures(sharpness if judging is None else judging.score, candidates, guidance)
    scores: list[Tensor] = []
    done = torch.zeros(len(candidates[0].noise), dtype=torch.bool)
    for candidate in candidates:
        if done.all():
            scores.append(torch.full_like(scores[0], torch.nan))
            continue
        _follow(questions, [candidate], calls)
        scores.append(judging.score(candidate.guided(guidance)).masked_fill(done, torch.nan))
        done = done | judging.passed(scores[-1])
    return torch.stack(scores)


def _follow(questions: Questions, candidates: Sequence[_Candidate], calls: range) -> None:
    """Ask about every candidate what these calls of the sampler would, with its steps between them."""
    model, levels = questions.model, questions.model.sampler_levels
    for number in calls:
        if number:
            for candidate in candidates:
                candidate.step(model.guidance, levels[number - 1], levels[number])
        _predict(questions, candidates, levels[number])


def _of_pictures(figure: Callable[[Tensor], Tensor], candidates: Sequence[_Candidate], guidance: float) -> Tensor:
    """A figure of every candidate's last picture under guidance, [n, B] on the CPU."""
    return torch.stack([figure(candidate.guided(guidance)).cpu() for candidate in candidates])


def _predict(questions: Questions, candidates: Sequence[_Candidate], level: NoiseLevel) -> None:
    """Give every candidate the model's answer to its latent at this level."""
    if questions.model.guidance == 1:
        answers = questions.predict([candidate.x for candidate in candidates], [level] * len(candidates))
        for candidate, cond in zip(candidates, answers):
            candidate.cond, candidate.uncond = cond, None
    else:
        for candidate in candidates:
            candidate.cond, candidate.uncond = questions.predict_pair(candidate.x, level)


def response(x0: Tensor) -> Tensor:
    """How pronounced a clean picture is that the model sees: per picture [B], fp32; higher is stronger.

    The fourth root of the mean fourth power, every channel around its own mean: few strong places count for more than a
    faint veil.

    Args:
        x0: [B, C, …], of which all axes from the third on are places; tokens [B, n, C] or a sound [B, C, n], whose places lie
            along the longer axis; or [B, n].
    """
    return _around_the_mean(to_compute(x0)).pow(4).mean(1).pow(1 / 4).float()


def sharpness(x0: Tensor) -> Tensor:
    """How few and strong the places and the edges of a clean picture are: per picture [B], fp32; higher is sharper.

    The root mean square over the mean absolute value, of the places around their channel's mean and of the differences between
    neighbours, multiplied. That ratio is the inverse of the normalised sparsity measure of Krishnan, Tay & Fergus, "Blind
    deconvolution using a normalized sparsity measure" (CVPR 2011), which is lowest for a sharp picture, whatever its contrast.
    At least 1; NaN for a picture without any edge.

    Args:
        x0: as in `response`; of more than two axes of places (frames) the last two have edges.
    """
    x0 = to_compute(x0)
    edges = torch.cat([x0.diff(dim=axis).flatten(1) for axis in _places(x0)[-2:]], 1)
    return (_sparsity(_around_the_mean(x0)) * _sparsity(edges)).float()


def _places(x0: Tensor) -> list[int]:
    """The axes along which neighbours lie."""
    if x0.ndim == 3:
        return [2 if x0.shape[2] > x0.shape[1] else 1]
    return list(range(min(2, x0.ndim - 1), x0.ndim))


def _around_the_mean(x0: Tensor) -> Tensor:
    return (x0 - x0.mean(_places(x0), keepdim=True)).flatten(1)


def _sparsity(values: Tensor) -> Tensor:
    return values.square().mean(1).sqrt() / values.abs().mean(1)
