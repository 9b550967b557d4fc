"""Other people's libraries and weights, as far as they are on this machine; nothing is downloaded."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

_PACKAGE_OF_MODULE = {"clip": "openai-clip"}
"""Where a module that a library forgets to ask for has another name than its package."""


class Missing(Exception):
    """A library or weights that are not there: why, and the command that would help."""

    def __init__(self, reason: str, command: str = ""):
        super().__init__(reason)
        self.reason, self.command = reason, command


def stay_offline() -> None:
    """Let the libraries look for weights on this machine only, unless the user has said otherwise (HF_HUB_OFFLINE=0)."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")


def library(module: str, package: str) -> Any:
    """An optional library's module; raises Missing with the command that installs it, or what it needs itself."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] == module.split(".")[0]:
            raise Missing(f"{error.name} is not installed", f"pip install {package}") from None
        needed = _PACKAGE_OF_MODULE.get(error.name or "", error.name)
        raise Missing(f"{error.name}, which {package} needs, is not installed", f"pip install {needed}") from None


def from_disk(kind: Any, name: str, **more: Any) -> Any:
    """`kind.from_pretrained` of a folder, or of a hub name whose files are on this machine; raises Missing."""
    offline = os.environ.get("HF_HUB_OFFLINE", "1") != "0"
    try:
        return kind.from_pretrained(name, local_files_only=offline, **more)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
        command = "" if Path(name).exists() else f"hf download {name}"
        raise Missing(f"the weights {name!r} cannot be loaded ({reason})", command) from None
