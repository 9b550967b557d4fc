"""A pipeline's models, answered from memory where they are asked the very same once more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...answers import Answers
from .models import ModelCall, as_output, of_output

_PATIENCE = 8
"""Calls in a row without a known answer, after which nothing is compared any more."""


class AnsweredModels:
    """Stands in for the models' calls; counts in `answers.reused` what was not evaluated."""

    def __init__(self, answers: Answers, pictures: int, calls: int | None = None):
        """
        Args:
            answers: noted under the model's name and everything that it was asked with.
            calls: slots after which something else may have changed the models; None: never.
        """
        self._answers, self._pictures = answers, pictures
        self._left = calls
        self._misses = 0

    def model(self, name: str, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if not self._answers:
            return original(*args, **kwargs)
        try:
            call = ModelCall(args, kwargs, self._pictures)
            known = [self._answers.recall((name, call.question(slot)), call.latents(slot)) for slot in range(call.slots)]
        except Exception:  # a call that nobody has asked before
            return original(*args, **kwargs)
        self._misses = 0 if any(answer is not None for answer in known) else self._misses + 1
        if self._left is not None:
            self._left -= call.slots
        if self._misses == _PATIENCE or (self._left is not None and self._left <= 0):
            self._answers.forget()
        if all(answer is None for answer in known):
            return original(*args, **kwargs)
        for slot, answer in enumerate(known):
            if answer is None:
                part_args, part_kwargs = call.part(slot)
                known[slot] = of_output(original(*part_args, **part_kwargs), 1)[0]
        return as_output([answer for answer in known if answer is not None], call.as_list)
