"""X/Y/Z plot: an axis for every knob."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import HTTPException
from modules import scripts

from ...chosen import check_with_seeds
from ...settings import INFOTEXT_PREFIX, KNOBS, Knob, NoiseOrderSettings, SettingsError
from ..job.judged_pictures import judges_menu

_ON_JOB = "_noise_order_axes"
_MODULES = ("xyz_grid.py", "scripts.xyz_grid")
"""How the hosts name the grid script's module."""


def register_axes() -> None:
    """Add the axes to the host's grid script, once; nothing happens where the host has none.

    To be called whenever scripts are set up: the grid script is made anew by "Reload UI", and with `--nowebui` no
    callback of the page ever comes.
    """
    for data in scripts.scripts_data:
        if data.script_class.__module__ in _MODULES:
            known = {option.label for option in data.module.axis_options}
            axes = [_axis(data.module.AxisOption, knob) for knob in KNOBS]
            data.module.axis_options.extend(axis for axis in axes if axis.label not in known)
            return


def in_cell(p: Any, settings: NoiseOrderSettings) -> NoiseOrderSettings:
    """The settings of a grid's cell: as the panel says, with what the axes turn, and switched on unless an axis says no.

    Raises:
        SettingsError: the axes' values contradict one another.
    """
    turned = getattr(p, _ON_JOB, None)
    return settings.changed(**{"enabled": True, **turned}) if turned else settings


def is_grid(script: Any) -> bool:
    return type(script).__module__ in _MODULES


def forget_cell(p: Any) -> None:
    vars(p).pop(_ON_JOB, None)


class _Reading:
    """Reads an axis's value. What cannot be read stays a text, for `confirm` to refuse: the grid script would fail here."""

    def __init__(self, knob: Knob):
        self._knob = knob
        self._kind = str if knob.choices or knob.kind is bool else knob.kind

    def __call__(self, value: Any) -> Any:
        try:
            return self._knob.parsed(value)
        except SettingsError:
            return value

    def __eq__(self, other: object) -> bool:
        """Equal to the kind of value: for int and float the grid script reads ranges."""
        return other is self._kind


def _axis(make: Callable[..., Any], knob: Knob) -> Any:
    def turn(p: Any, value: Any, values: list[Any]) -> None:
        setattr(p, _ON_JOB, {**getattr(p, _ON_JOB, {}), knob.name: value})

    def check(p: Any, values: list[Any]) -> None:
        try:
            for value in values:
                checked = knob.parsed(value)
                if knob.name == "chosen":
                    check_with_seeds(checked)
        except ValueError as error:
            raise (HTTPException(422, str(error)) if getattr(p, "is_api", False) else error) from None

    return make(
        f"[{INFOTEXT_PREFIX}] {knob.label}",
        _Reading(knob),
        turn,
        confirm=check,
        choices=_choices(knob),
    )


def _choices(knob: Knob) -> Callable[[], list[str]] | None:
    """What the grid script lists for an axis, looked up anew every time; None where a value is typed."""
    if knob.name == "judge":
        return judges_menu
    listed = list(knob.choices) or ["True", "False"] * (knob.kind is bool)
    return (lambda: [*listed]) if listed else None
