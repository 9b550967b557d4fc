"""Puts shapes-sd1 into an AUTOMATIC1111 WebUI.

The WebUI takes the size of Stable Diffusion 1's text encoder, and its tokenizer, from the Hugging Face cache's entry
`openai/clip-vit-large-patch14`. Ours is smaller; so the WebUI gets a cache of its own beside its models, offline.
"""

from __future__ import annotations

import json
from pathlib import Path

from .sd1 import BEGIN, BEGIN_WORD, END, END_WORD, TEXT, TOKEN_IDS, TOKEN_LENGTH, VOCABULARY, ShapesSD1

_SNAPSHOT = "shapes-sd1"
_WORD_END = "</w>"


def install(webui: Path) -> dict[str, str]:
    """Write the checkpoint with its `.yaml` to `models/Stable-diffusion` and the cache to `models/shapes-sd1-hub`.

    Returns:
        The environment variables to start the WebUI with.

    Raises:
        OSError: the folder is not a WebUI's, or cannot be written.
    """
    models = webui.resolve() / "models"
    if not (models / "Stable-diffusion").is_dir():
        raise OSError(f"{webui} is not a WebUI's folder: it has no models/Stable-diffusion")
    ShapesSD1.load().save(models / "Stable-diffusion" / "shapes-sd1.safetensors")
    home = models / "shapes-sd1-hub"
    entry = home / "hub/models--openai--clip-vit-large-patch14"
    (entry / "refs").mkdir(parents=True, exist_ok=True)
    (entry / "refs/main").write_text(_SNAPSHOT, encoding="utf-8")
    (entry / "snapshots" / _SNAPSHOT).mkdir(parents=True, exist_ok=True)
    for name, content in _files().items():
        (entry / "snapshots" / _SNAPSHOT / name).write_text(content, encoding="utf-8")
    return {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}


def _files() -> dict[str, str]:
    """The entry's files by name: the text encoder's configuration, and a tokenizer that knows the world's words."""
    special = {"bos_token": BEGIN_WORD, "eos_token": END_WORD, "unk_token": END_WORD, "pad_token": END_WORD}
    vocabulary, merges = _byte_pairs()
    return {
        "config.json": json.dumps({"architectures": ["CLIPTextModel"], "model_type": "clip_text_model", **TEXT}),
        "tokenizer_config.json": json.dumps({"tokenizer_class": "CLIPTokenizer", "model_max_length": TOKEN_LENGTH, **special}),
        "special_tokens_map.json": json.dumps(special),
        "vocab.json": json.dumps(vocabulary),
        "merges.txt": "\n".join(["#version: 0.2", *(f"{left} {right}" for left, right in merges)]),
    }


def _byte_pairs() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges that give the world's words their ids in CLIP's vocabulary. Other words fall into letters."""
    tokens = {word if word == "tri" else word + _WORD_END: number for word, number in TOKEN_IDS.items()}
    merges: list[tuple[str, str]] = []
    for token in ("tri", "angles" + _WORD_END, *tokens):  # those two first: "triangles" is both, not "triangle" and "s"
        word = token.removesuffix(_WORD_END)
        pieces = [*word[:-1], word[-1] + token[len(word) :]]
        while len(pieces := _merged(pieces, merges)) > 1:
            merges.append((pieces[0], pieces[1]))  # the lowest rank: it changes no word that is a token already
    letters = [letter + end for letter in map(chr, range(33, 127)) for end in ("", _WORD_END)]
    taken = {*tokens.values(), BEGIN, END}
    free = (number for number in range(VOCABULARY) if number not in taken)
    others = dict.fromkeys([*letters, *(left + right for left, right in merges)])
    vocabulary = tokens | {other: next(free) for other in others if other not in tokens}
    return vocabulary | {BEGIN_WORD: BEGIN, END_WORD: END}, merges


def _merged(pieces: list[str], merges: list[tuple[str, str]]) -> list[str]:
    """The pieces after all merges that apply, in the order of their rank."""
    for left, right in merges:
        at = 0
        while at < len(pieces) - 1:
            if (pieces[at], pieces[at + 1]) == (left, right):
                pieces = [*pieces[:at], left + right, *pieces[at + 2 :]]
            at += 1
    return pieces
