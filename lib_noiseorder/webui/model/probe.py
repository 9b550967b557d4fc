"""Asking the loaded checkpoint before sampling, through a sampler of the host's own.

A second sampler is made whose sampling function is ours: the host prepares the model, the conditioning, prompt
schedules, `AND`, ControlNet and whatever other extensions patched, exactly as for a picture, then hands us its
guided denoiser instead of running its steps. One code path for every host; nothing of the host is reimplemented.

The probe runs under the schedule of the sampler that it stands for: some hosts write theirs into every call of the network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from modules import sd_samplers
from modules.shared import opts, state
from torch import Tensor

from ...answers import is_replaced, value_replaced
from ...settings import NoiseOrderSettings
from .checkpoint import checkpoint_of
from .host_model import HostModel
from .sampler_sigmas import calls_per_step

T = TypeVar("T")


class Interrupted(Exception):
    """The user interrupted or skipped while the model was being asked."""


@dataclass(frozen=True)
class Sampling:
    """The arguments of the host's call of its sampler, to be repeated by the probe."""

    p: Any
    latent: Tensor | None
    """What img2img starts from; None in txt2img."""
    conditioning: Any
    unconditional_conditioning: Any
    image_conditioning: Any
    noise_multiplier: float = 1.0
    """The host's factor on img2img's noise."""
    steps: int | None = None
    """The host's own argument of that name, which its hires pass has."""


def ask_model(sampling: Sampling, settings: NoiseOrderSettings, noise: Tensor, work: Callable[[HostModel], T]) -> T:
    """Run `work` with the loaded checkpoint, inside the host's own sampling environment.

    Everything the probe touches on the way (infotext parameters, progress, refiner, what samplers write into the model's
    options, the CPU's random state) is put back.

    Args:
        sampling: the arguments of the host's sampler call.
        settings: what is asked for.
        noise: [B, …] on the sampler's device; only its shape is used.
        work: gets the model; its result is returned.

    Raises:
        Interrupted: the user interrupted or skipped meanwhile.
        Whatever `work` raises.
    """
    p = sampling.p
    written = checkpoint_of(p.sd_model).written_by_samplers
    as_it_was = dict(written)
    outcome: list[T] = []
    failure: list[Exception] = []

    def put_back() -> None:
        written.clear()
        written.update(as_it_was)

    def in_place_of_the_steps(
        model: Any, x: Tensor, extra_args: Any = None, disable: Any = None, callback: Any = None
    ) -> Tensor:
        model.mask = model.nmask = None  # the question is about the noise alone, not about an inpainting blend
        model.total_steps = model.steps * calls_per_step(p)
        if not k_diffusion:
            put_back()
        try:
            host = HostModel(p, settings, model, extra_args, sampling.latent, sampling.noise_multiplier, len(x), sampling.steps)
            outcome.append(work(host))
        except Exception as error:  # the host's clean-up after the steps must run
            failure.append(error)
        return x

    probe = _sampler_of_our_own(p)
    probe.func = in_place_of_the_steps
    if k_diffusion := hasattr(p.sampler, "get_sigmas"):
        probe.get_sigmas = p.sampler.get_sigmas
    else:  # DDIM and its relatives write no sigmas anywhere
        probe.get_sigmas = lambda p, steps: probe.model_wrap.sigmas.detach().cpu().flip(0)[: steps + 1]
    devices = [noise.device] if noise.device.type == "cuda" else []
    with _kept(p), ExitStack() as after, torch.random.fork_rng(devices=devices):
        after.callback(put_back)
        sample, start = probe.sample, [noise.clone()]
        if sampling.latent is not None:
            sample, start = probe.sample_img2img, [sampling.latent, noise.clone()]
        sample(
            p,
            *start,
            sampling.conditioning,
            sampling.unconditional_conditioning,
            steps=sampling.steps,
            image_conditioning=sampling.image_conditioning,
        )
    if failure:
        raise failure[0]
    if not outcome:
        raise Interrupted("interrupted")
    return outcome[0]


def _sampler_of_our_own(p: Any) -> Any:
    """A sampler that nobody else has, asking the function that the job's own sampler asks.

    Not by the hosts' `create_sampler`: Tiled Diffusion, for one, replaces it, and gives out the job's own sampler.
    """
    config = sd_samplers.find_sampler_config("Euler")
    probe = config.constructor(p.sd_model)
    probe.config = config
    asked, ours = (getattr(getattr(one, "model_wrap_cfg", None), "inner_model", None) for one in (p.sampler, probe))
    if is_replaced(asked, "forward") and type(asked) is type(ours):  # tiled, say: questions are to be tiled as the steps are
        probe.model_wrap_cfg.model_wrap = probe.model_wrap = asked
    return probe


@contextmanager
def _kept(p: Any) -> Iterator[None]:
    """Put back what a sampler run changes on the job and in the progress display; no refiner meanwhile."""
    parameters = dict(p.extra_generation_params)
    names = ("sampling_steps", "sampling_step", "current_image_sampling_step", "textinfo")
    progress = {name: getattr(state, name) for name in names if hasattr(state, name)}
    try:
        # no callbacks for the extra noise of a latent that nobody will see
        with value_replaced(p, "refiner_checkpoint_info", None), value_replaced(opts, "img2img_extra_noise", 0):
            yield
    finally:
        p.extra_generation_params.clear()
        p.extra_generation_params.update(parameters)
        for name, value in progress.items():
            setattr(state, name, value)
