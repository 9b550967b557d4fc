"""What ordering the noise costs, measured: plain, ordered and compared pictures side by side in one run, as ratios.

Every run makes the picture in every way, in an order that moves on from run to run, and ratios are taken within a run before
their median is: a machine that is busy with something else slows both sides down.

    plain                    one generation: T steps
    ordered                  with injection as the settings' defaults have it: K evaluations more
    selection                with the preset Automatic
    full pass                a whole extra sampling pass instead, as other implementations of the paper take it

An evaluation takes the share c of a step; with guidance, a step is two evaluations run as one batch. The ideal of `ordered` is
(T + K·c) / T: the evaluations, and nothing else.

Of a judge the cost is seconds and bytes (`bench_judge`): what it is a share of, depends on the model that makes the pictures.
"""

from __future__ import annotations

import gc
import os
import re
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any

import torch

from ...formulas import key_timesteps
from ...judges import load, on_device, scores_one_by_one
from ...settings import CUSTOM, NoiseOrderSettings
from ..lab.packaged import folder as packaged_folder

INJECTION = NoiseOrderSettings(preset=CUSTOM)
AUTOMATIC = NoiseOrderSettings(enabled=True)
ROUNDS = 3
"""How often a run makes every picture: what disturbs a busy machine only ever makes it slower, so the fastest counts."""

Way = Callable[[], Any]
"""Makes one picture, or does another piece of work that is to be timed."""
Times = Mapping[str, float]
"""Seconds by the name of the way, of one run."""


@dataclass(frozen=True)
class Subject:
    """What is measured: a model with its sampler, and the ways of making a picture with them.

    Attributes:
        name: for the report.
        steps: of the sampler.
        ways: "plain", "ordered", "selection", "full pass", and whatever `evaluation` needs besides.
        evaluation: seconds of one evaluation, from the times of a run.
        announced: evaluations that the selection says it adds.
        calls: of the model for a selected picture, two evaluations each; None where unknown.
        questions: evaluations that injection adds, K.
    """

    name: str
    steps: int
    ways: Mapping[str, Way]
    evaluation: Callable[[Times], float]
    announced: int
    calls: int | None = None
    questions: int = field(default_factory=lambda: len(key_timesteps(INJECTION)))


@dataclass(frozen=True)
class JudgeSubject:
    """A judge that is measured, and what it is asked.

    Attributes:
        name: for the report.
        folder: the judge's.
        picture: [1, 3, H, W] in 0…1.
        prompt: of that picture.
    """

    name: str
    folder: Path
    picture: torch.Tensor
    prompt: str


def measure(ways: Mapping[str, Way], runs: int, clock: Callable[[], float] = time.perf_counter) -> list[dict[str, float]]:
    """The times of every run, each the fastest of ROUNDS; after a run that does not count, with the garbage collector off."""
    names = list(ways)
    for name in names:
        ways[name]()
    measured, collecting = [], gc.isenabled()
    try:
        for run in range(runs):
            gc.collect()
            gc.disable()
            first, times = run % len(names), dict.fromkeys(names, inf)
            for name in (names[first:] + names[:first]) * ROUNDS:
                started = clock()
                ways[name]()
                times[name] = min(times[name], clock() - started)
            measured.append(times)
    finally:
        if collecting:
            gc.enable()
    return measured


def ratios(subject: Subject, times: Times) -> dict[str, float]:
    """The figures of one run."""
    steps, plain = subject.steps, times["plain"]
    share = subject.evaluation(times) * steps / plain
    found = {
        "ordered_over_plain": times["ordered"] / plain,
        "ideal": (steps + subject.questions * share) / steps,
        "selection_over_plain": times["selection"] / plain,
        "selection_announced": 1 + subject.announced / (2 * steps),
        "full_pass_over_plain": times["full pass"] / plain,
        "evaluation_share": share,
    }
    if subject.calls is not None:
        found["selection_ideal"] = subject.calls / steps
    return found


