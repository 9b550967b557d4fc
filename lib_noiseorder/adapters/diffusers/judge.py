"""Who judges a pipeline's pictures, and against which prompts."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...judge_settings import MODEL, check_judge, threshold
from ...judges import Judge, JudgeError, LoadedJudge, load_once, scores_one_by_one
from ...judging import Judging
from ...knobs import SettingsError, shown
from ...report import in_one_line
from ...settings import INFOTEXT_PREFIX, NoiseOrderSettings
from .rehearsal import RandomStates

GivenJudge = Judge | str | Path | None
"""A judge, or the name or the folder of one."""
_NAMELESS = "judge"


def brought(judge: GivenJudge) -> GivenJudge:
    """A judge that was handed over; None for the name of the model itself, as the setting `judge` has it."""
    return None if isinstance(judge, str) and judge.strip() in ("", MODEL) else judge


def judged_by(judge: GivenJudge, settings: NoiseOrderSettings) -> NoiseOrderSettings:
    """The settings under which a judge that was handed over chooses: they name it, unless they name one already.

    Raises:
        SettingsError: it is neither a function nor a name or folder.
    """
    if judge is None:
        return settings
    if not callable(judge) and not isinstance(judge, (str, Path)):
        what = f"a function of pictures and prompts, or the name or folder of one, not {shown(judge)}"
        raise SettingsError(f"{INFOTEXT_PREFIX}: judge must be {what}")
    return settings.changed(judge=_name(judge)) if settings.judge == MODEL else settings


def _name(judge: Any) -> str:
    folder = _folder(judge)
    name = folder.name if folder else judge if isinstance(judge, str) else getattr(judge, "name", None)
    try:
        name = check_judge(name) if isinstance(name, str) else _NAMELESS
    except ValueError:
        name = _NAMELESS
    return _NAMELESS if name == MODEL else name


def _folder(judge: Any) -> Path | None:
    return Path(judge) if isinstance(judge, Path) or (isinstance(judge, str) and os.path.isdir(judge)) else None


@dataclass
class PromptedJudge:
    """A judge with the prompts of a call's pictures."""

    judge: Judge
    digest: str
    """Which judge it is, to the byte; of a function its name."""
    prompts: list[str]
    """One per picture."""
    enough: float | None
    generator: Any
    """The call's, which a judge does not advance."""
    failed: JudgeError | None = None
    """What went wrong for the first time, after which nothing is judged any more."""
    _known: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    @classmethod
    def of(cls, judge: GivenJudge, settings: NoiseOrderSettings, call: Mapping[str, Any], pictures: int) -> PromptedJudge:
        """
        Args:
            judge: as it was handed over; None: the one that the settings name.
            call: the arguments of the pipeline's call.
            pictures: how many it makes.

        Raises:
            JudgeError: there is no such judge, it cannot be loaded, or the prompt is not known.
        """
        prompts, named = _prompts(call, pictures), settings.judge
        if callable(judge):
            which = named
        else:
            judge, which = load_once(_folder(judge) or judge or named)
        if isinstance(judge, LoadedJudge):
            judge.cut = False
        return cls(judge, which, prompts, threshold(settings.judge_threshold), call.get("generator"))

    def judging(self, pictures: Callable[[Tensor], Tensor], remembers: bool) -> Judging:
        """For the core.

        Args:
            pictures: what [B, …] it is asked about looks like: [B, 3, H, W] in 0…1.
            remembers: whether what was judged already is not judged again.
        """

        def score(asked: Tensor) -> Tensor:
            for seen, given in self._known:
                if torch.equal(seen, asked):
                    return given.clone()
            if self.failed is not None:
                raise self.failed
            try:
                given = self._scores(pictures(asked), asked.device)
            except Exception as error:
                self.failed = error if isinstance(error, JudgeError) else JudgeError(in_one_line(error))
                raise self.failed from error
            if remembers:
                self._known.append((asked.clone(), given.clone()))
            return given

        if isinstance(self.judge, LoadedJudge):
            return Judging(score, self.enough, self.digest, self.judge.unread)
        return Judging(score, self.enough, self.digest)

    def _scores(self, pictures: Tensor, device: torch.device) -> Tensor:
        states = RandomStates(self.generator)
        try:
            return scores_one_by_one(self.judge, pictures, self.prompts, device)
        finally:
            states.put_back()


def _prompts(call: Mapping[str, Any], pictures: int) -> list[str]:
    """The prompt of every picture, in the order in which the pipeline makes them."""
    prompt = call.get("prompt")
    texts = [prompt] if isinstance(prompt, str) else list(prompt or ())
    if not texts or not all(isinstance(text, str) for text in texts):
        raise JudgeError("a judge needs the prompt as text")
    return [text for text in texts for _ in range(pictures // len(texts))]
