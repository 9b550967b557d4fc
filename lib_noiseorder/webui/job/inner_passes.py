"""Whether a picture is made inside another one."""

from __future__ import annotations

import inspect
from typing import Any

_JOB = "process_images_inner"
"""The hosts' function that makes the pictures of one job."""


def is_inner_pass(p: Any) -> bool:
    """Whether the job runs within another job's making, as ADetailer's inpainting of faces does.

    Looked up in the call stack: a job that failed half-way leaves nothing behind that could be mistaken for one.
    """
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_code.co_name == _JOB and frame.f_locals.get("p", p) is not p:
            return True
        frame = frame.f_back
    return False
