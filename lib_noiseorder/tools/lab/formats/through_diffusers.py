"""The paired comparison once more, end to end: pictures made by diffusers' own pipelines, judged by the oracle."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ....settings import NoiseOrderSettings
from ...equal_cost import evaluations_per_step, more_steps
from ..evaluation import Figures, figures_of, judged, pairs_of
from ..oracle import Oracle
from . import flux, sd1

ARMS = ("plain", "ordered", "equal-cost")
BATCH = 32

Progress = Callable[[str, int, int], None]
"""Told the arm's name, its pictures done and its pictures in all."""
RunOrdered = Callable[..., Any]
"""`lib_noiseorder.adapters.diffusers.run_ordered`; handed in, since the lab knows no adapter."""


@dataclass(frozen=True)
class Checkpoint:
    """A pipeline around one of the lab's checkpoints, and how it is called."""

    pipeline: Any
    call: Callable[[Sequence[str], float, int], dict[str, Any]]
    """The call's arguments for texts, guidance and steps."""
    guidance: float
    steps: int

    @staticmethod
    def named(name: str) -> Checkpoint:
        """The packaged "flux" (FluxPipeline) or "sd1" (StableDiffusionPipeline with the Euler sampler of the WebUI).

        Raises:
            ImportError: diffusers or transformers are missing.
            ValueError: another name.
        """
        if name == "flux":
            return Checkpoint(flux.shapes_flux_pipeline(), flux.call_arguments, flux.GUIDANCE, flux.STEPS)
        if name == "sd1":
            return Checkpoint(_sd1_with_euler(), _sd1_call, sd1.GUIDANCE, sd1.STEPS)
        raise ValueError(f"checkpoint {name!r} is neither flux nor sd1")


def compare(
    checkpoint: Checkpoint,
    run_ordered: RunOrdered,
    settings: NoiseOrderSettings,
    pairs: int,
    seed: int,
    arms: Sequence[str] = ARMS,
    guidance: float | None = None,
    progress: Progress = lambda *_: None,
) -> dict[str, Figures]:
    """Plain pictures, ordered ones, and plain ones with as many more steps as the ordering costs; same prompts and seeds.

    Args:
        checkpoint: what makes the pictures.
        run_ordered: makes the ordered ones.
        settings: how their noise is ordered.
        pairs: prompt-seed pairs per arm.
        seed: decides prompts and noises.
        arms: which of ARMS, in their order; "plain" is always drawn, "equal-cost" needs "ordered".
        guidance: classifier-free guidance; 1 leaves out the question without the prompt. Default: the checkpoint's own.
        progress: told after every batch.

    Returns:
        Figures by arm. An evaluation with the prompt and one without count one each; those that the sampler was spared
        are not counted.

    Raises:
        ValueError: an unknown arm, "equal-cost" without "ordered", or too few pairs.
    """
    if unknown := set(arms) - set(ARMS):
        raise ValueError(f"unknown arm {min(unknown)!r}; there are {', '.join(ARMS)}")
    if "equal-cost" in arms and "ordered" not in arms:
        raise ValueError('arm "equal-cost" needs "ordered"')
    guidance = checkpoint.guidance if guidance is None else guidance
    per_step = evaluations_per_step(guidance)
    prompts, seeds, groups = pairs_of(pairs, seed)
    oracle, outcomes, steps = Oracle(), {}, checkpoint.steps
    for arm in (arm for arm in ARMS if arm == "plain" or arm in arms):
        parts, extra = [], 0.0
        for start in range(0, pairs, BATCH):
            part = slice(start, min(start + BATCH, pairs))
            call = checkpoint.call([str(prompt) for prompt in prompts[part]], guidance, steps)
            call["generator"] = [torch.Generator().manual_seed(noise_seed) for noise_seed in seeds[part]]
            call["output_type"] = "pt"
            if arm == "ordered":
                run = run_ordered(checkpoint.pipeline, settings=settings, **call)
                extra += run.report.extra_evaluations * (part.stop - start)
                pictures: Tensor = run.output.images
            else:
                pictures = checkpoint.pipeline(**call).images
            parts.append(sd1.for_oracle(pictures.float().cpu()))
            progress(arm, part.stop, pairs)
        outcomes[arm] = judged(oracle, torch.cat(parts), prompts, per_step * steps + extra / pairs)
        if arm == "ordered":
            steps += more_steps(extra / pairs, per_step)
    return figures_of(outcomes, prompts, groups, seed, oracle)


def _sd1_with_euler() -> Any:
    from diffusers import EulerDiscreteScheduler

    pipeline = sd1.ShapesSD1.load().pipeline()
    pipeline.scheduler = EulerDiscreteScheduler.from_config(pipeline.scheduler.config, timestep_spacing="linspace")
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _sd1_call(texts: Sequence[str], guidance: float, steps: int) -> dict[str, Any]:
    return {
        "prompt": list(texts), "guidance_scale": guidance, "num_inference_steps": steps, "height": sd1.SIZE, "width": sd1.SIZE
    }  # fmt: skip
