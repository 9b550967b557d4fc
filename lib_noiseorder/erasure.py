"""Semantic erasure: noise latent normalization (NLN), formula 1 of arXiv 2511.07756."""

from __future__ import annotations

from collections.abc import Iterable
from math import sqrt

from torch import Tensor

from .tensors import require_floating, require_same_shape, to_compute


def erase(draws: Iterable[Tensor]) -> Tensor:
    """Sum n independent noises and re-standardise: z_T = (1/√n) Σ z_i.

    The sum of independent N(0, I) draws over √n is again N(0, I): on average the result is another picture,
    not a better one; what it erases is the semantics that one particular draw carries.

    Args:
        draws: n ≥ 1 noises of one shape, any rank; a sequence or an iterator (then never more than two are held).

    Returns:
        A new tensor of the draws' shape, dtype and device; fp16 and bf16 are summed in fp32.
        One draw comes back bit for bit.

    Raises:
        ValueError: no draws, a draw that is no floating-point tensor, or unequal shapes.
    """
    draws = iter(draws)
    first = next(draws, None)
    if first is None:
        raise ValueError("erase needs at least one draw")
    total, count = to_compute(require_floating("draw 1", first)), 1
    for draw in draws:
        count += 1
        require_floating(f"draw {count}", draw)
        require_same_shape(f"draw {count}", draw, "draw 1", first)
        total = total + to_compute(draw)
    return first.clone() if count == 1 else (total / sqrt(count)).to(first.dtype)
