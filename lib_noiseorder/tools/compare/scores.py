"""The scores of a run's pictures. A metric that is not on the machine is left out, with the command that brings it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...judges.libraries import Missing
from ..store import Kept, packed, unpacked
from .folder import Record, RunFolder
from .metrics import METRICS
from .prompts import Pair

_BATCH = 32


@dataclass(frozen=True)
class Skipped:
    metric: str
    reason: str
    command: str

    def __str__(self) -> str:
        return f"{self.metric} skipped: {self.reason}" + (f"; {self.command}" if self.command else "")


@dataclass(frozen=True)
class Table:
    """The scores of a run's pictures."""

    scores: dict[str, dict[tuple[int, str], float]]
    """By score and (pair, arm)."""
    features: dict[str, dict[tuple[int, str], np.ndarray]]
    """The same for features; scores without features are missing."""
    skipped: tuple[Skipped, ...]


def score(
    folder: RunFolder, wanted: dict[str, str], device: str, progress: Callable[[str, int, int], None] = lambda *_: None
) -> Table:
    """Score the pictures of a run, as far as they are not scored yet.

    Args:
        wanted: model by metric, as `parse` gives it.
        device: where the metrics' models run.
        progress: told the metric, the pictures done and the pictures in all.
    """
    pairs = {pair.number: pair for pair in folder.plan.pairs}
    known, skipped = folder.scores(), []
    table = Table({}, {}, ())
    for name, model in wanted.items():
        try:
            for record, line in _scored(folder, name, model, device, pairs, known, progress):
                _put(table, name, (record.pair, record.arm), line)
        except Missing as error:
            skipped.append(Skipped(name, error.reason, error.command))
    return Table(table.scores, table.features, tuple(skipped))


def _scored(
    folder: RunFolder, name: str, model: str, device: str, pairs: dict[int, Pair], known: Kept, progress: Callable
) -> Iterator[tuple[Record, dict[str, Any]]]:
    records = [folder.records[key] for key in sorted(folder.records)]
    metric_name = f"{name}={model}" if model else name
    lines = [known.get(metric_name, _key(record, pairs)) for record in records]
    todo = [index for index, line in enumerate(lines) if line is None]
    if todo:
        metric = _guarded(lambda: METRICS[name](model, device), "loaded")
        for start in range(0, len(todo), _BATCH):
            part = todo[start : start + _BATCH]
            pictures = [folder.picture(records[index]) for index in part]
            prompts = [pairs[records[index].pair].prompt for index in part]
            scored = _guarded(lambda pictures=pictures, prompts=prompts: metric(pictures, prompts), "at work")
            for at, index in enumerate(part):
                features = None if scored.features is None else packed(scored.features[at])
                values = {score: float(values[at]) for score, values in scored.scores.items()}
                key = _key(records[index], pairs)
                lines[index] = {"metric": metric_name, "key": key, "scores": values, "features": features}
                known.put(lines[index])
            progress(name, len(records) - len(todo) + start + len(part), len(records))
    yield from zip(records, lines)


def _guarded(action: Callable[[], Any], when: str) -> Any:
    """Whatever happens in a library of others, with weights of others, costs its score only."""
    try:
        return action()
    except Missing:
        raise
    except Exception as error:
        first = (str(error).strip().splitlines() or [""])[0]
        raise Missing(f"{type(error).__name__} while it was {when}: {first[:200]}") from error


def _put(table: Table, name: str, where: tuple[int, str], line: dict[str, Any]) -> None:
    for score, value in line["scores"].items():
        table.scores.setdefault(score, {})[where] = value
        if line["features"] is not None:
            table.features.setdefault(score, {})[where] = unpacked(line["features"])


def _key(record: Record, pairs: dict[int, Pair]) -> str:
    """What a score depends on besides the metric: the pixels and the prompt."""
    return hashlib.sha256(f"{record.sha256}\n{pairs[record.pair].prompt}".encode()).hexdigest()[:32]
