"""A real WebUI, started from its folder with this repository as an extension, or without it, and asked over HTTP.

Environment variables, NAME being A1111 or FORGE:
    NOISEORDER_NAME          the WebUI's folder, ready to run, with small checkpoints in models/Stable-diffusion
    NOISEORDER_NAME_PYTHON   its Python (default: venv/bin/python in that folder)
    NOISEORDER_NAME_FLAGS    its command-line flags (default: run on the CPU)
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import time
from pathlib import Path

import numpy as np
import requests

from .client import Refused, Result, decoded

REPOSITORY = Path(__file__).resolve().parents[2]
FLAGS = {
    "A1111": "--use-cpu all --no-half --skip-torch-cuda-test --skip-python-version-check --skip-version-check "
    "--do-not-download-clip --no-download-sd-model --no-hashing",
    "FORGE": "--always-cpu --skip-torch-cuda-test --skip-python-version-check --skip-version-check --no-download-sd-model "
    "--no-hashing",
}
ADDITIONAL_MODULES = {"flux": ("VAE", "text_encoder")}
"""Folders under models/ whose files a checkpoint of this kind needs besides itself, on Forge."""


def folder(name: str) -> Path | None:
    value = os.environ.get(f"NOISEORDER_{name}")
    return Path(value).resolve() if value else None


def checkpoints(name: str) -> list[str]:
    path = folder(name)
    found = sorted((path / "models/Stable-diffusion").glob("*.safetensors")) if path else []
    wanted = os.environ.get(f"NOISEORDER_{name}_CHECKPOINTS", "")
    return [file.stem for file in found if not wanted or file.stem in wanted.split(",")]


class Server:
    """One running WebUI process with a data folder of its own."""

    def __init__(self, name: str, data: Path, with_extension: bool):
        self.name, self.path = name, folder(name)
        (data / "extensions").mkdir(parents=True)
        linked = [REPOSITORY / "tests/hosts/counter"] + ([REPOSITORY] if with_extension else [])
        for extension in linked:
            (data / "extensions" / extension.name).symlink_to(extension)
        (data / "models").symlink_to(self.path / "models")
        config = {"live_previews_enable": False, "show_progress_type": "Approx cheap", "randn_source": "CPU"}
        (data / "config.json").write_text(json.dumps(config))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        python = os.environ.get(f"NOISEORDER_{name}_PYTHON", str(self.path / "venv/bin/python"))
        flags = shlex.split(os.environ.get(f"NOISEORDER_{name}_FLAGS", FLAGS[name]))
        command = [python, "launch.py", "--skip-prepare-environment", "--api", f"--port={port}", "--server-name=127.0.0.1"]
        self.log = data / "log.txt"
        environment = {
            "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "SD_WEBUI_RESTARTING": "1",
            "PYTHONPYCACHEPREFIX": str(data / "pycache"), "CUDA_VISIBLE_DEVICES": "", **os.environ,
        }  # fmt: skip
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, "--data-dir", str(data), *flags],
                cwd=self.path, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        self._wait()

    def _wait(self, seconds: float = 240):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            try:
                # Forge's routes answer before its scripts have their default arguments
                started = "Startup time" in self.log.read_text(errors="replace")
                if started and requests.get(f"{self.url}/sdapi/v1/sd-models", timeout=5).ok:
                    return
            except requests.RequestException:
                pass
            time.sleep(0.5)
        self.stop()
        raise RuntimeError(f"{self.name} did not start:\n" + self.log.read_text(errors="replace")[-3000:])

    def stop(self):
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)

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
        self.server, self.checkpoint = server, checkpoint
        # A1111 cannot leave the second half of the guidance out where the checkpoint is conditioned on a picture, too
        self.evaluations_per_question = 2 if server.name == "A1111" and "inpaint" in checkpoint else 1
        # both hosts sample the encoder's latent, or an inpainting mask's, from the unseeded global generator
        self.img2img_noise = 1 if server.name == "FORGE" or "inpaint" in checkpoint else 0

    def txt2img(self, **payload) -> Result:
        return self._generate("/sdapi/v1/txt2img", payload)

    def img2img(self, **payload) -> Result:
        return self._generate("/sdapi/v1/img2img", payload)

    def _generate(self, path: str, payload: dict) -> Result:
        payload = {**self.defaults(), **payload}
        if payload.get("enable_hr"):
            upscaler = "Lanczos" if "inpaint" in self.checkpoint else "Latent"  # A1111 fails on Latent with inpaint checkpoints
            payload = {"hr_upscaler": upscaler, "hr_scale": 1.5, "denoising_strength": 0.7, **payload}
            if self.server.name == "FORGE":
                payload["hr_additional_modules"] = ["Use same choices"]
        if payload.get("infotext"):
            payload.pop("prompt")
        answer = self.server.post(path, payload)
        infotexts = json.loads(answer["info"])["infotexts"]
        return decoded(answer["images"], infotexts, payload["batch_size"] * payload["n_iter"])

    def defaults(self) -> dict:
        override = {"sd_model_checkpoint": self.checkpoint}
        defaults = {
            "prompt": self.prompt, "seed": 1, "steps": 4, "cfg_scale": 3.0, "width": self.size, "height": self.size,
            "batch_size": 1, "n_iter": 1, "sampler_name": "Euler", "override_settings": override,
        }  # fmt: skip
        if self.server.name == "FORGE":
            kind = next((kind for kind in ADDITIONAL_MODULES if kind in self.checkpoint), None)
            folders = [self.server.path / "models" / name for name in ADDITIONAL_MODULES.get(kind, ())]
            files = [str(file) for path in folders for file in sorted(path.glob("*.safetensors"))]
            override["forge_additional_modules"] = files
            if kind:
                defaults.update(cfg_scale=1.0, scheduler="Simple")  # Flux comes out black with "Automatic"
        return defaults


def grey_picture(size: int) -> np.ndarray:
    """A picture to start img2img from, of the world the double draws."""
    picture = np.full((size, size, 3), 120)
    picture[size // 4 : size // 2, size // 4 : size // 2] = (40, 60, 220)
    return picture
