"""The pictograms' oracle: a detector that reads a picture, and the rules by which its prompt is held against it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...packaged import packaged_weights
from .scenes import COLOURS, MEAN, OBJECTS, SIZE, SPRITE, STD, Prompt, Thing

_CELL = 2
"""Pixels per side of a detection cell."""
_OTHER = "other"
"""An object or colour that is none of the world's, such as half a house, or a morph of two things."""
_AT_ONCE = 256


class Residual(nn.Module):
    """Two convolutions beside the way straight through."""

    def __init__(self, width: int):
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)
        self.conv1, self.conv2 = (nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.norm2(self.conv1(F.relu(self.norm1(x))))))


class Detector(nn.Module):
    """Says for each of 16×16 cells whether a thing is centred there, which object it is, and in which colour."""

    def __init__(self, width: int = 56):
        super().__init__()
        stem = (nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, width, 4, _CELL, 1))
        self.stem = nn.Sequential(*stem)
        self.body = nn.Sequential(*(Residual(width) for _ in range(4)), nn.BatchNorm2d(width), nn.ReLU())
        self.head = nn.Conv2d(width, 1 + len(OBJECTS) + 1 + len(COLOURS) + 1, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [B, 18, 16, 16] (thing, 11 objects, 6 colours) and features [B, 56, 16, 16] of normalised pixels."""
        features = self.body(self.stem(x))
        return self.head(features), features


@dataclass(frozen=True)
class Verdict:
    """What of a prompt a picture gets right."""

    count: bool
    objects: float
    """The share of the things wanted whose object is there, whatever its colour."""
    colours: float
    pairs: float
    """The share of the things wanted that are there."""
    place: bool | None = None
    """Relation or corner; None where the prompt has neither."""

    @property
    def all(self) -> bool:
        return self.count and self.pairs == 1 and self.place is not False

    @property
    def share(self) -> float:
        """Share of the applicable attributes that are right."""
        parts = [self.count, self.objects, self.colours, self.pairs, *([] if self.place is None else [self.place])]
        return sum(parts) / len(parts)


class Oracle:
    """The trained detector with its rules for reading things out of a picture."""

    def __init__(self) -> None:
        self.detector = Detector()
        self.detector.load_state_dict(packaged_weights("pictograms-oracle.safetensors"))
        self.detector.eval()

    @torch.no_grad()
    def read(self, x: Tensor) -> tuple[list[list[Thing]], Tensor]:
        """The things in each picture [B, 3, 32, 32] (normalised pixels), and features [B, F] for diversity figures."""
        x = x.float().cpu().clamp(-MEAN / STD, (1 - MEAN) / STD)
        found: list[list[Thing]] = [[] for _ in x]
        features = []
        for start in range(0, len(x), _AT_ONCE):
            logits, maps = self.detector(x[start : start + _AT_ONCE])
            features.append(F.avg_pool2d(maps, 4).flatten(1))
            there, objects, colours = logits.split([1, len(OBJECTS) + 1, len(COLOURS) + 1], 1)
            there = there.sigmoid()
            peaks = (F.max_pool2d(there, 5, 1, 2) == there) & (there > 0.5)
            for picture, _, row, column in peaks.nonzero().tolist():
                thing = int(objects[picture, :, row, column].argmax())
                colour = int(colours[picture, :, row, column].argmax())
                names = (*COLOURS, _OTHER)[colour], (*OBJECTS, _OTHER)[thing]
                found[start + picture].append(Thing(*names, _CELL * column + 0.5, _CELL * row + 0.5))
        return found, torch.cat(features)

    def judge(self, x: Tensor, prompts: Sequence[Prompt]) -> list[Verdict]:
        """Verdicts on pictures [B, 3, 32, 32] (normalised pixels), one prompt each."""
        return [verdict(things, prompt) for things, prompt in zip(self.read(x)[0], prompts)]


def verdict(things: Sequence[Thing], prompt: Prompt) -> Verdict:
    """Hold the things found in a picture against its prompt."""
    wanted, there = prompt.things, [(thing.colour, thing.object) for thing in things]
    return Verdict(
        count=len(things) == len(wanted),
        objects=_found([thing for _, thing in wanted], [thing for _, thing in there]),
        colours=_found([colour for colour, _ in wanted], [colour for colour, _ in there]),
        pairs=_found(wanted, there),
        place=_placed(things, prompt) if prompt.relation or prompt.corner else None,
    )


def _found(wanted: Sequence[object], there: Sequence[object]) -> float:
    """The share of what is wanted that is there, each thing counted once."""
    left = list(there)
    hits = 0
    for item in wanted:
        if item in left:
            left.remove(item)
            hits += 1
    return hits / len(wanted)


def _placed(things: Sequence[Thing], prompt: Prompt) -> bool:
    """Whether some thing of the prompt's first kind is in its corner, or in its relation to some other one."""
    first, *others = prompt.things
    candidates = [thing for thing in things if (thing.colour, thing.object) == first]
    if prompt.corner:
        return any(_in_corner(thing, prompt.corner) for thing in candidates)
    partners = [thing for thing in things if (thing.colour, thing.object) == others[0]]
    return any(_related(thing, partner, prompt.relation or "") for thing in candidates for partner in partners)


def _in_corner(thing: Thing, corner: str) -> bool:
    near = SPRITE + 0.5
    across = thing.x < near if "left" in corner else thing.x > SIZE - 1 - near
    down = thing.y < near if "top" in corner else thing.y > SIZE - 1 - near
    return across and down


def _related(first: Thing, second: Thing, relation: str) -> bool:
    along, across = second.x - first.x, second.y - first.y
    if relation in ("above", "below"):
        along, across = across, along
    if relation in ("right of", "below"):
        along = -along
    return along > abs(across)
