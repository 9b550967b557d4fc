"""Where the host's sampler will start: its first noise level, and its first noisy latent for a given noise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from modules import sd_samplers_common
from modules.shared import opts
from torch import Tensor


def sampler_start(p: Any, latent: Tensor | None, sigmas: Tensor, flow: bool) -> tuple[float, Callable[[Tensor], Tensor]]:
    """The first sigma, and a function from noise [B, …] to the sampler's first latent.

    Args:
        p: the job; its `sampler` is about to be called.
        latent: what img2img starts from [B, …]; None for txt2img.
        sigmas: the checkpoint's noise schedule, cleanest first.
        flow: whether it is a flow model.
    """
    sampler, k_diffusion = p.sampler, hasattr(p.sampler, "get_sigmas")
    steps, position = p.steps, 0
    if latent is not None:
        steps, encoding_steps = sd_samplers_common.setup_img2img_steps(p)
        position = steps - encoding_steps - 1
    if k_diffusion:
        sigma = float(sampler.get_sigmas(p, steps)[position])
    else:  # DDIM and its relatives count timesteps upwards
        timestep = sampler.get_timesteps(p, steps)[-1 if latent is None else encoding_steps]
        sigma = float(sigmas[int(timestep)])

    def start(noise: Tensor) -> Tensor:
        if flow:
            return noise * sigma if latent is None else latent * (1 - sigma) + noise * sigma
        if latent is not None:
            return latent + noise * sigma
        full = opts.sgm_noise_multiplier or not k_diffusion
        return noise * ((1 + sigma**2) ** 0.5 if full else sigma)

    return sigma, start
