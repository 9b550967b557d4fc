"""A judge at work: what it says of a batch's predicted or finished pictures.

The judges themselves, models that score pictures against their prompts, are in `lib_noiseorder.judges`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .questions import SILENT, Observer
from .report import Report, in_one_line


@dataclass(frozen=True)
class Judging:
    """A judge with the pictures' prompts, and a way to see a host's latents."""

    score: Callable[[Tensor], Tensor]
    """`score(x0)`: clean latents [B, …] → what the judge gives every picture [B], on the CPU; higher is better, not finite
    where it has nothing to say."""
    enough: float | None = None
    """A score from which on a picture needs no further noise; None: all are tried."""
    digest: str = ""
    """Which judge it is, to the byte."""
    unread: Callable[[], str] = lambda: ""
    """Why it has read less than a whole prompt so far; empty where it has not."""

    def passed(self, scores: Tensor) -> Tensor:
        """Which of these scores are good enough, [B]; an infinite one says nothing."""
        good = torch.isfinite(scores)
        return torch.zeros_like(good) if self.enough is None else good & (scores >= self.enough)


def best_of(
    draws: int,
    finish: Callable[[int], Tensor],
    judging: Judging,
    report: Report,
    observer: Observer = SILENT,
    stopped: Callable[[], bool] = lambda: False,
) -> Tensor:
    """Finish a picture of every draw, and keep the one that the judge prefers.

    A picture's choice depends on its own draws alone: one that is good enough keeps its draw, however far the batch goes on.

    Args:
        draws: how many are tried, at most.
        finish: `finish(k)`: the finished latents [B, …] of the k-th draw, k = 1, 2, …
        judging: who judges.
        report: gets `chosen` and `scores`.
        observer: told before every draw.
        stopped: whether the user wants no more; what was finished last is then only a part, and is left out unless it is all
            that there is.

    Returns:
        The latents kept, [B, …]; those of the first draw where no score is finite, and the report says so.
    """
    observer.asking("finishing", 1, draws)
    kept = finish(1)
    observer.candidate(1, kept)
    which = torch.ones(len(kept), dtype=torch.long)
    best = torch.full((len(kept),), -torch.inf)
    done = torch.zeros(len(kept), dtype=torch.bool)
    scores: list[Tensor] = []
    latents, k = kept, 1
    try:
        while not stopped():
            score = judging.score(latents).masked_fill(done, torch.nan)
            scores.append(score)
            better = torch.isfinite(score) & (score > best)
            kept = torch.where(better.to(kept.device).view(-1, *[1] * (kept.ndim - 1)), latents, kept)
            best, which = torch.where(better, score, best), torch.where(better, k, which)
            done |= judging.passed(score)
            if k == draws or bool(done.all()):
                break
            k += 1
            observer.asking("finishing", k, draws)
            latents = finish(k)
            observer.candidate(k, latents)
        else:
            report.skip("selection", f"interrupted at noise {k} of {draws}")
    except Exception as error:
        if k > 1 or not scores:
            report.skip("selection", f"noise {k} of {draws}: {in_one_line(error)}")
    report.chosen = which.tolist()
    if not scores:
        return kept
    lost = int((~torch.isfinite(best)).sum())
    if lost:
        report.skip("selection", f"no finite score for {lost} of {len(kept)} pictures, which keep their first draw")
    report.judge = judging.digest
    report.scores = torch.stack(scores, 1).tolist()
    return kept
