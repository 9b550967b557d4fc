"""A judge chooses: among predicted pictures, and among finished ones."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from lib_noiseorder import NoiseOrderSettings, Report, order_noise
from lib_noiseorder.judges import JudgeError
from lib_noiseorder.judging import Judging, best_of
from lib_noiseorder.model import NoiseLevel
from lib_noiseorder.ordering import choose_finished
from lib_noiseorder.plans import SamplerRun, SelectionPlan, plan_for
from lib_noiseorder.selection import response, select

from .test_selection import Host, draws_of, followed

SHAPE, SEEDS = (4, 8, 8), range(5)
USUAL = SamplerRun(7.0)


def brightness(pictures):
    """What the judge of these tests likes."""
    return pictures.flatten(1).mean(1)


BRIGHT = Judging(brightness, digest="0123456789")


def host():
    return Host(torch.ones(5, *SHAPE))


@pytest.mark.parametrize("plan", [SelectionPlan(4, 3, 4), SelectionPlan(6, 3, 2), SelectionPlan(3)], ids=str)
def test_the_judge_prefers_among_those_who_are_strongest_at_the_first_call(plan):
    draw = draws_of(SHAPE, SEEDS)
    selected = select(plan, draw, host(), judging=BRIGHT)
    runs = [followed(host(), draw(k), plan.steps) for k in range(1, plan.draws + 1)]
    first = torch.stack([response(run[0]) for run in runs])
    last = torch.stack([brightness(run[-1]) for run in runs])
    seen = first.argsort(0, descending=True)[: plan.finalists if plan.drops_draws else plan.draws]
    for row in SEEDS:
        best = max(seen[:, row].tolist(), key=lambda number, row=row: last[number, row])
        assert selected.report.chosen[row] == best + 1
        assert torch.equal(selected.noise[row], draw(best + 1)[row])
        judged = [k for k, score in enumerate(selected.report.scores[row]) if math.isfinite(score)]
        assert judged == sorted(seen[:, row].tolist())
        assert selected.report.kept_scores[row] == pytest.approx(last[best, row].item(), abs=1e-5)
    assert selected.report.judge == "0123456789"


@pytest.mark.parametrize("plan", [SelectionPlan(5, 3, 5), SelectionPlan(6, 3, 3)], ids=str)
def test_a_score_that_is_good_enough_ends_the_looking_and_no_picture_depends_on_another(plan):
    draw = draws_of(SHAPE, SEEDS)
    whole = select(plan, draw, host(), judging=BRIGHT).report
    enough = sorted(score for row in whole.scores for score in row if math.isfinite(score))[-9]
    judging = replace(BRIGHT, enough=enough)
    together = select(plan, draw, host(), judging=judging)
    assert together.report.evaluations <= whole.evaluations
    stopped = 0
    for row in SEEDS:
        alone = select(plan, lambda k, row=row: draw(k)[row : row + 1], Host(torch.ones(1, *SHAPE)), judging=judging)
        assert alone.report.chosen == [together.report.chosen[row]]
        scores = [score for score in together.report.scores[row] if math.isfinite(score)]
        passed = [score >= enough for score in scores]
        assert sum(passed) <= 1, "nothing is judged after one that is good enough"
        stopped += alone.report.evaluations < whole.evaluations
    assert stopped > 0


def test_a_judge_without_a_finite_score_leaves_the_first_draw():
    def partly(pictures):
        return torch.where(torch.arange(5) == 2, torch.nan, brightness(pictures))

    draw = draws_of(SHAPE, SEEDS)
    selected = select(SelectionPlan(4, 2, 4), draw, host(), judging=Judging(partly))
    assert selected.report.chosen[2] == 1 and torch.equal(selected.noise[2], draw(1)[2])
    assert "no finite score for 1 of 5 pictures" in selected.report.skipped[0]


class Finishing:
    """A sampler whose finished latents are twice its noise."""

    def __init__(self, fails_at=None, stops_at=None):
        self.noises, self.fails_at, self.stops_at = [], fails_at, stops_at

    def __call__(self, noise):
        self.noises.append(noise)
        if len(self.noises) == self.fails_at:
            raise RuntimeError("out of memory")
        return 2 * noise

    def stopped(self):
        return len(self.noises) == self.stops_at


def finished(settings, finishing, judging=BRIGHT, seeds=None, family="eps"):
    draw, report = draws_of(SHAPE, SEEDS), Report()
    settings = NoiseOrderSettings(judge="bright", judge_at=1, **settings)
    latents = choose_finished(
        settings, draw, family, finishing, report, lambda: judging, seeds=seeds, stopped=finishing.stopped
    )
    return latents, report


def test_of_finished_pictures_every_one_is_the_brightest_of_its_own():
    finishing, draw = Finishing(), draws_of(SHAPE, SEEDS)
    latents, report = finished({"extra_cost": 3.0}, finishing)
    scores = torch.stack([brightness(2 * draw(k)) for k in range(1, 5)])
    assert report.chosen == (scores.argmax(0) + 1).tolist() and len(set(report.chosen)) > 1
    for row, k in enumerate(report.chosen):
        assert torch.equal(latents[row], 2 * draw(k)[row])
    assert torch.allclose(torch.tensor(report.scores), scores.T) and len(finishing.noises) == 4


def test_flow_models_finish_the_draws_that_a_replay_would_start_from():
    latents, report = finished({"extra_cost": 1.0}, Finishing(), family="flow")
    named = " ".join(map(str, report.chosen))
    again, replayed = finished({"extra_cost": 1.0, "chosen": named}, finishing := Finishing(), judging=None, family="flow")
    assert torch.equal(again, latents) and replayed.chosen == report.chosen
    assert len(finishing.noises) == 1 and not any(replayed.scores)


def test_named_draws_are_kept_beside_pictures_that_are_compared():
    draw = draws_of(SHAPE, SEEDS)
    latents, report = finished({"extra_cost": 2.0, "chosen": "7:5"}, Finishing(), seeds=["3", "7", "8", "9", "10"])
    assert report.chosen[1] == 5 and torch.equal(latents[1], 2 * draw(5)[1]) and report.scores[1] == []
    assert all(len(report.scores[row]) == 3 for row in (0, 2, 3, 4))


def test_good_enough_ends_the_finishing():
    scores = torch.stack([brightness(2 * draws_of(SHAPE, SEEDS)(k)) for k in range(1, 5)])
    enough = scores.amin().item() - 1
    _, report = finished({"extra_cost": 3.0}, finishing := Finishing(), replace(BRIGHT, enough=enough))
    assert len(finishing.noises) == 1 and report.chosen == [1] * 5
    enough = scores[0].median().item()
    latents, report = finished({"extra_cost": 3.0}, finishing := Finishing(), replace(BRIGHT, enough=enough))
    for row in SEEDS:
        passed = (scores[:, row] >= enough).nonzero()
        best = passed[0].item() if len(passed) else scores[:, row].argmax().item()
        assert report.chosen[row] == best + 1 and torch.equal(latents[row], finishing.noises[best][row] * 2)


@pytest.mark.parametrize("at", [1, 2, 3])
def test_an_interrupt_keeps_the_best_so_far(at):
    latents, report = finished({"extra_cost": 3.0}, finishing := Finishing(stops_at=at))
    assert len(finishing.noises) == at and f"interrupted at noise {at} of 4" in report.skipped[0]
    if at == 1:
        assert torch.equal(latents, 2 * draws_of(SHAPE, SEEDS)(1)) and report.chosen == [1] * 5 and not report.scores
    else:
        assert max(report.chosen) <= at - 1 and all(len(scores) == at - 1 for scores in report.scores)


def test_what_fails_later_keeps_the_best_so_far_and_what_fails_first_is_the_samplers_own_affair():
    _, report = finished({"extra_cost": 3.0}, Finishing(fails_at=3))
    assert "noise 3 of 4: RuntimeError: out of memory" in report.skipped[0] and max(report.chosen) <= 2
    with pytest.raises(RuntimeError):
        finished({"extra_cost": 3.0}, Finishing(fails_at=1))


@pytest.mark.parametrize("at", [1, 2])
def test_a_judge_that_fails_costs_the_effect_and_not_the_picture(at):
    asked = []

    def failing(pictures):
        asked.append(pictures)
        if len(asked) == at:
            raise ValueError("no room")
        return brightness(pictures)

    latents, report = finished({"extra_cost": 3.0}, Finishing(), Judging(failing))
    assert f"noise {at} of 4: ValueError: no room" in report.skipped[0]
    assert torch.equal(latents, 2 * draws_of(SHAPE, SEEDS)(1))


def test_an_extra_cost_that_buys_no_second_picture_leaves_the_plain_one():
    latents, report = finished({"extra_cost": 0.9}, finishing := Finishing(), family="flow")
    assert torch.equal(latents, 2 * draws_of(SHAPE, SEEDS)(1)) and len(finishing.noises) == 1
    assert report.skipped == ["selection: extra_cost = 0.9 buys no second picture; 1 would"] and not report.chosen


def test_a_single_draw_is_the_reason_whatever_the_extra_cost():
    _, report = finished({"extra_cost": 3.0, "selection_draws": 1}, Finishing())
    assert report.skipped == ["selection: selection_draws = 1 leaves nothing to compare"] and not report.chosen


def test_a_judge_that_nobody_brought_is_missed():
    settings = NoiseOrderSettings(judge="PickScore")
    ordered = order_noise(settings, draw := draws_of(SHAPE, SEEDS), host())
    assert torch.equal(ordered.noise, draw(1)) and ordered.report.skipped == ["selection: there is no judge 'PickScore'"]


@pytest.mark.parametrize("cost", [0.2, 0.4, 1.0, 3.0])
@pytest.mark.parametrize("at", [0.1, 0.35, 0.5, 0.75, 1.0])
@pytest.mark.parametrize("run", [USUAL, SamplerRun(1.0, 4), SamplerRun(7.0, 30, takes_euler_steps=False)], ids=str)
def test_a_judge_costs_no_more_than_the_extra_cost(run, cost, at):
    plan = plan_for(run, extra_cost=cost, judge_at=at)
    assert plan.draws == 1 or 0 < plan.extra_evaluations(run) <= cost * run.own_evaluations
    assert plan.finishes == (at == 1)
    if plan.draws > 1:
        assert plan.steps == max(1, round(at * run.steps))


def missing():
    raise JudgeError("there is no judge 'nobody'")


def failing(pictures):
    raise JudgeError("the judge failed")


@pytest.mark.parametrize("judging", [missing, lambda: Judging(failing)], ids=["missing", "failing"])
@pytest.mark.parametrize("strength", [0.0, 0.2])
def test_named_draws_need_no_judge_and_are_those_of_the_batch_that_chose_them(judging, strength):
    flow, draw = host(), draws_of(SHAPE, SEEDS)
    flow.family, flow.sampler_levels = "flow", [NoiseLevel.flow(1 - k / 20) for k in range(20)]
    values = {"judge": "bright", "selection_draws": 4, "selection": "automatic", "erasure_samples": 1, "strength": strength}
    settings = NoiseOrderSettings(**values)
    before = order_noise(settings, draw, flow, judging=lambda: BRIGHT)
    named = settings.changed(chosen=" ".join(str(before.report.chosen[row] if row < 3 else 0) for row in SEEDS))
    after = order_noise(named, draw, flow, judging=judging)
    assert torch.allclose(after.noise[:3], before.noise[:3], atol=1e-5)
    assert after.report.chosen == [*before.report.chosen[:3], 0, 0]
    alone = order_noise(settings.changed(selection="off"), draw, flow)
    assert torch.allclose(after.noise[3:], alone.noise[3:], atol=1e-5), "the others are the host's own"
    assert len(after.report.skipped) == 1 and after.report.skipped[0].startswith("selection: the")
    host_says = order_noise(named, draw, flow, judging=missing, why_not="no")
    assert torch.allclose(host_says.noise, after.noise, atol=1e-5) and host_says.report.skipped == ["selection: no"]


def test_of_finished_pictures_named_draws_need_no_judge():
    whole, before = finished({"extra_cost": 2.0}, Finishing(), family="flow")
    named = {"extra_cost": 2.0, "chosen": " ".join(str(draw if row < 3 else 0) for row, draw in enumerate(before.chosen))}
    for how in ({"judging": missing}, {"judging": lambda: BRIGHT, "why_not": "no"}):
        settings, report = NoiseOrderSettings(judge="bright", judge_at=1, **named), Report()
        latents = choose_finished(settings, draws_of(SHAPE, SEEDS), "flow", finishing := Finishing(), report, **how)
        assert torch.equal(latents[:3], whole[:3]) and report.chosen == [*before.chosen[:3], 0, 0]
        assert torch.equal(latents[3:], 2 * draws_of(SHAPE, SEEDS)(1)[3:]) and len(finishing.noises) == 1
        assert len(report.skipped) == 1 and report.skipped[0] in ("selection: no", "selection: there is no judge 'nobody'")


def test_a_judge_is_asked_for_only_where_it_is_needed():
    settings, draw = NoiseOrderSettings(judge="bright", chosen="2"), draws_of(SHAPE, SEEDS)
    assert not order_noise(settings, draw, host(), judging=missing).report.skipped
    assert not order_noise(
        settings.changed(judge="model", chosen="", selection_draws=2), draw, host(), judging=missing
    ).report.skipped


def test_a_prompt_that_was_cut_is_said_once():
    cut = replace(BRIGHT, unread=lambda: "the judge reads 77 tokens")
    settings, draw = NoiseOrderSettings(judge="bright", selection_draws=2), draws_of(SHAPE, SEEDS)
    said = ["the end of the prompt: the judge reads 77 tokens"]
    assert order_noise(settings, draw, host(), judging=lambda: cut).report.skipped == said
    assert finished({"extra_cost": 2.0}, Finishing(), cut)[1].skipped == said


@pytest.mark.parametrize("plan", [SelectionPlan(4, 2, 4), SelectionPlan(4, 2, 2), None], ids=["all", "some", "finished"])
def test_an_infinite_score_is_not_good_enough(plan):
    """It says nothing: the looking goes on, and no picture keeps its first draw for it."""
    scored = []

    def first_infinite(pictures):
        scored.append(brightness(pictures))
        return torch.full_like(scored[-1], torch.inf) if len(scored) == 1 else scored[-1]

    judging = Judging(first_infinite, enough=1000.0, digest="0123456789")
    if plan is None:
        _, report = finished({"extra_cost": 3.0}, Finishing(), judging)
    else:
        report = select(plan, draws_of(SHAPE, SEEDS), host(), judging=judging).report
    assert len(scored) == (4 if plan is None else plan.finalists) and not report.skipped
    assert all(score is not None for score in report.kept_scores)


def test_best_of_never_takes_a_score_that_is_not_finite():
    scores = iter([torch.tensor([math.nan, 1.0]), torch.tensor([math.inf, math.nan]), torch.tensor([-5.0, 0.5])])
    report, made = Report(), [torch.full((2, 3), float(k)) for k in (1, 2, 3)]
    kept = best_of(3, lambda k: made[k - 1], Judging(lambda _: next(scores)), report)
    assert report.chosen == [3, 1] and kept[:, 0].tolist() == [3.0, 1.0]
