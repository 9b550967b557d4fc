"""The judges that are on this machine: found, told apart, fingerprinted. Reads files, imports no library, never downloads.

A judge is a folder as transformers saves it, with a config.json of a dual encoder and weights in safetensors; or one of the
packages ImageReward, hpsv2 and t2v_metrics with its weights, which are pickled, as whoever installed the package expects.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
from collections.abc import Iterable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..judge_settings import MODEL

DUAL_ENCODERS = ("align", "altclip", "chinese_clip", "clip", "metaclip_2", "siglip", "siglip2", "vision-text-dual-encoder")
"""transformers' model types whose weights give features of pictures and of prompts that are compared by their cosine."""

_PICKLED = (".bin", ".pt", ".pth", ".ckpt")
_LONGEST_HEADER = 100_000_000  # bytes; safetensors' own limit
_BROKEN = (ValueError, LookupError, TypeError, AttributeError, RecursionError)  # what odd JSON comes to


def find(folders: Iterable[str | Path] = (), hub: Path | None = None) -> dict[str, Path]:
    """The judges on this machine by name, sorted; reads configs and the headers of weights only, and never raises.

    Args:
        folders: each may be a judge itself or hold judges, one level (`name`) or two (`org/name`) down. The first of a name
            is taken, those of the hub's cache come last. None is called `model`: to the settings that is the checkpoint.
        hub: the Hugging Face hub's cache; None: where it is on this machine.
    """
    found: dict[str, Path] = {}
    seen = set()

    def look(folder: Path, names: tuple[str, ...], deeper: int) -> None:
        real = os.path.realpath(folder)
        if real in seen or not os.path.isdir(real):
            return
        seen.add(real)
        if why_not(folder) is None:
            found.setdefault("/".join(names) or folder.name, folder)
        elif deeper:
            for inner in inside(folder):
                look(inner, (*names, inner.name), deeper - 1)

    for folder in folders:
        look(Path(folder), (), 2)
    hub = hub or hub_cache()
    for name in [folder.name[8:].replace("--", "/", 1) for folder in inside(hub) if folder.name.startswith("models--")]:
        if (files := of_hub(name, hub)) is not None:
            look(files, (name,), 0)
    for name, path in packages(hub).items():
        found.setdefault(name, path)
    found.pop(MODEL, None)
    return dict(sorted(found.items()))


def packages(hub: Path) -> dict[str, Path]:
    """The weights of the judges that come as packages, by name, where package and weights are on the machine."""
    reward, hps = Path(os.path.expanduser("~/.cache/ImageReward")), of_hub("xswu/HPSv2", hub)
    vqa = of_hub("zhiqiulin/clip-flant5-xxl", Path("hf_cache"))  # below the working directory, as that package has it
    places = {
        "HPSv2": ("hpsv2", hps and [hps / "HPS_v2.1_compressed.pt"]),
        "ImageReward": ("ImageReward", [reward / "ImageReward.pt", reward / "med_config.json"]),
        "VQAScore": ("t2v_metrics", vqa and [vqa]),
    }
    there = {name: files for name, (package, files) in places.items() if files and _installed(package)}
    return {name: files[0] for name, files in there.items() if all(map(os.path.exists, files))}


def why_not(folder: str | Path) -> str | None:
    """Why a folder is no judge, as the rest of a sentence that it begins; None: it is one. Never raises."""
    folder = Path(folder)
    try:
        if not folder.is_dir():
            return "is no folder"
        if not (folder / "config.json").is_file():
            return "has no config.json: a judge is a folder as transformers saves it"
        kind = model_type(folder)
        if kind not in DUAL_ENCODERS:
            return f"holds a model of type {kind!r}, which is none of {', '.join(DUAL_ENCODERS)}"
        files = weights(folder)
        pickled = [inner.name for inner in inside(folder) if inner.suffix in _PICKLED]
        if not files and pickled:
            return f"holds pickled weights only ({pickled[0]}); Noise Order loads safetensors"
        if not files:
            return "has no model.safetensors"
        for file in files:
            if not file.is_file():
                return f"lacks {file.name}"
            _header(file)
    except ValueError as error:
        return str(error)
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return None


def digest(path: str | Path) -> str:
    """The first 10 hex digits of the sha256 over all bytes of config.json and then of the weights' files, by name.

    Kept for as long as the files' sizes and times stay the same.

    Args:
        path: as `find` gives it; where it is a file, this is all that is read.

    Raises:
        OSError: a file cannot be read.
    """
    path = Path(path)
    files = [path] if path.is_file() else [path / "config.json", *(weights(path) or sorted(path.glob("*.bin")))]
    return _digest(tuple((str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files))


@lru_cache(maxsize=64)
def _digest(files: tuple[tuple[str, int, int], ...]) -> str:
    made = hashlib.sha256()
    for name, _, _ in files:
        with open(name, "rb") as stream:
            while part := stream.read(2**22):
                made.update(part)
    return made.hexdigest()[:10]


def hub_cache() -> Path:
    """The Hugging Face hub's cache, where its environment variables say."""
    home = os.environ.get("HF_HOME") or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    named = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE") or os.path.join(home, "hub")
    return Path(os.path.expandvars(os.path.expanduser(named)))


def of_hub(name: str, hub: Path) -> Path | None:
    """The folder of org/name in the hub's cache, of its main branch where that is known; None: it is not there."""
    kept = inside(hub / ("models--" + name.replace("/", "--")) / "snapshots")
    with suppress(OSError, ValueError):
        main = (hub / ("models--" + name.replace("/", "--")) / "refs/main").read_text(encoding="utf-8").strip()
        kept.sort(key=lambda inner: inner.name == main)
    return kept[-1] if kept else None


def model_type(folder: Path) -> str:
    """What config.json calls the model; raises ValueError where it does not."""
    try:
        return str(json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"])
    except _BROKEN:
        raise ValueError("has a config.json that names no model_type") from None


def weights(folder: Path) -> list[Path]:
    """The safetensors files that transformers reads of a folder, by name; ValueError: the index of them is none."""
    whole, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if whole.is_file() or not index.is_file():
        return [whole] if whole.is_file() else []
    try:
        return [folder / name for name in sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))]
    except _BROKEN:
        raise ValueError(f"has a broken {index.name}") from None


def precisions(folder: Path) -> set[str]:
    """What a judge's tensors are kept in, as safetensors calls it: "F16", "BF16", "F32", …"""
    headers = [_header(file) for file in weights(folder)]
    return {entry["dtype"] for header in headers for name, entry in header.items() if name != "__metadata__"}


def _header(file: Path) -> dict[str, Any]:
    """A safetensors file's table of tensors; ValueError: it is none, or was cut off."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        try:
            table = json.loads(stream.read(length if length < _LONGEST_HEADER else 0))
            whole = 8 + length + max(entry["data_offsets"][1] for name, entry in table.items() if name != "__metadata__")
        except _BROKEN:
            raise ValueError(f"holds a {file.name} that is no safetensors file, or was cut off") from None
    if size < whole:
        raise ValueError(f"holds a {file.name} that was cut off: {size} of {whole} bytes")
    return table


def inside(folder: Path) -> list[Path]:
    """What is in a folder, by name; nothing where that cannot be read."""
    with suppress(OSError):
        return sorted(folder.iterdir())
    return []


def _installed(package: str) -> bool:
    with suppress(ImportError, ValueError):
        return importlib.util.find_spec(package) is not None
    return False
