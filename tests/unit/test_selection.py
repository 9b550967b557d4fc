"""Semantic selection, against a host whose answers are known."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lib_noiseorder import Observer
from lib_noiseorder.model import NoiseLevel
from lib_noiseorder.plans import (
    AUTOMATIC,
    CHEAPEST,
    EXTRA_COST,
    FIRST_PREDICTION_ONLY,
    OF_THE_PICTURE,
    SamplerRun,
    SelectionPlan,
    noise_scale_for,
    plan_for,
    smallest_extra_cost,
)
from lib_noiseorder.selection import peakedness, response, select

SHAPES = [(4, 8, 8), (4, 3, 8, 8), (16, 8), (8,)]


def plan(draws=3, steps=1, preview_share=0.87, question="cond_error", judging_share=0.8, finalists=None, screening="response"):
    return SelectionPlan(draws, steps, preview_share, question, judging_share, finalists, screening)


PLANS = [
    plan(),
    plan(draws=2, preview_share=None),
    plan(draws=2, steps=4, preview_share=None, question="cond_uncond_distance", judging_share=0.1),
    plan(draws=4, steps=2, preview_share=0.5),
    plan(draws=4, steps=1, preview_share=None, question="response"),
    plan(draws=3, steps=3, preview_share=None, question="response"),
    plan(draws=2, steps=2, preview_share=0.5, question="cond_uncond_distance", judging_share=0.3),
    plan(draws=4, steps=1, preview_share=None, finalists=2),
    plan(draws=5, steps=4, preview_share=None, judging_share=0.1, finalists=2),
    plan(draws=4, steps=2, preview_share=0.5, question="cond_uncond_distance", judging_share=0.3, finalists=3),
    plan(draws=2, steps=3, preview_share=None, judging_share=0.1, finalists=2),
    plan(draws=4, steps=2, preview_share=None, question="relative_error", judging_share=0.1),
    plan(draws=5, steps=3, preview_share=None, question="peakedness", judging_share=None),
]
WITH_FINALISTS = [plan for plan in PLANS if plan.drops_draws]


class Host:
    """A model that believes in pictures near its targets: x0 is pulled from what it sees towards the target.

    Attributes:
        seen: (x, level, x0 with the prompt, x0 without or None) of every question.
    """

    family, takes_euler_steps, reuses_answers, reuses_prompt_only, sampler_evaluations = "eps", True, True, True, None
    latents_per_call, cond_evaluations, pair_evaluations = 1, 1, 2

    def __init__(self, targets, guidance=3.0, levels=(1.0, 0.9, 0.7, 0.4, 0.2)):
        self.targets, self.guidance = targets, guidance
        self.sampler_levels = [NoiseLevel.flow(t) for t in levels]
        self.calls = 0
        self.broken = None
        self.seen = []

    def start(self, noise):
        return self.sampler_levels[0].sigma * noise

    def noisy(self, noise, level):
        return noise

    def nearest_level(self, noise_share):
        return NoiseLevel.flow(noise_share)

    level_at = nearest_level

    def predict(self, latents, levels):
        assert len(latents) == len(levels) <= self.latents_per_call
        answers = [self._cond(x, level) for x, level in zip(latents, levels)]
        self.seen += [(x, level, answer, None) for x, level, answer in zip(latents, levels, answers)]
        return answers

    def predict_pair(self, x, level):
        self.seen.append((x, level, self._cond(x, level), 0.5 * torch.tanh(x)))
        self.calls += 1
        return self.seen[-1][2:]

    def _cond(self, x, level):
        self.calls += 1
        seen = x if level.alpha == 0 else x / (level.alpha + level.sigma)
        prediction = 0.5 * seen + 0.5 * self.targets
        if self.broken is not None:
            prediction = torch.where(self.broken(seen), torch.nan, prediction)
        return prediction


def draws_of(shape, seeds, count=7):
    noises = [
        torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(100 * seed + k)) for seed in seeds])
        for k in range(count)
    ]
    return lambda k: noises[k - 1]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("plan", PLANS)
def test_chosen_noise_is_one_of_the_draws_and_the_sampler_would_ask_what_was_asked_first(shape, plan):
    draw = draws_of(shape, [1, 2, 3, 4, 5])
    host = Host(torch.ones(5, *shape))
    selected = select(plan, draw, host)
    assert len(set(selected.report.chosen)) > 1 or shape in ((16, 8), (8,)) or plan.draws == 2
    for index, k in enumerate(selected.report.chosen):
        assert torch.equal(selected.noise[index], draw(k)[index])
        assert k == 1 + min(range(plan.draws), key=lambda k: selected.report.scores[index][k])
    x = host.start(selected.noise)
    for number in range(plan.steps):
        level = host.sampler_levels[number]
        here = [
            next(seen for seen in host.seen if seen[1] == level and torch.allclose(seen[0][index], x[index], atol=1e-5))
            for index in range(5)
        ]
        assert all((seen[3] is None) == (number + 1 == plan.steps and plan.ends_with_the_prompt_only) for seen in here)
        if number + 1 < plan.steps:
            cond, uncond = (torch.stack([seen[which][index] for index, seen in enumerate(here)]) for which in (2, 3))
            x0, target = uncond + 3 * (cond - uncond), host.sampler_levels[number + 1]
            x = target.alpha * x0 + target.sigma * (x - level.alpha * x0) / level.sigma


@pytest.mark.parametrize("at_once", [2, 3])
def test_several_latents_in_one_call_choose_the_same(at_once):
    one, many = Host(torch.ones(2, 4, 8, 8), guidance=1.0), Host(torch.ones(2, 4, 8, 8), guidance=1.0)
    many.latents_per_call = at_once
    alone, together = (select(plan(draws=5), draws_of((4, 8, 8), [1, 2]), host) for host in (one, many))
    assert alone.report.scores == together.report.scores and one.calls == many.calls


class Watching(Observer):
    def __init__(self):
        self.said, self.pictures = [], []

    def asking(self, what, number, total):
        self.said.append((what, number, total))

    def candidate(self, number, picture):
        self.pictures.append((number, picture))


@pytest.mark.parametrize("plan", PLANS)
def test_an_observer_hears_which_draw_is_asked_about_and_sees_the_picture_of_every_draw(plan):
    watching, host = Watching(), Host(torch.ones(2, 4, 8, 8))
    select(plan, draws_of((4, 8, 8), [1, 2]), host, observer=watching)
    rounds = plan.steps + (plan.preview_share is not None) + (plan.question not in OF_THE_PICTURE)

    def in_turn(count):
        return [("selection", number, count) for number in range(1, count + 1)]

    screen = in_turn(plan.draws) if plan.drops_draws else []
    followed = plan.finalists if plan.drops_draws else plan.draws
    assert watching.said == screen + in_turn(followed) * (rounds - plan.drops_draws)
    assert [number for number, _ in watching.pictures] == list(range(1, plan.draws + 1))
    if plan.drops_draws:
        return
    judged_or_last = (
        host.seen[-2 * plan.draws : -plan.draws] if plan.question not in OF_THE_PICTURE else host.seen[-plan.draws :]
    )
    assert all(torch.equal(picture, seen[2]) for (_, picture), seen in zip(watching.pictures, judged_or_last))


@pytest.mark.parametrize("plan", WITH_FINALISTS)
def test_the_strongest_at_the_first_call_are_judged_and_the_others_are_shown_and_rank_behind(plan):
    watching, host = Watching(), Host(torch.ones(3, 4, 8, 8))
    report = select(plan, draws_of((4, 8, 8), [1, 2, 3]), host, observer=watching).report
    first = host.seen[: plan.draws]
    strength = torch.stack([response(uncond + 3 * (cond - uncond)) for _, _, cond, uncond in first])
    last = [seen[2] for seen in host.seen[plan.draws :]] if plan.steps > 1 else [seen[2] for seen in first]
    for row, scores in enumerate(report.scores):
        ranked = strength[:, row].argsort(descending=True).tolist()
        finalists, dropped = ranked[: plan.finalists], ranked[plan.finalists :]
        assert report.chosen[row] - 1 in finalists and len(scores) == plan.draws
        assert min(scores[k] for k in dropped) > max(scores[k] for k in finalists)
        assert [scores[k] for k in dropped] == sorted(scores[k] for k in dropped)
        for k, (_, picture) in enumerate(watching.pictures):
            shown = [first[k][2]] if k in dropped else last
            assert any(torch.equal(picture[row], seen[row]) for seen in shown)


@pytest.mark.parametrize("plan", WITH_FINALISTS)
def test_where_no_finalist_has_a_finite_score_nobody_wins(plan):
    host = Host(torch.ones(2, 4, 8, 8))
    draw, predict_pair, asked = draws_of((4, 8, 8), [1, 2]), host.predict_pair, []

    def breaks_after_the_first_call(x, level):
        asked.append(x)
        host.broken = None if len(asked) <= plan.draws else lambda seen: torch.ones_like(seen, dtype=torch.bool)
        return predict_pair(x, level)

    host.predict_pair = breaks_after_the_first_call
    host.predict = lambda latents, levels: [torch.full_like(x, torch.nan) for x in latents]
    selected = select(plan, draw, host)
    assert torch.equal(selected.noise, draw(1)) and "no finite score for 2 of 2" in selected.report.skipped[0]


@pytest.mark.parametrize("plan", [plan(), *WITH_FINALISTS])
def test_a_picture_chooses_the_same_whoever_is_in_its_batch(plan):
    shape = (4, 8, 8)
    together = select(plan, draws_of(shape, [1, 2, 3]), Host(torch.ones(3, *shape)))
    for index, seed in enumerate([1, 2, 3]):
        alone = select(plan, draws_of(shape, [seed]), Host(torch.ones(1, *shape)))
        assert torch.equal(alone.noise[0], together.noise[index])
        assert alone.report.scores[0] == pytest.approx(together.report.scores[index])


def test_same_choice_from_call_to_call_and_global_generator_untouched():
    draw, host = draws_of((4, 8, 8), [5, 6]), Host(torch.ones(2, 4, 8, 8))
    before = torch.random.get_rng_state()
    first, second = select(plan(), draw, host), select(plan(), draw, host)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(first.noise, second.noise) and first.report.scores == second.report.scores


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("plan", [*AUTOMATIC.values(), *CHEAPEST.values(), *PLANS, plan(draws=1)])
@pytest.mark.parametrize("euler", [True, False])
@pytest.mark.parametrize("reuses", [True, False])
def test_announced_cost_is_what_is_paid(plan, guidance, euler, reuses):
    host = Host(torch.ones(2, 4, 8, 8), guidance)
    host.takes_euler_steps, host.reuses_answers = euler, reuses
    report = select(plan, draws_of((4, 8, 8), [1, 2]), host).report
    run = SamplerRun.of(host)
    assert report.evaluations == host.calls == plan.evaluations(run)
    assert report.evaluations - report.reusable_evaluations == plan.extra_evaluations(run)


def test_a_sampler_with_steps_of_its_own_can_reuse_the_first_answer_only():
    host = Host(torch.ones(2, 4, 8, 8))
    host.takes_euler_steps = False
    report = select(plan(steps=3, preview_share=None), draws_of((4, 8, 8), [1, 2]), host).report
    assert report.reusable_evaluations == 2


@pytest.mark.parametrize("family", ["eps", "flow"])
def test_presets_keep_their_budgets(family):
    run = SamplerRun(family, 7.0)
    assert AUTOMATIC[family].extra_evaluations(run) <= 0.4 * 32
    for other in (replace(run, takes_euler_steps=False), replace(run, reuses_answers=False)):
        assert plan_for(other).draws > 1 and plan_for(other).extra_evaluations(other) <= 0.4 * 32
    assert CHEAPEST[family].extra_evaluations(run) <= 3


def test_the_plan_fits_model_and_sampler():
    assert plan_for(SamplerRun("eps", 7.0)) == plan_for(SamplerRun("v", 7.0)) == AUTOMATIC["eps"]
    assert plan_for(SamplerRun("flow", 3.0)) == AUTOMATIC["flow"]
    assert plan_for(SamplerRun("flow", 3.0, takes_euler_steps=False)) == FIRST_PREDICTION_ONLY["flow"]
    assert plan_for(SamplerRun("flow", 3.0, reuses_answers=False)) == FIRST_PREDICTION_ONLY["flow"]
    assert plan_for(SamplerRun("flow", 1.0)).question == "cond_error"
    assert plan_for(SamplerRun("flow", 3.0), draws=5).draws == 5
    assert [plan_for(SamplerRun(family, 3.0), extra_cost=0.1) for family in ("eps", "flow")] == [
        CHEAPEST["eps"],
        CHEAPEST["flow"],
    ]
    assert [noise_scale_for(family) for family in ("flow", "eps", "v")] == [0.95, 1, 1]
    with pytest.raises(ValueError, match="draws must be from 1 to 16"):
        plan_for(SamplerRun("eps", 7.0), draws=17)


def test_a_draw_without_a_finite_score_never_wins():
    shape = (4, 8, 8)
    draw, host = draws_of(shape, [1, 2]), Host(torch.ones(2, *shape))
    winner = select(plan(), draw, host).report.chosen[0]
    spoiled = draw(winner)[0]
    noises = [draw(k).clone() for k in range(1, 4)]
    noises[winner - 1][0] = torch.nan
    report = select(plan(), lambda k: noises[k - 1], host).report
    assert report.chosen[0] != winner and not report.skipped and torch.isfinite(spoiled).all()


def test_without_any_finite_score_the_first_draw_stays_and_the_report_says_so():
    draw, host = draws_of((4, 8, 8), [1, 2]), Host(torch.ones(2, 4, 8, 8))
    host.broken = lambda seen: torch.tensor([True, False]).view(2, 1, 1, 1).expand_as(seen)
    selected = select(plan(), draw, host)
    assert torch.equal(selected.noise[0], draw(1)[0])
    assert "no finite score for 1 of 2 pictures" in selected.report.skipped[0]


def test_declines_where_the_sampler_starts_at_less_noise_than_the_preview():
    draw, host = draws_of((4, 8, 8), [1]), Host(torch.ones(1, 4, 8, 8), levels=(0.5, 0.2))
    selected = select(plan(preview_share=0.8), draw, host)
    assert torch.equal(selected.noise, draw(1)) and host.calls == 0 and not selected.report.chosen
    assert "starts at less noise" in selected.report.skipped[0]
    selected = select(plan(steps=4, preview_share=None), draw, host)
    assert torch.equal(selected.noise, draw(1)) and "the sampler has 2 steps" in selected.report.skipped[0]


def test_half_precision_draws_come_back_in_half_precision():
    draw, host = draws_of((4, 8, 8), [1, 2]), Host(torch.ones(2, 4, 8, 8).half())
    selected = select(plan(), lambda k: draw(k).half(), host)
    assert selected.noise.dtype == torch.float16 and torch.isfinite(torch.tensor(selected.report.scores)).all()


def test_draws_and_predictions_of_unequal_shapes_are_refused():
    host = Host(torch.ones(2, 4, 8, 8))
    with pytest.raises(ValueError, match="draw 2 has shape"):
        select(plan(), lambda k: torch.randn(2, 4, 8, 8 + k - 1), host)
    for answers, says in (
        (lambda x: [x[0]] * 2, "predict gave 2 predictions for 1 latents"),
        (lambda x: [], "predict gave 0 predictions for 1"),
        (lambda x: None, "predict must give a list of 1 predictions, not NoneType"),
        (lambda x: [None], "prediction must be a floating-point tensor"),
    ):
        odd = Host(torch.ones(2, 4, 8, 8), guidance=1.0)
        odd.predict = lambda latents, levels, answers=answers: answers(latents)
        with pytest.raises(ValueError, match=says):
            select(plan(), draws_of((4, 8, 8), [1, 2]), odd)
    host.targets = torch.ones(2, 2, 4, 8, 8)
    with pytest.raises(ValueError, match="prediction has shape"):
        select(plan(), lambda k: torch.randn(2, 4, 8, 8), host)


@pytest.mark.parametrize(
    "values",
    [
        {"draws": 0},
        {"draws": 17},
        {"steps": 0},
        {"preview_share": 1.0},
        {"judging_share": float("nan")},
        {"question": "why"},
        {"preview_share": 0.5, "question": "response"},
        {"judging_share": None},
        {"screening": "cond_error"},
        {"finalists": 1},
        {"finalists": 17},
    ],
)
def test_plans_out_of_range_are_refused(values):
    with pytest.raises(ValueError, match=next(iter(values))):
        plan(**values)


@pytest.mark.parametrize("family", ["eps", "flow"])
@pytest.mark.parametrize("guidance", [1.0, 7.0])
@pytest.mark.parametrize("euler", [True, False])
@pytest.mark.parametrize("reuses", [True, False])
@pytest.mark.parametrize("halves", [True, False])
@pytest.mark.parametrize("cond, pair", [(1, 2), (2, 2), (2, 3), (1, 3)])
def test_automatic_stays_within_its_cost_limit_at_any_number_of_steps(family, guidance, euler, reuses, halves, cond, pair):
    for steps in (1, 2, 3, 4, 5, 6, 8, 12, 16, 20, 50):
        run = SamplerRun(family, guidance, steps, euler, reuses, halves, cond, pair)
        assert plan_for(run, draws=4).draws == 4
        for extra_cost in (EXTRA_COST, 0, 0.1, 0.25, 1, 4):
            plan = plan_for(run, extra_cost=extra_cost)
            assert plan.extra_evaluations(run) <= extra_cost * run.own_evaluations + 1e-9
            assert plan.steps <= steps
            if steps >= 16 and guidance != 1 and extra_cost >= 0.25 and (cond, pair) == (1, 2):
                assert plan.draws > 1


@pytest.mark.parametrize("family", ["eps", "flow"])
def test_a_run_with_fewer_evaluations_than_its_steps_buys_less(family):
    short = SamplerRun(family, 7.0, sampler_evaluations=20)  # as where the sampler leaves the negative prompt out late
    assert 0 < plan_for(short).extra_evaluations(short) <= 0.4 * 20


@pytest.mark.parametrize("family, few, enough", [("eps", 2, 0.5), ("flow", 4, 0.75), ("eps", 1, 1.0), ("flow", 1, 3.0)])
def test_the_smallest_cost_that_compares_is_known_beforehand(family, few, enough):
    run = SamplerRun(family, 1.0, few)
    assert smallest_extra_cost(run) == enough
    assert plan_for(run, extra_cost=enough).draws == 2
    assert plan_for(run, extra_cost=enough - 0.05).draws == 1
    assert smallest_extra_cost(SamplerRun(family, 1.0, few, cond_evaluations=90, sampler_evaluations=1)) is None


def test_a_higher_cost_buys_more_noises_and_nothing_costs_nothing():
    draws = {
        family: [plan_for(SamplerRun(family, 7.0), extra_cost=cost).draws for cost in (0, 0.1, 0.4, 1, 4)]
        for family in ("eps", "flow")
    }
    assert draws == {"eps": [1, 2, 7, 16, 16], "flow": [1, 2, 2, 4, 15]}


def test_a_plan_follows_the_same_share_of_the_steps():
    assert [plan_for(SamplerRun("flow", 3.0, steps)).steps for steps in (16, 32, 64)] == [4, 8, 16]
    only_the_first = [plan_for(SamplerRun("eps", 7.0, steps)).steps for steps in (16, 30, 50, 150)]
    only_the_first += [plan_for(SamplerRun("flow", 7.0, steps, takes_euler_steps=False)).steps for steps in (30, 150)]
    assert only_the_first == [1] * 6


def test_few_steps_compare_as_many_noises_as_the_cost_limit_allows():
    assert [plan_for(SamplerRun("eps", 7.0, steps)).draws for steps in (2, 4, 8, 16, 50)] == [1, 2, 4, 7, 7]


def test_peakedness_is_the_response_without_the_contrast():
    x0 = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(peakedness(0.1 * x0 + 5), peakedness(x0), rtol=1e-3, atol=1e-4)
    around = x0 - x0.mean((2, 3), keepdim=True)
    torch.testing.assert_close(peakedness(x0), response(x0) / around.square().mean((1, 2, 3)).sqrt())
    assert torch.allclose(response(0.1 * x0 + 5), 0.1 * response(x0), rtol=1e-3)


def test_the_relative_error_is_the_error_over_the_response_of_the_picture():
    watching, draw = Watching(), draws_of((4, 8, 8), [1, 2])
    shown = plan(steps=2, preview_share=None, judging_share=0.1)
    absolute = select(shown, draw, Host(torch.ones(2, 4, 8, 8)), observer=watching).report.scores
    relative = select(replace(shown, question="relative_error"), draw, Host(torch.ones(2, 4, 8, 8))).report.scores
    pictures = torch.stack([response(picture) for _, picture in watching.pictures], 1)
    torch.testing.assert_close(torch.tensor(relative), torch.tensor(absolute) / pictures)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_response_is_the_fourth_power_mean_of_a_picture(shape):
    x0 = torch.randn(3, *shape, generator=torch.Generator().manual_seed(1)).double()

    def peakedness(x):
        rows = x.reshape(3, shape[0], -1) if len(shape) > 1 else x.reshape(3, 1, -1)
        around = rows - rows.mean(2, keepdim=True)
        return (around**4).reshape(3, -1).mean(1) ** 0.25

    torch.testing.assert_close(response(x0).double(), peakedness(x0), rtol=1e-5, atol=1e-6)


def test_the_response_prefers_few_strong_places_to_a_faint_veil():
    veil, spot = torch.full((1, 4, 8, 8), 0.25), torch.zeros(1, 4, 8, 8)
    veil[..., ::2] *= -1
    spot[..., 2:4, 2:4] = 1  # the same mean square
    assert response(spot) > response(veil)
