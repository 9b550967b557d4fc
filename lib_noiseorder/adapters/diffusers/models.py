"""The denoising models inside a diffusers pipeline: how they are called, and what they have answered."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_ROUNDING = 1e-5
"""Relative difference between two ways of taking the same step, in float32."""


@dataclass(frozen=True)
class Answer:
    """The model's raw outputs [B, …]."""

    prompted: Tensor
    unprompted: Tensor | None


def denoising_models(pipe: Any) -> list[torch.nn.Module]:
    """The models that predict noise or velocity, in the order of the schedule."""
    found = [getattr(pipe, name, None) for name in ("unet", "transformer", "transformer_2")]
    return [model for model in found if model is not None]


@contextmanager
def forwards_replaced(models: list[torch.nn.Module], replacement: Callable[..., Any]) -> Iterator[None]:
    """Shadow every model's `forward` on the instance by replacement(original, …)."""
    kept = [(model, vars(model).get("forward")) for model in models]
    for model, _ in kept:
        vars(model)["forward"] = functools.partial(replacement, model.forward)
    try:
        yield
    finally:
        for model, shadowed in kept:
            if shadowed is None:
                del vars(model)["forward"]
            else:
                vars(model)["forward"] = shadowed


def model_input(args: tuple, kwargs: dict[str, Any]) -> Tensor:
    """What a call of a denoising model shows it: latents [B, …], or [2·B, …] under guidance."""
    return args[0] if args else kwargs.get("hidden_states", kwargs.get("sample"))


def model_timestep(args: tuple, kwargs: dict[str, Any]) -> float:
    """The timestep of a call of a denoising model, the same for all rows."""
    return float(torch.as_tensor(args[1] if len(args) > 1 else kwargs["timestep"]).flatten()[0])


def half(value: Any, rows: int, part: slice) -> Any:
    """Half of a guided batch's arguments, all the way down; what has not `rows` rows stays as it is."""
    if isinstance(value, Tensor):
        return value[part] if value.ndim > 0 and len(value) == rows else value
    if isinstance(value, dict):
        return {key: half(entry, rows, part) for key, entry in value.items()}
    if type(value) in (list, tuple):
        return type(value)(half(entry, rows, part) for entry in value)
    return value


class Memory:
    """What the model answered, for the pipeline's own run that asks the same again.

    Attributes:
        saved: evaluations that the run did not pay again, over all pictures.
    """

    def __init__(self) -> None:
        self.saved = 0
        self._known: list[tuple[Tensor, float, Answer]] = []
        self._last: tuple[Tensor, float] | None = None

    def note(self, shown: Tensor, timestep: float, answer: Answer) -> None:
        self._known.append((shown, timestep, answer))

    @contextmanager
    def answering(self, pipe: Any, batch: int) -> Iterator[None]:
        """Answer the pipeline's models from memory until the first question that is not remembered.

        Args:
            pipe: about to be called.
            batch: its number of pictures.
        """
        with forwards_replaced(denoising_models(pipe), functools.partial(self._forward, batch)):
            yield
        self._known.clear()

    def _forward(self, batch: int, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if not self._known:
            return original(*args, **kwargs)
        shown, timestep = model_input(args, kwargs), model_timestep(args, kwargs)
        coupled = len(shown) == 2 * batch
        x = shown[batch:] if coupled else shown
        again = self._last is not None and self._last[1] == timestep and torch.equal(self._last[0], x)
        self._last = x, timestep
        if not coupled:  # a second call about the same latents is the one without the prompt
            known = self._recall(x, timestep, "unprompted" if again else "prompted")
            return (known,) if known is not None else self._asked(original, args, kwargs, forget=not again)
        prompted = self._recall(x, timestep, "prompted")
        if prompted is None:
            return self._asked(original, args, kwargs, forget=True)
        unprompted = self._recall(x, timestep, "unprompted")
        if unprompted is None:
            args, kwargs = half((args, kwargs), 2 * batch, slice(batch))
            unprompted = original(*args, **kwargs)[0]
        return (torch.cat([unprompted, prompted]),)

    def _asked(self, original: Callable[..., Any], args: tuple, kwargs: dict[str, Any], forget: bool) -> Any:
        if forget:
            self._known.clear()
        return original(*args, **kwargs)

    def _recall(self, x: Tensor, timestep: float, which: str) -> Tensor | None:
        """The answer for x; its rows may stem from different questions, as every picture has its own winner."""
        rows = []
        rounding = max(_ROUNDING, 2 * torch.finfo(x.dtype).eps)
        same = [(seen, answer) for seen, level, answer in self._known if level == timestep and seen.shape == x.shape]
        for index, row in enumerate(x):
            limit = rounding * row.abs().max()
            near = [getattr(answer, which) for seen, answer in same if (seen[index] - row).abs().max() <= limit]
            known = [answer[index] for answer in near if answer is not None]
            if not known:
                return None
            rows.append(known[0])
        self.saved += len(rows)
        return torch.stack(rows)
