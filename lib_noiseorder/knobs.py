"""What is known about one field of the settings, and the check that every value of it goes through."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

INFOTEXT_PREFIX = "Noise Order"
FORMULAS, MORE, JUDGE = "formulas", "more", "judge"


class SettingsError(ValueError):
    """A setting that cannot be used. The text names the field, the value and the range."""


@dataclass(frozen=True)
class Knob:
    """What is known about one field of the settings."""

    name: str
    kind: type
    label: str
    help: str
    default: Any
    minimum: float | None = None
    maximum: float | None = None
    step: float | None = None
    choices: tuple[str, ...] = ()
    group: str = ""
    """FORMULAS: only Custom and Paper use it. JUDGE: about who judges. MORE: for some. Otherwise everybody sees it."""
    formerly: tuple[str, ...] = ()
    """Choices of earlier versions, which are still understood."""
    makes_the_picture: bool = True
    """Whether a picture cannot be made again without it."""
    key: str = ""
    check: Callable[[str], str] | None = None
    """Of a text: brings it into its kept form, or raises a ValueError that names field, value and range."""
    form: str = ""
    """Of a text: what it must look like."""

    @property
    def infotext_key(self) -> str:
        return self.key or f"{INFOTEXT_PREFIX} {self.label.lower()}"

    @property
    def range(self) -> str:
        if self.kind is bool:
            return "true or false"
        if self.choices:
            return "one of " + ", ".join(self.choices)
        if self.check:
            return self.form
        return f"{'an integer' if self.kind is int else 'a number'} from {self.minimum:g} to {self.maximum:g}"

    def checked(self, value: Any) -> Any:
        """The value in the knob's type. Raises SettingsError for anything but a value of the range."""
        value = _of_python(value)
        if self.kind is bool:
            valid = isinstance(value, bool)
        elif self.choices:
            valid = isinstance(value, str) and value in (*self.choices, *self.formerly)
        elif self.check:
            return self._checked_text(value, self.check)
        else:
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            assert self.minimum is not None and self.maximum is not None
            valid = number and self.minimum <= value <= self.maximum and (self.kind is float or value == int(value))
        if not valid:
            raise SettingsError(f"{INFOTEXT_PREFIX}: {self.name} = {shown(value)} is not {self.range}")
        return self.kind(value)

    def _checked_text(self, value: Any, check: Callable[[str], str]) -> str:
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e9  # as programs send it
        if not (isinstance(value, str) or number):
            raise SettingsError(f"{INFOTEXT_PREFIX}: {self.name} = {shown(value)} is not {self.range}")
        try:
            return check(str(value))
        except ValueError as error:
            told = str(error) if isinstance(value, str) else f"{self.name} = {shown(value)} is not {self.range}"
            raise SettingsError(f"{INFOTEXT_PREFIX}: {told}") from None

    def parsed(self, text: str) -> Any:
        """The value an infotext's text stands for, checked."""
        text = str(text).strip()
        if self.kind is bool:
            return self.checked({"true": True, "false": False}.get(text.lower(), text))
        if self.choices or self.check:
            return self.checked(text)
        try:
            value = self.kind(text)
        except (ValueError, OverflowError):
            value = text
        return self.checked(value)


def setting(default: Any, label: str, help: str, **limits: Any) -> Any:
    return dataclasses.field(default=default, metadata={"label": label, "help": help, **limits})


def _of_python(value: Any) -> Any:
    """NumPy's numbers as Python's own; everything else as it is."""
    if isinstance(value, (int, float)):
        return value
    return int(value) if isinstance(value, Integral) else float(value) if isinstance(value, Real) else value


def shown(value: Any) -> str:
    """A value for a message: at most 80 characters, and never an error of its own."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # thousands of digits or levels
        text = f"a {type(value).__name__} too large to show"
    return text if len(text) <= 80 else text[:77] + "..."
