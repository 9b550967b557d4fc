"""Remembers what the model answered during selection, so that the sampler's first call need not ask again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor

_ROUNDING = 1e-6


class Memory:
    """Answers of a model function `f(x, *args, **kwargs)`, given back for the same question.

    Everything but x must be equal to the bit; x to the rounding between two ways of taking the same step.

    The rows of a question may stem from different remembered questions: every picture of a batch has its own winner.

    Attributes:
        hits: how many rows were answered from memory.
    """

    def __init__(self) -> None:
        self.hits = 0
        self._listening = True
        self._answers: list[tuple[Tensor, tuple, dict, Tensor]] = []

    @contextmanager
    def recording(self, owner: Any, name: str) -> Iterator[None]:
        """Remember every answer of owner.name meanwhile."""

        def record(original: Callable[..., Tensor], x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            if not self._listening:
                return original(x, *args, **kwargs)
            question = x.clone(), _containers_copied(args), _containers_copied(kwargs)  # models write into their arguments
            answer = original(x, *args, **kwargs)
            self._answers.append((*question, answer.clone()))
            return answer

        with _replaced(owner, name, record):
            yield

    @contextmanager
    def forgetting(self) -> Iterator[None]:
        """Remember nothing meanwhile: the sampler will not ask these questions."""
        self._listening = False
        try:
            yield
        finally:
            self._listening = True

    @contextmanager
    def answering(self, owner: Any, name: str) -> Iterator[None]:
        """Answer owner.name from memory until the first question that is not remembered."""

        def answer(original: Callable[..., Tensor], x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            found = None
            with suppress(Exception):  # asking again costs time only
                found = self._recall(x, args, kwargs)
            if found is None:
                self._answers.clear()
                return original(x, *args, **kwargs)
            self.hits += len(x)
            return found

        with _replaced(owner, name, answer):
            yield

    def _recall(self, x: Tensor, args: tuple, kwargs: dict) -> Tensor | None:
        same = [known for known in self._answers if known[0].shape == x.shape and _same((args, kwargs), (known[1], known[2]))]
        if not same:
            return None
        rows = []
        for index, row in enumerate(x):
            answer = next((known[3][index] for known in same if _close(known[0][index], row)), None)
            if answer is None:
                return None
            rows.append(answer)
        return torch.stack(rows)


@contextmanager
def _replaced(owner: Any, name: str, replacement: Callable[..., Any]) -> Iterator[None]:
    """Shadow owner.name on the instance by replacement(original, …)."""
    shadowed = vars(owner).get(name)
    original = getattr(owner, name)
    setattr(owner, name, lambda *args, **kwargs: replacement(original, *args, **kwargs))
    try:
        yield
    finally:
        if shadowed is None:
            delattr(owner, name)
        else:
            setattr(owner, name, shadowed)


def _containers_copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _containers_copied(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_containers_copied(item) for item in value)
    return value


def _close(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).abs().max() <= _ROUNDING * b.abs().max())


def _same(a: Any, b: Any) -> bool:
    """Whether two arguments are equal to the bit, all the way down; objects of unknown kinds must be identical."""
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, Tensor):
        return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(_same, a, b))
    return isinstance(a, (bool, int, float, str)) and a == b
