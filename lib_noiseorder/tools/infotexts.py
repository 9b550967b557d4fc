"""What a picture's infotext says of how it was made; its settings are read by `NoiseOrderSettings.from_infotext`."""

from __future__ import annotations

from dataclasses import dataclass

from ..infotexts import parameters
from ..settings import CHOSEN, ERROR, EVALUATIONS, SKIPPED


@dataclass(frozen=True)
class Outcome:
    """What became of the ordering of a picture's noise; empty where nothing is said."""

    evaluations: int | None
    """Model evaluations that it added; None where the noise was not ordered."""
    chosen: str
    """Which draw."""
    skipped: str
    """What was left out, and why."""
    error: str
    """Why nothing was ordered."""


def outcome(infotext: str) -> Outcome:
    """The results that an ordering writes into an infotext, beside its settings."""
    said = parameters(infotext)
    evaluations = said.get(EVALUATIONS, "")
    results = (said.get(name, "") for name in (CHOSEN, SKIPPED, ERROR))
    return Outcome(int(evaluations) if evaluations.isdecimal() else None, *results)
