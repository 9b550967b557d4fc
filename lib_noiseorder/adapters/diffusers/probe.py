"""A probe through a diffusers pipeline: its own loop answers what the core asks of its model.

The pipeline is run with a probe in its scheduler's place. Encoding of prompts, ids, guidance embeds, adapters, offloading
and the choice between two transformers stay the pipeline's; the probe only decides which latents the model sees next
(`step` returns them) and at which timestep (the loop's timesteps are views of a tensor that the probe writes into).

The core asks by calling functions, the pipeline answers by going round its loop. The two meet by repetition: the core is
run again from the start after every answer, with all answers so far at hand, until it has no question left. It is
deterministic, and cheap beside a model evaluation; the alternative would be a thread.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...answers import Answers
from .models import ROUNDING, Answer, denoising_models, forwards_replaced, half, model_input, model_timestep

MOST_QUESTIONS = 5000
"""Length of the probe's schedule; the probe ends it long before."""


@dataclass(frozen=True)
class Question:
    latents: Tensor
    """What the model is to see [B, …]."""
    timestep: float
    """The host's timestep for it."""
    pair: bool = False
    """Whether the answer without the prompt is wanted, too."""


class Unanswered(BaseException):
    """The core asked something that the pipeline has not answered yet; no error, and nobody's to catch but the probe's."""

    def __init__(self, question: Question):
        super().__init__("a question to the pipeline")
        self.question = question


class _Finished(Exception):
    """Leaves the pipeline: the core has no question left."""