def bench(subject: Subject, runs: int, clock: Callable[[], float] = time.perf_counter) -> dict[str, Any]:
    """Medians of paired runs: `ratios`, and beside them their spread and the seconds behind them.

    Raises:
        ValueError: fewer than one run.
    """
    if runs < 1:
        raise ValueError(f"--runs = {runs} is not an integer from 1 on")
    measured = measure(subject.ways, runs, clock)
    found = [ratios(subject, times) for times in measured]
    return {
        **{name: round(statistics.median(one[name] for one in found), 4) for name in found[0]},
        "spread": {name: [round(pick(one[name] for one in found), 4) for pick in (min, max)] for name in found[0]},
        "seconds": {name: round(statistics.median(times[name] for times in measured), 5) for name in subject.ways},
        "subject": subject.name,
        "steps": subject.steps,
        "runs": runs,
        "threads": torch.get_num_threads(),
        "clock": "wall" if clock is time.perf_counter else "processor",
    }


def bench_judge(subject: JudgeSubject, runs: int, clock: Callable[[], float] = time.perf_counter) -> dict[str, Any]:
    """What a judge costs, loaded and asked as the hosts do it; on the GPU, too, where there is one with room for it.

    Before it, the lab's judge is loaded and asked, so that the libraries count neither as time nor as memory. A GPU is timed by
    the wall: that of a picture includes moving the weights there and back, which the hosts do once for all pictures of a batch.

    Raises:
        Missing: it cannot be loaded, or failed.
    """
    prompts = [subject.prompt]
    scores_one_by_one(load(packaged_folder("judge")), subject.picture, prompts, "cpu")
    memory, started = Resident(), clock()
    judge = load(subject.folder)
    seconds, spread = {"loading": clock() - started}, {}
    bytes_added = {"loaded": memory.now(), "peak of loading": memory.peak()}

    def timed(ways: Mapping[str, Way], clock: Callable[[], float]) -> None:
        measured = measure(ways, runs, clock)
        for name in ways:
            times = [run[name] for run in measured]
            seconds[name], spread[name] = statistics.median(times), [round(pick(times), 5) for pick in (min, max)]

    def moved(device: str) -> bool:
        with on_device(judge, device):
            return judge.device.type == device

    timed({"picture": lambda: scores_one_by_one(judge, subject.picture, prompts, "cpu")}, clock)
    bytes_added["peak of scoring"] = memory.peak()
    if torch.cuda.is_available() and moved("cuda"):
        torch.cuda.reset_peak_memory_stats()
        scored = "picture on the GPU", lambda: scores_one_by_one(judge, subject.picture, prompts, "cuda")
        timed(dict([scored, ("of it, there and back", lambda: moved("cuda"))]), time.perf_counter)
        bytes_added["peak on the GPU"] = torch.cuda.max_memory_allocated()
    return {
        "weights_on_a_gpu": judge.nbytes,
        "bytes_added": bytes_added,
        "seconds": {name: round(value, 5) for name, value in seconds.items()},
        "spread": spread,
        "subject": subject.name,
        "runs": runs,
        "threads": torch.get_num_threads(),
        "clock": "wall" if clock is time.perf_counter else "processor",
    }


class Resident:
    """Bytes that this process has in memory beyond those that it had when this was made; None where the system is no Linux."""

    def __init__(self) -> None:
        gc.collect()
        self._start = 0
        self.peak()
        self._start = self.now() or 0

    def now(self) -> int | None:
        """At this moment."""
        return self._said("VmRSS")

    def peak(self) -> int | None:
        """The most since this was last asked."""
        most = self._said("VmHWM")
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            return None
        return most

    def _said(self, entry: str) -> int | None:
        try:
            found = re.search(rf"^{entry}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
        except OSError:
            return None
        return found and int(found[1]) * 1024 - self._start


def processor_clock(pid: int) -> Callable[[], float]:
    """The seconds of processor time that a process has used, in all its threads; Linux only.

    Raises:
        OSError: there is no such process, or no /proc.
    """
    stat = Path(f"/proc/{pid}/stat")
    ticks = os.sysconf("SC_CLK_TCK")

    def clock() -> float:
        fields = stat.read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / ticks

    clock()
    return clock
