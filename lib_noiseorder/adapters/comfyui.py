"""A ComfyUI node, MODEL → MODEL: whatever samples with the model that comes out starts from ordered noise.

The node patches a clone of the model with a wrapper around the host's sampler. It works with every node that samples
through the host's guiders (KSampler, KSampler Advanced, SamplerCustom, SamplerCustomAdvanced), previews and interrupts
as usual. ComfyUI is imported when a sampler runs, not before.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..answers import Answers, foreign_say
from ..chosen import check_without_seeds
from ..model import NoiseLevel
from ..ordering import order_noise
from ..report import OrderedNoise, Report, in_one_line
from ..settings import (
    INFOTEXT_PREFIX,
    KNOB,
    KNOBS,
    Knob,
    NoiseOrderSettings,
    SettingsError,
)
from .noise_keyed_draws import further_draws

_KEY = "noise_order"
_CALCULATE = "sampler_calc_cond_batch_function"
"""The host's option that stands in for its evaluation of a pair of conditionings."""
OF_THE_WEBUI = ("compare_with_off", "show_injected")
"""Knobs about the WebUI's gallery."""
NODE_KNOBS = tuple(knob for knob in KNOBS if knob.name not in OF_THE_WEBUI)
_log = logging.getLogger(__name__)


class NoiseOrderNode:
    """Inputs made from the table of knobs, at first with its defaults.

    A node cannot tell an input that was left alone from one that was set to its default: under a preset an input at its
    default follows the preset, any other value that contradicts it is refused. Under Custom all inputs count.
    """

    CATEGORY = "sampling"
    DESCRIPTION = "Chooses or prepares the noise that every sampler with this model starts from."
    RETURN_TYPES = ("MODEL",)
    FUNCTION = "patch"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"model": ("MODEL",)}, "optional": {knob.name: node_input(knob) for knob in NODE_KNOBS}}

    @classmethod
    def VALIDATE_INPUTS(cls, **values: Any) -> bool | str:
        """Whether a graph may be queued: True, or the message that names field, value and range."""
        try:
            known = {name: value for name, value in values.items() if name in KNOB and value is not None}
            if len(known) == len(values.keys() & KNOB.keys()):
                node_settings(known)
            for name, value in known.items():  # some are linked, and not known before the graph runs
                KNOB[name].checked(value)
        except SettingsError as error:
            return str(error)
        return True

    def patch(self, model: Any, **values: Any) -> tuple[Any]:
        """A clone of the model that orders the noise it is sampled from.

        Raises:
            SettingsError: a value that cannot be used.
            RuntimeError: a ComfyUI without wrappers around its samplers (before 0.3.11).
        """
        settings = node_settings(values)
        patched = model.clone()
        if not hasattr(patched, "add_wrapper_with_key"):
            raise RuntimeError(f"{INFOTEXT_PREFIX}: this ComfyUI is too old, it has no wrappers around its samplers")
        patched.remove_wrappers_with_key("sampler_sample", _KEY)  # of two nodes in a row, the last one decides
        if settings.enabled:
            patched.add_wrapper_with_key("sampler_sample", _KEY, sampler_wrapper(settings))
        return (patched,)


NODE_CLASS_MAPPINGS = {"NoiseOrder": NoiseOrderNode}
NODE_DISPLAY_NAME_MAPPINGS = {"NoiseOrder": "Noise Order"}


_DEFAULTS = {"enabled": True}
"""Where a node's inputs start otherwise than the knobs."""


def node_settings(values: Mapping[str, Any]) -> NoiseOrderSettings:
    """The settings that a node's inputs mean.

    Raises:
        SettingsError: a value that cannot be used.
    """
    settings = NoiseOrderSettings.from_form({**_DEFAULTS, **values})
    check_without_seeds(settings.chosen)
    return settings


def node_input(knob: Knob) -> tuple[Any, dict[str, Any]]:
    """A knob as an input of a node: its type, or list of choices, and its options."""
    options: dict[str, Any] = {"default": _DEFAULTS.get(knob.name, knob.default), "tooltip": knob.help}
    if knob.group:
        options["advanced"] = True
    if knob.choices:
        return [*knob.choices, *knob.formerly], options
    if knob.check:
        return "STRING", options
    if knob.kind is bool:
        return "BOOLEAN", options
    options |= {"min": knob.minimum, "max": knob.maximum, "step": knob.step}
    return ("INT" if knob.kind is int else "FLOAT"), options


