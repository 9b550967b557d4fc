"""The loaded checkpoint behind the host's guided denoiser, in the core's terms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from typing import Any

import torch
from modules.shared import opts, state
from torch import Tensor

from ...answers import Answers, step_rounding, value_replaced
from ...model import NoiseLevel
from ...settings import NoiseOrderSettings
from .calls import Calls
from .checkpoint import asks_the_same, checkpoint_of, family_of, follows_freely, module_of, why_one_by_one
from .company import check_can_be_asked, left_out
from .sampler_sigmas import asks_at_its_levels, calls_per_step, knows_the_family, sampler_sigmas, takes_euler_steps

_ROUNDING = 1e-6
"""Relative difference between two ways of taking the same step, where the noise falls slowly."""


class HostModel:
    """Asks the host's guided denoiser; a `lib_noiseorder.model.Model`.

    Noisy latents are in the host's own convention, k-diffusion's x = x0 + sigma·eps or a flow model's
    x = (1 − sigma)·x0 + sigma·eps, and so are the noise levels given out here.

    Attributes:
        guidance: the job's classifier-free guidance scale; 1 where the host has no negative prompt to ask with.
        cond_evaluations: more than 1 where several prompts are joined by `AND`, or both halves must be asked.
    """

    def __init__(
        self,
        p: Any,
        settings: NoiseOrderSettings,
        guided_denoiser: Any,
        extra_args: dict[str, Any],
        latent: Tensor | None,
        noise_multiplier: float,
        pictures: int,
        steps: int | None = None,
    ):
        """
        Args:
            p: the job; its `sampler` is about to be called.
            settings: what the model is asked for.
            guided_denoiser: the host's CFGDenoiser of the probe, ready to be called with `extra_args`.
            latent: what img2img starts from [B, …]; None in txt2img.
            noise_multiplier: the host's factor on img2img's noise.
            pictures: B.
            steps: the host's own argument of that name, which its hires pass has.
        """
        self._p, self._settings = p, settings
        self._pictures = pictures
        self._denoiser = guided_denoiser
        self._arguments = extra_args
        self._latent = latent
        self._noise_multiplier = noise_multiplier
        self._steps = steps
        self._checkpoint = checkpoint_of(p.sd_model)
        self._network = module_of(self._checkpoint)
        self.family = family_of(self._checkpoint)
        self._flow = self.family == "flow"
        self._sigmas = guided_denoiser.inner_model.sigmas
        self._pair: tuple[Tensor, Tensor] | None = None
        self._latents_per_call: int | None = None
        self._may_be_asked = False
        hires_guidance = getattr(p, "hr_cfg", None) if getattr(p, "is_hr_pass", False) else None  # Forge has one of its own
        guidance = extra_args["cond_scale"] if hires_guidance is None else hires_guidance
        self.guidance = 1.0 if extra_args["uncond"] is None else float(guidance)
        self._needs_both_halves = self._checkpoint.needs_both_halves(extra_args["image_cond"])
        self._prompts = _prompts_per_picture(extra_args["cond"])
        self.pair_evaluations = self._prompts + 1
        self.cond_evaluations = self._prompts + self._needs_both_halves

    # -- Model -----------------------------------------------------------------------------------------------------

    @property
    def sampler_levels(self) -> list[NoiseLevel]:
        return [self._level(sigma) for sigma in self._sampler[0]]

    @cached_property
    def answers(self) -> Answers:
        """Every answer given."""
        return Answers(max(_ROUNDING, step_rounding(self.sampler_levels)))

    @property
    def takes_euler_steps(self) -> bool:
        return self._calls.takes_euler_steps(self._settings)

    @property
    def reuses_answers(self) -> bool:
        return self._calls.reuses_answers

    @property
    def sampler_evaluations(self) -> int | None:
        return self._calls.sampler_evaluations

    @property
    def latents_per_call(self) -> int:
        """As many as one call of the sampler holds, so that questions never need more memory than it; one where a patch
        might answer them otherwise than one by one."""
        if self._latents_per_call is None:
            self._latents_per_call = self._at_once()
        return self._latents_per_call

    def start(self, noise: Tensor) -> Tensor:
        return self._sampler[1](noise * self._noise_multiplier)

    def noisy(self, noise: Tensor, level: NoiseLevel) -> Tensor:
        if self._latent is not None:
            return level.alpha * self._latent + level.sigma * self._noise_multiplier * noise
        return noise if self._flow else noise * (level.sigma**2 + 1) ** 0.5

    def level_at(self, timestep: float) -> NoiseLevel:
        at = (self._sigmas - timestep).abs().argmin() if self._flow else round(timestep * (len(self._sigmas) - 1))
        return self._level(self._sigmas[at].item())

    def predict(self, latents: Sequence[Tensor], levels: Sequence[NoiseLevel]) -> Sequence[Tensor]:
        # guidance scale 1 and an unlimited "negative guidance minimum sigma" at an odd call are the hosts' own ways
        # of leaving the unconditional half of an evaluation out
        least_sigma = 0.0 if self._needs_both_halves else float("inf")
        call = self._call(levels[0]) // 2 * 2 + 1
        try:
            cond, _ = self._ask(latents, levels, call, cond_scale=1.0, s_min_uncond=least_sigma)
        except Exception:  # out of memory, or a network that takes no more rows than a picture has
            if len(latents) == 1:
                raise
            self._latents_per_call = 1
            return [self.predict([x], [level])[0] for x, level in zip(latents, levels)]
        return cond.chunk(len(latents))

    def predict_pair(self, x: Tensor, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        with _negative_prompt_from_the_first_step():
            return self._ask([x], [level], self._call(level), cond_scale=self.guidance, s_min_uncond=0.0)

    # -- for the sampler's pass ------------------------------------------------------------------------------------

    @property
    def noisiest(self) -> float:
        """The noise that the sampler starts with, as a key timestep; 1 in txt2img, whatever its scheduler."""
        if self._latent is None:
            return 1.0
        sigma = self._sampler[0][0]
        return sigma if self._flow else (self._sigmas - sigma).abs().argmin().item() / (len(self._sigmas) - 1)

    # -- inside ----------------------------------------------------------------------------------------------------

    def _at_once(self) -> int:
        cond, uncond = self._arguments["cond"], self._arguments["uncond"]
        one_by_one = (
            self.guidance == 1
            or not getattr(opts, "batch_cond_uncond", True)
            or not (isinstance(uncond, list) and len(getattr(cond, "batch", ())) == len(uncond) == self._pictures)
            or any(map(_changes_over_the_steps, (cond, uncond)))
            or why_one_by_one(self._checkpoint, self._denoiser)
        )
        return 1 if one_by_one else self.pair_evaluations // self.cond_evaluations

    @cached_property
    def _sampler(self) -> tuple[list[float], Callable[[Tensor], Tensor]]:
        """The sampler's sigmas, and its first latent for a noise."""
        return sampler_sigmas(self._p, self._latent, self._sigmas, self._flow, self._steps)

    @cached_property
    def _calls(self) -> Calls:
        """The sampler's own calls, as they stand before anything is asked."""
        p = self._p
        return Calls(
            self._sampler[0],
            self.guidance,
            self._prompts,
            asks_without_the_prompt_at_1=self._arguments["uncond"] is not None
            and self._checkpoint.asks_both_halves_at_guidance_1,
            both_halves=self._needs_both_halves,
            least_sigma=p.s_min_uncond or 0.0,
            euler=takes_euler_steps(p) and follows_freely() and knows_the_family(p.sampler, self._flow),
            # the hosts blend the picture that is kept into what the sampler shows, and not into a question
            asks_the_same=getattr(p, "mask", None) is None
            and knows_the_family(p.sampler, self._flow)
            and asks_at_its_levels(p.sampler, self._flow, self._sampler[0][0], self._latent is not None)
            and asks_the_same(self._checkpoint, self._denoiser, p.sampler.model_wrap_cfg),
        )

    def _arguments_for(self, latents: int) -> dict[str, Any]:
        """The sampler's arguments for several latents of every picture."""
        if latents == 1:
            return self._arguments
        cond, picture = self._arguments["cond"], self._arguments["image_cond"]
        return {
            **self._arguments,
            "cond": type(cond)(cond.shape, cond.batch * latents),
            "uncond": self._arguments["uncond"] * latents,
            "image_cond": None if picture is None else picture.repeat(latents, *[1] * (picture.ndim - 1)),
        }

    def _level(self, sigma: float) -> NoiseLevel:
        return NoiseLevel.flow(sigma) if self._flow else NoiseLevel(1.0, sigma)

    def _step(self, level: NoiseLevel) -> int:
        """The sampler's step that prompt schedules would have reached at this noise level."""
        return sum(sigma > level.sigma for sigma in self._sampler[0])

    def _call(self, level: NoiseLevel) -> int:
        """The number that the sampler's call at that step has to the hosts, who call it a step."""
        per_step = calls_per_step(self._p)
        return min(self._step(level) * per_step, len(self._sampler[0]) * per_step - 1)  # beyond the last, hosts take the first

    def _ask(self, latents: Sequence[Tensor], levels: Sequence[NoiseLevel], call: int, **how: float) -> tuple[Tensor, Tensor]:
        """x0 with the prompt and without [n·B, …], as the host's denoiser predicts them before guidance."""
        if not self._may_be_asked:
            check_can_be_asked(self._network, self._denoiser, self._checkpoint.around, self._checkpoint.options)
            self._may_be_asked = True
        x = torch.cat(list(latents)) if len(latents) > 1 else latents[0]
        sigma = x.new_tensor([level.sigma for level in levels]).repeat_interleave(len(x) // len(levels))
        self._denoiser.step, self._pair = call, None
        shown = levels[0].sigma if hasattr(self._p.sampler, "get_sigmas") else None  # DDIM and its relatives show no schedule
        with (
            value_replaced(state, "sampling_step", max(self._step(levels[0]) - 1, 0)),  # the hosts count a step when it is done
            value_replaced(state, "current_latent", getattr(state, "current_latent", None)),  # no previews of questions
            value_replaced(opts, "live_previews_enable", False),
            left_out(self._network, self._checkpoint.around),
            _hires_guidance(self._p, how["cond_scale"]),
            self._checkpoint.before_guidance(self._denoiser, self._record, shown, pair=how["cond_scale"] != 1),
            self.answers.recording(*self._checkpoint.model_function(self._denoiser)),
        ):
            self._denoiser(x, sigma, **{**self._arguments_for(len(latents)), **how})
        if self._pair is None:
            raise RuntimeError("the host's denoiser gave no prediction")
        return self._pair

    def _record(self, cond: Tensor, uncond: Tensor) -> None:
        self._pair = cond, uncond


def _hires_guidance(p: Any, scale: float) -> AbstractContextManager[None]:
    """Hosts with a guidance scale of the hires pass' own let it win over the scale they are asked with."""
    return nullcontext() if getattr(p, "hr_cfg", None) is None else value_replaced(p, "hr_cfg", scale)


def _negative_prompt_from_the_first_step() -> AbstractContextManager[None]:
    """Without the option by which hosts ignore the negative prompt early; Forge Classic always does so at step 0."""
    return value_replaced(opts, "skip_early_cond", -1.0)


def _prompts_per_picture(conditioning: Any) -> int:
    """How many prompts are joined by `AND`, in the picture that has most."""
    pictures = getattr(conditioning, "batch", None)
    return max(map(len, pictures)) if pictures else 1


def _changes_over_the_steps(conditioning: Any) -> bool:
    """Whether prompt editing makes a host's conditioning another one at some of the sampler's steps."""
    if hasattr(conditioning, "batch"):
        return any(len(part.schedules) > 1 for parts in conditioning.batch for part in parts)
    return isinstance(conditioning, list) and any(len(entries) > 1 for entries in conditioning)
