"""`noiseorder bench`: the arithmetic of its ratios, its command, and that its ways do the work they are named after."""

import argparse
import gc
import json

import pytest

from lib_noiseorder.tools.bench import commands, measuring, subjects

SECONDS = {
    "plain": 2.0, "ordered": 2.3, "selection": 2.6, "full pass": 4.0, "evaluations": 0.3,
}  # fmt: skip


def subject(ways, **more):
    return measuring.Subject("a model", 20, ways, lambda times: times["evaluations"] / 3, announced=13, **more)


def test_ratios_and_ideals():
    found = measuring.ratios(subject({}, calls=29), SECONDS)
    assert found["evaluation_share"] == pytest.approx(1.0), "0.1 s of a step's 0.1 s"
    assert found["ordered_over_plain"] == pytest.approx(1.15) == found["ideal"]
    assert found["selection_over_plain"] == pytest.approx(1.3)
    assert found["selection_ideal"] == pytest.approx(29 / 20) and found["selection_announced"] == pytest.approx(1 + 13 / 40)
    assert found["full_pass_over_plain"] == 2.0
    assert "selection_ideal" not in measuring.ratios(subject({}), SECONDS)


class Clock:
    """Time that passes only while a way works; every run takes longer than the one before it."""

    def __init__(self):
        self.now, self.turns, self.order = 0.0, {}, []

    def way(self, name, collecting=None):
        def work():
            self.order.append(name)
            self.turns[name] = self.turns.get(name, 0) + 1
            self.now += SECONDS[name] * (1 + self.turns[name] // (measuring.ROUNDS + 1))
            if collecting is not None:
                collecting.append(gc.isenabled())

        return work


def test_medians_of_paired_runs_cancel_what_slows_both_sides_down():
    clock = Clock()
    collecting = []
    figures = measuring.bench(subject({name: clock.way(name, collecting) for name in SECONDS}), 3, lambda: clock.now)
    assert figures["ordered_over_plain"] == 1.15 and figures["full_pass_over_plain"] == 2.0
    assert figures["spread"]["ordered_over_plain"] == [1.15, 1.15] and figures["seconds"]["plain"] == 4.0
    assert gc.isenabled() and not any(collecting[len(SECONDS) :]), "the collector was on while the clock ran"
    warm = len(SECONDS)
    firsts = [clock.order[warm + run * warm * measuring.ROUNDS] for run in range(3)]
    assert clock.order[:warm] == list(SECONDS) and len(set(firsts)) == 3, "who comes first moves on"


@pytest.mark.parametrize("family", ["eps", "flow"])
def test_the_embedded_model_is_asked_what_the_ideal_reckons_with(family):
    made = subjects.embedded(family, 20)
    assert made.calls * 2 == 40 + made.announced, "the winner's first answers were not used again"
    assert made.questions == 3


def run(*arguments):
    parser = argparse.ArgumentParser()
    commands.add_commands(parser.add_subparsers())
    options = parser.parse_args(["bench", *arguments])
    return options.run(options)


def test_the_command_prints_its_figures_as_json(capsys):
    assert run("--steps", "4", "--runs", "1", "--json") == 0
    figures = json.loads(capsys.readouterr().out)
    assert {"ordered_over_plain", "ideal", "full_pass_over_plain"} <= figures.keys()
    assert figures["steps"] == 4 and figures["runs"] == 1 and figures["ideal"] > 1


def test_the_command_prints_a_table(capsys):
    assert run("--steps", "4", "--runs", "1", "--model", "eps") == 0
    printed = capsys.readouterr().out.split("\n")
    assert printed[0] == "embedded eps model, 4 steps; medians of 1 paired runs"
    assert [line.split(" ")[0] for line in printed[1:5]] == ["plain", "ordered", "selection", "full"]


def test_a_webui_that_is_not_there_is_told():
    with pytest.raises(OSError, match="cannot be reached"):
        run("--webui", "http://127.0.0.1:1")
