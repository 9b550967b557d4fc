"""The loaded checkpoint behind the host's guided denoiser, in the core's terms."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from modules.shared import opts, state
from torch import Tensor

from ...answers import Memory
from ...model import NoiseLevel, along_noise
from .patches import opaque_patch, replaced_forward
from .sampler_sigmas import sampler_course, takes_euler_steps


class HostModel:
    """Asks the host's guided denoiser; `lib_noiseorder.model.Denoiser` and `lib_noiseorder.selection.Preview`.

    Noisy latents are in the host's own convention, k-diffusion's x = x0 + sigma·eps or a flow model's
    x = (1 − sigma)·x0 + sigma·eps, and so are the noise levels given out here.

    Attributes:
        guidance: the job's classifier-free guidance scale; 1 where the host has no negative prompt to ask with.
        family: "flow" for flow models, "eps" for all others.
        follows: whether the sampler takes Euler steps.
        evaluations: what one question costs per picture; more than 1 where several prompts are joined by `AND`.
        pair_evaluations: what a question with the prompt and without costs.
        room: how many latents of every picture one question may hold: as many as one call of the sampler does, so that
            questions never need more memory than it; one where a patch might answer them otherwise than one by one.
        questions: how many questions there will be, for the progress display; 0 if that is not known.
        memory: every answer given as `Preview`.
    """

    def __init__(
        self,
        p: Any,
        model: Any,
        extra_args: dict[str, Any],
        latent: Tensor | None,
        noise_multiplier: float,
        pictures: int,
        steps: int | None = None,
    ):
        self._p = p
        self._pictures = pictures
        self._model = model
        self._arguments = extra_args
        self._latent = latent
        self._noise_multiplier = noise_multiplier
        self._steps = steps
        self.questions = self._asked = 0
        self.family = family_of(p.sd_model)
        self._flow = self.family == "flow"
        self.follows = takes_euler_steps(p)
        self.memory = Memory()
        self._sigmas = model.inner_model.sigmas
        self._pair: tuple[Tensor, Tensor] | None = None
        hires_guidance = getattr(p, "hr_cfg", None) if getattr(p, "is_hr_pass", False) else None  # Forge has one of its own
        guidance = extra_args["cond_scale"] if hires_guidance is None else hires_guidance
        self.guidance = 1.0 if extra_args["uncond"] is None else float(guidance)
        # A1111 leaves the noise of the unconditional half out, but not its picture: shapes would not match
        a1111 = getattr(p.sd_model, "forge_objects", None) is None
        self._needs_both_halves = a1111 and _conditions_on_a_picture(extra_args["image_cond"])
        prompts = _prompts_per_picture(extra_args["cond"])
        self.pair_evaluations = prompts + 1
        self.evaluations = prompts + 1 if self._needs_both_halves else prompts

    # -- Denoiser --------------------------------------------------------------------------------------------------

    def __call__(self, noise: Tensor, timestep: float) -> Tensor:
        return next(self.several(noise, [timestep]))

    def several(self, noise: Tensor, timesteps: Sequence[float]) -> Iterator[Tensor]:
        for start in range(0, len(timesteps), self.room):
            levels = [self.level(t) if self._flow else self._at(t) for t in timesteps[start : start + self.room]]
            latents = [self._noisy(noise, level) for level in levels]
            with self.memory.forgetting():
                prompted = self.prompted(torch.cat(latents), levels)
            for x0, x, level in zip(prompted.chunk(len(levels)), latents, levels):
                yield along_noise(x0, x, level, "x0", flow=self._flow)

    @property
    def noisiest(self) -> float:
        """The noise that the sampler starts with, as a timestep of `__call__`; 1 in txt2img, whatever its scheduler."""
        if self._latent is None:
            return 1.0
        sigma = self._course[0][0]
        return sigma if self._flow else (self._sigmas - sigma).abs().argmin().item() / (len(self._sigmas) - 1)

    @property
    def schedule(self) -> Tensor:
        """The checkpoint's noise levels as sigmas, cleanest first."""
        return self._sigmas

    # -- Preview ---------------------------------------------------------------------------------------------------

    @property
    def levels(self) -> list[NoiseLevel]:
        return [self._level(sigma) for sigma in self._course[0]]

    def start(self, noise: Tensor) -> Tensor:
        return self._course[1](noise * self._noise_multiplier)

    def level(self, noise_share: float) -> NoiseLevel:
        sigma = noise_share if self._flow else noise_share / (1 - noise_share)
        return self._level(self._sigmas[(self._sigmas - sigma).abs().argmin()].item())

    def predict(self, x: Tensor, level: NoiseLevel) -> Tensor:
        return self.prompted(x, [level])

    def predict_pair(self, x: Tensor, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        with _negative_prompt_from_the_first_step():
            return self._ask(x, [level], self._step(level), cond_scale=self.guidance, s_min_uncond=0.0)

    def answers_for(self, guided_denoiser: Any) -> bool:
        """Whether the host's sampler asks the same kind of function, so that it may be given the remembered answers.

        A1111's LCM sampler, for one, scales the model's answers in its own way.
        """
        asked, _ = model_function(self._p.sd_model, self._model)
        asking, _ = model_function(self._p.sd_model, guided_denoiser)
        return type(asked) is type(asking)

    # -- inside ----------------------------------------------------------------------------------------------------

    @cached_property
    def room(self) -> int:
        cond, uncond = self._arguments["cond"], self._arguments["uncond"]
        one_by_one = (
            self.guidance == 1
            or not getattr(opts, "batch_cond_uncond", True)
            or not (isinstance(uncond, list) and len(getattr(cond, "batch", ())) == len(uncond) == self._pictures)
            or any(map(changes_over_the_steps, (cond, uncond)))
            or replaced_forward(getattr(self._model, "inner_model", None))
            or opaque_patch(self._p.sd_model)
        )
        return 1 if one_by_one else self.pair_evaluations // self.evaluations

    @cached_property
    def _course(self):
        return sampler_course(self._p, self._latent, self._sigmas, self._flow, self._steps)

    def prompted(self, x: Tensor, levels: Sequence[NoiseLevel]) -> Tensor:
        """x0 with the prompt of one latent of every picture, or of up to `room`: [room·B, …], at one level or one each."""
        # guidance scale 1 and an unlimited "negative guidance minimum sigma" at an odd step are the hosts' own ways
        # of leaving the unconditional half of an evaluation out
        least_sigma = 0.0 if self._needs_both_halves else float("inf")
        how = {"cond_scale": 1.0, "s_min_uncond": least_sigma}
        try:
            return self._ask(x, levels, self._step(levels[0]) // 2 * 2 + 1, **how)[0]
        except torch.cuda.OutOfMemoryError:
            if len(x) == self._pictures:
                raise
            self.room = 1
            parts = x.split(self._pictures)
            return torch.cat([self.prompted(part, levels[k : k + 1] or levels) for k, part in enumerate(parts)])

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

    def _noisy(self, noise: Tensor, level: NoiseLevel) -> Tensor:
        """Pure noise as the latent of a level; in img2img the picture under that noise, as the sampler starts from it."""
        if self._latent is not None:
            return level.alpha * self._latent + level.sigma * self._noise_multiplier * noise
        return noise if self._flow else noise * (level.sigma**2 + 1) ** 0.5

    def _at(self, timestep: float) -> NoiseLevel:
        return self._level(self._sigmas[round(timestep * (len(self._sigmas) - 1))].item())

    def _level(self, sigma: float) -> NoiseLevel:
        return NoiseLevel.flow(sigma) if self._flow else NoiseLevel(1.0, sigma)

    def _step(self, level: NoiseLevel) -> int:
        """The sampler's step that prompt schedules would have reached at this noise level."""
        return sum(sigma > level.sigma for sigma in self._course[0])

    def _ask(self, x: Tensor, levels: Sequence[NoiseLevel], step: int, **how: float) -> tuple[Tensor, Tensor]:
        """x0 with the prompt and without, as the host's denoiser predicts them before guidance."""
        latents = len(x) // self._pictures
        sigma = x.new_tensor([level.sigma for level in levels]).repeat_interleave(len(x) // len(levels))
        self._asked += latents
        of_all = f"/{self.questions}" if self.questions else ""
        state.textinfo = f"Noise Order: reading the prompt's semantics {self._asked}{of_all}"
        self._model.step = step
        with (
            _hires_guidance(self._p, how["cond_scale"]),
            self._before_guidance(),
            self.memory.recording(*model_function(self._p.sd_model, self._model)),
        ):
            self._model(x, sigma, **{**self._arguments_for(latents), **how})
        return self._pair

    @contextmanager
    def _before_guidance(self) -> Iterator[None]:
        """Record both predictions before guidance, and leave other extensions' guidance out."""
        unet = getattr(getattr(self._p.sd_model, "forge_objects", None), "unet", None)
        if unet is None:
            self._model.combine_denoised = self._record_a1111
            yield
            return
        options = unet.model_options
        unet.model_options = {**options, "sampler_post_cfg_function": [self._record_forge]}
        unet.model_options.pop("sampler_cfg_function", None)
        if not options.get("sampler_pre_cfg_function"):  # nobody is left who needs the unconditional half at guidance 1
            unet.model_options.pop("disable_cfg1_optimization", None)
        try:
            yield
        finally:
            unet.model_options = options

    def _record_forge(self, args: dict[str, Any]) -> Tensor:
        self._pair = args["cond_denoised"], args["uncond_denoised"]
        return args["denoised"]

    def _record_a1111(self, x_out: Tensor, conds_list: list, uncond: Any, cond_scale: float, *_: Any, **__: Any) -> Tensor:
        """Stands in for `CFGDenoiser.combine_denoised`; several `AND` prompts of a picture give their weighted mean."""
        prompted = []
        for conds in conds_list:
            total = sum(weight for _, weight in conds) or 1.0
            prompted.append(sum(x_out[index] * (weight / total) for index, weight in conds))
        self._pair = torch.stack(prompted), x_out[-len(conds_list) :]
        return self._pair[0]


@contextmanager
def _hires_guidance(p: Any, scale: float) -> Iterator[None]:
    """Hosts with a guidance scale of the hires pass' own let it win over the scale they are asked with."""
    before = getattr(p, "hr_cfg", None)
    if before is None:
        yield
        return
    p.hr_cfg = scale
    try:
        yield
    finally:
        p.hr_cfg = before


@contextmanager
def _negative_prompt_from_the_first_step() -> Iterator[None]:
    """Shadow the option by which hosts ignore the negative prompt early; Forge Classic always does so at step 0."""
    shadow = vars(opts)
    kept = {name: shadow[name] for name in ("skip_early_cond",) if name in shadow}
    shadow["skip_early_cond"] = -1.0
    try:
        yield
    finally:
        del shadow["skip_early_cond"]
        shadow.update(kept)


def model_function(sd_model: Any, guided_denoiser: Any) -> tuple[Any, str]:
    """The object and the name of its method that both hosts' guided denoisers ask for every evaluation."""
    objects = getattr(sd_model, "forge_objects", None)
    return (guided_denoiser.inner_model, "forward") if objects is None else (objects.unet.model, "apply_model")


class UnknownModel(Exception):
    """A checkpoint whose predictions we cannot read."""


def family_of(sd_model: Any) -> str:
    """The kind of checkpoint: "flow" (Flux, SD3, Wan …), or "eps" for one that predicts the noise or v.

    Raises:
        UnknownModel: any other kind of prediction.
    """
    kind = _prediction(sd_model)
    for family, kinds in _KINDS.items():
        if kind in kinds:
            return family
    raise UnknownModel(f"this checkpoint predicts {kind!r}, which Noise Order cannot read")


def is_flow(sd_model: Any) -> bool:
    """Whether the checkpoint is a flow model; False for unknown ones."""
    return _prediction(sd_model) in _KINDS["flow"]


_KINDS = {
    "flow": ("const", "sd3", "flow", "flux"),
    "eps": ("epsilon", "eps", "v_prediction", "v", "edm", "v_prediction_edm"),
}
"""What the hosts call the kinds of predictions."""


def _prediction(sd_model: Any) -> str:
    """The host's own name for what the checkpoint predicts."""
    objects = getattr(sd_model, "forge_objects", None)
    if objects is None:
        return "sd3" if getattr(sd_model, "is_sd3", False) else getattr(sd_model, "parameterization", "nothing known")
    model = objects.unet.model
    if hasattr(model, "predictor"):
        return model.predictor.prediction_type
    return model.model_type.name.lower()


def _conditions_on_a_picture(image_conditioning: Tensor | None) -> bool:
    """Whether an inpainting or unCLIP checkpoint gets a picture besides the noise, and not the hosts' 1×1 stand-in."""
    return image_conditioning is not None and image_conditioning.shape[2:] != (1, 1)


def _prompts_per_picture(conditioning: Any) -> int:
    """How many prompts are joined by `AND`, in the picture that has most."""
    pictures = getattr(conditioning, "batch", None)
    return max(map(len, pictures)) if pictures else 1


def changes_over_the_steps(conditioning: Any) -> bool:
    """Whether prompt editing makes a host's conditioning another one at some of the sampler's steps."""
    if hasattr(conditioning, "batch"):
        return any(len(part.schedules) > 1 for parts in conditioning.batch for part in parts)
    return isinstance(conditioning, list) and any(len(entries) > 1 for entries in conditioning)
