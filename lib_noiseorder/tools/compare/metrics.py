"""Metrics of pictures by well-kept libraries.

Nothing is downloaded and no score is made up: a metric works with the weights that are there, or is skipped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image

from ...judges import LoadedJudge, models
from ...judges.libraries import Missing, from_disk, library
from ...judges.models import PROCESSOR, DualEncoder, features_of

CLIP = "openai/clip-vit-large-patch14"
PICKSCORE = "yuvalkirstain/PickScore_v1"


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
        self.pictures = features_of(self._model.get_image_features(*args))
        return self.pictures

    def get_text_features(self, *args: Any) -> torch.Tensor:
        return features_of(self._model.get_text_features(*args))


class PickScore:
    """PickScore (Kirstain et al. 2023), or another dual encoder of transformers."""

    def __init__(self, model: str, device: str):
        transformers = library("transformers", "transformers")
        loaded = from_disk(transformers.AutoModel, model or PICKSCORE)
        processor = from_disk(transformers.AutoProcessor, model or PROCESSOR)
        self._judge = DualEncoder("PickScore", loaded, processor.tokenizer, processor.image_processor)
        self._judge.to(device)

    def __call__(self, pictures: list[Image.Image], prompts: list[str]) -> Scored:
        seen = self._judge.seen(pictures)
        scores = self._judge.compared(seen, self._judge.read(prompts))
        return Scored({self._judge.name: scores.cpu().double().numpy()}, seen.cpu().numpy())


class _Judged:
    """What a judge says."""

    def __init__(self, judge: LoadedJudge):
        self._judge = judge

    def __call__(self, pictures: list[Image.Image], prompts: list[str]) -> Scored:
        return Scored({self._judge.name: self._judge.of(pictures, prompts).numpy()})


def ImageReward(model: str, device: str) -> Metric:
    return _Judged(models.ImageReward(model, device))


def VqaScore(model: str, device: str) -> Metric:
    return _Judged(models.VQAScore(model, device))


def Hpsv2(model: str, device: str) -> Metric:
    return _Judged(models.HPSv2(model, device))


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


def _unit(features: torch.Tensor) -> np.ndarray:
    return torch.nn.functional.normalize(features.float(), dim=-1).cpu().numpy()
