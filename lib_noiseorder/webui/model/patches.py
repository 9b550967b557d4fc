"""What other extensions have done to the network: what can be seen through, and what cannot."""

from __future__ import annotations

import sys
from typing import Any

import torch
from modules import shared

from ...cache import Uncacheable, fingerprint

_GUIDANCE_FUNCTIONS = ("sampler_post_cfg_function", "sampler_cfg_function")
"""Forge's patches that act after the model's answer; questions leave them out."""
_CALLBACKS = ("callbacks_cfg_denoiser", "callbacks_cfg_denoised", "callbacks_cfg_after_cfg")


def network_of(sd_model: Any) -> Any:
    """The host's object around the diffusion network, which is its `diffusion_model`."""
    objects = getattr(sd_model, "forge_objects", None)
    return sd_model.model if objects is None else objects.unet.model


def options_of(sd_model: Any) -> dict[str, Any]:
    """Forge's patches that take part in the model's answers; none on A1111."""
    objects = getattr(sd_model, "forge_objects", None)
    options = {} if objects is None else objects.unet.model_options
    return {name: value for name, value in options.items() if name not in _GUIDANCE_FUNCTIONS}


def opaque_patch(sd_model: Any) -> str | None:
    """Something that may change the model's answers in ways that cannot be foreseen, in words; None if there is nothing.

    Hooks, replaced functions, ControlNets, hypernetworks and callbacks may look at the step, the noise level or the number of
    rows; LoRAs, embeddings and patches that are plain values may not.
    """
    return _on_the_network(network_of(sd_model)) or _beside_it(sd_model) or _among_the_options(sd_model) or _listening()


def replaced_forward(module: Any) -> bool:
    """Whether somebody put another function in the place of a module's own `forward`."""
    return isinstance(module, torch.nn.Module) and "forward" in vars(module)


def _on_the_network(inner: Any) -> str | None:
    for module in (inner, *inner.diffusion_model.modules()):
        for hook in (*getattr(module, "_forward_hooks", {}).values(), *getattr(module, "_forward_pre_hooks", {}).values()):
            if getattr(hook, "__module__", "") != "modules.lowvram":
                return f"a hook of {getattr(hook, '__module__', '?')} on the network"
        if replaced_forward(module):
            return "a module whose forward was replaced"
    return None


def _beside_it(sd_model: Any) -> str | None:
    objects = getattr(sd_model, "forge_objects", None)
    if objects is None:
        other = getattr(sys.modules.get("modules.sd_unet"), "current_unet", None)
        return "another network takes part" if other is not None or getattr(shared, "loaded_hypernetworks", None) else None
    kinds = ("object_patches", "controlnet_linked_list", "extra_model_patchers_during_sampling")
    return next((f"{kind} on the network" for kind in kinds if getattr(objects.unet, kind, None)), None)


def _among_the_options(sd_model: Any) -> str | None:
    try:
        fingerprint(options_of(sd_model))
    except Uncacheable as error:
        return str(error)
    return None


def _listening() -> str | None:
    callbacks = getattr(sys.modules.get("modules.script_callbacks"), "callback_map", {})
    return "a callback on every evaluation" if any(callbacks.get(name) for name in _CALLBACKS) else None
