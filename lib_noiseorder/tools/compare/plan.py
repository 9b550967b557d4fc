"""The plan of a comparison: everything that decides its pictures, as it stands in run.json."""

from __future__ import annotations

import dataclasses
import json
import platform
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from ... import __version__
from ...knobs import shown
from .arms import Arm, check_arms
from .prompts import Pair

_FORMAT = 1
_NO_PLAN = "is not the run.json or results.json of a comparison"
_LIBRARIES = ("torch", "numpy", "pillow", "diffusers", "transformers", "torchmetrics")


@dataclass(frozen=True)
class Sampling:
    """How every picture is sampled, unless its arm says otherwise."""

    steps: int
    cfg: float
    width: int
    height: int
    sampler: str = "Euler"
    scheduler: str = ""
    """The WebUI's schedule type; empty leaves it to the host."""
    negative_prompt: str = ""

    def __post_init__(self) -> None:
        _in_range("--steps", self.steps, 1, 1000)
        _in_range("--cfg", self.cfg, 0, 100)
        for side in (self.width, self.height):
            _in_range("--size", side, 8, 8192)


@dataclass(frozen=True)
class Plan:
    """What is made, and with which model. A run folder belongs to one plan."""

    generator: dict[str, Any]
    """kind "webui" with checkpoint, or kind "diffusers" with model and dtype."""
    sampling: Sampling
    arms: tuple[Arm, ...]
    pairs: tuple[Pair, ...]
    prompts: str
    """Where the prompts came from, for the reader."""
    seed: int

    def to_dict(self) -> dict[str, Any]:
        return {
            "format": _FORMAT,
            "generator": self.generator,
            "sampling": dataclasses.asdict(self.sampling),
            "arms": [arm.to_dict() for arm in self.arms],
            "prompts": self.prompts,
            "seed": self.seed,
            "pairs": [dataclasses.asdict(pair) for pair in self.pairs],
        }

    @classmethod
    def from_dict(cls, said: dict[str, Any], name: str) -> Plan:
        """The plan that a run.json, or the "run" of a results.json, holds.

        Raises:
            ValueError: it holds none; `name` says which file in the message.
        """
        try:
            if said["format"] != _FORMAT:
                raise ValueError(f"it has format {shown(said['format'])}, this version reads {_FORMAT}")
            needed = {"webui": ("checkpoint",), "diffusers": ("model", "dtype")}[said["generator"]["kind"]]
            plan = cls(
                {"kind": said["generator"]["kind"], **{name: str(said["generator"][name]) for name in needed}},
                Sampling(**said["sampling"]),
                tuple(Arm.from_dict(arm) for arm in said["arms"]),
                tuple(Pair(**pair) for pair in said["pairs"]),
                str(said["prompts"]),
                said["seed"],
            )
            check_arms(plan.arms)
            if [pair.number for pair in plan.pairs] != list(range(len(plan.pairs))) or not plan.pairs:
                raise ValueError("its pairs are not numbered 0, 1, 2, …")
            if not all(isinstance(pair.prompt, str) for pair in plan.pairs):
                raise ValueError("a prompt is no text")
            if not all(isinstance(seed, int) for seed in (plan.seed, *(pair.seed for pair in plan.pairs))):
                raise ValueError("a seed is no integer")
            return plan
        except KeyError as error:
            raise ValueError(f"{name} {_NO_PLAN}: {error} is missing or unknown") from None
        except (TypeError, AttributeError):
            raise ValueError(f"{name} {_NO_PLAN}: a part of it has the wrong form") from None
        except ValueError as error:
            raise ValueError(f"{name} {_NO_PLAN}: {error}") from None

    def first_difference(self, other: Plan) -> str | None:
        """The first part in which another plan differs, as "part = this, not other"; None for equal plans."""
        mine, theirs = _flat(self.to_dict()), _flat(other.to_dict())
        for name in [*mine, *theirs]:
            if mine.get(name) != theirs.get(name):
                return f"{name} = {_short(mine.get(name))}, not {_short(theirs.get(name))}"
        return None


def versions() -> dict[str, str]:
    """What the comparison runs with here; the host's own versions stand in its pictures' infotexts."""
    found = {"noiseorder": __version__, "python": platform.python_version(), "platform": platform.platform()}
    for library in _LIBRARIES:
        try:
            found[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            continue
    return found


def read(path: Path) -> tuple[Plan, dict[str, Any]]:
    """The plan in a run.json, a results.json, or a folder with one, and all else that stands beside it.

    Raises:
        ValueError: the file holds no plan.
        OSError: it cannot be read.
    """
    file = path / "run.json" if path.is_dir() else path
    try:
        said = json.loads(file.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not JSON ({error})") from None
    if not isinstance(said, dict):
        raise ValueError(f"{file} {_NO_PLAN}")
    run, pictures = said.get("run", said), said.get("pictures", [])
    plan = Plan.from_dict(run, str(file))
    known = isinstance(pictures, list) and all(
        isinstance(one, dict) and {"pair", "arm", "sha256"} <= one.keys() for one in pictures
    )
    if not known or not isinstance(run.get("model", {}), dict):
        raise ValueError(f"{file} {_NO_PLAN}: its model or its pictures have the wrong form")
    return plan, {**run, "pictures": pictures}


def _in_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ValueError(f"{name} = {value:g} is not a number from {low:g} to {high:g}")


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """Leaves of nested dictionaries and lists by their dotted names."""
    if isinstance(value, dict):
        items = [(f"{name}.{key}" if name else key, part) for key, part in value.items()]
    elif isinstance(value, list):
        items = [(f"{name}[{index}]", part) for index, part in enumerate(value)]
    else:
        return {name: value}
    return {leaf: part for key, value in items for leaf, part in _flat(value, key).items()}


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
