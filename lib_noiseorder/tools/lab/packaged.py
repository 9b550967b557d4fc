"""Weights: the packaged ones, and files that a user names."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

SCALE = ".scale"
UP, DOWN = ".up", ".down"
_WORTH_IT = 4096
"""Values from which a matrix is kept in 8 bits."""


def packaged(name: str) -> bytes:
    """The content of a file in the folder `weights`."""
    return files(__package__).joinpath("weights", name).read_bytes()


def folder(name: str) -> Path:
    """A folder in the folder `weights`."""
    return Path(str(files(__package__).joinpath("weights", name)))


def packaged_tensors(name: str) -> dict[str, Tensor]:
    """The tensors of a .safetensors in the folder `weights`. Raises OSError where it is damaged or missing."""
    try:
        return load(packaged(name))
    except SafetensorError as error:
        raise OSError(f"the packaged weights {name} are damaged ({error}); install Noise Order again") from None


def packaged_weights(name: str, base: str | None = None) -> dict[str, Tensor]:
    """A network's weights of the folder `weights` as it takes them, in float32; with a `base`, that file's weights adapted.

    Raises OSError as `packaged_tensors`.
    """
    weights = unpacked(packaged_tensors(name))
    return weights if base is None else adapted(unpacked(packaged_tensors(base)), weights)


def adapter(base: Mapping[str, Tensor], rank: int) -> dict[str, Tensor]:
    """A low-rank difference to weights that changes nothing yet: what `adapted` takes, to be trained (LoRA, arXiv 2106.09685).

    Matrices get two factors, in tensors of their names with UP and DOWN; what is no matrix, or no smaller so, is there whole.
    """
    kept = {}
    for name, tensor in base.items():
        if tensor.ndim == 2 and tensor.numel() > rank * sum(tensor.shape):
            kept[f"{name}{UP}"] = tensor.new_zeros(len(tensor), rank)
            kept[f"{name}{DOWN}"] = torch.randn(rank, tensor.shape[1]).to(tensor) / rank**0.5
        else:
            kept[name] = tensor.clone()
    return kept


def adapted(base: Mapping[str, Tensor], difference: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights with an `adapter`'s difference; gradients go through."""
    return {
        name: tensor + difference[f"{name}{UP}"] @ difference[f"{name}{DOWN}"]
        if f"{name}{UP}" in difference
        else difference[name]
        for name, tensor in base.items()
    }


def unpacked(kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights in float32 of what `in_8_bits` or half precision left; counters stay integers."""
    return {
        name: tensor.float() * kept[f"{name}{SCALE}"] if f"{name}{SCALE}" in kept else _in_float32(tensor)
        for name, tensor in kept.items()
        if not name.endswith(SCALE)
    }


def in_8_bits(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights as small as they can be packaged: matrices [rows, columns] in 8 bits, the rest in fp16.

    Beside every such matrix stands the scale of each of its rows, in a tensor of its name and SCALE.
    """
    kept = {}
    for name, tensor in weights.items():
        if tensor.ndim == 2 and tensor.numel() >= _WORTH_IT:
            scale = (tensor.abs().amax(1, keepdim=True) / 127).clamp(min=1e-12)
            kept[name], kept[f"{name}{SCALE}"] = (tensor / scale).round().to(torch.int8), scale
        else:
            kept[name] = tensor.half() if tensor.is_floating_point() else tensor
    return kept


def _in_float32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


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
