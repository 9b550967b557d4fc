"""A probe through a diffusers pipeline: its own loop answers what the core asks of its model.

The pipeline is run with a probe in its scheduler's place. Encoding of prompts, ids, guidance embeds, adapters, offloading
and the choice between two transformers stay the pipeline's; the probe only decides which latents the model sees next
(`step` returns them) and at which timestep (the loop's timesteps are views of a tensor that the probe writes into).

An answer is read where the pipeline gives it to its scheduler, put together, cut and turned round as the scheduler needs it. To
read one of several (with the prompt, without) alone, every slot of the step is given that same answer: whatever guidance
makes of equal answers is that answer. Turns of the loop that only do so evaluate nothing.

The core asks by calling functions, the pipeline answers by going round its loop. The two meet by repetition: the core is
run again from the start after every answer, with all answers so far at hand, until it has no question left. It is
deterministic, and cheap beside a model evaluation; the alternative would be a thread.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...answers import Answers, same, step_rounding
from .guidance import ALONE, Guidance, measured
from .loop import in_place
from .models import KeptState, ModelCall, as_output, denoising_models, of_output, why_asked_as_a_whole
from .rehearsal import MadeUp, Rehearsal, Replayed, Unusable, as_sample, understood
from .schedule import levels_stepped_through

MOST_TURNS = 20000
"""Length of the probe's schedule; the probe ends it long before."""
ROUNDING = 1e-5
"""Relative difference between two ways of taking the same step, in float32."""


@dataclass(frozen=True)
class Question:
    latents: Tensor
    """What the model is to see [B, …]."""
    timestep: float
    """The host's timestep for it."""
    sigma: float = 1.0
    """The scheduler's sigma for it."""
    pair: bool = False
    """Whether the answer without the prompt is wanted, too."""


@dataclass(frozen=True)
class Answer:
    """What the scheduler would be given [B, …]."""

    cond: Tensor
    uncond: Tensor


class Unanswered(BaseException):
    """The core asked something that the pipeline has not answered yet; no error, and nobody's to catch but the probe's."""

    def __init__(self, question: Question):
        super().__init__("a question to the pipeline")
        self.question = question


class _Finished(Exception):
    """Leaves the pipeline: the core has no question left."""


@dataclass
class _Turn:
    """One turn of the pipeline's loop: what is evaluated and given in it, and what was seen."""

    question: Question
    evaluate: frozenset[int] | None = frozenset()
    """Slots whose answer is evaluated; None: all."""
    given: Tensor | int | None = None
    """The answer of the others: one that is known, or the made-up one of that slot; None: that of the slot that is evaluated,
    or a made-up one of their own."""
    answers: dict[int, Tensor] = field(default_factory=dict)
    """Slot: what was evaluated."""
    asked: list[tuple[str, Any, Tensor]] = field(default_factory=list)
    """Per slot the model's name, everything else that was asked with, and the latents."""
    answer_alone: bool = True
    """Whether every slot had the same answer."""
    output: Tensor | None = None
    """What the scheduler was given in the end."""


_Turns = Generator[_Turn, _Turn, Any]


