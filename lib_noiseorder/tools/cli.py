"""The `noiseorder` command."""

from __future__ import annotations

import argparse
import importlib
import platform
import re
import sys
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from tempfile import NamedTemporaryFile

from .. import KNOBS, NoiseOrderSettings, __version__
from ..settings import RECOMMENDED
from .assignments import assigned
from .bench import commands as bench_commands
from .compare import commands as compare_commands
from .lab import commands as lab_commands
from .options import running, whole_number
from .progress import Bar, duration
from .store import whole_file


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

    demo = commands.add_parser("demo", help="plain and ordered pictures of an embedded model counted, eight pairs in a PNG")
    demo.add_argument("prompt", nargs="?", help='for example "red circle left of blue square" (default: many, rare and common)')
    demo.add_argument("--model", choices=("eps", "flow"), default="eps", help="which embedded model (default: %(default)s)")
    pairs, seeds = whole_number(8, 4096), whole_number(0, 2**31 - 1)
    demo.add_argument("--pairs", type=pairs, default=192, help="plain and ordered pictures, 8 to 4096 (default: %(default)s)")
    demo.add_argument("--seed", type=seeds, default=1, help="decides the noises, and prompts not given (default: %(default)s)")
    setting = f"a setting, as in the API (default: preset={RECOMMENDED})"
    demo.add_argument("--set", action="append", default=[], metavar="KNOB=VALUE", help=setting)
    demo.add_argument("--out", type=Path, help="the PNG to write (default: noiseorder-demo.png or noiseorder-PROMPT.png here)")
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

    prompt: str | None
    model: str
    pairs: int
    seed: int
    set: tuple[str, ...]
    out: Path | None


def _demo(options: DemoOptions) -> int:
    began = time.monotonic()
    demo, sheet, world = _lab("demo"), _lab("demo_sheet"), _lab("world")
    prompt = None if options.prompt is None else world.Prompt.parse(options.prompt)
    settings = NoiseOrderSettings.from_dict({"enabled": True, **assigned(options.set, "--set")})
    path = options.out or Path(f"noiseorder-{re.sub(r'[^a-z]+', '-', str(prompt or 'demo'))}.png")
    _check_writable(path)
    bar = Bar("drawing")
    try:
        comparison = demo.compare(prompt, settings, options.model, options.pairs, options.seed, bar)
    finally:
        bar.close()
    with whole_file(path) as part:
        sheet.draw_sheet(comparison, f"Small embedded model ({options.model}), seed {options.seed}").save(part, optimize=True)
    print("\n".join(demo.told(comparison, options.model, options.seed)))
    print(f"written  {path.resolve()} after {duration(time.monotonic() - began)}")
    return 0


def _check_writable(path: Path) -> None:
    """Before the work is done. Raises ValueError where no PNG of this name can be written."""
    try:
        if path.suffix.lower() != ".png" or path.is_dir():
            raise ValueError(f"--out = {path} is no file that ends in .png")
        with NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}."):
            pass
    except OSError as error:
        raise ValueError(f"--out = {path} cannot be written: {error.strerror}; it takes a .png in an existing folder") from None


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
