"""Arms of an evaluation: ways of coming from a picture's seed and prompt to the picture.

An arm is named as on the command line: `plain`, or a kind with its number, as in `steps:24` or `scale:0.9`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from ...formulas import erase, inject_calibrated
from ...judging import best_of
from ...knobs import shown
from ...ordering import order_noise
from ...plans import DEAREST, EXTRA_COST, SamplerRun, SelectionPlan, noise_scale_for, plan_for
from ...report import Report
from ...selection import select
from ...settings import KNOB, NoiseOrderSettings
from ..equal_cost import evaluations_per_step, more_steps
from .judge import judging_of, lab_judge_digest
from .model import LabModel
from .prompted import PromptedModel
from .world import SIZE
from .worlds import WorldPrompt

Draw = Callable[[int], Tensor]
"""The k-th independent noise of every picture [B, 3, H, W], k = 1, 2, …; 1 is the plain one."""
Prompts = Sequence[WorldPrompt]
Sample = Callable[[LabModel, Prompts, Draw], Tensor]
"""Draws one finished picture per prompt, normalised pixels [B, 3, H, W]; counts on `model.evaluations`."""


@dataclass(frozen=True)
class Arm:
    """A way of making pictures that an evaluation can compare."""

    name: str
    sample: Sample
    recipe: str | Callable[[LabModel], str]
    """Everything the arm's result depends on besides model, prompts and noises, where need be told for a model."""

    def recipe_for(self, model: LabModel) -> str:
        """What kept results are looked up by."""
        return self.recipe if isinstance(self.recipe, str) else self.recipe(model)

    @staticmethod
    def named(name: str) -> Arm:
        """The arm that a name stands for.

        Raises:
            ValueError: an unknown name, or a number out of its range; the text lists what there is.
        """
        kind, colon, number = name.partition(":")
        try:
            if not colon and name in _PLAIN_NAMES:
                return _PLAIN_NAMES[name](name)
            if kind in _WITH_FIELDS and colon:
                return _WITH_FIELDS[kind](name, number)
            if colon and kind in _NUMBERED:
                return _NUMBERED[kind](name, _number(number))
        except ValueError as error:
            raise ValueError(f"arm {name!r}: {error}") from None
        numbered, fields = (f"{kind}:NUMBER" for kind in _NUMBERED), (f"{kind}:FIELD=VALUE;…" for kind in _WITH_FIELDS)
        known = ", ".join([*_PLAIN_NAMES, *numbered, *fields])
        raise ValueError(f"unknown arm {name!r}; there are {known}")


def seed_draws(seeds: list[int], size: int = SIZE) -> Draw:
    """`draw(k)` [B, 3, size, size] from one generator per seed, on the CPU, so that every machine draws the same noises."""

    def draw(k: int) -> Tensor:
        noises = []
        for seed in seeds:
            generator = torch.Generator().manual_seed(seed)
            noises.append([torch.randn(3, size, size, generator=generator) for _ in range(k)][-1])
        return torch.stack(noises)

    return draw


def _plain(name: str) -> Arm:
    return Arm(name, lambda model, prompts, draw: model.sample(draw(1), prompts), "plain")


Plan = Callable[[LabModel], tuple[SelectionPlan, float]]
"""A selection's plan for a model, and what the draws are multiplied by."""


def _preset(name: str) -> Plan:
    return _automatic(NoiseOrderSettings(preset=name).extra_cost)


def _automatic(cost: float) -> Plan:
    if not 0 <= cost <= DEAREST:
        raise ValueError(f"the extra cost must be from 0 to {DEAREST:g}, got {cost:g}")
    return lambda model: (plan_for(_run_of(model), extra_cost=cost), noise_scale_for(model.family))


def _unscaled(model: LabModel) -> tuple[SelectionPlan, float]:
    return plan_for(_run_of(model)), 1.0


def _run_of(model: LabModel) -> SamplerRun:
    return SamplerRun(model.guidance, model.steps)


