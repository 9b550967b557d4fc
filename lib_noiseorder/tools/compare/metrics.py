"""Metrics of pictures by well-kept libraries.

Nothing is downloaded and no score is made up: a metric works with the weights that are there, or is skipped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image

from .libraries import Missing, from_disk, library

CLIP = "openai/clip-vit-large-patch14"
PICKSCORE = "yuvalkirstain/PickScore_v1"
PICKSCORE_PROCESSOR = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"


@dataclass(frozen=True)
class Scored:
    """Scores of a few pictures."""

    scores: dict[str, np.ndarray]
    """By name, [N]; larger is better."""
    features: np.ndarray | None = None
    """What the metric sees in the pictures [N, F], for their diversity; None where it does not say."""


class Metric(Protocol):
    """Scores pictures, one prompt each; made with a model's path or name, empty for the usual one, and a device."""

    def __call__(self, pictures: list[Image.Image], prompts: list[str]) -> Scored: ...


class ShapesOracle:
    """The lab's oracle, for the checkpoints of its world: 1 where everything is right; the share of attributes right."""

    def __init__(self, model: str, device: str):
        from ..lab.evaluation import judged
        from ..lab.formats.sd1 import for_oracle
        from ..lab.oracle import Oracle
        from ..lab.world import Prompt

        self._judged, self._oracle, self._for_oracle, self._prompt = judged, Oracle(), for_oracle, Prompt.parse

    def __call__(self, pictures: list[Image.Image], prompts: list[str]) -> Scored:
        try:
            wanted = [self._prompt(prompt) for prompt in prompts]
        except ValueError:
            raise Missing("it knows the prompts of the lab's shapes only (--prompts shapes)") from None
        if min(min(picture.size) for picture in pictures) < 24:
            raise Missing("it reads pictures of at least 24 pixels a side")
        latents = torch.cat([self._for_oracle(np.array(picture)[None]) for picture in pictures])
        outcome = self._judged(self._oracle, latents, wanted, 0.0)
        return Scored({"all right": outcome.right, "attributes": outcome.share}, outcome.features)


class ClipScore:
    """CLIPScore of torchmetrics: 100 · cosine of the picture's and the prompt's CLIP features, at least 0."""

    def __init__(self, model: str, device: str):
        transformers = library("transformers", "transformers")
        clip_score = library("torchmetrics.functional.multimodal", "torchmetrics").clip_score
        loaded = from_disk(transformers.CLIPModel, model or CLIP).eval().to(device)
        processor = from_disk(transformers.CLIPProcessor, model or CLIP)
        self._model, self._processor, self._device = _Features(loaded), processor, device
        self._score = clip_score

    @torch.no_grad()
    def __call__(self, pictures: list[Image.Image], prompts: list[str]) -> Scored:
        scores, features = [], []
        for picture, prompt in zip(pictures, prompts):  # torchmetrics gives the mean of what it is given
            pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1).to(self._device)
            scores.append(float(self._score(pixels, prompt, lambda: (self._model, self._processor))))
            features.append(self._model.pictures)
        return Scored({"CLIPScore": np.array(scores)}, _unit(torch.cat(features)))


class _Features:
    """A CLIP model whose features are tensors, as torchmetrics wants them and transformers 5 no longer gives them."""

    def __init__(self, model: Any):
        self._model, self.config = model, model.config
        self.pictures: torch.Tensor | None = None

    def to(self, _: Any) -> _Features:
        return self

    def get_image_features(self, *args: Any) -> torch.Tensor:
        self.pictures = _tensor(self._model.get_image_features(*args))
        return self.pictures

    def get_text_features(self, *args: Any) -> torch.Tensor:
        return _tensor(self._model.get_text_features(*args))


