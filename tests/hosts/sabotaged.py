"""Hosts with the saboteur beside Noise Order: the double in process, a real WebUI over HTTP."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import gradio
import requests

from .client import Refused, Result
from .double.host import REPOSITORY, DoubleHost, _load
from .real import HOSTS, RealHost, Server, checkpoints

SABOTEUR = Path(__file__).parent / "extensions/saboteur"
PARAMETERS = [
    "double-eps",
    "double-flow",
    *(f"{name}:{found}" for name in HOSTS for found in checkpoints(name)[:1]),
]
"""The double, and of every real WebUI its first checkpoint: what is tested with these hosts is no matter of the model."""


def sabotage(**plan) -> dict:
    """The part of a payload that tells the saboteur what to do."""
    return {"Sabotage": {"args": [plan]}}


def with_faults(payload: dict, **plan) -> dict:
    return {**payload, "alwayson_scripts": {**payload.get("alwayson_scripts", {}), **sabotage(**plan)}}


class SabotagedDouble(DoubleHost):
    """The double; the saboteur's hooks run after Noise Order's, or before them."""

    another_checkpoint = None

    def __init__(self, family: str, before: bool = False):
        super().__init__(family)
        self._one_job_at_a_time = threading.Lock()
        self.saboteur = _load(SABOTEUR / "scripts/sabotage.py")
        self.saboteur.reload_ui = self._reload_ui
        self._add(self.saboteur.Sabotage(), 0 if before else len(self.runner.alwayson_scripts))

    def _add(self, script, place: int) -> None:
        with gradio.Blocks():
            controls = script.ui(False)
        script.args_from = len(self.defaults)
        self.defaults += [control.value for control in controls]
        script.args_to = len(self.defaults)
        self.runner.alwayson_scripts.insert(place, script)

    def _reload_ui(self) -> None:
        """The scripts' files are executed anew; the job that runs goes on with the old ones."""
        old = next(script for script in self.runner.alwayson_scripts if script.title() == "Noise Order")
        new = _load(REPOSITORY / "scripts/noise_order.py").NoiseOrder()
        with gradio.Blocks():
            new.ui(False)
        new.args_from, new.args_to = old.args_from, old.args_to
        scripts = list(self.runner.alwayson_scripts)
        scripts[scripts.index(old)] = new
        self.runner = type(self.runner)(scripts)

    def state(self) -> dict:
        return self.saboteur.state()

    def alive(self) -> dict:
        return self.saboteur.alive()

    def reloading(self, **payload) -> Result | None:
        return self.txt2img(**payload)

    def at_once(self, payloads: list[dict]) -> list[Result]:
        def one(payload):
            with self._one_job_at_a_time:  # the hosts queue their jobs
                return self.txt2img(**payload)

        with ThreadPoolExecutor(len(payloads)) as pool:
            return list(pool.map(one, payloads))


class SabotagedRealHost(RealHost):
    """A real WebUI; the saboteur's folder comes after Noise Order's in the alphabet, and so do its hooks."""

    @property
    def another_checkpoint(self) -> str | None:
        others = [found for found in checkpoints(self.server.name) if found != self.checkpoint and "inpaint" not in found]
        return others[0] if others else None

    def state(self) -> dict:
        return requests.get(f"{self.server.url}/saboteur/state", timeout=60).json()

    def alive(self) -> dict:
        return requests.get(f"{self.server.url}/saboteur/alive", timeout=60).json()

    def reloading(self, **payload) -> Result | None:
        """The picture, if the request outlives the restart of the page's server; waits for that."""
        before = self.server.said().count("Startup time")
        try:
            result = self.txt2img(**payload)
        except (requests.RequestException, Refused):
            result = None
        deadline = time.monotonic() + 240
        while not self._started(before + 1):
            assert time.monotonic() < deadline, "the page did not come back"
            time.sleep(0.5)
        return result

    def _started(self, times: int) -> bool:
        try:
            return self.server.started(times)
        except requests.RequestException:
            return False

    def at_once(self, payloads: list[dict]) -> list[Result]:
        with ThreadPoolExecutor(len(payloads)) as pool:
            return list(pool.map(lambda payload: self.txt2img(**payload), payloads))


@contextmanager
def running(parameter: str, folder: Path) -> Iterator[SabotagedDouble | SabotagedRealHost]:
    """The host that a parameter names; a real one runs meanwhile on a server of its own."""
    if parameter.startswith("double"):
        yield SabotagedDouble(parameter.removeprefix("double-"))
        return
    name, _, checkpoint = parameter.partition(":")
    server = Server(name, folder / "data", True, also=(SABOTEUR,))
    try:
        yield SabotagedRealHost(server, checkpoint)
    finally:
        server.stop()
