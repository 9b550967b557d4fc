"""The noise schedules of diffusers' schedulers, in the core's terms."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ...model import NoiseLevel

_FLOW_SCHEDULERS = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler", "FlowMatchLCMScheduler")
_PREDICTIONS = {"epsilon": "eps", "v_prediction": "v", "sample": "x0", "flow_prediction": "flow"}


class Schedule:
    """A scheduler's noise levels, in the core's terms.

    Attributes:
        parameterisation: what the model predicts: "eps", "v", "x0" or "flow".
        sampler_levels: the levels of the sampler's calls, in their order; some schedulers ask twice at one.
    """

    def __init__(self, scheduler: Any, timesteps: Sequence[float]):
        """
        Args:
            scheduler: with its timesteps set.
            timesteps: those of the calls that the pipeline will make.
        """
        self._scheduler = scheduler
        self._size = int(scheduler.config.num_train_timesteps)
        if is_flow(scheduler):
            self.parameterisation = "flow"
            self._alphas = None
        else:
            self.parameterisation = _PREDICTIONS[scheduler.config.get("prediction_type", "epsilon")]
            self._alphas = scheduler.alphas_cumprod.double().cpu()
        self._timesteps: dict[NoiseLevel, float] = {}
        self.sampler_levels = [self._level_of(timestep, index) for index, timestep in enumerate(timesteps)]
        for level, timestep in zip(self.sampler_levels, timesteps):
            self._timesteps.setdefault(level, timestep)

    def level_at(self, fraction: float) -> NoiseLevel:
        """The model's level at a fraction of its noise schedule."""
        return self._at(max(round(fraction * self._size), 1) if self._alphas is None else round(fraction * (self._size - 1)))

    def timestep(self, level: NoiseLevel) -> float:
        """The scheduler's timestep of a level that this schedule gave."""
        return self._timesteps[level]

    def start(self, noise: Tensor) -> Tensor:
        """The model's first input for unit-variance noise, as the scheduler scales it."""
        noise = noise * float(getattr(self._scheduler, "init_noise_sigma", 1.0))
        if hasattr(self._scheduler, "scale_model_input"):
            noise = self._scheduler.scale_model_input(noise, self._scheduler.timesteps[0])
        return noise

    def _at(self, timestep: int) -> NoiseLevel:
        """The level of a training timestep, with the number that the scheduler tells the model for it."""
        if self._alphas is None:
            level, told = NoiseLevel.flow(timestep / self._size), float(timestep)
        else:
            level, told = NoiseLevel.variance_preserving(self._alphas[timestep].item()), float(timestep)
            if _is_continuous(self._scheduler):
                told = 0.25 * math.log(level.sigma / level.alpha)
        self._timesteps.setdefault(level, told)
        return level

    def _level_of(self, timestep: float, index: int) -> NoiseLevel:
        sigmas = getattr(self._scheduler, "sigmas", None)
        if self._alphas is None:
            return NoiseLevel.flow(float(self._scheduler.sigmas[index]))
        if sigmas is not None and len(sigmas) >= len(self._scheduler.timesteps):
            return NoiseLevel.variance_preserving(1 / (1 + float(sigmas[index]) ** 2))
        return NoiseLevel.variance_preserving(self._alphas[int(timestep)].item())


def is_flow(scheduler: Any) -> bool:
    """Whether a scheduler samples from a flow model."""
    config = scheduler.config
    return (
        any(kind.__name__ in _FLOW_SCHEDULERS for kind in type(scheduler).__mro__)
        or config.get("prediction_type") == "flow_prediction"
        or bool(config.get("use_flow_sigmas"))
    )


def is_known(scheduler: Any) -> bool:
    """Whether the scheduler's noise levels can be said in the core's terms."""
    config = getattr(scheduler, "config", {})
    if "num_train_timesteps" not in config or config.get("invert_sigmas") or not hasattr(scheduler, "step"):
        return False
    kind = config.get("prediction_type", "epsilon")
    return is_flow(scheduler) or (kind in _PREDICTIONS and hasattr(scheduler, "alphas_cumprod"))


def _is_continuous(scheduler: Any) -> bool:
    """Whether the model is told 0.25 · ln(sigma / alpha) instead of a training timestep."""
    config = scheduler.config
    return config.get("timestep_type") == "continuous" and config.get("prediction_type") == "v_prediction"


def takes_euler_steps(scheduler: Any, call: Mapping[str, Any]) -> bool:
    """Whether the scheduler goes straight from one level to the next, so that steps taken beforehand meet its very latents."""
    config, kind = scheduler.config, type(scheduler).__name__
    if kind == "DDIMScheduler":
        return not (config.get("clip_sample") or config.get("thresholding") or call.get("eta"))
    if kind == "FlowMatchEulerDiscreteScheduler":
        return not config.get("stochastic_sampling")
    return kind == "EulerDiscreteScheduler"


def levels_stepped_through(scheduler: Any) -> list[NoiseLevel]:
    """The levels in terms of the latents that the scheduler's own steps are taken in, where they are not those of its calls."""
    if float(getattr(scheduler, "init_noise_sigma", 1.0)) <= 1:
        return []
    return [NoiseLevel(1.0, float(sigma)) for sigma in scheduler.sigmas]
