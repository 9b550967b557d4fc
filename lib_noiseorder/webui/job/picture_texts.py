"""What is said of every picture of a job under one infotext key, such as which draw it got.

The hosts write infotexts at any time and for any picture of the job: one of a batch, one of an earlier batch, the grid's, whose
seed is the job's first. So they are given a function that looks the picture's own seed up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

_ON_JOB = "_noise_order_texts"


class PictureTexts:
    """One key's texts for the pictures of a job."""

    def __init__(self) -> None:
        self._texts: dict[tuple[int, int], str] = {}

    @staticmethod
    def of(p: Any, infotext_key: str) -> PictureTexts:
        """Those of a job that are written under this key, begun with its first batch."""
        return vars(p).setdefault(_ON_JOB, {}).setdefault(infotext_key, PictureTexts())

    @staticmethod
    def forget(p: Any) -> None:
        """Before and after a job. Copies of a job, as grids make them, must not share its texts."""
        vars(p).pop(_ON_JOB, None)

    def note(self, p: Any, texts: Sequence[str]) -> str | Callable[..., str | None]:
        """Remember the texts of a batch; what the host is to write of them: a text, or a function of whose picture it is.

        Args:
            p: the job, in this batch.
            texts: one per picture, empty where there is nothing to say; a video has one for all of its pictures.
        """
        every = [*texts, *[texts[-1]] * (len(p.seeds) - len(texts))]
        self._texts.update(zip(zip(p.seeds, p.subseeds), every))
        return every[0] if p.n_iter * len(p.seeds) == 1 else self._of_picture

    def _of_picture(self, p: Any, all_seeds: Any, all_subseeds: Any, index: int, use_main_prompt: bool, **_: Any) -> str | None:
        """As the hosts call it, with everything they know of the picture whose infotext they write."""
        seed, subseed = (p.all_seeds[0], p.all_subseeds[0]) if use_main_prompt else (all_seeds[index], all_subseeds[index])
        return self._texts.get((seed, subseed)) or None
