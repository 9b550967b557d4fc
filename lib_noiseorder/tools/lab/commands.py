"""`noiseorder lab evaluate | table | train | webui`."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..options import SEED, check_writable, file, number, path, running, whole_number
from ..plots import Panel, curves, forest
from ..progress import Bar
from ..store import write_whole

_MODELS = ("eps", "flow", "distilled", "few-steps", "v")
_FAMILIES = ("eps", "flow")
_OF_BOTH_WORLDS = (*_FAMILIES, "few-steps")
_WORLDS = ("shapes", "pictograms")
_CHECKPOINTS = {"shapes-sd1": "sd1_training", "shapes-flux": "flux_training"}
"""Models in other programs' formats, with the module that makes each."""
_FROM_NOTHING = ("shapes-flux", "oracle", "judge")
_TABLE_ARMS = (
    "plain,automatic,light,paper,equal-cost,wrong-prompt,steps:24,steps:32,scale:0.9,scale:0.8,erasure:16,"
    "random-direction:0.1,oracle:2,oracle:4"
)

_COSTS = (0.1, 0.2, 0.4, 1.0, 3.0)
"""Extra costs of `lab curve`."""

_ARMS_HELP = "comma-separated ways of making the noise; an unknown one lists them all"


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Of whatever evaluates, as on the command line."""

    pairs: int
    seed: int
    quiet: bool
    resume: Path | None


@dataclass(frozen=True, kw_only=True)
class TableOptions(RunOptions):
    """Of `lab table`."""

    arms: str
    world: str | None
    plot: Path | None


@dataclass(frozen=True, kw_only=True)
class CurveOptions(RunOptions):
    """Of `lab curve`."""

    world: str | None
    plot: Path


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(RunOptions):
    """Of `lab evaluate`."""

    arms: str
    world: str
    model: str
    guidance: float | None
    steps: int | None
    json: bool
    details: bool


@dataclass(frozen=True)
class TrainOptions:
    """Of `lab train`."""

    world: str
    model: str
    minutes: float
    seed: int
    start: Path | None
    out: Path


@dataclass(frozen=True)
class WebUIOptions:
    """Of `lab webui`."""

    folder: Path


def add_commands(subparsers: argparse._SubParsersAction) -> None:
    """Hang the lab's commands under a parser; each sets `run`, which takes the options and gives the exit status."""
    evaluate = subparsers.add_parser("evaluate", help="compare ways of making the noise on the same prompts and seeds")
    evaluate.add_argument("--world", choices=_WORLDS, default="shapes", help="which small world (default: %(default)s)")
    evaluate.add_argument("--model", choices=_MODELS, required=True, help="which one; distilled and v: of shapes only")
    evaluate.add_argument("--guidance", type=number(0, 30), help="another guidance scale than the model's best one")
    evaluate.add_argument(
        "--steps", type=whole_number(1, 500), help="another number of sampler steps than the model's own, for every arm"
    )
    evaluate.add_argument("--arms", default="plain,automatic,equal-cost", help=f"{_ARMS_HELP} (default: %(default)s)")
    evaluate.add_argument("--json", action="store_true", help="print the figures as JSON")
    evaluate.add_argument("--details", action="store_true", help="with --json: every figure, not only the main ones")
    evaluate.set_defaults(run=running(_evaluate, EvaluateOptions))

    table = subparsers.add_parser("table", help="the main table of docs/evidence.md, both models of both worlds, as Markdown")
    table.add_argument("--world", choices=_WORLDS, help="of one world only")
    table.add_argument("--arms", default=_TABLE_ARMS, help=f"{_ARMS_HELP} (default: %(default)s)")
    table.add_argument("--plot", type=path, metavar="FILE.svg", help="draw every arm's gain over plain with its interval, too")
    table.set_defaults(run=running(_table, TableOptions))

    curve = subparsers.add_parser("curve", help="what Automatic gains by its extra cost, beside what else that would buy")
    curve.add_argument("--world", choices=_WORLDS, help="of one world only")
    curve.add_argument("--plot", type=path, metavar="FILE.svg", required=True, help="draw it here")
    curve.set_defaults(run=running(_curve, CurveOptions))

    for parser in (evaluate, table, curve):
        parser.add_argument(
            "--pairs", type=whole_number(4, 100_000), default=1024, help="prompt-seed pairs per arm (default: %(default)s)"
        )
        parser.add_argument("--seed", type=SEED, default=1, help="decides prompts and noises (default: %(default)s)")
        parser.add_argument("--quiet", action="store_true", help="no progress bar")
        parser.add_argument("--resume", type=path, metavar="FILE", help="keep finished work here, and go on from it")

    train = subparsers.add_parser("train", help="train an embedded model, the oracle or the judge anew")
    train.add_argument("--world", choices=_WORLDS, default="shapes", help="whose model (default: %(default)s)")
    train.add_argument("--model", choices=(*_MODELS, *_CHECKPOINTS, "oracle", "judge"), required=True, help="which one")
    train.add_argument("--minutes", type=number(0.001, 100_000), default=40, help="for how long (default: %(default)s)")
    train.add_argument("--seed", type=SEED, default=0, help="decides the first weights and the pictures (default: %(default)s)")
    train.add_argument("--start", type=file, help="weights to go on from")
    train.add_argument("--out", type=path, required=True, help="the .safetensors to write; of judge the folder")
    train.set_defaults(run=running(_train, TrainOptions))

    webui = subparsers.add_parser("webui", help="put the checkpoint shapes-sd1 into an AUTOMATIC1111 WebUI")
    webui.add_argument("folder", type=path, help="the WebUI's folder")
    webui.set_defaults(run=running(_webui, WebUIOptions))


