"""What the runs of a sampler came to: for the console, the node's own text and the report node."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...formulas import KeyTimestep
from ...questions import Observer
from ...report import Report

_KEPT = 4
"""Runs of one node that are remembered."""
_TILE, _GAP = 128, 4
"""Pixels of the preview's pictures along their longer side, and between them."""
NOTHING_SEEN = torch.zeros(1, _TILE, _TILE, 3)


class Cancelled(BaseException):
    """The user cancelled while the model was asked: no failure that a picture could be made after."""

    def __init__(self, reason: Exception):
        super().__init__("cancelled")
        self.reason = reason


@contextmanager
def cancelling() -> Iterator[None]:
    """The host's interrupt as `Cancelled`, which nobody takes for a failed question."""
    import comfy.model_management

    try:
        yield
    except comfy.model_management.InterruptProcessingException as interrupted:
        raise Cancelled(interrupted) from None


class Watcher(Observer):
    """Shows the host's progress bar and previews while the model is asked, and keeps the previews.

    Attributes:
        pictures: per candidate or key timestep one preview per picture of the batch, [B, H, W, 3] from 0 to 1.
    """

    def __init__(self, patcher: Any):
        import comfy.utils
        import latent_preview

        self.pictures: list[Tensor] = []
        self._bar = comfy.utils.ProgressBar(1)
        form = patcher.model.latent_format
        shown = latent_preview.get_previewer(patcher.load_device, form)
        self._shows = shown is not None
        if shown is None and form.latent_rgb_factors is not None:
            shown = latent_preview.Latent2RGBPreviewer(form.latent_rgb_factors, form.latent_rgb_factors_bias)
        self._previewer = shown
        self._preview: Any = None

    def asking(self, what: str, number: int, total: int) -> None:
        with cancelling():
            self._bar.update_absolute(number, total, self._preview)

    def candidate(self, number: int, picture: Tensor) -> None:
        self._keep(picture)

    def key_timestep(self, step: KeyTimestep, picture: Tensor) -> None:
        self._keep(picture)

    def _keep(self, picture: Tensor) -> None:
        if self._previewer is None:
            return
        images = [self._previewer.decode_latent_to_preview(row[None]) for row in picture]
        if self._shows:
            self._preview = ("JPEG", images[0], max(images[0].size))
        self.pictures.append(torch.stack([_tile(image) for image in images]))


class Run:
    """One run of a sampler.

    Attributes:
        report: what happened to its noise.
        said: the same in one line.
    """

    def __init__(self, report: Report, watcher: Watcher, made: Tensor):
        """
        Args:
            made: the latents that came out [B, …], as the host hands them on.
        """
        self.report, self._pictures = report, watcher.pictures
        self._made = made.detach().to("cpu", copy=True)
        chosen = f", chosen {report.chosen}" if any(report.chosen) else ""
        self.said = f"{report.extra_evaluations} evaluations more, {report.seconds:.1f} s{chosen}"

    @property
    def text(self) -> str:
        """What happened, for a text that a user reads."""
        report = self.report
        lines = []
        if any(report.chosen):
            lines.append("Kept: " + ", ".join(f"noise {draw}" if draw else "its own noise" for draw in report.chosen))
            lines.append('As "chosen" this gives the same noise again: ' + " ".join(map(str, report.chosen)))
        if report.scores:
            lines.append(f"Compared: {max(map(len, report.scores))} noises")
        if report.judge:
            scores = ["none" if score is None else f"{score:.4g}" for score in report.kept_scores]
            lines += [f"Score: {', '.join(scores)}", f"Judge hash: {report.judge}"]
        if report.correlation is not None:
            lines.append("Mixed in: what the model predicts for the prompt")
        lines.append(f"Cost: {report.extra_evaluations} evaluations per picture more, {report.seconds:.1f} s")
        if report.saved_evaluations:
            lines.append(f"{report.evaluations} were asked, {report.saved_evaluations} of them the sampler did not ask again.")
        return "\n".join(lines + [f"Skipped {reason}" for reason in report.skipped])

    def made(self, latents: Tensor) -> bool:
        """Whether these latents came out of this run."""
        latents = latents.detach().float().cpu()
        return latents.shape == self._made.shape and bool(torch.equal(latents, self._made))

    def preview(self) -> Tensor:
        """What the model saw, [1, H, W, 3] from 0 to 1: a row per picture, a column per noise or key timestep; the noise that
        was kept is framed. A single black tile where nothing was asked."""
        if not self._pictures:
            return NOTHING_SEEN
        rows = []
        for row in range(len(self._pictures[0])):
            tiles = []
            for number, pictures in enumerate(self._pictures, 1):
                kept = row < len(self.report.chosen) and self.report.chosen[row] == number
                tile = F.pad(pictures[row].movedim(-1, 0), (_GAP,) * 4, value=1.0 if kept else 0.0)
                tiles.append(tile)
            rows.append(torch.cat(tiles, 2))
        return torch.cat(rows, 1).movedim(0, -1)[None]


class Runs:
    """The last runs of the samplers behind one node."""

    def __init__(self) -> None:
        self._last: deque[Run] = deque(maxlen=_KEPT)
        self.listeners: list[Any] = []

    def add(self, run: Run) -> None:
        self._last.append(run)
        for listener in self.listeners:
            listener(run)

    def of(self, latents: Tensor) -> Run | None:
        """The run that these latents came out of; the last one where none is known to; None where none has been made."""
        found = [run for run in self._last if run.made(latents)]
        return (found or [*self._last] or [None])[-1]


def _tile(image: Any) -> Tensor:
    """A PIL image as [H, W, 3] from 0 to 1, scaled to the tile's size."""
    scale = _TILE / max(image.size)
    image = image.convert("RGB").resize(tuple(max(1, round(side * scale)) for side in image.size))
    return torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(image.height, image.width, 3).float() / 255
