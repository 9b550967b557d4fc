"""The judges with weights, by other people's libraries, which are imported when one is made."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from inspect import signature
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from . import JudgeError, LoadedJudge
from .folders import DUAL_ENCODERS, of_hub, precisions
from .libraries import Missing, library

if TYPE_CHECKING:
    from PIL.Image import Image

PROCESSOR = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
"""Whose tokenizer and image processor go with CLIP models that come without, such as yuvalkirstain/PickScore_v1."""


class DualEncoder(LoadedJudge):
    """A model of transformers that sees a picture and reads a prompt: their scaled cosine, as PickScore (Kirstain et al. 2023).

    With a bias where the model has one (SigLIP). On a GPU it keeps its precision, on the CPU it is float32.
    """

    def __init__(self, name: str, model: Any, tokenizer: Any, image_processor: Any, precision: torch.dtype | None = None):
        """
        Args:
            model: one that transformers' AutoModel loaded, of one of the types DUAL_ENCODERS.
            precision: on a GPU; None: the model's own.

        Raises:
            JudgeError: a model of another type.
        """
        super().__init__(name, "cpu")
        kind = model.config.model_type
        if kind not in DUAL_ENCODERS:
            raise JudgeError(f"{name} is a model of type {kind!r}, which is none of {', '.join(DUAL_ENCODERS)}")
        self._model, self._tokenizer, self._image_processor = model.eval(), tokenizer, image_processor
        self._precision = precision or model.dtype
        self._padding = "max_length" if kind.startswith("siglip") else True  # SigLIP has seen padded prompts only
        limit = model.config.text_config.to_dict().get("max_position_embeddings", tokenizer.model_max_length)
        self.reads = min(limit, tokenizer.model_max_length)
        self.to("cpu")

    @property
    def nbytes(self) -> int:
        return sum(weight.numel() for weight in self._model.parameters()) * self._precision.itemsize

    def to(self, device: str | torch.device) -> None:
        wanted = torch.device(device)
        self._model.to(wanted, torch.float32 if wanted.type == "cpu" else self._precision)
        self.device = wanted

    def of(self, pictures: Sequence[Image], prompts: Sequence[str]) -> Tensor:
        return self.compared(self.seen(pictures), self.read(prompts))

    @torch.no_grad()
    def seen(self, pictures: Sequence[Image]) -> Tensor:
        """Unit features [B, F] of PIL pictures in RGB."""
        return self._unit(self._model.get_image_features, self._image_processor(images=list(pictures), return_tensors="pt"))

    @torch.no_grad()
    def read(self, prompts: Sequence[str]) -> Tensor:
        """Unit features [B, F] of prompts, each cut to `reads` tokens."""
        whole = self._tokenizer(list(prompts), verbose=False)["input_ids"]
        self.cut |= any(len(tokens) > self.reads for tokens in whole)
        how = {"padding": self._padding, "truncation": True, "max_length": self.reads, "return_tensors": "pt"}
        return self._unit(self._model.get_text_features, self._tokenizer(list(prompts), **how))

    @torch.no_grad()
    def compared(self, seen: Tensor, read: Tensor) -> Tensor:
        """Scores [B] of features of pictures [B, F] and of prompts [B, F]."""
        own = {name: value.float() for name, value in self._model.named_parameters(recurse=False)}
        scale = own["logit_scale"].exp() if "logit_scale" in own else 1 / own["temperature"]  # ALIGN has the latter
        return (scale * (seen * read).sum(-1) + own.get("logit_bias", 0)).reshape(-1)

    def _unit(self, features: Any, inputs: Any) -> Tensor:
        taken = signature(features).parameters  # some tokenizers give more than some models take
        moved = {name: x.to(self.device) for name, x in inputs.items() if name in taken}
        exact = {name: x.to(self._model.dtype) if x.is_floating_point() else x for name, x in moved.items()}
        return F.normalize(features_of(features(**exact)).float(), dim=-1)


class ImageReward(LoadedJudge):
    """ImageReward (Xu et al. 2023) by its own library; `model` is the path of ImageReward.pt beside med_config.json."""

    def __init__(self, model: str, device: str):
        super().__init__("ImageReward", device)
        reward = library("ImageReward", "image-reward")
        weights = Path(model or Path.home() / ".cache/ImageReward/ImageReward.pt")
        for file in (weights, weights.with_name("med_config.json")):
            if not file.is_file():
                raise Missing(f"{file} is not there", f"hf download THUDM/ImageReward --local-dir {weights.parent}")
        self._model = reward.load(str(weights), device=device, med_config=str(weights.with_name("med_config.json")))

    @property
    def nbytes(self) -> int:
        return _nbytes(self._model)

    def to(self, device: str | torch.device) -> None:
        self._model.to(device)
        self._model.device = self.device = torch.device(device)

    @torch.no_grad()
    def of(self, pictures: Sequence[Image], prompts: Sequence[str]) -> Tensor:
        return _tensor([float(self._model.score(prompt, picture)) for picture, prompt in zip(pictures, prompts)])


class VQAScore(LoadedJudge):
    """VQAScore (Lin et al. 2024) by t2v-metrics; `model` is one of its names, such as clip-flant5-xl."""

    def __init__(self, model: str, device: str):
        super().__init__("VQAScore", device)
        name = model or "clip-flant5-xxl"
        self._score = library("t2v_metrics", "t2v-metrics").VQAScore(model=name, device=device)

    @property
    def nbytes(self) -> int:
        return _nbytes(self._score.model.model)

    def to(self, device: str | torch.device) -> None:
        self._score.model.model.to(device)
        self._score.device = self._score.model.device = self.device = torch.device(device)

    @torch.no_grad()
    def of(self, pictures: Sequence[Image], prompts: Sequence[str]) -> Tensor:
        given = []
        with TemporaryDirectory() as folder:  # it wants files
            file = str(Path(folder) / "picture.png")
            for picture, prompt in zip(pictures, prompts):
                picture.save(file)
                given.append(float(self._score(images=[file], texts=[prompt])))
        return _tensor(given)


class HPSv2(LoadedJudge):
    """Human Preference Score v2.1 (Wu et al. 2023) by hpsv2; `model` is the path of its checkpoint."""

    def __init__(self, model: str, device: str):
        super().__init__("HPSv2", device)
        self._library, self._checkpoint = library("hpsv2.img_score", "hpsv2"), model or None

    def prepare(self) -> None:
        """Make the model now, on the CPU; otherwise the library makes it on a device of its choice when it first scores."""
        self._library.device = "cpu"
        self._library.initialize_model()

    @property
    def nbytes(self) -> int:
        return 2 * _nbytes(self._library.model_dict["model"])  # each call reads the checkpoint to the device again

    def to(self, device: str | torch.device) -> None:
        self._library.model_dict["model"].to(device)
        self._library.device, self.device = str(device), torch.device(device)

    def of(self, pictures: Sequence[Image], prompts: Sequence[str]) -> Tensor:
        scores = [0.0] * len(pictures)
        for prompt in dict.fromkeys(prompts):  # a call loads the checkpoint: one for each prompt
            own = [index for index, other in enumerate(prompts) if other == prompt]
            given = self._library.score([pictures[index] for index in own], prompt, cp=self._checkpoint, hps_version="v2.1")
            for index, score in zip(own, given):
                scores[index] = float(score)
        return _tensor(scores)


def of_folder(name: str, folder: Path, places: Sequence[str | Path], hub: Path) -> DualEncoder:
    """The dual encoder of a folder that `why_not` has nothing against.

    Args:
        places: folders that may hold PROCESSOR, as the hub's cache may.

    Raises:
        JudgeError: a part is missing, or the weights are another model's.
        Exception: whatever transformers raises.
    """
    transformers = library("transformers", "transformers")
    offline = {"local_files_only": True, "trust_remote_code": False}
    model, found = transformers.AutoModel.from_pretrained(
        str(folder), use_safetensors=True, output_loading_info=True, **offline
    )
    missing = sorted(set(found["missing_keys"]) & {weight for weight, _ in model.named_parameters()})
    if missing:
        raise JudgeError(f"the judge {name} cannot be loaded: {len(missing)} of its weights are not in its file ({missing[0]})")
    lacking = [part for part, files in _FILES.items() if not any((folder / file).is_file() for file in files)]
    other = _other_processor(name, lacking[0], model, places, hub) if lacking else folder
    words, pixels = (str(other if part in lacking else folder) for part in _FILES)
    tokenizer = transformers.AutoTokenizer.from_pretrained(words, **offline)
    image_processor = transformers.AutoImageProcessor.from_pretrained(pixels, **offline)
    if lacking:
        _require_fit(name, model, tokenizer, image_processor)
    kept = precisions(folder)
    half = torch.bfloat16 if "BF16" in kept else torch.float16 if "F16" in kept else torch.float32
    return DualEncoder(name, model, tokenizer, image_processor, torch.float32 if "F32" in kept else half)


_FILES = {
    "tokenizer": ("tokenizer.json", "vocab.json", "vocab.txt", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model"),
    "image processor": ("preprocessor_config.json", "processor_config.json"),
}


def _other_processor(name: str, part: str, model: Any, places: Sequence[str | Path], hub: Path) -> Path:
    """A folder with PROCESSOR's files."""
    near = [Path(place) / end for place in places for end in (PROCESSOR, PROCESSOR.split("/")[1])]
    there = [folder for folder in (*near, of_hub(PROCESSOR, hub)) if folder is not None and folder.is_dir()]
    if model.config.model_type != "clip" or not there:
        other = f", and {PROCESSOR}, whose would do, is not on this machine" if model.config.model_type == "clip" else ""
        raise JudgeError(f"the judge {name} has no {part} ({_FILES[part][0]}) in its folder{other}")
    return there[0]


