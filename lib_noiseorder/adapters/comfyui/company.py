"""Who else has a say: what other nodes put on a model, a sampler or a prompt, and what follows for questions and answers.

A remembered answer may be used where everything that takes part in it is known to be harmless: a list of what is allowed, so
that a node that nobody has thought of makes the sampler ask again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ...answers import foreign_say, hooked, is_plain, is_replaced
from .set_aside import foreign_methods, is_of_the_host

KEY = "noise_order"
"""Under which this node's own wrappers and attachments stand."""
CALCULATE = "sampler_calc_cond_batch_function"
"""The host's option that stands in for its evaluation of a pair of conditionings."""
_GUIDANCE = ("sampler_cfg_function", "sampler_post_cfg_function", "sampler_pre_cfg_function")
"""Options that work on the answers, after them."""
_AROUND_THE_SAMPLER = ("outer_sample", "prepare_sampling")
"""Wrappers that have done their part before the sampler begins."""
_CALLED_WHILE_ASKING = ("on_prepare_state", "on_apply_hooks")
_HARMLESS_OBJECTS = ("model_sampling", "latent_format", "manual_cast_dtype")
"""What is often replaced on a model and is plain data, or looked at by us as well."""
_NOT_THE_FIRST_CALL = ("sample_dpm_fast", "sample_dpm_adaptive")
"""Samplers that round their noise levels, or take as many steps as they like."""

Conds = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Guidance:
    """How a guider puts its answers together: uncond + scale·(cond − uncond), with what takes these places."""

    scale: float
    order: tuple[str, ...] = ("positive", "negative")
    """The conditionings that the sampler asks for, as the guider orders them."""
    uncond: Callable[[Mapping[str, Tensor]], Tensor] = lambda answers: answers["negative"]
    answers_itself: bool = False
    """Whether the guider asks the model by a way of its own, so that no answer can be remembered for it."""


def guidance_of(guider: Any, options: Mapping[str, Any]) -> Guidance | None:
    """The guidance of a guider; None where it is none of those that are known."""
    import comfy.samplers

    kind = type(guider)
    if any(is_replaced(guider, name) for name in ("predict_noise", "outer_predict_noise", "__call__")):
        return None
    if kind.predict_noise is comfy.samplers.CFGGuider.predict_noise:
        scale = 1.0 if guider.conds.get("negative") is None else float(guider.cfg)
        return Guidance(1.0 if math.isclose(scale, 1.0) else scale)
    if kind.__name__ == "Guider_DualCFG" and is_of_the_host(kind.__module__):
        return _dual_guidance(float(guider.cfg1), float(guider.cfg2), guider.nested, options)
    return None


def _dual_guidance(cfg1: float, cfg2: float, nested: bool, options: Mapping[str, Any]) -> Guidance | None:
    """Two scales: positive against middle, and these against negative; what is not positive is the uncond of one scale."""
    scale = cfg1 * cfg2 if nested else cfg1
    middle = cfg2 * (1 - cfg1) if nested else cfg2 - cfg1
    order: tuple[str, ...] = ("negative", "middle", "positive")
    if not nested and math.isclose(cfg2, 1.0) and not options.get("disable_cfg1_optimization", False):
        order = ("positive",) if math.isclose(cfg1, 1.0) else ("middle", "positive")
    if order == ("positive",):
        return Guidance(1.0, answers_itself=True)
    if math.isclose(scale, 1.0):
        return None

    def uncond(answers: Mapping[str, Tensor]) -> Tensor:
        mixed = answers["middle"] * middle
        if "negative" in answers:
            mixed = mixed + answers["negative"] * (1 - cfg2)
        return mixed / (1 - scale)

    return Guidance(scale, order, uncond, answers_itself=True)


def takes_euler_steps(sampler: Any, options: Mapping[str, Any]) -> bool:
    """Whether the sampler's next latent follows from its answers by an Euler step under plain guidance."""
    return (
        _is_hosts(sampler)
        and sampler.sampler_function.__name__ == "sample_euler"
        and not sampler.extra_options.get("s_churn", 0)
        and not any(options.get(name) for name in (*_GUIDANCE, CALCULATE))
        and not _wrappers(options, "predict_noise")
    )


