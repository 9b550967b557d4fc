"""`noiseorder bench`."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ...judges.libraries import Missing
from ..options import checked, running, text, whole_number
from ..webui_client import address
from .measuring import bench, bench_judge, processor_clock
from .real_sizes import REAL_SIZES
from .subjects import diffusers_pipeline, embedded, judge, judge_name, webui


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Hang `bench` under the command's parser; it sets `run`, which takes the options and gives the exit status."""
    parser = commands.add_parser("bench", help="what ordering the noise costs, as ratios to plain pictures")
    parser.add_argument("--model", choices=("flow", "eps"), default="flow", help="which embedded model (default: flow)")
    parser.add_argument("--steps", type=whole_number(2, 1000), default=20, help="steps of the sampler (default: 20)")
    parser.add_argument(
        "--runs", type=whole_number(1, 10_000), default=5, help="how many paired runs the medians are taken over (default: 5)"
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    subject = parser.add_mutually_exclusive_group()
    subject.add_argument("--diffusers", action="store_true", help="a Stable Diffusion pipeline of diffusers instead")
    parser.add_argument("--processor-time", action="store_true", help="count this process's processor time, for busy machines")
    subject.add_argument(
        "--webui", type=checked(address), metavar="URL", help="a running WebUI with the extension instead, through its API"
    )
    subject.add_argument(
        "--judge",
        type=checked(judge_name),
        metavar="JUDGE",
        help=f"what a judge costs instead: your own by its folder, or one of a real one's size ({', '.join(REAL_SIZES)})",
    )
    parser.add_argument(
        "--processor-of",
        type=whole_number(1, 2**31 - 1),
        metavar="PID",
        help="with --webui: count that process's processor time",
    )
    parser.add_argument(
        "--checkpoint", type=text, default="", help="with --webui: as the WebUI lists it (default: the loaded one)"
    )
    parser.add_argument(
        "--size", type=whole_number(64, 8192), default=512, help="with --webui or --judge: width and height (default: 512)"
    )
    parser.set_defaults(run=running(_bench, Options))


@dataclass(frozen=True)
class Options:
    """As on the command line."""

    model: str
    steps: int
    runs: int
    json: bool
    diffusers: bool
    processor_time: bool
    webui: str | None
    judge: str | None
    processor_of: int | None
    checkpoint: str
    size: int


def _bench(options: Options) -> int:
    if options.processor_of is not None and not options.webui:
        raise ValueError("--processor-of needs --webui URL; --processor-time counts this process's own work")
    clock = time.process_time if options.processor_time and not options.webui else time.perf_counter
    if options.judge is not None:
        return _bench_judge(options, options.judge, clock)
    if options.webui:
        subject = webui(options.webui, options.checkpoint, options.steps, options.size)
    elif options.diffusers:
        subject = diffusers_pipeline(options.steps)
    else:
        subject = embedded(options.model, options.steps)
    if options.webui and options.processor_of is not None:
        clock = processor_clock(options.processor_of)
    figures = bench(subject, options.runs, clock)
    print(json.dumps(figures, indent=1, ensure_ascii=False) if options.json else table(figures))
    return 0


def _bench_judge(options: Options, named: str, clock: Callable[[], float]) -> int:
    try:
        with judge(named, options.size) as subject:
            figures = bench_judge(subject, options.runs, clock)
    except Missing as missing:
        raise OSError(str(missing)) from missing
    print(json.dumps(figures, indent=1, ensure_ascii=False) if options.json else judge_table(figures))
    return 0


def table(figures: Mapping[str, Any]) -> str:
    """The figures of `bench` for people."""
    lines = [f"{figures['subject']}, {figures['steps']} steps; medians of {figures['runs']} paired runs"]
    rows = [
        ("plain", "", ""),
        ("ordered", "ordered_over_plain", "ideal"),
        ("selection", "selection_over_plain", "selection_ideal"),
        ("full pass", "full_pass_over_plain", ""),
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


def judge_table(figures: Mapping[str, Any]) -> str:
    """The figures of `bench_judge` for people."""
    lines = [f"{figures['subject']}; medians of {figures['runs']} runs"]
    for way, seconds in figures["seconds"].items():
        spread = "[{:.4f} to {:.4f}]".format(*figures["spread"][way]) if way in figures["spread"] else ""
        lines.append(f"{way:22} {seconds:9.4f} s   {spread}".rstrip())
    for name, added in {"weights on a GPU": figures["weights_on_a_gpu"], **figures["bytes_added"]}.items():
        lines.append(f"{name:22} " + ("not known here" if added is None else f"{added / 2**20:9.1f} MiB"))
    return "\n".join(lines)
