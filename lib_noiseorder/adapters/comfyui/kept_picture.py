"""A mask's kept picture: what the host's sampler shows the model and gives back where nothing is to change."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...model import NoiseLevel

_NEAR = 0.01
"""How far a latent's noise may be from a known one and count as it; at its noisiest the host adds a little more."""


class KeptPicture:
    """The mask of one sampler run, with the picture under it.

    Attributes:
        noises: those that the sampler may start from, in the order in which they came up.
    """

    def __init__(
        self, sampler: Any, guider: Any, sigmas: Tensor, options: dict[str, Any], latent: Tensor, mask: Tensor, seed: int | None
    ):
        """
        Args:
            latent: the picture [B, …], as the sampler has it.
            mask: 1 where something is to change, 0 where the picture is kept; of the latent's shape.
            seed: the sampler's, which some of the host's samplers draw the kept part's noise from.
        """
        self.noises: list[Tensor] = []
        self._guider, self._sigmas, self._latent, self._mask = guider, sigmas, latent, mask
        self._changing = options.get("denoise_mask_function")
        self._own: Tensor | None = None
        if getattr(sampler, "inpaint_options", {}).get("random", False):
            generator = torch.Generator().manual_seed((41 if seed is None else seed) + 1)
            self._own = torch.randn(latent.shape, generator=generator).to(latent.device, latent.dtype)

    def shown(self, x: Tensor, level: NoiseLevel) -> Tensor:
        """What the model is shown for a noisy latent [B, …]: in the kept part the picture under its noise."""
        sigma = x.new_full((len(x),), level.sigma)
        mask = self._at(sigma)
        kept = self._guider.inner_model.scale_latent_inpaint(
            x=x, sigma=sigma, noise=self._noise_in(x, level), latent_image=self._latent
        )
        return x * mask + kept * (1.0 - mask)

    def completed(self, x0: Tensor, sigma: float) -> Tensor:
        """The model's x0 with the picture itself in the kept part."""
        mask = self._at(x0.new_full((len(x0),), sigma))
        return x0 * mask + self._latent * (1.0 - mask)

    def composed(self, changing: Tensor, kept: Tensor, sigma: float) -> Tensor:
        """One latent where something is to change, another where the picture is kept."""
        mask = self._at(changing.new_full((len(changing),), sigma))
        return changing * mask + kept * (1.0 - mask)

    def _at(self, sigma: Tensor) -> Tensor:
        if self._changing is None:
            return self._mask
        return self._changing(sigma, self._mask, extra_options={"model": self._guider, "sigmas": self._sigmas})

    def _noise_in(self, x: Tensor, level: NoiseLevel) -> Tensor:
        """The noise of a latent's kept part: the sampler's own, or a known one where it is that, else what is in it."""
        if self._own is not None:
            return self._own
        found = (x - level.alpha * self._latent) / level.sigma
        kept = 1.0 - self._mask
        for noise in reversed(self.noises):
            if ((found - noise) * kept).norm() <= _NEAR * (noise * kept).norm():
                return noise
        return found
