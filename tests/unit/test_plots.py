"""Forest plots and curves: well-formed, with every difference where it belongs."""

from xml.etree import ElementTree

import pytest

from lib_noiseorder.tools.plots import Panel, curves, forest, kind

SVG = "{http://www.w3.org/2000/svg}"
ROWS = [
    ("a <b> & c", {"mean": 2.0, "low": 1.0, "high": 3.0}),
    ("worse", {"mean": -2.0, "low": -3.0, "high": -1.0}),
    ("unclear", {"mean": 0.0, "low": -1.0, "high": 1.0}),
]


@pytest.mark.parametrize("alone", [True, False])
def test_dots_and_lines_lie_in_the_order_of_their_figures(alone):
    drawn = ElementTree.fromstring(forest("Score & more", ROWS, decimals=1, alone=alone))
    zero, *lines = drawn.iter(f"{SVG}line")
    dots = list(drawn.iter(f"{SVG}circle"))
    assert [dot.get("class") for dot in dots] == ["better", "worse", "unclear"] == [kind(row) for _, row in ROWS]
    left, right = ([float(line.get(end)) for line in lines] for end in ("x1", "x2"))
    at, none = [float(dot.get("cx")) for dot in dots], float(zero.get("x1"))
    assert all(low < mean < high for low, mean, high in zip(left, at, right))
    assert right[1] < none < left[0] and at[2] == pytest.approx(none)
    texts = [text.text for text in drawn.iter(f"{SVG}text")]
    assert texts[:3] == ["Score & more", "0", "a <b> & c"] and texts[3] == "+2.0 [+1.0, +3.0]"
    assert (drawn.find(f"{SVG}style") is not None) == alone


def test_no_rows_and_no_spread_are_drawn_all_the_same():
    for rows in ([], [("same", {"mean": 0.0, "low": 0.0, "high": 0.0})]):
        ElementTree.fromstring(forest("Score", rows))


def test_curves_rise_to_the_right_and_all_panels_share_a_scale():
    lines = {
        "ours": [(0.1, (1.0, 0.0, 2.0)), (1.0, (4.0, 2.0, 6.0))],
        "theirs & more": [(0.1, (0.0, -1.0, 1.0)), (1.0, (1.0, 0.0, 2.0))],
    }
    panels = [
        Panel("one <world>", lines, {"best": 9.0}),
        Panel("two", lines, {"best": 9.0}),
        Panel("three", lines, {"best": 3.0}),
    ]
    drawn = ElementTree.fromstring(curves("Gain", panels, "Gain & cost"))
    groups = list(drawn.iter(f"{SVG}g"))
    assert len({group.get("transform") for group in groups}) == 3 and drawn.get("aria-label") == "Gain & cost"
    dots = [[(float(dot.get("cx")), float(dot.get("cy"))) for dot in group.iter(f"{SVG}circle")] for group in groups]
    assert dots[0] == dots[1] == dots[2] and len(dots[0]) == 4
    (cheap, low), (dear, high), *_ = dots[0]
    assert cheap < dear <= float(drawn.get("width")) and high < low, "more is higher up"
    dashed = [next(line for line in group.iter(f"{SVG}line") if line.get("stroke-dasharray")) for group in groups]
    assert float(dashed[0].get("y1")) == float(dashed[1].get("y1")) < high < float(dashed[2].get("y1")) < low
    ElementTree.fromstring(curves("Gain", [Panel("flat", {"none": [(0.4, (0.0, 0.0, 0.0))]}, {})], ""))
