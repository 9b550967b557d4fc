"""The lab's figures: paired, reproducible, resumable, and right on cases with known answers."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from lib_noiseorder.plans import SamplerRun, plan_for
from lib_noiseorder.selection import select
from lib_noiseorder.tools.lab import evaluation
from lib_noiseorder.tools.lab.arms import Arm, PromptedModel, seed_draws
from lib_noiseorder.tools.lab.commands import add_commands
from lib_noiseorder.tools.lab.evaluation import evaluate, pairs_of
from lib_noiseorder.tools.lab.model import LabModel
from lib_noiseorder.tools.lab.oracle import Oracle
from lib_noiseorder.tools.lab.world import Prompt
from lib_noiseorder.tools.lab.worlds.shapes import WORLD as SHAPES
from lib_noiseorder.tools.statistics import bootstrap, diversity, diversity_change, frechet


def command(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    add_commands(parser.add_subparsers(required=True))
    options = parser.parse_args(arguments)
    return options.run(options)


def test_bootstrap_covers_the_truth_about_95_times_of_100():
    rng, hits = np.random.default_rng(0), 0
    for _ in range(200):
        shared = np.repeat(rng.normal(0.3, 1, 60), 2)  # the pictures of a prompt fail together
        _, low, high = bootstrap(shared + rng.normal(0, 0.5, 120), np.arange(120) // 2, 400)
        hits += low <= 0.3 <= high
    assert 180 <= hits <= 199


def test_bootstrap_of_a_constant_is_that_constant():
    assert bootstrap(np.full(10, 0.5), np.arange(10)) == (0.5, 0.5, 0.5)
    with pytest.raises(ValueError, match="at least one"):
        bootstrap(np.array([]), np.array([]))


def test_diversity_is_the_mean_distance_within_groups():
    features = np.array([[0.0, 0.0], [3.0, 4.0], [100.0, 0.0], [100.0, 1.0]])
    assert diversity(features, np.array([0, 0, 1, 1])) == pytest.approx(3.0)
    assert diversity(features, np.arange(4)) is None


def test_the_change_of_diversity_is_paired_by_group_and_in_percent():
    rng, groups = np.random.default_rng(2), np.arange(400) // 2
    before = rng.normal(0, 1, (400, 8)) * np.repeat(rng.uniform(0.2, 5, 200), 2)[:, None]
    mean, low, high = diversity_change(0.9 * before, before, groups)
    assert mean == pytest.approx(-10) and low < -10 < high and high - low < 4  # the groups' own spread is not in it
    assert diversity_change(before, before, np.arange(400)) is None


def test_diversity_of_right_pictures_leaves_out_prompts_with_a_wrong_one():
    prompts, _, groups = pairs_of(6, 5)
    features = np.arange(6.0)[:, None] ** 2 * np.ones((6, 4))  # pictures of the three prompts are 1, 5 and 9 apart, times 2
    oracle = Oracle()
    oracle.read = lambda x: (None, torch.randn(len(x), 4))

    def right(*which):
        return evaluation.Outcome(np.isin(np.arange(6), which) * 1.0, np.ones(6), features, 32.0)

    outcomes = {"plain": right(0, 1, 2, 3), "other": right(1, 2, 5)}
    figures = evaluation.figures_of(outcomes, prompts, groups, 1, oracle)
    assert figures["plain"].diversity == pytest.approx(10) and figures["plain"].diversity_right == pytest.approx(6)
    assert figures["other"].diversity_right is None and figures["other"].diversity_change == pytest.approx((0, 0, 0))


def test_frechet_of_gaussians_with_known_moments():
    rng = np.random.default_rng(1)
    a = rng.normal(0, 1, (20_000, 3))
    assert frechet(a, a) == pytest.approx(0, abs=1e-6)
    # shifted by 2 along one axis and twice as wide: 4 + 3·(1 + 4 − 2·2)
    assert frechet(a, rng.normal([2, 0, 0], 2, (20_000, 3))) == pytest.approx(7, abs=0.2)


def test_pairs_depend_on_the_seed_alone():
    prompts, seeds, groups = pairs_of(40, 5)
    again, more_seeds, _ = pairs_of(40, 5)[0], pairs_of(60, 5)[1], None
    assert prompts == again and seeds == more_seeds[:40] and len(set(seeds)) == 40
    assert seeds != pairs_of(40, 6)[1]
    assert sum(prompt.rare for prompt in prompts) == 20
    assert all(prompts[2 * i] == prompts[2 * i + 1] for i in range(20)) and groups.tolist() == [i // 2 for i in range(40)]
    with pytest.raises(ValueError, match="--pairs = 3"):
        pairs_of(3, 5)


def test_draws_are_independent_gaussians_of_the_seed():
    draw = seed_draws([7, 8])
    assert torch.equal(draw(2), seed_draws([7, 8])(2)) and torch.equal(draw(1)[0], seed_draws([7])(1)[0])
    first, second = draw(1).flatten(), draw(2).flatten()
    assert abs(torch.corrcoef(torch.stack([first, second]))[0, 1]) < 0.1


@pytest.mark.parametrize("family", ["eps", "flow"])
def test_finishing_from_remembered_answers_gives_the_plain_picture_and_pays_less(family):
    plan = plan_for(SamplerRun(3.0))
    model, prompts = LabModel(family), [Prompt("red", "circle"), Prompt("blue", "square", count=2)]
    noise = seed_draws([1, 2])(1)
    plain = model.sample(noise, prompts)
    asked = PromptedModel(model, prompts)
    assert torch.equal(select(plan, lambda k: noise, asked).noise, noise)  # equal draws, whichever wins
    model.evaluations = 0
    torch.testing.assert_close(asked.finish(noise), plain, atol=1e-4, rtol=1e-4)
    assert model.evaluations == 40 - 2 * plan.steps == 30
    torch.testing.assert_close(PromptedModel(model, prompts).finish(noise), plain, atol=1e-4, rtol=1e-4)


def _extra(run):
    """What Automatic adds to a run."""
    return plan_for(run).extra_evaluations(run)


@pytest.mark.parametrize("family", ["eps", "flow"])
def test_json_has_the_promised_shape_and_costs(family, capsys):
    run = ["evaluate", "--model", family, "--arms", "plain,automatic,light,equal-cost", "--pairs", "4", "--seed", "3", "--json"]
    assert command(*run) == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out)["arms"]
    assert list(found) == ["plain", "automatic", "light", "equal-cost"] and "100%" in printed.err
    assert set(found["plain"]) == {"all", "evaluations", "diversity"}
    assert set(found["automatic"]) == {"all", "diff", "ci", "evaluations", "diversity", "diversity_change"}
    assert found["plain"]["evaluations"] == 40
    assert found["automatic"]["evaluations"] == 40 + _extra(SamplerRun(3.0)) <= 40 * 1.4
    assert found["light"]["evaluations"] <= 40 * 1.2
    assert found["equal-cost"]["evaluations"] >= found["automatic"]["evaluations"]
    assert found["automatic"]["diff"] == pytest.approx(found["automatic"]["all"] - found["plain"]["all"])
    assert found["automatic"]["ci"][0] <= found["automatic"]["diff"] <= found["automatic"]["ci"][1]


@pytest.mark.parametrize(("more", "plain"), [([], 4), (["--steps", "6"], 6)])
def test_another_number_of_steps_is_every_arms(more, plain, tmp_path, capsys):
    run = ["evaluate", "--model", "few-steps", "--arms", "automatic,equal-cost", "--pairs", "4", "--json", "--quiet", *more]
    kept = ["--resume", str(tmp_path / "kept.jsonl")]
    assert command(*run, *kept) == 0
    found = json.loads(capsys.readouterr().out)["arms"]
    paid = plain + _extra(SamplerRun(1.0, plain))
    assert [arm["evaluations"] for arm in found.values()] == [plain, paid, paid]
    drawn = (tmp_path / "kept.jsonl").read_text().count('"key"')
    assert command(*run, *kept, "--steps", "5") == 0  # another run, kept beside the first
    assert json.loads(capsys.readouterr().out)["arms"]["plain"]["evaluations"] == 5
    assert (tmp_path / "kept.jsonl").read_text().count('"key"') == 2 * drawn


def test_the_table_is_plotted(tmp_path, capsys):
    path = tmp_path / "new" / "gain.svg"
    run = ["table", "--pairs", "4", "--arms", "plain,steps:2,steps:3", "--quiet", "--plot"]
    assert command(*run, str(path)) == 0
    printed = capsys.readouterr().out
    svg = ElementTree.parse(path).getroot()
    texts = [element.text for element in svg.iter("{http://www.w3.org/2000/svg}text")]
    names = [
        f"{world}, {family}: {arm}"
        for world in ("shapes", "pictograms")
        for family in ("eps", "flow")
        for arm in ("steps:2", "steps:3")
    ]
    assert [text for text in texts if text in names] == names and not any("plain" in text for text in texts[2:])
    for interval in texts[3::2]:  # each row's figures are the table's
        assert f"| {interval} |" in printed
    assert len(list(svg.iter("{http://www.w3.org/2000/svg}circle"))) == len(names)
    with pytest.raises(ValueError, match=r"--plot = .*gain\.png is no file that ends in \.svg"):
        command(*run, str(tmp_path / "gain.png"))


def test_a_curve_has_a_panel_for_every_model_and_prints_its_tables(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("lib_noiseorder.tools.lab.commands._COSTS", (0.1, 0.4))
    plot = tmp_path / "curve.svg"
    assert command("curve", "--world", "shapes", "--pairs", "4", "--quiet", "--plot", str(plot)) == 0
    printed = capsys.readouterr().out
    arms = ["plain", "automatic:0.1", "automatic:0.4", "equal-cost:0.1", "equal-cost:0.4", "scale:0.9", "oracle:4"]
    assert [
        line.split(" | ")[0].strip("| ") for line in printed.splitlines() if line.startswith("| ") and "all right" not in line
    ] == 2 * arms
    assert all(f"shapes, {family}" in plot.read_text() for family in ("eps", "flow"))


def test_an_interrupted_run_goes_on_and_gives_the_same(tmp_path):
    world = replace(SHAPES, chunk=4)
    chosen, kept = [Arm.named("scale:0.9")], tmp_path / "cache" / "run.jsonl"
    whole = evaluate("flow", chosen, 8, 2, world=world)

    def stop(arm, done, total):
        if arm == "scale:0.9" and done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate("flow", chosen, 8, 2, kept, stop, world=world)
    kept.write_text(kept.read_text() + '\n{"key": "cut sho')
    drawn = []
    sample = chosen[0].sample
    counted = Arm("scale:0.9", lambda *a: drawn.append(1) or sample(*a), chosen[0].recipe)
    assert evaluate("flow", [counted], 8, 2, kept, world=world) == whole and len(drawn) == 1
    assert evaluate("flow", [counted], 8, 2, kept, world=world) == whole and len(drawn) == 1


@pytest.mark.parametrize(
    "name",
    [
        "nonsense",
        "steps",
        "steps:0",
        "steps:1.5",
        "cfg:-1",
        "scale:nan",
        "automatic:5",
        "erasure:0",
        "oracle:99",
        "plain:1",
        "select:speed=2",
        "select:draws=2",
        "select:draws=2;steps=1;question=response",
    ],
)
def test_unknown_arms_and_numbers_out_of_range_are_refused(name):
    with pytest.raises(ValueError, match="arm"):
        Arm.named(name)


@pytest.mark.parametrize(
    "name",
    [
        "wrong-prompt",
        "paper",
        "automatic:1",
        "cfg:2",
        "erasure:4",
        "random-direction:0.1",
        "oracle:2",
        "select:draws=2;steps=1",
        "select:draws=4;finalists=3;steps=3;noise_scale=0.95",
    ],
)
def test_every_kind_of_arm_draws_finite_pictures(name):
    model = LabModel("flow")
    pictures = Arm.named(name).sample(model, [Prompt("red", "circle"), Prompt("green", "triangle")], seed_draws([1, 2]))
    assert pictures.shape == (2, 3, 24, 24) and torch.isfinite(pictures).all()
    assert model.guidance == 3.0


def test_every_arm_of_the_table_has_its_own_recipe():
    from lib_noiseorder.tools.lab.commands import _TABLE_ARMS

    recipes = [Arm.named(name).recipe for name in _TABLE_ARMS.split(",")]
    assert len(set(recipes)) == len(recipes)
