"""How closely selection looks at how many noises, what that costs, and which plan fits which model.

docs/evidence-log.md has the figures that the plans below were chosen by.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
    def model_calls(self) -> int:
        """Questions to the model, each of one or two evaluations; what a progress line counts."""
        if self.draws == 1:
            return 0
        return self.draws * (self.steps + (self.preview_share is not None) + (self.question != "response"))

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


COST_LIMIT = 0.4
"""What Automatic may add to a sampler's evaluations, as a share of them."""
PLANNED_FOR = 16
"""Sampler steps that the plans below are given for; `plan_for` follows the same share of another number of steps."""
AUTOMATIC: Mapping[str, SelectionPlan] = {
    "eps": SelectionPlan(draws=7, steps=1, preview_share=None, question="response"),
    "flow": SelectionPlan(draws=2, steps=4, preview_share=None, question="cond_uncond_distance", judging_share=0.1),
}
"""The best confirmed plan at no more than 40 % more evaluations, by kind of model; docs/evidence.md has the figures."""
AUTOMATIC_NOISE_SCALE: Mapping[str, float] = {"eps": 1.0, "flow": 0.95}
"""What Automatic multiplies the draws by."""
FIRST_PREDICTION_ONLY: Mapping[str, SelectionPlan] = {
    "eps": AUTOMATIC["eps"],
    "flow": SelectionPlan(draws=3, steps=1, preview_share=0.6, question="cond_error", judging_share=0.1),
}
"""Automatic where no more than the sampler's first call can be answered from what was asked already."""
LIGHT: Mapping[str, SelectionPlan] = {
    "eps": SelectionPlan(draws=2, steps=1, preview_share=None, question="response"),
    "flow": SelectionPlan(draws=2, steps=1, preview_share=None, question="cond_error", judging_share=0.5),
}
"""At most three evaluations more; four where a host cannot reuse an answer that was asked with the prompt only."""


def noise_scale_for(selection: str, family: str) -> float:
    """What the draws of a selection are multiplied by."""
    return AUTOMATIC_NOISE_SCALE[_known(family)] if selection == "automatic" else 1.0


def plan_for(
    selection: str,
    family: str,
    guidance: float,
    takes_euler_steps: bool = True,
    draws: int = 0,
    steps: int = PLANNED_FOR,
    reuses_answers: bool = True,
) -> SelectionPlan:
    """The plan for a model and its sampler.

    Args:
        selection: "automatic" or "light".
        family: "flow" for flow models; anything else is treated as "eps".
        guidance: at 1 the model is never asked without the prompt, so there is no distance between its answers.
        takes_euler_steps, reuses_answers: as in `lib_noiseorder.model.Model`.
        draws: how many noises to compare; 0 keeps the plan's own number.
        steps: how many steps the sampler takes. Automatic compares fewer noises, or none (a plan of one draw), where
            it would cost more than COST_LIMIT; an explicit number of draws is done whatever it costs.

    Raises:
        ValueError: another selection, or more than 16 draws.
    """
    if selection not in ("automatic", "light"):
        raise ValueError(f"selection must be automatic or light, got {selection!r}")
    if selection == "light":
        plan = LIGHT[_known(family)]
    else:
        plan = (AUTOMATIC if takes_euler_steps and reuses_answers else FIRST_PREDICTION_ONLY)[_known(family)]
    if guidance == 1 and plan.question == "cond_uncond_distance":
        plan = replace(plan, question="cond_error")
    if plan.steps > 1:
        plan = replace(plan, steps=max(1, round(plan.steps * steps / PLANNED_FOR)))
    if draws:
        return replace(plan, draws=draws)
    if selection == "light":
        return plan
    limit = COST_LIMIT * steps * (1 if guidance == 1 else 2)
    return _affordable(plan, limit, lambda smaller: extra_evaluations(smaller, guidance, takes_euler_steps, reuses_answers))


def _known(family: str) -> str:
    return "flow" if family == "flow" else "eps"


def _affordable(plan: SelectionPlan, limit: float, cost: Callable[[SelectionPlan], int]) -> SelectionPlan:
    """The closest look within the limit: the plan itself, with one step less, or with fewer draws; one draw if none is."""
    for draws in range(plan.draws, 1, -1):
        for steps in range(plan.steps, max(plan.steps - 2, 0), -1):
            smaller = replace(plan, draws=draws, steps=steps)
            if cost(smaller) <= limit:
                return smaller
    return replace(plan, draws=1)
