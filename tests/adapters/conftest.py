"""What the adapters' tests share."""

import pytest

from . import comfyui


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    """A running ComfyUI."""
    running = comfyui.ComfyUI(tmp_path_factory.mktemp("comfyui") / "data")
    yield running
    running.stop()
