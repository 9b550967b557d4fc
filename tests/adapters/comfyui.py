"""A real ComfyUI, started from its folder with this repository as one of its custom nodes, and asked over HTTP.

Environment variables:
    NOISEORDER_COMFYUI          ComfyUI's folder
    NOISEORDER_COMFYUI_PYTHON   the Python that has its requirements (default: venv/bin/python in that folder)
"""

import os
import shutil
import time
import uuid
from pathlib import Path

import requests

from ..servers import REPOSITORY, ServerProcess, folder_from_environment


def folder():
    return folder_from_environment("NOISEORDER_COMFYUI")


class Refused(Exception):
    """The graph was not queued."""


class Failed(Exception):
    """A node failed, or the run was interrupted."""


class ComfyUI(ServerProcess):
    """One running process with a folder of its own."""

    def __init__(self, data: Path, judges=None):
        """
        Args:
            data: a folder that is not there yet.
            judges: folders of judges by the name that they are to have.
        """
        for name in ("custom_nodes", "user", "input", "output", "temp", "models"):
            (data / name).mkdir(parents=True)
        for node in (REPOSITORY, REPOSITORY / "tests/adapters/comfyui_pack"):
            (data / "custom_nodes" / node.name).symlink_to(node)
        for name, judge in (judges or {}).items():
            shutil.copytree(judge, data / "models/noise_order_judges" / name)
        self.data = data
        python = os.environ.get("NOISEORDER_COMFYUI_PYTHON", str(folder() / "venv/bin/python"))
        super().__init__(
            lambda port: [
                python, "main.py", "--cpu", "--port", str(port), "--base-directory", str(data), "--disable-api-nodes",
            ],
            folder(), data / "log.txt", {}, ready=lambda server: server.answers("/queue"),
        )  # fmt: skip

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
