"""Results on the disk: lines that are appended and found again, files that are replaced at once, a file held alone."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np


def append(path: Path, line: dict[str, Any], at_once: bool = True) -> None:
    """Add a JSON line to a file; with `at_once` it is on the disk before this returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        # the leading line break ends a line that an interruption may have cut short
        file.write("\n" + json.dumps(line, ensure_ascii=False))
        file.flush()
        if at_once:
            os.fsync(file.fileno())


def lines(path: Path) -> Iterator[dict[str, Any]]:
    """The whole lines of a file; one cut short by an interruption is passed over."""
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            yield value


class Kept:
    """Finished work by its key, found again in its file; in memory alone without one.

    Args:
        path: where every piece of work is a line; it need not exist.
        names: which parts of a line, all of them texts or integers, are its key.
    """

    def __init__(self, path: Path | None, *names: str):
        self._path, self._names = path, names
        found = lines(path) if path is not None else ()
        self._lines = {self._key(line): line for line in found if all(isinstance(line.get(name), (str, int)) for name in names)}

    def _key(self, line: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(line[name] for name in self._names)

    def get(self, *key: Any) -> dict[str, Any] | None:
        return self._lines.get(key)

    def put(self, line: dict[str, Any]) -> None:
        self._lines[self._key(line)] = line
        if self._path is not None:
            append(self._path, line, at_once=False)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Gives a file to write; in the end it stands in the path's place, at once: an interruption leaves the old one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part{path.suffix}")  # processes share the folder
    try:
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_whole(path: Path, text: str) -> None:
    """Replace a file's text at once."""
    with whole_file(path) as part:
        part.write_text(text, encoding="utf-8")


def claim(path: Path) -> int | None:
    """The handle of a file that this process alone holds until it closes it or ends; None where another one holds it."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    return handle


def packed(features: np.ndarray) -> str:
    """An array as text, in float32."""
    return base64.b64encode(np.ascontiguousarray(features, "<f4").tobytes()).decode()


def unpacked(text: str) -> np.ndarray:
    """The flat array that `packed` was given. Raises ValueError or TypeError where it was given none."""
    return np.frombuffer(base64.b64decode(text), "<f4")