def _evaluate(options: EvaluateOptions) -> int:
    figures = _run(options, options.arms, options.world, options.model, options.guidance, options.steps)
    if options.json:
        print(json.dumps({"arms": {name: _main(figure, options.details) for name, figure in figures.items()}}))
    else:
        print("\n".join(_markdown(f"{options.world}, {options.model}", figures)))
    return 0


def _table(options: TableOptions) -> int:
    if options.plot is not None:
        check_writable("--plot", options.plot, ".svg")
    rows = []
    for of, figures in _tables(options, options.arms):
        rows += [(f"{of}: {name}", dict(zip(("mean", "low", "high"), arm.diff))) for name, arm in figures.items() if arm.diff]
    if options.plot is not None:
        label = f"Points of all-right pictures above plain, 95 % interval, {options.pairs} pairs, seed {options.seed}"
        plot = forest("All right, points above plain", rows, decimals=1, alone=True, label=label)
        write_whole(options.plot, f"{plot}\n")
    return 0


def _curve(options: CurveOptions) -> int:
    check_writable("--plot", options.plot, ".svg")
    lines = {"Automatic": "automatic", "as many more steps": "equal-cost"}
    levels = {"noise × 0.9": "scale:0.9", "best of 4, by the oracle": "oracle:4"}
    arms = [f"{kind}:{cost:g}" for kind in lines.values() for cost in _COSTS]
    panels = []
    for of, figures in _tables(options, ",".join([*arms, *levels.values()])):
        gain = {name: arm.diff for name, arm in figures.items() if arm.diff is not None}
        panels.append(
            Panel(
                of,
                {name: [(cost, gain[f"{kind}:{cost:g}"]) for cost in _COSTS] for name, kind in lines.items()},
                {name: gain[arm][0] for name, arm in levels.items()},
            )
        )
    label = f"Points of all-right pictures above plain by the extra cost, {options.pairs} pairs, seed {options.seed}"
    write_whole(options.plot, f"{curves('All right, points above plain, 95 % intervals', panels, label)}\n")
    return 0


