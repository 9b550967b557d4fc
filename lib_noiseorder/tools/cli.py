"""The `noiseorder` command."""

from __future__ import annotations

import argparse
import importlib
import io
import os
import platform
import re
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import NoReturn

from .. import KNOBS, __version__
from ..settings import INFOTEXT_PREFIX, RECOMMENDED
from .assignments import assigned, settings_of
from .bench import commands as bench_commands
from .compare import commands as compare_commands
from .failures import INTERRUPTED
from .few_steps import few_steps_table
from .lab import commands as lab_commands
from .options import SEED, check_writable, path, running, text, whole_number
from .progress import Bar, duration
from .store import whole_file


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit status: 0 done, 1 could not, 2 bad usage, 130 interrupted by the user."""
    _any_character_can_be_printed()
    try:
        options = _parser().parse_args(arguments)
        status = options.run(options)
        if sys.stdout is not None:
            sys.stdout.flush()
        return status
    except SystemExit as ended:  # of the parser: bad usage, or help
        return int(ended.code or 0)
    except BrokenPipeError:  # whoever read the output wants no more
        status, said = 1, ""
    except KeyboardInterrupt:
        status, said = INTERRUPTED, "interrupted"
    except ValueError as error:
        status, said = 2, str(error).removeprefix(f"{INFOTEXT_PREFIX}: ")
    except OSError as error:
        status, said = 1, f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)
    except (ImportError, MemoryError) as error:
        status, said = 1, str(error) or "not enough memory"
    with suppress(OSError):
        if said:
            print(f"noiseorder: {said}", file=sys.stderr)
    _give_up_broken_output()
    return status


def _any_character_can_be_printed() -> None:
    """Not every console knows every character; and where there is none, what is meant for it goes nowhere."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115


def _give_up_broken_output() -> None:
    """What cannot be written any more would be complained of once more when Python ends."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError:
            with suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class _Parser(argparse.ArgumentParser):
    """Complains in one line; its commands' parsers do so, too."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        "noiseorder", description="Tries and measures what Noise Order does: it chooses the noise that a picture starts from."
    )
    parser.add_argument("--version", action="version", version=f"noiseorder {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    demo = commands.add_parser(
        "demo", help="count what is right in plain and ordered pictures of a small model; eight pairs as a PNG"
    )
    demo.add_argument(
        "prompt",
        nargs="?",
        type=text,
        help='for example "red circle left of blue square" (default: another one for each pair, half of them rare)',
    )
    demo.add_argument("--model", choices=("eps", "flow"), default="eps", help="which embedded model (default: %(default)s)")
    pairs = whole_number(8, 4096)
    demo.add_argument(
        "--pairs",
        type=pairs,
        default=192,
        help="how many pairs of a plain and an ordered picture, 8 to 4096 (default: %(default)s)",
    )
    demo.add_argument("--seed", type=SEED, default=1, help="decides the noises, and prompts not given (default: %(default)s)")
    setting = f"a setting, as in the API; may be given several times (default: preset={RECOMMENDED})"
    demo.add_argument("--set", action="append", default=[], metavar="KNOB=VALUE", help=setting)
    demo.add_argument("--out", type=path, help="the PNG to write (default: noiseorder-demo.png or noiseorder-PROMPT.png here)")
    demo.set_defaults(run=running(_demo, DemoOptions))

    lab = commands.add_parser("lab", help="measure in a small world of coloured shapes, or train its models")
    lab_commands.add_commands(lab.add_subparsers(required=True, metavar="LAB_COMMAND"))

    compare_commands.add_commands(commands)
    bench_commands.add_commands(commands)

    controls = commands.add_parser("controls", help="every setting with its API key, default and range, as a Markdown table")
    controls.set_defaults(run=lambda _: print(controls_table()) or 0)

    few = commands.add_parser("few-steps", help="what the presets do and cost with 1 to 12 steps, as Markdown tables")
    few.set_defaults(run=lambda _: print(few_steps_table()) or 0)

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
    settings = settings_of({"enabled": True, **assigned(options.set, "--set")}, "--set")
    out = options.out or Path(f"noiseorder-{re.sub(r'[^a-z]+', '-', str(prompt or 'demo'))}.png")
    check_writable("--out", out, ".png", make_folder=False)
    bar = Bar("drawing")
    try:
        comparison = demo.compare(prompt, settings, options.model, options.pairs, options.seed, bar)
    finally:
        bar.close()
    with whole_file(out) as part:
        sheet.draw_sheet(comparison, f"Small embedded model ({options.model}), seed {options.seed}").save(part, optimize=True)
    print("\n".join(demo.told(comparison, options.model, options.seed)))
    print(f"written  {out.resolve()} after {duration(time.monotonic() - began)}")
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
