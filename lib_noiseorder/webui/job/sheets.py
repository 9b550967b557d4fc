"""Show what is injected: a sheet of small pictures per picture, of the noise and of what the model saw in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from modules import sd_samplers_common
from modules.shared import opts
from PIL import Image, ImageDraw
from torch import Tensor

from ...formulas import key_timesteps
from ...settings import INFOTEXT_PREFIX, NoiseOrderSettings

_ON_JOB = "_noise_order_shown"
_TILE, _CAPTION, _COLUMNS = 192, 16, 4
_CHEAP = 2
"""The hosts' number for the approximate VAE that needs no file."""


@dataclass
class Showing:
    """What is to be shown of one batch; latents on the CPU."""

    latents: list[tuple[str, Tensor]] = field(default_factory=list)
    """Captions and latents [B, …]."""
    _answers: list[Tensor] = field(default_factory=list)
    _candidates: int = 0

    def add(self, caption: str, latent: Tensor) -> None:
        self.latents.append((caption, latent.detach().float().cpu().clone()))

    @contextmanager
    def watching(self, model: Any) -> Iterator[None]:
        """Keep the clean latents that a `HostModel` predicts with the prompt meanwhile."""
        model.room = 1  # one answer, one picture
        prompted, predict_pair, start = model.prompted, model.predict_pair, model.start

        def watched(*args: Any) -> Tensor:
            x0 = prompted(*args)
            self._answers.append(x0.detach().float().cpu())
            return x0

        def watched_pair(*args: Any) -> tuple[Tensor, Tensor]:
            pair = predict_pair(*args)
            self._answers.append(pair[0].detach().float().cpu())
            return pair

        def watched_start(noise: Tensor) -> Tensor:
            self._candidates += 1
            return start(noise)

        model.prompted, model.predict_pair, model.start = watched, watched_pair, watched_start
        try:
            yield
        finally:
            del model.prompted, model.predict_pair, model.start
            self._answers.clear()

    def add_candidates(self) -> None:
        """After a selection: the picture that the model saw in every draw, just before judging it if it was judged."""
        rounds = len(self._answers) // self._candidates
        shown = self._answers[(rounds - min(rounds, 2)) * self._candidates :]
        for k in range(self._candidates):
            self.add(f"seen in noise {k + 1}", shown[k])
        self._answers.clear()

    def add_predictions(self, settings: NoiseOrderSettings) -> None:
        """After an injection: the picture that the model sees at every key timestep."""
        for step, answer in zip(key_timesteps(settings), self._answers):
            self.add(f"{step.name} at {step.timestep:.3g}", answer)
        self._answers.clear()

    def keep(self, p: Any) -> None:
        """Hand the batch over to the end of its job."""
        setattr(p, _ON_JOB, [*getattr(p, _ON_JOB, []), (list(p.seeds), self.latents)])


def taken(p: Any) -> list[tuple[list[int], list[tuple[str, Tensor]]]]:
    """What the job's batches have handed over, taken off the job: seeds, and captions with latents."""
    return vars(p).pop(_ON_JOB, [])


def add_sheets(batches: list[tuple[list[int], list[tuple[str, Tensor]]]], processed: Any) -> None:
    """One sheet per picture at the end of the gallery, each with a text that says what it shows."""
    for seeds, latents in batches:
        rows = min((len(latent) for _, latent in latents), default=0)  # one for all the frames of a video
        for index, seed in enumerate(seeds[:rows]):
            tiles = [tile for caption, latent in latents for tile in _tiles(caption, latent[index])]
            if tiles:
                processed.images.append(_sheet(tiles))
                processed.infotexts.append(f"{INFOTEXT_PREFIX}, seed {seed}: " + ", ".join(caption for caption, _ in tiles))


def _tiles(caption: str, latent: Tensor) -> list[tuple[str, Image.Image]]:
    """The latent as the approximate VAE decodes it; of a noise its spectrum, too."""
    tiles = [(caption, _decoded(latent))]
    if caption.startswith("noise "):
        tiles.append((f"{caption}: spectrum", _spectrum(latent)))
    return tiles


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


def _sheet(tiles: list[tuple[str, Image.Image]]) -> Image.Image:
    width, height = tiles[0][1].size
    tile_height = round(_TILE * height / width)
    row_height = tile_height + _CAPTION
    sheet = Image.new("RGB", (_TILE * min(len(tiles), _COLUMNS), row_height * -(-len(tiles) // _COLUMNS)), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (caption, picture) in enumerate(tiles):
        row, column = divmod(number, _COLUMNS)
        corner = column * _TILE, row * row_height
        sheet.paste(picture.convert("RGB").resize((_TILE, tile_height), Image.NEAREST), (corner[0], corner[1] + _CAPTION))
        draw.text((corner[0] + 3, corner[1] + 2), caption, fill="black")
    return sheet
