"""A command's options as an object of their own, as soon as they are parsed."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


def running(command: Callable[[T], int], kind: type[T]) -> Callable[[argparse.Namespace], int]:
    """What a parser's `run` is set to: the command, called with its options.

    Args:
        command: takes the options and gives the exit status.
        kind: their dataclass; its fields have the names of the parser's arguments, and tuples where the parser has lists.
    """

    def run(said: argparse.Namespace) -> int:
        return command(kind(**{field.name: _frozen(getattr(said, field.name)) for field in dataclasses.fields(kind)}))

    return run


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
