"""`noiseorder compare`."""

from __future__ import annotations

import argparse
import dataclasses
import errno
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...settings import RECOMMENDED
from ..failures import Unavailable
from ..progress import Bar, duration
from ..webui_client import AUTH_VARIABLE, WebUIClient
from . import arms, prompts
from .plan import Plan, Sampling, read

DEFAULT_FOLDER = Path("noiseorder-compare")
_USUAL = {"steps": 20, "cfg": 7.0, "size": "512x512"}
_INTERRUPTED = 130


def add_commands(subparsers: argparse._SubParsersAction) -> None:
    """Hang `compare` under a parser; it sets `run`, which takes the options and gives the exit status."""
    compare = subparsers.add_parser(
        "compare",
        help="plain against ordered noise on your own model, with scores, statistics and a report",
        description="Makes pictures of the same prompts and seeds in several arms, scores them, and writes report.html. "
        "The same command on the same folder goes on where it was.",
    )
    source = compare.add_argument_group("what makes the pictures (one of the two)")
    source.add_argument("--webui", nargs="+", metavar="URL", help="running WebUIs with the extension, started with --api")
    source.add_argument("--diffusers", metavar="MODEL", help="a pipeline's folder, or its name in the local cache")
    source.add_argument("--checkpoint", default="", help="as the WebUI lists it (default: the one that is loaded)")
    source.add_argument("--auth", metavar="USER:PASSWORD", help=f"the WebUI's --api-auth (or the variable {AUTH_VARIABLE})")
    source.add_argument("--timeout", type=float, default=600, help="seconds to wait for a picture (default: %(default)g)")
    source.add_argument("--device", help="for --diffusers and the scores (default: a GPU where there is one)")
    source.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), help="of --diffusers (default: by device)")

    what = compare.add_argument_group("what is compared")
    arm_help = f"an arm; plain is always there: automatic, light, paper, NAME:knob=value,…, equal-cost:NAME (default: {_ARMS})"
    what.add_argument("--arm", action="append", metavar="ARM", help=arm_help)
    prompts_help = f"a .txt, .csv, .tsv or .jsonl file, or one of {', '.join(prompts.BUILT_IN)} (default: %(default)s)"
    what.add_argument("--prompts", default="categories", metavar="FILE|SET", help=prompts_help)
    what.add_argument("--pairs", type=int, help="prompt-seed pairs (default: every prompt --per-prompt times)")
    what.add_argument("--per-prompt", type=int, default=2, help="seeds of every prompt (default: %(default)s)")
    what.add_argument("--seed", type=int, default=1, help="decides the seeds of the pictures (default: %(default)s)")
    what.add_argument("--negative-prompt", default="")
    what.add_argument("--steps", type=int, help="default: 20")
    what.add_argument("--cfg", type=float, help="default: 7; the lab's for --prompts shapes")
    what.add_argument("--size", metavar="WxH", help="default: 512x512; the lab's for --prompts shapes")
    what.add_argument("--sampler", default="Euler", help="of the WebUI (default: %(default)s)")
    what.add_argument("--scheduler", default="", help="schedule type of the WebUI (default: its own)")

    results = compare.add_argument_group("results")
    results.add_argument("--out", type=Path, help=f"the run's folder (default: {DEFAULT_FOLDER})")
    scores_help = "by commas, each perhaps as NAME=MODEL: oracle, clipscore, pickscore, imagereward, vqascore, hpsv2, or none"
    results.add_argument("--scores", metavar="LIST", help=f"{scores_help} (default: all that are there)")
    results.add_argument("--report-pictures", type=int, default=200, help="pairs shown in the report (default: %(default)s)")
    results.add_argument("--report-only", action="store_true", help="make no pictures: score and report what is in --out")
    repeat_help = "do what a run.json or results.json says once more, and say how many pictures came out the same"
    results.add_argument("--repeat", type=Path, metavar="FILE", help=repeat_help)
    results.add_argument("--quiet", action="store_true", help="no progress bar")
    compare.set_defaults(run=compare_command)


_ARMS = f"{RECOMMENDED.lower()} and equal-cost:{RECOMMENDED.lower()}"


