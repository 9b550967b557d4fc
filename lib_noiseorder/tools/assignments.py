"""Settings as they are written on a command line: KNOB=VALUE."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..settings import INFOTEXT_PREFIX, KNOB, NoiseOrderSettings, SettingsError


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
        try:
            values[name] = KNOB[name].parsed(text) if name in KNOB else text
        except SettingsError as error:
            raise _of_option(option, error) from None
    return values


def settings_of(values: Mapping[str, Any], option: str) -> NoiseOrderSettings:
    """The settings with these values. Raises SettingsError, which says the option's name."""
    try:
        return NoiseOrderSettings.from_dict(values)
    except SettingsError as error:
        raise _of_option(option, error) from None


def _of_option(option: str, error: SettingsError) -> SettingsError:
    return SettingsError(f"{option.rstrip(':')}: {str(error).removeprefix(f'{INFOTEXT_PREFIX}: ')}")
