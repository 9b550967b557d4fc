"""What the settings come to in one run of a sampler."""

from __future__ import annotations

import dataclasses
from typing import Any

from ...formulas import key_timesteps
from ...ordering import starting_from_a_picture
from ...settings import CUSTOM, NoiseOrderSettings
from .guided_model import GuidedModel

FRAMES = "the pictures of this batch are frames of one video"


def placed(
    settings: NoiseOrderSettings, model: GuidedModel, unknown: str | None, left_out: list[tuple[str, str]]
) -> NoiseOrderSettings:
    """The settings for where the sampler starts, and for the levels at which its prompts take part.

    Args:
        unknown: why the model cannot be asked; None if it can.
        left_out: gets what is left out, and why.
    """
    if unknown:
        if settings.strength != 0:
            left_out.append(("injection", unknown))
        return _custom(settings, strength=0.0)
    if not model.starts_from_noise_alone:
        settings = starting_from_a_picture(settings, model.denoising_strength, model.noisiest)
    if settings.strength != 0:
        asleep = [
            step for step in key_timesteps(settings) if not model.is_active("positive", model.level_at(step.timestep).sigma)
        ]
        for step in asleep:
            left_out.append((f"the {step.name} timestep", "the prompt is not active there"))
        if len(asleep) == len(key_timesteps(settings)):
            settings = _custom(settings, strength=0.0)
        else:
            settings = _custom(settings, **{f"{step.name}_weight": 0.0 for step in asleep})
    return settings


def _custom(settings: NoiseOrderSettings, **values: Any) -> NoiseOrderSettings:
    return dataclasses.replace(settings, preset=CUSTOM, **values) if values else settings
