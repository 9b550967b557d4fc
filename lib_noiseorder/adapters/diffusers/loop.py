"""A pipeline's own loop with somebody else in its scheduler's and its models' place, and everything put back afterwards."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor

from .models import KeptState, ModelOutput, calls_replaced, denoising_models, other_models


class Stander(Protocol):
    """Who stands in for scheduler and models."""

    def timesteps(self, scheduler: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        """Set the timesteps of the scheduler that stands in."""
        ...

    def step(self, index: int, output: Tensor, timestep: Any, sample: Tensor, scheduler: Any) -> Tensor:
        """The loop's turn `index` is over: the latents of the next."""
        ...

    def model(self, name: str, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """A call of a denoising model."""
        ...

    def other(self, name: str, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """A call of another model, such as an encoder or a ControlNet."""
        ...


@contextmanager
def in_place(pipe: Any, stander: Stander) -> Iterator[None]:
    """The pipeline with a stander-in; whatever happens, it has its own attributes and functions afterwards."""
    models, before = denoising_models(pipe), dict(vars(pipe))
    state = KeptState(models)
    try:
        with ExitStack() as stack:
            stack.enter_context(calls_replaced(models, stander.model))
            stack.enter_context(calls_replaced(other_models(pipe), stander.other))
            # past the setter, which rewrites the config
            vars(pipe)["scheduler"] = _standing_in(pipe.scheduler, stander)
            vars(pipe)["_progress_bar_config"] = {**getattr(pipe, "_progress_bar_config", {}), "disable": True}
            yield
    finally:
        interrupted = getattr(pipe, "_interrupt", False)
        vars(pipe).clear()
        vars(pipe).update(before)
        if interrupted:
            pipe._interrupt = True
        state.put_back()
        if hasattr(pipe, "maybe_free_model_hooks"):
            pipe.maybe_free_model_hooks()  # what a pipeline does at its own end: models offloaded, caches cleared


def _standing_in(scheduler: Any, stander: Stander) -> Any:
    """A scheduler of the pipeline's own class and configuration that serves the stander-in instead of sampling."""
    kind = type(scheduler)
    takes = inspect.signature(kind.step)

    class StandingIn(kind):
        order = 1
        init_noise_sigma = property(lambda self: 1.0)

        @functools.wraps(kind.set_timesteps)
        def set_timesteps(self, *args: Any, **kwargs: Any) -> None:
            stander.timesteps(self, args, kwargs)
            self._turn = -1

        def scale_model_input(self, sample: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            return sample

        @functools.wraps(kind.step)
        def step(self, *args: Any, **kwargs: Any) -> ModelOutput:
            given = takes.bind(self, *args, **kwargs).arguments
            self._turn += 1
            latents = stander.step(self._turn, given["model_output"], given["timestep"], given["sample"], self)
            return ModelOutput((latents, latents))

    serving = copy.deepcopy(scheduler)
    serving.__class__ = StandingIn
    return serving


class Draws(torch.overrides.TorchFunctionMode):
    """Remembers what is drawn from torch.randn meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.drawn: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is torch.randn:
            self.drawn.append(result.clone())
        return result
