"""How closely selection looks at how many noises, what that costs, and which plan fits which model.

docs/evidence-log.md has the figures that the plans below were chosen by.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from .model import Model

OF_THE_PICTURE = ("response", "peakedness")
"""What the last first prediction alone says: how pronounced the picture is that the model saw, or how far that comes from few
strong places, whatever its contrast."""
QUESTIONS = (*OF_THE_PICTURE, "cond_error", "relative_error", "cond_uncond_distance")
"""What a draw is scored by: one of the above; how badly the model restores the picture, noised again, with the prompt, as it is
or divided by the picture's response; or how far its restorations with and without the prompt are apart."""

MOST_DRAWS = 16
EXTRA_COST = 0.4
"""What Automatic may add to a sampler's evaluations, as a share of them, where nothing else is said."""
COST_STEP = 0.05
"""How finely an extra cost is set, from 0 to DEAREST."""
DEAREST = 4.0
PLANNED_FOR = 16
"""Sampler steps that the plans below are given for; `plan_for` follows the same share of another number of steps."""


@dataclass(frozen=True)
class SamplerRun:
    """The run of a sampler that a plan is made for, and what a question costs in it; see `lib_noiseorder.model.Model`."""

    family: str
    """"flow" for flow models; anything else is treated as "eps"."""
    guidance: float
    """At 1 the model is never asked without the prompt, so there is no distance between its answers."""
    steps: int = PLANNED_FOR
    """Calls whose noise levels are known."""
    takes_euler_steps: bool = True
    reuses_answers: bool = True
    reuses_prompt_only: bool = True
    cond_evaluations: int = 1
    pair_evaluations: int = 2
    sampler_evaluations: int | None = None
    """None: as many as the steps' calls make."""

    @classmethod
    def of(cls, model: Model) -> SamplerRun:
        """The run that a host's model says is about to begin."""
        return cls(
            model.family,
            model.guidance,
            len(model.sampler_levels),
            model.takes_euler_steps,
            model.reuses_answers,
            model.reuses_prompt_only,
            model.cond_evaluations,
            model.pair_evaluations,
            model.sampler_evaluations,
        )

    @property
    def call_evaluations(self) -> int:
        """Of one of the sampler's calls."""
        return self.cond_evaluations if self.guidance == 1 else self.pair_evaluations

    @property
    def own_evaluations(self) -> int:
        """Of the whole run by itself."""
        return self.steps * self.call_evaluations if self.sampler_evaluations is None else self.sampler_evaluations


@dataclass(frozen=True)
class SelectionPlan:
    """How many noises are looked at, and how closely.

    Raises:
        ValueError: a value out of its range.
    """

    draws: int
    """Candidates per picture; 1 selects nothing."""
    steps: int
    """First predictions: calls of the sampler that every candidate is followed for. The answer to the very first one is
    valid for every sampler; those after it only where the sampler itself takes DDIM / Euler steps."""
    preview_share: float | None
    """Noise share that the candidate is taken to for one more prediction, whose picture is judged. None: the picture is the
    one predicted with the prompt in the last step."""
    question: str
    """One of QUESTIONS."""
    judging_share: float | None = None
    """Noise share under which the picture is judged; None with what judges nothing."""
    finalists: int | None = None
    """Candidates that are followed further than the first prediction, and judged: the strongest there. The others drop out.
    None, or as many as there are draws: all."""
    screening: str = "response"
    """What is strongest in the finalists: one of OF_THE_PICTURE."""

    def __post_init__(self) -> None:
        ranges = [("draws", 1, MOST_DRAWS), ("steps", 1, 1000)] + (
            [] if self.finalists is None else [("finalists", 2, MOST_DRAWS)]
        )
        for name, low, high in ranges:
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} must be from {low} to {high}, got {getattr(self, name)}")
        for name in ("preview_share", "judging_share"):
            value = getattr(self, name)
            if value is not None and not 0 < value < 1:
                raise ValueError(f"{name} must be between 0 and 1, got {value}")
        if self.question not in QUESTIONS:
            raise ValueError(f"question must be one of {', '.join(QUESTIONS)}, got {self.question!r}")
        if self.screening not in OF_THE_PICTURE:
            raise ValueError(f"screening must be one of {', '.join(OF_THE_PICTURE)}, got {self.screening!r}")
        if self.question in OF_THE_PICTURE:
            if self.preview_share is not None:
                raise ValueError(f"preview_share must be None where the {self.question} is scored, got {self.preview_share}")
        elif self.judging_share is None:
            raise ValueError(f"judging_share is needed for {self.question}")

    @property
    def ends_with_the_prompt_only(self) -> bool:
        """Whether the last step needs no answer without the prompt: its picture is all that is wanted of it."""
        screens_last = self.drops_draws and self.steps == 1
        return self.preview_share is None and self.question not in OF_THE_PICTURE and not screens_last

    @property
    def drops_draws(self) -> bool:
        """Whether some of the draws drop out at the first prediction."""
        return self.finalists is not None and self.finalists < self.draws

    def evaluations(self, run: SamplerRun) -> int:
        """Evaluations per picture, before anything of them is reused."""
        if self.draws == 1:
            return 0
        judging = run.pair_evaluations if self.question == "cond_uncond_distance" else run.cond_evaluations
        if self.question in OF_THE_PICTURE:
            judging = 0
        preview = 0 if self.preview_share is None else run.cond_evaluations
        followed = (self.steps - 1) * run.call_evaluations + self._last(run) + preview + judging
        dropped = self.draws - self.finalists if self.finalists is not None and self.drops_draws else 0
        return (self.draws - dropped) * followed + dropped * run.call_evaluations

    def reusable(self, run: SamplerRun) -> int:
        """Evaluations of the winner's first predictions, which the sampler's first calls need not make again."""
        if self.draws == 1 or not run.reuses_answers:
            return 0
        if not run.takes_euler_steps and self.steps > 1:
            return run.call_evaluations
        last = self._last(run)
        lost = last < run.call_evaluations and not run.reuses_prompt_only
        return (self.steps - 1) * run.call_evaluations + (0 if lost else last)

    def extra_evaluations(self, run: SamplerRun) -> int:
        """Evaluations per picture that the selection adds to the sampler's run; what a panel announces beforehand."""
        return self.evaluations(run) - self.reusable(run)

    def _last(self, run: SamplerRun) -> int:
        return run.cond_evaluations if self.ends_with_the_prompt_only else run.call_evaluations


