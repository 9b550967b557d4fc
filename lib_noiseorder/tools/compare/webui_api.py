"""Pictures from a running WebUI, over its HTTP API."""

from __future__ import annotations

import io
import time
from typing import Any

from PIL import Image

from ...infotexts import parameters
from ...settings import INFOTEXT_PREFIX
from ..equal_cost import evaluations_per_step
from ..failures import Refused
from ..infotexts import outcome
from ..webui_client import WebUIClient
from .generators import Made, Request

_PINNED = ("Clip skip", "RNG", "ENSD")
"""Settings of the host that change pictures and stand in the infotext."""
_SECOND_ORDER = {"Heun", "DPM2", "DPM2 a", "DPM++ SDE", "DPM++ 2S a", "Restart"}
"""Samplers that ask the model about twice a step."""


class WebUI:
    """A running A1111 or Forge with the extension. `Generator`."""

    def __init__(self, client: WebUIClient, checkpoint: str = ""):
        """
        Args:
            checkpoint: as the WebUI lists it; empty takes the one that is loaded.
        """
        self.name, self.checkpoint = client.url, checkpoint
        self._client = client

    def check(self) -> None:
        """See that the WebUI answers, has the extension, and knows the checkpoint.

        Raises:
            Unavailable: it does not answer.
            Refused: a wrong password, no extension, an unknown checkpoint.
        """
        scripts = self._client.ask("scripts")
        if not isinstance(scripts, dict) or not isinstance(scripts.get("txt2img", []), list):
            raise Refused(f"{self.name} is no WebUI: its list of scripts is none")
        if INFOTEXT_PREFIX.lower() not in [str(script).lower() for script in scripts.get("txt2img", [])]:
            raise Refused(f"{self.name} does not have the extension {INFOTEXT_PREFIX}")
        if self.checkpoint:
            known = self._client.ask("sd-models")
            if not (isinstance(known, list) and all(isinstance(model, dict) for model in known)):
                raise Refused(f"{self.name} is no WebUI: its list of checkpoints is none")
            model = next((model for model in known if self.checkpoint in _names(model)), None)
            if model is None:
                there = ", ".join(str(model.get("model_name")) for model in known[:20])
                raise Refused(f"{self.name} has no checkpoint {self.checkpoint!r}; it has {there}")

    def make(self, request: Request) -> Made:
        started = time.perf_counter()
        answer = self._client.txt2img(self._payload(request))
        seconds = time.perf_counter() - started
        try:
            picture = Image.open(io.BytesIO(answer.png)).convert("RGB")
        except (OSError, ValueError) as error:
            raise self._client.without_picture(error) from None
        info, infotext = answer.info, answer.infotext
        extra, skipped = self._announced(infotext) if request.settings else (0, "")
        versions = {"host": str(info.get("version") or parameters(infotext).get("Version") or "unknown")}
        per_step = evaluations_per_step(request.sampling.cfg, 2 if request.sampling.sampler in _SECOND_ORDER else 1)
        return Made(picture, infotext, _model(info, infotext), seconds, per_step, extra, skipped, versions)

    def _payload(self, request: Request) -> dict[str, Any]:
        sampling = request.sampling
        payload: dict[str, Any] = {
            "prompt": request.prompt, "negative_prompt": sampling.negative_prompt, "seed": request.seed,
            "steps": sampling.steps, "cfg_scale": sampling.cfg, "width": sampling.width, "height": sampling.height,
            "sampler_name": sampling.sampler, "batch_size": 1, "n_iter": 1, "save_images": False,
        }  # fmt: skip
        if sampling.scheduler:
            payload["scheduler"] = sampling.scheduler
        if self.checkpoint:
            payload["override_settings"] = {"sd_model_checkpoint": self.checkpoint}
        # a plain picture says so: the page's own tick would order it, too
        wish = request.settings.to_dict() if request.settings else {"enabled": False}
        payload["alwayson_scripts"] = {INFOTEXT_PREFIX: {"args": [wish]}}
        return payload

    def _announced(self, infotext: str) -> tuple[int, str]:
        """Extra evaluations, and what was skipped."""
        found = outcome(infotext)
        if found.error:
            raise Refused(f"{self.name} did not order the noise: {found.error}")
        if found.evaluations is None:
            raise Refused(f"{self.name} did not order the noise: its infotext says nothing of {INFOTEXT_PREFIX}")
        return found.evaluations, found.skipped


def _names(model: dict[str, Any]) -> set[str]:
    names = {str(model.get(key)) for key in ("title", "model_name", "hash", "sha256") if model.get(key)}
    return names | {str(model.get("title", "")).split(" [")[0]}


def _model(info: dict[str, Any], infotext: str) -> dict[str, str]:
    said = {
        "name": info.get("sd_model_name") or parameters(infotext).get("Model"),
        "hash": info.get("sd_model_hash") or parameters(infotext).get("Model hash"),
        "VAE": info.get("sd_vae_name") or parameters(infotext).get("VAE"),
        **{name: parameters(infotext).get(name) for name in _PINNED},
    }
    return {name: str(value) for name, value in said.items() if value}
