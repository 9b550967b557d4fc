"""What the lab's judge is taught with: families of prompts that nearly mean the same, and pictures that show them or nearly do.

A picture's truth is the scene that it was drawn from; no oracle is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import numpy as np

from . import world as shapes
from .worlds.pictograms import scenes as pictograms

NEAR_MISSES = 5
"""Other prompts of a family."""
_SPOILED = 3
"""Pictures of a family that show no prompt: the first one's with something wrong."""
PICTURES = 2 + NEAR_MISSES + _SPOILED
"""Of a family: two of its first prompt, one of each other, and the spoiled ones."""
CELLS = 8
"""Along each side of a picture; as many as the judge has patches."""
ROLES = 5 + len(pictograms.CORNERS)
"""Of a thing: by itself, left, right, upper or lower one of two, or in which corner."""
KINDS = (*shapes.SHAPES, *pictograms.OBJECTS)
COLOURS = pictograms.COLOURS
_OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}


@dataclass(frozen=True)
class Vocabulary:
    """A world's words, and what its prompts and things call the kind of a thing."""

    module: ModuleType
    kind: str
    kinds: Sequence[str]
    corners: Sequence[str] = ()

    @property
    def colours(self) -> Sequence[str]:
        return self.module.COLOURS

    def things(self, prompt: Any) -> list[tuple[str, str]]:
        """Colour and kind of everything that is to be seen."""
        first = [(prompt.colour, getattr(prompt, self.kind))] * prompt.count
        return [*first, (prompt.other_colour, getattr(prompt, f"other_{self.kind}"))] if prompt.relation else first

    def picture(self, things: Sequence[Any], seed: int) -> np.ndarray:
        """A picture [size, size, 3] in 0..1; the seed decides ground, sizes and shades."""
        return self.module.render(things, np.random.default_rng(seed))


VOCABULARIES = {
    "shapes": Vocabulary(shapes, "shape", shapes.SHAPES),
    "pictograms": Vocabulary(pictograms, "object", pictograms.OBJECTS, pictograms.CORNERS),
}


def words() -> list[str]:
    """Every word of both worlds' prompts."""
    sentences = [*pictograms.RELATIONS, *pictograms.CORNERS, *pictograms.COUNTS, "in the corner"]
    for vocabulary in VOCABULARIES.values():
        sentences += [*vocabulary.colours, *vocabulary.kinds, *(f"{kind}s" for kind in vocabulary.kinds)]
    return sorted({word for sentence in sentences for word in sentence.split()})


def any_prompt(vocabulary: Vocabulary, rng: np.random.Generator) -> Any:
    """A prompt in which every combination is equally likely: a judge is to know the rare ones, too."""
    prompt = vocabulary.module.Prompt(*_pair(vocabulary, rng))
    sort = rng.choice(["one", "many", "corner", "relation"], p=[0.1, 0.2, 0.15, 0.55])
    if sort == "many":
        return replace(prompt, count=int(rng.integers(2, 4)))
    if sort == "corner" and vocabulary.corners:
        return replace(prompt, corner=str(rng.choice(vocabulary.corners)))
    return prompt if sort == "one" else _related(vocabulary, prompt, rng)


