"""Presets that users save: named settings in one JSON file in the extension's folder."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import threading
from pathlib import Path
from typing import Any

from ...settings import INFOTEXT_PREFIX, KNOBS, PRESETS, NoiseOrderSettings, SettingsError

NOT_SAVED = ("enabled", "compare_with_off", "show_injected", "chosen")
"""What a preset leaves alone: whether there is any noise ordering, and what else is looked at."""
SAVED = tuple(knob.name for knob in KNOBS if knob.name not in NOT_SAVED)

_FILE = Path(__file__).parents[3] / "presets.json"
_LONGEST_NAME = 40
_MOST = 100


class PresetError(ValueError):
    """What was asked for cannot be done. The text says why, for the user."""


class SavedPresets:
    """The presets of one file, read anew for every question: several pages and WebUIs may share it.

    A file that is not what this class writes is set aside under another name, never overwritten.
    """

    def __init__(self, path: Path = _FILE):
        self._path = path
        self._lock = threading.Lock()

    def names(self) -> list[str]:
        """The names of the usable presets, in alphabetical order."""
        with self._lock:
            return sorted((name for name, values in self._read().items() if _usable(values)), key=str.casefold)

    @property
    def notice(self) -> str:
        """What to tell the user about broken files that were set aside; "" without any."""
        aside = sorted(path.name for path in self._path.parent.glob("presets.broken-*.json"))
        if not aside:
            return ""
        return f"{self._path.name} could not be read and is kept as {', '.join(aside)}; repair it or delete it."

    def load(self, name: str) -> NoiseOrderSettings:
        """The settings saved under a name.

        Raises:
            PresetError: there are none, or they cannot be used by this version.
        """
        with self._lock:
            values = self._read().get(name)
        if values is None:
            raise PresetError(f"there is no preset {name!r}")
        try:
            return NoiseOrderSettings.from_dict(values)
        except SettingsError as error:
            raise PresetError(f"preset {name!r} cannot be used: {error}") from None

    def save(self, name: str, settings: NoiseOrderSettings) -> str:
        """Save settings under a name, in place of those that have it; returns the name without surrounding spaces.

        Raises:
            PresetError: the name cannot be used, there are too many presets, or the file cannot be written.
        """
        name = _checked(name)
        with self._lock:
            presets = self._read()
            if name not in presets and len(presets) >= _MOST:
                raise PresetError(f"there are {_MOST} presets already; delete one first")
            values = settings.to_dict()
            presets[name] = {knob: values[knob] for knob in SAVED}
            self._write(presets)
        return name

    def delete(self, name: str) -> None:
        """Forget a preset.

        Raises:
            PresetError: it is built in or not there, or the file cannot be written.
        """
        if name in PRESETS:
            raise PresetError(f"{name!r} is built in and cannot be deleted")
        with self._lock:
            presets = self._read()
            if name not in presets:
                raise PresetError(f"there is no preset {name!r}")
            del presets[name]
            self._write(presets)

    # -- inside ----------------------------------------------------------------------------------------------------

    def _read(self) -> dict[str, Any]:
        try:
            text = self._path.read_bytes()
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise PresetError(f"{self._path.name} cannot be read: {error.strerror}") from None
        with contextlib.suppress(ValueError, RecursionError):
            content = json.loads(text.decode("utf-8"))
            if isinstance(content, dict) and isinstance(content.get("presets"), dict):
                return content["presets"]
        self._set_aside()
        return {}

    def _set_aside(self) -> None:
        numbers = range(1, 1000)
        aside = next(path for n in numbers if not (path := self._path.with_name(f"presets.broken-{n}.json")).exists())
        try:
            os.replace(self._path, aside)
        except OSError as error:
            raise PresetError(f"{self._path.name} is broken and cannot be set aside: {error.strerror}") from None
        print(f"{INFOTEXT_PREFIX}: {self.notice}")

    def _write(self, presets: dict[str, Any]) -> None:
        """All or nothing: a crash half-way leaves the file as it was."""
        text = json.dumps({"presets": presets}, indent=1, ensure_ascii=False)
        temporary = None
        try:
            with tempfile.NamedTemporaryFile(
                "w", encoding="utf-8", dir=self._path.parent, prefix="presets-", suffix=".tmp", delete=False
            ) as file:
                temporary = file.name
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self._path)
        except OSError as error:
            if temporary:
                with contextlib.suppress(OSError):
                    os.unlink(temporary)
            raise PresetError(f"{self._path.name} cannot be written: {error.strerror}") from None


def _checked(name: Any) -> str:
    """A name to save under. It is a key in a file and nothing else; no path is ever made from it."""
    name = name.strip() if isinstance(name, str) else ""
    if not name:
        raise PresetError("a preset needs a name")
    if len(name) > _LONGEST_NAME or not name.isprintable():
        raise PresetError(f"a preset's name is at most {_LONGEST_NAME} printable characters")
    if name.casefold() in (built_in.casefold() for built_in in PRESETS):
        raise PresetError(f"{name!r} is built in; choose another name")
    return name


def _usable(values: Any) -> bool:
    try:
        NoiseOrderSettings.from_dict(values)
    except SettingsError:
        return False
    return True
