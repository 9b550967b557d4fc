"""Remembered answers: what the model said during a selection, given back where the sampler asks the very same.

They may be used only where the answer depends on nothing but the question, that is on a network on which nobody else has a
say (`foreign_say`). Adapters that are part of the weights, and options that are plain values (`is_plain`), belong to the
question.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from math import hypot
from typing import Any

import torch
from torch import Tensor, nn

from .model import NoiseLevel

Restore = Callable[[], None]


class Answers:
    """Answers of a model, by latent and question.

    Rows of one latent may stem from different remembered questions: every picture of a batch has its own winner.

    Attributes:
        reused: how many rows were answered from memory.
        most: rows after which all is forgotten; None: no limit.
        asked: rows that were asked while answers were recorded, whether an answer came or not.
    """

    def __init__(self, rounding: float = 1e-6):
        """
        Args:
            rounding: relative difference between two ways of taking the same step.
        """
        self.reused = self.asked = 0
        self.most: int | None = None
        self._rounding = rounding
        self._known: list[tuple[Any, Tensor, Tensor]] = []

    def __bool__(self) -> bool:
        return bool(self._known)

    def note(self, question: Any, x: Tensor, answer: Tensor) -> None:
        """Remember the answer [B, …] for a latent x [B, …]; neither may be changed in place afterwards.

        Args:
            question: everything else that the answer depends on: plain values, tensors, and containers of such, compared
                to the bit all the way down; objects of other kinds must be identical.
        """
        self._known.append((question, x, answer))

    def recall(self, question: Any, x: Tensor) -> Tensor | None:
        """The remembered answer, its rows from wherever they are known; None if one of them is not, or on any trouble:
        asking again costs time only."""
        try:
            return self._recalled(question, x)
        except Exception:
            return None

    def _recalled(self, question: Any, x: Tensor) -> Tensor | None:
        alike = [(seen, answer) for asked, seen, answer in self._known if seen.shape == x.shape and same(asked, question)]
        rounding = max(self._rounding, 2 * torch.finfo(x.dtype).eps)
        rows = []
        for index, row in enumerate(x):
            limit = rounding * row.abs().max()
            found = next((answer[index] for seen, answer in alike if (seen[index] - row).abs().max() <= limit), None)
            if found is None:
                return None
            rows.append(found)
        self.reused += len(rows)
        if self.most is not None and self.reused >= self.most:
            self.forget()
        return torch.stack(rows)

    def forget(self) -> None:
        """From here on the sampler goes where nothing was asked."""
        self._known.clear()

    # -- for hosts whose model is one function f(x, *args, **kwargs) -----------------------------------------------------

    @contextmanager
    def recording(self, owner: Any, name: str) -> Iterator[None]:
        """Remember every answer of owner.name meanwhile."""

        def record(original: Callable[..., Tensor], x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            self.asked += len(x)
            question, shown = _containers_copied((args, kwargs)), x.clone()  # models write into their arguments
            answer = original(x, *args, **kwargs)
            self.note(question, shown, answer.clone())
            return answer

        with replaced(owner, name, record):
            yield

    @contextmanager
    def answering(self, owner: Any, name: str) -> Iterator[None]:
        """Answer owner.name from memory until the first question that is not remembered."""

        def answer(original: Callable[..., Tensor], x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            found = self.recall((args, kwargs), x) if self else None
            if found is None:
                self.forget()
                return original(x, *args, **kwargs)
            return found

        with replaced(owner, name, answer):
            yield


def step_rounding(levels: Sequence[NoiseLevel]) -> float:
    """The relative difference that two ways of taking a sampler's steps between these noise levels may make in float32.

    A step rounds as finely as the latent that it starts from, and the one that it leads to may be much smaller: from zero
    terminal SNR's first level of Stable Diffusion's, sigma 4 518, by a factor of 300.
    """
    sizes = [hypot(level.alpha, level.sigma) for level in levels]
    steepest = max((larger / smaller for larger, smaller in pairwise(sizes)), default=1.0)
    return 4 * torch.finfo(torch.float32).eps * max(1.0, steepest)


def foreign_say(network: nn.Module, harmless: Callable[[nn.Module], bool] = lambda module: False) -> str | None:
    """What takes part in a network's answers besides its weights, in words; None if nothing does.

    A module whose `forward`, or another method, was replaced may keep features, count steps or look at the rest of the batch.
    torch's hooks are looked at by `hooked`.

    Args:
        harmless: says of a module that its replaced method is known to change nothing, as where weights are moved, or is
            the very function that is asked.
    """
    for module in network.modules():
        name = next((name for name, value in vars(module).items() if _is_function(value) and hasattr(type(module), name)), None)
        if name and not harmless(module):
            return f"a replaced {name} of a {type(module).__name__} in the network"
    return None


def hooked(network: nn.Module, harmless: Callable[[Callable[..., Any]], bool] = lambda hook: False) -> str | None:
    """A hook on a network, in words; None if there is none.

    Hooks may look at the number of rows or the noise level: such a network is asked one latent at a time.
    """
    for module in network.modules():
        for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values()):
            if not harmless(hook):
                return f"a hook of {getattr(hook, '__module__', '?')} on the network"
    return None


def is_plain(value: Any) -> bool:
    """Whether a value is what it looks like: no function or object that may behave differently from call to call."""
    if value is None or isinstance(value, (bool, int, float, str, bytes, Tensor, torch.dtype, torch.device)):
        return True
    if isinstance(value, dict):
        return all(is_plain(key) and is_plain(item) for key, item in value.items())
    return isinstance(value, (list, tuple, set, frozenset)) and all(map(is_plain, value))


def is_replaced(owner: Any, name: str) -> bool:
    """Whether somebody put a function of an instance's own in the place of its class's."""
    return name in getattr(owner, "__dict__", {})


def shadow(owner: Any, name: str, replacement: Callable[..., Any]) -> Restore:
    """Shadow owner.name on the instance by replacement(original, …), until what comes back is called.

    If somebody else has put a function of theirs in its place by then, theirs stays.
    """
    before, original = vars(owner).get(name), getattr(owner, name)

    def shadowing(*args: Any, **kwargs: Any) -> Any:
        return replacement(original, *args, **kwargs)

    def restore() -> None:
        if vars(owner).get(name) is shadowing:
            if before is None:
                del vars(owner)[name]
            else:
                vars(owner)[name] = before

    vars(owner)[name] = shadowing
    return restore


_MISSING: Any = object()


@contextmanager
def value_replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Another value on an instance for the length of a block."""
    before = vars(owner).get(name, _MISSING)
    vars(owner)[name] = value
    try:
        yield
    finally:
        if before is _MISSING:
            vars(owner).pop(name, None)
        else:
            vars(owner)[name] = before


@contextmanager
def replaced(owner: Any, name: str, replacement: Callable[..., Any]) -> Iterator[None]:
    """`shadow` for the length of a block."""
    restore = shadow(owner, name, replacement)
    try:
        yield
    finally:
        restore()


def _is_function(value: Any) -> bool:
    return callable(value) and not isinstance(value, (type, nn.Module))


def _containers_copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _containers_copied(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_containers_copied(item) for item in value)
    return value


def same(a: Any, b: Any) -> bool:
    """Whether two arguments are equal to the bit, all the way down; objects of unknown kinds must be identical."""
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, Tensor):
        return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return isinstance(a, (bool, int, float, str)) and a == b
