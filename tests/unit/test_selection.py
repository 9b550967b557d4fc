"""Semantic selection, against a host whose answers are known."""

from __future__ import annotations

import pytest
import torch

from lib_noiseorder.model import NoiseLevel
from lib_noiseorder.plans import AUTOMATIC, COST_LIMIT, LIGHT, ONE_GLANCE, SelectionPlan, extra_evaluations, plan_for
from lib_noiseorder.selection import Glance, response, select

SHAPES = [(4, 8, 8), (4, 3, 8, 8), (16, 8), (8,)]
PLANS = [
    SelectionPlan(),
    SelectionPlan(draws=2, preview_share=None),
    SelectionPlan(draws=2, steps=4, preview_share=None, question="dispute", judging_share=0.1),
    SelectionPlan(draws=4, steps=2, preview_share=0.5),
    SelectionPlan(draws=4, steps=1, preview_share=None, question="response"),
    SelectionPlan(draws=3, steps=3, preview_share=None, question="response"),
    SelectionPlan(draws=2, steps=2, preview_share=0.5, question="dispute", judging_share=0.3),
]


class Host:
    """A model that believes in pictures near its targets: x0 is pulled from what it sees towards the target."""

    family, follows = "eps", True

    def __init__(self, targets, guidance=3.0, levels=(1.0, 0.9, 0.7, 0.4, 0.2)):
        self.targets, self.guidance = targets, guidance
        self.levels = [NoiseLevel.flow(t) for t in levels]
        self.calls = 0
        self.broken = None

    def start(self, noise):
        return self.levels[0].sigma * noise

    def level(self, noise_share):
        return NoiseLevel.flow(noise_share)

    def predict(self, x, level):
        self.calls += 1
        seen = x if level.alpha == 0 else x / (level.alpha + level.sigma)
        prediction = 0.5 * seen + 0.5 * self.targets
        if self.broken is not None:
            prediction = torch.where(self.broken(seen), torch.nan, prediction)
        return prediction

    def predict_pair(self, x, level):
        prompted = self.predict(x, level)
        self.calls += 1
        return prompted, 0.5 * torch.tanh(x)


def draws_of(shape, seeds, count=7):
    noises = [
        torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(100 * seed + k)) for seed in seeds])
        for k in range(count)
    ]
    return lambda k: noises[k - 1]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("plan", PLANS)
def test_chosen_noise_is_one_of_the_draws_and_the_glances_are_what_the_sampler_would_ask(shape, plan):
    draw = draws_of(shape, [1, 2, 3, 4, 5])
    host = Host(torch.ones(5, *shape))
    selected = select(plan, draw, host)
    assert len(set(selected.report.chosen)) > 1 or shape in ((16, 8), (8,)) or plan.draws == 2
    for index, k in enumerate(selected.report.chosen):
        assert torch.equal(selected.noise[index], draw(k)[index])
        assert k == 1 + min(range(plan.draws), key=lambda k: selected.report.scores[index][k])
    x = host.start(selected.noise)
    assert len(selected.glances) == plan.steps
    for number, glance in enumerate(selected.glances, 1):
        level = host.levels[number - 1]
        prompted, unprompted = host.predict_pair(x, level)
        torch.testing.assert_close(glance.prompted, prompted)
        if number < plan.steps or plan.question == "response":
            torch.testing.assert_close(glance.unprompted, unprompted)
        if number < plan.steps:
            x0, target = unprompted + 3 * (prompted - unprompted), host.levels[number]
            x = target.alpha * x0 + target.sigma * (x - level.alpha * x0) / level.sigma


def test_a_picture_chooses_the_same_whoever_is_in_its_batch():
    shape = (4, 8, 8)
    together = select(SelectionPlan(), draws_of(shape, [1, 2, 3]), Host(torch.ones(3, *shape)))
    for index, seed in enumerate([1, 2, 3]):
        alone = select(SelectionPlan(), draws_of(shape, [seed]), Host(torch.ones(1, *shape)))
        assert torch.equal(alone.noise[0], together.noise[index])
        assert alone.report.scores[0] == pytest.approx(together.report.scores[index])


