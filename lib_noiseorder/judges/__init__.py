"""Judges: whatever says how good a picture is for its prompt.

A judge is any function of pictures and prompts. Ready-made are the dual encoders that transformers loads from a folder (CLIP,
SigLIP, PickScore and others of their kind), and ImageReward, HPSv2 and VQAScore where they are on the machine.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .folders import digest, find, hub_cache, inside, packages, why_not
from .libraries import Missing

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "MARGIN", "Judge", "JudgeError", "LoadedJudge", "digest", "find", "load", "load_once", "on_device", "scores",
    "scores_one_by_one", "why_not",
]  # fmt: skip

Judge = Callable[[Tensor, Sequence[str]], Tensor]
"""judge(pictures [B, 3, H, W] in 0…1, floating, on any device; one prompt each) -> scores [B]; higher is better."""

MARGIN = 2**30
"""Bytes that have to be free on a GPU beside a judge's weights: what eight pictures take in the largest dual encoders."""


class JudgeError(Missing):
    """What is wrong with a judge and what would help, in one sentence."""


class LoadedJudge(ABC):
    """A judge with weights: a `Judge` that can be placed.

    Attributes:
        name: what scores and messages call it.
        device: where it is; `to` moves it.
        reads: tokens that it reads of a prompt; 0: it does not say.
        cut: whether it has read less than a whole prompt since somebody set this to False.
    """

    def __init__(self, name: str, device: str | torch.device):
        self.name, self.device = name, torch.device(device)
        self.reads, self.cut = 0, False

    def unread(self) -> str:
        """Why it has read less than a whole prompt; empty where it has not."""
        return f"the judge reads {self.reads} tokens" if self.cut else ""

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """What its weights take on a GPU."""

    @abstractmethod
    def to(self, device: str | torch.device) -> None:
        """Move it there."""

    @abstractmethod
    def of(self, pictures: Sequence[Image], prompts: Sequence[str]) -> Tensor:
        """Scores [B] of PIL pictures in RGB, of any sizes."""

    def __call__(self, pictures: Tensor, prompts: Sequence[str]) -> Tensor:
        """`Judge`. Where a GPU's memory runs out, it goes to the CPU and scores there."""
        shown = images(pictures)
        if self.device.type != "cpu":
            with suppress(torch.cuda.OutOfMemoryError):
                return self.of(shown, prompts)
            self.to("cpu")
            torch.cuda.empty_cache()
        return self.of(shown, prompts)


def images(pictures: Tensor) -> list[Image]:
    """Pictures [B, 3, H, W] in 0…1 as PIL pictures of 8 bits: k / 255 becomes k again."""
    from PIL import Image

    pixels = pictures.detach().float().clamp(0, 1).mul(255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(picture) for picture in pixels]


def load(judge: str | Path, folders: Sequence[str | Path] = (), hub: Path | None = None) -> LoadedJudge:
    """A judge, on the CPU. Opens no connection and leaves torch's generator where it was.

    Args:
        judge: a name that `find` gives for these folders and this hub; or, as a Path, a judge's folder.

    Raises:
        JudgeError: there is none of that name, or it cannot be loaded.
    """
    from . import models

    hub = hub or hub_cache()
    path = judge if isinstance(judge, Path) else find(folders, hub).get(judge)
    if path is None:
        raise JudgeError(f"there is no judge {judge!r}: {_looked_for(str(judge), folders, hub)}")
    name = judge.name if isinstance(judge, Path) else judge
    try:
        with torch.random.fork_rng(devices=[]):  # weights are drawn before those of the file take their place
            if packages(hub).get(name) == path:
                return models.of_package(name, path)
            if (why := why_not(path)) is not None:
                raise JudgeError(f"the folder {path} is no judge: it {why}")
            return models.of_folder(name, path, folders, hub)
    except JudgeError:
        raise
    except Missing as missing:
        would_help = f"; {missing.command} would help" if missing.command else ""
        raise JudgeError(f"the judge {name} cannot be loaded: {missing.reason}{would_help}") from missing
    except Exception as error:
        raise JudgeError(f"the judge {name} cannot be loaded ({_said(error)})") from error


