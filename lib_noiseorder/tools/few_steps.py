"""What the presets do where a sampler takes few steps, and what that costs, as docs/how-it-works.md shows it."""

from __future__ import annotations

from ..plans import SamplerRun, plan_for, smallest_extra_cost
from ..settings import LIGHT, RECOMMENDED, NoiseOrderSettings

STEPS = range(1, 13)
_KINDS = [("guided", 7.0), ("CFG 1", 1.0)]


def few_steps_table() -> str:
    """A Markdown table per preset: noises compared and evaluations added by the sampler's steps."""
    return "\n\n".join(_table(preset) for preset in (RECOMMENDED, LIGHT))


def _table(preset: str) -> str:
    heads = [f"{preset}, steps", *(title for title, _ in _KINDS)]
    rows = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for steps in STEPS:
        runs = [SamplerRun(guidance, steps) for _, guidance in _KINDS]
        rows.append(f"| {steps} | {' | '.join(_told(preset, run) for run in runs)} |")
    return "\n".join(rows)


def _told(preset: str, run: SamplerRun) -> str:
    plan = plan_for(run, extra_cost=NoiseOrderSettings(preset=preset).extra_cost)
    if plan.draws == 1:
        enough = smallest_extra_cost(run)
        return "none" if enough is None else f"none; {enough:g} would do"
    extra = plan.extra_evaluations(run)
    return f"{plan.draws} noises, +{extra} of {run.own_evaluations}"
