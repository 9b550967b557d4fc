"""The noise schedules of diffusers' schedulers, in the core's terms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ...model import NoiseLevel

_FLOW_SCHEDULERS = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler", "FlowMatchLCMScheduler")
_PREDICTIONS = {"epsilon": "eps", "v_prediction": "v", "sample": "x0", "flow_prediction": "flow"}


class Schedule:
    """A scheduler's noise levels, in the core's terms.

    Attributes:
        parameterisation: what the model predicts: "eps", "v", "x0" or "flow".
        sampler_levels: the levels of the sampler's calls with their timesteps, noisiest first.
    """

    def __init__(self, scheduler: Any):
        self._scheduler = scheduler
        self._size = int(scheduler.config.num_train_timesteps)
        if is_flow(scheduler):
            self.parameterisation = "flow"
            self._alphas = None
        else:
            self.parameterisation = _PREDICTIONS[scheduler.config.get("prediction_type", "epsilon")]
            self._alphas = scheduler.alphas_cumprod.double().cpu()
        self.sampler_levels = self._sampler_levels()
        self._timesteps = dict(self.sampler_levels)

    def level_at(self, fraction: float) -> NoiseLevel:
        """The model's level at a fraction of its noise schedule."""
        timestep, level = self._at(fraction)
        self._timesteps.setdefault(level, timestep)
        return level

    def _at(self, fraction: float) -> tuple[int, NoiseLevel]:
        if self._alphas is None:
            timestep = max(round(fraction * self._size), 1)
            return timestep, NoiseLevel.flow(timestep / self._size)
        timestep = round(fraction * (self._size - 1))
        return timestep, NoiseLevel.variance_preserving(self._alphas[timestep].item())

    def nearest_level(self, noise_share: float) -> NoiseLevel:
        """The model's level whose sigma / (alpha + sigma) is nearest to a noise share."""
        if self._alphas is None:
            timestep, level = self._at(noise_share)
        else:
            alpha, sigma = self._alphas.sqrt(), (1 - self._alphas).sqrt()
            timestep = int((sigma / (alpha + sigma) - noise_share).abs().argmin())
            level = NoiseLevel.variance_preserving(self._alphas[timestep].item())
        self._timesteps.setdefault(level, timestep)
        return level

    def timestep(self, level: NoiseLevel) -> float:
        """The scheduler's timestep of a level that this schedule gave."""
        return self._timesteps[level]

    def start(self, noise: Tensor) -> Tensor:
        """The model's first input for unit-variance noise, as the scheduler scales it."""
        noise = noise * float(getattr(self._scheduler, "init_noise_sigma", 1.0))
        if hasattr(self._scheduler, "scale_model_input"):
            noise = self._scheduler.scale_model_input(noise, self._scheduler.timesteps[0])
        return noise

    def _sampler_levels(self) -> dict[NoiseLevel, float]:
        timesteps = self._scheduler.timesteps.tolist()
        sigmas = getattr(self._scheduler, "sigmas", None)
        levels: dict[NoiseLevel, float] = {}
        for index, timestep in enumerate(timesteps):
            if self._alphas is None:
                level = NoiseLevel.flow(float(self._scheduler.sigmas[index]))
            elif sigmas is not None and len(sigmas) >= len(timesteps):
                level = NoiseLevel.variance_preserving(1 / (1 + float(sigmas[index]) ** 2))
            else:
                level = NoiseLevel.variance_preserving(self._alphas[int(timestep)].item())
            levels.setdefault(level, timestep)
        return levels


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
    kind = scheduler.config.get("prediction_type", "epsilon")
    return is_flow(scheduler) or (kind in _PREDICTIONS and hasattr(scheduler, "alphas_cumprod"))


def takes_euler_steps(scheduler: Any, call: Mapping[str, Any]) -> bool:
    """Whether the pipeline goes straight from one level to the next, so that steps taken beforehand meet its very latents."""
    config, kind = scheduler.config, type(scheduler).__name__
    if kind == "DDIMScheduler":
        euler = not (config.get("clip_sample") or config.get("thresholding") or call.get("eta"))
    elif kind == "FlowMatchEulerDiscreteScheduler":
        euler = not config.get("stochastic_sampling")
    else:
        euler = kind == "EulerDiscreteScheduler"
    return euler and not call.get("guidance_rescale")
