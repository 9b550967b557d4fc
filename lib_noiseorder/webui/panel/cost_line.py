"""What a page's next picture will cost beside its sampler's steps, in a line; reckoned by the code that will do the work."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass, replace

from modules import sd_samplers

from ...chosen import all_named, of_hires_pass
from ...formulas import key_timesteps
from ...judge_settings import MODEL
from ...knobs import shown
from ...ordering import compares, finishes, judged_at, planned
from ...plans import in_steps, smallest_extra_cost
from ...report import Report
from ...settings import CUSTOM, NoiseOrderSettings
from ..job.judged_pictures import judges_found
from ..model.beforehand import Loaded, Run
from ..model.calls import Calls, makes_two_calls_a_step

_AND = re.compile(r"\bAND\b")
"""What joins several prompts, to the hosts."""


_ADAPTIVE = ("DPM adaptive",)
"""Samplers whose number of steps is their own affair."""


class Timing:
    """How long an evaluation took when a picture was last made; None before that."""

    seconds: float | None = None

    def note(self, report: Report | None) -> None:
        if report is not None and report.evaluations:
            self.seconds = report.seconds / report.evaluations


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
            steps, prompts = int(said["steps"]), len(_AND.split(said["prompt"]))
            first = Run(
                steps, str(said["sampler"]), said["guidance"] != 1, str(said["scheduler"]),
                denoising=None if said["denoising"] is None else float(said["denoising"]),
                masked=bool(said["masked"]), prompts=prompts,
            )  # fmt: skip
            hires, second = None, said["hires"]
            if second is not None:
                hires = replace(
                    first, hires=True, denoising=float(second["denoising"] or 0.0), steps=int(second["steps"]) or steps,
                    sampler=second["sampler"] if _is_sampler(second["sampler"]) else first.sampler,
                    scheduler=second["scheduler"] if _is_scheduler(second["scheduler"]) else first.scheduler,
                    guided=first.guided if second["guidance"] is None else second["guidance"] != 1,
                )  # fmt: skip
            return cls(steps, first, hires, tuple(str(seed) for seed in said["seeds"]), bool(said["script"]))
        except (KeyError, TypeError, OverflowError) as error:
            raise ValueError(f"not what a page says: {error}") from None


def cost_line(settings: NoiseOrderSettings, page: Page, loaded: Loaded | None, seconds: float | None) -> tuple[str, bool]:
    """The line, and whether it warns that the settings cannot work.

    Args:
        loaded: the checkpoint; None while that is not known.
        seconds: what an evaluation takes; None while that is not known.
    """
    nothing_asked = settings.selection == "off" and settings.strength == 0
    if nothing_asked and not settings.chosen and settings.erasure_samples == settings.noise_scale == 1:
        return "These settings leave the noise as it is: the picture is the plain one.", True
    if settings.selection_draws == 1 and compares(settings, len(page.seeds), page.seeds):
        return "One noise leaves nothing to compare: set Selection draws to 0, or to 2 and more.", True
    if loaded and loaded.unreadable and (settings.selection != "off" or settings.strength != 0):
        return f"{loaded.unreadable[0].upper()}{loaded.unreadable[1:]}. Nothing is asked.", True
    no_judge = _no_judge(settings, page.seeds)
    if no_judge:
        settings = replace(settings, preset=CUSTOM, selection="off")
    kind = loaded or Loaded("eps")  # of a family nothing is asked here
    calls = kind.calls(page.first)
    cost = _cost(settings, calls, page.seeds, page.first.sampler)
    nothing_compared = no_judge or (_too_little(settings, calls) if settings.selection != "off" and cost.noises == 1 else "")
    sentences = [nothing_compared] if nothing_compared else []
    line = _work(settings, page, calls, cost, seconds)
    if page.hires and settings.hires_pass:
        named = replace(settings, chosen=of_hires_pass(settings.chosen))
        again = _cost(named, kind.calls(page.hires), page.seeds, page.hires.sampler)
        if again.extra:
            line += f"{'; ' if line else ''}{again.extra} more in the hires pass"
    if line:
        sentences.append(line)
    elif not sentences:
        kept = all_named(settings.chosen, len(page.seeds), page.seeds)
        sentences.append("A noise is kept for this seed: no extra cost" if kept else "No extra cost")
    if settings.compare_with_off and not page.script:
        sentences.append("The pictures without it double the time")
    return ". ".join(sentences) + ("." if nothing_compared else ""), bool(nothing_compared)


def _no_judge(settings: NoiseOrderSettings, seeds: tuple[str, ...]) -> str:
    """What is said of a judge that is wanted and is not on this machine; empty where there is none such."""
    if settings.judge == MODEL or not compares(settings, len(seeds), seeds) or settings.judge in judges_found():
        return ""
    return f"There is no judge {shown(settings.judge)} here. None are compared"


def _too_little(settings: NoiseOrderSettings, calls: Calls) -> str:
    few = f"With {in_steps(len(calls.sigmas))}, an extra cost of {settings.extra_cost:g} is too little to compare noises"
    enough = smallest_extra_cost(calls.run(settings), judged_at(settings))
    return f"{few}. None are compared" + ("" if enough is None else f"; {enough:g} would do")


def _work(settings: NoiseOrderSettings, page: Page, calls: Calls, cost: _Cost, seconds: float | None) -> str:
    """What the first run's noise costs; empty where it is nothing."""
    if not cost.extra:
        return ""
    parts = []
    if cost.noises > 1:
        finished = finishes(settings)
        parts.append(f"finishes a picture of {cost.noises} noises each" if finished else f"compares {cost.noises} noises")
    if settings.strength != 0:
        times = len(key_timesteps(settings))
        parts.append(f"asks the model {times} time{'' if times == 1 else 's'}")
    evaluations = "evaluation" if cost.extra == 1 else "evaluations"
    line = f"{' and '.join(parts).capitalize()}: {cost.extra} more model {evaluations}"
    if page.first.sampler not in _ADAPTIVE:
        twice = 2 if makes_two_calls_a_step(page.first.sampler) else 1
        line += f", +{round(100 * cost.extra / (twice * calls.sampler_evaluations))} % at {in_steps(page.steps)}"
    return line if seconds is None else f"{line}, about {cost.extra * seconds:.1f} s"


