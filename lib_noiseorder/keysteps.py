"""Key timesteps: at which noise levels the model is asked, and how much each answer weighs."""

from __future__ import annotations

from math import cos, pi
from typing import NamedTuple

from .settings import NoiseOrderSettings


class KeyTimestep(NamedTuple):
    name: str
    """What is decided at this noise level: layout, structure or detail."""
    timestep: float
    """Fraction of the noise schedule, 1 = noisiest."""
    weight: float
    """w_k of formula 2, with the strength's decay δ(t) in it."""


DECAYS = {
    "constant": lambda timestep: 1.0,
    "linear": lambda timestep: timestep,
    "cosine": lambda timestep: (1 - cos(pi * timestep)) / 2,
}
"""δ(t)/δ over the noise schedule: 1 at the noisiest level; the decaying ones reach 0 at the cleanest."""


def key_timesteps(settings: NoiseOrderSettings) -> list[KeyTimestep]:
    """The key timesteps that cost an evaluation, noisiest first; those that weigh nothing are left out."""
    decay = DECAYS[settings.strength_schedule]
    stages = [
        KeyTimestep("layout", settings.layout_timestep, settings.layout_weight),
        KeyTimestep("structure", settings.structure_timestep, settings.structure_weight),
        KeyTimestep("detail", settings.detail_timestep, settings.detail_weight),
    ]
    weighted = [stage._replace(weight=stage.weight * decay(stage.timestep)) for stage in stages]
    return sorted((stage for stage in weighted if stage.weight != 0), key=lambda stage: -stage.timestep)
