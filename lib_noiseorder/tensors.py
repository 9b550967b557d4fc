"""Small tensor helpers shared by the formulas: checks, compute precision, per-sample statistics."""

from __future__ import annotations

import torch
from torch import Tensor


def require_floating(name: str, tensor: Tensor) -> Tensor:
    if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
        kind = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
        raise ValueError(f"{name} must be a floating-point tensor, not {kind}")
    return tensor


def require_same_shape(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    if tensor.shape != other.shape:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}, {other_name} has {tuple(other.shape)}")


def to_compute(tensor: Tensor) -> Tensor:
    """The tensor in the precision the formulas are computed in: fp16 and bf16 in fp32, others as they are."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def sample_rows(tensor: Tensor) -> list[Tensor]:
    """Views of the samples, flattened: one per index of the first axis. A tensor with a single axis is one sample."""
    if tensor.ndim < 2:
        return [tensor.reshape(-1)]
    return list(tensor.reshape(tensor.shape[0], -1))


def correlation(a: Tensor, b: Tensor) -> float:
    """Mean over the samples of the correlation coefficient of two tensors of one shape; 0 where one is constant."""
    found = []
    for row_a, row_b in zip(sample_rows(to_compute(a)), sample_rows(to_compute(b))):
        row_a, row_b = row_a - row_a.mean(), row_b - row_b.mean()
        scale = row_a.norm() * row_b.norm()
        found.append((row_a @ row_b / scale).item() if scale > 0 else 0.0)
    return sum(found) / len(found) if found else 0.0


def mean_and_std(tensor: Tensor) -> tuple[float, float]:
    """Mean and standard deviation over the whole tensor."""
    tensor = to_compute(tensor)
    return tensor.mean().item(), tensor.std().item()