def why_asked_again(sampler: Any, guider: Any, options: Mapping[str, Any]) -> str | None:
    """Why the sampler's first calls cannot be answered from what was asked already; None if they can."""
    if not (_is_hosts(sampler) and sampler.sampler_function.__name__ not in _NOT_THE_FIRST_CALL):
        return "the sampler's first call is not known"
    if sampler.extra_options.get("s_churn", 0):
        return "the sampler adds noise before its first call"
    known = ("transformer_options", "to_load_options", "disable_cfg1_optimization", *_GUIDANCE)
    mask = options.get("denoise_mask_function")
    for name, value in options.items():
        if name not in known and not is_plain(value) and not (value is mask and is_of_the_host(mask.__module__)):
            return f"the option {name} of the model"
    transformer: Mapping[str, Any] = options.get("transformer_options", {})
    for name, value in transformer.items():
        if name not in ("wrappers", "callbacks") and ((name.startswith("patches") and value) or not is_plain(value)):
            return f"{name} of the model"
    for kind in transformer.get("wrappers", {}):
        if kind not in _AROUND_THE_SAMPLER and _wrappers(options, kind):
            return f"a wrapper around {kind}"
    if any(transformer.get("callbacks", {}).get(kind) for kind in _CALLED_WHILE_ASKING):
        return "a callback that is called while the model is asked"
    patcher = guider.model_patcher
    if patcher.injections:
        return "something injected into the network"
    for name, value in patcher.object_patches.items():
        if name not in _HARMLESS_OBJECTS and not is_plain(value):
            return f"another {name} in the model"
    for cond in (cond for conds in guider.conds.values() for cond in conds):
        for name, value in cond.items():
            if name == "model_conds":
                if not all(type(entry).__module__ == "comfy.conds" for entry in value.values()):
                    return "a conditioning of an unknown kind"
            elif name != "uuid" and not is_plain(value):
                return f"{name} of the prompt"
    network = guider.inner_model.diffusion_model
    if is_replaced(guider.inner_model, "apply_model") or is_replaced(guider.inner_model, "_apply_model"):
        return "a replaced apply_model"
    for kind in {type(module) for module in network.modules()}:
        for name in foreign_methods(kind):
            return f"a replaced {name} of every {kind.__name__}"
    return foreign_say(network) or hooked(network)


def kept_by_others(guider: Any, options: Mapping[str, Any]) -> list[Any]:
    """What functions and objects of other nodes may change while the model is asked: where setting aside begins."""
    transformer = {name: value for name, value in options.get("transformer_options", {}).items() if name != "sample_sigmas"}
    rest = {name: value for name, value in options.items() if name not in ("transformer_options", "registered_hooks")}
    patcher = guider.model_patcher
    controls = [cond[name] for cond in _conds(guider) for name in ("control", "gligen") if name in cond]
    extra = [hook.transformers_dict for hook in hooks_of(guider) if hasattr(hook, "transformers_dict")]
    objects = list(patcher.object_patches.values())
    schedules = [vars(keyframes) for keyframes in keyframes_of(guider)]
    return [guider.inner_model, transformer, rest, objects, patcher.injections, controls, schedules, extra]


def hooks_of(guider: Any) -> list[Any]:
    """The hooks on the prompts: what changes weights or options for a prompt alone."""
    return [hook for cond in _conds(guider) if cond.get("hooks") is not None for hook in cond["hooks"].hooks]


def keyframes_of(guider: Any) -> list[Any]:
    """The schedules of the hooks on the prompts, each once."""
    return list({id(hook.hook_keyframe): hook.hook_keyframe for hook in hooks_of(guider)}.values())


def active(conds: Conds | None, sigma: float) -> int:
    """How many parts of a prompt (areas, masks, time ranges) take part at a noise level."""
    return sum(
        sigma <= cond.get("timestep_start", math.inf) and sigma >= cond.get("timestep_end", -math.inf) for cond in conds or ()
    )


def frames_in_the_batch(guider: Any, options: Mapping[str, Any], pictures: int) -> bool:
    """Whether the rows of the batch are frames of one video."""
    if pictures == 1:
        return False
    handler = options.get("context_handler")
    return getattr(handler, "dim", None) == 0 or any("num_video_frames" in cond["model_conds"] for cond in _conds(guider))


def _conds(guider: Any) -> Iterator[Mapping[str, Any]]:
    for conds in guider.conds.values():
        yield from conds or ()


def _wrappers(options: Mapping[str, Any], kind: str) -> list[Any]:
    """Other nodes' wrappers of a kind."""
    found = options.get("transformer_options", {}).get("wrappers", {}).get(kind, {})
    return [wrapper for key, wrappers in found.items() if key != KEY for wrapper in wrappers]


def _is_hosts(sampler: Any) -> bool:
    """Whether a sampler is one of the host's that call the model for the latent that they start from."""
    import comfy.samplers

    function = getattr(sampler, "sampler_function", None)
    return type(sampler) is comfy.samplers.KSAMPLER and getattr(function, "__module__", "") == "comfy.k_diffusion.sampling"
