"""The demo's sheet: the most telling pairs of a comparison as one picture."""

from __future__ import annotations

import textwrap

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .demo import Comparison
from .world import SIZE

_TILE = 8 * SIZE
_GAP = 14
_LEFT = 130
_HEADER = 120
_TEXT_ROWS = 46
_FRAME = 4
_GREY, _RIGHT, _WRONG = "#555555", "#117733", "#bb3322"


def draw_sheet(comparison: Comparison, title: str) -> Image.Image:
    """The pairs of `comparison.shown` in columns, plain above ordered, below the counts; RGB.

    Args:
        comparison: what was drawn.
        title: said in the first line.
    """
    big, font, small = (ImageFont.load_default(size) for size in (26, 17, 14))
    row_height = _TILE + 2 * _FRAME + _TEXT_ROWS
    width = _LEFT + len(comparison.shown) * (_TILE + _GAP)
    sheet = Image.new("RGB", (width, _HEADER + _TEXT_ROWS + 2 * row_height), "white")
    pen = ImageDraw.Draw(sheet)
    pen.text((_GAP, 10), f"Right: {comparison.counts}: {comparison.difference}", "black", big)
    pen.text((_GAP, 48), f"{title}. {comparison.meaning}", "black", font)
    pen.multiline_text((_GAP, 76), textwrap.fill(comparison.rule, (width - 2 * _GAP) // 7), _GREY, small)
    for row, drawn in enumerate((comparison.plain, comparison.ordered)):
        pen.text((_GAP, _HEADER + _TEXT_ROWS + row * row_height + _TILE // 2), drawn.name, "black", font)
    for column, number in enumerate(comparison.shown):
        left = _LEFT + column * (_TILE + _GAP)
        prompt = comparison.prompts[number]
        pen.multiline_text((left, _HEADER), textwrap.fill(str(prompt), 24), "black", small)
        for row, drawn in enumerate((comparison.plain, comparison.ordered)):
            top = _HEADER + _TEXT_ROWS + row * row_height
            verdict = drawn.verdicts[number]
            colour = _RIGHT if verdict.all else _WRONG
            pen.rectangle((left - _FRAME, top - _FRAME, left + _TILE + _FRAME - 1, top + _TILE + _FRAME - 1), colour)
            sheet.paste(_enlarged(drawn.pictures[number]), (left, top))
            pen.multiline_text((left, top + _TILE + 6), textwrap.fill(verdict.in_words(prompt), 26), colour, small)
    return sheet.point(lambda value: value | 1)  # the last bit is not seen, and is a quarter of the file


def _enlarged(picture: Tensor) -> Image.Image:
    """A picture [3, 24, 24] in 0..1 as a tile, smooth between its pixels."""
    pixels = (picture.permute(1, 2, 0) * 255).round().byte().numpy()
    return Image.fromarray(pixels).resize((_TILE, _TILE), Image.Resampling.BICUBIC)
