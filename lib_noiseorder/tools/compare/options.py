"""What `noiseorder compare` was told, and the plan that this makes."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...knobs import shown
from ...settings import RECOMMENDED
from . import arms, prompts
from .plan import Plan, Sampling, read

DEFAULT_FOLDER = Path("noiseorder-compare")
_USUAL = {"steps": 20, "cfg": 7.0, "size": "512x512"}


@dataclass(frozen=True)
class Options:
    """As on the command line; None where nothing was said."""

    webui: tuple[str, ...] | None
    diffusers: str | None
    checkpoint: str
    auth: str | None
    timeout: float
    device: str | None
    dtype: str | None
    arm: tuple[str, ...] | None
    prompts: str
    pairs: int | None
    per_prompt: int
    seed: int
    negative_prompt: str
    steps: int | None
    cfg: float | None
    size: str | None
    sampler: str
    scheduler: str
    out: Path | None
    scores: str | None
    report_pictures: int
    report_only: bool
    repeat: Path | None
    quiet: bool


def plan_of(options: Options) -> tuple[Plan, dict[str, Any]]:
    """The plan, and for a repetition what stands beside it in the file.

    Raises:
        ValueError: options that cannot be used.
        OSError: a file that they name cannot be read.
    """
    if options.repeat is not None:
        plan, before = read(options.repeat)
        if plan.generator["kind"] == "diffusers" and options.diffusers:
            plan = dataclasses.replace(plan, generator={**plan.generator, "model": options.diffusers})
        return plan, before
    if options.report_only:
        if not (folder_of(options) / "run.json").is_file():
            raise ValueError(f"--out = {folder_of(options)} is not the folder of a comparison; --report-only needs one")
        return read(folder_of(options))[0], {}
    if (options.webui is None) == (options.diffusers is None):
        raise ValueError("give either --webui URL or --diffusers MODEL")
    pairs = prompts.pairs_of(options.prompts, options.pairs, options.per_prompt, options.seed)
    chosen = options.arm or [RECOMMENDED.lower(), f"{arms.EQUAL_COST}:{RECOMMENDED.lower()}"]
    if options.webui:
        generator = {"kind": "webui", "checkpoint": options.checkpoint}
    else:
        generator = {"kind": "diffusers", "model": options.diffusers, "dtype": options.dtype or ""}
    name = options.prompts if options.prompts in prompts.BUILT_IN else Path(options.prompts).name
    return Plan(generator, _sampling(options), tuple(arms.parse(chosen)), tuple(pairs), name, options.seed), {}


def _sampling(options: Options) -> Sampling:
    usual = _USUAL
    if options.prompts == "shapes":
        from ..lab.formats import sd1

        usual = {"steps": sd1.STEPS, "cfg": sd1.GUIDANCE, "size": f"{sd1.SIZE}x{sd1.SIZE}"}
    size = usual["size"] if options.size is None else options.size
    found = re.fullmatch(r"(\d{1,6})(?:x(\d{1,6}))?", size.lower(), re.ASCII)
    if found is None:
        raise ValueError(f"--size = {shown(size)} is not WIDTHxHEIGHT, such as 512x768")
    return Sampling(
        steps=usual["steps"] if options.steps is None else options.steps,
        cfg=usual["cfg"] if options.cfg is None else options.cfg,
        width=int(found[1]), height=int(found[2] or found[1]), sampler=options.sampler if options.webui else "",
        scheduler=options.scheduler, negative_prompt=options.negative_prompt,
    )  # fmt: skip


def folder_of(options: Options) -> Path:
    """Where the run is kept. Raises ValueError where that is no folder."""
    if options.out is not None:
        if options.out.exists() and not options.out.is_dir():
            raise ValueError(f"--out = {options.out} is not a folder")
        return options.out
    return DEFAULT_FOLDER if options.repeat is None else DEFAULT_FOLDER.with_name(f"{DEFAULT_FOLDER.name}-repeat")


def wanted_scores(said: str | None, plan: Plan) -> dict[str, str]:
    """The model by metric: what --scores says, or all that make sense of the plan's pictures."""
    from .metrics import METRICS, parse

    if said is not None:
        return {} if said.strip() == "none" else parse(said)
    shapes = plan.prompts == "shapes"
    return {name: "" for name in METRICS if (name == "oracle") == shapes}
