"""Ordered noise for TRELLIS, text or image to 3D: both of a pipeline's samplers, in place, until undone.

    with order_trellis(pipeline, settings) as ordered:
        outputs = pipeline.run(image, seed=1)
    print(ordered.reports)

Structure noise is dense [N, C, r, r, r]; the noise of structured latents is sparse, features [M, C] of which every sample
has a slice. TRELLIS itself is not imported: whoever has a pipeline has it already.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..answers import is_replaced, shadow
from ..chosen import check_without_seeds, part_of
from ..model import NoiseLevel
from ..ordering import order_noise
from ..report import Report
from ..settings import INFOTEXT_PREFIX, NoiseOrderSettings
from .given_settings import Given, given_settings
from .noise_keyed_draws import further_draws

SAMPLERS = ("sparse_structure_sampler", "slat_sampler")


class OrderedTrellis:
    """A pipeline whose samplers start from ordered noise; a context manager that undoes it.

    Attributes:
        reports: what happened, one per sampler run (sparse noise: per sample of it).
    """

    def __init__(self, pipeline: Any, settings: NoiseOrderSettings):
        self.reports: list[Report] = []
        self._settings = settings
        self._draws: list[int] = []
        samplers = [getattr(pipeline, name) for name in SAMPLERS]
        self._restore = [shadow(sampler, "sample", functools.partial(self._sample, sampler)) for sampler in samplers]

    @property
    def chosen(self) -> str:
        """What the setting `chosen` has to be for the same draws again; "" where none was chosen."""
        return " ".join(map(str, self._draws)) if any(self._draws) else ""

    def undo(self) -> None:
        """Give the samplers their own functions back; a second time changes nothing."""
        while self._restore:
            self._restore.pop()()

    def __enter__(self) -> OrderedTrellis:
        return self

    def __exit__(self, *error: Any) -> None:
        self.undo()

    def _sample(self, sampler: Any, original: Callable[..., Any], model: Any, noise: Any, *args: Any, **kwargs: Any) -> Any:
        """Stands in for a sampler's `sample`: the questions, then the sampler with the ordered noise."""
        bound = inspect.signature(original).bind(model, noise, *args, **kwargs)
        bound.apply_defaults()
        call = {name: value for name, value in bound.arguments.items() if name not in ("model", "noise", "kwargs")}
        call |= bound.arguments.get("kwargs", {})
        if hasattr(noise, "feats"):
            feats = []
            for index, rows in enumerate(noise.layout):
                asked = FlowModel(sampler, model, _of_sample(call, index, noise), _alone(noise, rows))
                feats.append(self._ordered(noise.feats[None, rows], asked)[0])
            noise = noise.replace(torch.cat(feats))
        else:
            noise = self._ordered(noise, FlowModel(sampler, model, call, None))
        return original(model, noise, *args, **kwargs)

    def _ordered(self, first: Tensor, model: FlowModel) -> Tensor:
        chosen = part_of(self._settings.chosen, len(self._draws), len(first))
        ordered = order_noise(dataclasses.replace(self._settings, chosen=chosen), further_draws(first), model)
        self._draws += ordered.report.chosen or [0] * len(first)
        self.reports.append(ordered.report)
        return ordered.noise


def order_trellis(pipeline: Any, settings: Given = None) -> OrderedTrellis:
    """Let a TRELLIS pipeline's samplers start from ordered noise, until `undo` is called on what comes back.

    Args:
        pipeline: a TrellisImageTo3DPipeline or TrellisTextTo3DPipeline. Seeds, sampler parameters and several images
            work as ever; the global random state is drawn from by TRELLIS alone.
        settings: what to do; see `given_settings`. `chosen` lists draws in the order of the reports, or one for all.

    Raises:
        TypeError: no TRELLIS pipeline, or samplers that are not its flow samplers.
        ValueError: settings that cannot be used, or a pipeline that is ordered already.
        What the model raises passes through its samplers.
    """
    settings = given_settings(settings)
    check_without_seeds(settings.chosen)
    for name in SAMPLERS:
        sampler = getattr(pipeline, name, None)
        if sampler is None:
            raise TypeError(f"{INFOTEXT_PREFIX}: a {type(pipeline).__name__} has no {name}; it is no TRELLIS pipeline")
        if not all(hasattr(sampler, part) for part in ("sample", "_inference_model", "_v_to_xstart_eps", "sigma_min")):
            raise TypeError(f"{INFOTEXT_PREFIX}: {name} is a {type(sampler).__name__}, not one of TRELLIS' flow samplers")
        if is_replaced(sampler, "sample"):
            raise ValueError(f"{INFOTEXT_PREFIX}: the pipeline's {name} is replaced already; undo that first")
    return OrderedTrellis(pipeline, settings)


