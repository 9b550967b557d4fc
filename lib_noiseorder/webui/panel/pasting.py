"""What a pasted infotext sets the panel's controls to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from ...settings import INFOTEXT_KEYS, INFOTEXT_PREFIX, NoiseOrderSettings, SettingsError


def pasted_values(infotext: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The controls' values, and what of the infotext cannot be used; the rest of it counts.

    Without a word of ours in it: off and nothing chosen, the others as they are.
    """
    others = {key: value for key, value in infotext.items() if key not in INFOTEXT_KEYS}
    ours, trouble = {}, []
    for key in INFOTEXT_KEYS & infotext.keys():
        try:
            NoiseOrderSettings.from_infotext({**others, key: infotext[key]})
            ours[key] = infotext[key]
        except SettingsError as error:
            trouble.append(f"{error}; the rest of the infotext is pasted")
    try:
        settings = NoiseOrderSettings.from_infotext({**others, **ours})
    except SettingsError as error:
        trouble.append(f"{error}; the infotext's settings are not pasted")
        settings = NoiseOrderSettings()
    return settings.to_form() if settings.enabled else {"enabled": False, "chosen": ""}, sorted(trouble)


@cache
def pasted(name: str) -> Callable[[dict[str, Any]], Any]:
    """A control's value in a pasted infotext, None for one that stays; the same function for the panels of all tabs."""

    def value(infotext: dict[str, Any]) -> Any:
        values, trouble = pasted_values(infotext)
        if name == "enabled":
            for one in trouble:
                print(one if one.startswith(INFOTEXT_PREFIX) else f"{INFOTEXT_PREFIX}: {one}")
        return values.get(name)

    return value
