"""What a run of the sampler will be before there is a job: the loaded checkpoint looked at, a sampler of its own asked."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from modules import sd_models, sd_samplers
from modules.shared import opts

from .calls import Calls
from .checkpoint import UnknownModel, asks_the_same, checkpoint_of, family_of, follows_freely
from .forge import Forge
from .sampler_sigmas import asks_at_its_levels, knows_the_family, sampler_sigmas, takes_euler_steps


@dataclass(frozen=True)
class Run:
    """One run of a sampler, as a page tells of it."""

    steps: int
    """As asked for; img2img takes fewer."""
    sampler: str
    guided: bool
    scheduler: str = "Automatic"
    denoising: float | None = None
    """None in txt2img."""
    hires: bool = False
    masked: bool = False
    prompts: int = 1
    """How many are joined by `AND`."""

    @property
    def taken(self) -> int:
        """Steps that are really taken, by the hosts' rule."""
        if self.denoising is None or self.hires or opts.img2img_fix_steps:
            return self.steps
        return int(min(self.denoising, 0.999) * self.steps) + 1


@dataclass(frozen=True)
class Loaded:
    """The checkpoint that the next picture is made with."""

    family: str
    """"eps" or "flow"."""
    sd_model: Any = None
    """The host's object; None where only the family is known."""
    unreadable: str = ""
    """Why nothing can be asked of it, in a sentence; empty where it can be read."""

    @classmethod
    def now(cls) -> Loaded | None:
        """None while it is not loaded. Looks without touching: asking the hosts would load it."""
        data = getattr(sd_models, "model_data", None)
        model = getattr(data, "sd_model", None)
        pending = str(getattr(data, "forge_loading_parameters", "")) != getattr(data, "forge_hash", "")
        if model is None or pending or type(model).__name__ == "FakeInitialModel":
            return None
        try:
            return cls(family_of(checkpoint_of(model)), model)
        except UnknownModel as reason:
            return cls("eps", unreadable=str(reason))

    def calls(self, run: Run) -> Calls:
        """Those of a run; where the sampler cannot be asked beforehand, as many as steps."""
        try:
            if self.sd_model is not None:
                return self._as_the_sampler_says(run)
        except Exception:  # a line that says a little less is no reason to complain
            pass
        job = SimpleNamespace(sampler_name=run.sampler)
        return Calls(
            [float("inf")] * run.taken, _guidance(run), run.prompts,
            asks_without_the_prompt_at_1=self._asks_without_the_prompt_at_1, euler=takes_euler_steps(job),
            asks_the_same=not run.masked,
        )  # fmt: skip

    @property
    def _asks_without_the_prompt_at_1(self) -> bool:
        if self.sd_model is None:
            return not Forge.running()
        return checkpoint_of(self.sd_model).asks_both_halves_at_guidance_1

    def _as_the_sampler_says(self, run: Run) -> Calls:
        config = sd_samplers.find_sampler_config(run.sampler)
        sampler, probe = (one.constructor(self.sd_model) for one in (config, sd_samplers.find_sampler_config("Euler")))
        sampler.config = config
        job = SimpleNamespace(
            sampler=sampler, sampler_name=run.sampler, steps=run.steps, denoising_strength=run.denoising,
            scheduler=run.scheduler, hr_scheduler=run.scheduler, is_hr_pass=run.hires, sampler_noise_scheduler_override=None,
            extra_generation_params={}, s_churn=getattr(opts, "s_churn", 0.0), sd_model=self.sd_model,
        )  # fmt: skip
        latent = None if run.denoising is None else torch.empty(0)  # nobody looks into it
        steps = run.steps if run.hires else None
        flow = self.family == "flow"
        fits = knows_the_family(sampler, flow)
        checkpoint, known = checkpoint_of(self.sd_model), probe.model_wrap_cfg.inner_model.sigmas
        sigmas = sampler_sigmas(job, latent, known, flow, steps)[0]
        fits_from_the_first = fits and asks_at_its_levels(sampler, flow, sigmas[0], latent is not None)
        return Calls(
            sigmas,
            _guidance(run),
            run.prompts,
            asks_without_the_prompt_at_1=self._asks_without_the_prompt_at_1,
            both_halves=checkpoint.conditioned_on_a_picture,
            least_sigma=getattr(opts, "s_min_uncond", 0.0),
            euler=fits and takes_euler_steps(job) and follows_freely(),
            asks_the_same=fits_from_the_first
            and not run.masked
            and asks_the_same(checkpoint, probe.model_wrap_cfg, sampler.model_wrap_cfg),
        )


def _guidance(run: Run) -> float:
    return 7.0 if run.guided else 1.0  # the costs only ask whether there is any
