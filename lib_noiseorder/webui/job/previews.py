"""A latent as a picture, by the decoders that the host has for its live previews."""

from __future__ import annotations

import numpy as np
import torch
from modules import sd_samplers_common, shared
from PIL import Image
from torch import Tensor

_FULL, _CHEAP = 0, 2
"""The hosts' numbers for the whole VAE, and for the approximate one that needs no file."""


@torch.no_grad()
def preview(latent: Tensor) -> Image.Image:
    """One latent [C, …] as the first of the hosts' decoders shows it that can; of a video the first frame.

    The approximate decoders are tried first, which need next to no memory, then the whole VAE, which needs a picture's. Where
    none can decode such a latent, three of its channels are red, green and blue.
    """
    if latent.ndim == 4:
        latent = latent[:, 0]
    for approximation in (_live_preview_method(), _CHEAP, _FULL):
        try:
            there = latent.to(shared.device) if approximation == _FULL else latent
            return sd_samplers_common.single_sample_to_image(there, approximation)
        except Exception:  # a decoder that is not there, or not made for this kind of latent
            continue
    channels = latent[[0, min(1, len(latent) - 1), min(2, len(latent) - 1)]]
    shades = (channels - channels.amin()) / (channels.amax() - channels.amin() + 1e-9)
    return Image.fromarray((shades.permute(1, 2, 0) * 255).round().numpy().astype(np.uint8))


def _live_preview_method() -> int:
    """The approximate decoder that the user chose for live previews; not the whole VAE, which would take its time."""
    known = getattr(sd_samplers_common, "approximation_indexes", {})
    return known.get(getattr(shared.opts, "show_progress_type", ""), _FULL) or _CHEAP
