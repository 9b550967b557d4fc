"""How many noises selection compares, how far it follows them, and what that costs.

docs/evidence-log.md has the figures that the plan was chosen by.
"""

from __future__ import annotations

from dataclasses import dataclass

from .model import Model

MOST_DRAWS = 16
EXTRA_COST = 0.4
"""What Automatic may add to a sampler's evaluations, as a share of them, where nothing else is said."""
COST_STEP = 0.05
"""How finely an extra cost is set, from 0 to DEAREST."""
DEAREST = 4.0
USUAL_STEPS = 20
_FAR = 0.35
"""Share of the sampler's calls that finalists are followed for, as a rule; where the extra cost would be left over, further."""
_ROUNDING = 1e-9


@dataclass(frozen=True)
class SamplerRun:
    """The run of a sampler that a plan is made for, and what a question costs in it; see `lib_noiseorder.model.Model`."""

    guidance: float
    """At 1 the model is never asked without the prompt."""
    steps: int = USUAL_STEPS
    """Calls whose noise levels are known."""
    takes_euler_steps: bool = True
    reuses_answers: bool = True
    cond_evaluations: int = 1
    pair_evaluations: int = 2
    sampler_evaluations: int | None = None
    """None: as many as the steps' calls make."""

    @classmethod
    def of(cls, model: Model) -> SamplerRun:
        """The run that a host's model says is about to begin."""
        return cls(
            model.guidance,
            len(model.sampler_levels),
            model.takes_euler_steps,
            model.reuses_answers,
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
    steps: int = 1
    """Calls of the sampler that the finalists are followed for. The answer to the very first one is valid for every sampler;
    those after it only where the sampler itself takes DDIM / Euler steps."""
    finalists: int = 2
    """Candidates that are followed further than the first call: the best there. Where there are no more draws, all."""
    finishes: bool = False
    """Whether the sampler itself makes a finished picture of every draw; nothing is asked before."""

    def __post_init__(self) -> None:
        for name, low, high in (("draws", 1, MOST_DRAWS), ("steps", 1, 1000), ("finalists", 2, MOST_DRAWS)):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} must be from {low} to {high}, got {getattr(self, name)}")

    @property
    def drops_draws(self) -> bool:
        """Whether some of the draws drop out at the first call, before the others are followed further."""
        return self.steps > 1 and self.finalists < self.draws

    def evaluations(self, run: SamplerRun) -> int:
        """Evaluations per picture, before anything of them is reused."""
        if self.draws == 1:
            return 0
        if self.finishes:
            return self.draws * run.own_evaluations
        return (self.draws + min(self.finalists, self.draws) * (self.steps - 1)) * run.call_evaluations

    def reusable(self, run: SamplerRun) -> int:
        """Evaluations of the winner's calls, which the sampler's first calls need not make again."""
        if self.draws == 1 or not (self.finishes or run.reuses_answers):
            return 0
        if self.finishes:
            return run.own_evaluations
        return (self.steps if run.takes_euler_steps else 1) * run.call_evaluations

    def extra_evaluations(self, run: SamplerRun) -> int:
        """Evaluations per picture that the selection adds to the sampler's run; what a panel announces beforehand."""
        return self.evaluations(run) - self.reusable(run)


def noise_scale_for(family: str) -> float:
    """What the draws of a selection are multiplied by."""
    return 0.95 if family == "flow" else 1.0


def plan_for(
    run: SamplerRun, *, extra_cost: float = EXTRA_COST, draws: int = 0, judge_at: float | None = None
) -> SelectionPlan:
    """The closest look that an extra cost buys: one plan for every kind of model.

    The two best draws at the sampler's first call, or the best third of more than six, are followed for as many calls as
    there are draws, up to about a third of the run; what is left of the extra cost follows them further, up to half of it.

    Args:
        run: the sampler's.
        extra_cost: the most that a comparison may add to the sampler's evaluations, as a share of them.
        draws: how many noises to compare, whatever it costs; 0 leaves it to the extra cost.
        judge_at: where a judge chooses, the share of the sampler's calls after which it sees the predicted picture; 1: the
            finished one.

    Returns:
        The plan; one of a single draw, which compares nothing, where the extra cost buys none.

    Raises:
        ValueError: more than MOST_DRAWS draws.
    """
    if judge_at is not None:
        return _judged_plan(run, judge_at, extra_cost, draws)

    def look(count: int, steps: int) -> SelectionPlan:
        return SelectionPlan(count, max(1, steps), finalists=max(2, round(count / 3)))

    def affordable(plan: SelectionPlan) -> bool:
        return plan.extra_evaluations(run) <= extra_cost * run.own_evaluations + _ROUNDING

    far = min(max(2, round(_FAR * run.steps)), most_followed(run.steps))
    if draws:
        return look(draws, min(draws, far))
    for count in range(MOST_DRAWS, 2, -1):
        plan = look(count, min(count, far))
        if affordable(plan):
            further = (look(count, steps) for steps in range(most_followed(run.steps), plan.steps, -1))
            return next(filter(affordable, further), plan)
    two = (look(2, steps) for steps in range(most_followed(run.steps), 0, -1))
    return next(filter(affordable, two), SelectionPlan(draws=1))


def _judged_plan(run: SamplerRun, judge_at: float, extra_cost: float, draws: int) -> SelectionPlan:
    """As many draws as the extra cost buys; of predictions the judge sees half, the best at the first call."""
    if judge_at == 1:
        count = draws or min(MOST_DRAWS, 1 + int(extra_cost + _ROUNDING))
        return SelectionPlan(count, run.steps, max(2, count), finishes=True)
    steps = min(run.steps, max(1, round(judge_at * run.steps)))

    def look(count: int) -> SelectionPlan:
        return SelectionPlan(count, steps, finalists=max(2, count // 2))

    if draws:
        return look(draws)
    most = extra_cost * run.own_evaluations + _ROUNDING
    plans = map(look, range(MOST_DRAWS, 1, -1))
    return next((plan for plan in plans if plan.extra_evaluations(run) <= most), SelectionPlan(draws=1))


def most_followed(steps: int) -> int:
    """The most calls of a run of so many that a plan follows."""
    return max(1, steps // 2)


def smallest_extra_cost(run: SamplerRun, judge_at: float | None = None) -> float | None:
    """The smallest setting of the extra cost that buys a comparison in this run; None where none does. See `plan_for`."""
    costs = (round(COST_STEP * number, 10) for number in range(round(DEAREST / COST_STEP) + 1))
    return next((cost for cost in costs if plan_for(run, extra_cost=cost, judge_at=judge_at).draws > 1), None)


def in_steps(steps: int) -> str:
    """A number of steps in words."""
    return "1 step" if steps == 1 else f"{steps} steps"
