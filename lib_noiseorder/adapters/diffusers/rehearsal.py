"""A pipeline's call gone through once with nothing evaluated: which calls it makes, and what its `latents` mean.

The pipeline runs at its own timesteps while its denoising models answer with noise. From what reaches the scheduler one sees
the initial latents, how often the models are asked at every step, and how long guidance stays what it is.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ...answers import same
from ...settings import INFOTEXT_PREFIX
from .loop import Draws, in_place
from .models import ModelCall, as_output, denoising_models

_SPREAD = 0.1
"""How far made-up answers are apart, so that guidance that rescales them is met where it acts on real ones."""


class Unusable(TypeError):
    """A pipeline that cannot be asked, or whose `latents` are not its initial noise."""

    def __init__(self, reason: str):
        super().__init__(f"{INFOTEXT_PREFIX}: {reason}")


class MadeUp:
    """Answers that nobody evaluated: per slot a noise of its own, the same in every turn."""

    SHAPES = ("as shown", "as configured", "with a variance")
    """What a model's answer may be shaped like, likeliest first."""

    def __init__(self, models: Mapping[str, nn.Module], shapes: str):
        self._models, self._shapes = models, shapes
        self._known: dict[Any, Tensor] = {}

    def answer(self, name: str, call: ModelCall, within: int, slot: int) -> Tensor:
        """[B, …], for the call's slot `within`, the turn's slot `slot`."""
        shown = call.latents(within)
        key = slot, tuple(shown.shape), shown.dtype
        if key not in self._known:
            shape = self._shape(name, shown)
            noises = [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in (0, slot + 1)]
            self._known[key] = (noises[0] + _SPREAD * noises[1]).to(shown)
        return self._known[key]

    def _shape(self, name: str, shown: Tensor) -> list[int]:
        config = getattr(self._models[name], "config", {})
        taken, given = config.get("in_channels"), config.get("out_channels")
        shape = list(shown.shape)
        if self._shapes == "with a variance":
            shape[1] *= 2
        elif self._shapes == "as configured" and isinstance(taken, int) and isinstance(given, int) and taken in shape[1:]:
            shape[shape.index(taken, 1)] = given
        return shape


