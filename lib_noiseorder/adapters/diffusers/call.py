"""Ordered initial latents for diffusers pipelines.

    latents = ordered_latents(pipe, prompt="a blue pizza", generator=generator, settings=settings)
    image = pipe(prompt="a blue pizza", generator=generator, latents=latents).images[0]

Give both calls the same arguments; `run_ordered` makes both, and does not ask the model twice. The generator is advanced as
by the pipeline itself, so that a sampler which draws from it goes on as in a plain call. diffusers itself is not imported:
whoever has a pipeline has it already.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ...knobs import SettingsError
from ...report import OrderedNoise, Report, in_one_line
from ...settings import INFOTEXT_PREFIX
from ..given_settings import Given
from .arguments import has_callback
from .judge import GivenJudge
from .models import calls_replaced, denoising_models
from .ordered_call import OrderedCall
from .rehearsal import RandomStates, Unusable
from .remembered import AnsweredModels


def ordered_latents(pipe: Any, prompt: Any = None, *, settings: Given = None, judge: GivenJudge = None, **call: Any) -> Tensor:
    """The `latents` to call the pipeline with; what was left out comes as a warning.

    Arguments, result and errors are those of `order_latents`, whose noise this is.
    """
    ordered = order_latents(pipe, prompt, settings=settings, judge=judge, **call)
    for reason in ordered.report.skipped:
        warnings.warn(f"{INFOTEXT_PREFIX}: skipped {reason}", stacklevel=2)
    return ordered.noise


def order_latents(
    pipe: Any, prompt: Any = None, *, settings: Given = None, judge: GivenJudge = None, **call: Any
) -> OrderedNoise:
    """Put the initial latents of a pipeline's next call in order.

    Args:
        pipe: any pipeline whose `latents` are its initial noise and whose scheduler's noise levels are known; whether they are
            is found out by going through its call once with nothing evaluated. Adapters, offloading and guidance are honoured.
        prompt: as in the pipeline's call; None where `prompt_embeds` are given.
        settings: what to do; see `given_settings`. `chosen` lists draws in the order of the pictures, or one for all.
        judge: who says which noise is best instead of the model itself: a function of pictures [B, 3, H, W] in 0…1 and their
            prompts that gives scores [B], higher is better, and is asked about one picture at a time; or the name or folder
            of a judge, see `lib_noiseorder.judges.load`. Without it, the one that the setting `judge` names. It sees what the
            pipeline's own decoder makes of the pictures that are coming, after the share `judge_at` of the steps.
        call: the other arguments of the pipeline's call. `latents` among them are taken for draw 1; without them it is
            the pipeline's own noise for `generator`, or for the global random state. Callbacks are not called.

    Returns:
        The noise, of the shape, dtype and device that the pipeline takes as `latents` (SD [B, 4, h, w], Flux
        [B, tokens, 64], Wan [B, 16, f, h, w]; unit variance), and the report. With one generator per picture, a picture
        does not depend on the rest of the batch. If another thread interrupts the pipeline meanwhile, or somebody has put
        into the model what nobody can put back after a question, draw 1 comes back and the report says so. Where a judge is
        missing, cannot be loaded or fails, or cannot judge what the call makes, nothing is compared, and the report says so.

    Raises:
        TypeError: a pipeline that cannot be ordered, or an argument that its call does not know.
        ValueError: arguments that cannot be used; latents of a wrong shape; a scheduler without a known noise schedule; a
            judge of finished pictures (`judge_at` 1), which `run_ordered` alone makes.
            All before the first evaluation of the denoising model. What the pipeline raises passes through, and
            leaves it as it was.
    """
    return OrderedCall(pipe, prompt, settings, judge, call, runs=False).done()


class Interrupted(Exception):
    """The pipeline was interrupted before its own run began."""


@dataclass(frozen=True)
class OrderedRun:
    output: Any
    """What the pipeline returned; where finished pictures were judged, with every picture from the run that was kept."""
    noise: Tensor | None
    """The latents it started from; None where it drew them itself because the ordering failed."""
    report: Report
    """What was chosen and what it cost. Where a judge chose, `judge` says which one, `scores` what it gave every noise, and
    `kept_scores` what it gave those that were kept. Where finished pictures were judged, `evaluations` are those of all runs,
    `saved_evaluations` those of one."""


def run_ordered(pipe: Any, prompt: Any = None, *, settings: Given = None, judge: GivenJudge = None, **call: Any) -> OrderedRun:
    """The pipeline's call from ordered noise, without paying twice for what a selection has asked already.

    The answers given for the winner are remembered: the first call's with every scheduler, and those after it where
    the scheduler takes DDIM or Euler steps. They are given only to the
    very same question of the very same model. Up to rounding, the pictures are those from `ordered_latents` with the same
    choice. Where the ordering fails, the pipeline runs as it would without, and the report says why.

    A judge of finished pictures (`judge_at` 1) is shown those of a whole run of the pipeline for every noise that `extra_cost`
    buys; every run begins with the generators and the global random state as the first did. The picture kept is, to the bit,
    the one that the setting `chosen` makes of that noise alone. If another thread interrupts the pipeline, the best one so far
    is kept. Only calls that make pictures can be judged: no videos, and no `output_type` "latent".

    Arguments and errors are those of `order_latents`; callbacks are called as the pipeline itself runs, in every run.

    Raises:
        Interrupted: another thread interrupted the pipeline while its model was asked, so that there is no picture.
    """
    ordering = OrderedCall(pipe, prompt, settings, judge, call, runs=True)
    generators = RandomStates(call.get("generator"))
    finished = None
    try:
        ordered = ordering.done()
        if ordering.finishes and ordering.probe is not None and not ordering.interrupted:
            finished = ordering.runs()
            ordering.finish(finished, ordered.report)
    except Exception as error:
        refused = isinstance(error, (Unusable, SettingsError)) and not ordering.evaluations
        if refused or (finished and error is finished.failed):
            raise
        generators.put_back()
        report = Report(evaluations=ordering.evaluations)
        report.skip("everything", in_one_line(error))
        return OrderedRun(pipe(**ordering.own_call), call.get("latents"), report)
    if ordering.interrupted or (finished and finished.noise is None):
        raise Interrupted(f"{INFOTEXT_PREFIX}: interrupted while the model was asked")
    if finished:
        return OrderedRun(finished.output, finished.noise, ordered.report)
    own_call, report, probe = {**ordering.own_call, "latents": ordered.noise}, ordered.report, ordering.probe
    if not report.reusable_evaluations or probe is None:
        return OrderedRun(pipe(**own_call), ordered.noise, report)
    first_step_only = ordering.rehearsal.slots[0] if has_callback(own_call) else None
    probe.answers.most = report.reusable_evaluations * ordering.pictures
    answered = AnsweredModels(probe.answers, ordering.pictures, first_step_only)
    with calls_replaced(denoising_models(pipe), answered.model):
        output = pipe(**own_call)
    report.reused(probe.answers.reused // ordering.pictures)
    return OrderedRun(output, ordered.noise, report)
