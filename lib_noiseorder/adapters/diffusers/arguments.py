"""What is known of a pipeline's call before anything runs, and the errors for what cannot be used."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from ...knobs import shown
from ...settings import INFOTEXT_PREFIX
from .models import denoising_models
from .rehearsal import Unusable
from .schedule import is_known

CALLBACKS = ("callback", "callback_steps", "callback_on_step_end")
_OUTPUTS = ("pil", "np", "pt", "latent")
_COUNTS = ("num_images_per_prompt", "num_videos_per_prompt")
_FRAMES = ("num_frames", "video_length", "num_videos_per_prompt")


def parameters(pipe: Any) -> Mapping[str, inspect.Parameter]:
    """The arguments of the pipeline's call."""
    return inspect.signature(type(pipe).__call__).parameters


def check_pipeline(pipe: Any, call: Mapping[str, Any]) -> None:
    """
    Raises:
        TypeError: no pipeline that makes pictures or videos of a prompt and initial noise, or an argument that its call does
            not know.
        ValueError: a scheduler without a known noise schedule.
    """
    name = type(pipe).__name__
    known = parameters(pipe)
    if any(kind.__name__ == "ModularPipeline" for kind in type(pipe).__mro__):
        raise Unusable(f"{name} is modular: what its latents are is its blocks' to say")
    for argument, why in (("prompt", "makes nothing of a prompt"), ("latents", "takes no latents")):
        if argument not in known:
            raise Unusable(f"{name} {why}")
    if "audio_latents" in known or "audio_length_in_s" in known or "audio_end_in_s" in known:
        raise Unusable(f"{name} makes sound, not pictures alone")
    scheduler = getattr(pipe, "scheduler", None)
    if scheduler is None or not hasattr(scheduler, "set_timesteps"):
        raise Unusable(f"{name} has no scheduler")
    if not denoising_models(pipe):
        raise Unusable(f"{name} has no denoising model that is known")
    for argument in call:
        if argument not in known and argument not in CALLBACKS:
            raise TypeError(f"{INFOTEXT_PREFIX}: {name} takes no argument {argument!r}")
    if not is_known(scheduler):
        raise ValueError(f"{INFOTEXT_PREFIX}: the noise schedule of {type(scheduler).__name__} is not known")


def check_call(call: Mapping[str, Any]) -> int:
    """The number of pictures that the call makes.

    Raises:
        ValueError: arguments that cannot be used.
    """
    prompt = call.get("prompt")
    embeds = next((call[name] for name in call if _is_embeds(name) and call[name] is not None), None)
    if (prompt is None) == (embeds is None):
        raise ValueError(f"{INFOTEXT_PREFIX}: give either prompt or prompt_embeds")
    if prompt is not None and (not isinstance(prompt, (str, list, tuple)) or (not isinstance(prompt, str) and not prompt)):
        raise ValueError(f"{INFOTEXT_PREFIX}: prompt must be a text or a list of texts, not {shown(prompt)}")
    output = call.get("output_type")
    if output is not None and output not in _OUTPUTS:
        raise ValueError(f"{INFOTEXT_PREFIX}: output_type = {shown(output)} is not one of {', '.join(_OUTPUTS)}")
    steps = call.get("num_inference_steps")
    if steps is not None and (not isinstance(steps, Integral) or isinstance(steps, bool) or steps < 1):
        raise ValueError(f"{INFOTEXT_PREFIX}: num_inference_steps = {shown(steps)} is not an integer from 1 on")
    per_prompt = next((call[name] for name in _COUNTS if call.get(name) is not None), 1)
    prompts = len(prompt) if isinstance(prompt, (list, tuple)) else 1 if embeds is None else len(embeds)
    pictures = prompts * int(per_prompt)
    _check_generator(call.get("generator"), pictures)
    latents = call.get("latents")
    if latents is not None:
        _check_latents(latents, pictures)
    return pictures


def _is_embeds(name: str) -> bool:
    return name.startswith("prompt_embeds") and not name.endswith("mask")


def _check_latents(latents: Any, pictures: int) -> None:
    if not isinstance(latents, Tensor) or not latents.is_floating_point():
        kind = latents.dtype if isinstance(latents, Tensor) else type(latents).__name__
        raise ValueError(f"{INFOTEXT_PREFIX}: latents must be a floating-point tensor, not {kind}")
    if latents.ndim == 0 or len(latents) != pictures:
        raise ValueError(f"{INFOTEXT_PREFIX}: latents have shape {tuple(latents.shape)} for {pictures} pictures")
    if not bool(torch.isfinite(latents).all()):
        raise ValueError(f"{INFOTEXT_PREFIX}: latents are not finite")


def _check_generator(generator: Any, pictures: int) -> None:
    generators = generator if isinstance(generator, list) else [generator]
    if not all(isinstance(one, torch.Generator) or (one is None and generator is None) for one in generators):
        raise ValueError(f"{INFOTEXT_PREFIX}: generator must be a torch.Generator or a list of them, one per picture")
    if isinstance(generator, list) and len(generator) not in (1, pictures):
        raise ValueError(f"{INFOTEXT_PREFIX}: generator has {len(generator)} entries for {pictures} pictures")


def has_callback(call: Mapping[str, Any]) -> bool:
    """Whether something of the caller's runs between the steps, which may change anything."""
    return any(call.get(name) is not None for name in CALLBACKS)


def makes_videos(pipe: Any) -> bool:
    """Whether the pipeline's call is told a number of frames."""
    return not parameters(pipe).keys().isdisjoint(_FRAMES)


def guidance_scales(pipe: Any, call: Mapping[str, Any]) -> list[float]:
    """What the call names its guidance scales."""
    values = [call.get(name, known.default) for name, known in parameters(pipe).items() if "guidance" in name or "cfg" in name]
    return [float(value) for value in values if isinstance(value, Real) and not isinstance(value, bool)]