class Replayed:
    """Encoders and ControlNets, asked once: the same call again gives the same answer."""

    def __init__(self) -> None:
        self._known: list[tuple[str, Any, Any]] = []

    def call(self, name: str, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        for asked, arguments, answer in self._known:
            if asked == name and same(arguments, (args, kwargs)):
                return copy.copy(answer)
        answer = original(*args, **kwargs)
        self._known.append((name, (args, dict(kwargs)), answer))
        return copy.copy(answer)

    def forget(self) -> None:
        self._known.clear()

    def kept(self) -> Replayed:
        """The same answers, not forgotten with these."""
        other = Replayed()
        other._known += self._known
        return other


@dataclass
class Rehearsal:
    """What was seen."""

    pictures: int
    shapes: str = MadeUp.SHAPES[0]
    """What its models' answers are shaped like."""
    scheduler: Any = None
    """A copy of the pipeline's, with the timesteps of the call."""
    noise: Tensor | None = None
    """The pipeline's own initial latents as its scheduler sees them [B, …], of unit variance."""
    drawn: list[Tensor] = field(default_factory=list)
    timesteps: list[float] = field(default_factory=list)
    """Of every call of the scheduler."""
    slots: list[int] = field(default_factory=list)
    """Evaluations per picture of every step."""
    asked: bool = False
    """Whether a model was asked at all."""
    steady: int = 0
    """How many of the first steps ask as often as the very first, under the same guidance."""

    @property
    def evaluations(self) -> int:
        """Evaluations per picture of the whole run."""
        return sum(self.slots)


def rehearse(pipe: Any, call: Mapping[str, Any], pictures: int, others: Replayed) -> Rehearsal:
    """Go through a call; generators are advanced as by its own draws.

    Raises:
        Unusable: the pipeline does not sample as is known here.
        What the pipeline raises passes through.
    """
    before, first = RandomStates(call.get("generator")), None
    for shapes in MadeUp.SHAPES:
        seen, draws = Rehearsal(pictures, shapes), Draws()
        try:
            with draws, in_place(pipe, Rehearsing(pipe, seen, others)), suppress(_Over):
                pipe(**call)
        except Exception as error:
            first = first or error
            if not seen.asked or seen.timesteps:  # before the first answer, or after it fitted
                raise
            before.put_back()
        else:
            seen.drawn = draws.drawn
            return seen
    assert first is not None
    raise first


class RandomStates:
    """Random states as they are now, to be put back."""

    def __init__(self, generator: Any):
        generators = generator if isinstance(generator, list) else [generator]
        self._own = [(one, one.get_state()) for one in generators if isinstance(one, torch.Generator)]
        self._everybodys = torch.get_rng_state()
        self._devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None

    def put_back(self) -> None:
        for generator, state in self._own:
            generator.set_state(state)
        torch.set_rng_state(self._everybodys)
        if self._devices is not None:
            torch.cuda.set_rng_state_all(self._devices)


class _Over(Exception):
    """Leaves the pipeline after its last step."""


class Rehearsing:
    """Stands in for scheduler and models while nothing is evaluated."""

    def __init__(self, pipe: Any, seen: Rehearsal, others: Replayed):
        self._seen, self._name = seen, type(pipe).__name__
        self._made_up = MadeUp(denoising_models(pipe), seen.shapes)
        self._others = others
        self._own = copy.deepcopy(pipe.scheduler)
        self._slots = 0
        self._output: Tensor | None = None
        self._last: dict[str, Any] = {}

    def timesteps(self, scheduler: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        self._own.set_timesteps(*args, **kwargs)
        for name, value in vars(self._own).items():
            vars(scheduler)[name] = value
        self._seen.scheduler = self._own

    def model(self, name: str, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._seen.asked = True
        call = understood(self._name, args, kwargs, self._seen.pictures)
        answers = [self._made_up.answer(name, call, n, self._slots + n) for n in range(call.slots)]
        self._slots += call.slots
        return as_output(answers, call.as_list)

    def other(self, name: str, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self._seen.noise is None or name not in self._last:
            self._last[name] = self._others.call(name, original, *args, **kwargs)
        return copy.copy(self._last[name])  # from the second turn on nobody looks at what it says

    def step(self, index: int, output: Tensor, timestep: Any, sample: Tensor, scheduler: Any) -> Tensor:
        seen = self._seen
        if torch.as_tensor(timestep).numel() != 1:
            raise Unusable(f"{self._name} takes its latents through different timesteps at a time")
        if len(sample) != seen.pictures:
            raise Unusable(f"{self._name} samples {len(sample)} latents for {seen.pictures} pictures")
        if not self._slots:
            raise Unusable(f"{self._name} samples without asking a denoising model that is known")
        as_sample(self._name, output, sample)
        if seen.noise is not None and not torch.allclose(sample, seen.noise, rtol=1e-3, atol=1e-3):
            raise Unusable(f"{self._name} mixes something into its latents between the steps")
        if self._output is None:
            seen.noise, self._output = sample.clone(), output.clone()
        seen.timesteps.append(float(timestep))
        seen.slots.append(self._slots)
        as_the_first = self._slots == seen.slots[0] and torch.allclose(output, self._output, rtol=1e-3, atol=1e-3)
        if as_the_first and seen.steady == index:
            seen.steady += 1
        self._slots = 0
        if index + 1 == len(scheduler.timesteps):
            raise _Over
        return sample


def understood(pipeline: str, args: tuple, kwargs: dict[str, Any], pictures: int) -> ModelCall:
    """The call of a denoising model.

    Raises:
        Unusable: it is none that is known here.
    """
    try:
        return ModelCall(args, kwargs, pictures)
    except TypeError as error:
        raise Unusable(f"{pipeline} cannot be asked: {error}") from None


def as_sample(pipeline: str, output: Tensor, sample: Tensor) -> Tensor:
    """What a scheduler is given, without the variance that some models predict with it.

    Raises:
        Unusable: it has not the shape of the latents.
    """
    if output.ndim > 1 and output.shape[1] == 2 * sample.shape[1] and output.shape[2:] == sample.shape[2:]:
        return output[:, : sample.shape[1]]
    if output.shape != sample.shape:
        shapes = f"{tuple(output.shape)} for latents of shape {tuple(sample.shape)}"
        raise Unusable(f"the scheduler of {pipeline} is given {shapes}")
    return output