class PipelineProbe:
    """One run of a pipeline that answers the core's questions.

    Attributes:
        noise: the pipeline's own initial latents [B, …], of unit variance.
        scheduler: a copy of the pipeline's scheduler with its timesteps set as for the call.
        guided: whether the pipeline asks its model without the prompt, too.
        answers: every answer given, under ("cond", timestep) and ("uncond", timestep).
    """

    def __init__(self, pipe: Any, work: Callable[[PipelineProbe], Any]):
        self._pipe = pipe
        self._work = work
        self._given = 0
        self._question: Question | None = None
        self._outputs: list[Tensor] = []
        self._rows: list[int] = []
        self._shown: tuple[Tensor, float] | None = None
        self.answers = Answers(ROUNDING)
        self._answered: list[Answer] = []
        self.noise: Tensor | None = None
        self.scheduler = copy.deepcopy(pipe.scheduler)
        self.guided = False
        self.result: Any = None

    def ask(self, question: Question) -> Answer:
        """The pipeline's answer.

        Raises:
            Unanswered: it is not known yet; the core is run again when it is.
        """
        if self._given == len(self._answered):
            raise Unanswered(question)
        self._given += 1
        return self._answered[self._given - 1]

    def run(self, call: dict[str, Any]) -> Any:
        """Run the pipeline with these arguments, and return the work's result; None if the pipeline was interrupted.

        Whatever happens, the pipeline has its own attributes and its models their own functions afterwards.
        """
        with self._in_place(), suppress(_Finished):
            self._pipe(**call)
        return self.result

    # -- the pipeline's side ---------------------------------------------------------------------------------------

    def timesteps(self, *args: Any, **kwargs: Any) -> Tensor:
        """Set the copied scheduler's timesteps as the pipeline wants them; the probe's own, unwritten, are returned."""
        self.scheduler.set_timesteps(*args, **kwargs)
        first = self.scheduler.timesteps[0]
        return torch.full((MOST_QUESTIONS,), float(first), dtype=first.dtype, device=first.device)

    def step(self, index: int, timesteps: Tensor, timestep: Any, sample: Tensor) -> Tensor:
        """The pipeline has finished its loop's turn `index`: take the answer, give the next question's latents."""
        if index == 0:
            self.noise = sample.clone()
            self.guided = len(self._rows) > 1 or self._rows[0] == 2 * len(sample)
        else:
            if float(timestep) != float(timesteps[index]):
                raise RuntimeError("this version of the pipeline copies its timesteps, which cannot be asked")
            self._remember(self._answer(len(sample)))
        self._outputs, self._rows = [], []
        self._given = 0
        try:
            self.result = self._work(self)
        except Unanswered as unanswered:
            self._question = unanswered.question
        else:
            raise _Finished
        if index + 1 == len(timesteps):
            raise RuntimeError(f"more than {MOST_QUESTIONS} questions to the model")
        timesteps[index + 1] = self._question.timestep
        return self._question.latents.to(sample)

    def _remember(self, answer: Answer) -> None:
        self._answered.append(answer)
        assert self._shown is not None, "an answer without a question"
        shown, timestep = self._shown
        self.answers.note(("cond", timestep), shown, answer.cond)
        if answer.uncond is not None:
            self.answers.note(("uncond", timestep), shown, answer.uncond)

    def _answer(self, batch: int) -> Answer:
        first = self._outputs[0]
        if len(first) == 2 * batch:
            uncond, cond = first.chunk(2)
            return Answer(cond.clone(), uncond.clone())
        return Answer(first, self._outputs[1] if len(self._outputs) > 1 else None)

    def forward(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Stands in for a denoising model's `forward`; leaves out what nobody asked for."""
        shown = model_input(args, kwargs)
        self._rows.append(len(shown))
        if self.noise is None:  # the loop's first turn only shows the pipeline's own noise
            return (torch.zeros_like(shown),)
        if len(self._rows) == 1:
            self._shown = shown[: len(self.noise)], model_timestep(args, kwargs)
        assert self._question is not None, "the pipeline goes on only after a question"
        if self._question.pair or not self.guided:
            output = original(*args, **kwargs)
            self._outputs.append(output[0])
            return output
        if len(self._rows) > 1:  # the second call of a turn is the one without the prompt
            return (self._outputs[0],)
        batch = len(self.noise)
        if len(shown) == batch:
            output = original(*args, **kwargs)
            self._outputs.append(output[0])
            return output
        args, kwargs = half((args, kwargs), 2 * batch, slice(batch, None))
        self._outputs.append(original(*args, **kwargs)[0])
        return (torch.cat([self._outputs[0]] * 2),)

    # -- coming and going ------------------------------------------------------------------------------------------

    @contextmanager
    def _in_place(self) -> Iterator[None]:
        pipe = self._pipe
        before = dict(vars(pipe))
        try:
            with forwards_replaced(denoising_models(pipe), self.forward):
                vars(pipe)["scheduler"] = probe_scheduler(pipe.scheduler, self)  # past the setter, which rewrites the config
                vars(pipe)["_progress_bar_config"] = {**getattr(pipe, "_progress_bar_config", {}), "disable": True}
                yield
        finally:
            interrupted = getattr(pipe, "_interrupt", False)
            vars(pipe).clear()
            vars(pipe).update(before)
            if interrupted:
                pipe._interrupt = True
            if hasattr(pipe, "maybe_free_model_hooks"):
                pipe.maybe_free_model_hooks()  # what a pipeline does at its own end: models offloaded, caches cleared


def probe_scheduler(scheduler: Any, probe: PipelineProbe) -> Any:
    """A scheduler of the pipeline's own class and configuration that serves the probe instead of sampling."""
    kind = type(scheduler)

    class Probe(kind):
        order = 1
        init_noise_sigma = property(lambda self: 1.0)

        @functools.wraps(kind.set_timesteps)
        def set_timesteps(self, *args: Any, **kwargs: Any) -> None:
            self.timesteps = probe.timesteps(*args, **kwargs)
            self.sigmas = torch.ones(MOST_QUESTIONS + 1)
            self.num_inference_steps = MOST_QUESTIONS
            self._turn = -1

        def scale_model_input(self, sample: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            return sample

        @functools.wraps(kind.step)
        def step(self, model_output: Tensor, timestep: Any, sample: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor]:
            self._turn += 1
            return (probe.step(self._turn, self.timesteps, timestep, sample),)

    serving = copy.deepcopy(scheduler)
    serving.__class__ = Probe
    return serving