def _require_fit(name: str, model: Any, tokenizer: Any, image_processor: Any) -> None:
    """JudgeError if a model cannot do with another's tokenizer or image processor."""
    from PIL import Image

    made = image_processor(images=[Image.new("RGB", (8, 8))], return_tensors="pt")["pixel_values"].shape[-1]
    wanted, words = model.config.vision_config.image_size, model.config.text_config.vocab_size
    if made != wanted or len(tokenizer) > words:
        sizes = f"{made} pixels and {len(tokenizer)} words, not {wanted} and {words}"
        raise JudgeError(f"the judge {name} has no processor in its folder, and that of {PROCESSOR} does not fit: {sizes}")


def of_package(name: str, weights: Path) -> LoadedJudge:
    """ImageReward, HPSv2 or VQAScore with weights that `packages` has found, on the CPU; raises whatever they raise."""
    with _offline():
        if name == "VQAScore":
            return VQAScore("clip-flant5-xxl", "cpu")
        if name == "ImageReward":
            return ImageReward(str(weights), "cpu")
        judge = HPSv2(str(weights), "cpu")
        judge.prepare()
        return judge


@contextmanager
def _offline() -> Iterator[None]:
    """No library downloads from the hub meanwhile, whatever it was told: these three would."""
    constants = library("huggingface_hub.constants", "huggingface_hub")
    before, told = constants.HF_HUB_OFFLINE, os.environ.get("HF_HUB_OFFLINE")
    constants.HF_HUB_OFFLINE, os.environ["HF_HUB_OFFLINE"] = True, "1"
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
        os.environ.pop("HF_HUB_OFFLINE")
        os.environ.update({} if told is None else {"HF_HUB_OFFLINE": told})


def features_of(output: Any) -> Tensor:
    """The features [B, F] that transformers gives as a tensor, or from version 5 on within an output."""
    return output if isinstance(output, Tensor) else output.pooler_output


def _nbytes(model: torch.nn.Module) -> int:
    return sum(weight.numel() * weight.element_size() for weight in model.parameters())


def _tensor(scores: list[float]) -> Tensor:
    return torch.tensor(scores, dtype=torch.float64)
