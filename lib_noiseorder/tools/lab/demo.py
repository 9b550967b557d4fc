"""The demo: many pictures of the embedded model from plain and from ordered noise, counted, in words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...ordering import order_noise
from ...settings import CUSTOM, NoiseOrderSettings
from ..equal_cost import evaluations_per_step, more_steps
from ..statistics import bootstrap
from .arms import seed_draws
from .evaluation import noise_seeds
from .model import GUIDANCE, STEPS, LabModel
from .oracle import Oracle, Verdict
from .prompted import PromptedModel
from .world import Prompt, test_prompts, to_pictures

SHOWN = 8
"""Pairs on the sheet."""
PLAIN = "plain noise"
_CHUNK = 64

Progress = Callable[[int, int], None]
"""Told the pictures done and the pictures in all."""


@dataclass(frozen=True)
class Drawn:
    """The pictures of one way of making the initial noise."""

    name: str
    pictures: Tensor
    """[N, 3, 24, 24] in 0..1."""
    verdicts: list[Verdict]
    evaluations: int
    """Network evaluations per picture."""

    @property
    def right(self) -> list[bool]:
        return [verdict.all for verdict in self.verdicts]


@dataclass(frozen=True)
class Comparison:
    """The same prompts drawn from plain and from ordered noise of the same seeds."""

    prompts: list[Prompt]
    plain: Drawn
    ordered: Drawn
    points: tuple[float, float, float]
    """How many more percent are right with ordered noise, with the lower and upper end of the 95 % interval."""
    skipped: list[str]
    """What was left out of the ordering, and why."""

    @property
    def counts(self) -> str:
        """How many are right on either side."""
        plain, ordered = (f"{drawn.name} {sum(drawn.right)} of {len(self.prompts)}" for drawn in (self.plain, self.ordered))
        return f"{plain}, {ordered}"

    @property
    def difference(self) -> str:
        """The difference of the two counts with its interval."""
        mean, low, high = self.points
        return f"{mean:+.1f} points, 95 % interval [{low:+.1f}, {high:+.1f}]"

    @property
    def meaning(self) -> str:
        """What the interval says."""
        _, low, high = self.points
        if self.plain.right == self.ordered.right:
            return "No pair differs in being right: these pairs show nothing either way."
        if low > 0:
            return f"The interval is above 0: {self.ordered.name} was better here by more than luck."
        if high < 0:
            return f"The interval is below 0: {self.ordered.name} was worse here by more than luck."
        return "The interval contains 0: this could be luck; more pairs (--pairs) say more."

    @property
    def shown(self) -> list[int]:
        """The numbers of the most telling pairs, by `rule`."""
        return telling(self.plain.right, self.ordered.right)

    @property
    def rule(self) -> str:
        """How the pairs on the sheet are chosen."""
        better, worse = self._one_right()
        return (
            f"Shown: {SHOWN} pairs, first those with one right picture, in the proportion of all such pairs ({better} with "
            f"{self.ordered.name}, {worse} with {self.plain.name}), then both right, then both wrong, each in the order drawn."
        )

    def _one_right(self) -> tuple[int, int]:
        """In how many pairs only the ordered picture is right, and in how many only the plain one."""
        pairs = list(zip(self.plain.right, self.ordered.right))
        return pairs.count((False, True)), pairs.count((True, False))


def compare(
    prompt: Prompt | None,
    settings: NoiseOrderSettings,
    family: str,
    pairs: int,
    seed: int,
    progress: Progress = lambda *_: None,
) -> Comparison:
    """Draw and judge `pairs` pictures from plain and as many from ordered noise.

    Args:
        prompt: drawn with every seed; None for a prompt of its own for each, see `prompts_of`.
        settings: how the noise is ordered.
        family: which embedded model, "eps" or "flow".
        pairs: how many prompt-seed pairs.
        seed: decides noises and prompts.
        progress: told after every batch.

    Raises:
        ValueError: settings that do not fit the pictures.
    """
    prompts = prompts_of(pairs, seed) if prompt is None else [prompt] * pairs
    seeds, model, oracle = noise_seeds(pairs, seed), LabModel(family), Oracle()
    plain, ordered, skipped, with_questions = [], [], [], 0
    for start in range(0, pairs, _CHUNK):
        part = slice(start, start + _CHUNK)
        draw, asked = seed_draws(seeds[part]), PromptedModel(model, prompts[part])
        model.evaluations = 0
        noise = order_noise(settings, draw, asked)
        ordered.append(asked.finish(noise.noise))
        skipped += [reason for reason in noise.report.skipped if reason not in skipped]
        progress(2 * start + len(ordered[-1]), 2 * pairs)
        with_questions, model.evaluations = model.evaluations, 0
        plain.append(model.sample(draw(1), prompts[part]))
        progress(2 * (start + len(plain[-1])), 2 * pairs)

    def drawn(name: str, chunks: list[Tensor], evaluations: int) -> Drawn:
        pictures = torch.cat(chunks)
        return Drawn(name, to_pictures(pictures), oracle.judge(pictures, prompts), evaluations)

    without = drawn(PLAIN, plain, model.evaluations)
    with_order = drawn("ordered noise" if settings.preset == CUSTOM else settings.preset, ordered, with_questions)
    differences = np.subtract(with_order.right, without.right, dtype=float)
    mean, low, high = (100 * figure for figure in bootstrap(differences, np.arange(pairs)))
    return Comparison(prompts, without, with_order, (mean, low, high), skipped)


def prompts_of(count: int, seed: int) -> list[Prompt]:
    """Prompts of two things in a relation, common ones and rare ones (combinations hardly seen in training) by turns."""
    prompts = test_prompts(count, seed, relations_only=True)
    common, rare = prompts[: count // 2], prompts[count // 2 :]
    return [prompt for both in zip(common, rare) for prompt in both] + rare[len(common) :]


def telling(plain: Sequence[bool], ordered: Sequence[bool], count: int = SHOWN) -> list[int]:
    """The numbers of the pairs that tell most of plain and ordered pictures, right or not.

    First those with one right picture, as many of either side as in all of them, but one at least where there is one; then
    those with both right, then with none. Each kind in its order.
    """
    kinds: dict[tuple[bool, bool], list[int]] = {(False, True): [], (True, False): [], (True, True): [], (False, False): []}
    for number, pair in enumerate(zip(plain, ordered)):
        kinds[pair].append(number)
    better, worse, *others = kinds.values()
    if len(better) + len(worse) > count and better and worse:
        many = min(max(round(count * len(better) / (len(better) + len(worse))), 1), count - 1)
        better, worse = better[:many], worse[: count - many]
    return [*better, *worse, *(number for kind in others for number in kind)][:count]


def told(comparison: Comparison, family: str, seed: int) -> list[str]:
    """The comparison in lines for a console: what was drawn, what came of it, and what it cost."""
    prompts, plain, ordered = comparison.prompts, comparison.plain, comparison.ordered
    steps = STEPS + more_steps(ordered.evaluations - plain.evaluations, evaluations_per_step(GUIDANCE[family]))
    if len(set(prompts)) == 1:
        what = f"“{prompts[0]}” {len(prompts)} times"
    else:
        rare = sum(prompt.rare for prompt in prompts)
        what = f"{len(prompts)} prompts drawn by seed {seed}, {rare} of them rare combinations, such as “{prompts[1]}”"
    return [
        f"drawn    {what}; embedded {family} model, noises of seed {seed}",
        f"right    {comparison.counts}: {comparison.difference}",
        f"         {comparison.meaning}",
        f"cost     {plain.name} {plain.evaluations} model evaluations per picture, {ordered.name} {ordered.evaluations}"
        + (f": as much as {steps} instead of {STEPS} plain steps" if steps > STEPS else ""),
        f"sheet    {comparison.rule}",
        *(f"skipped  {reason}" for reason in comparison.skipped),
    ]
