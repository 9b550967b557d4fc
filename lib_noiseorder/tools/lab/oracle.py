"""The oracle: a detector that reads a picture and says whether it shows what its prompt asked for."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .packaged import packaged_tensors
from .world import COLOURS, MEAN, SHAPES, STD, Prompt, Thing

_NOTHING = len(COLOURS) * len(SHAPES)
_CELL = 2
"""Pixels per side of a detection cell."""


class Detector(nn.Module):
    """Says for each of 12×12 cells which colour-shape pair is centred there, or nothing."""

    def __init__(self, width: int = 32):
        super().__init__()

        def layer(inputs: int, stride: int = 1) -> nn.Sequential:
            return nn.Sequential(nn.Conv2d(inputs, width, 3, stride, 1), nn.BatchNorm2d(width), nn.ReLU())

        self.features = nn.Sequential(layer(3, _CELL), *(layer(width) for _ in range(4)))
        self.classes = nn.Conv2d(width, _NOTHING + 1, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Class logits [B, 13, 12, 12] and pooled features [B, 2·width] of normalised pixels [B, 3, 24, 24]."""
        h = self.features(x)
        return self.classes(h), torch.cat([h.mean((2, 3)), h.amax((2, 3))], 1)


@dataclass(frozen=True)
class Verdict:
    """What of a prompt a picture gets right. `other` and `relation` are None for prompts without a relation."""

    all: bool
    count: bool
    thing: bool
    other: bool | None = None
    relation: bool | None = None

    @property
    def share(self) -> float:
        """Share of the applicable attributes that are right."""
        parts = [part for part in (self.count, self.thing, self.other, self.relation) if part is not None]
        return sum(parts) / len(parts)

    def in_words(self, prompt: Prompt) -> str:
        """What a user is told of a picture of the prompt: "right", or what is wrong with it."""
        if self.all:
            return "right"
        missing = [] if self.thing else [f"no {prompt.colour} {prompt.shape}"]
        if self.other is False:
            missing.append(f"no {prompt.other_colour} {prompt.other_shape}")
        if missing:
            return f"wrong: {', '.join(missing)}"
        if not self.count:
            return "wrong: something extra" if prompt.relation or prompt.count == 1 else "wrong: their number"
        return f"wrong: not {prompt.relation}" if prompt.relation else "wrong: something else, too"


class Oracle:
    """The trained detector with its rules for reading objects out of a picture."""

    def __init__(self) -> None:
        self.detector = Detector()
        self.detector.load_state_dict(packaged_tensors("oracle.safetensors"))
        self.detector.eval()

    @torch.no_grad()
    def read(self, x: Tensor) -> tuple[list[list[Thing]], Tensor]:
        """The things in each picture [B, 3, 24, 24] (normalised pixels), and features [B, F] for diversity figures."""
        x = x.float().cpu().clamp(-MEAN / STD, (1 - MEAN) / STD)
        logits, features = self.detector(x)
        classes = logits.softmax(1)
        something = 1 - classes[:, _NOTHING:]
        mass = F.avg_pool2d(something, 3, 1, 1) * 9
        ranked = mass + F.avg_pool2d(mass, 3, 1, 1) + something  # peaks at the centre of a detection
        peaks = ((ranked == F.max_pool2d(ranked, 5, 1, 2)) & (mass > 0.5)).nonzero()
        peaks = peaks[ranked[tuple(peaks.T)].argsort(descending=True)]
        kind = F.avg_pool2d(classes[:, :_NOTHING], 3, 1, 1).argmax(1)
        found: list[list[Thing]] = [[] for _ in x]
        for picture, _, row, column in peaks.tolist():
            colour, shape = divmod(int(kind[picture, row, column]), len(SHAPES))
            thing = Thing(COLOURS[colour], SHAPES[shape], _CELL * column, _CELL * row)
            if all(max(abs(thing.x - other.x), abs(thing.y - other.y)) > 5 for other in found[picture]):
                found[picture].append(thing)
        return found, features

    def judge(self, x: Tensor, prompts: list[Prompt], chunk: int = 256) -> list[Verdict]:
        """Verdicts on pictures [B, 3, 24, 24] (normalised pixels), one prompt each."""
        things = [found for part in x.split(chunk) for found in self.read(part)[0]]
        return [verdict(found, prompt) for found, prompt in zip(things, prompts)]


def verdict(things: list[Thing], prompt: Prompt) -> Verdict:
    """Hold the things found in a picture against its prompt."""
    kinds = [(thing.colour, thing.shape) for thing in things]
    wanted = (prompt.colour, prompt.shape)
    if not prompt.relation:
        count = len(things) == prompt.count
        return Verdict(all=count and kinds.count(wanted) == prompt.count, count=count, thing=wanted in kinds)
    other = (prompt.other_colour, prompt.other_shape)
    count, relation = len(things) == 2, False
    if wanted in kinds and other in kinds:
        a, b = things[kinds.index(wanted)], things[kinds.index(other)]
        along, across = b.x - a.x, b.y - a.y
        if prompt.relation in ("above", "below"):
            along, across = across, along
        if prompt.relation in ("right of", "below"):
            along, across = -along, -across
        relation = along >= 5 and along >= abs(across)
    return Verdict(count and relation, count, wanted in kinds, other in kinds, relation)
