"""What can be read in the panel, to tell whether a picture of it is still one of today's."""

from __future__ import annotations

import hashlib

import gradio

from .double.host import REPOSITORY, DoubleHost

_TEXTS = ("label", "value", "info", "placeholder", "choices", "minimum", "maximum")


def panel_state() -> list[str]:
    """A line per control of the panel as it is built, and one for its style sheet."""
    DoubleHost("eps")
    from lib_noiseorder.webui.panel.panel import Panel

    with gradio.Blocks() as page:
        Panel("txt2img")
    lines = []
    for block in page.blocks.values():
        if block.elem_id and getattr(block, "visible", True):
            texts = [str(getattr(block, name)) for name in _TEXTS if getattr(block, name, None) not in (None, "")]
            lines.append(" | ".join([block.elem_id, *texts]))
    return [*lines, f"style.css {hashlib.sha256((REPOSITORY / 'style.css').read_bytes()).hexdigest()}"]
