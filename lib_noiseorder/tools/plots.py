"""Forest plots of differences, as SVG: inside a page that has the colours, or as a file of its own."""

from __future__ import annotations

import html
from collections.abc import Sequence

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
