"""Judges of real ones' sizes with random weights: they cost what the real ones cost, and nothing is downloaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..lab.judge_folder import text_config, write_texts

_IMAGE_SIZE, _PATCH, _LONGEST, _VOCABULARY = 224, 14, 77, 49408
"""What all of them have in common: pixels a side, and of a patch; tokens of a text, and known ones."""


@dataclass(frozen=True)
class Tower:
    """One of a dual encoder's two transformers."""

    layers: int
    width: int
    heads: int

    def config(self, activation: str) -> dict[str, Any]:
        """As transformers' configurations call it."""
        sizes = {"hidden_size": self.width, "intermediate_size": 4 * self.width, "num_attention_heads": self.heads}
        return {**sizes, "num_hidden_layers": self.layers, "hidden_act": activation}


@dataclass(frozen=True)
class Shapes:
    """A dual encoder's; `features` is how many values of a picture are compared with those of a prompt."""

    text: Tower
    vision: Tower
    features: int
    activation: str

    def model(self) -> Any:
        """A transformers.CLIPModel with random weights, on torch's default device."""
        from transformers import CLIPConfig, CLIPModel

        known = {**text_config(), "vocab_size": _VOCABULARY, "max_position_embeddings": _LONGEST}
        text = {**self.text.config(self.activation), **known}
        vision = {**self.vision.config(self.activation), "image_size": _IMAGE_SIZE, "patch_size": _PATCH}
        return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=self.features))

    def write(self, folder: Path) -> None:
        """Write a judge's folder of random weights in half precision; raises OSError."""
        write_texts(folder, _IMAGE_SIZE, _LONGEST)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.model().half().save_pretrained(folder)


REAL_SIZES = {
    "clip-l": Shapes(Tower(12, 768, 12), Tower(24, 1024, 16), 768, "quick_gelu"),
    "clip-h": Shapes(Tower(24, 1024, 16), Tower(32, 1280, 16), 1024, "gelu"),
}
"""openai/clip-vit-large-patch14; laion/CLIP-ViT-H-14-laion2B-s32B-b79K, whose shapes are PickScore's, too."""
