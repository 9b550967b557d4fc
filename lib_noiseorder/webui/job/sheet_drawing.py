"""How a sheet is drawn: a title, and parts with a heading and pictures with captions, some of them framed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw
from PIL.ImageFont import FreeTypeFont

_TILE, _GAP, _FRAME, _COLUMNS = 256, 16, 6, 5
_TITLE, _HEADING, _CAPTION = 22, 18, 16
"""Heights of the letters."""
_KEPT = "#117733"


@dataclass(frozen=True)
class Drawn:
    """One picture of a sheet."""

    caption: str
    picture: Image.Image
    framed: bool = False


@dataclass(frozen=True)
class Part:
    heading: str
    pictures: Sequence[Drawn]


def draw_sheet(title: str, parts: Sequence[Part], font: Callable[[int], FreeTypeFont]) -> Image.Image:
    """A sheet as an RGB picture, as wide as its widest part.

    Args:
        title: said in the first line.
        parts: one below the other; at least one picture in all.
        font: gives a font with letters of a height in pixels.
    """
    width = _GAP + max(_columns(part) for part in parts) * (_TILE + _GAP)
    blocks = [_text(title, font(_TITLE), width - 2 * _GAP)]
    for part in parts:
        blocks.append(_text(part.heading, font(_HEADING), width - 2 * _GAP))
        for start in range(0, len(part.pictures), _columns(part)):
            blocks.append(_row(part.pictures[start : start + _columns(part)], font(_CAPTION)))
    sheet = Image.new("RGB", (width, _GAP + sum(block.height + _GAP for block in blocks)), "white")
    top = _GAP
    for block in blocks:
        sheet.paste(block, (_GAP, top))
        top += block.height + _GAP
    return sheet


def _columns(part: Part) -> int:
    """How many pictures stand side by side, so that the rows are of about one length."""
    count = len(part.pictures)
    return math.ceil(count / math.ceil(count / _COLUMNS))


def _row(pictures: Sequence[Drawn], font: FreeTypeFont) -> Image.Image:
    """Pictures side by side, each with its caption below."""
    tiles = [_tile(drawn, font) for drawn in pictures]
    row = Image.new("RGB", (len(tiles) * (_TILE + _GAP) - _GAP, max(tile.height for tile in tiles)), "white")
    for number, tile in enumerate(tiles):
        row.paste(tile, (number * (_TILE + _GAP), 0))
    return row


def _tile(drawn: Drawn, font: FreeTypeFont) -> Image.Image:
    """A picture with room for its frame, and its caption below."""
    size = _TILE - 2 * _FRAME
    picture = drawn.picture.convert("RGB")
    picture = picture.resize((size, max(1, round(size * picture.height / picture.width))), Image.Resampling.LANCZOS)
    caption = _text(drawn.caption, font, size, _KEPT if drawn.framed else "black")
    tile = Image.new("RGB", (_TILE, picture.height + 2 * _FRAME + 4 + caption.height), "white")
    if drawn.framed:
        tile.paste(_KEPT, (0, 0, _TILE, picture.height + 2 * _FRAME))
    tile.paste(picture, (_FRAME, _FRAME))
    tile.paste(caption, (_FRAME, picture.height + 2 * _FRAME + 4))
    return tile


def _text(text: str, font: FreeTypeFont, width: int, colour: str = "black") -> Image.Image:
    """A text in lines no longer than `width` pixels."""
    lines: list[str] = []
    for word in text.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    height = sum(font.getmetrics())
    block = Image.new("RGB", (width, height * len(lines)), "white")
    pen = ImageDraw.Draw(block)
    for number, line in enumerate(lines):
        pen.text((0, number * height), line, colour, font)
    return block
