"""A pipeline run once for every noise, and of every picture the one kept that a judge prefers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ...judging import Judging
from ...model import Draw
from ...ordering import choose_finished
from ...report import Report
from ...settings import NoiseOrderSettings
from .judge import PromptedJudge
from .models import KeptState, ModelCall, calls_replaced, denoising_models
from .pictures import pictures_in
from .rehearsal import RandomStates


class FinishedRuns:
    """The runs of one call.

    Attributes:
        output: the pipeline's, put together of every picture's own run.
        noise: the latents that these started from; None where the pipeline was interrupted before its first run.
        failed: what the pipeline itself raised, if anything.
    """

    def __init__(self, pipe: Any, call: dict[str, Any], pictures: int, start: Callable[[Tensor], Tensor | None]):
        """
        Args:
            call: the arguments of the pipeline's own call.
            pictures: how many it makes.
            start: the latents to call it with for a noise; None if it was interrupted meanwhile.
        """
        self._pipe, self._call, self._pictures, self._start = pipe, call, pictures, start
        self._before, self._after = RandomStates(call.get("generator")), None
        self._state = KeptState(denoising_models(pipe))
        self._outputs: list[Any] = []
        self._latents: list[Tensor] = []
        self._rows: list[int] = []
        self._halted = False
        self.output: Any = None
        self.noise: Tensor | None = None
        self.failed: Exception | None = None

    def best(self, settings: NoiseOrderSettings, candidate: Draw, family: str, judge: PromptedJudge, report: Report) -> None:
        """Make them, and keep the best.

        Args:
            settings, candidate, family, report: as in `choose_finished`.
            judge: sees the finished pictures.
        """

        def pictures(run: Tensor) -> Tensor:
            return pictures_in(self._outputs[int(run[0])], self._pictures)

        def judging() -> Judging:
            return judge.judging(pictures, remembers=False)

        runs = choose_finished(settings, candidate, family, self._finish, report, judging, stopped=self._stopped)
        if not self._outputs:
            return
        which = runs.tolist()
        self.output, self.noise = mixed(self._outputs, which), mixed(self._latents, which)
        if self._after is not None:
            self._after.put_back()
        paid = [round(rows / self._pictures) for rows in self._rows]
        report.evaluations += sum(paid)
        report.reused(paid[0])

    def _stopped(self) -> bool:
        return self._halted or bool(getattr(self._pipe, "_interrupt", False))

    def _finish(self, noise: Tensor) -> Tensor:
        """The number of the run that was made from it, for every picture [B]."""
        number = torch.full((len(noise),), len(self._outputs), device=noise.device)
        if self._outputs and self._stopped():  # while the last was judged; its own call would forget that
            self._halted = True
            return number
        latents = self._start(noise)
        if latents is None:
            self._halted = True
            return number
        if self._outputs:
            self._before.put_back()
            self._state.put_back()
        output = self._run(latents)
        self._after = self._after or RandomStates(self._call.get("generator"))
        self._outputs.append(output)
        self._latents.append(latents)
        return number

    def _run(self, latents: Tensor) -> Any:
        self._rows.append(0)

        def counted(name: str, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            self._rows[-1] += ModelCall(args, kwargs, 1).slots
            return original(*args, **kwargs)

        # some pipelines write into the dictionaries they are given
        call = {name: dict(value) if type(value) is dict else value for name, value in self._call.items()}
        try:
            with calls_replaced(denoising_models(self._pipe), counted):
                return self._pipe(**{**call, "latents": latents.clone()})
        except Exception as error:
            self.failed = error
            if self._outputs and hasattr(self._pipe, "maybe_free_model_hooks"):
                self._pipe.maybe_free_model_hooks()  # as at its own end, which it has not come to
            raise


def mixed(outputs: Sequence[Any], which: Sequence[int]) -> Any:
    """What a pipeline gave, every picture from its own run: lists, arrays and tensors with one entry per picture, in tuples and
    in diffusers' outputs. Anything else is the first picture's.

    Args:
        outputs: of every run.
        which: per picture the number of its run, from 0.
    """
    import numpy as np

    first = outputs[which[0]]
    if len(set(which)) == 1:
        return first
    if dataclasses.is_dataclass(first):
        names = [entry.name for entry in dataclasses.fields(first)]
        parts = {name: mixed([getattr(output, name) for output in outputs], which) for name in names}
        return type(first)(**parts)  # pyright: ignore[reportCallIssue]
    if isinstance(first, tuple):
        return tuple(mixed(parts, which) for parts in zip(*outputs))
    if not isinstance(first, (list, Tensor, np.ndarray)) or len(first) != len(which):
        return first
    rows = [outputs[run][row] for row, run in enumerate(which)]
    if isinstance(first, Tensor):
        return torch.stack(rows)
    return np.stack(rows) if isinstance(first, np.ndarray) else rows
