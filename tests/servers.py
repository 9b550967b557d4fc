"""Another program's server as a child process on a free port: start, wait, stop."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import requests

REPOSITORY = Path(__file__).resolve().parents[1]


def folder_from_environment(variable: str) -> Path | None:
    value = os.environ.get(variable)
    return Path(value).resolve() if value else None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class ServerProcess:
    """A server that is up once `ready` says so; the caller's environment variables win over `environment`.

    Attributes:
        url: its address.
        log: the file of its output.
    """

    def __init__(
        self,
        command: Callable[[int], Sequence[str]],
        folder: Path,
        log: Path,
        environment: Mapping[str, str],
        ready: Callable[[ServerProcess], bool],
    ):
        port = free_port()
        self.url, self.log = f"http://127.0.0.1:{port}", log
        self._program = folder.name
        quiet = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                command(port), cwd=folder, env={**quiet, **environment, **os.environ},
                stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        self._wait(ready)

    def _wait(self, ready: Callable[[ServerProcess], bool], seconds: float = 240) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                if ready(self):
                    return
            except requests.RequestException:
                pass
            time.sleep(0.5)
        self.stop()
        raise RuntimeError(f"{self._program} did not start:\n" + self.said()[-3000:])

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def answers(self, path: str) -> bool:
        return requests.get(f"{self.url}{path}", timeout=5).ok

    def stop(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
