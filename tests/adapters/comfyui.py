"""A real ComfyUI, started from its folder with this repository as one of its custom nodes, and asked over HTTP.

Environment variables:
    NOISEORDER_COMFYUI          ComfyUI's folder
    NOISEORDER_COMFYUI_PYTHON   the Python that has its requirements (default: venv/bin/python in that folder)
"""

import os
import signal
import socket
import subprocess
import time
import uuid
from pathlib import Path

import requests

REPOSITORY = Path(__file__).resolve().parents[2]


def folder():
    value = os.environ.get("NOISEORDER_COMFYUI")
    return Path(value).resolve() if value else None


class Refused(Exception):
    """The graph was not queued."""


class Failed(Exception):
    """A node failed, or the run was interrupted."""


class ComfyUI:
    """One running process with a folder of its own."""

    def __init__(self, data: Path):
        for name in ("custom_nodes", "user", "input", "output", "temp", "models"):
            (data / name).mkdir(parents=True)
        for node in (REPOSITORY, REPOSITORY / "tests/adapters/comfyui_pack"):
            (data / "custom_nodes" / node.name).symlink_to(node)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url, self.data, self.log = f"http://127.0.0.1:{port}", data, data / "log.txt"
        python = os.environ.get("NOISEORDER_COMFYUI_PYTHON", str(folder() / "venv/bin/python"))
        command = [python, "main.py", "--cpu", "--port", str(port), "--base-directory", str(data), "--disable-api-nodes"]
        environment = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", **os.environ}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, cwd=folder(), env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        self._wait()

    def _wait(self, seconds=240):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                if requests.get(f"{self.url}/queue", timeout=5).ok:
                    return
            except requests.RequestException:
                pass
            time.sleep(0.5)
        self.stop()
        raise RuntimeError("ComfyUI did not start:\n" + self.log.read_text(errors="replace")[-3000:])

    def stop(self):
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)

    def get(self, path):
        answer = requests.get(f"{self.url}{path}", timeout=60)
        answer.raise_for_status()
        return answer.json()

    def queue(self, graph):
        answer = requests.post(f"{self.url}/prompt", json={"prompt": graph, "client_id": uuid.uuid4().hex}, timeout=60)
        if not answer.ok:
            raise Refused(answer.text)
        return answer.json()["prompt_id"]

    def finish(self, number, seconds=300):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            history = self.get(f"/history/{number}").get(number)
            if history and history["status"]["completed"]:
                return history["outputs"]
            if history and history["status"]["status_str"] == "error":
                raise Failed(str(history["status"]["messages"]))
            time.sleep(0.05)
        raise TimeoutError("ComfyUI did not finish")

    def run(self, graph):
        """The files that a graph saves, and what its model was shown: (rows, sigma) per evaluation."""
        self.get("/noise_order_test/seen")
        outputs = self.finish(self.queue(graph))
        files = [file for output in outputs.values() for kind in output.values() for file in kind]
        paths = [self.data / "output" / file["subfolder"] / file["filename"] for file in files]
        return paths, self.get("/noise_order_test/seen")
