"""The one way through: draw → erase → choose → ask the model at the key timesteps → aggregate → inject."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import TypeGuard, cast

import torch
from torch import Tensor

from .chosen import all_named, chosen_draws
from .formulas import aggregate, erase, inject, inject_calibrated, key_timesteps
from .judge_settings import MODEL
from .judges import JudgeError
from .judging import Judging, best_of
from .model import Draw, Model, along_noise
from .plans import SamplerRun, SelectionPlan, in_steps, most_followed, noise_scale_for, plan_for, smallest_extra_cost
from .questions import SILENT, Observer, Questions
from .report import OrderedNoise, Report, in_one_line
from .selection import select
from .settings import CUSTOM, KNOB, NoiseOrderSettings
from .tensors import correlation, mean_and_std, to_compute

JudgeNeeded = Callable[[], Judging]
"""Gives the judge that the setting `judge` names; called only where it is needed. What is wrong with it, a JudgeError, costs
the comparison alone."""
Denoiser = Callable[[Tensor, float], Tensor]
"""`denoiser(noise, timestep)`: the prediction along the noise (eps, or a flow model's velocity), of the noise's shape, for
unit-variance pure noise [B, …] at a key timestep. Enough for injection, where there is no `Model`."""
_ONE_DRAW = "selection_draws = 1 leaves nothing to compare"


def order_noise(
    settings: NoiseOrderSettings,
    draw: Draw,
    model: Model | Denoiser | None,
    *,
    seeds: Sequence[str] | None = None,
    observer: Observer = SILENT,
    judging: JudgeNeeded | None = None,
    why_not: str = "",
) -> OrderedNoise:
    """Put the initial noise of a batch in order.

    Args:
        settings: what to do. Switched off, the first draw comes back bit for bit.
        draw: `draw(k)` gives the k-th independent noise [B, …]; as many are asked for as erasure and selection need.
        model: the host's model; see `lib_noiseorder.model`. A function `denoiser(noise, timestep)` alone can be injected
            from, but not chosen by; without a model neither is done.
        seeds: the pictures' seeds as text, for the setting `chosen`; None where the host has none.
        observer: told what goes on.
        judging: who scores what is coming, where the setting `judge` names one. Finished pictures (`judge_at` 1) are the
            host's affair: `choose_finished`.
        why_not: why the host can have no noises compared; pictures whose draws are named get these all the same.

    Returns:
        The noise and a report. A sample whose predictions are not finite keeps its erased noise; the report says so.

    Raises:
        ValueError: draws or predictions of unequal shapes; a setting `chosen` that does not fit the pictures. What draw or
            model raise passes through.
    """
    started = time.perf_counter()
    if not settings.enabled:
        return OrderedNoise(draw(1), Report(skipped=["switched off"]))
    first = draw(1)
    report = Report.before(first)

    def candidate(k: int) -> Tensor:
        return erased_candidate(settings, lambda number: first if number == 1 else draw(number), k)

    asked = model if is_model(model) else None
    noise = choose(settings, candidate, asked, report, seeds=seeds, observer=observer, judging=judging, why_not=why_not)
    ordered = inject_semantics(settings, noise, model, report, observer=observer)
    report.seconds = time.perf_counter() - started
    return ordered


def is_model(model: Model | Denoiser | None) -> TypeGuard[Model]:
    """Whether a host brought a whole model, not just a function."""
    return hasattr(model, "predict")


def erased_candidate(settings: NoiseOrderSettings, draw: Draw, k: int) -> Tensor:
    """The k-th candidate of a selection, k = 1, 2, …: the k-th group of draws, erased. Without selection there is one."""
    group = settings.erasure_samples
    return erase(map(draw, range((k - 1) * group + 1, k * group + 1)))


def choose(
    settings: NoiseOrderSettings,
    candidate: Draw,
    model: Model | None,
    report: Report,
    *,
    seeds: Sequence[str] | None = None,
    observer: Observer = SILENT,
    judging: JudgeNeeded | None = None,
    why_not: str = "",
) -> Tensor:
    """The candidate that every picture gets: the one that `chosen` names for it, else the one that the selection keeps.

    The first where nothing is named or compared. The model is not asked if all pictures have their draw already.

    Args:
        settings: what to do; `enabled` is taken for granted.
        candidate: `candidate(k)` gives the k-th noise [B, …].
        model: the host's model; None: no selection.
        report: filled in.
        seeds, observer, judging, why_not: as in `order_noise`.

    Raises:
        ValueError: the setting `chosen` does not fit the pictures.
    """
    started = time.perf_counter()
    noise = candidate(1)
    given = chosen_draws(settings.chosen, len(noise), seeds)
    scale = 1.0 if model is None or settings.selection == "off" else noise_scale_for(model.family)

    def scaled(k: int) -> Tensor:
        drawn = noise if k == 1 else candidate(k)
        return drawn if scale == 1 else drawn * scale

    result = noise
    if settings.selection != "off" and not all(given):
        if model is None or why_not:
            report.skip("selection", why_not or "no model to ask")
        else:
            result = _selected(settings, scaled, noise, model, report, observer, judging, any(given))
    if any(given):
        result = _with_named(given, scaled, result)
        _note_named(given, report)
    report.seconds += time.perf_counter() - started
    return result


def choose_finished(
    settings: NoiseOrderSettings,
    candidate: Draw,
    family: str,
    finish: Callable[[Tensor], Tensor],
    report: Report,
    judging: JudgeNeeded | None,
    *,
    seeds: Sequence[str] | None = None,
    observer: Observer = SILENT,
    stopped: Callable[[], bool] = lambda: False,
    why_not: str = "",
) -> Tensor:
    """Let the sampler itself make a finished picture of every noise, and keep the one that the judge prefers (`judge_at` 1).

    Args:
        settings, candidate, report, seeds, observer, why_not: as in `choose`.
        family: the model's.
        finish: `finish(noise)`: the sampler's finished latents [B, …] for the noise [B, …], every time as if it had not run
            before. What it raises for the first one passes through; later it ends the comparison.
        judging: the judge.
        stopped: as in `judging.best_of`.

    Returns:
        The finished latents, [B, …]. Pictures whose draw is named get that, and are not compared.

    Raises:
        ValueError: the setting `chosen` does not fit the pictures.
    """
    scale, first = noise_scale_for(family), candidate(1)
    given = chosen_draws(settings.chosen, len(first), seeds)
    draws = planned(settings, SamplerRun(1.0)).draws

    def scaled(k: int) -> Tensor:
        return candidate(k) * scale

    judge = None
    if not all(given) and (why_not or draws == 1):
        too_little = f"extra_cost = {settings.extra_cost:g} buys no second picture; 1 would"
        report.skip("selection", why_not or (_ONE_DRAW if settings.selection_draws == 1 else too_little))
    elif not all(given):
        try:
            judge = _named_judge(settings, judging)
        except JudgeError as reason:
            report.skip("selection", str(reason))
    if judge is None:
        latents = finish(_with_named(given, scaled, first))
    else:
        latents = best_of(draws, lambda k: finish(_with_named(given, scaled, scaled(k))), judge, report, observer, stopped)
        _note_unread(judge, report)
    if any(given):
        _note_named(given, report)
    return latents


def _with_named(given: Sequence[int], draw: Draw, others: Tensor) -> Tensor:
    """The noises of these draws, one per picture; of `others` where it is 0."""
    named = {number: draw(number) for number in set(given) if number}
    return torch.stack([named[number][row] if number else others[row] for row, number in enumerate(given)])


def _named_judge(settings: NoiseOrderSettings, judging: JudgeNeeded | None) -> Judging | None:
    """The judge that the settings name; None where that is the model itself. Raises JudgeError where there is none."""
    if settings.judge == MODEL:
        return None
    if judging is None:
        raise JudgeError(f"there is no judge {settings.judge!r}")
    return judging()


def _note_unread(judge: Judging, report: Report) -> None:
    if unread := judge.unread():
        report.skip("the end of the prompt", unread)


def _note_named(given: Sequence[int], report: Report) -> None:
    report.chosen = [draw or kept for draw, kept in zip(given, report.chosen or [0] * len(given))]
    report.scores = [[] if draw else scores for draw, scores in zip(given, report.scores)]


def run_under(settings: NoiseOrderSettings, run: SamplerRun) -> SamplerRun:
    """A sampler's run as a plan needs it: where it starts from more than what was chosen, all is asked anew."""
    as_chosen = settings.strength == 0 and settings.noise_scale == 1
    return run if as_chosen else dataclasses.replace(run, reuses_answers=False)


def planned(settings: NoiseOrderSettings, run: SamplerRun) -> SelectionPlan:
    """How the noises are compared under these settings in a run that `run_under` gave."""
    return plan_for(run, extra_cost=settings.extra_cost, draws=settings.selection_draws, judge_at=judged_at(settings))


def furthest_followed(settings: NoiseOrderSettings, steps: int) -> int:
    """The most calls of a run of so many that a comparison under these settings follows."""
    at = judged_at(settings)
    return most_followed(steps) if at is None else plan_for(SamplerRun(1.0, steps), draws=2, judge_at=at).steps


def compares(settings: NoiseOrderSettings, pictures: int, seeds: Sequence[str] | None = None) -> bool:
    """Whether these settings have noises compared for any of so many pictures: whether not all have their draw named.

    Raises:
        ValueError: the setting `chosen` does not fit the pictures.
    """
    return not all_named(settings.chosen, pictures, seeds) and settings.selection != "off"


def finishes(settings: NoiseOrderSettings) -> bool:
    """Whether a judge chooses among finished pictures, so that nothing is chosen before the sampler runs: `choose_finished`."""
    return settings.selection != "off" and judged_at(settings) == 1


def judged_at(settings: NoiseOrderSettings) -> float | None:
    """Where a judge chooses, the share of the steps after which it does; None where the model itself chooses."""
    return None if settings.judge == MODEL else settings.judge_at


def _selected(
    settings: NoiseOrderSettings,
    scaled: Draw,
    first: Tensor,
    model: Model,
    report: Report,
    observer: Observer,
    judging: JudgeNeeded | None,
    others_are_named: bool,
) -> Tensor:
    run = run_under(settings, SamplerRun.of(model))
    plan = planned(settings, run)
    if settings.selection_draws == 1:
        report.skip("selection", _ONE_DRAW)
        return first
    if plan.draws == 1:
        enough = smallest_extra_cost(run, judged_at(settings))
        hint = "" if enough is None else f"; {enough:g} would"
        report.skip("selection", f"extra_cost = {settings.extra_cost:g} buys no comparison at {in_steps(run.steps)}{hint}")
        return first
    judge = None
    try:
        judge = _named_judge(settings, judging)
        noise = select(plan, scaled, model, report, observer, judge).noise
    except JudgeError as reason:
        report.skip("selection", str(reason))
        return first
    except Exception as error:
        if not others_are_named:
            raise
        report.skip("selection", in_one_line(error))  # the pictures whose draws are named do not lose them
        return first
    finally:
        if judge is not None:
            _note_unread(judge, report)
    report.reusable_evaluations = plan.reusable(run)
    return noise if report.chosen else first


def starting_from_a_picture(settings: NoiseOrderSettings, denoising_strength: float, noisiest: float) -> NoiseOrderSettings:
    """The settings for img2img and whatever else starts from a picture.

    The strength is multiplied by the denoising strength: the less the picture may change, the less is injected. The key
    timesteps are taken relative to the sampler's start, so that none is noisier than what the sampler will see.

    Args:
        denoising_strength: 0 leaves the picture as it is, 1 starts from noise alone.
        noisiest: the sampler's start as a key timestep; see `lib_noiseorder.model`.
    """
    lowest = KNOB["layout_timestep"].minimum or 0.0
    timesteps = {
        name: max(lowest, getattr(settings, name) * min(noisiest, 1.0))
        for name in ("layout_timestep", "structure_timestep", "detail_timestep")
    }
    strength = settings.strength * min(max(denoising_strength, 0.0), 1.0)
    return dataclasses.replace(settings, preset=CUSTOM, strength=strength, **timesteps)


def inject_semantics(
    settings: NoiseOrderSettings,
    noise: Tensor,
    model: Model | Denoiser | None,
    report: Report | None = None,
    *,
    observer: Observer = SILENT,
) -> OrderedNoise:
    """The second half of `order_noise`, for hosts that erase and inject at different places.

    Args:
        settings: what to do; `enabled` is taken for granted, nothing is chosen here.
        noise: purified noise z_T [B, …]. Comes back as it is (the same tensor) where nothing was to be done.
        model, observer: as in `order_noise`.
        report: filled in and returned; a fresh one without it.
    """
    started = time.perf_counter()
    if report is None:
        report = Report.before(noise)
    adjusted = noise
    if settings.strength != 0:
        if model is None:
            report.skip("injection", "no model to ask")
        else:
            adjusted = _injected(settings, noise, model, report, observer)
    if settings.noise_scale != 1:
        adjusted = adjusted * settings.noise_scale
    report.mean_after, report.std_after = mean_and_std(adjusted)
    report.seconds += time.perf_counter() - started
    return OrderedNoise(adjusted, report)


def _injected(
    settings: NoiseOrderSettings, noise: Tensor, model: Model | Denoiser, report: Report, observer: Observer
) -> Tensor:
    predictions = _predictions(settings, noise, model, report, observer)
    semantics = aggregate(predictions, [step.weight for step in key_timesteps(settings)])
    usable = torch.isfinite(to_compute(semantics)).reshape(len(noise), -1).all(1)
    if not usable.all():
        lost = int((~usable).sum())
        report.skip("injection", f"the model's predictions are not finite for {lost} of {len(noise)} pictures")
        if not usable.any():
            return noise
    rule = inject if settings.injection == "literal" else inject_calibrated
    keep = usable.view(-1, *[1] * (noise.ndim - 1))
    report.correlation = correlation(semantics[usable], noise[usable])
    return torch.where(keep, rule(noise, semantics.masked_fill(~keep, 0), settings.strength), noise)


def _predictions(
    settings: NoiseOrderSettings, noise: Tensor, model: Model | Denoiser, report: Report, observer: Observer
) -> list[Tensor]:
    """The model's predictions along the noise, one per key timestep."""
    steps = key_timesteps(settings)
    if not is_model(model):
        denoiser, predictions = cast(Denoiser, model), []
        for step in steps:
            predictions.append(denoiser(noise, step.timestep))
            report.evaluations += 1
        return predictions
    levels = [model.level_at(step.timestep) for step in steps]
    latents = [model.noisy(noise, level) for level in levels]
    pictures = Questions(model, report, observer, "injection", len(steps)).predict(latents, levels)
    for step, picture in zip(steps, pictures):
        observer.key_timestep(step, picture)
    flow = model.family == "flow"
    return [along_noise(x0, x, level, "x0", flow=flow) for x0, x, level in zip(pictures, latents, levels)]