def test_same_choice_from_call_to_call_and_global_generator_untouched():
    draw, host = draws_of((4, 8, 8), [5, 6]), Host(torch.ones(2, 4, 8, 8))
    before = torch.random.get_rng_state()
    first, second = select(SelectionPlan(), draw, host), select(SelectionPlan(), draw, host)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(first.noise, second.noise) and first.report.scores == second.report.scores


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("plan", [*AUTOMATIC.values(), *LIGHT.values(), *PLANS, SelectionPlan(draws=1)])
@pytest.mark.parametrize("follows", [True, False])
def test_announced_cost_is_what_is_paid(plan, guidance, follows):
    host = Host(torch.ones(2, 4, 8, 8), guidance)
    host.follows = follows
    report = select(plan, draws_of((4, 8, 8), [1, 2]), host).report
    assert report.evaluations == host.calls == extra_evaluations(plan, guidance, follows, remembers=False)
    assert report.evaluations - report.remembered == extra_evaluations(plan, guidance, follows)


def test_a_sampler_with_steps_of_its_own_gets_the_first_answer_only():
    host = Host(torch.ones(2, 4, 8, 8))
    host.follows = False
    selected = select(SelectionPlan(steps=3, preview_share=None), draws_of((4, 8, 8), [1, 2]), host)
    assert len(selected.glances) == 1 and selected.glances[0].unprompted is not None and selected.report.remembered == 2


@pytest.mark.parametrize("family", ["eps", "flow"])
def test_presets_keep_their_budgets(family):
    assert extra_evaluations(AUTOMATIC[family], guidance=7.0) <= 0.4 * 32
    assert extra_evaluations(plan_for("automatic", family, 7.0, follows=False)[0], 7.0, follows=False) <= 0.4 * 32
    assert extra_evaluations(LIGHT[family], guidance=7.0) <= 3


def test_the_plan_fits_model_and_sampler():
    assert plan_for("automatic", "eps", 7.0)[0] == plan_for("automatic", "v", 7.0)[0] == AUTOMATIC["eps"]
    assert plan_for("automatic", "flow", 3.0)[0] == AUTOMATIC["flow"]
    assert plan_for("automatic", "flow", 3.0, follows=False)[0] == ONE_GLANCE["flow"]
    assert plan_for("automatic", "flow", 1.0)[0].question == "prompted"
    assert plan_for("automatic", "flow", 3.0, draws=5)[0].draws == 5
    assert plan_for("light", "flow", 3.0) == (LIGHT["flow"], 1.0)
    with pytest.raises(ValueError, match="selection must be automatic or light"):
        plan_for("off", "eps", 7.0)


def test_a_draw_without_a_finite_score_never_wins():
    shape = (4, 8, 8)
    draw, host = draws_of(shape, [1, 2]), Host(torch.ones(2, *shape))
    winner = select(SelectionPlan(), draw, host).report.chosen[0]
    spoiled = draw(winner)[0]
    noises = [draw(k).clone() for k in range(1, 4)]
    noises[winner - 1][0] = torch.nan
    report = select(SelectionPlan(), lambda k: noises[k - 1], host).report
    assert report.chosen[0] != winner and not report.skipped and torch.isfinite(spoiled).all()


def test_without_any_finite_score_the_first_draw_stays_and_the_report_says_so():
    draw, host = draws_of((4, 8, 8), [1, 2]), Host(torch.ones(2, 4, 8, 8))
    host.broken = lambda seen: torch.tensor([True, False]).view(2, 1, 1, 1).expand_as(seen)
    selected = select(SelectionPlan(), draw, host)
    assert torch.equal(selected.noise[0], draw(1)[0])
    assert "no finite score for 1 of 2 pictures" in selected.report.skipped[0]


@pytest.mark.parametrize("after", range(12))
def test_interruption_gives_the_first_draw_and_asks_no_more(after):
    draw, host = draws_of((4, 8, 8), [1, 2]), Host(torch.ones(2, 4, 8, 8))
    checks = iter([False] * after + [True] * 100)
    selected = select(SelectionPlan(), draw, host, lambda: next(checks))
    if after < 9:  # three draws, three model calls each
        assert torch.equal(selected.noise, draw(1)) and selected.glances == ()
        assert selected.report.skipped == ["selection: interrupted"]
    else:
        assert not selected.report.skipped


