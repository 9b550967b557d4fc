"""A ComfyUI node, MODEL → MODEL: whatever samples with the model that comes out starts from ordered noise.

The node patches a clone of the model with a wrapper around the host's sampler. It works with every node that samples
through the host's guiders (KSampler, KSampler Advanced, SamplerCustom, SamplerCustomAdvanced), previews and interrupts
as usual. ComfyUI is imported when a sampler runs, not before.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..model import NoiseLevel, along_noise
from ..ordering import Report, order_noise
from ..settings import INFOTEXT_PREFIX, KNOBS, RECOMMENDED, Knob, NoiseOrderSettings, SettingsError
from .noise_keyed_draws import further_draws

_KEY = "noise_order"
_CALCULATE = "sampler_calc_cond_batch_function"
"""The host's option that stands in for its evaluation of a pair of conditionings."""
_ROUNDING = 1e-5
"""Relative difference between two ways of taking the same step."""
OF_THE_WEBUI = ("compare_with_off", "show_injected")
"""Knobs about the WebUI's gallery."""
NODE_KNOBS = tuple(knob for knob in KNOBS if knob.name not in OF_THE_WEBUI)
_log = logging.getLogger(__name__)


class NoiseOrderNode:
    """Inputs made from the table of knobs; a preset's values hold wherever an input is left at its default."""

    CATEGORY = "sampling"
    DESCRIPTION = "Puts the initial noise of every sampler that runs this model in order."
    RETURN_TYPES = ("MODEL",)
    FUNCTION = "patch"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"model": ("MODEL",), **{knob.name: node_input(knob) for knob in NODE_KNOBS}}}

    @classmethod
    def VALIDATE_INPUTS(cls, **values: Any) -> bool | str:
        """Whether a graph may be queued: True, or the message that names field, value and range."""
        known = {knob.name: values[knob.name] for knob in NODE_KNOBS if values.get(knob.name) is not None}
        try:
            NoiseOrderSettings(**known)
        except SettingsError as error:
            return str(error)
        return True

    def patch(self, model: Any, **values: Any) -> tuple[Any]:
        """A clone of the model that orders the noise it is sampled from.

        Raises:
            SettingsError: a value that cannot be used.
            RuntimeError: a ComfyUI without wrappers around its samplers (before 0.3.11).
        """
        settings = NoiseOrderSettings(**values)
        patched = model.clone()
        if not hasattr(patched, "add_wrapper_with_key"):
            raise RuntimeError(f"{INFOTEXT_PREFIX}: this ComfyUI is too old, it has no wrappers around its samplers")
        patched.remove_wrappers_with_key("sampler_sample", _KEY)  # of two nodes in a row, the last one decides
        if settings.enabled:
            patched.add_wrapper_with_key("sampler_sample", _KEY, sampler_wrapper(settings))
        return (patched,)


NODE_CLASS_MAPPINGS = {"NoiseOrder": NoiseOrderNode}
NODE_DISPLAY_NAME_MAPPINGS = {"NoiseOrder": "Noise Order"}


def node_input(knob: Knob) -> tuple[Any, dict[str, Any]]:
    """A knob as an input of a node: its type, or list of choices, and its options."""
    default = {"enabled": True, "preset": RECOMMENDED}.get(knob.name, knob.default)
    options: dict[str, Any] = {"default": default, "tooltip": knob.help}
    if knob.advanced:
        options["advanced"] = True
    if knob.choices:
        return list(knob.choices), options
    if knob.kind is bool:
        return "BOOLEAN", options
    options |= {"min": knob.minimum, "max": knob.maximum, "step": knob.step}
    return ("INT" if knob.kind is int else "FLOAT"), options


def sampler_wrapper(settings: NoiseOrderSettings) -> Callable[..., Tensor]:
    """What runs in place of the host's sampler: the questions, then the sampler with the ordered noise."""

    def sample(executor, guider, sigmas, extra_args, callback, noise, latent_image=None, *rest, **more):
        if not _is_noise(noise):
            return executor(guider, sigmas, extra_args, callback, noise, latent_image, *rest, **more)
        model = GuidedModel(executor.class_obj, guider, sigmas, extra_args["model_options"], latent_image)
        unasked = model.why_not()
        ordered = order_noise(settings, further_draws(noise), *((None, None) if unasked else (model, model)))
        extra_args = {**extra_args, "model_options": model.remembering(ordered.report)}
        sampled = executor(guider, sigmas, extra_args, callback, ordered.noise, latent_image, *rest, **more)
        ordered.report.saved_evaluations = model.memory.saved // len(noise)
        _tell(ordered.report, unasked)
        return sampled

    return sample


def _is_noise(noise: Any) -> bool:
    """Whether there is noise to put in order: samplers that go on with a half-finished latent are given zeros."""
    return isinstance(noise, Tensor) and bool(torch.count_nonzero(noise))


def _tell(report: Report, unasked: str | None) -> None:
    chosen = f", chosen {report.chosen}" if report.chosen else ""
    cost = report.evaluations - report.saved_evaluations
    _log.info("%s: %d evaluations more, %.1f s%s", INFOTEXT_PREFIX, cost, report.seconds, chosen)
    for reason in report.skipped:
        _log.warning("%s: skipped %s%s", INFOTEXT_PREFIX, reason, f" ({unasked})" if unasked else "")


