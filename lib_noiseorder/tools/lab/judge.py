"""The lab's judge at work: loaded by the very code that loads a user's."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from ...judges import LoadedJudge, digest, load, scores
from ...judging import Judging
from .packaged import folder
from .worlds import World, WorldPrompt


def judging_of(world: World, prompts: Sequence[WorldPrompt]) -> Judging:
    """The judge for pictures of these prompts, normalised pixels [B, 3, size, size]."""
    texts = [str(prompt) for prompt in prompts]
    return Judging(lambda pictures: scores(_judge(), world.to_pictures(pictures), texts), digest=lab_judge_digest())


@cache
def lab_judge_digest() -> str:
    """Which judge it is, to the byte."""
    return digest(folder("judge"))


@cache
def _judge() -> LoadedJudge:
    return load(folder("judge"))