def near_misses(vocabulary: Vocabulary, prompt: Any, rng: np.random.Generator) -> list[Any]:
    """NEAR_MISSES prompts that differ from this one, and from each other, in one thing that matters."""
    kind, other_kind = vocabulary.kind, f"other_{vocabulary.kind}"

    def changed(field: str, values: Sequence[str]) -> Any:
        return replace(prompt, **{field: str(rng.choice([value for value in values if value != getattr(prompt, field)]))})

    found = [changed("colour", vocabulary.colours), changed(kind, vocabulary.kinds)]
    if prompt.relation:
        colours, kinds = (prompt.colour, prompt.other_colour), (getattr(prompt, kind), getattr(prompt, other_kind))
        found += [
            replace(prompt, colour=colours[1], other_colour=colours[0]),
            replace(prompt, **{kind: kinds[1], other_kind: kinds[0]}),
            replace(prompt, relation=_OPPOSITE[prompt.relation]),
            changed("relation", pictograms.RELATIONS),
            changed("other_colour", vocabulary.colours),
            changed(other_kind, vocabulary.kinds),
            vocabulary.module.Prompt(colours[0], kinds[0], count=int(rng.integers(1, 3))),
        ]
    else:
        plain = vocabulary.module.Prompt(prompt.colour, getattr(prompt, kind))
        found += [replace(plain, count=count) for count in (1, 2, 3) if count != prompt.count]
        found += [changed("colour", vocabulary.colours), changed(kind, vocabulary.kinds), _related(vocabulary, plain, rng)]
        if getattr(prompt, "corner", None):
            found += [changed("corner", vocabulary.corners) for _ in range(4)]
    taken = [prompt]
    for number in rng.permutation(len(found)):
        other = found[number]
        pairs = vocabulary.things(other)
        if other.relation and pairs[0] == pairs[1]:
            continue
        if len(taken) <= NEAR_MISSES and not any(agree(vocabulary, other, one) for one in taken):
            taken.append(other)
    while len(taken) <= NEAR_MISSES:
        other = any_prompt(vocabulary, rng)
        if not any(agree(vocabulary, other, one) for one in taken):
            taken.append(other)
    return taken[1:]


def agree(vocabulary: Vocabulary, one: Any, other: Any) -> bool:
    """Whether a picture of one prompt may show the other: "a left of b" is "b right of a", and "a" may be in a corner."""
    places = [_place(vocabulary, prompt) for prompt in (one, other)]
    return sorted(vocabulary.things(one)) == sorted(vocabulary.things(other)) and (None in places or places[0] == places[1])


SLOTS = (3, 3 + len(pictograms.CORNERS), len(COLOURS), len(KINDS), 1 + len(COLOURS), 1 + len(KINDS))
"""How many values each of a prompt's `slots` has."""


def slots(vocabulary: Vocabulary, prompt: Any) -> list[int]:
    """What a prompt means, in numbers: how many, placed how, and colour and kind of the first and of the second thing."""
    first, *others = vocabulary.things(replace(prompt, count=1))
    place = 0
    if prompt.relation:
        if prompt.relation in ("right of", "below"):
            first, others = others[0], [first]
        place = 2 if prompt.relation in ("above", "below") else 1
    elif getattr(prompt, "corner", None):
        place = 3 + vocabulary.corners.index(prompt.corner)
    second = [1 + COLOURS.index(others[0][0]), 1 + KINDS.index(others[0][1])] if others else [0, 0]
    return [prompt.count - 1, place, COLOURS.index(first[0]), KINDS.index(first[1]), *second]


def _roles(vocabulary: Vocabulary, prompt: Any) -> list[int]:
    """The role of each of the prompt's things."""
    if prompt.relation:
        first = pictograms.RELATIONS.index(prompt.relation)
        return [1 + first, 1 + pictograms.RELATIONS.index(_OPPOSITE[prompt.relation])]
    corner = getattr(prompt, "corner", None)
    return [5 + vocabulary.corners.index(corner) if corner else 0] * prompt.count


def _place(vocabulary: Vocabulary, prompt: Any) -> object:
    if not prompt.relation:
        return getattr(prompt, "corner", None)
    first, second = vocabulary.things(prompt)
    if prompt.relation in ("right of", "below"):
        first, second = second, first
    return prompt.relation in ("above", "below"), first, second


@dataclass(frozen=True)
class Family:
    """Prompts that nearly mean the same, and pictures of them."""

    world: str
    prompts: list[Any]
    pictures: np.ndarray
    """[PICTURES, size, size, 3] in 0..1: of the first prompt, of each, and spoiled ones."""
    seen: np.ndarray | None = None
    """What is centred in each of a picture's cells [3, 2 + NEAR_MISSES, CELLS, CELLS]: which of KINDS, of COLOURS and of ROLES,
    from 1; 0 where nothing is. None where the pictures are not renderings."""


SHOWN = [0, *range(1 + NEAR_MISSES), *[-1] * _SPOILED]
"""Which of a family's prompts its pictures show; −1: none."""


