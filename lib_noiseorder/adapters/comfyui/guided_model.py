"""The model behind one of ComfyUI's guiders, asked below its guidance."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ...answers import Answers, step_rounding
from ...model import NoiseLevel
from ...ordering import planned, run_under
from ...plans import SamplerRun
from ...settings import NoiseOrderSettings
from .company import (
    KEY,
    active,
    guidance_of,
    hooks_of,
    kept_by_others,
    keyframes_of,
    takes_euler_steps,
    why_asked_again,
)
from .kept_picture import KeptPicture
from .runs import cancelling
from .set_aside import SetAside, random_states_kept


class PromptNotActive(Exception):
    """The model was to be asked at a noise level at which a conditioning takes no part: there is no answer."""


class GuidedModel:
    """A `lib_noiseorder.model.Model`.

    It is asked where the host evaluates a batch of conditionings: other nodes' patches of the model, ControlNet and regional
    prompts count, what they do to the guidance does not. Noisy latents are in the host's convention, k-diffusion's
    x = x0 + sigma·eps or a flow model's x = (1 − sigma)·x0 + sigma·eps. What other nodes keep is put back after every question.

    Attributes:
        reuses_answers: whether the sampler's first calls are answered from memory.
        cond_evaluations, pair_evaluations: rows of the network per picture, as expected before the first question, as counted
            in the last one of its kind from then on.
        sampler_evaluations: rows that the sampler's own calls take, one call per noise level.
        asked_rows, saved_rows: rows of the network that the questions took, and that the sampler was spared, per picture.
        reusable_rows: the most that it is to be spared.
    """

    latents_per_call = 1

    def __init__(
        self, sampler: Any, guider: Any, sigmas: Tensor, arguments: Mapping[str, Any], noise: Tensor,
        latent: Tensor | None, mask: Tensor | None,
    ):  # fmt: skip
        """
        Args:
            sampler, guider, sigmas, noise, latent, mask: what the host calls the sampler with.
            arguments: its `extra_args`.
        """
        import comfy.model_sampling

        options: dict[str, Any] = arguments["model_options"]
        self._sampler, self._guider, self._sigmas, self._options = sampler, guider, sigmas, options
        self._latent = torch.zeros_like(noise) if latent is None else latent
        self._sampling = guider.inner_model.model_sampling
        self._flow = isinstance(self._sampling, comfy.model_sampling.CONST)
        self.family = "flow" if self._flow else "eps"
        self._kept: KeptPicture | None = None
        if mask is not None:
            self._kept = KeptPicture(sampler, guider, sigmas, options, self._latent, mask, arguments.get("seed"))
        guidance = guidance_of(guider, options)
        self._guidance = guidance
        self.guidance = 1.0 if guidance is None else guidance.scale
        self.takes_euler_steps = guidance is not None and takes_euler_steps(sampler, options)
        self._asked_again = why_asked_again(sampler, guider, options)
        self.reuses_answers = guidance is not None and not guidance.answers_itself and self._asked_again is None
        self.answers = Answers(max(1e-5, step_rounding(self.sampler_levels)))
        self.asked_rows = self.saved_rows = 0.0
        self.reusable_rows = 0
        self._others = SetAside(*kept_by_others(guider, options))
        windows = self._windows(noise)
        self.cond_evaluations = windows * max(1, *self._active(["positive"]))
        self.pair_evaluations = windows * max(1, *self._active(self._order))
        self.sampler_evaluations = windows * sum(self._active(self._asked_for))

    def why_unknown(self) -> str | None:
        """Why the model cannot be asked; None if it can."""
        import comfy.context_windows
        import comfy.model_sampling

        known = (comfy.model_sampling.EPS, comfy.model_sampling.CONST)
        odd = getattr(comfy.model_sampling, "IMG_TO_IMG", ())
        if not isinstance(self._sampling, known) or (odd and isinstance(self._sampling, odd)):
            return f"the noise schedule of {type(self._guider.inner_model).__name__} is not known"
        if self._guider.conds.get("positive") is None:
            return f"{type(self._guider).__name__} has no positive prompt"
        handler = self._options.get("context_handler")
        if handler is not None and type(handler) is not comfy.context_windows.IndexListContextHandler:
            return f"the context windows of {type(handler).__name__} are not known"
        if not float(self._sigmas[0]) > float(self._sigmas[-1]):
            return "the sampler does not go from noise to a picture"
        return self._others.unknown

    def why_not_compared(self, settings: NoiseOrderSettings) -> str | None:
        """Why noises cannot be compared though the model can be asked; None if they can."""
        if self._guidance is None:
            return f"the guidance of {type(self._guider).__name__} is not known"
        function = getattr(self._sampler, "sampler_function", None)
        if getattr(function, "__name__", "") in ("dpm_fast_function", "dpm_adaptive_function"):
            return "the sampler does not say beforehand how many steps it takes"
        followed = planned(settings, run_under(settings, SamplerRun.of(self))).steps
        for level in self.sampler_levels[:followed]:
            sleeping = [role for role in self._asked_for if not self.is_active(role, level.sigma)]
            if sleeping:
                return f"the {sleeping[0]} prompt is not active at a noise share of {level.noise_share:.2g}"
        return None

    # -- Model -----------------------------------------------------------------------------------------------------

    @property
    def sampler_levels(self) -> list[NoiseLevel]:
        called = self._sigmas[:-1].tolist()  # the last one is where the sampler ends, above 0 where another one goes on
        return [self._level(sigma) for sigma in called if sigma > 0]

    def start(self, noise: Tensor) -> Tensor:
        if self._kept is not None:
            self._kept.noises.append(noise)
        return self._sampling.noise_scaling(self._sigmas[0], noise.clone(), self._latent, self.starts_from_noise_alone)

    def noisy(self, noise: Tensor, level: NoiseLevel) -> Tensor:
        alone = (
            noise if self._flow else noise * (level.sigma**2 + float(getattr(self._sampling, "sigma_data", 1.0)) ** 2) ** 0.5
        )
        if not self._latent.any() or (self.starts_from_noise_alone and self._kept is None):
            return alone
        picture = level.alpha * self._latent + level.sigma * noise
        if self.starts_from_noise_alone and self._kept is not None:
            with self._leaving_no_trace(level, noise.device):
                return self._kept.composed(alone, picture, level.sigma)
        return picture

    def level_at(self, timestep: float) -> NoiseLevel:
        table = self._table()
        at = (table - timestep).abs().argmin() if self._flow else round(timestep * (len(table) - 1))
        return self._level(table[at].item())

    def predict(self, latents: Sequence[Tensor], levels: Sequence[NoiseLevel]) -> list[Tensor]:
        answers, rows = [], self.cond_evaluations
        for x, level in zip(latents, levels):
            asked, rows = self._ask(x, level, ("positive",))
            answers.append(asked["positive"])
        self.cond_evaluations = rows
        return answers

    def predict_pair(self, x: Tensor, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        assert self._guidance is not None
        asked, self.pair_evaluations = self._ask(x, level, self._order)
        return asked["positive"], self._guidance.uncond(asked)

    # -- where the sampler starts ----------------------------------------------------------------------------------

    @property
    def starts_from_noise_alone(self) -> bool:
        return self._sampler.max_denoise(self._guider, self._sigmas)

    @property
    def stops_early(self) -> bool:
        """Whether the sampler leaves noise over that the checkpoint has levels for, as where another one goes on."""
        return float(self._sigmas[-1]) > float(self._table()[0])

    @property
    def denoising_strength(self) -> float:
        """The share of the model's schedule that the sampler goes through, 1 from noise alone."""
        table = self._table()
        return 1.0 if self.starts_from_noise_alone else self._position(table) / (len(table) - 1)

    @property
    def noisiest(self) -> float:
        """The sampler's start as a key timestep."""
        return float(self._sigmas[0]) if self._flow else self.denoising_strength

    def is_active(self, role: str, sigma: float) -> bool:
        """Whether a conditioning takes part at a noise level."""
        return active(self._guider.conds.get(role), sigma) > 0

    # -- inside ----------------------------------------------------------------------------------------------------

    @property
    def _order(self) -> tuple[str, ...]:
        order = ("positive", "negative") if self._guidance is None else self._guidance.order
        return tuple(role for role in order if self._guider.conds.get(role) is not None)

    @property
    def _asked_for(self) -> tuple[str, ...]:
        """The conditionings that the sampler asks for."""
        one = self.guidance == 1 and not self._options.get("disable_cfg1_optimization", False)
        return ("positive",) if one else self._order

    def _active(self, roles: Sequence[str]) -> list[int]:
        """Parts of these prompts at every step of the sampler."""
        return [sum(active(self._guider.conds.get(role), level.sigma) for role in roles) for level in self.sampler_levels] or [
            1
        ]

    def _level(self, sigma: float) -> NoiseLevel:
        return NoiseLevel.flow(sigma) if self._flow else NoiseLevel(1.0, sigma)

    def _table(self) -> Tensor:
        """The checkpoint's noise schedule, cleanest first."""
        return self._sampling.sigmas.detach().float().cpu()

    def _position(self, table: Tensor) -> int:
        return int((table - float(self._sigmas[0])).abs().argmin())

    def _windows(self, noise: Tensor) -> int:
        """How many pieces the host takes a long video apart into."""
        handler = self._options.get("context_handler")
        if handler is None or not hasattr(handler, "get_context_windows") or noise.shape[handler.dim] <= handler.context_length:
            return 1
        return len(handler.get_context_windows(self._guider.inner_model, noise, self._options))

    def _ask(self, x: Tensor, level: NoiseLevel, roles: Sequence[str]) -> tuple[dict[str, Tensor], int]:
        """The answers by role, and the rows of the network per picture that they took."""
        import comfy.model_management
        import comfy.samplers

        if not all(self.is_active(role, level.sigma) for role in roles):
            raise PromptNotActive(f"a prompt is not active at a noise share of {level.noise_share:.2g}")
        conds = [self._guider.conds[role] for role in roles]
        asked = conds if len(conds) > 1 else [*conds, None]  # the host wants two at least, and leaves out what is None
        sigma = x.new_full((len(x),), level.sigma)
        rows: list[int] = []
        try:
            with cancelling(), self._leaving_no_trace(level, x.device):
                comfy.model_management.throw_exception_if_processing_interrupted()
                shown = x if self._kept is None else self._kept.shown(x, level)
                options = self._asking(level, rows)
                answers = comfy.samplers.calc_cond_batch(self._guider.inner_model, asked, shown, sigma, options)[: len(conds)]
                pictures = [answer if self._kept is None else self._kept.completed(answer, level.sigma) for answer in answers]
        finally:
            paid = sum(rows) / len(x)
            self.asked_rows += paid
        if self.reuses_answers:
            for cond, answer in zip(conds, answers):
                self.answers.note(_question(level.sigma, cond), shown, answer)
        return dict(zip(roles, pictures)), round(paid) or 1

    @contextmanager
    def _leaving_no_trace(self, level: NoiseLevel, device: torch.device) -> Iterator[None]:
        try:
            for keyframes in keyframes_of(self._guider):  # stand where the sampler will find them at this level
                for sigma in self._sigmas:
                    if float(sigma) > level.sigma:
                        keyframes.prepare_current_keyframe(sigma, self._options["transformer_options"])
            with random_states_kept(device):
                yield
        finally:
            self.as_before()

    def _asking(self, level: NoiseLevel, rows: list[int]) -> dict[str, Any]:
        """The sampler's options for one question: the asked level takes its nearest step's place, and rows are counted."""

        sigmas = self._sigmas.clone()
        sigmas[(sigmas - level.sigma).abs().argmin()] = level.sigma
        options = self.counted(rows)
        return {**options, "transformer_options": {**options["transformer_options"], "sample_sigmas": sigmas}}

    # -- the sampler's own run -------------------------------------------------------------------------------------

    def counted(self, rows: list[int]) -> dict[str, Any]:
        """The sampler's options, under which every evaluation notes its number of rows."""

        def count(executor: Callable[..., Tensor], x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            rows.append(len(x))
            return executor(x, *args, **kwargs)

        transformer = dict(self._options.get("transformer_options", {}))
        wrappers = {kind: dict(found) for kind, found in transformer.get("wrappers", {}).items()}
        wrappers.setdefault("apply_model", {})[KEY] = [count]
        return {**self._options, "transformer_options": {**transformer, "wrappers": wrappers}}

    def as_before(self) -> None:
        """Put back what other nodes keep, as it was before the sampler ran or was asked."""
        self._others.put_back()
        if hooks_of(self._guider):
            self._guider.model_patcher.clear_cached_hook_weights()

    def answered(self, args: dict[str, Any]) -> list[Tensor]:
        """Stands in for the host's evaluation of a pair of conditionings; asks for what is not remembered."""
        import comfy.samplers

        conds, x, sigma = args["conds"], args["input"], args["sigma"]
        known = [None if cond is None else self.answers.recall(_question(float(sigma[0]), cond), x) for cond in conds]
        self.saved_rows += sum(active(cond, float(sigma[0])) for cond, answer in zip(conds, known) if answer is not None)
        if all(answer is None for answer in known) or self.saved_rows >= self.reusable_rows:
            self.answers.forget()
        unknown = [cond if answer is None else None for cond, answer in zip(conds, known)]
        if any(cond is not None for cond in unknown):
            asked = comfy.samplers.calc_cond_batch(args["model"], unknown, x, sigma, args["model_options"])
        else:
            asked = [torch.zeros_like(x) for _ in conds]  # what the host gives for a conditioning that is None
        return [answer if answer is not None else other for answer, other in zip(known, asked)]


def _question(sigma: float, cond: Sequence[Mapping[str, Any]]) -> tuple[float, list[dict[str, Any]]]:
    """A noise level and a prompt's contents, of which later changes in place are noticed."""
    return sigma, [{**part, "model_conds": dict(part["model_conds"])} for part in cond]
