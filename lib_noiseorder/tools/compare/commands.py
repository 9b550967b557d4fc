"""`noiseorder compare`."""

from __future__ import annotations

import argparse

import torch

from ...knobs import shown
from ...settings import RECOMMENDED
from ..options import SEED, checked, number, path, running, text, whole_number
from ..webui_client import AUTH_VARIABLE, address
from . import prompts
from .options import DEFAULT_FOLDER, Options

_ARMS = f"{RECOMMENDED.lower()} and equal-cost:{RECOMMENDED.lower()}"


def add_commands(subparsers: argparse._SubParsersAction) -> None:
    """Hang `compare` under a parser; it sets `run`, which takes the options and gives the exit status."""
    compare = subparsers.add_parser(
        "compare",
        help="plain against ordered noise on your own model, with scores, statistics and a report",
        description="Makes pictures of the same prompts and seeds in several arms, scores them, and writes report.html. "
        "The same command on the same folder goes on where it was.",
    )
    source = compare.add_argument_group("what makes the pictures (one of the two)")
    source.add_argument(
        "--webui", type=checked(address), nargs="+", metavar="URL", help="running WebUIs with the extension, started with --api"
    )
    source.add_argument("--diffusers", type=text, metavar="MODEL", help="a pipeline's folder, or its name in the local cache")
    source.add_argument("--checkpoint", type=text, default="", help="as the WebUI lists it (default: the one that is loaded)")
    source.add_argument("--auth", metavar="USER:PASSWORD", help=f"the WebUI's --api-auth (or the variable {AUTH_VARIABLE})")
    source.add_argument(
        "--timeout", type=number(1, 1e6), default=600, help="seconds to wait for a picture (default: %(default)g)"
    )
    source.add_argument(
        "--device", type=checked(_device), help="for --diffusers and the scores (default: a GPU where there is one)"
    )
    source.add_argument(
        "--dtype", choices=("float32", "float16", "bfloat16"), help="of --diffusers (default: bfloat16 on a GPU, else float32)"
    )

    what = compare.add_argument_group("what is compared")
    arm_help = f"an arm; plain is always there: automatic, light, paper, NAME:knob=value,…, equal-cost:NAME (default: {_ARMS})"
    what.add_argument("--arm", action="append", metavar="ARM", help=arm_help)
    prompts_help = f"a .txt, .csv, .tsv or .jsonl file, or one of {', '.join(prompts.BUILT_IN)} (default: %(default)s)"
    what.add_argument("--prompts", type=text, default="categories", metavar="FILE|SET", help=prompts_help)
    what.add_argument(
        "--pairs", type=whole_number(1, 100_000), help="prompt-seed pairs (default: every prompt --per-prompt times)"
    )
    what.add_argument(
        "--per-prompt", type=whole_number(1, 1000), default=2, help="seeds of every prompt (default: %(default)s)"
    )
    what.add_argument("--seed", type=SEED, default=1, help="decides the seeds of the pictures (default: %(default)s)")
    what.add_argument("--negative-prompt", type=text, default="", help="the same for every picture")
    what.add_argument("--steps", type=whole_number(1, 1000), help="of the sampler (default: 20)")
    what.add_argument(
        "--cfg", type=number(0, 100), help="CFG scale (default: 7; for --prompts shapes what its checkpoint likes)"
    )
    what.add_argument(
        "--size", metavar="WxH", help="of the pictures (default: 512x512; for --prompts shapes what its checkpoint draws)"
    )
    what.add_argument("--sampler", type=text, default="Euler", help="the WebUI's sampler (default: %(default)s)")
    what.add_argument("--scheduler", type=text, default="", help="the WebUI's schedule type (default: the sampler's own)")

    results = compare.add_argument_group("results")
    results.add_argument("--out", type=path, help=f"the folder of the comparison (default: {DEFAULT_FOLDER})")
    scores_help = "comma-separated, NAME or NAME=MODEL: oracle, clipscore, pickscore, imagereward, vqascore, hpsv2, or none"
    results.add_argument("--scores", metavar="LIST", help=f"{scores_help} (default: all that are installed)")
    results.add_argument(
        "--report-pictures", type=whole_number(0, 100_000), default=200, help="pairs shown in the report (default: %(default)s)"
    )
    results.add_argument("--report-only", action="store_true", help="make no pictures: score and report what is in --out")
    repeat_help = "do what a run.json or results.json says once more, and say how many pictures came out the same"
    results.add_argument("--repeat", type=path, metavar="FILE", help=repeat_help)
    results.add_argument("--quiet", action="store_true", help="no progress bar")
    compare.set_defaults(run=running(_compare, Options))


def _device(name: str) -> str:
    try:
        torch.device(name)
    except RuntimeError:
        raise ValueError(f"{shown(name)} is not a device such as cpu, cuda or cuda:1") from None
    return name


def _compare(options: Options) -> int:
    try:
        import PIL  # noqa: F401
    except ModuleNotFoundError:
        raise OSError("PIL is missing; install what compare needs: pip install 'noiseorder[compare]'") from None
    from .comparison import compare

    return compare(options)
