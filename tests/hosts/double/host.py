"""The host double in process, with the API's ways: defaults from the panel, refusals, `infotext`."""

from __future__ import annotations

import base64
import contextlib
import importlib.util
import io
import re
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from lib_noiseorder.tools.lab.world import to_latent, to_pictures

from ..families import Family

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[2]

EXTRA_FIELDS = (
    "alwayson_scripts", "infotext", "override_settings", "width", "height", "mask", "script_name", "script_args"
)  # fmt: skip


class DoubleHost:
    """Draws with an embedded model; `family` eps behaves as A1111, flow as Forge."""

    size = 24
    prompt = "red circle left of blue square"
    evaluations_per_question = 1
    img2img_noise = 0
    """Largest difference between two runs of the same img2img job."""

    def __init__(self, family: str, with_extension: bool = True):
        if str(HERE) not in sys.path:
            sys.path.insert(0, str(HERE))
        import gradio
        from modules import api, processing, scripts, sd_models, shared

        self.shared, self.processing, self.api = shared, processing, api
        self.asks_both_halves_at_guidance_1 = family == "eps"
        self.family = Family("", family, flow=family == "flow")
        self.checkpoint = sd_models.FlowCheckpoint() if family == "flow" else sd_models.EpsCheckpoint()
        counter = HERE.parent / "counter/scripts"
        loaded = [_load(counter / "count_evaluations.py").CountEvaluations()]
        loaded.append(_load(counter / "compare_questions.py").CompareQuestions())
        if with_extension:
            loaded.append(_load(REPOSITORY / "scripts/noise_order.py").NoiseOrder())
        self.runner = scripts.ScriptRunner(loaded, [script() for script in _load(HERE / "several_jobs.py").ALL])
        self.defaults: list = [0]
        self.fields: list = []
        with gradio.Blocks():
            for script in loaded:
                script.args_from = len(self.defaults)
                controls = script.ui(False) or []
                self.defaults += [control.value for control in controls]
                script.args_to = len(self.defaults)
                pasted = [(c, function) for c, function in script.infotext_fields or [] if c in controls]
                self.fields += [(script.args_from + controls.index(c), function) for c, function in pasted]

    def txt2img(self, **payload):
        return self._generate(self.processing.Txt2Img, payload)

    def img2img(self, **payload):
        payload["init_images"] = list(_latent(payload["init_images"][0]))
        if "mask" in payload:
            payload["nmask"] = (_latent(payload["mask"]) > 0).float()
        return self._generate(self.processing.Img2Img, payload)

    def gallery(self, tab, **payload):
        """Everything that is shown of a job, other scripts' pictures and ours, and the infotexts."""
        getattr(self, tab)(**payload)
        shown = self.last_processed
        return [_pixels(one) if torch.is_tensor(one) else np.asarray(one, dtype=int) for one in shown.images], shown.infotexts

    def _generate(self, kind, payload):
        from fastapi import HTTPException

        from ..client import Refused, Result

        fields = {name: value for name, value in payload.items() if name not in EXTRA_FIELDS}
        if "firstpass_image" in fields:
            fields["firstpass_image"] = to_latent(np.array([fields["firstpass_image"]]))
        args = self._script_args(payload)
        self.shared.sd_model = self.checkpoint
        with self._options(payload.get("override_settings", {})):
            p = kind(**{"prompt": self.prompt, **fields}, script_args=args, scripts=self.runner)
            p.is_api = True
            self.last_job = p
            try:
                self.last_processed = self.api.pictures_for(p)
            except HTTPException as error:
                raise Refused(error.status_code, error.detail) from None
        self.comments = self.last_processed.comments.splitlines()
        pictures = [_pixels(one) for one in self.last_processed.images if torch.is_tensor(one)]  # a sheet is none of the host's
        return Result(np.stack(pictures), self.last_processed.infotexts)

    @contextlib.contextmanager
    def _options(self, overridden):
        opts = vars(self.shared.opts)
        before = dict(opts)
        opts.update(overridden)
        try:
            yield
        finally:
            opts.clear()
            opts.update(before)

    def _script_args(self, payload):
        args = list(self.defaults)
        if "script_name" in payload:
            titles = [script.title() for script in self.runner.selectable_scripts]
            args[0] = titles.index(payload["script_name"]) + 1
        for index, pasted in self.fields:
            value = pasted(_parameters(payload.get("infotext", "")))
            if payload.get("infotext") and value is not None:
                args[index] = value
        for title, script_payload in payload.get("alwayson_scripts", {}).items():
            script = next(script for script in self.runner.alwayson_scripts if script.title().lower() == title.lower())
            for index, value in zip(range(script.args_from, script.args_to), script_payload["args"]):
                args[index] = value
        return args

    @contextlib.contextmanager
    def spoiled(self, spoil):
        """Every model answer goes through spoil(answer)."""
        self.checkpoint.spoil, before = spoil, self.checkpoint.spoil
        try:
            yield
        finally:
            self.checkpoint.spoil = before


def _load(path: Path):
    spec = importlib.util.spec_from_file_location(f"double_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _pixels(latent: torch.Tensor) -> np.ndarray:
    pixels = (to_pictures(latent[None])[0].permute(1, 2, 0) * 255).round()
    return torch.nan_to_num(pixels).numpy().astype(int)


def _latent(encoded: str) -> torch.Tensor:
    picture = np.array(Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB"))
    return to_latent(picture[None])


def _parameters(infotext: str) -> dict[str, str]:
    found = re.findall(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)', infotext.strip().split("\n")[-1])
    return {key: value.strip('"') for key, value in found}
