"""The sampler that is about to run: its noise levels, and its first noisy latent for a given noise."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from modules import sd_samplers_common
from modules.shared import opts
from torch import Tensor

_EULER = ("Euler", "DDIM")
_BEGINS_BELOW_PURE_NOISE = "offset_first_sigma_for_snr"
"""What Forge Neo's stochastic samplers call to move a flow model's first level."""


def sampler_sigmas(
    p: Any, latent: Tensor | None, sigmas: Tensor, flow: bool, steps: int | None = None
) -> tuple[list[float], Callable[[Tensor], Tensor]]:
    """The sigmas of the sampler's calls, noisiest first, and a function from noise [B, …] to its first latent.

    Args:
        p: the job; its `sampler` is about to be called.
        latent: what img2img starts from [B, …]; None for txt2img.
        sigmas: the checkpoint's noise schedule, cleanest first.
        flow: whether it is a flow model.
        steps: the host's own argument of that name, which its hires pass has.
    """
    sampler, k_diffusion = p.sampler, hasattr(p.sampler, "get_sigmas")
    steps, taken = steps_of(p, latent is not None, steps)
    if k_diffusion:
        found = [float(sigma) for sigma in sampler.get_sigmas(p, steps) if sigma > 0]
        found = found[0 if latent is None else steps - taken :]
    else:  # DDIM and its relatives count timesteps upwards
        timesteps = sampler.get_timesteps(p, steps)[: None if latent is None else taken]
        found = [float(sigmas[int(timestep)]) for timestep in reversed(timesteps.tolist())]
        uncalled = 1 if latent is None else 2  # they end one short, and in img2img begin one later than their noise
        found = found[: max(1, len(found) - uncalled)]
    sigma = found[0]
    # as the user set it: probes run without it
    more = 0.0 if latent is None else getattr(opts, "data", {}).get("img2img_extra_noise", 0.0)

    def start(noise: Tensor) -> Tensor:
        if flow:
            return noise * sigma if latent is None else latent * (1 - sigma) + noise * (sigma + more)
        if latent is not None:
            return latent + noise * (sigma + more)
        full = opts.sgm_noise_multiplier or not k_diffusion
        return noise * ((1 + sigma**2) ** 0.5 if full else sigma)

    return found, start


def steps_of(p: Any, img2img: bool, steps: int | None = None) -> tuple[int, int]:
    """The steps that the sampler's schedule is made for, and how many of them it takes.

    Args:
        p: the job.
        img2img: whether it starts from a picture, so that the schedule's first steps are left out.
        steps: the host's own argument of that name, which its hires pass has.
    """
    if not img2img:
        return steps or p.steps, steps or p.steps
    schedule, encoding = sd_samplers_common.setup_img2img_steps(p, steps)
    return schedule, encoding + 1


def calls_per_step(p: Any) -> int:
    """How far the host's counter of the sampler's calls, which prompt schedules go by, moves in a step."""
    return 2 if getattr(p.sampler.config, "options", {}).get("second_order") else 1


def knows_the_family(sampler: Any, flow: bool) -> bool:
    """Whether a sampler's latents are those of the model's kind: DDIM and its relatives know no flow models."""
    return not flow or hasattr(sampler, "get_sigmas")


def asks_at_its_levels(sampler: Any, flow: bool, first: float, from_a_picture: bool) -> bool:
    """Whether a sampler's first call is at the first level of its schedule.

    Of those that count timesteps, UniPC has a schedule of its own, and in img2img all first ask below the level of their noise.
    """
    if not hasattr(sampler, "get_sigmas") and (from_a_picture or sampler.config.name == "UniPC"):
        return False
    function: Any = getattr(sampler, "func", None)
    code = getattr(inspect.unwrap(function), "__code__", None)
    return not (flow and first >= 1 and _BEGINS_BELOW_PURE_NOISE in getattr(code, "co_names", ()))


def takes_euler_steps(p: Any) -> bool:
    """Whether the sampler goes straight from one level to the next, so that steps taken beforehand meet its very latents."""
    running = getattr(getattr(p, "sampler", None), "config", None)  # the hires pass may have a sampler of its own
    return getattr(running, "name", p.sampler_name) in _EULER and not getattr(p, "s_churn", 0)
