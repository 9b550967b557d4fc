"""A judge that the user has, at work on the pictures of a batch: found, loaded, and shown what the host's latents are."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from modules import paths_internal, prompt_parser, sd_samplers_common, sd_vae_taesd, shared
from PIL import Image
from torch import Tensor

from ...answers import value_replaced
from ...judge_settings import MODEL, threshold
from ...judges import JudgeError, find, load_once, scores_one_by_one
from ...judging import Judging
from ...settings import NoiseOrderSettings
from ..model.checkpoint import checkpoint_of

_FULL, _TAESD = 0, 3
"""The hosts' numbers for the whole VAE, and for the small one that is good enough to judge by."""
_JOINED = re.compile(r"\bAND\b(?:\s*:\s*[\d.]+)?")


HOW_TO_GET_ONE = (
    "A judge is a model that scores how well a picture fits its prompt, such as CLIP or PickScore. Put its folder, with "
    "config.json, *.safetensors and tokenizer, into models/noise_order_judges. Those in the Hugging Face cache are found, too. "
    "A judge sees the pictures that the model sees coming, and the noise that scores best is kept."
)


def judges_folder() -> Path:
    """Where users put their judges, one folder each."""
    return Path(paths_internal.models_path) / "noise_order_judges"


def judges_found() -> dict[str, Path]:
    """The judges on this machine, by name."""
    return find([judges_folder()])


def judges_menu() -> list[str]:
    """What a menu of judges lists: the model itself, then those that are found."""
    return [MODEL, *judges_found()]


class PictureJudge:
    """One batch's judge.

    Attributes:
        digest: which judge it is, to the byte.
    """

    def __init__(self, p: Any, settings: NoiseOrderSettings):
        """
        Raises:
            JudgeError: there is no judge of that name, or it cannot be loaded.
        """
        self._judge, self.digest = load_once(settings.judge, [judges_folder()])
        prompts = getattr(p, "hr_prompts", None) if getattr(p, "is_hr_pass", False) else None
        self._prompts = [plain_text(prompt, p.steps) for prompt in prompts or p.prompts]
        self._enough = threshold(settings.judge_threshold)

    def of_predictions(self) -> Judging:
        """For what the model sees coming: decoded by the small VAE where it is there, else by the whole one."""
        return self._judging(_predicted)

    def of_finished(self) -> Judging:
        """For finished latents: decoded as the host will do it."""
        return self._judging(_finished)

    def _judging(self, decoded: Callable[[Tensor], Image.Image]) -> Judging:
        return Judging(lambda latents: self._score(latents, decoded), self._enough, self.digest, self._judge.unread)

    def _score(self, latents: Tensor, decoded: Callable[[Tensor], Image.Image]) -> Tensor:
        if latents.ndim != 4:
            raise JudgeError("a judge sees pictures, and this is a video")
        seen = [np.array(decoded(latent).convert("RGB")) for latent in latents]
        pictures = torch.from_numpy(np.stack(seen)).permute(0, 3, 1, 2).float() / 255
        given = scores_one_by_one(self._judge, pictures, self._prompts[: len(pictures)], shared.device)
        checkpoint_of(shared.sd_model).bring_back()
        return given


def plain_text(prompt: str, steps: int) -> str:
    """A prompt as a judge is to read it: as it stands at the last step, without weights."""
    parts = []
    for part in _JOINED.split(prompt):
        schedule = prompt_parser.get_learned_conditioning_prompt_schedules([part], steps)[0]
        parts.append("".join(text for text, _ in prompt_parser.parse_prompt_attention(schedule[-1][1]) if text != "BREAK"))
    return ", ".join(filter(None, (" ".join(part.split()) for part in parts)))


def _predicted(latent: Tensor) -> Image.Image:
    def stays_here(model_path: str, model_url: str) -> None:
        if not Path(model_path).exists():
            raise FileNotFoundError(model_path)

    try:
        with value_replaced(sd_vae_taesd, "download_model", stays_here):
            if sd_vae_taesd.decoder_model() is not None:
                return sd_samplers_common.single_sample_to_image(latent, _TAESD)
    except Exception:  # not there, or not made for this kind of latent
        pass
    return sd_samplers_common.single_sample_to_image(latent, _FULL)


def _finished(latent: Tensor) -> Image.Image:
    known = sd_samplers_common.approximation_indexes
    return sd_samplers_common.single_sample_to_image(latent, known.get(getattr(shared.opts, "sd_vae_decode_method", ""), _FULL))
