"""How the lab's latent models are trained: Muon and AdamW together, against the clock."""

from __future__ import annotations

import itertools
import math
import re
import time
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn

Log = Callable[[str], None]


def require_time(minutes: float) -> None:
    """Refuse a training of no time before any work is done. Raises ValueError."""
    if not 0 < minutes < math.inf:
        raise ValueError(f"minutes = {minutes} is not a number above 0")


def clock(minutes: float) -> Iterator[tuple[int, float]]:
    """Step numbers, each with the share of the time that is over, until the time is over; at least the first.

    Raises:
        ValueError: minutes not positive.
    """
    require_time(minutes)
    began = time.monotonic()
    for step in itertools.count():
        progress = (time.monotonic() - began) / (60 * minutes)
        if step and progress >= 1:
            return
        yield step, progress


class Optimiser:
    """Muon for the inner matrices, AdamW for the rest; warms up over 60 steps, holds, then falls to nearly 0.

    Args:
        named: parameters by name; those that need no gradient are passed over.
        inner: finds the names of the matrices and convolutions that Muon takes.
        peak: learning rate after the warm-up.
        hold: share of the time after which it begins to fall.
    """

    def __init__(self, named: Iterable[tuple[str, nn.Parameter]], inner: re.Pattern[str], peak: float, hold: float = 0.5):
        named = [(name, parameter) for name, parameter in named if parameter.requires_grad]
        matrices = [p for name, p in named if p.ndim >= 2 and inner.search(name)]
        chosen = {id(parameter) for parameter in matrices}
        self._parameters = [p for _, p in named]
        self._muon = _Muon(matrices)
        self._adam = torch.optim.AdamW([p for p in self._parameters if id(p) not in chosen], betas=(0.9, 0.98), weight_decay=0)
        self._peak, self._hold = peak, hold

    def step(self, step: int, progress: float) -> None:
        """Apply the gradients and forget them; `progress` is the share of the time that is over."""
        rate = self._peak * min(1, (step + 1) / 60) * min(1, max(0.02, (1 - progress) / (1 - self._hold)))
        nn.utils.clip_grad_norm_(self._parameters, 1.0)
        self._muon.step(rate)
        for group in self._adam.param_groups:
            group["lr"] = rate
        self._adam.step()
        for parameter in self._parameters:
            parameter.grad = None


class Averaged:
    """A running average of parameters, kept in the parameters of a second copy of the modules."""

    def __init__(self, live: Iterable[nn.Parameter], copy: Iterable[nn.Parameter], keep: float):
        self._live, self._copy, self._keep = list(live), list(copy), keep

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take step `step` in; the first steps are forgotten faster."""
        torch._foreach_lerp_(self._copy, self._live, 1 - min(self._keep, (step + 1) / (step + 12)))


class LossLog:
    """Logs the mean loss of every hundred steps."""

    def __init__(self, log: Log, what: str):
        self._log, self._what = log, what
        self._losses: list[float] = []

    def add(self, step: int, progress: float, loss: float) -> None:
        self._losses.append(loss)
        if len(self._losses) == 100:
            mean = sum(self._losses) / len(self._losses)
            self._log(f"{self._what} step {step + 1}, {progress:.0%} of the time: loss {mean:.4f}")
            self._losses.clear()


class _Muon:
    """Muon for matrices and convolutions (Jordan 2024): momentum, orthogonalised, with AdamW's step size (Moonshot 2025)."""

    def __init__(self, parameters: list[nn.Parameter], momentum: float = 0.95):
        groups: dict[tuple[int, int], list[nn.Parameter]] = {}
        for parameter in parameters:
            groups.setdefault((parameter.shape[0], parameter[0].numel()), []).append(parameter)
        self._groups = [(group, torch.zeros(len(group), *shape)) for shape, group in groups.items()]
        self._momentum = momentum

    @torch.no_grad()
    def step(self, rate: float) -> None:
        for group, average in self._groups:
            gradients = torch.stack([parameter.grad.reshape(len(parameter), -1) for parameter in group])
            average.mul_(self._momentum).add_(gradients)
            updates = _orthogonal(gradients + self._momentum * average)
            size = rate * 0.2 * max(updates.shape[1:]) ** 0.5
            for parameter, update in zip(group, updates):
                parameter.add_(update.view(parameter.shape), alpha=-size)


def _orthogonal(x: Tensor, iterations: int = 5) -> Tensor:
    """Matrices [N, rows, columns] with all singular values brought to about 1 (Newton–Schulz)."""
    tall = x.shape[1] > x.shape[2]
    x = x.transpose(1, 2) if tall else x
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    x = x.bfloat16() if x.is_cuda else x  # many processors only emulate it, seven times slower
    for _ in range(iterations):
        square = x @ x.transpose(1, 2)
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return (x.transpose(1, 2) if tall else x).float()
