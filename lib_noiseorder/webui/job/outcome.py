"""The line that tells the user what happened: below the pictures, and from there in the panel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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


def note_batch(p: Any, report: Report, seconds: float) -> None:
    """Bring the job's line up to date after a batch that took `seconds` in all.

    It goes the way of the hosts' comments, which reach the very page that asked for the pictures and no other.
    """
    batches, last_line = getattr(p, _ON_JOB, ([], ""))
    batches = [*batches, (report, seconds)]
    comments = getattr(p, "comments", None)
    if isinstance(comments, dict):
        comments.pop(last_line, None)
    line = outcome_line(batches)
    setattr(p, _ON_JOB, (batches, line))
    p.comment(line)


def outcome_line(batches: Sequence[tuple[Report, float]]) -> str:
    """One line for the batches of a job, each with its report and how long it took in all."""
    reports = [report for report, _ in batches]
    evaluations = max(report.extra_evaluations for report in reports)
    seconds, total = sum(report.seconds for report in reports), sum(whole for _, whole in batches)
    parts = [f"{evaluations} extra evaluation{'' if evaluations == 1 else 's'} per picture"]
    parts.append(f"{seconds:.2f} s" + (f" ({seconds / total:.0%} of the time)" if total > 0 else ""))
    chosen = [str(k) for report in reports for k in report.chosen if k]
    if chosen:
        parts.append(f"noise {', '.join(chosen)} chosen")
    known = [report for report in reports if report.std_after > 0]
    if known:
        parts.append(f"mean {_mean(known, 'mean_before'):.3f} → {_mean(known, 'mean_after'):.3f}")
        parts.append(f"standard deviation {_mean(known, 'std_before'):.3f} → {_mean(known, 'std_after'):.3f}")
    correlated = [report for report in reports if report.correlation is not None]
    if correlated:
        parts.append(f"correlation {_mean(correlated, 'correlation'):.3f}")
    return f"{INFOTEXT_PREFIX}: " + ", ".join(parts)


def _mean(reports: Sequence[Report], name: str) -> float:
    return sum(getattr(report, name) for report in reports) / len(reports) + 0.0  # no minus in front of 0
