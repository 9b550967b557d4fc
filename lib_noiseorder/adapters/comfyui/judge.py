"""A judge in a graph: the node that names it and its prompt, and how it sees what the host's sampler makes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...judge_settings import threshold
from ...judges import JudgeError, find, load_once, scores_one_by_one
from ...judging import Judging
from ...settings import NoiseOrderSettings

KIND = "NOISE_JUDGE"
FOLDER = "noise_order_judges"
_NONE_FOUND = f"none found; put one into models/{FOLDER}"


@dataclass(frozen=True)
class PromptedJudge:
    """What the node gives: a judge by name, loaded where it is needed, and the prompt that it holds pictures against."""

    name: str
    prompt: str

    def judging(self, settings: NoiseOrderSettings, guider: Any, vae: Any) -> Judging:
        """The judge for one run of a sampler.

        Args:
            guider: the host's.
            vae: the host's VAE.

        Raises:
            JudgeError: there is no such judge, it cannot be loaded, or there is no VAE.
        """
        import comfy.model_management

        if vae is None:
            raise JudgeError("a judge sees pictures: connect a VAE to Noise Order, too")
        (judge, which), patcher = load_once(self.name, [judges_folder()]), guider.model_patcher

        def score(latents: Tensor) -> Tensor:
            pictures = torch.cat([_decoded(vae, row) for row in _latents_out(guider, latents).split(1)])
            device = comfy.model_management.get_torch_device()
            given = scores_one_by_one(judge, pictures, [self.prompt] * len(pictures), device)
            comfy.model_management.load_models_gpu([patcher])  # decoding may have moved it away
            return given

        return Judging(score, threshold(settings.judge_threshold), which, judge.unread)


class NoiseJudgeNode:
    """Names a judge, and says what the pictures are to show: a sampler is given its prompt in numbers only."""

    CATEGORY = "sampling"
    DESCRIPTION = "A model that scores how well pictures fit a prompt, such as CLIP or PickScore, for Noise Order to choose by."
    RETURN_TYPES = (KIND,)
    RETURN_NAMES = ("noise_judge",)
    FUNCTION = "name"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        tip = f"Folders in models/{FOLDER}, and what is in the Hugging Face cache."
        prompt = {"multiline": True, "tooltip": "The prompt, as the sampler's text encoder gets it."}
        return {"required": {"judge": ([*judges_found()] or [_NONE_FOUND], {"tooltip": tip}), "prompt": ("STRING", prompt)}}

    def name(self, judge: str, prompt: str) -> tuple[PromptedJudge]:
        return (PromptedJudge(judge, prompt),)


def judges_folder() -> Path:
    """Where users put their judges, one folder each."""
    import folder_paths

    return Path(folder_paths.models_dir) / FOLDER


def judges_found() -> dict[str, Path]:
    """The judges on this machine, by name."""
    return find([judges_folder()])


def _latents_out(guider: Any, latents: Tensor) -> Tensor:
    """Latents as the host hands them to a VAE."""
    return guider.inner_model.process_latent_out(latents.to(torch.float32))


def _decoded(vae: Any, latent: Tensor) -> Tensor:
    """One latent [1, …] as a picture [1, 3, H, W] in 0…1.

    Raises:
        JudgeError: it is a video.
    """
    frames = vae.decode(latent)
    frames = frames.reshape(-1, *frames.shape[-3:])
    if len(frames) != 1:
        raise JudgeError("a judge sees pictures, and this is a video")
    return frames[..., :3].movedim(-1, 1).clamp(0, 1).cpu()
