"""A comparison from its options to its report."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ...judges.libraries import stay_offline
from ..failures import INTERRUPTED, Unavailable
from ..progress import Bar, duration
from ..store import write_whole
from ..webui_client import WebUIClient
from . import figures, report, scores, tables
from .folder import RunFolder
from .generators import Generator
from .options import Options, folder_of, plan_of, wanted_scores
from .plan import Plan
from .run import generate
from .webui_api import WebUI


def compare(options: Options) -> int:
    """Make, score and report; gives the exit status.

    Raises:
        ValueError: options that cannot be used.
        OSError: what keeps the run from its end; what was finished is kept.
    """
    stay_offline()
    plan, before = plan_of(options)
    wanted = wanted_scores(options.scores, plan)
    process = _Processes(options)
    folder = RunFolder(folder_of(options), plan, process.number)
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
        return INTERRUPTED
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise OSError(
                f"the disk is full ({folder.path}). Finished pictures are kept; make room, then give the same command"
            ) from None
        raise
    finally:
        bar.close()
        folder.close()


# -- the pictures -----------------------------------------------------------------------------------------------------


class _Processes:
    """This process among those that `accelerate launch` started; alone without it."""

    def __init__(self, options: Options):
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


def _generate(options: Options, plan: Plan, folder: RunFolder, process: _Processes, bar: Bar) -> None:
    if all(folder.has(pair.number, arm.name) for pair in plan.pairs for arm in plan.arms):
        return
    generate(plan, folder, _generators(options, plan, process, bar), bar, bar.say, (process.number, process.of))


def _generators(options: Options, plan: Plan, process: _Processes, bar: Bar) -> Sequence[Generator]:
    if plan.generator["kind"] == "diffusers":
        from .pipeline import Pipeline  # a WebUI's pictures need no diffusers

        device = options.device or process.device
        return [Pipeline(plan.generator["model"], device, plan.generator["dtype"])]
    if not options.webui:
        raise ValueError("the pictures come from a WebUI; give --webui URL")
    return _reachable(options, plan.generator["checkpoint"], bar)


def _reachable(options: Options, checkpoint: str, bar: Bar) -> list[WebUI]:
    """The WebUIs that answer; one of several may be down, all may not."""
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
    return wish or ("cuda" if torch.cuda.is_available() else "cpu")


# -- scores and report -------------------------------------------------------------------------------------------------


def _finish(options: Options, folder: RunFolder, wanted: dict[str, str], before: dict[str, Any]) -> None:
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


def _tell(results: dict[str, Any], path: Path, table: scores.Table) -> None:
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
