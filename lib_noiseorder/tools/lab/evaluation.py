"""Paired evaluation: every arm draws the same prompts from the same noises, and the oracle counts what is right."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..statistics import bootstrap, diversity, diversity_change, frechet
from ..store import Kept, packed, unpacked
from .arms import Arm, seed_draws
from .model import LabModel
from .packaged import packaged
from .worlds import World, WorldOracle, WorldPrompt
from .worlds.shapes import WORLD as SHAPES

PICTURES_PER_PROMPT = 2
"""Two, because diversity is the distance between pictures of one prompt."""
_RENDERINGS_PER_PROMPT = 4

Progress = Callable[[str, int, int], None]
"""Told the arm's name, its pictures done and its pictures in all."""


@dataclass(frozen=True)
class Outcome:
    """What one arm drew. Arrays have one entry per prompt-seed pair."""

    right: np.ndarray
    """Every attribute of the prompt right, 0 or 1."""
    share: np.ndarray
    """Share of the applicable attributes that are right."""
    features: np.ndarray
    """The oracle's features [N, F]."""
    evaluations: float
    """Network evaluations per picture; conditional and unconditional ones count one each."""


@dataclass(frozen=True)
class Figures:
    """An arm's figures, in percent and percentage points; the differences are paired against plain."""

    all: float
    common: float
    rare: float
    share: float
    evaluations: float
    diversity: float | None
    diversity_right: float | None
    """Of the prompts all of whose pictures are right: wrong ones differ in more than the prompt leaves open."""
    frechet: float
    diff: tuple[float, float, float] | None = None
    """Mean, lower and upper end of the 95 % interval; None for plain itself."""
    diff_common: tuple[float, float, float] | None = None
    diff_rare: tuple[float, float, float] | None = None
    diff_share: tuple[float, float, float] | None = None
    diversity_change: tuple[float, float, float] | None = None
    """In percent of plain's diversity."""


def pairs_of(count: int, seed: int, world: World = SHAPES) -> tuple[list[WorldPrompt], list[int], np.ndarray]:
    """The prompts, noise seeds and prompt numbers of `count` prompt-seed pairs; they depend on `seed` alone.

    Of the shapes' prompts half are common ones, half rare ones.

    Raises:
        ValueError: fewer than 4 pairs.
    """
    if count < 2 * PICTURES_PER_PROMPT:
        raise ValueError(f"--pairs = {count} is less than {2 * PICTURES_PER_PROMPT}")
    groups = np.arange(count) // PICTURES_PER_PROMPT
    prompts = world.test_prompts(int(groups[-1]) + 1, seed)
    return [prompts[group] for group in groups], noise_seeds(count, seed), groups


def noise_seeds(count: int, seed: int) -> list[int]:
    """One seed per picture; they depend on `seed` alone, and the first ones are the same for any count."""
    words = [np.random.SeedSequence([seed, index]).generate_state(2) for index in range(count)]
    return [int(high) << 31 | int(low) >> 1 for high, low in words]


def evaluate(
    name: str,
    arms: Sequence[Arm],
    pairs: int,
    seed: int,
    resume: Path | None = None,
    progress: Progress = lambda *_: None,
    guidance: float | None = None,
    world: World = SHAPES,
    steps: int | None = None,
) -> dict[str, Figures]:
    """Draw and judge `pairs` pictures per arm.

    Args:
        name: which of the world's models.
        arms: what to compare. `plain` is drawn too, first, since all are held against it.
        pairs: how many prompt-seed pairs.
        seed: decides prompts and noises.
        resume: a file that keeps finished chunks, so that an interrupted or extended run goes on where it was.
        progress: told after every chunk.
        guidance: another guidance scale than the model's best one.
        world: whose prompts, models and oracle.
        steps: another number of sampler steps than the model's own.

    Returns:
        Figures by arm name, in the arms' order.

    Raises:
        ValueError: too few pairs, or an arm that the model refuses.
        OSError: the resume file cannot be read or written.
    """
    prompts, seeds, groups = pairs_of(pairs, seed, world)
    model, oracle = LabModel(name, "cuda" if torch.cuda.is_available() else "cpu", guidance, world, steps), world.oracle()
    kept = Kept(resume, "key")
    arms = [Arm.named("plain"), *(arm for arm in arms if arm.name != "plain")]
    outcomes = {}
    for arm in arms:
        chunks = []
        for start in range(0, pairs, world.chunk):
            part = slice(start, min(start + world.chunk, pairs))
            key = _key(arm, model, prompts[part], seeds[part])
            chunk = _outcome(kept.get(key))
            if chunk is None:
                chunk = _draw(arm, model, oracle, prompts[part], seeds[part])
                kept.put(_line(key, chunk))
            chunks.append(chunk)
            progress(arm.name, part.stop, pairs)
        outcomes[arm.name] = Outcome(
            *(np.concatenate([getattr(chunk, field) for chunk in chunks]) for field in ("right", "share", "features")),
            evaluations=sum(chunk.evaluations * len(chunk.right) for chunk in chunks) / pairs,
        )
    return figures_of(outcomes, prompts, groups, seed, oracle, world)