def sampler_wrapper(settings: NoiseOrderSettings) -> Callable[..., Tensor]:
    """What runs in place of the host's sampler: the questions, then the sampler with the ordered noise."""

    def sample(executor, guider, sigmas, extra_args, callback, noise, latent_image=None, *rest, **more):
        if not _is_noise(noise):
            return executor(guider, sigmas, extra_args, callback, noise, latent_image, *rest, **more)
        options = extra_args["model_options"]
        model, ordered = _ordered(settings, noise, executor.class_obj, guider, sigmas, options, latent_image)
        if model is not None and ordered.report.reusable_evaluations:
            extra_args = {**extra_args, "model_options": {**options, _CALCULATE: model.answered}}
        sampled = executor(guider, sigmas, extra_args, callback, ordered.noise, latent_image, *rest, **more)
        if model is not None:
            ordered.report.reused(model.answers.reused // len(noise))
        _tell(ordered.report)
        return sampled

    return sample


def _ordered(settings: NoiseOrderSettings, noise: Tensor, *sampling: Any) -> tuple[GuidedModel | None, OrderedNoise]:
    """The model and the ordered noise; no model and the host's own noise if that fails, and the report says why."""
    try:
        model = GuidedModel(*sampling)
        unknown = model.why_unknown()
        ordered = order_noise(settings, further_draws(noise), None if unknown else model)
        if unknown:
            ordered.report.skip("selection and injection", unknown)
        return model, ordered
    except _Cancelled as cancelled:
        raise cancelled.reason from None
    except Exception as error:
        _log.exception("%s: failed, the picture is made all the same", INFOTEXT_PREFIX)
        report = Report.before(noise)
        report.skip("everything", in_one_line(error))
        return None, OrderedNoise(noise, report)


def _is_noise(noise: Any) -> bool:
    """Whether there is noise to put in order: samplers that go on with a half-finished latent are given zeros."""
    return isinstance(noise, Tensor) and bool(torch.count_nonzero(noise))


def _tell(report: Report) -> None:
    chosen = f", chosen {report.chosen}" if any(report.chosen) else ""
    _log.info("%s: %d evaluations more, %.1f s%s", INFOTEXT_PREFIX, report.extra_evaluations, report.seconds, chosen)
    for reason in report.skipped:
        _log.warning("%s: skipped %s", INFOTEXT_PREFIX, reason)


class _Cancelled(BaseException):
    """The user cancelled while the model was asked: no failure that a picture could be made after."""

    def __init__(self, reason: Exception):
        super().__init__("cancelled")
        self.reason = reason


class GuidedModel:
    """The model behind a guider; a `lib_noiseorder.model.Model`.

    It is asked below guidance, where the host evaluates a batch of conditionings: other nodes' patches of the model,
    ControlNet and regional prompts count, their guidance does not. Noisy latents are in the host's convention,
    k-diffusion's x = x0 + sigma·eps or a flow model's x = (1 − sigma)·x0 + sigma·eps.
    """

    def __init__(self, sampler: Any, guider: Any, sigmas: Tensor, options: dict[str, Any], latent: Tensor | None):
        import comfy.model_sampling

        self._sampler, self._guider, self._sigmas, self._latent = sampler, guider, sigmas, latent
        self._options = options
        self.answers = Answers(rounding=1e-5)
        function = getattr(getattr(sampler, "sampler_function", None), "__name__", None)
        self.takes_euler_steps = function == "sample_euler" and not sampler.extra_options.get("s_churn", 0)
        self._sampling = guider.inner_model.model_sampling
        self._flow = isinstance(self._sampling, comfy.model_sampling.CONST)
        self.family = "flow" if self._flow else "eps"
        self._positive, self._negative = guider.conds.get("positive"), guider.conds.get("negative")
        self.guidance = 1.0 if self._negative is None else float(getattr(guider, "cfg", 1.0))

    latents_per_call = 1
    cond_evaluations = 1
    pair_evaluations = 2
    reuses_prompt_only = True
    sampler_evaluations = None

    def why_unknown(self) -> str | None:
        """Why the model cannot be asked; None if it can."""
        import comfy.model_sampling

        known = (comfy.model_sampling.EPS, comfy.model_sampling.CONST)
        odd = getattr(comfy.model_sampling, "IMG_TO_IMG", ())
        if not isinstance(self._sampling, known) or (odd and isinstance(self._sampling, odd)):
            return f"the noise schedule of {type(self._guider.inner_model).__name__} is not known"
        if self._positive is None:
            return f"{type(self._guider).__name__} has no positive prompt"
        return None

    # -- Model -----------------------------------------------------------------------------------------------------

    @property
    def sampler_levels(self) -> list[NoiseLevel]:
        return [self._level(sigma) for sigma in self._sigmas.tolist() if sigma > 0]

    @property
    def reuses_answers(self) -> bool:
        return not (
            _CALCULATE in self._options
            or any(self._options.get(name) for name in ("model_function_wrapper", "sampler_pre_cfg_function"))
            or any(self._options.get("transformer_options", {}).get(name) for name in ("patches", "patches_replace"))
            or any("control" in cond for conds in (self._positive, self._negative) for cond in conds or ())
            or foreign_say(self._guider.inner_model.diffusion_model)
        )

    def start(self, noise: Tensor) -> Tensor:
        full = self._sampler.max_denoise(self._guider, self._sigmas)
        latent = torch.zeros_like(noise) if self._latent is None else self._latent
        return self._sampling.noise_scaling(self._sigmas[0], noise.clone(), latent, full)

    def noisy(self, noise: Tensor, level: NoiseLevel) -> Tensor:
        return noise if self._flow else noise * (level.sigma**2 + self._data_scale() ** 2) ** 0.5

    def level_at(self, timestep: float) -> NoiseLevel:
        table = self._table()
        return self.nearest_level(timestep) if self._flow else self._level(table[round(timestep * (len(table) - 1))].item())

    def nearest_level(self, noise_share: float) -> NoiseLevel:
        sigma = noise_share if self._flow else noise_share / (1 - noise_share)
        table = self._table()
        return self._level(table[(table - sigma).abs().argmin()].item())

    def predict(self, latents: Sequence[Tensor], levels: Sequence[NoiseLevel]) -> list[Tensor]:
        return [self._ask(x, level, [self._positive])[0] for x, level in zip(latents, levels)]

    def predict_pair(self, x: Tensor, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        cond, uncond = self._ask(x, level, [self._positive, self._negative])
        return cond, uncond

    # -- inside ----------------------------------------------------------------------------------------------------

    def _level(self, sigma: float) -> NoiseLevel:
        return NoiseLevel.flow(sigma) if self._flow else NoiseLevel(1.0, sigma)

    def _table(self) -> Tensor:
        """The checkpoint's noise schedule, cleanest first."""
        return self._sampling.sigmas.detach().float().cpu()

    def _data_scale(self) -> float:
        return float(getattr(self._sampling, "sigma_data", 1.0))

    def _ask(self, x: Tensor, level: NoiseLevel, conds: list[Any]) -> list[Tensor]:
        import comfy.model_management
        import comfy.samplers

        sigma = x.new_full((len(x),), level.sigma)
        try:
            comfy.model_management.throw_exception_if_processing_interrupted()
            # the host's function wants a pair, and leaves out what is None
            answers = comfy.samplers.calc_cond_batch(self._guider.inner_model, [*conds, None][:2], x, sigma, self._options)
        except comfy.model_management.InterruptProcessingException as interrupted:
            raise _Cancelled(interrupted) from None
        for cond, answer in zip(conds, answers):
            self.answers.note((level.sigma, cond), x, answer)
        return answers

    # -- the sampler's own run -------------------------------------------------------------------------------------

    def answered(self, args: dict[str, Any]) -> list[Tensor]:
        """Stands in for the host's evaluation of a pair of conditionings; asks for what is not remembered."""
        import comfy.samplers

        conds, x, sigma = args["conds"], args["input"], args["sigma"]
        known = [None if cond is None else self.answers.recall((float(sigma[0]), cond), x) for cond in conds]
        if all(answer is None for answer in known):
            self.answers.forget()
        unknown = [cond if answer is None else None for cond, answer in zip(conds, known)]
        if any(cond is not None for cond in unknown):
            asked = comfy.samplers.calc_cond_batch(args["model"], unknown, x, sigma, args["model_options"])
        else:
            asked = [torch.zeros_like(x) for _ in conds]  # what the host gives for a conditioning that is None
        return [answer if answer is not None else other for answer, other in zip(known, asked)]
