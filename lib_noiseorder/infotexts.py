"""The parameters in a picture's infotext: the one reader, for settings and for the measuring tools."""

from __future__ import annotations

import json


def parameters(infotext: str) -> dict[str, str]:
    """The parameters of an infotext by name: its last line, `name: value, name: value`.

    The hosts write a value that has a comma, a colon or a line break in it as a JSON string. A prompt may look like
    parameters, so nothing but the last line counts. What cannot be read stays as it is written.
    """
    found: dict[str, str] = {}
    rest = infotext.strip().rsplit("\n", 1)[-1]
    while rest:
        name, colon, rest = rest.partition(": ")
        if not colon:
            break
        value, rest = _value(rest)
        found[name.rpartition(", ")[2].strip()] = value
    return found


def _value(text: str) -> tuple[str, str]:
    """The value at the beginning of a text, and what comes after the comma behind it."""
    if text.startswith('"'):
        try:
            value, end = json.JSONDecoder().raw_decode(text)
            return value, text[end:].removeprefix(",").lstrip()
        except ValueError:  # cut short
            pass
    value, _, rest = text.partition(",")
    return value.strip(), rest.lstrip()
