"""What makes the pictures of a comparison: what it is asked, what it answers, how it fails is in `tools.failures`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from PIL import Image

from ...settings import NoiseOrderSettings
from .plan import Sampling


@dataclass(frozen=True)
class Request:
    """One picture."""

    prompt: str
    seed: int
    sampling: Sampling
    settings: NoiseOrderSettings | None = None
    """How the noise is ordered; None leaves it plain."""


@dataclass(frozen=True)
class Made:
    """One picture, made."""

    picture: Image.Image
    """RGB."""
    infotext: str
    """How it was made, as the host says it."""
    model: dict[str, str]
    """What must not change between the pictures of a comparison: the model's name and hash, and the like."""
    seconds: float
    evaluations_per_step: int
    """Model evaluations of a sampler step; with and without the prompt count one each."""
    extra_evaluations: int = 0
    """Model evaluations of the ordering, those not counted that it saved the sampler."""
    skipped: str = ""
    """What of the ordering was left out, and why."""
    versions: dict[str, str] = field(default_factory=dict)


class Generator(Protocol):
    """Makes one picture at a time."""

    name: str

    def make(self, request: Request) -> Made:
        """Raises `failures.Unavailable` or `failures.Refused`."""
