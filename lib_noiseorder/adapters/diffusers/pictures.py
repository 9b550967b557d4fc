"""What a pipeline's clean latents and its outputs look like."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ...judges import JudgeError
from .loop import in_place
from .rehearsal import Rehearsal, Rehearsing, Replayed

NO_PICTURES = "a judge sees pictures, and this pipeline makes something else"


def pictures_of(pipe: Any, call: Mapping[str, Any], seen: Rehearsal, latents: Tensor, others: Replayed) -> Tensor:
    """The pictures [B, 3, H, W] in 0…1, on the CPU, that the pipeline makes of clean latents: by its own code after its last
    step, come to with nothing evaluated. It may be in the middle of its loop meanwhile, between two steps.

    Args:
        pipe: the pipeline.
        call: the arguments of its call, with latents as it takes them, and with nobody's generator.
        seen: what its rehearsal has seen.
        latents: [B, …], as its scheduler sees them.
        others: its encoders' answers.

    Raises:
        JudgeError: it makes no pictures, or was interrupted. What the pipeline raises passes through.
    """
    showing = _Showing(pipe, seen, others, latents)
    # some pipelines write into the dictionaries they are given
    arguments = {name: dict(value) if type(value) is dict else value for name, value in call.items()}
    with in_place(pipe, showing):
        output = pipe(**{**arguments, "output_type": "pt"})
    if not showing.shown:
        raise JudgeError("interrupted")
    return pictures_in(output, len(latents))


def pictures_in(output: Any, number: int) -> Tensor:
    """The finished pictures [B, 3, H, W] in 0…1, on the CPU, of a pipeline's output of any `output_type`.

    Args:
        number: how many there must be.

    Raises:
        JudgeError: they are none, but latents or videos for example.
    """
    made = _as_tensor(output[0])
    if made is None or made.ndim != 4 or made.shape[1] != 3 or len(made) != number:
        raise JudgeError(NO_PICTURES)
    return made.detach().float().clamp(0, 1).cpu()


def _as_tensor(made: Any) -> Tensor | None:
    import numpy as np

    if isinstance(made, list) and made and all(hasattr(picture, "convert") for picture in made):
        return torch.from_numpy(np.stack([np.asarray(picture.convert("RGB")) for picture in made])).movedim(-1, 1) / 255
    if isinstance(made, np.ndarray):
        return torch.from_numpy(made).movedim(-1, 1) if made.ndim == 4 else None
    return made if isinstance(made, Tensor) else None


class _Showing(Rehearsing):
    """Has these latents come out of a pipeline's loop.

    Attributes:
        shown: whether they have.
    """

    def __init__(self, pipe: Any, seen: Rehearsal, others: Replayed, latents: Tensor):
        super().__init__(pipe, Rehearsal(seen.pictures, seen.shapes), others)
        self._own = copy.deepcopy(seen.scheduler)  # the pipeline may have a stander-in at the moment
        self._latents = latents
        self.shown = self._over = False

    def other(self, name: str, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return original(*args, **kwargs) if self._over else super().other(name, original, *args, **kwargs)

    def step(self, index: int, output: Tensor, timestep: Any, sample: Tensor, scheduler: Any) -> Tensor:
        self._seen.noise, self._slots, self.shown = sample, 0, True
        self._over = index + 1 == len(scheduler.timesteps)
        return self._latents.to(sample)
