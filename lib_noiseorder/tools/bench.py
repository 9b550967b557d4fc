"""What ordering the noise costs, measured: plain, ordered and compared pictures side by side in one run, as ratios.

Every run makes the picture in every way, in an order that moves on from run to run, and ratios are taken within a run before
their median is: a machine that is busy with something else slows both sides down.

    plain                    one generation: T steps
    ordered                  with injection as the settings' defaults have it: K evaluations more
    selection                with the preset Automatic
    full pass                a whole extra sampling pass instead, as other implementations of the paper take it
    reroll                   the ordered noise again under another number of steps, remembered

An evaluation takes the share c of a step; with guidance, a step is two evaluations run as one batch. The ideal of `ordered` is
(T + K·c) / T: the evaluations, and nothing else.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import os
import re
import statistics
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any

import torch

from ..cache import NoiseCache, fingerprint, settings_of_the_noise
from ..formulas import key_timesteps
from ..ordering import OrderedNoise, order_noise
from ..plans import extra_evaluations, plan_for
from ..selection import select
from ..settings import RECOMMENDED, NoiseOrderSettings

INJECTION = NoiseOrderSettings(enabled=True)
AUTOMATIC = NoiseOrderSettings(enabled=True, preset=RECOMMENDED)
ROUNDS = 3
"""How often a run makes every picture: what disturbs a busy machine only ever makes it slower, so the fastest counts."""
_PROMPT = "red circle left of blue square"
_SEED = 1

Way = Callable[[], Any]
"""Makes one picture, or does another piece of work that is to be timed."""
Times = Mapping[str, float]
"""Seconds by the name of the way, of one run."""


@dataclass(frozen=True)
class Subject:
    """What is measured: a model with its sampler, and the ways of making a picture with them.

    Attributes:
        name: for the report.
        steps: of the sampler.
        ways: "plain", "ordered", "selection", "full pass", "reroll" and "plain again" (as many steps as the reroll), and
            whatever `evaluation` needs besides.
        evaluation: seconds of one evaluation, from the times of a run.
        announced: evaluations that the selection says it adds.
        calls: evaluations of a selected picture as the model gets them, (pairs, single ones); None where unknown.
        questions: evaluations that injection adds, K.
    """

    name: str
    steps: int
    ways: Mapping[str, Way]
    evaluation: Callable[[Times], float]
    announced: int
    calls: tuple[int, int] | None = None
    questions: int = field(default_factory=lambda: len(key_timesteps(INJECTION)))


def measure(ways: Mapping[str, Way], runs: int, clock: Callable[[], float] = time.perf_counter) -> list[dict[str, float]]:
    """The times of every run, each the fastest of ROUNDS; after a run that does not count, with the garbage collector off."""
    names = list(ways)
    for name in names:
        ways[name]()
    measured, collecting = [], gc.isenabled()
    try:
        for run in range(runs):
            gc.collect()
            gc.disable()
            first, times = run % len(names), dict.fromkeys(names, inf)
            for name in (names[first:] + names[:first]) * ROUNDS:
                started = clock()
                ways[name]()
                times[name] = min(times[name], clock() - started)
            measured.append(times)
    finally:
        if collecting:
            gc.enable()
    return measured


def ratios(subject: Subject, times: Times) -> dict[str, float]:
    """The figures of one run."""
    steps, plain = subject.steps, times["plain"]
    share = subject.evaluation(times) * steps / plain
    found = {
        "ordered_over_plain": times["ordered"] / plain,
        "ideal": (steps + subject.questions * share) / steps,
        "selection_over_plain": times["selection"] / plain,
        "selection_announced": 1 + subject.announced / (2 * steps),
        "full_pass_over_plain": times["full pass"] / plain,
        "reroll_over_plain": times["reroll"] / times["plain again"],
        "evaluation_share": share,
    }
    if subject.calls is not None:
        pairs, single = subject.calls
        found["selection_ideal"] = (pairs + single * share) / steps
    return found


def bench(subject: Subject, runs: int, clock: Callable[[], float] = time.perf_counter) -> dict[str, Any]:
    """Medians of paired runs: `ratios`, and beside them their spread and the seconds behind them.

    Raises:
        ValueError: fewer than one run.
    """
    if runs < 1:
        raise ValueError(f"--runs = {runs} is not an integer from 1 on")
    measured = measure(subject.ways, runs, clock)
    found = [ratios(subject, times) for times in measured]
    return {
        **{name: round(statistics.median(one[name] for one in found), 4) for name in found[0]},
        "spread": {name: [round(pick(one[name] for one in found), 4) for pick in (min, max)] for name in found[0]},
        "seconds": {name: round(statistics.median(times[name] for times in measured), 5) for name in subject.ways},
        "subject": subject.name,
        "steps": subject.steps,
        "runs": runs,
        "threads": torch.get_num_threads(),
        "clock": "wall" if clock is time.perf_counter else "processor",
    }


# -- what can be measured ----------------------------------------------------------------------------------------------


def embedded(family: str, steps: int) -> Subject:
    """The lab's model and its sampler; one picture with guidance."""
    from .lab.arms import seed_draws
    from .lab.model import LabModel
    from .lab.preview import LabPreview
    from .lab.world import Prompt

    class Counted(LabModel):
        pairs = 0

        def predict_pair(self, *question: Any) -> Any:
            self.pairs += 1
            return super().predict_pair(*question)

        def timesteps(self, steps: int = steps) -> list[float]:
            return super().timesteps(steps)

    model, prompts = Counted(family), [Prompt.parse(_PROMPT)]
    draw, denoiser, cache = seed_draws([_SEED]), model.denoiser([Prompt.parse(_PROMPT)]), NoiseCache()

    def key() -> bytes:
        return fingerprint([family, _PROMPT, settings_of_the_noise(INJECTION), draw(1)])

    def ordered() -> OrderedNoise:
        return order_noise(INJECTION, draw, denoiser)

    def selected() -> None:
        preview = LabPreview(model, prompts)
        preview.finish(select(plan, lambda k: draw(k) * scale, preview))

    cache.keep(key(), ordered())
    plan, scale = plan_for(AUTOMATIC.selection, family, model.guidance, steps=steps)
    model.evaluations = model.pairs = 0
    selected()
    calls = model.pairs, model.evaluations - 2 * model.pairs
    return Subject(
        name=f"embedded {family} model",
        steps=steps,
        ways={
            "plain": lambda: model.sample(draw(1), prompts, steps),
            "ordered": lambda: model.sample(ordered().noise, prompts, steps),
            "selection": selected,
            "full pass": lambda: (model.sample(draw(1), prompts, steps), model.sample(draw(1), prompts, steps)),
            "reroll": lambda: model.sample(cache.find(key()).noise, prompts, steps + 1),
            "plain again": lambda: model.sample(draw(1), prompts, steps + 1),
            "evaluations": lambda: [denoiser(draw(1), step.timestep) for step in key_timesteps(INJECTION)],
        },
        evaluation=lambda times: times["evaluations"] / len(key_timesteps(INJECTION)),
        announced=extra_evaluations(plan, model.guidance),
        calls=calls,
    )