def judged(oracle: WorldOracle, latents: Tensor, prompts: Sequence[WorldPrompt], evaluations: float) -> Outcome:
    """What the oracle reads in pictures [N, 3, H, W] (normalised pixels), one prompt each."""
    verdicts = oracle.judge(latents, prompts)
    return Outcome(
        right=np.array([float(verdict.all) for verdict in verdicts]),
        share=np.array([verdict.share for verdict in verdicts]),
        features=oracle.read(latents)[1].numpy(),
        evaluations=evaluations,
    )


def figures_of(
    outcomes: dict[str, Outcome],
    prompts: Sequence[WorldPrompt],
    groups: np.ndarray,
    seed: int,
    oracle: WorldOracle,
    world: World = SHAPES,
) -> dict[str, Figures]:
    """Figures by arm name of outcomes that were drawn from the same pairs; one of them is named "plain"."""
    reference = _renderings(oracle, prompts[::PICTURES_PER_PROMPT], seed, world)
    rare = np.array([prompt.rare for prompt in prompts])
    return {name: _figures(outcome, outcomes["plain"], groups, rare, reference) for name, outcome in outcomes.items()}


def _draw(arm: Arm, model: LabModel, oracle: WorldOracle, prompts: Sequence[WorldPrompt], seeds: list[int]) -> Outcome:
    model.evaluations = 0
    draw = seed_draws(seeds, model.world.size)
    pictures = arm.sample(model, prompts, lambda k: draw(k).to(model.device)).cpu()
    return judged(oracle, pictures, prompts, float(model.evaluations))


def _renderings(oracle: WorldOracle, prompts: Sequence[WorldPrompt], seed: int, world: World) -> np.ndarray:
    """Features of real renderings of the prompts: what the Fréchet distance is measured to."""
    rng = np.random.default_rng(seed)
    scenes = [world.picture(prompt, rng) for prompt in prompts for _ in range(_RENDERINGS_PER_PROMPT)]
    pictures = world.to_latent(np.round(np.stack(scenes).clip(0, 1) * 255).astype(np.uint8))
    return np.concatenate([oracle.read(part)[1].numpy() for part in pictures.split(256)])


def _figures(outcome: Outcome, plain: Outcome, groups: np.ndarray, rare: np.ndarray, reference: np.ndarray) -> Figures:
    def percent(values: np.ndarray) -> float:
        return 100 * float(values.mean())

    def against_plain(field: str, of: np.ndarray) -> tuple[float, float, float] | None:
        if outcome is plain:
            return None
        difference = getattr(outcome, field)[of] - getattr(plain, field)[of]
        mean, low, high = (100 * figure for figure in bootstrap(difference, groups[of]))
        return mean, low, high

    everything = np.ones_like(rare)
    kept = np.bincount(groups, 1 - outcome.right)[groups] == 0
    return Figures(
        all=percent(outcome.right),
        common=percent(outcome.right[~rare]),
        rare=percent(outcome.right[rare]),
        share=percent(outcome.share),
        evaluations=outcome.evaluations,
        diversity=diversity(outcome.features, groups),
        diversity_right=diversity(outcome.features[kept], groups[kept]),
        frechet=frechet(outcome.features, reference),
        diff=against_plain("right", everything),
        diff_common=against_plain("right", ~rare),
        diff_rare=against_plain("right", rare),
        diff_share=against_plain("share", everything),
        diversity_change=None if outcome is plain else diversity_change(outcome.features, plain.features, groups),
    )


@cache
def _weights(file: str) -> str:
    return hashlib.sha256(packaged(file)).hexdigest()


def _key(arm: Arm, model: LabModel, prompts: Sequence[WorldPrompt], seeds: list[int]) -> str:
    """What a chunk's result depends on; the arm's recipe changes when what the arm does changes."""
    weights, texts = [_weights(file) for file in model.trained.files], [str(prompt) for prompt in prompts]
    said = json.dumps([arm.recipe_for(model), model.name, model.guidance, model.steps, weights, texts, seeds])
    return f"{model.world.name} {model.name} {arm.name} {hashlib.sha256(said.encode()).hexdigest()[:16]}"


def _line(key: str, chunk: Outcome) -> dict[str, Any]:
    """A finished chunk as it is kept."""
    right, share = chunk.right.tolist(), chunk.share.tolist()
    return {"key": key, "right": right, "share": share, "features": packed(chunk.features), "evaluations": chunk.evaluations}


def _outcome(line: dict[str, Any] | None) -> Outcome | None:
    """The chunk that a line keeps; None where there is none."""
    try:
        features = unpacked(line["features"]).reshape(len(line["right"]), -1)
        return Outcome(np.array(line["right"]), np.array(line["share"]), features, line["evaluations"])
    except (ValueError, KeyError, TypeError):
        return None
