"""What can be measured: the lab's models in this process, diffusers' pipeline, a running WebUI; a judge."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from ...formulas import key_timesteps
from ...judges import why_not
from ...knobs import shown
from ...ordering import OrderedNoise, order_noise
from ...plans import SamplerRun, noise_scale_for, plan_for
from ...selection import select
from ...settings import INFOTEXT_PREFIX, NoiseOrderSettings
from ..infotexts import outcome
from ..webui_client import Answer, WebUIClient
from .measuring import AUTOMATIC, INJECTION, JudgeSubject, Subject, Times
from .real_sizes import REAL_SIZES

_PROMPT = "red circle left of blue square"
_SEED = 1


def embedded(family: str, steps: int) -> Subject:
    """The lab's model and its sampler; one picture with guidance."""
    from ..lab.arms import seed_draws
    from ..lab.model import LabModel
    from ..lab.prompted import PromptedModel
    from ..lab.world import Prompt

    model, prompts = LabModel(family, steps=steps), [Prompt.parse(_PROMPT)]
    draw = seed_draws([_SEED])

    def ordered() -> OrderedNoise:
        return order_noise(INJECTION, draw, PromptedModel(model, prompts))

    def evaluated() -> None:
        asked = PromptedModel(model, prompts)
        for step in key_timesteps(INJECTION):
            asked.predict([draw(1)], [asked.level_at(step.timestep)])

    def selected() -> None:
        asked = PromptedModel(model, prompts)
        asked.finish(select(plan, lambda k: draw(k) * scale, asked).noise)

    run = SamplerRun(model.guidance, steps)
    plan = plan_for(run)
    scale = noise_scale_for(family)
    model.evaluations = 0
    selected()
    calls = model.evaluations // 2
    return Subject(
        name=f"embedded {family} model",
        steps=steps,
        ways={
            "plain": lambda: model.sample(draw(1), prompts),
            "ordered": lambda: model.sample(ordered().noise, prompts),
            "selection": selected,
            "full pass": lambda: (model.sample(draw(1), prompts), model.sample(draw(1), prompts)),
            "evaluations": evaluated,
        },
        evaluation=lambda times: times["evaluations"] / len(key_timesteps(INJECTION)),
        announced=plan.extra_evaluations(run),
        calls=calls,
    )


def diffusers_pipeline(steps: int, size: int | None = None) -> Subject:
    """diffusers' own Stable Diffusion pipeline around the lab's checkpoint in that format.

    Args:
        size: of the pictures, in pixels per side, a multiple of 32; by default the checkpoint's own.

    Raises:
        ModuleNotFoundError: diffusers or transformers is missing.
    """
    from ...adapters.diffusers import order_latents, run_ordered
    from ..lab.formats.sd1 import GUIDANCE, SIZE, ShapesSD1

    size = size or SIZE
    pipe = ShapesSD1.load().pipeline()
    pipe.set_progress_bar_config(disable=True)
    call = {"prompt": _PROMPT, "height": size, "width": size, "guidance_scale": GUIDANCE, "output_type": "np"}
    rows: list[int] = []
    question = torch.zeros(1, 4, size // 8, size // 8), 500, torch.zeros(1, 77, pipe.text_encoder.config.hidden_size)

    def seeded() -> dict[str, Any]:
        return {**call, "num_inference_steps": steps, "generator": torch.Generator().manual_seed(_SEED)}

    def ordered() -> torch.Tensor:
        return order_latents(pipe, settings=INJECTION, **seeded()).noise

    def evaluate() -> None:
        with torch.no_grad():
            for _ in key_timesteps(INJECTION):
                pipe.unet(*question)

    counting = pipe.unet.conv_in.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    report = run_ordered(pipe, settings=AUTOMATIC, **seeded()).report
    counting.remove()
    return Subject(
        name="diffusers StableDiffusionPipeline, shapes-sd1",
        steps=steps,
        ways={
            "plain": lambda: pipe(**seeded()),
            "ordered": lambda: pipe(**seeded(), latents=ordered()),
            "selection": lambda: run_ordered(pipe, settings=AUTOMATIC, **seeded()),
            "full pass": lambda: (pipe(**seeded()), pipe(**seeded())),
            "evaluations": evaluate,
        },
        evaluation=lambda times: times["evaluations"] / len(key_timesteps(INJECTION)),
        announced=report.extra_evaluations,
        calls=sum(rows) // 2,
    )


def webui(
    url: str, checkpoint: str, steps: int, size: int, sampler: str = "Euler", scripts: Mapping[str, Any] | None = None
) -> Subject:
    """A running A1111 or Forge, through its API; the time of a request is the time of a picture.

    An evaluation is timed by a picture with the host's own way of leaving the negative prompt out (`s_min_uncond`), and what
    is no step by pictures of twice as many steps.

    Args:
        scripts: the API arguments of other always-on scripts, by title.

    Raises:
        OSError: the WebUI cannot be reached or refuses.
        ValueError: no address.
    """
    client, seeds = WebUIClient(url), itertools.count(1)

    def picture(settings: NoiseOrderSettings | None = None, seed: int = 1, **more: Any) -> Answer:
        override = {"sd_model_checkpoint": checkpoint} if checkpoint else {}
        payload = {
            "prompt": _PROMPT, "seed": seed, "steps": steps, "width": size, "height": size, "cfg_scale": 4.0,
            "sampler_name": sampler, "override_settings": {**override, **more.pop("override", {})}, **more,
        }  # fmt: skip
        ordering = {} if settings is None else {INFOTEXT_PREFIX: {"args": [settings.to_dict()]}}
        payload["alwayson_scripts"] = {**(scripts or {}), **ordering}
        return client.txt2img(payload)

    def evaluation(times: Times) -> float:
        beside_steps = 2 * times["plain"] - times["twice the steps"]
        return max(times["prompt only"] - beside_steps, 0.0) / steps

    announced = outcome(picture(AUTOMATIC, next(seeds)).infotext).evaluations
    if announced is None:
        raise OSError(f"{client.url} does not order noise; is Noise Order installed there?")
    return Subject(
        name=f"{checkpoint or 'the loaded checkpoint'} at {size}×{size} through the API",
        steps=steps,
        ways={
            "plain": picture,
            "ordered": lambda: picture(INJECTION, next(seeds)),
            "selection": lambda: picture(AUTOMATIC, next(seeds)),
            "full pass": lambda: (picture(), picture()),
            "prompt only": lambda: picture(s_min_uncond=1e9, override={"s_min_uncond_all": True}),
            "twice the steps": lambda: picture(steps=2 * steps),
        },
        evaluation=evaluation,
        announced=announced,
    )


def judge_name(said: str) -> str:
    """Check what a judge is named by; raises ValueError unless it is one of REAL_SIZES or a judge's folder."""
    if said not in REAL_SIZES and (why := why_not(said)) is not None:
        raise ValueError(f"{shown(said)} is none of {', '.join(REAL_SIZES)}, and as a folder it {why}")
    return said


@contextmanager
def judge(named: str, size: int) -> Iterator[JudgeSubject]:
    """A judge's own folder, or meanwhile a temporary one of a judge of a real one's size; raises OSError.

    It is asked about noise, with more words than judges read.
    """
    picture = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(_SEED))
    with TemporaryDirectory() as folder:
        if named in REAL_SIZES:
            REAL_SIZES[named].write(Path(folder))
        of = Path(folder if named in REAL_SIZES else named)
        yield JudgeSubject(f"judge {named} at {size}×{size}", of, picture, " ".join([_PROMPT] * 20))
