"""The paired comparison once more, end to end: pictures made by a running WebUI through its API, judged by the oracle."""

from __future__ import annotations

import base64
import io
import json
import math
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from ..settings import NoiseOrderSettings
from .evaluation import Figures, Outcome, figures_of, pairs_of
from .oracle import Oracle
from .sd1 import GUIDANCE, SIZE, STEPS, for_oracle

ARMS = ("plain", "ordered", "equal-cost")

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class WebUI:
    """A running A1111 or Forge with the shapes checkpoint loaded.

    Attributes:
        url: its address, such as "http://127.0.0.1:7860".
        checkpoint: name of the checkpoint as the WebUI lists it.
        sampler: a sampler's name.
        seconds: how long to wait for one picture.
    """

    url: str
    checkpoint: str = "shapes-sd1"
    sampler: str = "Euler"
    seconds: float = 300

    def picture(self, prompt: str, seed: int, steps: int, settings: NoiseOrderSettings | None) -> tuple[np.ndarray, str]:
        """One picture [SIZE, SIZE, 3] uint8 and its infotext; plain without settings.

        Raises:
            OSError: the WebUI cannot be reached or refuses; the text says which.
        """
        payload: dict[str, Any] = {
            "prompt": prompt, "seed": seed, "steps": steps, "width": SIZE, "height": SIZE, "cfg_scale": GUIDANCE,
            "sampler_name": self.sampler, "override_settings": {"sd_model_checkpoint": self.checkpoint},
        }  # fmt: skip
        if settings is not None:
            payload["alwayson_scripts"] = {"Noise Order": {"args": [settings.to_dict()]}}
        request = urllib.request.Request(
            f"{self.url.rstrip('/')}/sdapi/v1/txt2img", json.dumps(payload).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=self.seconds) as answer:
                made = json.load(answer)
        except urllib.error.HTTPError as error:
            raise OSError(f"{self.url} answered {error.code}: {error.read().decode(errors='replace')[:300]}") from None
        except urllib.error.URLError as error:
            raise OSError(f"{self.url} cannot be reached: {error.reason}") from None
        image = Image.open(io.BytesIO(base64.b64decode(made["images"][-1]))).convert("RGB")
        return np.array(image), json.loads(made["info"])["infotexts"][0]


def compare(
    webui: WebUI,
    settings: NoiseOrderSettings,
    pairs: int,
    seed: int,
    arms: Sequence[str] = ARMS,
    progress: Progress = lambda *_: None,
) -> dict[str, Figures]:
    """Plain pictures, ordered ones, and plain ones with as many more steps as the ordering costs; same prompts and seeds.

    Args:
        webui: where the pictures are made.
        settings: how the noise is ordered.
        pairs: prompt-seed pairs per arm.
        seed: decides prompts and seeds.
        arms: which of ARMS, in their order; "plain" is always drawn.
        progress: told after every picture.

    Returns:
        Figures by arm. The evaluations are those of the sampler plus those announced.

    Raises:
        OSError: as `WebUI.picture`, or an ordered picture whose infotext says that the ordering was skipped.
    """
    prompts, seeds, groups = pairs_of(pairs, seed)
    oracle, outcomes, steps = Oracle(), {}, STEPS
    for arm in (arm for arm in ARMS if arm == "plain" or arm in arms):
        pictures, extra = [], 0.0
        for done, (prompt, noise_seed) in enumerate(zip(prompts, seeds), 1):
            wish = settings if arm == "ordered" else None
            picture, infotext = webui.picture(str(prompt), noise_seed % 2**31, steps, wish)
            pictures.append(picture)
            extra += _announced(infotext) if wish else 0
            progress(arm, done, pairs)
        latents = for_oracle(np.stack(pictures))
        verdicts = oracle.judge(latents, prompts)
        outcomes[arm] = Outcome(
            right=np.array([float(verdict.all) for verdict in verdicts]),
            share=np.array([verdict.share for verdict in verdicts]),
            features=oracle.read(latents)[1].numpy(),
            evaluations=2 * steps + extra / pairs,
        )
        steps = STEPS + math.ceil(extra / pairs / 2) if arm == "ordered" else STEPS
    return figures_of(outcomes, prompts, groups, seed)


def _announced(infotext: str) -> int:
    skipped = re.search(r"Noise Order (?:skipped|error): [^\n]*", infotext)
    found = re.search(r"Noise Order evaluations: (\d+)", infotext)
    if skipped or not found:
        raise OSError("the WebUI did not order the noise: " + (skipped[0] if skipped else "is the extension installed?"))
    return int(found[1])
