"""A real WebUI, started from its folder with this repository as an extension, or without it, and asked over HTTP.

Environment variables, NAME being one of HOSTS:
    NOISEORDER_NAME              the WebUI's folder, ready to run, with small checkpoints in models/Stable-diffusion
    NOISEORDER_NAME_PYTHON       its Python (default: venv/bin/python in that folder)
    NOISEORDER_NAME_FLAGS        its command-line flags (default: run on the CPU)
    NOISEORDER_NAME_CHECKPOINTS  which of its checkpoints to use, separated by commas (default: all of them)
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import requests

from ..servers import REPOSITORY, ServerProcess, folder_from_environment
from .client import Refused, Result, decoded
from .families import family_of

_QUIET = "--skip-torch-cuda-test --skip-python-version-check --skip-version-check --no-hashing"
FLAGS = {
    "A1111": f"--use-cpu all --no-half --do-not-download-clip --no-download-sd-model {_QUIET}",
    "FORGE": f"--always-cpu --no-download-sd-model {_QUIET}",
    "REFORGE": f"--always-cpu --no-download-sd-model {_QUIET}",
    "NEO": f"--cpu {_QUIET}",
    "CLASSIC": f"--always-cpu --no-download-sd-model {_QUIET}",
}
HOSTS = tuple(FLAGS)
OPTIONS = {"live_previews_enable": False, "show_progress_type": "Approx cheap", "randn_source": "CPU"}
_ASKS_FOR_MODULES = ("FORGE", "NEO")
_SAMPLES_THE_ENCODER_UNSEEDED = ("FORGE", "REFORGE", "NEO", "CLASSIC")


def folder(name: str) -> Path | None:
    return folder_from_environment(f"NOISEORDER_{name}")


def checkpoints(name: str) -> list[str]:
    path = folder(name)
    files = (path / "models/Stable-diffusion").glob("*") if path else ()
    found = sorted(file for file in files if file.suffix in (".safetensors", ".gguf"))
    wanted = os.environ.get(f"NOISEORDER_{name}_CHECKPOINTS", "")
    return [file.stem for file in found if not wanted or file.stem in wanted.split(",")]


def commit(name: str) -> str:
    """The host's commit: of a file COMMIT in its folder, else of its git repository; "unknown" without either."""
    path = folder(name)
    if (path / "COMMIT").is_file():
        return (path / "COMMIT").read_text().strip()
    asked = subprocess.run(["git", "-C", str(path), "rev-parse", "HEAD"], capture_output=True, text=True)
    return asked.stdout.strip() if asked.returncode == 0 else "unknown"


class Server(ServerProcess):
    """One running WebUI process with a data folder of its own."""

    def __init__(self, name: str, data: Path, with_extension: bool, also: Sequence[Path] = ()):
        """
        Args:
            name: one of HOSTS.
            data: a folder that is not there yet.
            with_extension: whether this repository is one of its extensions.
            also: further extension folders.
        """
        self.name, self.path = name, folder(name)
        for needed in ("extensions", "tmp"):  # Neo saves pictures in tmp without making it
            (data / needed).mkdir(parents=True)
        for extension in (REPOSITORY / "tests/hosts/counter", *also):
            (data / "extensions" / extension.name).symlink_to(extension)
        if with_extension:  # under one name whatever the checkout's folder is called: hosts go by the names' order
            (data / "extensions" / "noise-order").symlink_to(REPOSITORY)
        (data / "models").symlink_to(self.path / "models")
        python = os.environ.get(f"NOISEORDER_{name}_PYTHON", str(self.path / "venv/bin/python"))
        flags = shlex.split(os.environ.get(f"NOISEORDER_{name}_FLAGS", FLAGS[name]))
        command = [python, "launch.py", "--skip-prepare-environment", "--api", "--server-name=127.0.0.1", *flags]
        super().__init__(
            lambda port: [*command, f"--port={port}", "--data-dir", str(data)],
            self.path,
            data / "log.txt",
            {"SD_WEBUI_RESTARTING": "1", "PYTHONPYCACHEPREFIX": str(data / "pycache")},
            ready=lambda server: server.started(),
        )
        self.post("/sdapi/v1/options", OPTIONS)

    def started(self, times: int = 1) -> bool:
        """Whether it has come up so often; the routes of some hosts answer before their scripts have their defaults."""
        return self.said().count("Startup time") >= times and self.answers("/sdapi/v1/sd-models")

    def post(self, path: str, payload: dict) -> dict:
        answer = requests.post(f"{self.url}{path}", json=payload, timeout=600)
        if not answer.ok:
            try:
                detail = answer.json().get("detail") or answer.text
            except ValueError:
                detail = answer.text
            raise Refused(answer.status_code, str(detail))
        return answer.json()


