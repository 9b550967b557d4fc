"""Who asked for a job, and so gets its pictures.

Looked up in the call stack: what a script puts on a job, or copies from another, says nothing about it, and a job that failed
half-way leaves nothing behind.
"""

from __future__ import annotations

import enum
import inspect
from collections.abc import Iterator
from types import FrameType
from typing import Any

from modules import processing, scripts

_JOB = ("process_images", "process_images_inner")
"""The hosts' functions that make the pictures of one job, one within the other."""
_PAGE_AND_API = ("modules.txt2img", "modules.img2img", "modules.api")


class Asker(enum.Enum):
    HOST = enum.auto()
    """The page or the API, which show every picture of the job. Nobody else may be handed one more than was asked for."""
    SCRIPT = enum.auto()
    """A script chosen in the page's menu, or an extension's tab: it makes of the pictures what it likes, as SD upscale does."""
    JOB = enum.auto()
    """Another job in the middle of its making, as ADetailer's inpainting of faces."""


def asker_of(p: Any) -> Asker:
    """Who asked for a job that is being made."""
    frames = list(_callers())
    making = [one for one in frames if _module(one) == processing.__name__ and one.f_code.co_name in _JOB]
    jobs = [(one.f_code.co_name, id(one.f_locals.get("p", p))) for one in making]
    if len(set(jobs)) < len(jobs) or any(job != id(p) for _, job in jobs):
        return Asker.JOB
    shown = any(_module(one).startswith(_PAGE_AND_API) for one in frames)
    return Asker.HOST if shown and running_script() is None else Asker.SCRIPT


def running_script() -> Any:
    """The script, chosen in the page's menu, that is making pictures; None where there is none."""
    return next((one.f_locals["self"] for one in _callers() if _runs_a_script(one)), None)


def _callers() -> Iterator[FrameType]:
    frame = inspect.currentframe()
    while frame is not None:
        yield frame
        frame = frame.f_back


def _module(frame: FrameType) -> str:
    return frame.f_globals.get("__name__") or ""


def _runs_a_script(frame: FrameType) -> bool:
    return frame.f_code.co_name == "run" and isinstance(frame.f_locals.get("self"), scripts.Script)
