"""The independent noises of a batch's pictures, drawn without touching the host's generators."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from modules import rng
from torch import Tensor


def extra_draws(host_rng: Any) -> Callable[[int], Tensor]:
    """`draw(k)` for k ≥ 2, from local generators keyed by seed, variation seed and k.

    The key is hashed: the pictures of a batch have neighbouring seeds, and seed + k would make one picture's second
    draw the next one's first. A variation seed is blended in by the host's own slerp, so a weak variation stays weak.

    Args:
        host_rng: the host's ImageRNG of the batch, with `shape`, `seeds`, `subseeds`, `subseed_strength`.

    Returns:
        A function that gives float32 noise [B, *shape] on the host's device; the same for every call with the same k.
    """
    strength = host_rng.subseed_strength
    subseeds: Sequence[int] = host_rng.subseeds or []

    def draw(k: int) -> Tensor:
        noises = []
        for index, seed in enumerate(host_rng.seeds):
            noise = _noise(seed, k, host_rng.shape)
            if strength != 0:
                subseed = subseeds[index] if index < len(subseeds) else 0
                noise = rng.slerp(strength, noise, _noise(subseed, k, host_rng.shape))
            noises.append(noise)
        return torch.stack(noises)

    return draw


def picture_seeds(host_rng: Any) -> list[str]:
    """The pictures' seeds as the setting `chosen` writes them: "5", or "5+77" with a variation seed."""
    if not host_rng.subseed_strength:
        return [str(int(seed)) for seed in host_rng.seeds]
    subseeds = [*(host_rng.subseeds or []), *[0] * len(host_rng.seeds)]
    return [f"{int(seed)}+{int(subseed)}" for seed, subseed in zip(host_rng.seeds, subseeds)]


def _noise(seed: int, k: int, shape: Sequence[int]) -> Tensor:
    digest = hashlib.sha256(f"noise order: draw {k} of seed {int(seed)}".encode()).digest()
    return rng.randn_local(int.from_bytes(digest[:4], "big"), tuple(shape))
