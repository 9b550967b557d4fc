"""What the demo counts, shows and says, in both directions."""

import pytest
import torch

from lib_noiseorder.tools.lab.demo import Comparison, Drawn, prompts_of, telling, told
from lib_noiseorder.tools.lab.demo_sheet import draw_sheet
from lib_noiseorder.tools.lab.oracle import Verdict
from lib_noiseorder.tools.lab.oracle import verdict as judge
from lib_noiseorder.tools.lab.world import Prompt, Thing


def compared(plain: list[bool], ordered: list[bool], points=(0.0, -1.0, 1.0)) -> Comparison:
    def drawn(name: str, right: list[bool]) -> Drawn:
        return Drawn(name, torch.rand(len(right), 3, 24, 24), [Verdict(each, each, each) for each in right], 32)

    prompts = [Prompt("red", "circle")] * len(plain)
    return Comparison(prompts, drawn("plain noise", plain), drawn("Automatic", ordered), points, [])


def test_the_pairs_shown_keep_the_proportion_of_better_and_worse():
    plain, ordered = [True, False, False] * 20, [True, True, True] * 10 + [False, False, True] * 10
    shown = telling(plain, ordered)  # 30 times better, 10 times worse
    kinds = [(plain[number], ordered[number]) for number in shown]
    assert kinds == [(False, True)] * 6 + [(True, False)] * 2
    assert shown == [1, 2, 4, 5, 7, 8, 30, 33]


def test_the_rarer_direction_is_shown_at_least_once():
    better = telling([False] * 50 + [True], [True] * 50 + [False])
    worse = telling([True] * 50 + [False], [False] * 50 + [True])
    assert better == [*range(7), 50] and worse == [50, *range(7)]


def test_pairs_alike_fill_the_sheet():
    assert telling([False, True, False, True], [False, True, True, False]) == [2, 3, 1, 0]
    assert telling([True] * 20, [True] * 20) == list(range(8))


@pytest.mark.parametrize(
    "points, says",
    [((9.0, 1.0, 17.0), "better here by more than luck"), ((-9.0, -17.0, -1.0), "worse here by more than luck"),
     ((4.0, -1.0, 9.0), "this could be luck"), ((4.0, 0.0, 8.0), "this could be luck")],
)  # fmt: skip
def test_the_interval_is_said_in_words_whichever_way_it_goes(points, says):
    comparison = compared([True, False] * 4, [True, True] * 4, points)
    assert says in comparison.meaning
    assert comparison.counts == "plain noise 4 of 8, Automatic 8 of 8"
    printed = "\n".join(told(comparison, "eps", 1))
    assert f"{points[0]:+.1f} points, 95 % interval [{points[1]:+.1f}, {points[2]:+.1f}]" in printed and says in printed


def test_the_sheet_has_a_column_for_every_pair_shown():
    few, many = (draw_sheet(compared([True] * n, [False] * n), "title").width for n in (3, 30))
    assert many - few >= 5 * 192


def test_the_prompts_are_relations_common_and_rare_by_turns_and_their_seed_decides_them():
    prompts = prompts_of(9, 3)
    assert [prompt.rare for prompt in prompts] == [False, True] * 4 + [True]
    assert all(prompt.relation for prompt in prompts)
    assert prompts == prompts_of(9, 3) != prompts_of(9, 4)


@pytest.mark.parametrize(
    "text, things, says",
    [
        ("red circle left of blue square", ["red circle 4", "blue square 18"], "right"),
        ("red circle left of blue square", ["red circle 18", "blue square 4"], "wrong: not left of"),
        ("red circle left of blue square", ["red circle 4", "red square 18"], "wrong: no blue square"),
        ("red circle left of blue square", [], "wrong: no red circle, no blue square"),
        ("red circle left of blue square", ["red circle 4", "blue square 18", "blue square 11"], "wrong: something extra"),
        ("two red circles", ["red circle 4"], "wrong: their number"),
        ("two red circles", ["red circle 4", "blue circle 18"], "wrong: something else, too"),
        ("red circle", ["red circle 4", "red circle 18"], "wrong: something extra"),
    ],
)
def test_captions_say_what_is_wrong(text, things, says):
    def thing(said: str) -> Thing:
        colour, shape, x = said.split()
        return Thing(colour, shape, int(x), 12)

    prompt = Prompt.parse(text)
    assert judge([thing(said) for said in things], prompt).in_words(prompt) == says
