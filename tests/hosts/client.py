"""What the contract tests ask of a host: pictures and infotexts for an API payload."""

from __future__ import annotations

import base64
import io
import json
import re
from dataclasses import dataclass

import numpy as np
from PIL import Image


class Refused(Exception):
    """The host answered with an error status."""

    def __init__(self, status: int, message: str):
        super().__init__(f"{status}: {message}")
        self.status = status
        self.message = message


@dataclass(frozen=True)
class Result:
    pictures: np.ndarray
    """[B, H, W, 3], 0..255, without the grid."""
    infotexts: list[str]

    def __getitem__(self, key: str) -> str | None:
        """An infotext parameter of the first picture."""
        found = re.search(rf'(?:^|, ){re.escape(key)}: ("(?:[^"\\]|\\.)*"|[^,\n]*)', self.infotexts[0], re.MULTILINE)
        return None if found is None else json.loads(found[1]) if found[1].startswith('"') else found[1]

    @property
    def evaluations(self) -> float:
        """Model evaluations per picture, as counted in the host."""
        return float(self["Counted evaluations"])


def difference(a: Result, b: Result) -> int:
    """Largest difference of two results' pixels, 0..255."""
    assert a.pictures.shape == b.pictures.shape
    return int(abs(a.pictures - b.pictures).max())


def decoded(images: list[str], infotexts: list[str], count: int) -> Result:
    pictures = [np.asarray(Image.open(io.BytesIO(base64.b64decode(image))).convert("RGB"), dtype=int) for image in images]
    pictures, infotexts = pictures[-count:], infotexts[-count:]  # a grid comes first
    return Result(np.stack(pictures), infotexts)


def encoded(picture: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(picture.astype(np.uint8)).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def noise_order(**settings) -> dict:
    """The part of a payload that switches Noise Order on; Custom unless another preset is named."""
    return {"alwayson_scripts": {"Noise Order": {"args": [{"enabled": True, "preset": "Custom", **settings}]}}}
