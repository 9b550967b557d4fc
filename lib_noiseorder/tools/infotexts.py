"""What a picture's infotext says of how it was made; its settings are read by `NoiseOrderSettings.from_infotext`."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

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
    evaluations = parameter(infotext, EVALUATIONS) or ""
    chosen, skipped, error = (parameter(infotext, name) or "" for name in (CHOSEN, SKIPPED, ERROR))
    return Outcome(int(evaluations) if evaluations.isdecimal() else None, chosen, skipped, error)


def parameter(infotext: str, name: str) -> str | None:
    """A parameter of an infotext's last line, as text; None without it."""
    found = re.search(rf'(?:^|, ){re.escape(name)}: ("(?:[^"\\]|\\.)*"|[^,\n]*)', infotext.rsplit("\n", 1)[-1])
    if found is None:
        return None
    try:
        return str(json.loads(found[1])) if found[1].startswith('"') else found[1].strip()
    except ValueError:
        return found[1]
