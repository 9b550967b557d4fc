"""What a pipeline's `latents` argument is: its initial noise, as its scheduler sees it or laid out as it was drawn."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """How the argument `latents` and the scheduler's latents [B, …] become each other."""

    shape: tuple[int, ...] | None = None
    """The argument's shape without the batch [C, …], whose places the scheduler sees as tokens [B, n, C]; None: the same."""

    def argument(self, latents: Tensor) -> Tensor:
        return latents if self.shape is None else latents.transpose(1, 2).reshape(len(latents), *self.shape).contiguous()

    def latents(self, argument: Tensor) -> Tensor:
        return argument if self.shape is None else argument.flatten(2).transpose(1, 2)


def drawn_as(noise: Tensor, drawn: list[Tensor]) -> Tensor | None:
    """The draw [B, …] whose numbers a pipeline's initial latents are, in any order; None if they are more than a draw."""
    own = noise.flatten().cpu().sort().values
    for first, one in enumerate(drawn):
        several = drawn[first : first + len(noise)]  # a generator per picture draws each alone
        alike = len(several) == len(noise) and all(other.shape == one.shape for other in several)
        for found in [one, torch.cat(several)] if alike and len(noise) > 1 else [one]:
            if found.numel() == noise.numel() and torch.equal(found.to(noise.dtype).flatten().cpu().sort().values, own):
                return found
    return None


def layouts(noise: Tensor, drawn: Tensor) -> list[Layout]:
    """What the argument may be, likeliest first: the latents of the scheduler, or, where these are tokens, the draw."""
    found = [Layout()]
    if drawn.ndim > 3 and noise.ndim == 3 and len(drawn) == len(noise):
        laid_out = Layout(tuple(drawn.shape[1:]))
        if torch.equal(laid_out.latents(drawn.to(noise)), noise):
            found.append(laid_out)
    return found
