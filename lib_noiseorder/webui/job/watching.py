"""What the user sees while noise is put in order: the progress display's text, and the sheet if one is wanted."""

from __future__ import annotations

from modules.shared import state
from torch import Tensor

from ...formulas import KeyTimestep
from ...questions import Observer
from ...settings import INFOTEXT_PREFIX
from .sheets import Shown

_SAID = {"selection": "looking at noise", "injection": "asking the model", "finishing": "finishing noise"}


class Watching(Observer):
    def __init__(self, shown: Shown | None):
        self._shown = shown

    def asking(self, what: str, number: int, total: int) -> None:
        state.textinfo = f"{INFOTEXT_PREFIX}: {_SAID[what]} {number} of {total}"

    def candidate(self, number: int, picture: Tensor) -> None:
        if self._shown:
            self._shown.candidate(picture)

    def key_timestep(self, step: KeyTimestep, picture: Tensor) -> None:
        if self._shown:
            self._shown.key_timestep(step, picture)