def in_effect(settings: NoiseOrderSettings, tab: str) -> dict[str, bool]:
    """Which of the knobs that may do nothing do something under these settings, so that a panel need not show the others."""
    compares, asks = settings.selection != "off", settings.strength != 0
    weighs = {stage: asks and getattr(settings, f"{stage}_weight") != 0 for stage in ("layout", "structure", "detail")}
    return {
        "extra_cost": compares and not settings.selection_draws,
        "selection_draws": compares,
        "judge": compares,
        "judge_at": compares and judged_at(settings) is not None,
        "judge_threshold": compares and judged_at(settings) is not None,
        "injection": asks,
        "strength_schedule": asks,
        **{f"{stage}_weight": asks for stage in weighs},
        **{f"{stage}_timestep": used for stage, used in weighs.items()},
        "hires_pass": tab == "txt2img",
    }


@dataclass(frozen=True)
class _Cost:
    noises: int
    """How many are compared; 1: none, 0: all are named."""
    extra: int


def _cost(settings: NoiseOrderSettings, calls: Calls, seeds: tuple[str, ...], sampler: str) -> _Cost:
    asked = len(key_timesteps(settings)) * calls.cond_evaluations if settings.strength != 0 else 0
    if not compares(settings, len(seeds), seeds):
        return _Cost(0, asked)
    run = calls.run(settings)
    plan = planned(settings, run)
    extra = plan.extra_evaluations(run)
    if plan.finishes and makes_two_calls_a_step(sampler):  # all of its steps but the last
        extra = round(extra * (2 - 1 / run.steps))
    return _Cost(plan.draws, asked + extra)


def _is_sampler(name: str) -> bool:
    """Whether it is one, and no menu's word for the one that is used already."""
    return sd_samplers.find_sampler_config(name) is not None


def _is_scheduler(name: str) -> bool:
    return name in getattr(sys.modules.get("modules.sd_schedulers"), "schedulers_map", {})
