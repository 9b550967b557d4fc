"""The host's own sampler run once for every noise, and the finished picture kept that a judge prefers."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...ordering import JudgeNeeded, choose_finished, erased_candidate, inject_semantics
from ...report import Report, in_one_line
from ...settings import INFOTEXT_PREFIX, NoiseOrderSettings
from ..noise_keyed_draws import further_draws
from .guided_model import GuidedModel
from .placing import FRAMES, placed
from .runs import Cancelled, Watcher, cancelling
from .set_aside import RandomStates

_log = logging.getLogger(INFOTEXT_PREFIX)
_UNFINISHED = "this sampler leaves its pictures unfinished, for another one; judge_at below 1 would do"


def best_finished(
    settings: NoiseOrderSettings,
    noise: Tensor,
    make: Callable[[], GuidedModel],
    sample: Callable[[Tensor, dict[str, Any]], Tensor],
    judging: JudgeNeeded | None,
    report: Report,
    watcher: Watcher,
    frames: bool,
    device: torch.device,
) -> Tensor:
    """The finished latents [B, …] that a judge prefers; those of the host's own run if it cannot come to that.

    Args:
        noise: the host's own.
        make: gives the model, which knows what other nodes keep and is asked where the settings inject.
        sample: the host's sampler, from noise and under these model options.
        judging: gives the judge.
        frames: whether the batch is one video.
        device: where the host samples.
    """
    draw, rows, started = further_draws(noise), list[list[int]](), time.perf_counter()
    states = RandomStates(device)

    def plain(error: Exception) -> Tensor:
        _log.exception("%s: failed, the picture is made all the same", INFOTEXT_PREFIX)
        report.skip("selection", in_one_line(error))
        return sample(noise, {})

    try:
        model, left_out = make(), list[tuple[str, str]]()
        unknown = model.why_unknown()
        injecting = placed(settings, model, unknown, left_out)
    except Exception as error:
        return plain(error)

    def finish(start: Tensor) -> Tensor:
        before, asked = report.evaluations, model.asked_rows
        try:
            ordered = inject_semantics(injecting, start, model, report).noise
        except Exception:
            report.evaluations = before + round(model.asked_rows - asked)  # the question that failed, too
            raise
        if rows:
            states.put_back()
            model.as_before()
        rows.append([])
        with cancelling():  # a later run that the user cancels is no failure, after which the best so far would be kept
            return sample(ordered.clone(), model.counted(rows[-1]))

    try:
        kept = choose_finished(
            settings, lambda k: erased_candidate(settings, draw, k), model.family, finish, report, judging,
            observer=watcher, why_not=unknown or (FRAMES if frames else _UNFINISHED if model.stops_early else ""),
        )  # fmt: skip
        for what, why in left_out:
            report.skip(what, why)
    except Cancelled as cancelled:
        raise cancelled.reason from None
    except Exception as error:
        if rows:  # it is the host's sampler that fails
            raise
        return plain(error)
    paid = [round(sum(run) / len(noise)) for run in rows]
    report.evaluations += sum(paid)
    report.reused(paid[0])
    report.took(time.perf_counter() - started)
    return kept