class PickScore:
    """PickScore (Kirstain et al. 2023) by transformers: scaled cosine of the picture's and the prompt's features."""

    def __init__(self, model: str, device: str):
        transformers = library("transformers", "transformers")
        self._model = from_disk(transformers.AutoModel, model or PICKSCORE).eval().to(device)
        self._processor = from_disk(transformers.AutoProcessor, model or PICKSCORE_PROCESSOR)
        self._device = device

    @torch.no_grad()
    def __call__(self, pictures: list[Image.Image], prompts: list[str]) -> Scored:
        seen = self._processor(images=pictures, return_tensors="pt").to(self._device)
        read = self._processor(text=prompts, padding=True, truncation=True, max_length=77, return_tensors="pt").to(self._device)
        pictures_at, prompts_at = (
            torch.nn.functional.normalize(_tensor(features).float(), dim=-1)
            for features in (self._model.get_image_features(**seen), self._model.get_text_features(**read))
        )
        scores = self._model.logit_scale.exp() * (pictures_at * prompts_at).sum(-1)
        return Scored({"PickScore": scores.cpu().double().numpy()}, pictures_at.cpu().numpy())


class ImageReward:
    """ImageReward (Xu et al. 2023) by its own library; `model` is the path of ImageReward.pt beside med_config.json."""

    def __init__(self, model: str, device: str):
        reward = library("ImageReward", "image-reward")
        weights = Path(model or Path.home() / ".cache/ImageReward/ImageReward.pt")
        for file in (weights, weights.with_name("med_config.json")):
            if not file.is_file():
                raise Missing(f"{file} is not there", f"hf download THUDM/ImageReward --local-dir {weights.parent}")
        self._model = reward.load(str(weights), device=device, med_config=str(weights.with_name("med_config.json")))

    @torch.no_grad()
    def __call__(self, pictures: list[Image.Image], prompts: list[str]) -> Scored:
        scores = [float(self._model.score(prompt, picture)) for picture, prompt in zip(pictures, prompts)]
        return Scored({"ImageReward": np.array(scores)})


class VqaScore:
    """VQAScore (Lin et al. 2024) by t2v-metrics; `model` is one of its names, such as clip-flant5-xl."""

    def __init__(self, model: str, device: str):
        name = model or "clip-flant5-xxl"
        self._model = library("t2v_metrics", "t2v-metrics").VQAScore(model=name, device=device)

    @torch.no_grad()
    def __call__(self, pictures: list[Image.Image], prompts: list[str]) -> Scored:
        files = [str(picture.filename) for picture in pictures]
        scores = [float(self._model(images=[file], texts=[prompt])) for file, prompt in zip(files, prompts)]
        return Scored({"VQAScore": np.array(scores)})


class Hpsv2:
    """Human Preference Score v2.1 by hpsv2; `model` is the path of its checkpoint."""

    def __init__(self, model: str, device: str):
        self._score, self._checkpoint = library("hpsv2.img_score", "hpsv2").score, model or None

    def __call__(self, pictures: list[Image.Image], prompts: list[str]) -> Scored:
        scores = np.empty(len(pictures))
        for prompt in dict.fromkeys(prompts):  # a call loads the checkpoint: one for each prompt
            of = [index for index, other in enumerate(prompts) if other == prompt]
            scores[of] = self._score([pictures[index] for index in of], prompt, cp=self._checkpoint, hps_version="v2.1")
        return Scored({"HPSv2": scores})


METRICS: dict[str, Callable[[str, str], Metric]] = {
    "oracle": ShapesOracle,
    "clipscore": ClipScore,
    "pickscore": PickScore,
    "imagereward": ImageReward,
    "vqascore": VqaScore,
    "hpsv2": Hpsv2,
}
"""By the name on the command line."""


def parse(text: str) -> dict[str, str]:
    """--scores: names of METRICS by commas, each perhaps with the path or name of its model as NAME=MODEL.

    Raises:
        ValueError: a name that is none, or no name.
    """
    wanted = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, model = part.partition("=")
        if name not in METRICS:
            raise ValueError(f"--scores: {name!r} is not one of {', '.join(METRICS)}")
        wanted[name] = model
    if not wanted:
        raise ValueError(f"--scores = {text!r} names no score; none makes none")
    return wanted


def _tensor(features: Any) -> torch.Tensor:
    return features if isinstance(features, torch.Tensor) else features.pooler_output


def _unit(features: torch.Tensor) -> np.ndarray:
    return torch.nn.functional.normalize(features.float(), dim=-1).cpu().numpy()
