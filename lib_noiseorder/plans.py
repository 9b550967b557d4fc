"""How closely selection looks at how many noises, what that costs, and which plan fits which model.

docs/evidence-log.md has the figures that the plans below were chosen by.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

QUESTIONS = {"response": 0, "cond_error": 1, "cond_uncond_distance": 2}
"""What a draw is scored by, and what that costs in evaluations: how pronounced the picture is that the last first
prediction saw; how badly the model restores the picture, noised again, with the prompt; or how far its restorations with
and without the prompt are apart."""

MOST_DRAWS = 16


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
    """Noise share under which the picture is judged; None with the response, which judges nothing."""

    def __post_init__(self) -> None:
        for name, low, high in (("draws", 1, MOST_DRAWS), ("steps", 1, 1000)):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} must be from {low} to {high}, got {getattr(self, name)}")
        for name in ("preview_share", "judging_share"):
            value = getattr(self, name)
            if value is not None and not 0 < value < 1:
                raise ValueError(f"{name} must be between 0 and 1, got {value}")
        if self.question not in QUESTIONS:
            raise ValueError(f"question must be one of {', '.join(QUESTIONS)}, got {self.question!r}")
        if self.question == "response":
            if self.preview_share is not None:
                raise ValueError(f"preview_share must be None where the response is scored, got {self.preview_share}")
        elif self.judging_share is None:
            raise ValueError(f"judging_share is needed for {self.question}")

    @property
    def ends_with_the_prompt_only(self) -> bool:
        """Whether the last step needs no answer without the prompt: its picture is all that is wanted of it."""
        return self.preview_share is None and self.question != "response"

    def evaluations(self, guidance: float) -> int:
        """Evaluations per picture, before anything of them is reused."""
        if self.draws == 1:
            return 0
        return self.draws * (self.reusable(guidance) + (self.preview_share is not None) + QUESTIONS[self.question])

    def reusable(self, guidance: float, takes_euler_steps: bool = True, whole_calls: bool = False) -> int:
        """Evaluations of the winner's first predictions, which the sampler's first calls ask again.

        Args:
            guidance: the sampler's guidance scale.
            takes_euler_steps: as in `lib_noiseorder.model.Model`.
            whole_calls: the host cannot reuse an answer that was asked with the prompt only.
        """
        per_step = 1 if guidance == 1 else 2
        if not takes_euler_steps and self.steps > 1:
            return per_step
        asked_in_last = 1 if self.ends_with_the_prompt_only else per_step
        return (self.steps - 1) * per_step + (0 if whole_calls and asked_in_last < per_step else asked_in_last)


def extra_evaluations(
    plan: SelectionPlan, guidance: float, takes_euler_steps: bool = True, reuses_answers: bool = True, whole_calls: bool = False
) -> int:
    """Evaluations per picture that a selection adds to a sampler run; what a panel announces beforehand.

    Args:
        plan: how it is done.
        guidance: the sampler's guidance scale; at 1 its calls cost one evaluation instead of two.
        takes_euler_steps, reuses_answers: as in `lib_noiseorder.model.Model`.
        whole_calls: as in `SelectionPlan.reusable`.
    """
    if plan.draws == 1:
        return 0
    return plan.evaluations(guidance) - (plan.reusable(guidance, takes_euler_steps, whole_calls) if reuses_answers else 0)


EXTRA_COST = 0.4
"""What Automatic may add to a sampler's evaluations, as a share of them, where nothing else is said."""
PLANNED_FOR = 16
"""Sampler steps that the plans below are given for; `plan_for` follows the same share of another number of steps."""
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


def plan_for(
    family: str,
    guidance: float,
    *,
    steps: int = PLANNED_FOR,
    extra_cost: float = EXTRA_COST,
    draws: int = 0,
    takes_euler_steps: bool = True,
    reuses_answers: bool = True,
) -> SelectionPlan:
    """The closest look that an extra cost buys.

    As many noises are compared as it would buy with PLANNED_FOR steps, fewer where the sampler takes too few steps for that.

    Args:
        family: "flow" for flow models; anything else is treated as "eps".
        guidance: at 1 the model is never asked without the prompt, so there is no distance between its answers.
        steps: how many steps the sampler takes.
        extra_cost: the most that a comparison may add to the sampler's evaluations, as a share of them.
        draws: how many noises to compare, whatever it costs; 0 leaves it to the extra cost.
        takes_euler_steps, reuses_answers: as in `lib_noiseorder.model.Model`.

    Returns:
        The plan; one of a single draw, which compares nothing, where the extra cost buys none.

    Raises:
        ValueError: more than MOST_DRAWS draws.
    """
    family, per_step = _known(family), 1 if guidance == 1 else 2
    plans = [AUTOMATIC if takes_euler_steps and reuses_answers else FIRST_PREDICTION_ONLY, CHEAPEST]

    def affordable(plan: SelectionPlan, steps: int, reuses: bool) -> bool:
        return extra_evaluations(plan, guidance, takes_euler_steps, reuses) <= extra_cost * steps * per_step + _ROUNDING

    for plan in (plans[family] for plans in plans):
        if guidance == 1 and plan.question == "cond_uncond_distance":
            plan = replace(plan, question="cond_error")
        followed = max(1, round(plan.steps * steps / PLANNED_FOR)) if plan.steps > 1 else 1
        if draws:
            return replace(plan, draws=draws, steps=followed)
        bought = next((n for n in range(MOST_DRAWS, 2, -1) if affordable(replace(plan, draws=n), PLANNED_FOR, True)), 2)
        for fewer in range(bought, 1, -1):
            for shorter in range(followed, max(followed // 2, 1) - 1, -1):
                if affordable(smaller := replace(plan, draws=fewer, steps=shorter), steps, reuses_answers):
                    return smaller
    return replace(plans[-1][family], draws=1)


_ROUNDING = 1e-9


def _known(family: str) -> str:
    return "flow" if family == "flow" else "eps"
