"""`noiseorder bench`."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..options import checked, running, text, whole_number
from ..webui_client import address
from .measuring import bench, processor_clock
from .subjects import diffusers_pipeline, embedded, webui


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
        "--size", type=whole_number(64, 8192), default=512, help="with --webui: width and height (default: 512)"
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
    processor_of: int | None
    checkpoint: str
    size: int


def _bench(options: Options) -> int:
    if options.processor_of is not None and not options.webui:
        raise ValueError("--processor-of needs --webui URL; --processor-time counts this process's own work")
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