def diffusers_pipeline(steps: int, size: int | None = None) -> Subject:
    """diffusers' own Stable Diffusion pipeline around the lab's checkpoint in that format.

    Args:
        size: of the pictures, in pixels per side, a multiple of 32; by default the checkpoint's own.

    Raises:
        ModuleNotFoundError: diffusers or transformers is missing.
    """
    from ..adapters.diffusers import order_latents, run_ordered
    from .lab.sd1 import GUIDANCE, SIZE, ShapesSD1

    size = size or SIZE
    pipe = ShapesSD1.load().pipeline()
    pipe.set_progress_bar_config(disable=True)
    call = {"prompt": _PROMPT, "height": size, "width": size, "guidance_scale": GUIDANCE, "output_type": "np"}
    rows: list[int] = []
    question = torch.zeros(1, 4, size // 8, size // 8), 500, torch.zeros(1, 77, pipe.text_encoder.config.hidden_size)

    def seeded(steps: int = steps) -> dict[str, Any]:
        return {**call, "num_inference_steps": steps, "generator": torch.Generator().manual_seed(_SEED)}

    def ordered() -> torch.Tensor:
        return order_latents(pipe, settings=INJECTION, **seeded()).noise

    def evaluate() -> None:
        with torch.no_grad():
            for _ in key_timesteps(INJECTION):
                pipe.unet(*question)

    kept = ordered()
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
            "reroll": lambda: pipe(**seeded(steps + 1), latents=kept),
            "plain again": lambda: pipe(**seeded(steps + 1)),
            "evaluations": evaluate,
        },
        evaluation=lambda times: times["evaluations"] / len(key_timesteps(INJECTION)),
        announced=report.evaluations - report.saved_evaluations,
        calls=(rows.count(2), rows.count(1)),
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
    """
    seeds = itertools.count(1)
    last = 1

    def picture(settings: NoiseOrderSettings | None = None, seed: int = 1, **more: Any) -> dict[str, Any]:
        override = {"sd_model_checkpoint": checkpoint} if checkpoint else {}
        payload = {
            "prompt": _PROMPT, "seed": seed, "steps": steps, "width": size, "height": size, "cfg_scale": 4.0,
            "sampler_name": sampler, "override_settings": {**override, **more.pop("override", {})}, **more,
        }  # fmt: skip
        ordering = {} if settings is None else {"Noise Order": {"args": [settings.to_dict()]}}
        payload["alwayson_scripts"] = {**(scripts or {}), **ordering}
        return _post(f"{url.rstrip('/')}/sdapi/v1/txt2img", payload)

    def ordered() -> None:
        nonlocal last
        last = next(seeds)
        picture(INJECTION, last)

    def evaluation(times: Times) -> float:
        beside_steps = 2 * times["plain"] - times["twice the steps"]
        return max(times["prompt only"] - beside_steps, 0.0) / steps

    infotext = json.loads(picture(AUTOMATIC, next(seeds))["info"])["infotexts"][0]
    announced = re.search(r"Noise Order evaluations: (\d+)", infotext)
    if announced is None:
        raise OSError(f"{url} does not order noise; is Noise Order installed there?")
    return Subject(
        name=f"{checkpoint or 'the loaded checkpoint'} at {size}×{size} through the API",
        steps=steps,
        ways={
            "plain": picture,
            "ordered": ordered,
            "selection": lambda: picture(AUTOMATIC, next(seeds)),
            "full pass": lambda: (picture(), picture()),
            "reroll": lambda: picture(INJECTION, last, steps=steps + 1),
            "plain again": lambda: picture(steps=steps + 1),
            "prompt only": lambda: picture(s_min_uncond=1e9, override={"s_min_uncond_all": True}),
            "twice the steps": lambda: picture(steps=2 * steps),
        },
        evaluation=evaluation,
        announced=int(announced[1]),
    )


def _post(address: str, payload: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(address, json.dumps(payload).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=600) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        raise OSError(f"{address} answered {error.code}: {error.read().decode(errors='replace')[:300]}") from None
    except urllib.error.URLError as error:
        raise OSError(f"{address} cannot be reached: {error.reason}") from None


# -- the command -------------------------------------------------------------------------------------------------------


def add_command(commands: argparse._SubParsersAction) -> None:
    """Hang `bench` under the command's parser; it sets `run`, which takes the options and gives the exit status."""
    parser = commands.add_parser("bench", help="what ordering the noise costs, as ratios to plain pictures")
    parser.add_argument("--model", choices=("flow", "eps"), default="flow", help="which embedded model (default: flow)")
    parser.add_argument("--steps", type=int, default=20, help="of the sampler (default: 20)")
    parser.add_argument("--runs", type=int, default=5, help="how many paired runs the medians are taken over (default: 5)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--diffusers", action="store_true", help="a Stable Diffusion pipeline of diffusers instead")
    parser.add_argument(
        "--processor-time", action="store_true", help="count this process's work instead of the clock: busy machines"
    )
    parser.add_argument("--webui", metavar="URL", help="a running WebUI with the extension instead, through its API")
    parser.add_argument(
        "--processor-of", type=int, metavar="PID", help="with --webui: count its process's work instead of the clock"
    )
    parser.add_argument("--checkpoint", default="", help="with --webui: as the WebUI lists it (default: the loaded one)")
    parser.add_argument("--size", type=int, default=512, help="with --webui: width and height (default: 512)")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    if options.steps < 2:
        raise ValueError(f"--steps = {options.steps} is not an integer from 2 on")
    if options.webui:
        subject = webui(options.webui, options.checkpoint, options.steps, options.size)
    elif options.diffusers:
        subject = diffusers_pipeline(options.steps)
    else:
        subject = embedded(options.model, options.steps)
    clock = time.process_time if options.processor_time and not options.webui else time.perf_counter
    if options.webui and options.processor_of is not None:
        clock = processor_clock(options.processor_of)
    figures = bench(subject, options.runs, clock)
    print(json.dumps(figures, indent=1, ensure_ascii=False) if options.json else table(figures))
    return 0


