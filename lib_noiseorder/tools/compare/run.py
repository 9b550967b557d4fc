"""Making the pictures: pairs go to whichever generator is free; what fails is tried again, then left to the others."""

from __future__ import annotations

import dataclasses
import threading
from collections import deque
from collections.abc import Callable, Sequence

from ..equal_cost import more_steps
from ..failures import Unavailable
from .arms import Arm
from .folder import RunFolder
from .generators import Generator, Made, Request
from .plan import Plan, Sampling
from .prompts import Pair

BACK_OFF = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
"""Seconds between the attempts at a picture."""

Progress = Callable[[int, int], None]
"""Told the pictures done and the pictures in all."""


def generate(
    plan: Plan,
    folder: RunFolder,
    generators: Sequence[Generator],
    progress: Progress = lambda *_: None,
    say: Callable[[str], None] = lambda _: None,
    share: tuple[int, int] = (0, 1),
    back_off: Sequence[float] | None = None,
) -> None:
    """Make every picture of the plan that the folder does not have.

    All arms of a pair are made by one generator, one after the other, so that a pair's pictures differ by nothing else.

    Args:
        generators: each makes one picture at a time.
        say: told when a generator is given up.
        share: this process' number and the number of processes; every process takes its own pairs.
        back_off: seconds between the attempts at a picture; BACK_OFF without it.

    Raises:
        OSError: no generator is left, or one refuses, or the model changed, or the disk is full. What was finished is kept.
    """
    number, of = share
    waits = BACK_OFF if back_off is None else back_off
    wanted = [pair for pair in plan.pairs if pair.number % of == number]
    work = _Work(plan, folder, wanted, progress)
    threads = [threading.Thread(target=_serve, args=(work, one, waits, say), daemon=True) for one in generators]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            while thread.is_alive():
                thread.join(0.2)
    except KeyboardInterrupt:
        work.stop(None)
        for thread in threads:
            thread.join(2)
        raise
    if work.failure is not None:
        raise work.failure
    if work.missing:
        raise Unavailable("; ".join(work.lost) + f". {work.missing} pictures are missing; give the same command to go on")


class _Work:
    """The pairs that wait, and those in the making."""

    def __init__(self, plan: Plan, folder: RunFolder, pairs: Sequence[Pair], progress: Progress):
        self.plan, self.folder = plan, folder
        self.failure: BaseException | None = None
        self.lost: list[str] = []
        """Why generators were given up."""
        self.stopped = threading.Event()
        self._waiting = deque(pair for pair in pairs if not all(folder.has(pair.number, arm.name) for arm in plan.arms))
        self._in_the_making = 0
        self._changed = threading.Condition()
        self._progress = progress
        self._total = len(pairs) * len(plan.arms)
        self.missing = sum(not folder.has(pair.number, arm.name) for pair in self._waiting for arm in plan.arms)
        progress(self._total - self.missing, self._total)

    def take(self) -> Pair | None:
        """A pair to make; None when there is nothing left to do. Waits while another's pair may yet come back."""
        with self._changed:
            while not self._waiting and self._in_the_making and not self.stopped.is_set():
                self._changed.wait()
            if self.stopped.is_set() or not self._waiting:
                return None
            self._in_the_making += 1
            return self._waiting.popleft()

    def finish(self) -> None:
        with self._changed:
            self._in_the_making -= 1
            self._changed.notify_all()

    def give_back(self, pair: Pair, reason: str) -> None:
        """The pair's generator is lost; another may take it."""
        with self._changed:
            self.lost.append(reason)
            self._in_the_making -= 1
            self._waiting.appendleft(pair)
            self._changed.notify_all()

    def stop(self, failure: BaseException | None) -> None:
        with self._changed:
            self.failure = failure
            self.stopped.set()
            self._changed.notify_all()

    def tell(self) -> None:
        with self._changed:
            self.missing -= 1
            self._progress(self._total - self.missing, self._total)


def _serve(work: _Work, generator: Generator, back_off: Sequence[float], say: Callable[[str], None]) -> None:
    while (pair := work.take()) is not None:
        try:
            _make_pair(work, generator, pair, back_off)
        except Unavailable as error:
            reason = f"{error}; given up after {len(back_off) + 1} attempts"
            say(reason)
            work.give_back(pair, reason)
            return
        except BaseException as error:
            work.stop(error)
            return
        work.finish()


def _make_pair(work: _Work, generator: Generator, pair: Pair, back_off: Sequence[float]) -> None:
    for arm in work.plan.arms:
        if work.folder.has(pair.number, arm.name) or work.stopped.is_set():
            continue
        sampling = sampling_of(arm, pair, work.plan, work.folder)
        request = Request(pair.prompt, pair.seed, sampling, arm.settings)
        made = _made(work, generator, request, back_off)
        if made is None:
            return
        work.folder.add(pair.number, arm.name, made, sampling.steps, generator.name)
        work.tell()


def _made(work: _Work, generator: Generator, request: Request, back_off: Sequence[float]) -> Made | None:
    for wait in (*back_off, None):
        try:
            return generator.make(request)
        except Unavailable:
            if wait is None:
                raise
            if work.stopped.wait(wait):
                return None
    return None


def sampling_of(arm: Arm, pair: Pair, plan: Plan, folder: RunFolder) -> Sampling:
    """How an arm's picture of a pair is sampled.

    An arm of equal cost has as many more steps as pay for what the picture of its other arm announced.
    """
    like = next(other for other in plan.arms if other.name == (arm.costs_as or arm.name))
    changed = {name: value for name, value in (("steps", like.steps), ("cfg", like.cfg)) if value is not None}
    sampling = dataclasses.replace(plan.sampling, **changed)
    if arm.costs_as is None:
        return sampling
    other = folder.records[pair.number, arm.costs_as]
    more = more_steps(other.extra_evaluations, other.evaluations_per_step)
    return dataclasses.replace(sampling, steps=sampling.steps + more)
