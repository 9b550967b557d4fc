"""What runs in place of ComfyUI's sampler: the questions, then the sampler with the ordered noise, then the report."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ...ordering import JudgeNeeded, finishes, order_noise
from ...report import OrderedNoise, Report, in_one_line
from ...settings import INFOTEXT_PREFIX, NoiseOrderSettings
from ..noise_keyed_draws import further_draws
from .company import CALCULATE, frames_in_the_batch
from .finished_pictures import best_finished
from .guided_model import GuidedModel
from .judge import PromptedJudge
from .placing import FRAMES, placed
from .runs import Cancelled, Run, Runs, Watcher

_log = logging.getLogger(INFOTEXT_PREFIX)


def sampler_wrapper(
    settings: NoiseOrderSettings, runs: Runs, judge: PromptedJudge | None = None, vae: Any = None
) -> Callable[..., Tensor]:
    """What stands around the host's sampler.

    Args:
        runs: gets an entry for every run of a sampler.
        judge: who chooses, where the setting `judge` names one.
        vae: the host's VAE, which a judge needs.
    """

    def sample(executor, guider, sigmas, extra_args, callback, noise, latent_image=None, denoise_mask=None, *rest, **more):
        why_not = _why_no_noise(noise)
        if why_not:
            _log.info("%s: left alone, %s", INFOTEXT_PREFIX, why_not)
            return executor(guider, sigmas, extra_args, callback, noise, latent_image, denoise_mask, *rest, **more)
        watcher = Watcher(guider.model_patcher)
        judging = None if judge is None else partial(judge.judging, settings, guider, vae)

        def model() -> GuidedModel:
            return GuidedModel(executor.class_obj, guider, sigmas, extra_args, noise, latent_image, denoise_mask)

        def sampled_from(start: Tensor, options: dict[str, Any]) -> Tensor:
            arguments = {**extra_args, "model_options": {**extra_args["model_options"], **options}}
            return executor(guider, sigmas, arguments, callback, start, latent_image, denoise_mask, *rest, **more)

        def done(report: Report, sampled: Tensor) -> Tensor:
            run = Run(report, watcher, guider.inner_model.process_latent_out(sampled.to(torch.float32)))
            _log.info("%s: %s", INFOTEXT_PREFIX, run.said)
            for reason in report.skipped:
                _log.warning("%s: skipped %s", INFOTEXT_PREFIX, reason)
            runs.add(run)
            return sampled

        frames = frames_in_the_batch(guider, extra_args["model_options"], len(noise))
        if finishes(settings):
            report = Report.before(noise)
            device = guider.model_patcher.load_device
            return done(report, best_finished(settings, noise, model, sampled_from, judging, report, watcher, frames, device))
        asked, ordered = _ordered(settings, noise, model, watcher, frames, judging)
        if asked is not None and asked.reuses_answers and ordered.report.reusable_evaluations:
            asked.reusable_rows = ordered.report.reusable_evaluations
            sampled = sampled_from(ordered.noise, {CALCULATE: asked.answered})
        else:
            sampled = sampled_from(ordered.noise, {})
        if asked is not None:
            ordered.report.reused(round(asked.saved_rows))
        return done(ordered.report, sampled)

    return sample


def _why_no_noise(noise: Any) -> str | None:
    """Why there is no noise to put in order: samplers that go on with a half-finished latent are given zeros."""
    if not isinstance(noise, Tensor):
        return f"noise of the kind {type(noise).__name__} is not known"
    return None if bool(torch.count_nonzero(noise)) else "the sampler adds no noise"


def _ordered(
    settings: NoiseOrderSettings,
    noise: Tensor,
    make: Callable[[], GuidedModel],
    watcher: Watcher,
    frames: bool,
    judging: JudgeNeeded | None,
) -> tuple[GuidedModel | None, OrderedNoise]:
    """The model and the ordered noise; the host's own noise where the model cannot be asked, and the report says why."""
    model, draw = None, further_draws(noise)
    try:
        model = make()
        unknown = model.why_unknown()
        if unknown and not settings.chosen:
            return None, _plain(noise, unknown)
        left_out: list[tuple[str, str]] = []
        settings = placed(settings, model, unknown, left_out)  # first: how far a comparison asks depends on what is injected
        why_not = unknown or (FRAMES if frames else model.why_not_compared(settings)) or ""
        ordered = order_noise(settings, draw, model, observer=watcher, judging=judging, why_not=why_not)
        for what, why in left_out:
            ordered.report.skip(what, why)
        return model, ordered
    except Cancelled as cancelled:
        raise cancelled.reason from None
    except Exception as error:
        _log.exception("%s: failed, the picture is made all the same", INFOTEXT_PREFIX)
        plain = _plain(noise, in_one_line(error))
        plain.report.evaluations = 0 if model is None else round(model.asked_rows)
        return None, plain


def _plain(noise: Tensor, why: str) -> OrderedNoise:
    report = Report.before(noise)
    report.mean_after, report.std_after = report.mean_before, report.std_before
    report.skip("everything", why)
    return OrderedNoise(noise, report)
