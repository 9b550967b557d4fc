"""Semantic selection: of several initial noises, keep the one whose picture the model itself can best believe in.

Every candidate is an untouched draw of N(0, I), so nothing about the noise's distribution is bent. Per candidate:

    first predictions   the sampler's own first model calls, under guidance, with DDIM / Euler steps between them

Where a plan has finalists, the draws whose picture is the weakest at the very first of these drop out, and only the
finalists go on. A draw is scored by its last prediction alone, or its picture is shown to the model once more:

    response     how pronounced the picture is that the model sees there under guidance; the highest wins
    peakedness   how far that comes from few strong places, whatever the picture's contrast; likewise

    jump         one deterministic step from there down to `preview_share`
    preview      one prediction of the clean picture x0, with the prompt; without a jump it is that of the last step
    judge        that picture, noised again to `judging_share` with one fixed noise, is shown to the model
    score        how badly the model restores the picture with the prompt, as a mean square or divided by its response, or how
                 far its restorations with and without the prompt are apart; the lowest wins

An eps model with a non-zero terminal SNR finds the traces of a picture in the noise at its very first call, and a noise in
which the prompt finds much to work with comes out right more often; with a flow model the first call says less. A few steps
later a picture that shows what the prompt says, in a way the model knows, is one that the model restores.
Noisy latents and noise levels are those of `lib_noiseorder.model`: x = alpha·x0 + sigma·eps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from .model import Draw, Model, NoiseLevel
from .plans import OF_THE_PICTURE, SamplerRun, SelectionPlan
from .questions import SILENT, Observer, Questions
from .report import OrderedNoise, Report
from .tensors import require_floating, require_same_shape, to_compute

_JUDGING_SEED = 9


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
        sampler has too few steps or starts at less noise than the preview needs (img2img at a low denoising strength);
        the report says so. Where nothing was compared, the report's `chosen` stays empty.

    Raises:
        ValueError: draws or predictions of unequal shapes. What the host raises passes through.
    """
    first = require_floating("draw 1", draw(1))
    if report is None:
        report = Report.before(first)
    if plan.draws == 1:
        return OrderedNoise(first, report)
    reason = _why_not(plan, model)
    if reason:
        report.skip("selection", reason)
        return OrderedNoise(first, report)

    candidates: list[_Candidate] = []
    for k in range(1, plan.draws + 1):
        noise = first if k == 1 else draw(k)
        require_same_shape(f"draw {k}", noise, "draw 1", first)
        candidates.append(_Candidate(noise, model.start(noise)))
    asking = partial(Questions, model, report, observer, "selection")
    score = (_among_finalists if plan.drops_draws else _followed)(asking, candidates, plan)  # [n, B]
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


def _why_not(plan: SelectionPlan, model: Model) -> str | None:
    levels = model.sampler_levels
    if len(levels) < plan.steps:
        return f"the sampler has {len(levels)} steps, the comparison follows {plan.steps}"
    if plan.preview_share is None:
        return None
    if model.nearest_level(plan.preview_share).noise_share >= levels[plan.steps - 1].noise_share:
        return "the sampler starts at less noise than the preview needs"
    return None


_Asking = Callable[[int], Questions]
"""The model, to be asked about so many candidates in turn."""


def _among_finalists(asking: _Asking, candidates: Sequence[_Candidate], plan: SelectionPlan) -> Tensor:
    """Scores [n, B] as `_followed` gives, of which a picture's finalists alone were judged.

    The others get what ranks them behind: the finalists' worst score and, on top, by how much they fall short in the
    screening of the weakest finalist's. Infinite where no finalist has a finite score.
    """
    assert plan.finalists is not None
    questions = asking(len(candidates))
    model = questions.model
    _predict(questions, candidates, model.sampler_levels[0], model.guidance == 1)
    strength = _strength(candidates, plan.screening, model.guidance)
    ranked = strength.masked_fill(~torch.isfinite(strength), -torch.inf).argsort(dim=0, descending=True, stable=True)
    numbers = ranked[: plan.finalists].sort(0).values  # [finalists, B]; a batch of finalists mixes draws
    finalists = [_Candidate.of(candidates, row.tolist()) for row in numbers]
    judged = _followed(asking, finalists, plan, first_is_known=True)
    for finalist, row in zip(finalists, numbers):
        finalist.hand_back(candidates, row.tolist())
    worst = judged.masked_fill(~torch.isfinite(judged), -torch.inf).amax(0)
    behind = torch.where(torch.isfinite(worst), worst, torch.inf)
    score = behind + strength.gather(0, numbers).amin(0) - strength
    return score.scatter(0, numbers, judged)


