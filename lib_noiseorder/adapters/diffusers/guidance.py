"""How a pipeline puts the answers of a step together, found out with answers that were made up."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .rehearsal import Unusable

_MOST_SLOTS = 4


@dataclass(frozen=True)
class Guidance:
    """The part of every slot in what the scheduler is given: their sum is 1, guidance leads away from the negative ones."""

    weights: tuple[float, ...]
    cond: int
    """The slot with the prompt."""
    linear: bool
    """Whether nothing is rescaled, projected or clipped."""

    @property
    def scale(self) -> float:
        """The classifier-free guidance scale; 1 where the model is asked with the prompt only."""
        return self.weights[self.cond]

    def away_from(self, answers: Sequence[Tensor]) -> Tensor:
        """What guidance leads away from, of every slot's answer: that without the prompt where there are two."""
        others = [slot for slot in range(len(self.weights)) if slot != self.cond]
        if len(others) == 1 or abs(1 - self.scale) < 1e-6:
            return answers[others[0]]
        parts = [self.weights[slot] / (1 - self.scale) * answers[slot].float() for slot in others]
        return sum(parts[1:], parts[0]).to(answers[0].dtype)


ALONE = Guidance((1.0,), 0, True)


def measured(together: Tensor, alone: Sequence[Tensor], named: Iterable[float], pipeline: str) -> Guidance:
    """The weights by which `together` is made of what every slot's answer is `alone`.

    Args:
        together: what the scheduler was given when every slot had an answer of its own.
        alone: per slot what it was given when every slot had the answer of that one.
        named: guidance scales among the call's arguments, which a measured one is taken for if it is near.
        pipeline: its name, for the error.

    Raises:
        Unusable: it is made of them in no way that is known.
    """
    if len(alone) > _MOST_SLOTS:
        raise Unusable(f"{pipeline} asks its model {len(alone)} times a step")
    base = alone[0].double().flatten()
    columns = torch.stack([answer.double().flatten() - base for answer in alone[1:]], 1)
    wanted = together.double().flatten() - base
    solution = torch.linalg.lstsq(columns, wanted).solution
    off = float((columns @ solution - wanted).norm() / torch.maximum(wanted.norm(), columns.norm()))
    if not off < 0.5:
        raise Unusable(f"how {pipeline} puts its model's {len(alone)} answers together is not known")
    half = together.dtype in (torch.float16, torch.bfloat16)
    weights = [1 - float(solution.sum()), *map(float, solution)]
    cond = max(range(len(weights)), key=weights.__getitem__)
    names = [near for value in named for near in (value, value + 1)]
    if 0 < weights[cond] < 0.999:  # between both answers, nearer to which is the call's to say
        cond = min(range(len(weights)), key=lambda slot: min(abs(weights[slot] - name) for name in names))
    nearest = min(names, key=lambda name: abs(name - weights[cond]), default=weights[cond])
    if len(weights) == 2 and abs(nearest - weights[cond]) < (0.05 if half else 1e-3) * max(1.0, abs(nearest)):
        weights = [nearest if slot == cond else 1 - nearest for slot in range(2)]
    return Guidance(tuple(weights), cond, off < (0.1 if half else 0.01))