def _selection(name: str, plan_of: Plan, wrong_prompt: bool = False) -> Arm:
    def sample(model: LabModel, prompts: Prompts, draw: Draw) -> Tensor:
        asked = PromptedModel(model, [*prompts[1:], *prompts[:1]] if wrong_prompt else prompts)
        plan, scale = plan_of(model)
        noise = select(plan, lambda k: draw(k) * scale, asked).noise
        return model.sample(noise, prompts) if wrong_prompt else asked.finish(noise)

    return Arm(name, sample, lambda model: f"select {plan_of(model)} wrong prompt {wrong_prompt}")


def _equal_cost(name: str, cost: float = EXTRA_COST) -> Arm:
    """Plain noise with as many more sampler steps as the evaluations of Automatic at this extra cost would pay for."""
    automatic = _automatic(cost)

    def steps(model: LabModel) -> int:
        plan, _ = automatic(model)
        return model.steps + more_steps(plan.extra_evaluations(_run_of(model)), evaluations_per_step(model.guidance))

    def sample(model: LabModel, prompts: Prompts, draw: Draw) -> Tensor:
        return model.sample(draw(1), prompts, steps(model))

    return Arm(name, sample, lambda model: f"steps {steps(model)}")


def _custom_selection(name: str, text: str) -> Arm:
    """`select:draws=4;steps=5;finalists=2`: any plan."""
    known: dict[str, Callable[[str], Any]] = {"draws": int, "steps": int, "finalists": int, "noise_scale": float}
    values: dict[str, Any] = {}
    for part in text.split(";"):
        field, _, value = part.strip().partition("=")
        if field not in known:
            raise ValueError(f"{field!r} is none of {', '.join(known)}")
        values[field] = _value(field, value, known[field])
    scale = values.pop("noise_scale", 1.0)
    if not 0.1 <= scale <= 2:
        raise ValueError(f"noise_scale must be from 0.1 to 2, got {scale:g}")
    missing = [name for name in ("draws", "steps") if name not in values]
    if missing:
        raise ValueError(f"a plan needs {', '.join(missing)}, too")
    plan = SelectionPlan(**values)
    return _selection(name, lambda model: (plan, scale))


def _judged(name: str, text: str) -> Arm:
    """`judge:cost=1;at=0.5`: the lab's judge chooses, of what the extra cost buys; at 1 among finished pictures."""
    values = {"cost": EXTRA_COST, "at": KNOB["judge_at"].default}
    for part in filter(None, text.split(";")):
        field, _, value = part.strip().partition("=")
        if field not in values:
            raise ValueError(f"{field!r} is none of {', '.join(values)}")
        values[field] = _value(field, value, float)
    cost, at = values["cost"], KNOB["judge_at"].checked(values["at"])
    _automatic(cost)  # in its range

    def plan_of(model: LabModel) -> SelectionPlan:
        return plan_for(_run_of(model), extra_cost=cost, judge_at=at)

    def sample(model: LabModel, prompts: Prompts, draw: Draw) -> Tensor:
        plan, scale, judging = plan_of(model), noise_scale_for(model.family), judging_of(model.world, prompts)
        if plan.finishes:
            return best_of(plan.draws, lambda k: model.sample(draw(k) * scale, prompts), judging, Report())
        asked = PromptedModel(model, prompts)
        return asked.finish(select(plan, lambda k: draw(k) * scale, asked, judging=judging).noise)

    return Arm(name, sample, lambda model: f"judge {lab_judge_digest()} {plan_of(model)} scale {noise_scale_for(model.family)}")


def _number(text: str) -> float:
    value = _value("NUMBER", text, float)
    if not isfinite(value):
        raise ValueError(f"NUMBER = {text!r} is not finite")
    return value


def _value(field: str, text: str, kind: Callable[[str], Any]) -> Any:
    try:
        return kind(text)
    except ValueError:
        what = "an integer" if kind is int else "a number"
        raise ValueError(f"{field} = {shown(text)} is not {what}") from None


