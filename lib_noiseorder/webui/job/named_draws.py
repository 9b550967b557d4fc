"""Which draw every picture of a job got, for its infotext.

The hosts write infotexts at any time and for any picture of the job: one of a batch, one of an earlier batch, the grid's, whose
seed is the job's first. So they are given a function that looks the picture's own seed up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

_ON_JOB = "_noise_order_draws"


class NamedDraws:
    """The draws of one job's pictures in one of its passes."""

    def __init__(self) -> None:
        self._draws: dict[tuple[int, int], int] = {}

    @staticmethod
    def of(p: Any, infotext_key: str) -> NamedDraws:
        """Those of a job that are written under this key, begun with its first batch."""
        return vars(p).setdefault(_ON_JOB, {}).setdefault(infotext_key, NamedDraws())

    @staticmethod
    def forget(p: Any) -> None:
        """Before and after a job. Copies of a job, as grids make them, must not share its draws."""
        vars(p).pop(_ON_JOB, None)

    def note(self, p: Any, chosen: Sequence[int]) -> str | Callable[..., str | None]:
        """Remember the draws of a batch; what the host is to write of them: a text, or a function of whose picture it is.

        Args:
            p: the job, in this batch.
            chosen: one draw per picture, 0 where none was chosen; a video has one for all of its pictures.
        """
        every = [*chosen, *[chosen[-1]] * (len(p.seeds) - len(chosen))]
        self._draws.update(zip(zip(p.seeds, p.subseeds), every))
        return str(every[0]) if p.n_iter * len(p.seeds) == 1 else self._of_picture

    def _of_picture(self, p: Any, all_seeds: Any, all_subseeds: Any, index: int, use_main_prompt: bool, **_: Any) -> str | None:
        """As the hosts call it, with everything they know of the picture whose infotext they write."""
        seed, subseed = (p.all_seeds[0], p.all_subseeds[0]) if use_main_prompt else (all_seeds[index], all_subseeds[index])
        draw = self._draws.get((seed, subseed), 0)
        return str(draw) if draw else None
