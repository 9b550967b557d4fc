"""The line that tells the user what happened: below the pictures, and from there in the panel."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any, NamedTuple

from ...report import Report
from ...settings import INFOTEXT_PREFIX

TROUBLE = "⚠"
_ON_JOB = "_noise_order_outcome"


def forget(p: Any) -> None:
    """Before and after a job. Copies of a job, as grids make them, must not share its outcome."""
    vars(p).pop(_ON_JOB, None)


def complaint(text: str) -> str:
    """A comment about something that went wrong; the page tells it by its mark."""
    return f"{INFOTEXT_PREFIX}: {text} {TROUBLE}"


class Batch(NamedTuple):
    report: Report
    seconds: float
    """How long the batch took in all."""
    changes_noise: bool
    """Whether its noise was more than chosen: its statistics are worth telling."""


def note_batch(p: Any, batch: Batch) -> None:
    """Bring the job's line up to date after a batch.

    It goes the way of the hosts' comments, which reach the very page that asked for the pictures and no other.
    """
    batches, last_line = getattr(p, _ON_JOB, ([], ""))
    batches = [*batches, batch]
    comments = getattr(p, "comments", None)
    if isinstance(comments, dict):
        comments.pop(last_line, None)
    line = outcome_line(batches)
    setattr(p, _ON_JOB, (batches, line))
    p.comment(line)


def outcome_line(batches: Sequence[Batch]) -> str:
    """One line for the batches of a job."""
    reports = [batch.report for batch in batches]
    parts = _kept(reports)
    judged = [score for report in reports for score in report.kept_scores if score is not None]
    if judged:
        parts.append(f"score{'s' * (len(judged) > 1)} {', '.join(f'{score:.4g}' for score in judged)}")
    evaluations = max(report.extra_evaluations for report in reports)
    parts.append(f"{evaluations} more evaluation{'' if evaluations == 1 else 's'}")
    seconds, total = sum(report.seconds for report in reports), sum(batch.seconds for batch in batches)
    parts.append(f"{seconds:.2f} s" + (f" ({100 * seconds / total:.0f} % of the time)" if total > 0 else ""))
    changed = [batch.report for batch in batches if batch.changes_noise]
    if changed:
        parts.append(f"mean {_mean(changed, 'mean_before'):.3f} → {_mean(changed, 'mean_after'):.3f}")
        parts.append(f"standard deviation {_mean(changed, 'std_before'):.3f} → {_mean(changed, 'std_after'):.3f}")
    correlated = [report for report in reports if report.correlation is not None]
    if correlated:
        parts.append(f"correlation {_mean(correlated, 'correlation'):.3f}")
    return f"{INFOTEXT_PREFIX}: " + ", ".join(parts)


def _kept(reports: Sequence[Report]) -> list[str]:
    """Which noises were kept, and of how many where any were compared; nothing where every picture kept its own."""
    both = [(k, scores) for one in reports for k, scores in zip_longest(one.chosen, one.scores, fillvalue=[]) if k]
    compared, named = [str(k) for k, scores in both if scores], [str(k) for k, scores in both if not scores]
    told = []
    if compared:
        most = max(len(scores) for _, scores in both)
        told.append(f"kept noise{'s' * (len(compared) > 1)} {', '.join(compared)} of {most}")
    if named:
        told.append(f"{'' if compared else 'kept '}noise{'s' * (len(named) > 1)} {', '.join(named)}{' again' * bool(compared)}")
    return told


def _mean(reports: Sequence[Report], name: str) -> float:
    return sum(getattr(report, name) for report in reports) / len(reports) + 0.0  # no minus in front of 0