def load_once(judge: str | Path, folders: Sequence[str | Path] = (), hub: Path | None = None) -> tuple[LoadedJudge, str]:
    """`load`, unless it is the judge that was loaded last, to the byte, which stays in the computer's memory; with its digest.

    It has read nothing yet, as far as `cut` tells. The digest is "" where the judge has no file of its own.
    """
    hub = hub or hub_cache()
    path = judge if isinstance(judge, Path) else find(folders, hub).get(judge)
    which = ""
    with suppress(OSError, ValueError):  # a broken folder: `load` says in which way
        which = digest(path) if path else ""
    loaded = _loaded(judge, tuple(map(str, folders)), hub, which)
    loaded.cut = False
    return loaded, which


@lru_cache(maxsize=1)
def _loaded(judge: str | Path, folders: tuple[str, ...], hub: Path, of_digest: str) -> LoadedJudge:
    return load(judge, folders, hub)


def _looked_for(name: str, folders: Sequence[str | Path], hub: Path) -> str:
    """Why `find` does not give that name."""
    for place in map(Path, folders):
        for folder in [place, *(inner for outer in inside(place) for inner in (outer, *inside(outer)))]:
            if name == (folder.relative_to(place).as_posix() if folder != place else place.name) and inside(folder):
                return f"the folder {folder} {why_not(folder)}"
    return f"none of that name is in {', '.join(map(str, (*folders, hub)))}"


def free_memory(device: torch.device) -> int:
    """Bytes free on a GPU of CUDA or ROCm once torch has given back what it only keeps for later; 0 on any other device."""
    if device.type != "cuda":
        return 0
    torch.cuda.empty_cache()
    return torch.cuda.mem_get_info(device)[0]


@contextmanager
def on_device(judge: Judge, device: str | torch.device, free: Callable[[torch.device], int] = free_memory) -> Iterator[Judge]:
    """A loaded judge on that device if its weights and MARGIN are free there, else on the CPU; afterwards back on the CPU.

    Any other function is left as it is.

    Args:
        free: bytes free on a device.
    """
    wanted = torch.device(device)
    if not isinstance(judge, LoadedJudge) or wanted.type == "cpu":
        yield judge
        return
    try:
        if free(wanted) >= judge.nbytes + MARGIN:
            with suppress(torch.cuda.OutOfMemoryError):
                judge.to(wanted)
        if judge.device != wanted:  # no room, or half of it had gone there
            judge.to("cpu")
        yield judge
    finally:
        judge.to("cpu")
        torch.cuda.empty_cache()


def scores(judge: Judge, pictures: Tensor, prompts: Sequence[str]) -> Tensor:
    """What a judge says, checked: scores [B], float32 on the CPU. NaN and infinity pass; a picture that is not finite gets NaN.

    Args:
        pictures: [B, 3, H, W] in 0…1.
        prompts: one each.

    Raises:
        ValueError: pictures of another shape, or another number of prompts.
        JudgeError: the judge failed, or gave anything but one score a picture.
    """
    if pictures.ndim != 4 or pictures.shape[1] != 3 or len(prompts) != len(pictures):
        raise ValueError(f"pictures must be [B, 3, H, W] with B prompts, not {tuple(pictures.shape)} with {len(prompts)}")
    who = f"the judge {judge.name}" if isinstance(judge, LoadedJudge) else "the judge"
    broken = ~pictures.flatten(1).isfinite().all(1)
    shown = pictures.masked_fill(broken[:, None, None, None], 0)
    full = torch.autocast("cuda", enabled=False) if torch.is_autocast_enabled() else nullcontext()  # some hosts have it on
    try:
        with torch.no_grad(), full:
            given = torch.as_tensor(judge(shown, list(prompts)))
    except JudgeError:
        raise
    except Exception as error:
        raise JudgeError(f"{who} failed ({_said(error)})") from error
    if given.ndim != 1:
        raise JudgeError(f"{who} gave scores of shape {tuple(given.shape)} for {len(pictures)} pictures")
    if len(given) != len(pictures):
        raise JudgeError(f"{who} gave {len(given)} scores for {len(pictures)} pictures")
    return given.detach().to("cpu", torch.float32).masked_fill(broken.cpu(), torch.nan)


def scores_one_by_one(judge: Judge, pictures: Tensor, prompts: Sequence[str], device: str | torch.device) -> Tensor:
    """`scores` of every picture alone, so that none depends on its batch, by a judge that is `on_device` meanwhile."""
    with on_device(judge, device) as placed:
        shown = zip(pictures.split(1), prompts, strict=True)
        return torch.cat([scores(placed, picture, [prompt]) for picture, prompt in shown])


def _said(error: Exception) -> str:
    """An error of other people's code in one line."""
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first[:160]}" if first else type(error).__name__