class FlowModel:
    """A sampler's model for one prompt; a `lib_noiseorder.model.Model`.

    x = (1 − t)·x0 + (sigma_min + (1 − sigma_min)·t)·eps, and the model predicts the velocity. It is asked below the
    sampler's guidance. Where the pipeline was given several images for one object, the questions take turns.
    """

    family = "flow"
    takes_euler_steps = True
    reuses_answers = False
    latents_per_call = 1
    cond_evaluations = 1
    pair_evaluations = 2
    sampler_evaluations = None

    def __init__(self, sampler: Any, model: Any, call: Mapping[str, Any], sparse: Any | None):
        self._sampler, self._model, self._sparse = sampler, model, sparse
        self._cond, self._neg_cond = call["cond"], call.get("neg_cond")
        self._several = "_old_inference_model" in vars(sampler)  # how TRELLIS marks runs with several images
        self._asked = 0
        low, high = call.get("cfg_interval", (0.0, 1.0))
        guided = self._neg_cond is not None and low <= 1 <= high
        self.guidance = 1 + float(call.get("cfg_strength", 0.0)) if guided else 1.0
        steps, shift = call["steps"], call["rescale_t"]
        times = [1 - number / steps for number in range(steps)]
        self.sampler_levels = [self.level_at(shift * t / (1 + (shift - 1) * t)) for t in times]
        own = {"cond", "neg_cond", "cfg_interval", "cfg_strength", "steps", "rescale_t", "verbose"}
        self._more = {name: value for name, value in call.items() if name not in own}
        # guidance is added by subclasses; the first class of the line asks the model once, with one prompt
        kinds = [kind for kind in type(sampler).__mro__ if "_inference_model" in vars(kind)]
        self._inference = vars(kinds[-1])["_inference_model"]

    # -- Model -----------------------------------------------------------------------------------------------------

    def start(self, noise: Tensor) -> Tensor:
        return noise

    def noisy(self, noise: Tensor, level: NoiseLevel) -> Tensor:
        return noise

    def level_at(self, timestep: float) -> NoiseLevel:
        least = self._sampler.sigma_min
        return NoiseLevel(1 - timestep, least + (1 - least) * timestep)

    def predict(self, latents: Sequence[Tensor], levels: Sequence[NoiseLevel]) -> list[Tensor]:
        return [self._clean(x, level, self._cond) for x, level in zip(latents, levels)]

    def predict_pair(self, x: Tensor, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        return self._clean(x, level, self._cond), self._clean(x, level, self._neg_cond)

    # -- inside ----------------------------------------------------------------------------------------------------

    def _clean(self, x: Tensor, level: NoiseLevel, cond: Any) -> Tensor:
        t = 1 - level.alpha
        return self._sampler._v_to_xstart_eps(x_t=x, t=t, v=self._velocity(x, t, cond))[0]

    def _velocity(self, x: Tensor, t: float, cond: Any) -> Tensor:
        if self._several and cond is self._cond:
            turn = self._asked % len(cond)
            cond = cond[turn : turn + 1]
            self._asked += 1
        shown = x if self._sparse is None else self._sparse.replace(x[0])
        with torch.no_grad():
            velocity = self._inference(self._sampler, self._model, shown, t, cond, **self._more)
        return velocity if self._sparse is None else velocity.feats[None]


def _alone(noise: Any, rows: slice) -> Any:
    """One sample of a sparse tensor, as a sparse tensor of its own."""
    coords = noise.coords[rows].clone()
    coords[:, 0] = 0
    return type(noise)(feats=noise.feats[rows], coords=coords)


def _of_sample(call: Mapping[str, Any], index: int, noise: Any) -> dict[str, Any]:
    """The call's arguments with the conditions of one sample."""
    count = len(noise.layout)

    def own(value: Any) -> Any:
        return value[index : index + 1] if isinstance(value, Tensor) and len(value) == count > 1 else value

    return {**call, **{name: own(call[name]) for name in ("cond", "neg_cond") if name in call}}