class PipelineProbe:
    """One run of a pipeline that answers the core's questions.

    Attributes:
        guidance: how it puts the answers of its first step together.
        answers: every answer given, by model and everything that it was asked with.
        ambiguous: whether an answer depends on more than what its slot was asked with: where the pipeline asks the same twice
            in a step, something else makes the difference.
        started: whether the pipeline was seen to start from the latents that it is given.
        evaluations: how many were made per picture.
        whole: whether no slot can be asked without the others.
    """

    def __init__(self, pipe: Any, rehearsal: Rehearsal, others: Replayed, work: Callable[[PipelineProbe], Any]):
        self._pipe, self._rehearsal, self._others, self._work = pipe, rehearsal, others, work
        self._name, self._models = type(pipe).__name__, denoising_models(pipe)
        self._made_up = MadeUp(self._models, rehearsal.shapes)
        self._given = 0
        self._answered: list[Answer] = []
        self._named: list[float] = []
        self._guidance: dict[int, Guidance] = {1: ALONE}
        self._state = KeptState(self._models)
        self.whole = why_asked_as_a_whole(self._models) is not None
        self.answers = Answers(max(ROUNDING, step_rounding(levels_stepped_through(rehearsal.scheduler))))
        self.ambiguous = False
        self.result: Any = None
        self.started, self.evaluations = False, 0
        self._ahead = self._all_turns()
        self._turn = next(self._ahead)

    @property
    def guidance(self) -> Guidance:
        return self._guidance[self._rehearsal.slots[0]]

    def ask(self, question: Question) -> Answer:
        """The pipeline's answer.

        Raises:
            Unanswered: it is not known yet; the core is run again when it is.
        """
        if self._given == len(self._answered):
            raise Unanswered(question)
        self._given += 1
        return self._answered[self._given - 1]

    def run(self, call: Mapping[str, Any], guidance_scales: Iterable[float]) -> Any:
        """Run the pipeline with these arguments, its latents among them, and return the work's result; None if the pipeline
        was interrupted.

        Raises:
            Unusable: the pipeline does not start from the latents given, or cannot be asked.
            What the pipeline raises passes through.
        """
        self._named = list(guidance_scales)
        with in_place(self._pipe, self), suppress(_Finished):
            self._pipe(**call)
        return self.result

    # -- what is done in which turn ------------------------------------------------------------------------------------

    def _all_turns(self) -> _Turns:
        rehearsal = self._rehearsal
        assert rehearsal.noise is not None
        first = Question(rehearsal.noise, rehearsal.timesteps[0], _sigma(rehearsal.scheduler))
        seen = yield _Turn(first)
        yield from self._measure(first, seen)
        known = seen.asked
        self.ambiguous = self.whole or any(same(a, b) for n, a in enumerate(known) for b in known[:n])
        while True:
            self._given = 0
            try:
                self.result = self._work(self)
                return
            except Unanswered as unanswered:
                question = unanswered.question
            self._others.forget()
            self._answered.append((yield from self._ask(question)))

    def _measure(self, at: Question, seen: _Turn) -> _Turns:
        """Learn how as many answers as were just seen are put together."""
        slots, alone = len(seen.asked), []
        if slots == 1:
            return
        for slot in range(slots):
            turn = yield _Turn(at, given=slot)
            alone.append(turn.output)
        self._guidance[slots] = measured(_known(seen.output), alone, self._named, self._name)

    def _ask(self, question: Question) -> _Turns:
        guidance = self.guidance
        own = len(guidance.weights)  # a step may ask for more, which is another question
        if own == 1 < max(self._rehearsal.slots):  # guidance sets in later: see first which slot has the prompt then
            guidance = yield from self._guidance_there(question)
        ask = None if self.whole else frozenset(range(own)) if question.pair else frozenset({guidance.cond})
        seen = yield _Turn(question, ask)
        if len(seen.asked) < own:
            guidance = yield from self._guidance_there(question)
            if guidance.cond not in seen.answers:
                seen = yield _Turn(question, frozenset({guidance.cond}))
        self._remember(seen)
        alone = {slot: seen.output for slot in seen.answers if seen.answer_alone}
        for slot, answer in seen.answers.items():
            if slot not in alone and (slot == guidance.cond or question.pair):
                alone[slot] = (yield _Turn(question, given=answer)).output
        cond = _known(alone[guidance.cond])
        if not question.pair or len(guidance.weights) == 1:
            return Answer(cond, cond)
        return Answer(cond, guidance.away_from([_known(alone[slot]) for slot in range(len(guidance.weights))]))

    def _guidance_there(self, at: Question) -> _Turns:
        """How as many answers as that step has are put together."""
        seen = yield _Turn(at)
        slots = len(seen.asked)
        if slots not in self._guidance:
            yield from self._measure(at, seen)
        return self._guidance[slots]

    def _remember(self, seen: _Turn) -> None:
        for slot, answer in seen.answers.items():
            name, question, latents = seen.asked[slot]
            self.answers.note((name, question), latents, answer)

    # -- the pipeline's side -------------------------------------------------------------------------------------------

    def timesteps(self, scheduler: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        """The probe's own schedule, unwritten."""
        own = self._rehearsal.scheduler
        first = own.timesteps[0]
        scheduler.timesteps = torch.full((MOST_TURNS,), float(first), dtype=first.dtype, device=first.device)
        scheduler.sigmas = torch.full((MOST_TURNS + 1,), _sigma(own))
        scheduler.num_inference_steps = MOST_TURNS

    def step(self, index: int, output: Tensor, timestep: Any, sample: Tensor, scheduler: Any) -> Tensor:
        """The pipeline has finished its loop's turn `index`: take the answer, give the next question's latents."""
        turn = self._turn
        if index == 0 and not _equal(sample, _known(self._rehearsal.noise)):
            raise Unusable(f"{self._name} does not start from the latents that it is given")
        if float(timestep) != float(scheduler.timesteps[index]):
            raise Unusable(f"{self._name} goes its own way through the timesteps")
        self.started = True
        turn.output = as_sample(self._name, output, sample).clone()
        self._state.put_back()
        try:
            self._turn = self._ahead.send(turn)
        except StopIteration:
            raise _Finished from None
        if index + 1 == MOST_TURNS:
            raise RuntimeError(f"more than {MOST_TURNS} turns")
        question = self._turn.question
        scheduler.timesteps[index + 1] = question.timestep
        scheduler.sigmas[index + 1] = question.sigma
        return question.latents.to(sample)

    def model(self, name: str, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Stands in for a denoising model; leaves out what nobody asked for."""
        turn, call = self._turn, understood(self._name, args, kwargs, self._rehearsal.pictures)
        first = len(turn.asked)
        self.whole = self.whole or not call.splits
        turn.asked += [(name, call.question(n), call.latents(n).clone()) for n in range(call.slots)]
        wanted = [n for n in range(call.slots) if turn.evaluate is None or first + n in turn.evaluate]
        self.evaluations += len(wanted)
        if len(wanted) == call.slots:
            output = original(*args, **kwargs)
            if turn.answers or call.slots > 1:
                turn.answer_alone = False
            turn.answers |= {first + n: answer.clone() for n, answer in enumerate(of_output(output, call.slots))}
            return output
        for n in wanted:
            part_args, part_kwargs = call.part(n)
            turn.answers[first + n] = of_output(original(*part_args, **part_kwargs), 1)[0].clone()
        return as_output([self._filled(turn, name, call, n, first + n) for n in range(call.slots)], call.as_list)

    def _filled(self, turn: _Turn, name: str, call: ModelCall, within: int, slot: int) -> Tensor:
        if slot in turn.answers:
            return turn.answers[slot]
        if isinstance(turn.given, Tensor):
            return turn.given
        if turn.given is not None:
            return self._made_up.answer(name, call, within, turn.given)
        if turn.answers:
            return next(iter(turn.answers.values()))
        turn.answer_alone = False
        return self._made_up.answer(name, call, within, slot)

    def other(self, name: str, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return self._others.call(name, original, *args, **kwargs)


def _sigma(scheduler: Any) -> float:
    sigmas = getattr(scheduler, "sigmas", None)
    return 1.0 if sigmas is None else float(sigmas[0])


def _known(tensor: Tensor | None) -> Tensor:
    assert tensor is not None
    return tensor


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.equal(a.to(b), b)
