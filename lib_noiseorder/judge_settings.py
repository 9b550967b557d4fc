"""What the settings `judge` and `judge_threshold` may say."""

from __future__ import annotations

from math import isfinite

from .knobs import shown

MODEL = "model"
"""The judge that is always there: the checkpoint itself."""
JUDGES = f"{MODEL}, or the name of a judge"
THRESHOLDS = "a number, or empty"
_LONGEST_NAME = 200


def check_judge(text: str) -> str:
    """The name of a judge as it is kept. Raises ValueError for one that cannot be a name; whether it is there is not asked."""
    name = text.strip() or MODEL
    if len(name) > _LONGEST_NAME or not name.isprintable():
        raise ValueError(f"judge = {shown(text)} is not {JUDGES}")
    return name


def threshold(text: str) -> float | None:
    """The number that the setting `judge_threshold` says; None where it says none."""
    return float(text) if text else None


def check_threshold(text: str) -> str:
    """A threshold as it is kept, as text; empty for none. Raises ValueError for anything but a finite number."""
    try:
        number = float(text) if text.strip() else None
    except ValueError:
        number = float("nan")
    if number is not None and not isfinite(number):
        raise ValueError(f"judge_threshold = {shown(text)} is not {THRESHOLDS}")
    return "" if number is None else f"{number:.10g}"
