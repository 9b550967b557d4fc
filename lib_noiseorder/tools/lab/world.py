"""The shapes world: prompts such as "red circle left of blue square", and 24×24 pictures that show them.

Some combinations are rare in the training distribution (the analogue of a blue pizza): three colour-shape pairs, and
triangles above or below something.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from ...knobs import shown

SIZE = 24
"""Pictures are SIZE×SIZE RGB."""
COLOURS = ("red", "green", "blue", "yellow")
SHAPES = ("circle", "square", "triangle")
RELATIONS = ("left of", "right of", "above", "below")
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
COUNTS = ("a", "two", "three")
RARE_PAIRS = {("blue", "triangle"), ("yellow", "circle"), ("green", "square")}
RGB = np.array([[0.86, 0.12, 0.12], [0.10, 0.70, 0.16], [0.12, 0.22, 0.88], [0.92, 0.84, 0.10]], np.float32)

# token ids
PAD, NO_PROMPT, _COUNT, _COLOUR, _SHAPE, _RELATION, VOCABULARY = 0, 1, 2, 5, 9, 12, 16
TOKENS = 6

# pixel normalisation to about zero mean and unit standard deviation, like a latent
MEAN, STD = 0.457, 0.144

_RADII = (3.0, 3.5, 4.0)
_MASK = 11
_MARGIN = 4
_SHARE_OF_RARE_PAIRS = 0.004
_SHARE_OF_RARE_VERTICAL = 0.04


@dataclass(frozen=True)
class Prompt:
    """What a picture is to show: `count` equal objects, or one object in a relation to another."""

    colour: str
    shape: str
    count: int = 1
    relation: str | None = None
    other_colour: str | None = None
    other_shape: str | None = None

    @staticmethod
    def parse(text: str) -> Prompt:
        """The prompt that a text says. Raises ValueError, telling what can be said."""
        thing = rf"(?:a |an |the )?({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})"
        words = " ".join(text.lower().replace(",", " ").split())
        pair = re.fullmatch(rf"{thing} (?:to the |is )?({'|'.join(RELATIONS)}) {thing}", words)
        if pair:
            prompt = Prompt(pair[1], pair[2], 1, pair[3], pair[4], pair[5])
            if (prompt.colour, prompt.shape) != (prompt.other_colour, prompt.other_shape):
                return prompt
        many = re.fullmatch(rf"(two|three) ({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})s", words)
        if many:
            return Prompt(many[2], many[3], COUNTS.index(many[1]) + 1)
        one = re.fullmatch(thing, words)
        if one:
            return Prompt(one[1], one[2])
        raise ValueError(
            f"the embedded model cannot draw {shown(text)}. It knows 'COLOUR SHAPE', 'two|three COLOUR SHAPEs' and "
            f"'COLOUR SHAPE RELATION COLOUR SHAPE' (two different things), with colours {', '.join(COLOURS)}; "
            f"shapes {', '.join(SHAPES)}; relations {', '.join(RELATIONS)}"
        )

    def __str__(self) -> str:
        if self.relation:
            return f"{self.colour} {self.shape} {self.relation} {self.other_colour} {self.other_shape}"
        return f"{COUNTS[self.count - 1]} {self.colour} {self.shape}" + ("s" if self.count > 1 else "")

    @property
    def rare(self) -> bool:
        if (self.colour, self.shape) in RARE_PAIRS or (self.other_colour, self.other_shape) in RARE_PAIRS:
            return True
        return self.relation in ("above", "below") and "triangle" in (self.shape, self.other_shape)

    @property
    def tokens(self) -> list[int]:
        first = [_COUNT + self.count - 1, _COLOUR + COLOURS.index(self.colour), _SHAPE + SHAPES.index(self.shape)]
        if not self.relation:
            return [*first, PAD, PAD, PAD]
        relation = _RELATION + RELATIONS.index(self.relation)
        return [*first, relation, _COLOUR + COLOURS.index(self.other_colour), _SHAPE + SHAPES.index(self.other_shape)]


def to_tokens(prompts: list[Prompt]) -> Tensor:
    """Token ids [B, TOKENS]."""
    return torch.tensor([prompt.tokens for prompt in prompts])


def random_prompt(rng: np.random.Generator, uniform: bool = False) -> Prompt:
    """A prompt of the training distribution, or with `uniform` one with all combinations equally likely."""
    kind = rng.choice(3, p=[0.2, 0.6, 0.2])
    first, second = _random_pair(rng, uniform), _random_pair(rng, uniform)
    if kind == 0:
        return Prompt(*first)
    if kind == 2:
        return Prompt(*first, count=int(rng.integers(2, 4)))
    while second == first:
        second = _random_pair(rng, uniform)
    triangle = "triangle" in (first[1], second[1])
    vertical = rng.random() < (_SHARE_OF_RARE_VERTICAL if triangle and not uniform else 0.5)
    return Prompt(*first, 1, RELATIONS[int(rng.integers(2)) + 2 * vertical], *second)


def test_prompts(count: int, seed: int, relations_only: bool = False) -> list[Prompt]:
    """Prompts for an evaluation: the first half common ones, the second half rare ones.

    Args:
        count: how many.
        seed: decides them.
        relations_only: leave out prompts of one kind of thing, with or without a number.
    """
    rng = np.random.default_rng(seed)
    common: list[Prompt] = []
    rare: list[Prompt] = []
    while len(common) < count // 2:
        prompt = random_prompt(rng)
        if not prompt.rare and (prompt.relation or not relations_only):
            common.append(prompt)
    while len(rare) < count - count // 2:
        prompt = random_prompt(rng, uniform=True)
        if prompt.rare and (prompt.relation or not relations_only):
            rare.append(prompt)
    return common + rare


test_prompts.__test__ = False  # not a test, whatever pytest makes of the name


@dataclass(frozen=True)
class Thing:
    """One object of a picture; x and y are its centre in pixels, right and down."""

    colour: str
    shape: str
    x: int
    y: int


def place(prompt: Prompt, rng: np.random.Generator) -> list[Thing]:
    """Objects that show the prompt, at random places that do not touch."""
    low, high = _MARGIN, SIZE - 1 - _MARGIN
    if not prompt.relation:
        while True:
            centres = rng.integers(low, high + 1, (prompt.count, 2))
            apart = [abs(centres[i] - centres[j]).max() >= 8 for i in range(prompt.count) for j in range(i)]
            if all(apart):
                return [Thing(prompt.colour, prompt.shape, int(x), int(y)) for x, y in centres]
    distance, offset = int(rng.integers(9, 15)), int(rng.integers(-4, 5))
    along = int(rng.integers(low, high - distance + 1))
    across = int(rng.integers(low + max(0, -offset), high - max(0, offset) + 1))
    first, second = (along, across), (along + distance, across + offset)
    if prompt.relation in ("right of", "below"):
        first, second = second, first
    if prompt.relation in ("above", "below"):
        first, second = first[::-1], second[::-1]
    return [Thing(prompt.colour, prompt.shape, *first), Thing(prompt.other_colour, prompt.other_shape, *second)]


def render(things: list[Thing], rng: np.random.Generator) -> np.ndarray:
    """A picture [SIZE, SIZE, 3] in 0..1: the things in random size on a random grey."""
    pad = _MASK // 2 + 1
    picture = np.full((SIZE, SIZE, 3), rng.uniform(0.30, 0.62), np.float32)
    picture = np.pad(picture + rng.uniform(-0.02, 0.02, 3).astype(np.float32), ((pad, pad), (pad, pad), (0, 0)))
    for thing in things:
        mask = _mask(thing.shape, _RADII[rng.integers(len(_RADII))])[..., None]
        colour = np.clip(RGB[COLOURS.index(thing.colour)] + rng.uniform(-0.06, 0.06, 3).astype(np.float32), 0, 1)
        y, x = thing.y + 1, thing.x + 1
        region = picture[y : y + _MASK, x : x + _MASK]
        region[:] = region * (1 - mask) + mask * colour
    return picture[pad : pad + SIZE, pad : pad + SIZE]


@cache
def _mask(shape: str, radius: float, supersampling: int = 6) -> np.ndarray:
    """Coverage [_MASK, _MASK] of a shape of this radius in pixels."""
    grid = (np.arange(_MASK * supersampling) + 0.5) / supersampling - _MASK / 2
    x, y = np.meshgrid(grid, grid)
    if shape == "circle":
        inside = x**2 + y**2 <= radius**2
    elif shape == "square":
        inside = (abs(x) <= radius * 0.9) & (abs(y) <= radius * 0.9)
    else:
        depth = (y + radius) / (2 * radius)  # 0 at the apex, 1 at the base
        inside = (depth >= 0) & (depth <= 1) & (abs(x) <= depth * radius * 1.1)
    return inside.reshape(_MASK, supersampling, _MASK, supersampling).mean((1, 3)).astype(np.float32)


def to_latent(pictures: np.ndarray) -> Tensor:
    """uint8 pictures [B, SIZE, SIZE, 3] → normalised pixels [B, 3, SIZE, SIZE]."""
    return (torch.from_numpy(pictures).float().permute(0, 3, 1, 2) / 255 - MEAN) / STD


def to_pictures(latent: Tensor) -> Tensor:
    """Normalised pixels [B, 3, SIZE, SIZE] → the same in 0..1."""
    return (latent * STD + MEAN).clamp(0, 1)


def _random_pair(rng: np.random.Generator, uniform: bool) -> tuple[str, str]:
    pairs = [(colour, shape) for colour in COLOURS for shape in SHAPES]
    if uniform:
        return pairs[rng.choice(len(pairs))]
    common = (1 - _SHARE_OF_RARE_PAIRS * len(RARE_PAIRS)) / (len(pairs) - len(RARE_PAIRS))
    return pairs[rng.choice(len(pairs), p=[_SHARE_OF_RARE_PAIRS if pair in RARE_PAIRS else common for pair in pairs])]
