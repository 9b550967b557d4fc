"""Show what is injected: a sheet of small pictures per picture, of the noise and of what the model saw in it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from modules import sd_samplers_common
from modules.shared import opts
from PIL import Image, ImageDraw
from torch import Tensor

from ...settings import INFOTEXT_PREFIX

_ON_JOB = "_noise_order_shown"
_TILE, _CAPTION, _COLUMNS = 192, 16, 4
_CHEAP = 2
"""The hosts' number for the approximate VAE that needs no file."""


@dataclass
class Tile:
    """One latent [B, …] to be shown, on the CPU."""

    caption: str
    latent: Tensor
    is_noise: bool = False
    """Of a noise the spectrum is shown, too."""


@dataclass
class Sheet:
    """What is to be shown of one batch."""

    tiles: list[Tile] = field(default_factory=list)

    def add(self, caption: str, latent: Tensor) -> None:
        self.tiles.append(Tile(caption, latent.detach().float().cpu().clone()))

    def add_noise(self, caption: str, noise: Tensor) -> None:
        self.tiles.append(Tile(caption, noise.detach().float().cpu().clone(), is_noise=True))

    def keep(self, p: Any) -> None:
        """Hand the batch over to the end of its job."""
        setattr(p, _ON_JOB, [*getattr(p, _ON_JOB, []), (list(p.seeds), self.tiles)])


def taken(p: Any) -> list[tuple[list[int], list[Tile]]]:
    """What the job's batches have handed over, taken off the job: their seeds and tiles."""
    return vars(p).pop(_ON_JOB, [])


def add_sheets(batches: list[tuple[list[int], list[Tile]]], processed: Any) -> None:
    """One sheet per picture at the end of the gallery, each with a text that says what it shows."""
    for seeds, tiles in batches:
        rows = min((len(tile.latent) for tile in tiles), default=0)  # one for all the frames of a video
        for index, seed in enumerate(seeds[:rows]):
            pictures = [picture for tile in tiles for picture in _pictures(tile, index)]
            if pictures:
                processed.images.append(_drawn(pictures))
                processed.infotexts.append(f"{INFOTEXT_PREFIX}, seed {seed}: " + ", ".join(caption for caption, _ in pictures))


def _pictures(tile: Tile, index: int) -> list[tuple[str, Image.Image]]:
    """One row's latent as the approximate VAE decodes it; of a noise its spectrum, too."""
    pictures = [(tile.caption, _decoded(tile.latent[index]))]
    if tile.is_noise:
        pictures.append((f"{tile.caption}: spectrum", _spectrum(tile.latent[index])))
    return pictures


def _decoded(latent: Tensor) -> Image.Image:
    if latent.ndim == 4:  # the first frame of a video
        latent = latent[:, 0]
    for approximation in (_live_preview_method(), _CHEAP):
        try:
            return sd_samplers_common.single_sample_to_image(latent, approximation)
        except Exception:  # a decoder that is not there, or not made for this kind of latent
            continue
    channels = latent[[0, min(1, len(latent) - 1), min(2, len(latent) - 1)]]
    return _grey((channels - channels.amin()) / (channels.amax() - channels.amin() + 1e-9))


def _live_preview_method() -> int:
    """The approximate VAE that the user chose for live previews; never the full one, which would take its time."""
    known = getattr(sd_samplers_common, "approximation_indexes", {})
    return known.get(getattr(opts, "show_progress_type", ""), 0) or _CHEAP


def _spectrum(latent: Tensor) -> Image.Image:
    """Logarithmic power by frequency, the lowest in the middle; white noise is even grey."""
    power = torch.fft.fftshift(torch.fft.fft2(latent.reshape(-1, *latent.shape[-2:])).abs().square().mean(0))
    decades = (power / (latent.shape[-1] * latent.shape[-2]) + 1e-12).log10()
    return _grey(((decades + 1.5) / 3).clamp(0, 1).expand(3, -1, -1))


def _grey(picture: Tensor) -> Image.Image:
    return Image.fromarray((picture.permute(1, 2, 0) * 255).round().numpy().astype(np.uint8))


def _drawn(tiles: list[tuple[str, Image.Image]]) -> Image.Image:
    width, height = tiles[0][1].size
    tile_height = round(_TILE * height / width)
    row_height = tile_height + _CAPTION
    sheet = Image.new("RGB", (_TILE * min(len(tiles), _COLUMNS), row_height * -(-len(tiles) // _COLUMNS)), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (caption, picture) in enumerate(tiles):
        row, column = divmod(number, _COLUMNS)
        corner = column * _TILE, row * row_height
        sheet.paste(
            picture.convert("RGB").resize((_TILE, tile_height), Image.Resampling.NEAREST), (corner[0], corner[1] + _CAPTION)
        )
        draw.text((corner[0] + 3, corner[1] + 2), caption, fill="black")
    return sheet