AUTOMATIC: Mapping[str, SelectionPlan] = {
    "eps": SelectionPlan(draws=7, steps=1, preview_share=None, question="response"),
    "flow": SelectionPlan(draws=2, steps=4, preview_share=None, question="cond_uncond_distance", judging_share=0.1),
}
"""The best confirmed plan at no more than 40 % more evaluations, by kind of model; docs/evidence.md has the figures."""
FIRST_PREDICTION_ONLY: Mapping[str, SelectionPlan] = {
    "eps": AUTOMATIC["eps"],
    "flow": SelectionPlan(draws=3, steps=1, preview_share=0.6, question="cond_error", judging_share=0.1),
}
"""Automatic where no more than the sampler's first call can be answered from what was asked already."""
CHEAPEST: Mapping[str, SelectionPlan] = {
    "eps": SelectionPlan(draws=2, steps=1, preview_share=None, question="response"),
    "flow": SelectionPlan(draws=2, steps=1, preview_share=None, question="cond_error", judging_share=0.5),
}
"""Where the extra cost buys nothing of the above."""
_NOISE_SCALE: Mapping[str, float] = {"eps": 1.0, "flow": 0.95}


def noise_scale_for(family: str) -> float:
    """What the draws of a selection are multiplied by."""
    return _NOISE_SCALE[_known(family)]


def plan_for(run: SamplerRun, *, extra_cost: float = EXTRA_COST, draws: int = 0) -> SelectionPlan:
    """The closest look that an extra cost buys.

    As many noises are compared as it would buy with PLANNED_FOR steps, fewer where the sampler takes too few steps for that.

    Args:
        run: the sampler's.
        extra_cost: the most that a comparison may add to the sampler's evaluations, as a share of them.
        draws: how many noises to compare, whatever it costs; 0 leaves it to the extra cost.

    Returns:
        The plan; one of a single draw, which compares nothing, where the extra cost buys none.

    Raises:
        ValueError: more than MOST_DRAWS draws.
    """
    family = _known(run.family)
    plans = [AUTOMATIC if run.takes_euler_steps and run.reuses_answers else FIRST_PREDICTION_ONLY, CHEAPEST]
    usual = replace(run, steps=PLANNED_FOR, reuses_answers=True, reuses_prompt_only=True, sampler_evaluations=None)

    def affordable(plan: SelectionPlan, run: SamplerRun) -> bool:
        return plan.extra_evaluations(run) <= extra_cost * run.own_evaluations + _ROUNDING

    for plan in (plans[family] for plans in plans):
        if run.guidance == 1 and plan.question == "cond_uncond_distance":
            plan = replace(plan, question="cond_error")
        followed = max(1, round(plan.steps * run.steps / PLANNED_FOR)) if plan.steps > 1 else 1
        if draws:
            return replace(plan, draws=draws, steps=followed)
        bought = next((n for n in range(MOST_DRAWS, 2, -1) if affordable(replace(plan, draws=n), usual)), 2)
        for fewer in range(bought, 1, -1):
            for shorter in range(followed, max(followed // 2, 1) - 1, -1):
                if affordable(smaller := replace(plan, draws=fewer, steps=shorter), run):
                    return smaller
    return replace(plans[-1][family], draws=1)


def smallest_extra_cost(run: SamplerRun) -> float | None:
    """The smallest setting of the extra cost that buys a comparison in this run; None where none does."""
    costs = (round(COST_STEP * number, 10) for number in range(round(DEAREST / COST_STEP) + 1))
    return next((cost for cost in costs if plan_for(run, extra_cost=cost).draws > 1), None)


def in_steps(steps: int) -> str:
    """A number of steps in words."""
    return "1 step" if steps == 1 else f"{steps} steps"


_ROUNDING = 1e-9


def _known(family: str) -> str:
    return "flow" if family == "flow" else "eps"
