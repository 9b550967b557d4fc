"""Equal cost: how many more plain steps the evaluations of an ordering pay for."""

from __future__ import annotations

import math


def evaluations_per_step(guidance: float, calls: int = 1) -> int:
    """Model evaluations of a sampler's step that asks `calls` times: with and without the prompt, at guidance 1 only with."""
    return (1 if guidance == 1 else 2) * calls


def more_steps(evaluations: float, per_step: int) -> int:
    """Steps that cost at least so many evaluations: plain noise never gets less than what it is held against."""
    return math.ceil(evaluations / per_step)
