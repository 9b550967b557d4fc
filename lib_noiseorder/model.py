"""What the core asks of a host: draws and one model object, and the one convention that every prediction is converted to.

A noisy latent is x_t = alpha·x0 + sigma·eps, with x0 the clean latent and eps unit Gaussian noise:

    variance preserving (eps, v)   alpha = √ᾱ_t,    sigma = √(1 − ᾱ_t)
    k-diffusion / EDM              alpha = 1,       sigma = σ
    rectified flow                 alpha = 1 − t,   sigma = t

`Model.predict` answers with the clean latent x0; `clean` converts eps-, v- and flow predictions to it. What is injected is the
prediction that points along the noise, as in the paper: eps, or for flow models the velocity v = eps − x0 (`along_noise`).

Key timesteps are fractions of the model's own noise schedule, 1 its noisiest level, 0 its cleanest: t / T of the training
timesteps for eps- and v-models, the noise share t itself for flow models, whatever a sampler shifts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

Draw = Callable[[int], Tensor]
"""Gives the k-th independent N(0, I) noise [B, …] of the pictures of a batch, k = 1, 2, …; 1 is the host's own."""


@dataclass(frozen=True)
class NoiseLevel:
    """One level of a noise schedule: x_t = alpha·x0 + sigma·eps."""

    alpha: float
    sigma: float

    @property
    def noise_share(self) -> float:
        """sigma / (alpha + sigma): 1 is pure noise, 0 the clean latent."""
        return self.sigma / (self.alpha + self.sigma)

    @staticmethod
    def variance_preserving(alpha_bar: float) -> NoiseLevel:
        return NoiseLevel(alpha_bar**0.5, (1 - alpha_bar) ** 0.5)

    @staticmethod
    def flow(t: float) -> NoiseLevel:
        return NoiseLevel(1 - t, t)


class Model(Protocol):
    """A diffusion model with its prompt and the sampler that is about to run: everything the core asks of a host.

    Latents are [B, …], one row per picture of the batch, noisy ones in the host's own convention, which its noise levels say.
    """

    @property
    def family(self) -> str:
        """ "flow" for flow models, "eps" for all others (eps, v, x0); decides what is injected, and the draws' scale."""
        ...

    @property
    def guidance(self) -> float:
        """Classifier-free guidance scale; 1 means that the sampler never asks without the prompt."""
        ...

    @property
    def sampler_levels(self) -> Sequence[NoiseLevel]:
        """The levels of the sampler's calls, noisiest first, without the final clean one."""
        ...

    @property
    def takes_euler_steps(self) -> bool:
        """Whether the sampler takes DDIM / Euler steps, so that a step taken here leads to the latent it will ask about."""
        ...

    @property
    def reuses_answers(self) -> bool:
        """Whether the sampler's first calls are answered from what was asked here already; see `lib_noiseorder.answers`."""
        ...

    @property
    def sampler_evaluations(self) -> int | None:
        """Model evaluations per picture of the sampler's whole run by itself; None: what the calls of `sampler_levels` make."""
        ...

    @property
    def latents_per_call(self) -> int:
        """The most latents that one `predict` is given; 1 where the network must see them one by one."""
        ...

    @property
    def cond_evaluations(self) -> int:
        """Model evaluations per picture that `predict` costs for each latent; 1 unless the host cannot do with less."""
        ...

    @property
    def pair_evaluations(self) -> int:
        """Model evaluations per picture that `predict_pair` costs; 2 as a rule."""
        ...

    def start(self, noise: Tensor, /) -> Tensor:
        """The sampler's first noisy latent, at `sampler_levels[0]`, for unit-variance noise; img2img adds its picture here."""
        ...

    def noisy(self, noise: Tensor, level: NoiseLevel, /) -> Tensor:
        """Unit-variance noise shown as if it were the latent of that level; in img2img the picture under it."""
        ...

    def level_at(self, timestep: float, /) -> NoiseLevel:
        """The level at a key timestep, a fraction of the model's noise schedule in [0, 1]."""
        ...

    def predict(self, latents: Sequence[Tensor], levels: Sequence[NoiseLevel], /) -> Sequence[Tensor]:
        """The clean latents x0 that the model predicts with the prompt, one per noisy latent at its level.

        Args:
            latents: 1 to `latents_per_call` noisy latents; must not be modified.
            levels: one per latent.
        """
        ...

    def predict_pair(self, x: Tensor, level: NoiseLevel, /) -> tuple[Tensor, Tensor]:
        """x0 with the prompt and x0 without (with the negative prompt), as the sampler asks for them."""
        ...


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
