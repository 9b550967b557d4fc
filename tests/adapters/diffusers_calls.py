"""Calls of the tiny diffusers pipelines, and what their models are shown meanwhile."""

import contextlib
import functools

import torch

from lib_noiseorder import NoiseOrderSettings
from lib_noiseorder.adapters.diffusers.models import denoising_models

PLAIN = NoiseOrderSettings(enabled=True, erasure_samples=1, strength=0.0)
ERASED = NoiseOrderSettings(enabled=True, strength=0.0)
INJECTED = NoiseOrderSettings(preset="Custom")
COMPARED = NoiseOrderSettings(selection_draws=2)
FAMILIES = {
    "stable_diffusion": {},
    "stable_diffusion_xl": {},
    "stable_diffusion_3": {"max_sequence_length": 8},
    "flux": {"max_sequence_length": 8},
    "wan": {"max_sequence_length": 8, "num_frames": 5},
}
SHAPES = {
    "stable_diffusion": (4, 16, 16),
    "stable_diffusion_xl": (4, 16, 16),
    "stable_diffusion_3": (4, 16, 16),
    "flux": (64, 16),
    "wan": (4, 2, 4, 4),
}


def seeded(*seeds):
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return generators if len(seeds) > 1 else generators[0]


def pictures_of(output):
    return output.frames if hasattr(output, "frames") else output.images


def latents_of(output):
    """The one tensor that a pipeline gave."""
    for name in ("images", "frames", "video"):
        if hasattr(output, name):
            return getattr(output, name)
    return output[0]


class Count:
    """Rows that reached the denoising models."""

    rows = 0


@contextlib.contextmanager
def counted(pipe):
    """The evaluations per latent that are made meanwhile."""
    count, models = Count(), denoising_models(pipe).values()
    before = [vars(model).get("forward") for model in models]
    for model in models:

        def forward(*args, original=model.forward, **kwargs):
            shown = args[0] if args else kwargs.get("hidden_states", kwargs.get("sample", kwargs.get("x")))
            count.rows += len(shown)
            return original(*args, **kwargs)

        vars(model)["forward"] = functools.wraps(model.forward)(forward)
    try:
        yield count
    finally:
        for model, own in zip(models, before):
            if own is None:
                del vars(model)["forward"]
            else:
                vars(model)["forward"] = own


def picture(pipe, call, **more):
    return pictures_of(pipe(**call, **more, output_type="latent"))


@contextlib.contextmanager
def watched(pipe):
    """What the denoising models are shown meanwhile: (name, rows, timestep) of every call that reaches one."""
    seen, handles = [], []
    for name in ("unet", "transformer", "transformer_2"):
        model = getattr(pipe, name, None)
        if model is None:
            continue

        original, shadowed = model.forward, vars(model).get("forward")

        def forward(*args, original=original, name=name, **kwargs):
            shown = args[0] if args else kwargs["hidden_states"]
            timestep = args[1] if len(args) > 1 else kwargs["timestep"]
            seen.append((name, len(shown), float(torch.as_tensor(timestep).flatten()[0])))
            return original(*args, **kwargs)

        vars(model)["forward"] = forward
        handles.append((model, shadowed))
    try:
        yield seen
    finally:
        for model, shadowed in handles:
            if shadowed is None:
                del vars(model)["forward"]
            else:
                vars(model)["forward"] = shadowed
