"""What a comparison found: every arm against plain, with intervals, tests and costs; as plain values for results.json."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..statistics import bootstrap, diversity, holm, pairs_needed, prompts_won, sign_test
from .arms import PLAIN, Arm
from .folder import Record, RunFolder
from .plan import Plan
from .scores import Table


def found(folder: RunFolder, table: Table) -> dict[str, Any]:
    """Everything that the report shows, of all pairs whose pictures are there in every arm."""
    plan = folder.plan
    complete = [pair for pair in plan.pairs if all(folder.has(pair.number, arm.name) for arm in plan.arms)]
    numbers = [pair.number for pair in complete]
    groups, categories = np.array([pair.group for pair in complete]), np.array([pair.category for pair in complete])
    metrics = {
        score: {arm.name: _arm(arm, plan, numbers, groups, categories, values, table.features.get(score)) for arm in plan.arms}
        for score, values in table.scores.items()
        if numbers
    }
    _correct(metrics)
    return {
        "run": folder.run(),
        "pairs": {"planned": len(plan.pairs), "complete": len(complete)},
        "arms": {arm.name: _cost(arm, plan, folder, numbers) for arm in plan.arms},
        "metrics": metrics,
        "skipped metrics": [vars(skipped) for skipped in table.skipped],
        "pictures": [_picture(folder.records[number, arm.name], table) for number in numbers for arm in plan.arms],
    }


def _arm(
    arm: Arm,
    plan: Plan,
    numbers: list[int],
    groups: np.ndarray,
    categories: np.ndarray,
    values: dict[tuple[int, str], float],
    features: dict[tuple[int, str], np.ndarray] | None,
) -> dict[str, Any]:
    scores = np.array([values[number, arm.name] for number in numbers])
    of_arm: dict[str, Any] = {"mean": float(scores.mean())}
    if features is not None:
        variety = diversity(np.stack([features[number, arm.name] for number in numbers]), groups)
        of_arm["diversity"] = variety
    if arm.name == PLAIN:
        of_arm["categories"] = {
            category: {"pairs": int((categories == category).sum()), "mean": float(scores[categories == category].mean())}
            for category in _named(categories)
        }
        return of_arm
    difference = scores - np.array([values[number, PLAIN] for number in numbers])
    of_arm["difference"] = _against(difference, groups)
    equal = next((other.name for other in plan.arms if other.costs_as == arm.name), None)
    if equal is not None:
        of_arm["against equal cost"] = _against(scores - np.array([values[number, equal] for number in numbers]), groups)
    of_arm["categories"] = {
        category: {
            "pairs": int((categories == category).sum()),
            "mean": float(scores[categories == category].mean()),
            "difference": _interval(difference[categories == category], groups[categories == category]),
        }
        for category in _named(categories)
    }
    return of_arm


def _against(difference: np.ndarray, groups: np.ndarray) -> dict[str, Any]:
    wins, losses = int((difference > 0).sum()), int((difference < 0).sum())
    ties = len(difference) - wins - losses
    better, worse = prompts_won(difference, groups)
    return {
        **_interval(difference, groups),
        "wins": wins, "losses": losses, "ties": ties, "win rate": (wins + ties / 2) / len(difference),
        "prompts better": better, "prompts worse": worse, "p": sign_test(better, worse),
        "pairs needed": pairs_needed(difference, groups),
    }  # fmt: skip


def _interval(difference: np.ndarray, groups: np.ndarray) -> dict[str, float]:
    return dict(zip(("mean", "low", "high"), bootstrap(difference, groups)))


def _correct(metrics: dict[str, dict[str, Any]]) -> None:
    """Holm's correction over all arms and scores together."""
    arms = [arm for of_score in metrics.values() for arm in of_score.values()]
    tested = [arm[against] for arm in arms for against in ("difference", "against equal cost") if against in arm]
    for difference, corrected in zip(tested, holm([difference["p"] for difference in tested])):
        difference["p corrected"] = corrected


def _cost(arm: Arm, plan: Plan, folder: RunFolder, numbers: list[int]) -> dict[str, Any]:
    records = [folder.records[number, arm.name] for number in numbers]
    return {
        **arm.to_dict(),
        "pictures": len(records),
        "steps per picture": _mean([record.steps for record in records]),
        "evaluations": _mean([record.evaluations for record in records]),
        "seconds": _mean([record.seconds for record in records]),
        "skipped": dict(Counter(record.skipped for record in records if record.skipped)),
    }


def _picture(record: Record, table: Table) -> dict[str, Any]:
    where = record.pair, record.arm
    scores = {score: values[where] for score, values in table.scores.items() if where in values}
    names = ("pair", "arm", "file", "sha256", "steps", "evaluations", "seconds", "skipped")
    return {**{name: getattr(record, name) for name in names}, "scores": scores}


def _named(categories: np.ndarray) -> list[str]:
    return [category for category in dict.fromkeys(categories.tolist()) if category]


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None
