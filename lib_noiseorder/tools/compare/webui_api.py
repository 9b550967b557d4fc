"""Pictures from a running WebUI, over its HTTP API."""

from __future__ import annotations

import base64
import io
import json
import re
import time
import urllib.error
import urllib.request
from http.client import HTTPException
from typing import Any
from urllib.parse import urlsplit

from PIL import Image

from ...settings import INFOTEXT_PREFIX
from ..equal_cost import evaluations_per_step
from .generators import Made, Refused, Request, Unavailable

_PINNED = ("Clip skip", "RNG", "ENSD")
"""Settings of the host that change pictures and stand in the infotext."""
_SECOND_ORDER = {"Heun", "DPM2", "DPM2 a", "DPM++ SDE", "DPM++ 2S a", "Restart"}
"""Samplers that ask the model about twice a step."""
_BUSY = (408, 425, 429)
"""Answers that pass, though they blame the asker."""


class WebUI:
    """A running A1111 or Forge with the extension. `Generator`."""

    def __init__(self, url: str, checkpoint: str = "", auth: str = "", seconds: float = 600):
        """
        Args:
            url: its address, such as "http://127.0.0.1:7860".
            checkpoint: as the WebUI lists it; empty takes the one that is loaded.
            auth: "user:password" of the WebUI's --api-auth; stands in no file.
            seconds: how long to wait for one answer.

        Raises:
            ValueError: no address, or no "user:password".
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"--webui {url!r} is not an address such as http://127.0.0.1:7860")
        if parts.username is not None:
            raise ValueError("--webui: a password does not belong into an address; use --auth")
        if auth and ":" not in auth:
            raise ValueError("--auth is not USER:PASSWORD")
        self.name = url.rstrip("/")
        self.checkpoint = checkpoint
        self._auth = base64.b64encode(auth.encode()).decode() if auth else ""
        self._seconds = seconds

    def check(self) -> None:
        """See that the WebUI answers, has the extension, and knows the checkpoint.

        Raises:
            Unavailable: it does not answer.
            Refused: a wrong password, no extension, an unknown checkpoint.
        """
        scripts = self._ask("scripts").get("txt2img", [])
        if INFOTEXT_PREFIX.lower() not in [str(script).lower() for script in scripts]:
            raise Refused(f"{self.name} does not have the extension {INFOTEXT_PREFIX}")
        if self.checkpoint:
            known = self._ask("sd-models")
            model = next((model for model in known if self.checkpoint in _names(model)), None)
            if model is None:
                there = ", ".join(str(model.get("model_name")) for model in known[:20])
                raise Refused(f"{self.name} has no checkpoint {self.checkpoint!r}; it has {there}")

    def make(self, request: Request) -> Made:
        started = time.perf_counter()
        answer = self._ask("txt2img", self._payload(request))
        seconds = time.perf_counter() - started
        try:
            info = json.loads(answer["info"])
            infotext = info["infotexts"][0]
            encoded = answer["images"][info.get("index_of_first_image", 0)]
            picture = Image.open(io.BytesIO(base64.b64decode(encoded.split(",")[-1]))).convert("RGB")
        except (KeyError, IndexError, TypeError, ValueError, OSError) as error:
            raise Unavailable(f"{self.name} answered without a picture ({type(error).__name__}: {error})") from None
        extra, skipped = self._announced(infotext) if request.settings else (0, "")
        versions = {"host": str(info.get("version") or parameter(infotext, "Version") or "unknown")}
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
        if error := parameter(infotext, f"{INFOTEXT_PREFIX} error"):
            raise Refused(f"{self.name} did not order the noise: {error}")
        evaluations = parameter(infotext, f"{INFOTEXT_PREFIX} evaluations")
        if evaluations is None:
            raise Refused(f"{self.name} did not order the noise: its infotext says nothing of {INFOTEXT_PREFIX}")
        return int(evaluations), parameter(infotext, f"{INFOTEXT_PREFIX} skipped") or ""

    def _ask(self, path: str, payload: dict[str, Any] | None = None) -> Any:
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Basic {self._auth}"} if self._auth else {})
        data = json.dumps(payload).encode() if payload is not None else None
        request = urllib.request.Request(f"{self.name}/sdapi/v1/{path}", data, headers)
        try:
            with urllib.request.urlopen(request, timeout=self._seconds) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise self._failure(error.code, error.read().decode(errors="replace")) from None
        except urllib.error.URLError as error:
            raise Unavailable(f"{self.name} cannot be reached: {error.reason}") from None
        except (OSError, HTTPException, ValueError) as error:
            raise Unavailable(f"{self.name} broke off: {type(error).__name__} {error}".rstrip()) from None

    def _failure(self, status: int, body: str) -> OSError:
        if status == 401:
            return Refused(f"{self.name} does not accept the user and password (401); say --auth USER:PASSWORD")
        if status == 404:
            return Refused(f"{self.name} has no API (404); start the WebUI with --api")
        kind = Unavailable if status >= 500 or status in _BUSY else Refused
        return kind(f"{self.name} answered {status}: {body[:300]}")


def parameter(infotext: str, name: str) -> str | None:
    """A parameter of an infotext's last line, as text; None without it."""
    found = re.search(rf'(?:^|, ){re.escape(name)}: ("(?:[^"\\]|\\.)*"|[^,\n]*)', infotext.rsplit("\n", 1)[-1])
    if found is None:
        return None
    return json.loads(found[1]) if found[1].startswith('"') else found[1].strip()


def _names(model: dict[str, Any]) -> set[str]:
    names = {str(model.get(key)) for key in ("title", "model_name", "hash", "sha256") if model.get(key)}
    return names | {str(model.get("title", "")).split(" [")[0]}


def _model(info: dict[str, Any], infotext: str) -> dict[str, str]:
    said = {
        "name": info.get("sd_model_name") or parameter(infotext, "Model"),
        "hash": info.get("sd_model_hash") or parameter(infotext, "Model hash"),
        "VAE": info.get("sd_vae_name") or parameter(infotext, "VAE"),
        **{name: parameter(infotext, name) for name in _PINNED},
    }
    return {name: str(value) for name, value in said.items() if value}
