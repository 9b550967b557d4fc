"""Scores of pictures by well-kept libraries. What is not on the machine is left out, with the command that brings it.

Nothing is downloaded and no score is made up: a metric works with the weights that are there, or is skipped.
"""

from __future__ import annotations

import base64
import hashlib
import importlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image

from .prompts import Pair
from .store import Record, RunFolder

_BATCH = 32

CLIP = "openai/clip-vit-large-patch14"
PICKSCORE = "yuvalkirstain/PickScore_v1"
PICKSCORE_PROCESSOR = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"


_PACKAGE_OF_MODULE = {"clip": "openai-clip"}
"""Where a module that a library forgets to ask for has another name than its package."""


class Missing(Exception):
    """A metric that cannot work here: why, and the command that would help."""

    def __init__(self, reason: str, command: str = ""):
        super().__init__(reason)
        self.reason, self.command = reason, command


@dataclass(frozen=True)
class Skipped:
    metric: str
    reason: str
    command: str

    def __str__(self) -> str:
        return f"{self.metric} skipped: {self.reason}" + (f"; {self.command}" if self.command else "")


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


# -- the metrics -------------------------------------------------------------------------------------------------------


class ShapesOracle:
    """The lab's oracle, for the checkpoints of its world: 1 where everything is right; the share of attributes right."""

    def __init__(self, model: str, device: str):
        from ..lab.evaluation import judged
        from ..lab.oracle import Oracle
        from ..lab.sd1 import for_oracle
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


# -- scoring a run -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Table:
    """The scores of a run's pictures."""

    scores: dict[str, dict[tuple[int, str], float]]
    """By score and (pair, arm)."""
    features: dict[str, dict[tuple[int, str], np.ndarray]]
    """The same for features; scores without features are missing."""
    skipped: tuple[Skipped, ...]


def parse(text: str) -> dict[str, str]:
    """--scores: names of METRICS by commas, each perhaps with the path or name of its model as NAME=MODEL.

    Raises:
        ValueError: a name that is none.
    """
    wanted = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, model = part.partition("=")
        if name not in METRICS:
            raise ValueError(f"--scores: {name!r} is not one of {', '.join(METRICS)}")
        wanted[name] = model
    return wanted


def score(
    folder: RunFolder, wanted: dict[str, str], device: str, progress: Callable[[str, int, int], None] = lambda *_: None
) -> Table:
    """Score the pictures of a run, as far as they are not scored yet.

    Args:
        wanted: model by metric, as `parse` gives it.
        device: where the metrics' models run.
        progress: told the metric, the pictures done and the pictures in all.
    """
    pairs = {pair.number: pair for pair in folder.plan.pairs}
    known, skipped = folder.scores(), []
    table = Table({}, {}, ())
    for name, model in wanted.items():
        try:
            for record, line in _scored(folder, name, model, device, pairs, known, progress):
                _put(table, name, (record.pair, record.arm), line)
        except Missing as error:
            skipped.append(Skipped(name, error.reason, error.command))
    return Table(table.scores, table.features, tuple(skipped))


def _scored(
    folder: RunFolder, name: str, model: str, device: str, pairs: dict[int, Pair], known: dict, progress: Callable
) -> Iterator[tuple[Record, dict[str, Any]]]:
    records = [folder.records[key] for key in sorted(folder.records)]
    metric_name = f"{name}={model}" if model else name
    lines = [known.get((metric_name, _key(record, pairs))) for record in records]
    todo = [index for index, line in enumerate(lines) if line is None]
    if todo:
        metric = _guarded(lambda: METRICS[name](model, device), "loaded")
        for start in range(0, len(todo), _BATCH):
            part = todo[start : start + _BATCH]
            pictures = [_opened(folder, records[index]) for index in part]
            prompts = [pairs[records[index].pair].prompt for index in part]
            scored = _guarded(lambda pictures=pictures, prompts=prompts: metric(pictures, prompts), "at work")
            for at, index in enumerate(part):
                features = None if scored.features is None else _packed(scored.features[at])
                values = {score: float(values[at]) for score, values in scored.scores.items()}
                key = _key(records[index], pairs)
                lines[index] = {"metric": metric_name, "key": key, "scores": values, "features": features}
                folder.add_score(metric_name, key, values, features)
            progress(name, len(records) - len(todo) + start + len(part), len(records))
    yield from zip(records, lines)


def _opened(folder: RunFolder, record: Record) -> Image.Image:
    picture = folder.picture(record)
    picture.filename = str(folder.path / record.file)  # one library wants a file
    return picture


def _guarded(action: Callable[[], Any], when: str) -> Any:
    """Whatever happens in a library of others, with weights of others, costs its score only."""
    try:
        return action()
    except Missing:
        raise
    except Exception as error:
        first = (str(error).strip().splitlines() or [""])[0]
        raise Missing(f"{type(error).__name__} while it was {when}: {first[:200]}") from error


def _put(table: Table, name: str, where: tuple[int, str], line: dict[str, Any]) -> None:
    for score, value in line["scores"].items():
        table.scores.setdefault(score, {})[where] = value
        if line["features"] is not None:
            table.features.setdefault(score, {})[where] = np.frombuffer(base64.b64decode(line["features"]), "<f4")


def _key(record: Record, pairs: dict[int, Pair]) -> str:
    """What a score depends on besides the metric: the pixels and the prompt."""
    return hashlib.sha256(f"{record.sha256}\n{pairs[record.pair].prompt}".encode()).hexdigest()[:32]


def _packed(features: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(features, "<f4").tobytes()).decode()


# -- libraries and weights ---------------------------------------------------------------------------------------------


def stay_offline() -> None:
    """Let the libraries look for weights on this machine only, unless the user has said otherwise (HF_HUB_OFFLINE=0)."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")


def library(module: str, package: str) -> Any:
    """An optional library's module; raises Missing with the command that installs it, or what it needs itself."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] == module.split(".")[0]:
            raise Missing(f"{error.name} is not installed", f"pip install {package}") from None
        needed = _PACKAGE_OF_MODULE.get(error.name, error.name)
        raise Missing(f"{error.name}, which {package} needs, is not installed", f"pip install {needed}") from None


def from_disk(kind: Any, name: str, **more: Any) -> Any:
    """`kind.from_pretrained` of a folder, or of a hub name whose files are on this machine; raises Missing."""
    offline = os.environ.get("HF_HUB_OFFLINE", "1") != "0"
    try:
        return kind.from_pretrained(name, local_files_only=offline, **more)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
        command = "" if Path(name).exists() else f"hf download {name}"
        raise Missing(f"the weights {name!r} cannot be loaded ({reason})", command) from None


def _tensor(features: Any) -> torch.Tensor:
    return features if isinstance(features, torch.Tensor) else features.pooler_output


def _unit(features: torch.Tensor) -> np.ndarray:
    return torch.nn.functional.normalize(features.float(), dim=-1).cpu().numpy()
