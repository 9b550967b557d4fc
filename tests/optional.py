"""What some tests need besides the pinned packages, and where they look for it."""

import importlib.util
import os

from .browser.page import chromium
from .hosts.real import HOSTS, folder


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def missing() -> dict[str, str]:
    """What is not here and how to have it, by the name that `@pytest.mark.needs` gives it."""
    named = {
        "ComfyUI": (os.environ.get("NOISEORDER_COMFYUI"), "set NOISEORDER_COMFYUI to its folder"),
        "TRELLIS": (
            _installed("easydict") and (os.environ.get("NOISEORDER_TRELLIS") or _installed("trellis")),
            "pip install easydict, and set NOISEORDER_TRELLIS to its checkout or install trellis-3d-ms",
        ),
        "a browser": (
            _installed("playwright") and chromium(),
            "pip install playwright, and set NOISEORDER_CHROMIUM or put chromium on the path",
        ),
    }
    return {name: how for name, (there, how) in named.items() if not there}


def hosts_not_named() -> list[str]:
    """The WebUIs that no environment variable names."""
    return [name for name in HOSTS if folder(name) is None]