def _steps(name: str, number: float) -> Arm:
    steps = int(number)
    if steps != number or not 1 <= steps <= 500:
        raise ValueError(f"steps must be an integer from 1 to 500, got {number:g}")
    return Arm(name, lambda model, prompts, draw: model.sample(draw(1), prompts, steps), f"steps {steps}")


def _guidance(name: str, number: float) -> Arm:
    if not 0 < number <= 30:
        raise ValueError(f"the guidance scale must be above 0 and at most 30, got {number:g}")

    def sample(model: LabModel, prompts: Prompts, draw: Draw) -> Tensor:
        best, model.guidance = model.guidance, number
        try:
            return model.sample(draw(1), prompts)
        finally:
            model.guidance = best

    return Arm(name, sample, f"guidance {number:g}")


def _scale(name: str, number: float) -> Arm:
    if not 0.1 <= number <= 2:
        raise ValueError(f"the noise scale must be from 0.1 to 2, got {number:g}")
    return Arm(name, lambda model, prompts, draw: model.sample(draw(1) * number, prompts), f"scale {number:g}")


def _erasure(name: str, number: float) -> Arm:
    samples = int(number)
    if samples != number or not 1 <= samples <= 64:
        raise ValueError(f"erasure takes 1 to 64 draws, got {number:g}")
    recipe = f"erasure {samples}"
    return Arm(name, lambda model, prompts, draw: model.sample(erase(map(draw, range(1, samples + 1))), prompts), recipe)


def _settings(name: str, settings: NoiseOrderSettings) -> Arm:
    def sample(model: LabModel, prompts: Prompts, draw: Draw) -> Tensor:
        return model.sample(order_noise(settings, draw, PromptedModel(model, prompts)).noise, prompts)

    return Arm(name, sample, f"settings {settings.to_dict()}")


def _random_direction(name: str, delta: float) -> Arm:
    """Control for injection: an independent random direction instead of the model's predictions."""

    if abs(delta) > 2:
        raise ValueError(f"the strength must be from -2 to 2, got {delta:g}")

    def sample(model: LabModel, prompts: Prompts, draw: Draw) -> Tensor:
        return model.sample(inject_calibrated(draw(1), draw(2), delta), prompts)

    return Arm(name, sample, f"random direction {delta:g}")


def _best_of(name: str, number: float) -> Arm:
    """The ceiling of any selection: the oracle itself picks among n finished pictures."""
    draws = int(number)
    if draws != number or not 1 <= draws <= 16:
        raise ValueError(f"oracle takes 1 to 16 draws, got {number:g}")

    def sample(model: LabModel, prompts: Prompts, draw: Draw) -> Tensor:
        oracle = model.world.oracle()
        pictures = torch.stack([model.sample(draw(k), prompts) for k in range(1, draws + 1)])
        right = torch.tensor([[verdict.all for verdict in oracle.judge(drawn, prompts)] for drawn in pictures])
        return pictures[right.int().argmax(0), torch.arange(len(prompts))]

    return Arm(name, sample, f"oracle {draws}")


_PLAIN_NAMES: dict[str, Callable[[str], Arm]] = {
    "plain": _plain,
    "automatic": lambda name: _selection(name, _preset("Automatic")),
    "selection": lambda name: _selection(name, _unscaled),
    "light": lambda name: _selection(name, _preset("Light")),
    "paper": lambda name: _settings(name, NoiseOrderSettings(enabled=True, preset="Paper")),
    "equal-cost": _equal_cost,
    "wrong-prompt": lambda name: _selection(name, _unscaled, wrong_prompt=True),
}
_WITH_FIELDS = {"select": _custom_selection, "judge": _judged}
_NUMBERED: dict[str, Callable[[str, float], Arm]] = {
    "automatic": lambda name, cost: _selection(name, _automatic(cost)),
    "equal-cost": _equal_cost,
    "steps": _steps,
    "cfg": _guidance,
    "scale": _scale,
    "erasure": _erasure,
    "random-direction": _random_direction,
    "oracle": _best_of,
}
