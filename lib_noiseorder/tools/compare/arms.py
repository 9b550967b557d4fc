"""The arms of a comparison: what is made of the same prompts and seeds in different ways."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...knobs import shown
from ...settings import CUSTOM, PRESETS, NoiseOrderSettings
from ..assignments import assigned, settings_of

PLAIN = "plain"
EQUAL_COST = "equal-cost"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,60}")

_SAMPLER_KEYS = {"steps": int, "cfg": float}
"""What an arm may change of the sampler, besides the noise."""
_ADDS_PICTURES = ("compare_with_off", "show_injected")


@dataclass(frozen=True)
class Arm:
    """One way of making the pictures."""

    name: str
    settings: NoiseOrderSettings | None = None
    """How the noise is ordered; None leaves it plain."""
    steps: int | None = None
    """Instead of the run's own number."""
    cfg: float | None = None
    costs_as: str | None = None
    """The arm whose evaluations this plain one spends on more steps instead."""

    @property
    def ordered(self) -> bool:
        return self.settings is not None

    def to_dict(self) -> dict[str, Any]:
        """As it stands in run.json."""
        said = {"name": self.name, "steps": self.steps, "cfg": self.cfg, "costs_as": self.costs_as}
        settings = self.settings.to_dict() if self.settings else None
        return {name: value for name, value in said.items() if value is not None} | ({"settings": settings} if settings else {})

    @classmethod
    def from_dict(cls, said: dict[str, Any]) -> Arm:
        settings = settings_of(said["settings"], f"arm {said['name']}") if said.get("settings") else None
        return cls(said["name"], settings, said.get("steps"), said.get("cfg"), said.get("costs_as"))


def parse(texts: Sequence[str]) -> list[Arm]:
    """Arms from a command line; plain is always the first.

    A text is `plain`; the name of a preset in small letters (`automatic`); `NAME:knob=value,knob=value` with the knobs of
    the API, or steps and cfg; or `equal-cost:NAME`: plain, with as many more steps as the arm NAME costs.

    Raises:
        ValueError: an arm that cannot be made, or one that stands there twice.
    """
    arms = [Arm(PLAIN)]
    for text in texts:
        if text.strip() == PLAIN:
            continue
        arm = _parsed(text.strip())
        if arm.name in (known.name for known in arms):
            raise ValueError(f"--arm {shown(text)}: there are two arms named {arm.name!r}")
        if arm.costs_as is not None and arm.costs_as not in (known.name for known in arms if known.ordered):
            raise ValueError(f"--arm {shown(text)}: no ordered arm {arm.costs_as!r} stands before it")
        arms.append(arm)
    return arms


def check_arms(arms: Sequence[Arm]) -> None:
    """Of arms that were read from a file. Raises ValueError, or TypeError where a name is no text."""
    if not arms or arms[0] != Arm(PLAIN):
        raise ValueError("its first arm is not plain")
    names = [arm.name for arm in arms]
    if len(set(names)) < len(names) or not all(_NAME.fullmatch(name) for name in names):
        raise ValueError("its arms have names that cannot be used")
    ordered = [arm.name for arm in arms if arm.ordered]
    if not all(arm.costs_as is None or arm.costs_as in ordered for arm in arms):
        raise ValueError("an arm takes its cost from an ordered arm that is not there")


def _parsed(text: str) -> Arm:
    name, colon, said = text.partition(":")
    if not _NAME.fullmatch(name):
        raise ValueError(f"--arm {shown(text)}: {name!r} is no name; letters, digits, '-', '_' and '.' make one")
    if name == EQUAL_COST:
        if not said:
            raise ValueError(f"--arm {shown(text)}: say equal-cost:NAME, with the name of the arm whose cost it takes")
        return Arm(f"{EQUAL_COST}-{said}", costs_as=said)
    if not colon:
        preset = {known.lower(): known for known in PRESETS if known != CUSTOM}.get(name)
        if preset is None:
            presets = ", ".join(known.lower() for known in PRESETS if known != CUSTOM)
            raise ValueError(f"--arm {shown(text)} is not plain, {presets}, equal-cost:NAME or NAME:knob=value,…")
        return Arm(name, _ordering({"preset": preset}, text))
    parts = [part for part in said.split(",") if part.strip()]
    sampler = [part for part in parts if part.partition("=")[0].strip() in _SAMPLER_KEYS]
    knobs = assigned([part for part in parts if part not in sampler], f"--arm {name}:")
    if not parts:
        raise ValueError(f"--arm {shown(text)} says nothing after the colon")
    return Arm(name, _ordering(knobs, text) if knobs else None, **dict(_sampler_setting(part, text) for part in sampler))


def _ordering(knobs: dict[str, Any], text: str) -> NoiseOrderSettings:
    for knob in _ADDS_PICTURES:
        if knobs.get(knob):
            raise ValueError(f"--arm {shown(text)}: {knob} adds pictures of its own; the comparison has its plain arm")
    if knobs.get("enabled") is False:
        raise ValueError(f"--arm {shown(text)}: enabled = false is the arm plain")
    return settings_of({**knobs, "enabled": True}, f"--arm {shown(text)}")


def _sampler_setting(part: str, text: str) -> tuple[str, int | float]:
    name, _, value = (piece.strip() for piece in part.partition("="))
    try:
        number = _SAMPLER_KEYS[name](value)
    except ValueError:
        number = 0
    if not 0 < number <= 1000:
        raise ValueError(f"--arm {shown(text)}: {name} = {value!r} is not a number above 0, up to 1000")
    return name, number