class RealHost:
    """A server with one of its checkpoints."""

    size = 64
    prompt = "red circle left of blue square"

    def __init__(self, server: Server, checkpoint: str):
        self.server, self.checkpoint, self.family = server, checkpoint, family_of(checkpoint)
        # A1111 cannot leave the second half of the guidance out where the checkpoint is conditioned on a picture, too
        self.evaluations_per_question = 2 if server.name == "A1111" and "inpaint" in checkpoint else 1
        self.asks_both_halves_at_guidance_1 = server.name == "A1111"
        unseeded = server.name in _SAMPLES_THE_ENCODER_UNSEEDED or "inpaint" in checkpoint
        self.img2img_noise = 1 if unseeded else 0
        """Largest difference of two equal img2img jobs."""

    def txt2img(self, **payload) -> Result:
        return self._generate("/sdapi/v1/txt2img", payload)

    def img2img(self, **payload) -> Result:
        return self._generate("/sdapi/v1/img2img", payload)

    def settle(self, overridden: Iterable[str]) -> None:
        """Write the options' values down in the host: it restores, after a job, those only that it has in its file."""
        options = requests.get(f"{self.server.url}/sdapi/v1/options", timeout=600).json()
        self.server.post("/sdapi/v1/options", {name: options[name] for name in overridden if name in options})

    def gallery(self, tab: str, **payload) -> tuple[list[np.ndarray], list[str]]:
        """Everything that is shown of a job, grids, other scripts' pictures and ours, and the infotexts."""
        answer = self.server.post(f"/sdapi/v1/{tab}", self._payload(payload))
        pictures = [decoded([image], [""], 1).pictures[0] for image in answer["images"]]
        return pictures, json.loads(answer["info"])["infotexts"]

    def _payload(self, payload: dict) -> dict:
        payload = {**self.defaults(), **payload}
        if payload.get("enable_hr"):
            # A1111 fails on Latent with inpaint checkpoints; Neo has none
            upscaler = "None" if self.server.name == "NEO" else "Lanczos" if "inpaint" in self.checkpoint else "Latent"
            payload = {"hr_upscaler": upscaler, "hr_scale": 1.5, "denoising_strength": 0.7, **payload}
            if self.server.name in _ASKS_FOR_MODULES:
                payload["hr_additional_modules"] = ["Use same choices"]
        if payload.get("infotext"):
            payload.pop("prompt")
        return payload

    def _generate(self, path: str, payload: dict) -> Result:
        payload = self._payload(payload)
        answer = self.server.post(path, payload)
        infotexts = json.loads(answer["info"])["infotexts"]
        images = answer["images"][: len(infotexts)]  # Forge appends what its ControlNet saw
        return decoded(images, infotexts, payload["batch_size"] * payload["n_iter"])

    def defaults(self) -> dict:
        override = {"sd_model_checkpoint": self.checkpoint}
        defaults = {
            "prompt": self.prompt, "seed": 1, "steps": 4, "cfg_scale": 3.0, "width": self.size, "height": self.size,
            "batch_size": 1, "n_iter": 1, "sampler_name": "Euler", "override_settings": override,
        }  # fmt: skip
        if self.server.name in _ASKS_FOR_MODULES:
            folders = [self.server.path / "models" / name for name in self.family.modules]
            files = [str(file) for path in folders for file in sorted(path.glob("*.safetensors"))]
            override["forge_additional_modules"] = files
            defaults.update(self.family.how)
        return defaults


def grey_picture(size: int) -> np.ndarray:
    """A picture to start img2img from, of the world the double draws."""
    picture = np.full((size, size, 3), 120)
    picture[size // 4 : size // 2, size // 4 : size // 2] = (40, 60, 220)
    return picture
