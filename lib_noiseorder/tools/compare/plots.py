"""Plots of differences, as SVG inside a page."""

from __future__ import annotations

import html
from collections.abc import Sequence

_WIDTH, _LABELS, _FIGURES, _ROW, _AXIS = 1080, 220, 210, 26, 34


def kind(difference: dict[str, float]) -> str:
    """better, worse or unclear: on which side of 0 the whole interval lies."""
    if difference["low"] > 0:
        return "better"
    return "worse" if difference["high"] < 0 else "unclear"


def differences(score: str, rows: Sequence[tuple[str, dict[str, float]]]) -> str:
    """A row for every difference: its mean as a dot, its interval as a line, and the line of no difference."""
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
        figures = f"{difference['mean']:+.4f} [{difference['low']:+.4f}, {difference['high']:+.4f}]"
        parts += [
            f'<text x="0" y="{y + 4}">{html.escape(_short(name))}</text>',
            f'<line class="{css}" stroke-width="2" x1="{left}" x2="{right}" y1="{y}" y2="{y}"/>',
            f'<circle class="{css}" cx="{x(difference["mean"])}" cy="{y}" r="4"/>',
            f'<text class="faint" x="{_WIDTH - _FIGURES + 12}" y="{y + 4}">{figures}</text>',
        ]
    title = (
        f'<text x="0" y="14" font-weight="600">{html.escape(score)}</text><text class="faint" x="{x(0) - 3}" y="16">0</text>'
    )
    label = html.escape(f"Differences in {score}", quote=True)
    return (
        f'<div class="wide"><svg role="img" aria-label="{label}" width="{_WIDTH}" height="{height}" '
        f'viewBox="0 0 {_WIDTH} {height}">{title}{"".join(parts)}</svg></div>'
    )


def _short(name: str) -> str:
    return name if len(name) <= 32 else f"{name[:31]}…"
