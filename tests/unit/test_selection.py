"""Semantic selection, against a host whose answers are known."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise, product

import numpy as np
import pytest
import torch

from lib_noiseorder import Observer
from lib_noiseorder.model import NoiseLevel
from lib_noiseorder.plans import (
    COST_STEP,
    DEAREST,
    EXTRA_COST,
    MOST_DRAWS,
    USUAL_STEPS,
    SamplerRun,
    SelectionPlan,
    most_followed,
    noise_scale_for,
    plan_for,
    smallest_extra_cost,
)
from lib_noiseorder.selection import response, select, sharpness
from tests.lengths import at_length

SHAPES = [(4, 8, 8), (4, 3, 8, 8), (16, 8), (8,)]
PLAN = SelectionPlan(3)
PLANS = [
    PLAN,
    SelectionPlan(2, 3),
    SelectionPlan(2, 2, 3),
    SelectionPlan(3, 4, 3),
    SelectionPlan(3, 2),
    SelectionPlan(4, 5),
    SelectionPlan(5, 3, 3),
    SelectionPlan(7, 1, 3),
]
WITH_FINALISTS = [plan for plan in PLANS if plan.drops_draws]
USUAL = SamplerRun(7.0)


class Host:
    """A model that believes in pictures near its targets: x0 is pulled from what it sees towards the target.

    Attributes:
        seen: (x, level, x0 with the prompt, x0 without or None) of every question.
    """

    family, takes_euler_steps, reuses_answers, sampler_evaluations = "eps", True, True, None
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

    def level_at(self, timestep):
        return NoiseLevel.flow(timestep)

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
        prediction = 0.5 * seen + 0.5 * self.targets + 0.1 * seen.roll(1, -1).abs()
        if self.broken is not None:
            prediction = torch.where(self.broken(seen), torch.nan, prediction)
        return prediction


def draws_of(shape, seeds, count=7):
    noises = [
        torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(100 * seed + k)) for seed in seeds])
        for k in range(count)
    ]
    return lambda k: noises[k - 1]


def guided(host, cond, uncond):
    return cond if uncond is None else uncond + host.guidance * (cond - uncond)


def followed(host, noise, calls):
    """The pictures under guidance that a sampler sees at each of its first calls, by DDIM steps of its own."""
    x, pictures = host.start(noise), []
    for number in range(calls):
        level, target = host.sampler_levels[number], host.sampler_levels[min(number + 1, len(host.sampler_levels) - 1)]
        answer = (host.predict([x], [level])[0], None) if host.guidance == 1 else host.predict_pair(x, level)
        pictures.append(guided(host, *answer))
        eps = (x - level.alpha * pictures[-1]) / level.sigma
        x = target.alpha * pictures[-1] + target.sigma * eps
    return pictures


def around_the_mean(picture):
    """One picture [C, H, W] or [C, T, H, W], tokens [n, C] or a row, without its channels' means, and its places' axes."""
    picture = np.asarray(picture, dtype=np.float64)
    places = tuple(range(1, picture.ndim)) if picture.ndim > 2 else (int(np.argmax(picture.shape)),)
    return picture - picture.mean(places, keepdims=True), places


def strong(picture):
    """What `response` is to say of it."""
    return (around_the_mean(picture)[0] ** 4).mean() ** 0.25


def sharp(picture):
    """What `sharpness` is to say of it."""
    around, places = around_the_mean(picture)
    edges = np.concatenate([np.abs(np.diff(around, axis=axis)).ravel() for axis in places[-2:]])
    return np.prod([np.sqrt((values**2).mean()) / np.abs(values).mean() for values in (around, edges)])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_the_sharpest_of_the_finalists_wins_and_they_are_the_strongest_at_the_first_call(shape, guidance, plan):
    draw, seeds = draws_of(shape, range(1, 6)), range(5)
    selected = select(plan, draw, Host(torch.ones(5, *shape), guidance))
    paths = [followed(Host(torch.ones(5, *shape), guidance), draw(k), plan.steps) for k in range(1, plan.draws + 1)]
    for row in seeds:
        first, last = [strong(path[0][row]) for path in paths], [sharp(path[-1][row]) for path in paths]
        ranked = sorted(range(plan.draws), key=lambda k: -first[k])
        finalists = ranked[: plan.finalists] if plan.steps > 1 else ranked
        winner, scores = max(finalists, key=lambda k: last[k]), selected.report.scores[row]
        assert selected.report.chosen[row] == winner + 1 and torch.equal(selected.noise[row], draw(winner + 1)[row])
        assert [scores[k] for k in finalists] == pytest.approx([last[k] for k in finalists], rel=1e-4)
        weakest, worst = min(first[k] for k in finalists), min(last[k] for k in finalists)
        behind = [k for k in ranked if k not in finalists]
        assert [scores[k] for k in behind] == pytest.approx([worst - weakest + first[k] for k in behind], rel=1e-3)


def test_pictures_of_one_batch_get_different_draws():
    for plan in PLANS:
        assert len(set(select(plan, draws_of((4, 8, 8), range(9)), Host(torch.ones(9, 4, 8, 8))).report.chosen)) > 1


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_the_sampler_would_ask_of_the_winner_what_was_asked_already(shape, guidance, plan):
    host, again = (Host(torch.ones(5, *shape), guidance) for _ in range(2))
    selected = select(plan, draws_of(shape, range(1, 6)), host)
    followed(again, selected.noise, plan.steps)
    for x, level, *_ in again.seen:
        alike = [seen for seen in host.seen if seen[1] == level]
        for row in range(5):
            assert any(torch.allclose(seen[0][row], x[row], atol=1e-5) for seen in alike)
    assert {seen[1] for seen in host.seen} == set(host.sampler_levels[: plan.steps]), "asked where no sampler asks"
    assert all((seen[3] is None) == (guidance == 1) for seen in host.seen)


@pytest.mark.parametrize("at_once", [2, 3])
def test_several_latents_in_one_call_choose_the_same(at_once):
    one, many = Host(torch.ones(2, 4, 8, 8), guidance=1.0), Host(torch.ones(2, 4, 8, 8), guidance=1.0)
    many.latents_per_call = at_once
    alone, together = (select(SelectionPlan(5, 3), draws_of((4, 8, 8), [1, 2]), host) for host in (one, many))
    assert alone.report.scores == together.report.scores and one.calls == many.calls


class Watching(Observer):
    def __init__(self):
        self.said, self.pictures = [], []

    def asking(self, what, number, total):
        self.said.append((what, number, total))

    def candidate(self, number, picture):
        self.pictures.append((number, picture))


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_an_observer_hears_which_draw_is_asked_about_and_sees_the_last_picture_of_every_draw(plan):
    watching, host = Watching(), Host(torch.ones(2, 4, 8, 8))
    select(plan, draws_of((4, 8, 8), [1, 2]), host, observer=watching)

    def in_turn(count):
        return [("selection", number, count) for number in range(1, count + 1)]

    if plan.drops_draws:
        assert watching.said == in_turn(plan.draws) + in_turn(plan.finalists) * (plan.steps - 1)
    else:
        assert watching.said == in_turn(plan.draws) * plan.steps
    assert [number for number, _ in watching.pictures] == list(range(1, plan.draws + 1))
    if not plan.drops_draws:
        last = host.seen[-plan.draws :]
        assert all(torch.equal(picture, seen[2]) for (_, picture), seen in zip(watching.pictures, last))


@pytest.mark.parametrize("plan", WITH_FINALISTS, ids=str)
def test_draws_that_drop_out_are_shown_as_first_seen_and_rank_behind_in_that_order(plan):
    watching, host = Watching(), Host(torch.ones(3, 4, 8, 8))
    report = select(plan, draws_of((4, 8, 8), [1, 2, 3]), host, observer=watching).report
    first, last = host.seen[: plan.draws], host.seen[-plan.finalists :]
    strongest = torch.stack([response(guided(host, *seen[2:])) for seen in first])
    for row, scores in enumerate(report.scores):
        ranked = strongest[:, row].argsort(descending=True).tolist()
        finalists, dropped = ranked[: plan.finalists], ranked[plan.finalists :]
        assert report.chosen[row] - 1 in finalists and len(scores) == plan.draws
        assert max(scores[k] for k in dropped) < min(scores[k] for k in finalists)
        assert [scores[k] for k in dropped] == sorted((scores[k] for k in dropped), reverse=True)
        for k, (_, picture) in enumerate(watching.pictures):
            shown = [first[k]] if k in dropped else last
            assert any(torch.equal(picture[row], seen[2][row]) for seen in shown)


@pytest.mark.parametrize("plan", WITH_FINALISTS, ids=str)
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_where_no_finalist_has_a_finite_score_nobody_wins(plan, guidance):
    host, draw = Host(torch.ones(2, 4, 8, 8), guidance), draws_of((4, 8, 8), [1, 2])
    ask = host._cond

    def breaks_after_the_first_call(x, level):
        return torch.full_like(x, torch.nan) if len(host.seen) >= plan.draws else ask(x, level)

    host._cond = breaks_after_the_first_call
    selected = select(plan, draw, host)
    assert torch.equal(selected.noise, draw(1)) and "no finite score for 2 of 2" in selected.report.skipped[0]


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_a_picture_chooses_the_same_whoever_is_in_its_batch(plan):
    shape = (4, 8, 8)
    together = select(plan, draws_of(shape, [1, 2, 3]), Host(torch.ones(3, *shape)))
    for index, seed in enumerate([1, 2, 3]):
        alone = select(plan, draws_of(shape, [seed]), Host(torch.ones(1, *shape)))
        assert torch.equal(alone.noise[0], together.noise[index])
        assert alone.report.scores[0] == pytest.approx(together.report.scores[index])


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_same_choice_from_call_to_call_and_nothing_random_or_given_is_touched(plan):
    draw, host = draws_of((4, 8, 8), [5, 6]), Host(torch.ones(2, 4, 8, 8))
    before, given = torch.random.get_rng_state(), [draw(k).clone() for k in range(1, plan.draws + 1)]
    first, second = select(plan, draw, host), select(plan, draw, host)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(draw(k), noise) for k, noise in enumerate(given, 1))
    assert torch.equal(first.noise, second.noise) and first.report.scores == second.report.scores


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("plan", [*PLANS, SelectionPlan(1)], ids=str)
@pytest.mark.parametrize("euler", [True, False])
@pytest.mark.parametrize("reuses", [True, False])
@pytest.mark.parametrize("cond, pair", [(1, 2), (2, 2), (2, 3)])
def test_announced_cost_is_what_is_paid(plan, guidance, euler, reuses, cond, pair):
    host = Host(torch.ones(2, 4, 8, 8), guidance)
    host.takes_euler_steps, host.reuses_answers, host.cond_evaluations, host.pair_evaluations = euler, reuses, cond, pair
    report = select(plan, draws_of((4, 8, 8), [1, 2]), host).report
    run = SamplerRun.of(host)
    paid = sum(cond if seen[3] is None else pair for seen in host.seen)
    assert report.evaluations == paid == plan.evaluations(run)
    assert (cond, pair) != (1, 2) or host.calls == paid
    asks_again = 0 if plan.draws == 1 or not reuses else plan.steps if euler else 1
    assert report.reusable_evaluations == asks_again * run.call_evaluations
    assert report.evaluations - report.reusable_evaluations == plan.extra_evaluations(run)


def spoiled(draw, count, which, row, value):
    noises = [draw(k).clone() for k in range(1, count + 1)]
    noises[which - 1][row] = value
    return lambda k: noises[k - 1]


@pytest.mark.parametrize("plan", PLANS, ids=str)
@pytest.mark.parametrize("value", [torch.nan, torch.inf, 3e38], ids=str)
def test_a_draw_without_a_finite_score_never_wins(plan, value):
    draw, host = draws_of((4, 8, 8), [1, 2]), Host(torch.ones(2, 4, 8, 8))
    usual = select(plan, draw, host).report.chosen
    report = select(plan, spoiled(draw, plan.draws, usual[0], 0, value), host).report
    assert report.chosen[0] != usual[0] and report.chosen[1] == usual[1] and not report.skipped


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_a_draw_that_gives_nothing_to_see_never_wins(plan):
    """Where the model sees one even colour, there is no edge to be sharp."""
    draw, host = draws_of((4, 8, 8), [1, 2]), Host(torch.ones(2, 4, 8, 8))
    usual = select(plan, draw, host).report.chosen
    report = select(plan, spoiled(draw, plan.draws, usual[0], 0, 0.5), host).report
    assert report.chosen[0] != usual[0] and report.chosen[1] == usual[1] and not report.skipped


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_without_any_finite_score_the_first_draw_stays_and_the_report_says_so(plan):
    draw, host = draws_of((4, 8, 8), [1, 2]), Host(torch.ones(2, 4, 8, 8))
    host.broken = lambda seen: torch.tensor([True, False]).view(2, 1, 1, 1).expand_as(seen)
    selected = select(plan, draw, host)
    assert torch.equal(selected.noise[0], draw(1)[0]) and selected.report.chosen[0] == 1
    assert "no finite score for 1 of 2 pictures" in selected.report.skipped[0]


def test_declines_where_the_sampler_has_fewer_steps_than_are_followed():
    draw, host = draws_of((4, 8, 8), [1]), Host(torch.ones(1, 4, 8, 8), levels=(0.5, 0.2))
    selected = select(SelectionPlan(3, 4), draw, host)
    assert torch.equal(selected.noise, draw(1)) and host.calls == 0 and not selected.report.chosen
    assert selected.report.skipped == ["selection: the sampler has 2 steps, the comparison follows 4"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_draws_come_back_in_their_precision(dtype):
    draw, host = draws_of((4, 8, 8), [1, 2]), Host(torch.ones(2, 4, 8, 8, dtype=dtype))
    selected = select(SelectionPlan(3, 2), lambda k: draw(k).to(dtype), host)
    assert selected.noise.dtype == dtype and torch.isfinite(torch.tensor(selected.report.scores)).all()


def test_draws_and_predictions_of_unequal_shapes_are_refused():
    host = Host(torch.ones(2, 4, 8, 8))
    with pytest.raises(ValueError, match="draw 2 has shape"):
        select(PLAN, lambda k: torch.randn(2, 4, 8, 8 + k - 1), host)
    for answers, says in (
        (lambda x: [x[0]] * 2, "predict gave 2 predictions for 1 latents"),
        (lambda x: [], "predict gave 0 predictions for 1"),
        (lambda x: None, "predict must give a list of 1 predictions, not NoneType"),
        (lambda x: [None], "prediction must be a floating-point tensor"),
    ):
        odd = Host(torch.ones(2, 4, 8, 8), guidance=1.0)
        odd.predict = lambda latents, levels, answers=answers: answers(latents)
        with pytest.raises(ValueError, match=says):
            select(PLAN, draws_of((4, 8, 8), [1, 2]), odd)
    host.targets = torch.ones(2, 2, 4, 8, 8)
    with pytest.raises(ValueError, match="prediction has shape"):
        select(PLAN, lambda k: torch.randn(2, 4, 8, 8), host)


# -- how pronounced and how sharp a picture is -----------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [*SHAPES, (8, 16), (4, 1, 8, 8), (1, 8, 8), (64, 16), (3, 5, 9)], ids=str)
def test_sharpness_is_what_its_formula_says(shape):
    x0 = torch.randn(3, *shape, generator=torch.Generator().manual_seed(1)).exp()
    found = sharpness(x0)
    assert found.shape == (3,) and found.dtype == torch.float32
    assert found.tolist() == pytest.approx([sharp(picture) for picture in x0], rel=1e-5)


@pytest.mark.parametrize("shape", [*SHAPES, (8, 16), (4, 1, 8, 8), (64, 16)], ids=str)
def test_response_is_the_fourth_power_mean_around_every_channels_mean(shape):
    x0 = torch.randn(3, *shape, generator=torch.Generator().manual_seed(1)).exp()
    found = response(x0)
    assert found.shape == (3,) and found.dtype == torch.float32
    assert found.tolist() == pytest.approx([strong(picture) for picture in x0], rel=1e-5)
    torch.testing.assert_close(response(0.1 * x0 + 5), 0.1 * found, rtol=1e-3, atol=1e-5)


def test_response_prefers_few_strong_places_to_a_faint_veil():
    spot, veil = torch.zeros(1, 1, 16, 16), torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    spot[..., 4:6, 4:6] = 1
    assert response(spot) > response(veil * spot.std() / veil.std())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_sharpness_does_not_see_contrast_or_offset(shape):
    x0 = torch.randn(3, *shape, generator=torch.Generator().manual_seed(1))
    for changed in (0.01 * x0, 30 * x0, -x0, x0 + 5, 0.1 * x0 - 2):
        torch.testing.assert_close(sharpness(changed), sharpness(x0), rtol=1e-4, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sharpness_of_half_precision_is_taken_in_full(dtype):
    x0 = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(1)).clamp(-2, 2)
    large = (30000 * x0).to(dtype)
    found = sharpness(large)
    assert found.dtype == torch.float32 and torch.equal(found, sharpness(large.float()))
    torch.testing.assert_close(found, sharpness(x0), rtol=1e-2, atol=0)


@pytest.mark.parametrize("shape", [*SHAPES, (4, 1, 1), (1,)], ids=str)
def test_a_picture_without_any_edge_has_no_sharpness(shape):
    assert not torch.isfinite(sharpness(torch.full((2, *shape), 0.7))).any()


def test_few_sharp_edges_are_sharper_than_many_faint_ones():
    step, ramp, double = (torch.zeros(1, 1, 16, 16) for _ in range(3))
    step[..., 8:] = 1
    ramp[:] = torch.linspace(0, 1, 16)
    double[..., 5:], double[..., 11:] = 0.5, 1  # the thing in two places
    noise = torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    assert sharpness(step) > sharpness(double) > sharpness(ramp) > 1
    assert sharpness(step) > sharpness(step + 0.1 * noise) > sharpness(step + 0.3 * noise) > 1
    assert sharpness(torch.nn.functional.avg_pool2d(step, (1, 5), 1)) < sharpness(step)


def test_every_frame_of_a_video_counts_and_the_way_from_one_to_the_next_does_not():
    frames = torch.randn(2, 4, 3, 8, 8, generator=torch.Generator().manual_seed(1)).exp()
    torch.testing.assert_close(sharpness(frames), sharpness(frames[:, :, [2, 0, 1]]))
    torch.testing.assert_close(sharpness(frames[:, :, :1]), sharpness(frames[:, :, 0]))
    assert not torch.allclose(sharpness(frames), sharpness(frames[:, :, :1]), rtol=1e-3)


def test_tokens_and_sounds_are_looked_at_along_their_longer_axis():
    tokens = torch.randn(2, 64, 16, generator=torch.Generator().manual_seed(1)).exp()
    torch.testing.assert_close(sharpness(tokens), sharpness(tokens.mT))
    torch.testing.assert_close(sharpness(tokens), sharpness(tokens[..., torch.randperm(16)]))


# -- plans ---------------------------------------------------------------------------------------------------------------

RUNS = [
    SamplerRun(guidance, steps, euler, reuses, *costs, sampler_evaluations=own)
    for steps in at_length((1, 2, 3, 4, 7, 12, 20, 50), (1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 20, 30, 50, 150))
    for guidance, euler, reuses, costs in product((1.0, 7.0), (True, False), (True, False), ((1, 2), (2, 2), (2, 3), (1, 3)))
    for own in at_length((None, steps), (None, steps, 4 * steps))
]
COSTS = [round(COST_STEP * number, 10) for number in range(round(DEAREST / COST_STEP) + 1)]


@pytest.mark.parametrize(
    "values", [{"draws": 0}, {"draws": 17}, {"steps": 0}, {"steps": 1001}, {"finalists": 1}, {"finalists": 17}], ids=str
)
def test_plans_out_of_range_are_refused(values):
    with pytest.raises(ValueError, match=next(iter(values))):
        SelectionPlan(**{"draws": 3, **values})


def test_a_draw_drops_out_only_where_others_are_followed_further():
    dropping = {(2, 1, 2): 0, (2, 9, 2): 0, (2, 9, 3): 0, (3, 1, 2): 0, (3, 2, 2): 1, (7, 2, 7): 0, (7, 2, 6): 1}
    assert all(SelectionPlan(*plan).drops_draws == does for plan, does in dropping.items())


def test_what_the_presets_buy_at_the_usual_number_of_steps():
    assert SamplerRun(7.0, USUAL_STEPS) == USUAL and USUAL.own_evaluations == 40
    automatic, light = plan_for(USUAL), plan_for(USUAL, extra_cost=0.2)
    assert (automatic, automatic.extra_evaluations(USUAL)) == (SelectionPlan(5, 5, 2), 16)
    assert (light, light.extra_evaluations(USUAL)) == (SelectionPlan(3, 3, 2), 8)
    for other in (replace(USUAL, takes_euler_steps=False), replace(USUAL, reuses_answers=False), replace(USUAL, guidance=1)):
        assert plan_for(other).draws >= 3 and plan_for(other, extra_cost=0.2).draws >= 2


def test_one_plan_for_every_kind_of_model():
    assert not hasattr(USUAL, "family")
    assert plan_for(replace(USUAL, guidance=1.0)) == plan_for(replace(USUAL, guidance=1.5)) == plan_for(USUAL)
    assert [noise_scale_for(family) for family in ("flow", "eps", "v")] == [0.95, 1, 1]


@pytest.mark.parametrize("count", range(1, MOST_DRAWS + 1))
def test_so_many_draws_as_are_asked_for_are_compared_whatever_that_costs(count):
    for run in RUNS:
        plan = plan_for(run, extra_cost=0, draws=count)
        assert plan.draws == count and plan.steps <= max(1, min(count, most_followed(run.steps)))
        assert plan.finalists == (2 if count <= 6 else round(count / 3))
    with pytest.raises(ValueError, match="draws must be from 1 to 16"):
        plan_for(USUAL, draws=17)


def test_an_extra_cost_is_never_exceeded_and_a_higher_one_never_compares_less():
    for run in RUNS:
        costs = COSTS[:: at_length(4, 1)]
        plans = [plan_for(run, extra_cost=cost) for cost in costs]
        extra = [plan.extra_evaluations(run) for plan in plans]
        assert all(paid <= cost * run.own_evaluations + 1e-9 for paid, cost in zip(extra, costs)), run
        assert all(plan.steps <= most_followed(run.steps) <= run.steps for plan in plans)
        assert extra == sorted(extra) and extra[0] == 0
        for fewer, more in pairwise(plans):
            assert (fewer.draws, fewer.steps) <= (more.draws, more.steps), run
            assert fewer.finalists <= more.finalists


def test_a_longer_run_never_compares_less_under_the_same_preset():
    for cost, guidance, euler, reuses in product((0.2, 0.4), (1.0, 7.0), (True, False), (True, False)):
        runs = [SamplerRun(guidance, steps, euler, reuses) for steps in range(1, at_length(41, 151))]
        draws = [plan_for(run, extra_cost=cost).draws for run in runs]
        assert draws == sorted(draws) and draws[0] == 1


def test_what_the_sampler_asks_again_is_never_bought_in_vain():
    for run, cost in product(RUNS, (0.2, 0.4)):
        less = [replace(run, takes_euler_steps=False), replace(run, reuses_answers=False)]
        assert all(plan_for(other, extra_cost=cost).draws <= plan_for(run, extra_cost=cost).draws for other in less)


def test_what_is_left_of_the_cost_follows_the_finalists_further():
    for run, cost in product(RUNS, COSTS[:: at_length(9, 1)]):
        plan = plan_for(run, extra_cost=cost)
        if plan.draws > 1 and plan.steps < most_followed(run.steps):
            further = replace(plan, steps=plan.steps + 1)
            assert further.extra_evaluations(run) > cost * run.own_evaluations


def test_a_run_with_fewer_evaluations_than_its_steps_buys_less():
    short = replace(USUAL, sampler_evaluations=20)  # as where the sampler leaves the negative prompt out late
    assert 0 < plan_for(short).extra_evaluations(short) <= 0.4 * 20


@pytest.mark.parametrize("few, enough", [(1, 1.0), (2, 0.5), (3, 0.35), (4, 0.25), (20, 0.05)])
@pytest.mark.parametrize("guidance", [1.0, 7.0])
def test_the_smallest_cost_that_compares_is_known_beforehand(few, enough, guidance):
    run = SamplerRun(guidance, few)
    assert smallest_extra_cost(run) == enough
    assert plan_for(run, extra_cost=enough).draws == 2
    assert plan_for(run, extra_cost=enough - 0.05).draws == 1
    assert smallest_extra_cost(SamplerRun(1.0, few, cond_evaluations=90, sampler_evaluations=1)) is None


def test_a_higher_cost_buys_more_noises_and_nothing_costs_nothing():
    plans = [plan_for(USUAL, extra_cost=cost) for cost in (0, 0.05, 0.1, 0.25, EXTRA_COST, 1, 4)]
    found = [(plan.draws, plan.steps, plan.finalists) for plan in plans]
    assert found == [(1, 1, 2), (2, 1, 2), (2, 2, 2), (3, 4, 2), (5, 5, 2), (9, 7, 3), (16, 10, 5)]


def test_few_steps_compare_as_many_noises_as_the_cost_limit_allows():
    assert [plan_for(SamplerRun(7.0, steps)).draws for steps in (2, 4, 8, 16, 50)] == [1, 2, 2, 4, 7]


def test_about_a_third_of_a_run_is_followed_and_never_more_than_half():
    assert [most_followed(steps) for steps in (1, 2, 3, 8, 9, 20)] == [1, 1, 1, 4, 4, 10]
    assert [plan_for(SamplerRun(7.0, steps), draws=16).steps for steps in (1, 2, 4, 10, 20, 40, 150)] == [1, 1, 2, 4, 7, 14, 16]
