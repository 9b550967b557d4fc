"""Everything that a batch's ordered noise depends on in a WebUI, as a key to remember it by.

What is not listed as irrelevant counts: an attribute that another extension put on the job, a setting of the host, an argument
of another script. What may change a model's answer without showing it (a hook on the network, a patch that is a function,
somebody's callback) makes the noise one that is not remembered.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Any

import torch
from modules import errors, shared
from torch import Tensor

from ...cache import Identities, NoiseCache, Uncacheable, fingerprint, settings_of_the_noise
from ...ordering import OrderedNoise, Report
from ...settings import INFOTEXT_PREFIX, NoiseOrderSettings
from .host_model import HostModel, changes_over_the_steps
from .patches import network_of, opaque_patch, options_of
from .probe import Sampling

_IRRELEVANT = (
    # the sampler, and what comes after the first question: where it matters, its course is in the key
    """
    steps sampler sampler_name sampler_index scheduler sampler_noise_scheduler_override step_multiplier eta
    ddim_discretize s_churn s_tmin s_tmax s_noise s_min_uncond cfg_scale distilled_cfg_scale denoising_strength
    initial_noise_multiplier
    """,
    # what the tensors in the key were made from
    """
    prompt negative_prompt prompts negative_prompts all_prompts all_negative_prompts main_prompt
    main_negative_prompt prompt_for_display styles c uc cached_c cached_uc hr_c hr_uc cached_hr_c cached_hr_uc
    seed subseed seeds subseeds all_seeds all_subseeds subseed_strength seed_resize_from_h seed_resize_from_w
    seed_enable_extras rng modified_noise init_images init_latent latent_mask image_mask mask nmask
    mask_for_overlay image_conditioning
    """,
    # hires fix, the refiner, which is not there while we ask, and what happens to the finished picture
    """
    firstpass_steps enable_hr hr_scale hr_upscaler hr_second_pass_steps hr_resize_x hr_resize_y hr_checkpoint_name
    hr_checkpoint_info hr_sampler_name hr_scheduler hr_prompt hr_negative_prompt hr_prompts hr_negative_prompts
    all_hr_prompts all_hr_negative_prompts hr_upscale_to_x hr_upscale_to_y hr_cfg hr_distilled_cfg
    hr_additional_modules truncate_x truncate_y applied_old_hires_behavior_to latent_scale_mode
    hr_extra_network_data is_hr_pass firstpass_image txt2img_upscale firstphase_width firstphase_height
    refiner_checkpoint refiner_switch_at refiner_checkpoint_info restore_faces color_corrections overlay_images
    paste_to latents_after_sampling pixels_after_sampling
    """,
    # the job's book-keeping
    """
    batch_size n_iter iteration scripts scripts_value script_args script_args_value scripts_setup_complete
    comments extra_generation_params outpath_samples outpath_grids do_not_save_samples do_not_save_grid
    do_not_reload_embeddings override_settings override_settings_restore_afterwards user is_api sd_model
    sd_model_name sd_model_hash sd_vae_name sd_vae_hash save_samples force_task_id
    """,
)
IRRELEVANT = frozenset(name for names in _IRRELEVANT for name in names.split())
"""Attributes of a job that change nothing about the noise of its first pass, or are in the key in another way."""
_SAMPLED = 64
"""Values of every weight that are compared where torch keeps no count of changes."""


class RememberedNoise:
    """The ordered noise of recent jobs of one WebUI."""

    def __init__(self) -> None:
        self._cache = NoiseCache()
        self._identities = Identities()

    def key(
        self, sampling: Sampling, settings: NoiseOrderSettings, model: HostModel, noise: Tensor, host_rng: Any
    ) -> bytes | None:
        """The key of what `settings` make of `noise`; None where that depends on something that cannot be seen through.

        Args:
            sampling: the host's call of its sampler.
            settings: as they are applied in this very pass.
            model: the host's model, being asked.
            noise: erased noise [B, …] of unit variance.
            host_rng: the host's ImageRNG, for the further candidates of a selection.
        """
        p = sampling.p
        try:
            return fingerprint(
                {
                    "settings": settings_of_the_noise(settings),
                    "noise": [noise, str(noise.device)],
                    "draws": _draws(host_rng),
                    "picture": [sampling.latent, sampling.image_conditioning, sampling.noise_multiplier],
                    "conditioning": [_cond(sampling.conditioning), _cond(sampling.unconditional_conditioning)],
                    "course": _course(sampling, settings, model),
                    "job": {name: value for name, value in vars(p).items() if _counts(name)},
                    "arguments": self._others_arguments(p),
                    "options": getattr(shared.opts, "data", None) or vars(shared.opts),
                    "model": self._model(p),
                }
            )
        except Uncacheable:
            return None
        except Exception:  # a host of another build than those known: the noise is asked for anew
            errors.report(f"{INFOTEXT_PREFIX}: the ordered noise cannot be remembered on this host", exc_info=True)
            return None

    def find(self, key: bytes | None) -> OrderedNoise | None:
        return None if key is None else self._cache.find(key)

    def keep(self, key: bytes | None, noise: Tensor, report: Report) -> None:
        if key is not None:
            self._cache.keep(key, OrderedNoise(noise, report))

    # -- inside ----------------------------------------------------------------------------------------------------

    def _others_arguments(self, p: Any) -> list[Any]:
        """The arguments of every script but this one."""
        arguments = list(p.script_args)
        for script in getattr(p.scripts, "alwayson_scripts", []):
            if getattr(script, "remembered", None) is self:
                arguments[script.args_from : script.args_to] = [None] * (script.args_to - script.args_from)
        return arguments

    def _model(self, p: Any) -> list[Any]:
        sd_model = p.sd_model
        patch = opaque_patch(sd_model)
        if patch:
            raise Uncacheable(patch)
        info = getattr(sd_model, "sd_checkpoint_info", None)
        inner = network_of(sd_model)
        return [
            self._identities(sd_model),
            self._identities(inner.diffusion_model),
            None if info is None else [str(info.name), _file(info.filename)],
            list(self._network(inner)),
            _loras(sd_model),
            options_of(sd_model),
        ]

    def _network(self, inner: Any) -> Iterator[Any]:
        """The network's classes and the state of its weights."""
        network = inner.diffusion_model
        for kind in {type(module): None for module in (inner, *network.modules())}:
            yield f"{kind.__module__}.{kind.__qualname__}"
            yield self._identities(getattr(kind, "forward", kind))
        samples: dict[Any, list[Tensor]] = {}
        for weight in (*network.parameters(), *network.buffers()):
            yield self._identities(weight)
            if weight.is_inference():
                flat = weight.detach().reshape(-1)
                samples.setdefault((str(weight.dtype), str(weight.device)), []).append(flat[:: max(1, len(flat) // _SAMPLED)])
            else:
                yield weight._version
        yield {kind: torch.cat(some) for kind, some in samples.items()}


def _counts(name: str) -> bool:
    return name not in IRRELEVANT and not name.startswith("_noise_order")


def _draws(host_rng: Any) -> list[Any]:
    """What the further candidates come from; hosts roll a variation seed even where it has no strength."""
    strength = host_rng.subseed_strength
    return [list(host_rng.seeds), strength, list(host_rng.subseeds or []) if strength else []]


def _cond(conditioning: Any) -> Any:
    """A host's conditioning as plain values; a prompt that stays the same over the steps does not know how many there are."""
    if hasattr(conditioning, "batch"):
        return [[(part.weight, _schedule(part.schedules)) for part in parts] for parts in conditioning.batch]
    if isinstance(conditioning, list):
        return [_schedule(entries) for entries in conditioning]
    return conditioning


def _schedule(entries: Any) -> Any:
    return entries[0].cond if len(entries) == 1 else [(entry.end_at_step, entry.cond) for entry in entries]


def _course(sampling: Sampling, settings: NoiseOrderSettings, model: HostModel) -> list[Any]:
    """The checkpoint's noise schedule, and as much of the sampler's way as the questions follow."""
    schedule = [model.family, model.guidance == 1, model.schedule]
    prompts_change = any(map(changes_over_the_steps, (sampling.conditioning, sampling.unconditional_conditioning)))
    if settings.selection == "off" and not prompts_change:
        return schedule
    return [
        *schedule,
        model.guidance,
        model.follows,
        [level.sigma for level in model.levels],
        sampling.steps or sampling.p.steps,
    ]


def _file(path: Any) -> list[Any]:
    """A file's path, size and time of change; without the latter two where it is gone."""
    try:
        found = os.stat(path)
    except (OSError, TypeError):
        return [str(path)]
    return [str(path), found.st_size, found.st_mtime_ns]


def _loras(sd_model: Any) -> list[Any]:
    """LoRAs and their relatives, with their strengths and files."""
    objects = getattr(sd_model, "forge_objects", None)
    if objects is not None:
        patches = [[list(patch), _file(patch[0])] for patch in getattr(objects.unet, "lora_patches", {})]
        return [patches, getattr(objects.unet, "extra_concat_condition", None)]
    loaded = getattr(sys.modules.get("networks"), "loaded_networks", [])
    return [
        [net.name, net.te_multiplier, net.unet_multiplier, net.dyn_dim, _file(net.network_on_disk.filename)] for net in loaded
    ]
