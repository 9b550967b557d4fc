"""Pictures from a diffusers pipeline in this process."""

from __future__ import annotations

import hashlib
import inspect
import json
import time
from pathlib import Path
from typing import Any

import torch

from ...adapters.diffusers import run_ordered
from ...judges.libraries import Missing, from_disk, library
from .. import infotexts
from ..failures import Refused, Unavailable
from .generators import Made, Request


class Pipeline:
    """A pipeline that the diffusers adapter supports, one picture a call. `Generator`."""

    def __init__(self, model: str, device: str, dtype: str = ""):
        """
        Args:
            model: a folder, or a name in the local cache.
            device: such as "cuda:0".
            dtype: such as "float16"; empty takes bfloat16 on a GPU, float32 elsewhere.

        Raises:
            Refused: the model cannot be loaded.
        """
        self.name = f"diffusers on {device}"
        wish = getattr(torch, dtype or ("float32" if device == "cpu" else "bfloat16"))
        try:
            kind = library("diffusers", "'noiseorder[diffusers]'").DiffusionPipeline
            self._pipe = from_disk(kind, model, torch_dtype=wish).to(device)
        except Missing as missing:
            raise Refused(f"--diffusers {model}: {missing}" + (f"; {missing.command}" if missing.command else "")) from None
        except (RuntimeError, AssertionError) as error:  # torch's words for a device that is not there
            raise Refused(f"--diffusers {model} cannot be used on the device {device}: {_first_line(error)}") from None
        self._pipe.set_progress_bar_config(disable=True)
        scheduler = type(self._pipe.scheduler).__name__
        kinds = {"pipeline": type(self._pipe).__name__, "scheduler": scheduler}
        self._model = {"name": Path(model).name, "hash": _weights_hash(self._pipe), **kinds}
        self._versions = {"diffusers": library("diffusers", "diffusers").__version__}

    def make(self, request: Request) -> Made:
        started = time.perf_counter()
        try:
            picture, extra, skipped = self._picture(request)
        except torch.cuda.OutOfMemoryError as error:
            torch.cuda.empty_cache()
            raise Unavailable(f"{self.name}: {_first_line(error)}") from None
        except (RuntimeError, ValueError, TypeError) as error:
            raise Refused(f"{self.name}: {type(error).__name__}: {_first_line(error)}") from error
        seconds = time.perf_counter() - started
        infotext = self._infotext(request, extra, skipped)
        return Made(picture, infotext, self._model, seconds, self._per_step(), extra, skipped, self._versions)

    def _picture(self, request: Request) -> tuple[Any, int, str]:
        call = self._call(request)
        if request.settings is None:
            return self._pipe(**call).images[0].convert("RGB"), 0, ""
        run = run_ordered(self._pipe, settings=request.settings, **call)
        extra = run.report.extra_evaluations
        return run.output.images[0].convert("RGB"), extra, "; ".join(run.report.skipped)

    def _call(self, request: Request) -> dict[str, Any]:
        sampling = request.sampling
        call = {
            "prompt": request.prompt,
            "num_inference_steps": sampling.steps,
            "guidance_scale": sampling.cfg,
            "width": sampling.width,
            "height": sampling.height,
            # on the CPU: the same noise on every kind of machine
            "generator": torch.Generator().manual_seed(request.seed),
        }
        if sampling.negative_prompt:
            call["negative_prompt"] = sampling.negative_prompt
        known = inspect.signature(type(self._pipe).__call__).parameters
        if unknown := [name for name in call if name not in known]:
            raise ValueError(f"{type(self._pipe).__name__} takes no {', '.join(unknown)}")
        return call

    def _per_step(self) -> int:
        """Of the picture just made: guided pipelines ask with and without the prompt, samplers of second order twice."""
        guided = bool(getattr(self._pipe, "do_classifier_free_guidance", False))
        return (2 if guided else 1) * getattr(self._pipe.scheduler, "order", 1)

    def _infotext(self, request: Request, extra: int, skipped: str) -> str:
        sampling = request.sampling
        said: dict[str, Any] = {
            "Steps": sampling.steps, "Sampler": self._model["scheduler"], "CFG scale": sampling.cfg, "Seed": request.seed,
            "Size": f"{sampling.width}x{sampling.height}", "Model hash": self._model["hash"], "Model": self._model["name"],
        }  # fmt: skip
        if request.settings is not None:
            said |= {**request.settings.to_infotext(), infotexts.EVALUATIONS: extra}
        if skipped:
            said[infotexts.SKIPPED] = json.dumps(skipped, ensure_ascii=False)
        negative = f"\nNegative prompt: {sampling.negative_prompt}" if sampling.negative_prompt else ""
        return f"{request.prompt}{negative}\n" + ", ".join(f"{name}: {value}" for name, value in said.items())


def _weights_hash(pipe: Any) -> str:
    """The first 10 digits of the SHA-256 of the loaded denoising models' weights."""
    digest = hashlib.sha256()
    for part in ("unet", "transformer", "transformer_2"):
        model = getattr(pipe, part, None)
        for name, weight in sorted(model.state_dict().items()) if model is not None else ():
            digest.update(name.encode())
            digest.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:10]


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0][:300]
