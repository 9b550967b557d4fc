"""The pictograms: prompts such as "a red fish left of a blue house", and 32×32 pictures that show them.

Ten pictograms in five colours on plain or graded grounds of any brightness; how many, in what relation, in which corner.
Five pairs of colour and object are rare in the training distribution.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np
import torch
from PIL import Image
from torch import Tensor

SIZE = 32
"""Pictures are SIZE×SIZE RGB."""
OBJECTS = ("apple", "car", "cat", "tree", "house", "star", "heart", "fish", "pizza", "mushroom")
COLOURS = ("red", "green", "blue", "yellow", "purple")
RELATIONS = ("left of", "right of", "above", "below")
CORNERS = ("top left", "top right", "bottom left", "bottom right")
COUNTS = ("a", "two", "three")
RARE_PAIRS = {("blue", "pizza"), ("red", "fish"), ("green", "car"), ("yellow", "heart"), ("purple", "tree")}
RGB = np.array([[0.93, 0.13, 0.12], [0.12, 0.72, 0.20], [0.15, 0.32, 0.95], [0.98, 0.86, 0.10], [0.70, 0.20, 0.85]], np.float32)

# token ids
PAD, NO_PROMPT, _COUNT, _COLOUR, _OBJECT = 0, 1, 2, 5, 10
_RELATION = _OBJECT + len(OBJECTS)
_CORNER = _RELATION + len(RELATIONS)
VOCABULARY = _CORNER + len(CORNERS)
TOKENS = 6

# pixel normalisation to about zero mean and unit standard deviation, like a latent
MEAN, STD = 0.47, 0.21

SPRITE = 12
"""Pixels per side of a pictogram."""
_PATCH = 4
_FIRST = SPRITE // 2
"""Things are centred on whole patches, the first of which is here: one covers 3×3 patches."""
_PLACES = (SIZE - SPRITE) // _PATCH + 1
_LOW, _HIGH = _FIRST, SIZE - 1 - _FIRST
_RARE_WEIGHT = 0.02
"""How probable a rare pair is, as a share of a common one's probability."""
_RARE_TESTS = 1 / 3


@dataclass(frozen=True)
class Prompt:
    """What a picture is to show: `count` equal things, one in a corner, or one in a relation to another."""

    colour: str
    object: str
    count: int = 1
    relation: str | None = None
    other_colour: str | None = None
    other_object: str | None = None
    corner: str | None = None

    def __str__(self) -> str:
        if self.relation:
            return f"a {self.colour} {self.object} {self.relation} a {self.other_colour} {self.other_object}"
        if self.corner:
            return f"a {self.colour} {self.object} in the {self.corner} corner"
        return f"{COUNTS[self.count - 1]} {self.colour} {self.object}" + ("s" if self.count > 1 else "")

    @property
    def things(self) -> list[tuple[str, str]]:
        """Colour and object of every thing that is to be seen."""
        first = [(self.colour, self.object)] * self.count
        return [*first, (self.other_colour or "", self.other_object or "")] if self.relation else first

    @property
    def rare(self) -> bool:
        return any(thing in RARE_PAIRS for thing in self.things)

    @property
    def tokens(self) -> list[int]:
        first = [_COUNT + self.count - 1, *_pair_tokens(self.colour, self.object)]
        if self.relation:
            relation = _RELATION + RELATIONS.index(self.relation)
            return [*first, relation, *_pair_tokens(self.other_colour, self.other_object)]
        return [*first, _CORNER + CORNERS.index(self.corner) if self.corner else PAD, PAD, PAD]


def _pair_tokens(colour: str | None, thing: str | None) -> list[int]:
    return [_COLOUR + COLOURS.index(colour or ""), _OBJECT + OBJECTS.index(thing or "")]


def random_prompt(rng: np.random.Generator) -> Prompt:
    """A prompt of the training distribution."""
    kind = rng.choice(4, p=[0.15, 0.22, 0.43, 0.20])
    first = _random_pair(rng)
    if kind == 0:
        return Prompt(*first)
    if kind == 1:
        return Prompt(*first, count=int(rng.integers(2, 4)))
    if kind == 3:
        return Prompt(*first, corner=CORNERS[rng.integers(4)])
    second = _random_pair(rng)
    while second == first:
        second = _random_pair(rng)
    return Prompt(*first, 1, RELATIONS[rng.integers(4)], *second)


def _random_pair(rng: np.random.Generator) -> tuple[str, str]:
    pairs = [(colour, thing) for colour in COLOURS for thing in OBJECTS]
    weights = np.array([_RARE_WEIGHT if pair in RARE_PAIRS else 1.0 for pair in pairs])
    return pairs[rng.choice(len(pairs), p=weights / weights.sum())]


def test_prompts(count: int, seed: int) -> list[Prompt]:
    """Prompts for an evaluation, in random order, a third of them with a rare pair.

    Args:
        count: how many.
        seed: decides them.
    """
    rng = np.random.default_rng([77, seed])
    prompts: list[Prompt] = []
    common = count - round(count * _RARE_TESTS)
    while len(prompts) < common:
        prompt = random_prompt(rng)
        if not prompt.rare:
            prompts.append(prompt)
    rare_pairs = sorted(RARE_PAIRS)
    while len(prompts) < count:
        prompt, rare = random_prompt(rng), rare_pairs[rng.integers(len(rare_pairs))]
        others = (prompt.other_colour, prompt.other_object)
        if prompt.relation and rng.random() < 0.5:
            prompt = Prompt(prompt.colour, prompt.object, 1, prompt.relation, *rare)
        else:
            prompt = Prompt(*rare, prompt.count, prompt.relation, *others, prompt.corner)
        if not prompt.relation or len(set(prompt.things)) == 2:
            prompts.append(prompt)
    return [prompts[number] for number in rng.permutation(count)]