def _followed(asking: _Asking, candidates: Sequence[_Candidate], plan: SelectionPlan, first_is_known: bool = False) -> Tensor:
    """The candidates followed as far as the plan says, and their scores [n, B] on the CPU; lower is better."""
    questions = asking(len(candidates))
    model, levels = questions.model, questions.model.sampler_levels
    for number in range(1 if first_is_known else 0, plan.steps):
        if number:
            for candidate in candidates:
                candidate.step(model.guidance, levels[number - 1], levels[number])
        with_prompt_only = model.guidance == 1 or (number + 1 == plan.steps and plan.ends_with_the_prompt_only)
        _predict(questions, candidates, levels[number], with_prompt_only)
    if plan.preview_share is not None:
        target = model.nearest_level(plan.preview_share)
        for candidate in candidates:
            candidate.step(model.guidance, levels[plan.steps - 1], target)
        _predict(questions, candidates, target, True)
    if plan.question in OF_THE_PICTURE:
        return -_strength(candidates, plan.question, model.guidance)
    return _judged(questions, [candidate.cond for candidate in candidates if candidate.cond is not None], plan)


def _predict(questions: Questions, candidates: Sequence[_Candidate], level: NoiseLevel, with_prompt_only: bool) -> None:
    """Give every candidate the model's answer to its latent at this level."""
    if with_prompt_only:
        answers = questions.predict([candidate.x for candidate in candidates], [level] * len(candidates))
        for candidate, cond in zip(candidates, answers):
            candidate.cond, candidate.uncond = cond, None
    else:
        for candidate in candidates:
            candidate.cond, candidate.uncond = questions.predict_pair(candidate.x, level)


def _strength(candidates: Sequence[_Candidate], question: str, guidance: float) -> Tensor:
    """The response or peakedness of every candidate's last picture under guidance, [n, B] on the CPU."""
    of = response if question == "response" else peakedness
    return torch.stack([of(candidate.guided(guidance)).cpu() for candidate in candidates])


def response(x0: Tensor) -> Tensor:
    """How pronounced a clean picture [B, C, …] is that the model sees: per picture [B], fp32; higher is stronger.

    The fourth root of the mean fourth power, every channel around its own mean: few strong places count for more than a
    faint veil.
    """
    return _power_mean(x0, 4)


def peakedness(x0: Tensor) -> Tensor:
    """How far the response of a clean picture [B, C, …] comes from few strong places: per picture [B], fp32.

    The response over the root mean square, every channel around its own mean: the contrast falls out.
    """
    return _power_mean(x0, 4) / _power_mean(x0, 2)


def _power_mean(x0: Tensor, power: int) -> Tensor:
    x0 = to_compute(x0)
    flat = x0.flatten(2) if x0.ndim > 2 else x0.unsqueeze(1)
    return (flat - flat.mean(2, keepdim=True)).pow(power).mean((1, 2)).pow(1 / power).float()


def _judged(questions: Questions, pictures: Sequence[Tensor], plan: SelectionPlan) -> Tensor:
    """Per candidate's picture [B, …] the answer to the plan's question, [n, B] on the CPU; lower is better.

    The judging noise is the same for every picture, draw and call, so that only the pictures differ.
    """
    assert plan.judging_share is not None
    level = questions.model.nearest_level(plan.judging_share)
    generator = torch.Generator().manual_seed(_JUDGING_SEED)
    noise = torch.randn(pictures[0].shape[1:], generator=generator).to(pictures[0].device, pictures[0].dtype)
    noisy = (level.alpha * picture + level.sigma * noise for picture in pictures)
    if plan.question == "cond_uncond_distance":
        return torch.stack([_distance(*questions.predict_pair(x, level)) for x in noisy])
    restored = questions.predict(list(noisy), [level] * len(pictures))
    errors = torch.stack([_distance(*both) for both in zip(restored, pictures)])
    if plan.question == "cond_error":
        return errors
    return errors / torch.stack([response(picture).cpu() for picture in pictures])


def _distance(a: Tensor, b: Tensor) -> Tensor:
    """Mean square of the difference [B], fp32, on the CPU."""
    return (to_compute(a) - to_compute(b)).square().flatten(1).mean(1).float().cpu()
