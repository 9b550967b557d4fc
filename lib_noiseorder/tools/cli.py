"""The `noiseorder` command."""

from __future__ import annotations

import argparse
import importlib
import platform
import re
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from .. import KNOBS, NoiseOrderSettings, __version__
from ..settings import RECOMMENDED
from .assignments import assigned
from .bench import commands as bench_commands
from .compare import commands as compare_commands
from .lab import commands as lab_commands
from .options import running


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit status: 0 done, 1 could not, 2 bad usage."""
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except (ValueError, OSError, ImportError) as error:
        print(f"noiseorder: {error}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("noiseorder", description="The initial noise of a diffusion sampler, put in order.")
    parser.add_argument("--version", action="version", version=f"noiseorder {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    demo = commands.add_parser("demo", help="plain and ordered pictures of the embedded model, side by side in one PNG")
    demo.add_argument("prompt", help='for example "red circle left of blue square"')
    demo.add_argument("--model", choices=("flow", "eps"), default="flow", help="which embedded model (default: flow)")
    demo.add_argument("--seed", type=int, default=1, help="the first seed (default: 1)")
    demo.add_argument("--pictures", type=int, default=4, help="how many seeds, 1 to 12 (default: 4)")
    setting = f"a setting, as in the API (default: preset={RECOMMENDED})"
    demo.add_argument("--set", action="append", default=[], metavar="KNOB=VALUE", help=setting)
    demo.add_argument("--out", type=Path, help="the PNG to write (default: noiseorder-PROMPT.png here)")
    demo.set_defaults(run=running(_demo, DemoOptions))

    lab = commands.add_parser("lab", help="train, evaluate and tabulate in the shapes world")
    lab_commands.add_commands(lab.add_subparsers(required=True, metavar="LAB_COMMAND"))

    compare_commands.add_commands(commands)
    bench_commands.add_commands(commands)

    controls = commands.add_parser("controls", help="every control with its API key, default and range, as a Markdown table")
    controls.set_defaults(run=lambda _: print(controls_table()) or 0)

    doctor = commands.add_parser("doctor", help="what is installed and whether the embedded models load")
    doctor.set_defaults(run=_doctor)
    return parser


def controls_table() -> str:
    """The knobs as a Markdown table."""
    rows = ["| control | API key | default | range | what it does |", "|---|---|---|---|---|"]
    for knob in KNOBS:
        default = str(knob.default).lower() if knob.kind is bool else knob.default
        rows.append(f"| {knob.label} | `{knob.name}` | {default} | {knob.range} | {knob.help} |")
    return "\n".join(rows)


@dataclass(frozen=True)
class DemoOptions:
    """Of `demo`, as on the command line."""

    prompt: str
    model: str
    seed: int
    pictures: int
    set: tuple[str, ...]
    out: Path | None


def _demo(options: DemoOptions) -> int:
    demo, world = _lab("demo"), _lab("world")
    if not 1 <= options.pictures <= 12:
        raise ValueError(f"--pictures = {options.pictures} is not an integer from 1 to 12")
    prompt = world.Prompt.parse(options.prompt)
    settings = NoiseOrderSettings.from_dict({"enabled": True, **assigned(options.set, "--set")})
    seeds = list(range(options.seed, options.seed + options.pictures))
    rows, ordered = demo.compare(prompt, settings, options.model, seeds)
    path = options.out or Path(f"noiseorder-{re.sub(r'[^a-z]+', '-', str(prompt))}.png")
    title = f"embedded {options.model} model, seeds {seeds[0]} to {seeds[-1]}, preset {settings.preset}"
    demo.draw_sheet(prompt, rows, seeds, title, path)
    for row in rows:
        right = sum(verdict.all for verdict in row.verdicts)
        print(f"{row.name:8} {right} of {len(seeds)} right   noise std {row.std:.3f}   {row.evaluations} model evaluations")
        for seed, verdict in zip(seeds, row.verdicts):
            print(f"         seed {seed}: {verdict}")
    for reason in ordered.report.skipped:
        print(f"skipped  {reason}")
    print(f"written  {path.resolve()}")
    return 0


def _doctor(_: argparse.Namespace) -> int:
    print(f"noiseorder {__version__}, Python {platform.python_version()} on {platform.platform()}")
    for package in ("torch", "numpy", "safetensors", "pillow", "gradio", "diffusers"):
        try:
            print(f"  {package:12} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            print(f"  {package:12} not installed")
    for family in ("eps", "flow"):
        _lab("model").LabModel(family)
        print(f"  embedded {family} model loads")
    return 0


def _lab(module: str):
    try:
        return importlib.import_module(f"lib_noiseorder.tools.lab.{module}")
    except ModuleNotFoundError as error:
        raise OSError(f"{error.name} is missing; install the lab's packages: pip install 'noiseorder[lab]'") from None
