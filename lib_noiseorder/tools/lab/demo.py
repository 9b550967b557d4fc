"""Plain and ordered pictures of the embedded model side by side, as one PNG with their figures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ...ordering import OrderedNoise, order_noise
from ...settings import NoiseOrderSettings
from .arms import seed_draws
from .model import LabModel
from .oracle import Oracle, Verdict
from .prompted import PromptedModel
from .world import SIZE, Prompt, to_pictures

_ZOOM = 7
_GAP = 12
_HEADER = 64


@dataclass(frozen=True)
class Row:
    """One way of making the initial noise, and what came of it."""

    name: str
    pictures: Tensor
    verdicts: list[Verdict]
    std: float
    evaluations: int


def compare(prompt: Prompt, settings: NoiseOrderSettings, family: str, seeds: list[int]) -> tuple[list[Row], OrderedNoise]:
    """The prompt drawn from plain and from ordered noise, same seeds."""
    model, oracle = LabModel(family), Oracle()
    prompts, draw = [prompt] * len(seeds), seed_draws(seeds)
    ordered = order_noise(settings, draw, PromptedModel(model, prompts))
    asked = ordered.report.evaluations - ordered.report.reusable_evaluations
    rows = []
    for name, noise, extra in (("plain", draw(1), 0), ("ordered", ordered.noise, asked)):
        model.evaluations = 0
        pictures = model.sample(noise, prompts)
        verdicts = oracle.judge(pictures, prompts)
        rows.append(Row(name, to_pictures(pictures), verdicts, noise.std().item(), model.evaluations + extra))
    return rows, ordered


def draw_sheet(prompt: Prompt, rows: list[Row], seeds: list[int], title: str, path: Path) -> None:
    """Write the comparison as one PNG.

    Raises:
        OSError: the file cannot be written.
    """
    tile = SIZE * _ZOOM
    width = 150 + len(seeds) * (tile + _GAP)
    sheet = Image.new("RGB", (width, _HEADER + len(rows) * (tile + 34)), "white")
    pen, font, small = ImageDraw.Draw(sheet), ImageFont.load_default(18), ImageFont.load_default(13)
    pen.text((_GAP, 8), f"“{prompt}”", "black", font)
    pen.text((_GAP, 36), title, "#555555", small)
    for index, row in enumerate(rows):
        top = _HEADER + index * (tile + 34)
        right = sum(verdict.all for verdict in row.verdicts)
        figures = f"{right} of {len(seeds)} right\nnoise std {row.std:.3f}\n{row.evaluations} evaluations"
        pen.text((_GAP, top), row.name, "black", font)
        pen.text((_GAP, top + 28), figures, "#555555", small)
        for column, (picture, verdict, seed) in enumerate(zip(row.pictures, row.verdicts, seeds)):
            left = 150 + column * (tile + _GAP)
            pixels = (picture.permute(1, 2, 0) * 255).round().byte().numpy()
            sheet.paste(Image.fromarray(pixels).resize((tile, tile), Image.Resampling.NEAREST), (left, top))
            colour = "#117711" if verdict.all else "#aa2222"
            pen.text((left, top + tile + 3), f"seed {seed}: {verdict}"[:40], colour, small)
    sheet.save(path)