def compare_command(options: argparse.Namespace) -> int:
    """Run `noiseorder compare`.

    Raises:
        ValueError: options that cannot be used.
        OSError: what keeps the run from its end; what was finished is kept.
    """
    _need_pillow()
    from .folder import RunFolder
    from .libraries import stay_offline

    stay_offline()
    plan, before = _plan(options)
    wanted = _wanted_scores(options.scores, plan)
    process = _Processes(options)
    folder = RunFolder(_folder(options), plan, process.number)
    bar = Bar("pictures", options.quiet or process.number > 0)
    try:
        folder.expect(before.get("model", {}))
        if not options.report_only:
            _generate(options, plan, folder, process, bar)
        process.wait()
        if process.number == 0:
            folder.reload()
            _finish(options, folder, wanted, before)
        return 0
    except KeyboardInterrupt:
        bar.say(f"interrupted; the same command goes on from what is in {folder.path}")
        return _INTERRUPTED
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise OSError(
                f"the disk is full ({folder.path}). Finished pictures are kept; make room, then give the same command"
            ) from None
        raise
    finally:
        bar.close()
        folder.close()


def _need_pillow() -> None:
    try:
        import PIL  # noqa: F401
    except ModuleNotFoundError:
        raise OSError("PIL is missing; install what compare needs: pip install 'noiseorder[compare]'") from None


# -- the plan ----------------------------------------------------------------------------------------------------------


def _plan(options: argparse.Namespace) -> tuple[Plan, dict[str, Any]]:
    """The plan, and for a repetition what stands beside it in the file."""
    if options.repeat is not None:
        plan, before = read(options.repeat)
        if plan.generator["kind"] == "diffusers" and options.diffusers:
            plan = dataclasses.replace(plan, generator={**plan.generator, "model": options.diffusers})
        return plan, before
    if options.report_only:
        return read(_folder(options))[0], {}
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


def _sampling(options: argparse.Namespace) -> Sampling:
    usual = _USUAL
    if options.prompts == "shapes":
        from ..lab.formats import sd1

        usual = {"steps": sd1.STEPS, "cfg": sd1.GUIDANCE, "size": f"{sd1.SIZE}x{sd1.SIZE}"}
    size = options.size or usual["size"]
    width, _, height = size.lower().partition("x")
    if not (width.isdigit() and (height.isdigit() or not height)):
        raise ValueError(f"--size = {size!r} is not WIDTHxHEIGHT, such as 512x768")
    return Sampling(
        steps=usual["steps"] if options.steps is None else options.steps,
        cfg=usual["cfg"] if options.cfg is None else options.cfg,
        width=int(width), height=int(height or width), sampler=options.sampler if options.webui else "",
        scheduler=options.scheduler, negative_prompt=options.negative_prompt,
    )  # fmt: skip


def _folder(options: argparse.Namespace) -> Path:
    if options.out is not None:
        return options.out
    return DEFAULT_FOLDER if options.repeat is None else DEFAULT_FOLDER.with_name(f"{DEFAULT_FOLDER.name}-repeat")


def _wanted_scores(said: str | None, plan: Plan) -> dict[str, str]:
    from .metrics import METRICS, parse

    if said is not None:
        return parse("" if said == "none" else said)
    shapes = plan.prompts == "shapes"
    return {name: "" for name in METRICS if (name == "oracle") == shapes}


# -- the pictures ------------------------------------------------------------------------------------------------------


class _Processes:
    """This process among those that `accelerate launch` started; alone without it."""

    def __init__(self, options: argparse.Namespace):
        self.number, self.of, self._state = 0, 1, None
        if options.diffusers and int(os.environ.get("WORLD_SIZE", "1")) > 1:
            from accelerate import PartialState

            self._state = PartialState(cpu=options.device == "cpu")
            self.number, self.of = self._state.process_index, self._state.num_processes

    @property
    def device(self) -> str:
        return str(self._state.device) if self._state else _device(None)

    def wait(self) -> None:
        if self._state:
            self._state.wait_for_everyone()


def _generate(options: argparse.Namespace, plan: Plan, folder: Any, process: _Processes, bar: Bar) -> None:
    from .run import generate

    if all(folder.has(pair.number, arm.name) for pair in plan.pairs for arm in plan.arms):
        return
    generate(plan, folder, _generators(options, plan, process, bar), bar, bar.say, (process.number, process.of))


