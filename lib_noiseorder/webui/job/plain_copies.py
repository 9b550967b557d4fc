"""Compare with off: every picture once more, with the same seed and prompt and without Noise Order."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

from modules import processing
from modules.shared import state

from ...answers import shadow
from ...settings import INFOTEXT_KEYS
from ..panel.grid_axes import forget_cell


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
    plain.seed, plain.subseed = list(p.all_seeds), list(p.all_subseeds)
    plain.prompt, plain.negative_prompt, plain.styles = list(p.all_prompts), list(p.all_negative_prompts), []
    if getattr(p, "enable_hr", False):
        shadow(plain, "setup_prompts", partial(_with_hires_prompts, plain, p))
    plain.extra_generation_params = {key: value for key, value in p.extra_generation_params.items() if key not in INFOTEXT_KEYS}
    plain.comments, plain.do_not_save_grid = {}, True
    forget_cell(plain)
    return plain


def _with_hires_prompts(plain: Any, p: Any, setup_prompts: Callable[[], None]) -> None:
    """Prepare the prompts, with the hires pass's as they were; other scripts want the one for all to be a text."""
    setup_prompts()
    plain.all_hr_prompts, plain.all_hr_negative_prompts = list(p.all_hr_prompts), list(p.all_hr_negative_prompts)
    plain.hr_prompt, plain.hr_negative_prompt = p.all_hr_prompts[0], p.all_hr_negative_prompts[0]
