"""The host's own sampler run several times, each time as if it had not run before."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from modules import rng, shared
from torch import Tensor

from ...answers import replaced
from ..model.checkpoint import checkpoint_of

_GLOBAL = "nv_rng"
"""The hosts' own generator in the place of torch's global one, where their option says so."""


class RunAgain:
    """Puts back what a run of the sampler draws from, and counts what it evaluates.

    Attributes:
        rows: per run, the latents that the network was shown.
    """

    def __init__(self, p: Any):
        self._p = p
        self.rows: list[int] = []
        self._generators = [_state(one) for one in p.rng.generators]
        self._is_first = p.rng.is_first
        self._own = copy.deepcopy(getattr(rng, _GLOBAL, None))
        self._cpu = torch.get_rng_state()
        self._device = torch.device(shared.device)
        self._gpu = torch.cuda.get_rng_state(self._device) if self._device.type == "cuda" else None
        self._parameters = dict(p.extra_generation_params)

    def run(self, sample: Callable[[], Tensor]) -> Tensor:
        """One run; from the second on with all generators as they were before the first."""
        if self.rows:
            self._put_back()
        self.rows.append(0)
        with self._counting():
            return sample()

    def _put_back(self) -> None:
        p = self._p
        for generator, state in zip(p.rng.generators, self._generators):
            _restore(generator, state)
        p.rng.is_first = self._is_first
        if self._own is not None:
            setattr(rng, _GLOBAL, copy.deepcopy(self._own))
        torch.set_rng_state(self._cpu)
        if self._gpu is not None:
            torch.cuda.set_rng_state(self._gpu, self._device)
        p.extra_generation_params.clear()
        p.extra_generation_params.update(self._parameters)

    @contextmanager
    def _counting(self) -> Iterator[None]:
        def count(original: Callable[..., Tensor], x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            self.rows[-1] += len(x)
            return original(x, *args, **kwargs)

        with replaced(*checkpoint_of(self._p.sd_model).model_function(self._p.sampler.model_wrap_cfg), count):
            yield


def _state(generator: Any) -> Any:
    return generator.get_state() if isinstance(generator, torch.Generator) else copy.deepcopy(vars(generator))


def _restore(generator: Any, state: Any) -> None:
    if isinstance(generator, torch.Generator):
        generator.set_state(state)
    else:
        vars(generator).update(copy.deepcopy(state))
