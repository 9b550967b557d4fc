"""Show what was compared: a sheet per picture of what the model saw, and in which words that is said."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from modules import images
from modules.shared import opts
from torch import Tensor

from ...formulas import KeyTimestep
from ...report import Report
from ...settings import INFOTEXT_PREFIX
from .previews import preview
from .sheet_drawing import Drawn, Part, draw_sheet

_ON_JOB = "_noise_order_shown"


@dataclass
class Shown:
    """What is to be shown of one sampler run: latents [B, …] on the CPU."""

    run: str = ""
    """Which run this is, where it is not the picture's first."""
    candidates: list[Tensor] = field(default_factory=list)
    """The predicted pictures of the noises compared, in their order."""
    scores: list[list[float]] = field(default_factory=list)
    chosen: list[int] = field(default_factory=list)
    """As in `Report`; empty as long as the comparison is not finished."""
    finished: bool = False
    """Whether the candidates are finished pictures, not predictions."""
    key_timesteps: list[tuple[KeyTimestep, Tensor]] = field(default_factory=list)
    before_and_after: tuple[Tensor, Tensor] | None = None
    """The noise itself, where it was more than chosen."""

    def candidate(self, picture: Tensor) -> None:
        self.candidates.append(_kept(picture))

    def key_timestep(self, step: KeyTimestep, picture: Tensor) -> None:
        self.key_timesteps.append((step, _kept(picture)))

    def compared(self, report: Report, finished: bool = False) -> None:
        self.scores, self.chosen, self.finished = report.scores, report.chosen, finished

    def changed(self, before: Tensor, after: Tensor) -> None:
        self.before_and_after = _kept(before), _kept(after)

    def rows(self) -> int:
        """How many pictures there is something to see of: one for all the frames of a video."""
        latents = [*self.candidates, *(picture for _, picture in self.key_timesteps), *(self.before_and_after or ())]
        return min(map(len, latents), default=0)

    def parts(self, row: int) -> list[Part]:
        """The parts of a picture's sheet."""
        run = f"{self.run}. " if self.run else ""
        seen = "The picture" if self.finished else "What the model saw coming"
        parts = [
            Part(f"{run}{seen} from each noise. {_RULE}", self._comparison(row)),
            Part(f"{run}{self._heading_of_change()}", self._change(row)),
        ]
        return [part for part in parts if part.pictures]

    def _comparison(self, row: int) -> list[Drawn]:
        if not self.scores or not self.scores[row]:  # nothing was compared, or this picture's noise was named
            return []
        return [
            Drawn(
                _score_told(number, self.scores[row], number == self.chosen[row]),
                preview(latents[row]),
                number == self.chosen[row],
            )
            for number, latents in enumerate(self.candidates[: len(self.scores[row])], 1)
        ]

    def _heading_of_change(self) -> str:
        if not self.key_timesteps:
            return "The noise before and after."
        return "What the model saw in the noise" + (", and the noise before and after." if self.before_and_after else ".")

    def _change(self, row: int) -> list[Drawn]:
        told = [(_step_told(step), latents) for step, latents in self.key_timesteps]
        if self.before_and_after:
            before, after = self.before_and_after
            told = [("the noise before", before), *told, ("the noise after", after)]
        return [Drawn(caption, preview(latents[row])) for caption, latents in told]


@dataclass
class Sheet:
    """What is to be shown of one batch."""

    runs: list[Shown] = field(default_factory=list)

    def begin(self, run: str = "") -> Shown:
        """A further run of the sampler."""
        self.runs.append(Shown(run))
        return self.runs[-1]

    def keep(self, p: Any) -> None:
        """Hand the batch over to the end of its job."""
        setattr(p, _ON_JOB, [*getattr(p, _ON_JOB, []), (list(p.seeds), self.runs)])


def taken(p: Any) -> list[tuple[list[int], list[Shown]]]:
    """What the job's batches have handed over, taken off the job: their seeds and runs."""
    return vars(p).pop(_ON_JOB, [])


def add_sheets(batches: Sequence[tuple[list[int], list[Shown]]], processed: Any) -> None:
    """One sheet per picture at the end of the gallery, each with a text that says what it shows.

    The text has no colon, so that nothing in it is a parameter to whoever pastes it.
    """
    folder = getattr(opts, "temp_dir", "")
    if folder:  # where the hosts put pictures that they do not save; Neo does not make it, and would show none at all
        os.makedirs(folder, exist_ok=True)
    for seeds, runs in batches:
        for row, seed in enumerate(seeds):
            parts = [part for run in runs if row < run.rows() for part in run.parts(row)]
            if parts:
                title = f"{INFOTEXT_PREFIX}, seed {seed}"
                processed.images.append(draw_sheet(title, parts, images.get_font))
                told = [f"{part.heading} {'; '.join(drawn.caption for drawn in part.pictures)}" for part in parts]
                processed.infotexts.append(". ".join([title, *told]))


_RULE = "The framed one was kept; the highest score is the best."


def _score_told(number: int, scores: Sequence[float], kept: bool) -> str:
    """Caption of a noise that was compared: its place among the others and its score."""
    score = scores[number - 1]
    place = 1 + sum(math.isfinite(other) and other > score for other in scores)
    told = f"noise {number}, {_ordinal(place)}, score {score:.3g}" if math.isfinite(score) else f"noise {number}, no score"
    return f"{told}, kept" if kept else told


def _ordinal(place: int) -> str:
    ending = {1: "st", 2: "nd", 3: "rd"}.get(place, "th")  # no more than 16 noises are compared
    return f"{place}{ending}"


def _step_told(step: KeyTimestep) -> str:
    when = "early" if step.timestep > 2 / 3 else "in the middle" if step.timestep > 1 / 3 else "late"
    return f"what the model saw {when} ({step.name}, timestep {step.timestep:.3g})"


def _kept(latent: Tensor) -> Tensor:
    return latent.detach().float().cpu().clone()
