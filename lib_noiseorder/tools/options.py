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


def whole_number(low: int, high: int) -> Callable[[str], int]:
    """What reads an integer argument, for a parser's `type`; the parser says field, value and range of what it refuses."""

    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = low - 1
        if not low <= number <= high:
            raise argparse.ArgumentTypeError(f"{text} is not an integer from {low} to {high}")
        return number

    return read


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
