"""Settings as they are written on a command line: KNOB=VALUE."""

from __future__ import annotations

from collections.abc import Sequence

from ..settings import KNOB, SettingsError


def assigned(assignments: Sequence[str], option: str) -> dict[str, object]:
    """KNOB=VALUE texts as values by knob; knobs that nobody knows are left for the settings to refuse.

    Raises:
        SettingsError: no KNOB=VALUE (the option's name is said), or a value out of its range.
    """
    values: dict[str, object] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise SettingsError(f"{option} {assignment!r} is not KNOB=VALUE")
        name = name.strip()
        values[name] = KNOB[name].parsed(text) if name in KNOB else text
    return values
