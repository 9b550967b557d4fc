"""What the page's cost line reckons with, from the code that will do the work: no number is written twice."""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace
from typing import Any

from modules import sd_models, sd_samplers

from ...plans import extra_evaluations, plan_for
from ...settings import KNOBS
from ..model.checkpoint import UnknownModel, checkpoint_of, family_of
from ..model.sampler_sigmas import takes_euler_steps

FAMILIES = ("eps", "flow")
_MOST_STEPS = 150
"""As far as the hosts' own slider goes."""
_GUIDED = 7.0
"""Any guidance scale but 1: the costs only ask whether there is guidance."""


def cost_table() -> dict[str, Any]:
    """Plain JSON values: the kind of the loaded checkpoint, the host's samplers, costs of selection, the knobs' ranges."""
    return {
        "family": loaded_family(),
        "samplers": {sampler.name: _sampler(sampler) for sampler in getattr(sd_samplers, "all_samplers", [])},
        "selection": {family: _selection(family) for family in FAMILIES},
        "ranges": {
            knob.name: {"label": knob.label, "minimum": knob.minimum, "maximum": knob.maximum, "whole": knob.kind is int}
            for knob in KNOBS
            if knob.minimum is not None
        },
    }


def loaded_family() -> str | None:
    """The kind of the checkpoint that the next picture is made with; None while that is not loaded.

    Looks without touching: asking the hosts for their model would load it.
    """
    data = getattr(sd_models, "model_data", None)
    model = getattr(data, "sd_model", None)
    pending = str(getattr(data, "forge_loading_parameters", "")) != getattr(data, "forge_hash", "")
    if model is None or pending or type(model).__name__ == "FakeInitialModel":
        return None
    try:
        return family_of(checkpoint_of(model))
    except UnknownModel:
        return None


def _sampler(sampler: Any) -> dict[str, Any]:
    return {
        "evaluations": 2 if sampler.options.get("second_order") else 1,
        "euler": takes_euler_steps(SimpleNamespace(sampler_name=sampler.name)),
        "own steps": sampler.name == "DPM adaptive",
    }


def _selection(family: str) -> dict[str, Any]:
    """Extra evaluations by selection, guidance and sampler, each for the plan's own number of draws, for 2 and for 3.

    More draws go on as the third does. A cost is a list of (steps, evaluations): so many from so many steps on.
    """
    return {
        f"{selection} {'guided' if guided else 'unguided'} {'euler' if euler else 'other'}": {
            str(draws or "own"): _by_steps(selection, family, _GUIDED if guided else 1.0, euler, draws) for draws in (0, 2, 3)
        }
        for selection in ("automatic", "light")
        for guided in (True, False)
        for euler in (True, False)
    }


@cache
def _by_steps(selection: str, family: str, guidance: float, euler: bool, draws: int) -> list[tuple[int, int]]:
    costs: list[tuple[int, int]] = []
    for steps in range(1, _MOST_STEPS + 1):
        plan = plan_for(selection, family, guidance, euler, draws, steps)
        cost = extra_evaluations(plan, guidance, euler, whole_calls=True)  # the hosts ask both halves at once
        if not costs or costs[-1][1] != cost:
            costs.append((steps, cost))
    return costs
