"""Compare with off: every picture once more, with the same seed and prompt and without Noise Order."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from modules import processing
from modules.shared import state

from ...answers import shadow
from ...settings import INFOTEXT_KEYS
from ..panel.grid_axes import forget_cell

_BESIDE_OTHER_FILES = {"save_images_replace_action": "Add number suffix"}
"""The hosts' option for a file whose name is there already, as the ordered picture's may be."""
_PROMPTS, _HIRES_PROMPTS = ("prompt", "negative_prompt"), ("hr_prompt", "hr_negative_prompt")


def add_plain_copies(p: Any, processed: Any, switch: int) -> None:
    """Put every picture's plain copy behind it, with its own infotext.

    Args:
        p: the finished job.
        processed: what the host is about to show of it.
        switch: where in the job's script arguments Noise Order's first one stands.
    """
    if state.interrupted or getattr(state, "stopping_generation", False):
        return
    state.job_count += p.n_iter  # else the progress bar stands at its end meanwhile
    plain = processing.process_images(_plain(p, switch))
    first = processed.index_of_first_image
    pictures, texts = processed.images[first:], processed.infotexts[first:]
    own = plain.images[plain.index_of_first_image :], plain.infotexts[plain.index_of_first_image :]
    if len(pictures) == len(texts) == len(own[0]) == len(own[1]):
        processed.images[first:] = [picture for pair in zip(pictures, own[0]) for picture in pair]
        processed.infotexts[first:] = [text for pair in zip(texts, own[1]) for text in pair]
    else:  # masks between the pictures, or another script's additions
        processed.images += own[0]
        processed.infotexts += own[1]


def _plain(p: Any, switch: int) -> Any:
    """The same job, switched off. Seeds and prompts are those of the pictures, whatever rolled or expanded them."""
    plain = copy.copy(p)
    args = list(p.script_args)
    args[switch] = {"enabled": False} if isinstance(args[switch], dict) else False
    plain.script_args = args
    plain.seed = _as_asked_for(p.all_seeds, 0 if p.subseed_strength else 1)
    plain.subseed = _as_asked_for(p.all_subseeds, 1)
    plain.styles = []
    kinds = _PROMPTS + _HIRES_PROMPTS if getattr(p, "enable_hr", False) else _PROMPTS
    prompts = {kind: list(getattr(p, f"all_{kind}s")) for kind in kinds}
    for kind, texts in prompts.items():
        setattr(plain, kind, texts[0])  # other scripts expect a text for all
    shadow(plain, "setup_prompts", partial(_with_prompts, plain, prompts))
    plain.extra_generation_params = {key: value for key, value in p.extra_generation_params.items() if key not in INFOTEXT_KEYS}
    plain.comments, plain.do_not_save_grid = {}, True
    plain.override_settings = {**p.override_settings, **_BESIDE_OTHER_FILES}
    plain.override_settings_restore_afterwards = True
    forget_cell(plain)
    return plain


def _as_asked_for(seeds: Sequence[int], step: int) -> int | list[int]:
    """The first seed, which other scripts expect, where the hosts count on from it; else all of them."""
    return seeds[0] if list(seeds) == [seeds[0] + step * number for number in range(len(seeds))] else list(seeds)


def _with_prompts(plain: Any, prompts: Mapping[str, list[str]], setup_prompts: Callable[[], None]) -> None:
    """Prepare the prompts as the host does, then put every picture's own in place."""
    setup_prompts()
    for kind, texts in prompts.items():
        setattr(plain, f"all_{kind}s", texts)