def processor_clock(pid: int) -> Callable[[], float]:
    """The seconds of processor time that a process has used, in all its threads; Linux only.

    Raises:
        OSError: there is no such process, or no /proc.
    """
    stat = Path(f"/proc/{pid}/stat")
    ticks = os.sysconf("SC_CLK_TCK")

    def clock() -> float:
        fields = stat.read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / ticks

    clock()
    return clock


def table(figures: Mapping[str, Any]) -> str:
    """The figures of `bench` for people."""
    lines = [f"{figures['subject']}, {figures['steps']} steps; medians of {figures['runs']} paired runs"]
    rows = [
        ("plain", "", ""),
        ("ordered", "ordered_over_plain", "ideal"),
        ("selection", "selection_over_plain", "selection_ideal"),
        ("full pass", "full_pass_over_plain", ""),
        ("reroll", "reroll_over_plain", ""),
    ]
    for way, name, ideal in rows:
        line = f"{way:10} {figures['seconds'][way]:9.4f} s"
        if name:
            low, high = figures["spread"][name]
            line += f"   × {figures[name]:.3f} [{low:.3f} to {high:.3f}]"
        if ideal in figures:
            line += f"   ideal × {figures[ideal]:.3f}"
        lines.append(line)
    lines.append(f"an evaluation takes {figures['evaluation_share']:.2f} of a step")
    lines.append(f"the selection announced × {figures['selection_announced']:.3f}")
    return "\n".join(lines)