def _tables(options: TableOptions | CurveOptions, arms: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every model's name and figures, printed as soon as they are there."""
    for world in _WORLDS if options.world is None else (options.world,):
        for family in _FAMILIES:
            figures = _run(options, arms, world, family)
            print("\n".join([*_markdown(f"{world}, {family}", figures), ""]), flush=True)
            yield f"{world}, {family}", figures


def _train(options: TrainOptions) -> int:
    log = lambda line: print(line, file=sys.stderr, flush=True)  # noqa: E731
    check_writable("--out", options.out / "config.json" if options.model == "judge" else options.out)
    if options.start is not None and options.model in _FROM_NOTHING:
        raise ValueError(f"--start = {options.start}: {options.model} is always trained from nothing")
    if options.world != "shapes" and options.model not in _OF_BOTH_WORLDS:
        raise ValueError(f"--world = {options.world}: only {', '.join(_OF_BOTH_WORLDS)} can be trained, not {options.model}")
    if options.model in _CHECKPOINTS:
        recipe = importlib.import_module(f".formats.{_CHECKPOINTS[options.model]}", __package__)
        start = {} if options.start is None else {"start": options.start}
        recipe.train(options.minutes, options.seed, options.out, log, **start)
        return 0
    if options.model == "judge":
        from .judge_training import train_judge

        train_judge(options.minutes, options.seed, options.out, log)
        return 0
    from . import worlds
    from .distillation import train_few_steps
    from .training import train, train_oracle

    if options.model == "oracle":
        train_oracle(options.minutes, options.seed, options.out, log)
    elif options.model == "few-steps":
        train_few_steps(options.minutes, options.seed, options.out, options.start, log, worlds.named(options.world))
    else:
        train(options.model, options.minutes, options.seed, options.out, options.start, log, worlds.named(options.world))
    return 0


def _webui(options: WebUIOptions) -> int:
    from .formats.in_webui import install

    environment = install(options.folder)
    print("shapes-sd1 is in place. Start the WebUI with")
    print(*(f"{name}={value}" for name, value in environment.items()))
    return 0


def _run(options: RunOptions, named: str, world: str, family: str, guidance: float | None = None, steps: int | None = None):
    from . import worlds
    from .arms import Arm
    from .evaluation import evaluate

    arms = [Arm.named(name.strip()) for name in named.split(",") if name.strip()]
    if not arms:
        raise ValueError(f"--arms = {named!r} names no arm; plain is one")
    of = worlds.named(world)
    of.model(family)  # refused before the bar is drawn
    if options.resume is not None:
        check_writable("--resume", options.resume)
    names = list(dict.fromkeys(["plain", *(arm.name for arm in arms)]))
    bar = Bar(f"{world}, {family}", options.quiet)

    def progress(arm: str, done: int, total: int) -> None:
        bar(names.index(arm) * total + done, len(names) * total)

    bar(0, len(names) * options.pairs)
    try:
        return evaluate(family, arms, options.pairs, options.seed, options.resume, progress, guidance, of, steps)
    finally:
        bar.close()


def _main(figures, details: bool) -> dict:
    """An arm's figures for JSON: percent and points, two decimals."""

    def rounded(value):
        if isinstance(value, tuple):
            return [rounded(part) for part in value]
        return None if value is None else round(value, 4)

    if details:
        return {name: rounded(value) for name, value in vars(figures).items()}
    main = {"all": rounded(figures.all)}
    if figures.diff is not None:
        mean, *interval = rounded(figures.diff)
        main |= {"diff": mean, "ci": interval, "diversity_change": rounded(figures.diversity_change)}
    return main | {"evaluations": rounded(figures.evaluations), "diversity": rounded(figures.diversity)}


def _markdown(of: str, figures: dict) -> list[str]:
    lines = [
        f"| {of} | all right % | against plain | common | rare | attributes | evaluations | diversity | Fréchet |",
        "|---|---|---|---|---|---|---|---|---|",
    ]

    def points(diff) -> str:
        return "" if diff is None else f"{diff[0]:+.1f} [{diff[1]:+.1f}, {diff[2]:+.1f}]"

    for name, arm in figures.items():
        variety = "" if arm.diversity is None else f"{arm.diversity:.2f}"
        variety += f" ({points(arm.diversity_change)} %)" if arm.diversity_change else ""
        lines.append(
            f"| {name} | {arm.all:.1f} | {points(arm.diff)} | {points(arm.diff_common) or f'{arm.common:.1f} %'} | "
            f"{points(arm.diff_rare) or f'{arm.rare:.1f} %'} | {points(arm.diff_share) or f'{arm.share:.1f} %'} | "
            f"{arm.evaluations:g} | {variety} | {arm.frechet:.1f} |"
        )
    return lines
