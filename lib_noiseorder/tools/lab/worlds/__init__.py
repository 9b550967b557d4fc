"""The lab's worlds: each has prompts, pictures that show them, models that draw them, and an oracle that reads them.

A plan that was tuned to one of them may have learnt its accidents; what holds in both is more likely to hold elsewhere.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from torch import Tensor, nn

NAMES = ("shapes", "pictograms")


class WorldPrompt(Protocol):
    """What a picture is to show; its text is what `str` gives."""

    @property
    def rare(self) -> bool:
        """Whether it asks for a combination that the models hardly saw in training."""
        ...

    @property
    def tokens(self) -> list[int]:
        """What the network is given for it."""
        ...


class WorldVerdict(Protocol):
    """What of a prompt a picture gets right."""

    @property
    def all(self) -> bool: ...

    @property
    def share(self) -> float:
        """Share of the applicable attributes that are right."""
        ...


class WorldOracle(Protocol):
    """Reads finished pictures [B, 3, size, size], normalised pixels."""

    def read(self, x: Tensor, /) -> tuple[Sequence[Sequence[Any]], Tensor]:
        """The things in each picture, and features [B, F] for diversity figures."""
        ...

    def judge(self, x: Tensor, prompts: Any, /) -> Sequence[WorldVerdict]:
        """Verdicts on pictures, one prompt each."""
        ...


@dataclass(frozen=True, kw_only=True)
class WorldModel:
    """One of a world's trained models."""

    weights: str
    """Its file in the folder `weights`."""
    parameterisation: str
    """What the network puts out; see `lib_noiseorder.model`."""
    guidance: float
    """Its best classifier-free guidance scale."""
    base: str | None = None
    """The file of the weights that `weights` is only a low-rank difference to; see `packaged.adapted`."""
    steps: int | None = None
    """Of the sampler, where it takes another number than the world's other models."""
    zero_terminal_snr: bool = False
    """Whether its schedule's noisiest level is pure noise; flow models' always is."""

    @property
    def files(self) -> tuple[str, ...]:
        """All that it is loaded from."""
        return (self.weights,) if self.base is None else (self.weights, self.base)


@dataclass(frozen=True)
class World:
    """Everything that evaluating a world takes."""

    name: str
    size: int
    """Pictures are size×size RGB."""
    steps: int
    """Of the sampler."""
    models: Mapping[str, WorldModel]
    """By name."""
    network: Callable[[], nn.Module]
    """Takes noisy pictures [B, 3, size, size], times [B] in 0..1 (1 the noisiest) and tokens [B, T]."""
    oracle: Callable[[], WorldOracle]
    no_prompt: int
    """The token that fills a prompt left out."""
    random_prompt: Callable[[np.random.Generator], WorldPrompt]
    """A prompt of the training distribution."""
    test_prompts: Callable[[int, int], Sequence[WorldPrompt]]
    """`test_prompts(count, seed)`: prompts for an evaluation, common and rare ones."""
    picture: Callable[[Any, np.random.Generator], np.ndarray]
    """A picture [size, size, 3] in 0..1 that shows a prompt."""
    to_latent: Callable[[np.ndarray], Tensor]
    """uint8 pictures [B, size, size, 3] → normalised pixels [B, 3, size, size]."""
    to_pictures: Callable[[Tensor], Tensor]
    """Normalised pixels [B, 3, size, size] → the same in 0..1, as a judge sees them."""
    chunk: int = 64
    """Pictures that an evaluation draws at once: as many as the processor's caches bear."""

    def model(self, name: str) -> WorldModel:
        """The model of that name. Raises ValueError where there is none."""
        if name not in self.models:
            raise ValueError(f"the model of {self.name} must be one of {', '.join(self.models)}, got {name!r}")
        return self.models[name]


def named(name: str) -> World:
    """The world of that name. Raises ValueError where there is none."""
    if name not in NAMES:
        raise ValueError(f"the world must be one of {', '.join(NAMES)}, got {name!r}")
    return importlib.import_module(f".{name}", __package__).WORLD
