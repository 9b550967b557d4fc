"""What a page's next picture will cost beside its sampler's steps, in a line; reckoned by the code that will do the work."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

from modules import sd_models, sd_samplers
from modules.shared import opts

from ...chosen import chosen_draws, of_hires_pass
from ...formulas import key_timesteps
from ...plans import SamplerRun, in_steps, plan_for, smallest_extra_cost
from ...report import Report
from ...settings import NoiseOrderSettings
from ..model.checkpoint import UnknownModel, checkpoint_of, family_of
from ..model.sampler_sigmas import takes_euler_steps

FAMILIES = ("eps", "flow")


class Timing:
    """How long an evaluation took when a picture was last made; None before that."""

    seconds: float | None = None

    def note(self, report: Report | None) -> None:
        if report is not None and report.evaluations:
            self.seconds = report.seconds / report.evaluations


@dataclass(frozen=True)
class Run:
    """One run of a sampler."""

    steps: int
    sampler: str
    guided: bool

    @property
    def evaluations(self) -> int | None:
        """Of the sampler itself; None where that cannot be known beforehand."""
        if self.sampler == "DPM adaptive":
            return None
        config = sd_samplers.find_sampler_config(self.sampler)
        second_order = config is not None and config.options.get("second_order")
        return self.steps * (2 if second_order else 1) * (2 if self.guided else 1)


@dataclass(frozen=True)
class Page:
    """What a page is about to make."""

    steps: int
    first: Run
    hires: Run | None
    seeds: tuple[str, ...]
    """As the setting `chosen` writes them; "" for one that is yet to be drawn."""
    script: bool
    """Whether a script of the menu takes the pictures, so that none are added."""

    @classmethod
    def read(cls, text: str) -> Page:
        """What the page's script says.

        Raises:
            ValueError: it cannot be read.
        """
        try:
            said = json.loads(text)
            steps, taken = int(said["steps"]), int(said["steps"])
            if said["denoising"] is not None and not opts.img2img_fix_steps:
                taken = int(min(said["denoising"], 0.999) * steps) + 1
            first = Run(taken, str(said["sampler"]), said["guidance"] != 1)
            hires, second = None, said["hires"]
            if second is not None:
                known = sd_samplers.find_sampler_config(second["sampler"]) is not None  # not "Use same sampler"
                guided = first.guided if second["guidance"] is None else second["guidance"] != 1
                hires = Run(int(second["steps"]) or steps, second["sampler"] if known else first.sampler, guided)
            return cls(steps, first, hires, tuple(str(seed) for seed in said["seeds"]), bool(said["script"]))
        except (KeyError, TypeError, OverflowError) as error:
            raise ValueError(f"not what a page says: {error}") from None


def cost_line(settings: NoiseOrderSettings, page: Page, family: str | None, seconds: float | None) -> tuple[str, bool]:
    """The line, and whether it warns that the settings cannot work.

    Args:
        family: the loaded checkpoint's; None while that is not known.
        seconds: what an evaluation takes; None while that is not known.
    """
    nothing_asked = settings.selection == "off" and settings.strength == 0
    if nothing_asked and not settings.chosen and settings.erasure_samples == settings.noise_scale == 1:
        return "These settings leave the noise as it is: the picture is the plain one.", True
    if settings.selection != "off" and settings.selection_draws == 1 and not _all_named(settings, page.seeds):
        return "One noise leaves nothing to compare: set Selection draws to 0, or to 2 and more.", True
    families = [family] if family else FAMILIES
    costs = [_cost(settings, page.first, one, page.seeds) for one in families]
    noises, asked, extra = (_span(costs, get) for get in (lambda c: c.noises, lambda c: c.asked, lambda c: c.extra))
    if settings.selection != "off" and noises[1] == 1:
        few = f"With {in_steps(page.first.steps)}, an extra cost of {settings.extra_cost:g} is too little to compare noises"
        enough = [smallest_extra_cost(_sampler_run(page.first, one)) for one in families]
        known = sorted({cost for cost in enough if cost is not None})
        hint = f"; {_between(f'{known[0]:g}', f'{known[-1]:g}')} would do" if known else ""
        return f"{few}. None are compared{hint}.", True
    copies = ". The pictures without it double the time" if settings.compare_with_off and not page.script else ""
    if extra[1] == 0:
        return (
            "A noise is kept for this seed: no extra cost" if _all_named(settings, page.seeds) else "No extra cost"
        ) + copies, False
    parts = []
    if noises[1] > 1:
        parts.append(f"compares {_between(*noises)} noises")
    if asked[1]:
        parts.append(f"asks the model {asked[1]} time{'' if asked[1] == 1 else 's'}")
    evaluations = "evaluation" if extra[1] == 1 else "evaluations"
    line = f"{' and '.join(parts).capitalize()}: {_between(*extra)} more model {evaluations}"
    own = page.first.evaluations
    if own:
        line += f", {_between(*(round(100 * count / own) for count in extra), mark='+')} % at {page.steps} steps"
    if seconds is not None:
        line += f", about {extra[1] * seconds:.1f} s"
    if page.hires and settings.hires_pass:
        of_hires = of_hires_pass(settings.chosen)
        later = [_cost(replace(settings, chosen=of_hires), page.hires, one, page.seeds) for one in families]
        again = _span(later, lambda c: c.extra)
        if again[1]:
            line += f"; {_between(*again)} more in the hires pass"
    return line + copies, False


def in_effect(settings: NoiseOrderSettings, tab: str) -> dict[str, bool]:
    """Which of the knobs that may do nothing do something under these settings, so that a panel need not show the others."""
    compares, asks = settings.selection != "off", settings.strength != 0
    weighs = {stage: asks and getattr(settings, f"{stage}_weight") != 0 for stage in ("layout", "structure", "detail")}
    return {
        "extra_cost": compares and not settings.selection_draws,
        "selection_draws": compares,
        "injection": asks,
        "strength_schedule": asks,
        **{f"{stage}_weight": asks for stage in weighs},
        **{f"{stage}_timestep": used for stage, used in weighs.items()},
        "hires_pass": tab == "txt2img",
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


@dataclass(frozen=True)
class _Cost:
    noises: int
    """How many are compared; 1: none, 0: all are named."""
    asked: int
    extra: int


def _cost(settings: NoiseOrderSettings, run: Run, family: str, seeds: tuple[str, ...]) -> _Cost:
    asked = len(key_timesteps(settings)) if settings.strength != 0 else 0
    if settings.selection == "off" or _all_named(settings, seeds):
        return _Cost(0, asked, asked)
    sampler = _sampler_run(run, family)
    plan = plan_for(sampler, extra_cost=settings.extra_cost, draws=settings.selection_draws)
    return _Cost(plan.draws, asked, asked + plan.extra_evaluations(sampler))


def _sampler_run(run: Run, family: str) -> SamplerRun:
    return SamplerRun(
        family,
        guidance=7.0 if run.guided else 1.0,  # the costs only ask whether there is guidance
        steps=run.steps,
        takes_euler_steps=takes_euler_steps(SimpleNamespace(sampler_name=run.sampler)),
        reuses_prompt_only=False,
    )


def _all_named(settings: NoiseOrderSettings, seeds: tuple[str, ...]) -> bool:
    return all(chosen_draws(settings.chosen, len(seeds), seeds))


def _span(costs: list[_Cost], get: Callable[[_Cost], int]) -> tuple[int, int]:
    return min(map(get, costs)), max(map(get, costs))


def _between(low: Any, high: Any, mark: str = "") -> str:
    return f"{mark}{low}" if low == high else f"{mark}{low} to {mark}{high}"