def family(world: str, rng: np.random.Generator) -> Family:
    """A family around a random prompt."""
    vocabulary = VOCABULARIES[world]
    prompt = any_prompt(vocabulary, rng)
    prompts = [prompt, *near_misses(vocabulary, prompt, rng)]
    scenes = [vocabulary.module.place(one, rng) for one in (prompt, *prompts)]
    pictures = [vocabulary.picture(things, int(rng.integers(2**31))) for things in scenes]
    seen = np.zeros((3, len(scenes), CELLS, CELLS), np.int64)
    for number, things in enumerate(scenes):
        for thing, role in zip(things, _roles(vocabulary, prompts[SHOWN[number]])):
            cell = number, int(thing.y * CELLS / len(pictures[0])), int(thing.x * CELLS / len(pictures[0]))
            kind, colour = KINDS.index(getattr(thing, vocabulary.kind)), COLOURS.index(thing.colour)
            seen[(slice(None), *cell)] = 1 + kind, 1 + colour, 1 + role
    pictures += [spoiled(vocabulary, scenes[number % 2], rng) for number in range(_SPOILED)]
    return Family(world, prompts, np.stack(pictures).astype(np.float32), seen)


def spoiled(vocabulary: Vocabulary, things: list[Any], rng: np.random.Generator) -> np.ndarray:
    """A picture of these things with one too many, one missing, one changed, or one that is half another thing."""
    seed, which = int(rng.integers(2**31)), int(rng.integers(len(things)))
    picture = vocabulary.picture(things, seed)
    sort = rng.choice(["extra", "missing", "changed", "halves", "mixed"], p=[0.3, 0.15, 0.15, 0.2, 0.2])
    if sort == "missing":
        return vocabulary.picture(things[:which] + things[which + 1 :], seed)
    if sort == "extra":
        place = _free_place(vocabulary, things, rng)
        if place is not None:
            colour, kind = _pair(vocabulary, rng)
            alike = {} if rng.random() < 0.5 else {"colour": colour, vocabulary.kind: kind}
            extra = replace(things[which], x=place[0], y=place[1], **alike)
            share = rng.uniform(0.6, 1)
            return (1 - share) * picture + share * vocabulary.picture([*things, extra], seed)
    thing = things[which]
    field, values = (("colour", vocabulary.colours), (vocabulary.kind, vocabulary.kinds))[int(rng.integers(2))]
    other = replace(thing, **{field: str(rng.choice([value for value in values if value != getattr(thing, field)]))})
    changed = vocabulary.picture([*things[:which], other, *things[which + 1 :]], seed)
    if sort == "mixed":
        share = rng.uniform(0.35, 0.65)
        return (1 - share) * picture + share * changed
    if sort == "halves":
        along = np.arange(len(picture))
        half = (along < thing.x)[None, :, None] if rng.random() < 0.5 else (along < thing.y)[:, None, None]
        return np.where(half, changed, picture)
    return changed


def _free_place(vocabulary: Vocabulary, things: Sequence[Any], rng: np.random.Generator) -> tuple[int, int] | None:
    """Where there is room for another thing; None where none was found."""
    prompt = vocabulary.module.Prompt(things[0].colour, getattr(things[0], vocabulary.kind))
    apart = 8 if vocabulary.module is shapes else pictograms.SPRITE
    for _ in range(12):
        [new] = vocabulary.module.place(prompt, rng)
        if all(max(abs(new.x - thing.x), abs(new.y - thing.y)) >= apart for thing in things):
            return new.x, new.y
    return None


def _pair(vocabulary: Vocabulary, rng: np.random.Generator) -> tuple[str, str]:
    choose: Callable[[Sequence[str]], str] = lambda values: values[int(rng.integers(len(values)))]  # noqa: E731
    return choose(vocabulary.colours), choose(vocabulary.kinds)


def _related(vocabulary: Vocabulary, prompt: Any, rng: np.random.Generator) -> Any:
    """The prompt with another thing beside its own."""
    first = (prompt.colour, getattr(prompt, vocabulary.kind))
    second = first
    while second == first:
        second = _pair(vocabulary, rng)
    return vocabulary.module.Prompt(*first, 1, pictograms.RELATIONS[int(rng.integers(4))], *second)
