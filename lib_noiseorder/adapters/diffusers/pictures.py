"""What a pipeline's clean latents look like: its own code after its last step, gone through with nothing evaluated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...judges import JudgeError
from .loop import in_place
from .rehearsal import Rehearsal, Rehearsing, Replayed

_NOT_ONE_PICTURE = "a judge sees pictures, and this pipeline makes something else"


def pictures_of(pipe: Any, call: Mapping[str, Any], seen: Rehearsal, latents: Tensor, others: Replayed) -> Tensor:
    """The pictures [B, 3, H, W] in 0…1 that the pipeline makes of clean latents.

    Args:
        pipe: the pipeline.
        call: the arguments of its call, with latents as it takes them, and with nobody's generator.
        seen: what its rehearsal has seen.
        latents: [B, …], as its scheduler sees them.
        others: its encoders' answers.

    Raises:
        JudgeError: it makes no pictures. What the pipeline raises passes through.
    """
    showing = _Showing(pipe, Rehearsal(seen.pictures, seen.shapes), others, latents)
    with in_place(pipe, showing):
        return pictures_in(pipe(**{**call, "output_type": "pt"}))


def pictures_in(output: Any) -> Tensor:
    """The pictures [B, 3, H, W] in 0…1 of what a pipeline called with `output_type="pt"` gave.

    Raises:
        JudgeError: it gave no pictures.
    """
    made = output[0] if isinstance(output, (tuple, list)) else getattr(output, "images", None)
    if not isinstance(made, Tensor) or made.ndim != 4 or made.shape[1] != 3:
        raise JudgeError(_NOT_ONE_PICTURE)
    return made.detach().float().clamp(0, 1).cpu()


class _Showing(Rehearsing):
    """Ends a pipeline's loop with these latents."""

    def __init__(self, pipe: Any, seen: Rehearsal, others: Replayed, latents: Tensor):
        super().__init__(pipe, seen, others)
        self._latents = latents

    def step(self, index: int, output: Tensor, timestep: Any, sample: Tensor, scheduler: Any) -> Tensor:
        return self._latents.to(sample) if index + 1 == len(scheduler.timesteps) else sample


def picture_tensor(pictures: Any) -> Tensor:
    """Finished pictures of any `output_type` as [B, 3, H, W] in 0…1.

    Raises:
        JudgeError: they are none, latents for example.
    """
    import numpy as np

    if isinstance(pictures, Tensor):
        return pictures_in((pictures,))
    if isinstance(pictures, np.ndarray):
        return pictures_in((torch.from_numpy(pictures).movedim(-1, 1),))
    shown = [np.asarray(picture.convert("RGB")) for picture in pictures if hasattr(picture, "convert")]
    if not shown or len(shown) != len(pictures):
        raise JudgeError(_NOT_ONE_PICTURE)
    return torch.from_numpy(np.stack(shown)).permute(0, 3, 1, 2).float() / 255