def _generators(options: argparse.Namespace, plan: Plan, process: _Processes, bar: Bar) -> Sequence[Any]:
    if plan.generator["kind"] == "diffusers":
        from .pipeline import Pipeline

        device = options.device or process.device
        return [Pipeline(plan.generator["model"], device, plan.generator["dtype"])]
    if not options.webui:
        raise ValueError("the pictures come from a WebUI; give --webui URL")
    return _reachable(options, plan.generator["checkpoint"], bar)


def _reachable(options: argparse.Namespace, checkpoint: str, bar: Bar) -> list[Any]:
    """The WebUIs that answer; one of several may be down, all may not."""
    from .webui_api import WebUI

    clients = [WebUIClient(url, options.auth, options.timeout) for url in dict.fromkeys(options.webui)]
    webuis = [WebUI(client, checkpoint) for client in clients]
    reached, failures = [], []
    for webui in webuis:
        try:
            webui.check()
            reached.append(webui)
        except Unavailable as error:
            failures.append(str(error))
    if not reached:
        raise OSError("; ".join(failures))
    for failure in failures:
        bar.say(f"{failure}; going on without it")
    return reached


def _device(wish: str | None) -> str:
    import torch

    return wish or ("cuda" if torch.cuda.is_available() else "cpu")


# -- scores and report -------------------------------------------------------------------------------------------------


def _finish(options: argparse.Namespace, folder: Any, wanted: dict[str, str], before: dict[str, Any]) -> None:
    from ..store import write_whole
    from . import figures, report, scores, tables

    if not folder.records:
        raise OSError(f"{folder.path} has no pictures to report on")
    bars: dict[str, Bar] = {}

    def progress(metric: str, done: int, total: int) -> None:
        bars.setdefault(metric, Bar(metric, options.quiet))(done, total)
        if done == total:
            bars[metric].close()

    table = scores.score(folder, wanted, _device(options.device), progress)
    results = figures.found(folder, table)
    results["scored with"] = {name: model or "its usual weights" for name, model in wanted.items()}
    if before:
        results["repetition"] = _sameness(before, results)
    write_whole(folder.path / "results.json", json.dumps(results, indent=1, ensure_ascii=False))
    write_whole(folder.path / "results.csv", tables.csv_of(results))
    markdown = f"{tables.main_table(results)}\n\n{tables.paper_table(results)}\n"
    write_whole(folder.path / "tables.md", markdown)
    write_whole(folder.path / "report.html", report.page(folder, results, options.report_pictures))
    _tell(results, folder.path, table)


def _sameness(before: dict[str, Any], results: dict[str, Any]) -> dict[str, int]:
    """How many pictures equal those of the run that is repeated, pixel for pixel."""
    earlier = {(picture["pair"], picture["arm"]): picture["sha256"] for picture in before["pictures"]}
    both = [picture for picture in results["pictures"] if (picture["pair"], picture["arm"]) in earlier]
    same = sum(picture["sha256"] == earlier[picture["pair"], picture["arm"]] for picture in both)
    return {"compared": len(both), "same": same}


def _tell(results: dict[str, Any], path: Path, table: Any) -> None:
    from . import tables

    if results["metrics"]:
        print(tables.main_table(results))
    for skipped in table.skipped:
        print(skipped)
    for name, arm in results["arms"].items():
        for reason, count in arm["skipped"].items():
            print(f"arm {name}: in {count} of {arm['pictures']} pictures the ordering left out {reason}")
    pairs = results["pairs"]
    if pairs["complete"] < pairs["planned"]:
        print(f"{pairs['complete']} of {pairs['planned']} pairs are complete; only they are in the figures")
    if "repetition" in results:
        same = results["repetition"]
        print(f"{same['same']} of {same['compared']} pictures are the same, pixel for pixel, as in the run repeated")
    seconds = sum(picture["seconds"] for picture in results["pictures"])
    print(f"{len(results['pictures'])} pictures, {duration(seconds)} of making; written {(path / 'report.html').resolve()}")