def test_declines_where_the_sampler_starts_at_less_noise_than_the_preview():
    draw, host = draws_of((4, 8, 8), [1]), Host(torch.ones(1, 4, 8, 8), levels=(0.5, 0.2))
    selected = select(SelectionPlan(preview_share=0.8), draw, host)
    assert torch.equal(selected.noise, draw(1)) and host.calls == 0
    assert "starts at less noise" in selected.report.skipped[0]
    selected = select(SelectionPlan(steps=4, preview_share=None), draw, host)
    assert torch.equal(selected.noise, draw(1)) and "the sampler has 2 steps" in selected.report.skipped[0]


def test_half_precision_draws_come_back_in_half_precision():
    draw, host = draws_of((4, 8, 8), [1, 2]), Host(torch.ones(2, 4, 8, 8).half())
    selected = select(SelectionPlan(), lambda k: draw(k).half(), host)
    assert selected.noise.dtype == torch.float16 and torch.isfinite(torch.tensor(selected.report.scores)).all()


def test_draws_and_predictions_of_unequal_shapes_are_refused():
    host = Host(torch.ones(2, 4, 8, 8))
    with pytest.raises(ValueError, match="draw 2 has shape"):
        select(SelectionPlan(), lambda k: torch.randn(2, 4, 8, 8 + k - 1), host)
    host.targets = torch.ones(2, 2, 4, 8, 8)
    with pytest.raises(ValueError, match="prediction has shape"):
        select(SelectionPlan(), lambda k: torch.randn(2, 4, 8, 8), host)


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
    ],
)
def test_plans_out_of_range_are_refused(values):
    with pytest.raises(ValueError, match=next(iter(values))):
        SelectionPlan(**values)


@pytest.mark.parametrize("family", ["eps", "flow"])
@pytest.mark.parametrize("guidance", [1.0, 7.0])
@pytest.mark.parametrize("follows", [True, False])
@pytest.mark.parametrize("steps", [1, 4, 8, 16, 20, 50])
def test_automatic_stays_within_its_cost_limit_at_any_number_of_steps(family, guidance, follows, steps):
    plan, _ = plan_for("automatic", family, guidance, follows, steps=steps)
    per_step = 1 if guidance == 1 else 2
    assert extra_evaluations(plan, guidance, follows) <= COST_LIMIT * per_step * steps
    assert plan.steps <= steps
    if steps >= 16 and guidance != 1:
        assert plan.draws > 1
    assert plan_for("automatic", family, guidance, follows, draws=4, steps=steps)[0].draws == 4


def test_a_plan_follows_the_same_share_of_the_steps():
    assert [plan_for("automatic", "flow", 3.0, steps=steps)[0].steps for steps in (16, 32, 64)] == [4, 8, 16]


def test_few_steps_compare_as_many_noises_as_the_cost_limit_allows():
    assert [plan_for("automatic", "eps", 7.0, steps=steps)[0].draws for steps in (2, 4, 8, 16, 50)] == [1, 2, 4, 7, 7]


@pytest.mark.parametrize("shape", SHAPES)
def test_the_response_is_the_fourth_power_mean_of_the_guided_picture(shape):
    prompted, unprompted = torch.randn(2, 3, *shape, generator=torch.Generator().manual_seed(1)).double()

    def peakedness(x):
        rows = x.reshape(3, shape[0], -1) if len(shape) > 1 else x.reshape(3, 1, -1)
        around = rows - rows.mean(2, keepdim=True)
        return (around**4).reshape(3, -1).mean(1) ** 0.25

    guided = unprompted + 5 * (prompted - unprompted)
    torch.testing.assert_close(response(Glance(prompted, unprompted), 5.0).double(), peakedness(guided), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(response(Glance(prompted, None), 1.0).double(), peakedness(prompted), rtol=1e-5, atol=1e-6)


def test_the_response_prefers_few_strong_places_to_a_faint_veil():
    veil, spot = torch.full((1, 4, 8, 8), 0.25), torch.zeros(1, 4, 8, 8)
    veil[..., ::2] *= -1
    spot[..., 2:4, 2:4] = 1  # the same mean square
    nothing = torch.zeros(1, 4, 8, 8)
    assert response(Glance(spot, nothing), 3.0) > response(Glance(veil, nothing), 3.0)