test_prompts.__test__ = False  # not a test, whatever pytest makes of the name


@dataclass(frozen=True)
class Thing:
    """One pictogram of a picture; x and y are its centre in pixels, right and down. `colour` or `object` may be "other"."""

    colour: str
    object: str
    x: float
    y: float


def place(prompt: Prompt, rng: np.random.Generator) -> list[Thing]:
    """Pictograms that show the prompt, at random places on whole patches that do not overlap."""
    while True:
        centres = [(_snapped(x), _snapped(y)) for x, y in _centres(prompt, rng)]
        if _apart(centres):
            return [Thing(*thing, *centre) for thing, centre in zip(prompt.things, centres)]


def _centres(prompt: Prompt, rng: np.random.Generator) -> list[tuple[int, int]]:
    if prompt.relation:
        distance, offset = int(rng.integers(13, 19)), int(rng.integers(-4, 5))
        along = int(rng.integers(_LOW, _HIGH - distance + 1))
        across = int(rng.integers(_LOW + max(0, -offset), _HIGH - max(0, offset) + 1))
        first, second = (along, across), (along + distance, across + offset)
        if prompt.relation in ("right of", "below"):
            first, second = second, first
        if prompt.relation in ("above", "below"):
            first, second = first[::-1], second[::-1]
        return [first, second]
    if prompt.corner:
        x, y = (int(rng.integers(_LOW, _LOW + 4)) for _ in range(2))
        return [(SIZE - 1 - x if "right" in prompt.corner else x, SIZE - 1 - y if "bottom" in prompt.corner else y)]
    while True:
        centres = [(int(x), int(y)) for x, y in rng.integers(_LOW, _HIGH + 1, (prompt.count, 2))]
        if _apart(centres):
            return centres


def _snapped(value: int) -> int:
    return _FIRST + _PATCH * min(_PLACES - 1, max(0, round((value - _FIRST) / _PATCH)))


def _apart(centres: list[tuple[int, int]]) -> bool:
    return all(
        max(abs(x - other_x), abs(y - other_y)) >= SPRITE
        for number, (x, y) in enumerate(centres)
        for other_x, other_y in centres[:number]
    )


def render(things: list[Thing], rng: np.random.Generator) -> np.ndarray:
    """A picture [SIZE, SIZE, 3] in 0..1: the pictograms in their colours, either way round, on a random ground."""
    picture = _ground(rng)
    for thing in things:
        shade = RGB[COLOURS.index(thing.colour)] * rng.uniform(0.88, 1.08) + rng.uniform(-0.05, 0.05, 3)
        tinted, alpha = sprite(thing.object, np.clip(shade, 0, 1), flipped=rng.random() < 0.5)
        top, left = int(thing.y) - SPRITE // 2, int(thing.x) - SPRITE // 2
        region = picture[top : top + SPRITE, left : left + SPRITE]
        region[:] = region * (1 - alpha) + alpha * tinted
    return picture


def sprite(thing: str, colour: np.ndarray, flipped: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """An object in a colour [3]: its pixels [SPRITE, SPRITE, 3] and its coverage [SPRITE, SPRITE, 1], in 0..1."""
    pixels = _sprites()[OBJECTS.index(thing)]
    light, alpha = np.split(pixels[:, ::-1] if flipped else pixels, 2, axis=-1)
    dark, bright = colour * 0.22, colour + (1 - colour) * 0.75
    return np.where(
        light < 0.55, dark + (colour - dark) * light / 0.55, colour + (bright - colour) * (light - 0.55) / 0.45
    ), alpha


@cache
def _sprites() -> np.ndarray:
    """Lightness and coverage of every object [objects, SPRITE, SPRITE, 2] in 0..1, from the sheet beside this file."""
    sheet = Image.open(io.BytesIO(files(__package__).joinpath("sprites.png").read_bytes()))
    return np.stack(np.split(np.asarray(sheet, np.float32) / 255, len(OBJECTS), axis=1))


def _ground(rng: np.random.Generator) -> np.ndarray:
    """A plain ground, or one graded in a random direction."""
    base = rng.uniform(0.15, 0.85) + rng.uniform(-0.07, 0.07, 3)
    share = np.zeros((SIZE, SIZE, 1))
    end = base
    if rng.random() >= 0.5:
        end = base + rng.uniform(-0.28, 0.28) + rng.uniform(-0.06, 0.06, 3)
        angle = rng.uniform(0, 2 * np.pi)
        y, x = np.mgrid[:SIZE, :SIZE] / (SIZE - 1) - 0.5
        share = np.clip((x * np.cos(angle) + y * np.sin(angle)) / 1.2 + 0.5, 0, 1)[..., None]
    return np.clip(base * (1 - share) + end * share, 0, 1).astype(np.float32)


def to_latent(pictures: np.ndarray) -> Tensor:
    """uint8 pictures [B, SIZE, SIZE, 3] → normalised pixels [B, 3, SIZE, SIZE]."""
    return (torch.from_numpy(pictures).float().permute(0, 3, 1, 2) / 255 - MEAN) / STD


def to_pictures(latent: Tensor) -> Tensor:
    """Normalised pixels [B, 3, SIZE, SIZE] → the same in 0..1."""
    return (latent * STD + MEAN).clamp(0, 1)
