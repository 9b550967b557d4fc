"""What the core asks of a model, and the one convention every model's answer is converted to.

A noisy latent is x_t = alpha·x0 + sigma·eps, with x0 the clean latent and eps unit Gaussian noise:

    variance preserving (eps, v)   alpha = √ᾱ_t,    sigma = √(1 − ᾱ_t)
    k-diffusion / EDM              alpha = 1,       sigma = σ
    rectified flow                 alpha = 1 − t,   sigma = t

Key timesteps are fractions of the model's own noise schedule, 1 its noisiest level, 0 its cleanest: t / T of the training
timesteps for eps- and v-models, the noise share t itself for flow models, whatever a sampler shifts. The core
always hands over *unit-variance pure noise* z, shown to the model as if it were the latent of that level.

A denoiser answers with the prediction that points along the noise: eps for eps-, v- and x0-models, the velocity
v = eps − x0 for flow models, as in the paper. `along_noise` converts every parameterisation to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


class Denoiser(Protocol):
    """Says what the model predicts for pure noise at a key timestep, given the prompt.

    A denoiser whose host cannot leave the guidance's second pass out says so in an attribute `evaluations`: how many
    model evaluations per picture one call costs (1 without it). One that can answer for several timesteps at once has a
    method `several(noise, timesteps)`, which yields one prediction per timestep, in their order.
    """

    def __call__(self, noise: Tensor, timestep: float) -> Tensor:
        """One conditional prediction.

        Args:
            noise: unit-variance noise [B, …]; must not be modified.
            timestep: fraction of the noise schedule in [0, 1].

        Returns:
            The prediction along the noise, of the noise's shape.
        """
        ...


@dataclass(frozen=True)
class NoiseLevel:
    """One level of a noise schedule: x_t = alpha·x0 + sigma·eps."""

    alpha: float
    sigma: float

    @staticmethod
    def variance_preserving(alpha_bar: float) -> NoiseLevel:
        return NoiseLevel(alpha_bar**0.5, (1 - alpha_bar) ** 0.5)

    @staticmethod
    def flow(t: float) -> NoiseLevel:
        return NoiseLevel(1 - t, t)


PARAMETERISATIONS = ("eps", "v", "flow", "x0")


def clean(prediction: Tensor, x: Tensor, level: NoiseLevel, parameterisation: str) -> Tensor:
    """The clean latent x0 that a model's output stands for.

    Args:
        prediction: the model's raw output, shape of x.
        x: the noisy latent x_t the model was shown.
        level: its noise level.
        parameterisation: "eps", "v" (v = alpha·eps − sigma·x0), "flow" (v = eps − x0) or "x0".

    Raises:
        ValueError: unknown parameterisation.
    """
    if parameterisation == "eps":
        return (x - level.sigma * prediction) / level.alpha
    if parameterisation == "v":
        return (level.alpha * x - level.sigma * prediction) / (level.alpha**2 + level.sigma**2)
    if parameterisation == "flow":
        return (x - level.sigma * prediction) / (level.alpha + level.sigma)
    if parameterisation == "x0":
        return prediction
    raise ValueError(f"parameterisation must be one of {', '.join(PARAMETERISATIONS)}, got {parameterisation!r}")


def along_noise(prediction: Tensor, x: Tensor, level: NoiseLevel, parameterisation: str, flow: bool = False) -> Tensor:
    """A model's raw output in the core's convention: eps, or for flow models the velocity eps − x0.

    Args:
        prediction, x, level, parameterisation: as in `clean`.
        flow: the model is a flow model although its output came as eps or x0 (hosts hand out denoised latents).

    Raises:
        ValueError: unknown parameterisation.
    """
    if parameterisation == "flow":
        return prediction
    if parameterisation == "eps":
        eps = prediction
    elif parameterisation == "v":
        eps = (level.sigma * x + level.alpha * prediction) / (level.alpha**2 + level.sigma**2)
    else:
        eps = (x - level.alpha * clean(prediction, x, level, parameterisation)) / level.sigma
    return eps - clean(prediction, x, level, parameterisation) if flow else eps
