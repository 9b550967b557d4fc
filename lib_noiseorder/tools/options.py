"""A command's options as an object of their own, as soon as they are parsed."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, TypeVar

from ..knobs import shown

T = TypeVar("T")
N = TypeVar("N", int, float)


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
    return _within(int, low, high, f"an integer from {low} to {high}")


def number(low: float, high: float) -> Callable[[str], float]:
    """The same for a number, whole or not."""
    return _within(float, low, high, f"a number from {low:g} to {high:g}")


def _within(kind: Callable[[str], N], low: N, high: N, meant: str) -> Callable[[str], N]:
    def read(text: str) -> N:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{shown(text)} is not {meant}")
        return value

    return read


SEED = whole_number(0, 2**31 - 1)
"""Reads a seed."""


def checked(check: Callable[[str], T]) -> Callable[[str], T]:
    """What reads an argument by a function that raises ValueError; argparse would not say that error's text."""

    def read(said: str) -> T:
        try:
            return check(said)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return read


def text(said: str) -> str:
    """Reads a text that goes into files and requests."""
    if "\0" in said or not _is_unicode(said):
        raise argparse.ArgumentTypeError(f"{shown(said)} is no text")
    return said


def path(said: str) -> Path:
    """Reads a file or a folder, which need not exist."""
    if not said or "\0" in said:
        raise argparse.ArgumentTypeError(f"{shown(said)} is no file or folder")
    return Path(said)


def file(said: str) -> Path:
    """Reads a file that must exist."""
    if not path(said).is_file():
        raise argparse.ArgumentTypeError(f"{shown(said)} is not an existing file")
    return Path(said)


def check_writable(option: str, path: Path, suffix: str = "", make_folder: bool = True) -> None:
    """Before the work is done. Raises ValueError where no file of this name can be written."""
    try:
        if path.is_dir() or not path.name or (suffix and path.suffix.lower() != suffix):
            raise ValueError(f"{option} = {path} is no file" + (f" that ends in {suffix}" if suffix else ""))
        if make_folder:
            path.parent.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}."):
            pass
    except OSError as error:
        wanted = "" if make_folder else f"; it takes a {suffix} in an existing folder"
        raise ValueError(f"{option} = {path} cannot be written: {error.strerror}{wanted}") from None


def _is_unicode(said: str) -> bool:
    try:
        said.encode()
    except UnicodeEncodeError:
        return False
    return True


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