class Memory:
    """What the model answered, for a sampler that asks the same again.

    Attributes:
        saved: evaluations that the sampler did not pay again, over all pictures.
    """

    def __init__(self) -> None:
        self.saved = 0
        self._answers: list[tuple[Tensor, float, Any, Tensor]] = []

    def note(self, x: Tensor, sigma: float, cond: Any, answer: Tensor) -> None:
        self._answers.append((x, sigma, cond, answer))

    def recall(self, x: Tensor, sigma: float, cond: Any) -> Tensor | None:
        """The answer for x; its rows may stem from different questions, as every picture has its own winner."""
        same = [known for known in self._answers if known[0].shape == x.shape and known[1] == sigma and known[2] is cond]
        rows = []
        for index, row in enumerate(x):
            limit = _ROUNDING * row.abs().max()
            near = (answer[index] for seen, _, _, answer in same if (seen[index] - row).abs().max() <= limit)
            rows.append(next(near, None))
        if any(row is None for row in rows):
            return None
        self.saved += len(rows)
        return torch.stack(rows)

    def forget(self) -> None:
        self._answers.clear()


class GuidedModel:
    """The model behind a guider; `lib_noiseorder.model.Denoiser` and `lib_noiseorder.selection.Preview`.

    It is asked below guidance, where the host evaluates a batch of conditionings: other nodes' patches of the model,
    ControlNet and regional prompts count, their guidance does not. Noisy latents are in the host's convention,
    k-diffusion's x = x0 + sigma·eps or a flow model's x = (1 − sigma)·x0 + sigma·eps.
    """

    def __init__(self, sampler: Any, guider: Any, sigmas: Tensor, options: dict[str, Any], latent: Tensor | None):
        import comfy.model_sampling

        self._sampler, self._guider, self._sigmas, self._latent = sampler, guider, sigmas, latent
        self._options = options
        self.memory = Memory()
        steps = getattr(getattr(sampler, "sampler_function", None), "__name__", None)
        self.follows = steps == "sample_euler" and not sampler.extra_options.get("s_churn", 0) and _CALCULATE not in options
        self._sampling = guider.inner_model.model_sampling
        self._flow = isinstance(self._sampling, comfy.model_sampling.CONST)
        self.family = "flow" if self._flow else "eps"
        self._positive, self._negative = guider.conds.get("positive"), guider.conds.get("negative")
        self.guidance = 1.0 if self._negative is None else float(getattr(guider, "cfg", 1.0))

    def why_not(self) -> str | None:
        """Why the model cannot be asked; None if it can."""
        import comfy.model_sampling

        known = (comfy.model_sampling.EPS, comfy.model_sampling.CONST)
        odd = getattr(comfy.model_sampling, "IMG_TO_IMG", ())
        if not isinstance(self._sampling, known) or (odd and isinstance(self._sampling, odd)):
            return f"the noise schedule of {type(self._guider.inner_model).__name__} is not known"
        if self._positive is None:
            return f"{type(self._guider).__name__} has no positive prompt"
        return None

    # -- Denoiser --------------------------------------------------------------------------------------------------

    def __call__(self, noise: Tensor, timestep: float) -> Tensor:
        table = self._table()
        level = self.level(timestep) if self._flow else self._level(table[round(timestep * (len(table) - 1))].item())
        x = noise if self._flow else noise * (level.sigma**2 + self._data_scale() ** 2) ** 0.5
        return along_noise(self.predict(x, level), x, level, "x0", flow=self._flow)

    # -- Preview ---------------------------------------------------------------------------------------------------

    @property
    def levels(self) -> list[NoiseLevel]:
        return [self._level(sigma) for sigma in self._sigmas.tolist() if sigma > 0]

    def start(self, noise: Tensor) -> Tensor:
        full = self._sampler.max_denoise(self._guider, self._sigmas)
        latent = torch.zeros_like(noise) if self._latent is None else self._latent
        return self._sampling.noise_scaling(self._sigmas[0], noise.clone(), latent, full)

    def level(self, noise_share: float) -> NoiseLevel:
        sigma = noise_share if self._flow else noise_share / (1 - noise_share)
        table = self._table()
        return self._level(table[(table - sigma).abs().argmin()].item())

    def predict(self, x: Tensor, level: NoiseLevel) -> Tensor:
        return self._ask(x, level, [self._positive])[0]

    def predict_pair(self, x: Tensor, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        prompted, unprompted = self._ask(x, level, [self._positive, self._negative])
        return prompted, unprompted

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

        comfy.model_management.throw_exception_if_processing_interrupted()
        sigma = x.new_full((len(x),), level.sigma)
        # the host's function wants a pair, and leaves out what is None
        answers = comfy.samplers.calc_cond_batch(self._guider.inner_model, [*conds, None][:2], x, sigma, self._options)
        for cond, answer in zip(conds, answers):
            self.memory.note(x, level.sigma, cond, answer)
        return answers

    # -- the sampler's own run -------------------------------------------------------------------------------------

    def remembering(self, report: Report) -> dict[str, Any]:
        """The options for the sampler's run: its first calls are answered from memory after a selection."""
        if not report.chosen or _CALCULATE in self._options:
            return self._options
        return {**self._options, _CALCULATE: self._recalled}

    def _recalled(self, args: dict[str, Any]) -> list[Tensor]:
        """Stands in for the host's evaluation of a pair of conditionings; asks for what is not remembered."""
        import comfy.samplers

        conds, x, sigma = args["conds"], args["input"], args["sigma"]
        known = [None if cond is None else self.memory.recall(x, float(sigma[0]), cond) for cond in conds]
        if all(answer is None for answer in known):
            self.memory.forget()
        unknown = [cond if answer is None else None for cond, answer in zip(conds, known)]
        if any(cond is not None for cond in unknown):
            asked = comfy.samplers.calc_cond_batch(args["model"], unknown, x, sigma, args["model_options"])
        else:
            asked = [torch.zeros_like(x) for _ in conds]  # what the host gives for a conditioning that is None
        return [answer if answer is not None else other for answer, other in zip(known, asked)]
