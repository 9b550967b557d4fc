"""Plots of differences, as SVG: a row for each, inside a page that has the colours or alone, or curves over what they cost."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_WIDTH, _LABELS, _FIGURES, _ROW, _AXIS = 1080, 220, 210, 26, 34
_ALONE = """<style>
text { fill: #1d1d1b; font: 12px system-ui, sans-serif } .faint { fill: #6a6a63 }
.zero { stroke: #6a6a63 } .better { stroke: #17734a; fill: #17734a } .worse { stroke: #b0392b; fill: #b0392b }
.unclear { stroke: #77776e; fill: #77776e }
</style><rect width="100%" height="100%" fill="#fcfcfa"/>"""
"""The light colours of the report's page, and its ground."""


def kind(difference: dict[str, float]) -> str:
    """better, worse or unclear: on which side of 0 the whole interval lies."""
    if difference["low"] > 0:
        return "better"
    return "worse" if difference["high"] < 0 else "unclear"


def forest(
    title: str, rows: Sequence[tuple[str, dict[str, float]]], decimals: int = 4, alone: bool = False, label: str = ""
) -> str:
    """A row for every difference: its mean as a dot, its interval as a line, and the line of no difference.

    Args:
        rows: names, each with the mean, the low and the high end of its difference.
        decimals: of the figures.
        alone: with its own colours, as a file needs them.
        label: for those who cannot see it; the title without one.
    """
    ends = [0.0, *(end for _, difference in rows for end in (difference["low"], difference["high"]))]
    low, high = min(ends), max(ends)
    margin = 0.06 * (high - low) or 1.0
    low, high = low - margin, high + margin

    def x(value: float) -> float:
        return round(_LABELS + (value - low) / (high - low) * (_WIDTH - _LABELS - _FIGURES), 1)

    height = _AXIS + _ROW * len(rows)
    parts = [f'<line class="zero" x1="{x(0)}" x2="{x(0)}" y1="22" y2="{height - 4}"/>']
    for number, (name, difference) in enumerate(rows):
        y, css = _AXIS + _ROW * number + _ROW // 2 - 4, kind(difference)
        left, right = x(difference["low"]), x(difference["high"])
        mean, *interval = (f"{difference[end]:+.{decimals}f}" for end in ("mean", "low", "high"))
        parts += [
            f'<text x="0" y="{y + 4}">{html.escape(_short(name))}</text>',
            f'<line class="{css}" stroke-width="2" x1="{left}" x2="{right}" y1="{y}" y2="{y}"/>',
            f'<circle class="{css}" cx="{x(difference["mean"])}" cy="{y}" r="4"/>',
            f'<text class="faint" x="{_WIDTH - _FIGURES + 12}" y="{y + 4}">{mean} [{", ".join(interval)}]</text>',
        ]
    head = f'<text x="0" y="14" font-weight="600">{html.escape(title)}</text><text class="faint" x="{x(0) - 3}" y="16">0</text>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{html.escape(label or title, quote=True)}" '
        f'width="{_WIDTH}" height="{height}" viewBox="0 0 {_WIDTH} {height}">'
        f"{_ALONE if alone else ''}{head}{''.join(parts)}</svg>"
    )


def _short(name: str) -> str:
    return name if len(name) <= 32 else f"{name[:31]}…"


@dataclass(frozen=True)
class Panel:
    """One set of axes of `curves`."""

    title: str
    lines: Mapping[str, Sequence[tuple[float, tuple[float, float, float]]]]
    """By name: points of a cost and a difference's mean, low and high end, cheapest first. Every panel has the same names."""
    levels: Mapping[str, float]
    """Differences by name that have no cost of this kind: dashed lines."""


_SIDE, _GAP, _BORDER = 440, 40, 46
_COLOURS = ("#17734a", "#77776e", "#b0392b", "#2b59b0")


def curves(title: str, panels: Sequence[Panel], label: str) -> str:
    """Differences over what they cost, which is drawn on a logarithmic scale: two panels in a row, all with the same scale.

    Args:
        title: what is drawn.
        panels: at least one, with at least one line.
        label: for those who cannot see it.
    """
    points = [point for panel in panels for line in panel.lines.values() for point in line]
    ends = [0.0, *(end for _, ends in points for end in ends), *(level for panel in panels for level in panel.levels.values())]
    low, high = min(ends), max(ends)
    costs = sorted({cost for cost, _ in points})
    left, right = math.log(costs[0]), math.log(costs[-1])
    height, apart = 200, 5 if high - low < 50 else 20

    def x(cost: float) -> float:
        return round(_BORDER + (math.log(cost) - left) / ((right - left) or 1) * (_SIDE - _BORDER - 30), 1)

    def y(value: float) -> float:
        return round(30 + (high - value) / ((high - low) or 1) * (height - 30), 1)

    names = [*panels[0].lines, *panels[0].levels]
    colour = dict(zip(names, _COLOURS))
    legend = "".join(
        f'<text x="{number * 240}" y="36" style="fill: {colour[name]}">{html.escape(name)}</text>'
        for number, name in enumerate(names)
    )
    drawn = []
    for number, panel in enumerate(panels):
        parts = [f'<text x="{_BORDER}" y="18" font-weight="600">{html.escape(panel.title)}</text>']
        parts += [
            f'<text class="faint" x="{_BORDER - 8}" y="{y(tick) + 4}" text-anchor="end">{tick:+g}</text>'
            f'<line stroke="#dcdcd4" x1="{_BORDER}" x2="{_SIDE - 30}" y1="{y(tick)}" y2="{y(tick)}"/>'
            for tick in range(math.ceil(low / apart) * apart, math.floor(high) + 1, apart)
        ]
        parts += [
            f'<text class="faint" x="{x(cost)}" y="{height + 18}" text-anchor="middle">+{100 * cost:.0f} %</text>'
            for cost in costs
        ]
        for name, level in panel.levels.items():
            across = f'x1="{_BORDER}" x2="{_SIDE - 30}" y1="{y(level)}" y2="{y(level)}"'
            parts.append(f'<line stroke="{colour[name]}" stroke-dasharray="5 4" {across}/>')
        for name, line in panel.lines.items():
            path = " ".join(f"{x(cost)},{y(mean)}" for cost, (mean, _, _) in line)
            parts.append(f'<polyline fill="none" stroke-width="2" stroke="{colour[name]}" points="{path}"/>')
            parts += [
                f'<line stroke="{colour[name]}" x1="{x(cost)}" x2="{x(cost)}" y1="{y(bottom)}" y2="{y(top)}"/>'
                f'<circle fill="{colour[name]}" cx="{x(cost)}" cy="{y(mean)}" r="3.5"/>'
                for cost, (mean, bottom, top) in line
            ]
        place = f"{number % 2 * (_SIDE + _GAP)} {44 + number // 2 * (height + _GAP)}"
        drawn.append(f'<g transform="translate({place})">{"".join(parts)}</g>')
    whole = 44 + (len(panels) + 1) // 2 * (height + _GAP)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{html.escape(label, quote=True)}" '
        f'width="{2 * _SIDE + _GAP}" height="{whole}" viewBox="0 0 {2 * _SIDE + _GAP} {whole}">{_ALONE}'
        f'<text x="0" y="16" font-weight="600">{html.escape(title)}</text>{legend}{"".join(drawn)}</svg>'
    )
