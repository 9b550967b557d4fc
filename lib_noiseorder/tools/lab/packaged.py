"""Weights: the packaged ones, and files that a user names."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor


def packaged(name: str) -> bytes:
    """The content of a file in the folder `weights`."""
    return files(__package__).joinpath("weights", name).read_bytes()


def packaged_tensors(name: str) -> dict[str, Tensor]:
    """The tensors of a .safetensors in the folder `weights`. Raises OSError where it is damaged or missing."""
    try:
        return load(packaged(name))
    except SafetensorError as error:
        raise OSError(f"the packaged weights {name} are damaged ({error}); install Noise Order again") from None


def tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors by name.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no .safetensors.
    """
    try:
        return load(path.read_bytes())
    except SafetensorError as error:
        raise ValueError(f"{path} holds no weights: {error}") from None
