"""The independent noises of a batch's pictures, for hosts that bring only the first."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

_KEPT = 16
"""How many draws are kept for being asked again; the others are drawn again."""


def further_draws(first: Tensor) -> Callable[[int], Tensor]:
    """`draw(k)` for a host's own noise: draw 1 is that noise, the others come from local generators keyed by it.

    The key of a picture is the hash of its own first noise: wherever that came from (a seed, one generator, one
    generator per picture, latents given), the further ones are the same from call to call and do not depend on
    the rest of the batch. No generator of the host's is advanced, the global one included.

    Args:
        first: the host's noise [B, …], floating point.

    Returns:
        A function that gives noise of `first`'s shape, dtype and device; k = 1 is `first` itself.
    """
    keys = [hashlib.sha256(_bytes(picture)).digest() for picture in first]

    @lru_cache(maxsize=_KEPT)
    def draw(k: int) -> Tensor:
        if k == 1:
            return first
        noise = torch.empty(first.shape, dtype=torch.float32)
        for row, key in enumerate(keys):
            digest = hashlib.sha256(b"noise order: draw %d of " % k + key).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest[:4], "big"))
            noise[row] = torch.randn(noise[row].shape, generator=generator)
        return noise.to(first.device, first.dtype)

    return draw


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
