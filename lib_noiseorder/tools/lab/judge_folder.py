"""The judge's folder, in the format that transformers loads: network, tokenizer and image processor."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from ..store import write_whole

IMAGE_SIZE = 32
MEAN, STD = 0.5, 0.25
"""What pixels in 0..1 are normalised by."""
LONGEST = 16
"""Tokens of a text, with those of its start and end."""
_START, _END = "<|startoftext|>", "<|endoftext|>"
_CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,'-"
_LAST = "</w>"
"""Follows a word's last character in the vocabulary."""


def new_model() -> Any:
    """An untrained transformers.CLIPModel of 0.5 M parameters."""
    from transformers import CLIPConfig, CLIPModel

    both = {"num_attention_heads": 4, "projection_dim": 96, "hidden_size": 96, "intermediate_size": 192, "hidden_act": "relu"}
    text = {**text_config(), "max_position_embeddings": LONGEST, "num_hidden_layers": 2}
    vision = {"image_size": IMAGE_SIZE, "patch_size": 4, "num_hidden_layers": 4}
    model = CLIPModel(CLIPConfig(text_config={**both, **text}, vision_config={**both, **vision}, projection_dim=96))
    nn.init.normal_(model.vision_model.embeddings.position_embedding.weight, std=0.3)  # at 0.02 it learns what, and never where
    return model


def text_config() -> dict[str, int]:
    """What the network has to know of the tokenizer, as transformers' CLIPTextConfig calls it."""
    from .judge_lessons import words

    ids = vocabulary(words())[0]
    return {"vocab_size": len(ids), "bos_token_id": ids[_START], "eos_token_id": ids[_END], "pad_token_id": ids[_END]}


def vocabulary(words: Sequence[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Ids by token, and the merges by which every word becomes one token; a word that is not known stays characters."""
    tokens = [*_CHARACTERS, *(f"{character}{_LAST}" for character in _CHARACTERS)]
    merges: list[tuple[str, str]] = []
    for word in words:
        while len(parts := _merged(word, merges)) > 1:
            merges.append((parts[0], parts[1]))
            tokens.append("".join(merges[-1]))
    return {token: number for number, token in enumerate([*dict.fromkeys(tokens), _START, _END])}, merges


def _merged(word: str, merges: Sequence[tuple[str, str]]) -> list[str]:
    """The tokens of a word, by the merges in their order."""
    parts = [*word[:-1], word[-1] + _LAST]
    for pair in merges:
        place = 0
        while place < len(parts) - 1:
            if (parts[place], parts[place + 1]) == pair:
                parts[place : place + 2] = ["".join(pair)]
            place += 1
    return parts


def write_texts(folder: Path, image_size: int = IMAGE_SIZE, longest: int = LONGEST) -> None:
    """Write all but the network: what transformers makes tokenizer and image processor of. Raises OSError.

    Args:
        image_size: pixels a side that the network sees.
        longest: tokens of a text, with those of its start and end.
    """
    from .judge_lessons import words

    ids, merges = vocabulary(words())
    size = {"height": image_size, "width": image_size}
    special = {"bos_token": _START, "eos_token": _END, "unk_token": _END, "pad_token": _END}
    texts = {
        "vocab.json": ids,
        "special_tokens_map.json": special,
        "tokenizer_config.json": {"tokenizer_class": "CLIPTokenizer", "model_max_length": longest, **special},
        "preprocessor_config.json": {
            "image_processor_type": "CLIPImageProcessor",
            "processor_class": "CLIPProcessor",
            "do_convert_rgb": True,
            "do_resize": True,
            "size": {"shortest_edge": image_size},
            "resample": 3,
            "do_center_crop": True,
            "crop_size": size,
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": [MEAN] * 3,
            "image_std": [STD] * 3,
        },
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in texts.items():
        write_whole(folder / name, json.dumps(content, indent=1) + "\n")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    write_whole(folder / "merges.txt", "\n".join(lines) + "\n")
