"""A progress bar with the time that is left."""

from __future__ import annotations

import sys
import time

_WIDTH = 30
_LINES = 10
"""How many lines a run writes where there is no terminal to redraw on."""


class Bar:
    """Written to stderr: redrawn in place on a terminal, a line every tenth of the way elsewhere."""

    def __init__(self, label: str, quiet: bool = False):
        self._label, self._quiet, self._terminal = label, quiet, sys.stderr.isatty()
        self._began: tuple[float, int] | None = None
        self._tenth, self._open = -1, False

    def __call__(self, done: int, total: int) -> None:
        """`done` of `total`; the first call says what was done before."""
        if self._began is None:
            self._began = time.monotonic(), done
        tenth = _LINES * done // total if total else _LINES
        if self._quiet or (not self._terminal and tenth == self._tenth):
            return
        self._tenth = tenth
        share = done / total if total else 1.0
        filled = round(_WIDTH * share)
        left = f"  {self._left(done, total)} left" if done < total else ""
        text = f"{self._label} [{'#' * filled}{'.' * (_WIDTH - filled)}] {share:4.0%}  {done}/{total}{left}"
        print(f"\r\033[K{text}" if self._terminal else text, end="" if self._terminal else "\n", file=sys.stderr, flush=True)
        self._open = self._terminal

    def say(self, text: str) -> None:
        """A line of its own above the bar."""
        print(f"\r\033[K{text}" if self._open else text, file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._open:
            print(file=sys.stderr)
            self._open = False

    def _left(self, done: int, total: int) -> str:
        started, before = self._began
        if done == before:
            return "unknown time"
        return duration((time.monotonic() - started) / (done - before) * (total - done))


def duration(seconds: float) -> str:
    """Such as 8 s, 3 min 20 s, 2 h 5 min."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"
