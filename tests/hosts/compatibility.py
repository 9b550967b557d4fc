"""The compatibility document, path × host and model × host, by the tests that are marked `@pytest.mark.path("hires fix")`.

A run of all of tests/hosts on real hosts writes docs/compatibility.md and, beside it, the results as JSON. Of a host and
checkpoint that did not take part, the earlier results stay, with their dates. A run of selected tests writes nothing.

A path may name {model}, the kind of the checkpoint, and a part of what is tried: "model: {model}: img2img". A test beyond
the WebUIs says its host itself: `path("model: Z-Image", host="COMFYUI", checkpoint="tiny")`. A test that is skipped because it
"does not apply" to its checkpoint counts only where none of the host's checkpoints was better.

Environment variables:
    NOISEORDER_COMPATIBILITY   another file; then a run of selected tests brings its own cells up to date there
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import date
from importlib import metadata
from pathlib import Path

import pytest

from ..servers import REPOSITORY
from .families import FAMILIES, family_of
from .real import commit

TITLES = {
    "A1111": "A1111", "FORGE": "Forge", "REFORGE": "reForge", "NEO": "Forge Neo", "CLASSIC": "Forge Classic",
    "COMFYUI": "ComfyUI", "DIFFUSERS": "diffusers",
}  # fmt: skip
DOES_NOT_APPLY = "does not apply"
WORKS, NOT_THERE, FAILS = "works", "not there", "fails"
_NOT_RUN, _NOT_TRIED = "not run", "not tried"
_MODEL = "model: "
_WHY_NOT_RUN = (
    ("model: Flux", ("A1111", "REFORGE", "CLASSIC"), "this host does not load Flux"),
    ("model: Wan", ("A1111", "FORGE", "REFORGE", "CLASSIC"), "this host does not load Wan"),
    ("model: SD3", ("CLASSIC", "NEO"), "this host does not load SD3"),
    ("model: SD2", ("NEO", "CLASSIC"), "this host does not load SD2"),
    ("API through webuiapi", tuple(TITLES), "tried on A1111 only: a matter of the client, not of the host"),
    ("", tuple(TITLES), "not tried on this host, for want of time"),
)
"""Reasons for a path that has not been run on a host: by the beginning of its name and the hosts, the first that fits."""
_WORST_FIRST = (FAILS, WORKS, NOT_THERE)
INTRODUCTION = """# Compatibility

What works on which WebUI: every line is held by tests that ran on the real program, on a CPU, with small checkpoints of
random weights (where a host knows a model by its size, that host's configuration files were cut to the small model's).
`pytest tests/hosts` writes this file; see `tests/hosts/real.py` for the variables that name the hosts. Numbers lead to the
reasons below; a name in brackets is the checkpoint that a result holds for, where they differ. What no test has seen is not
here.
"""
MODELS = """
## Models

`works`: one draw with strength 0 is the plain picture to the bit; Paper and Automatic cost what they say, by a counter on the
network; and in runs since 2026-11-29, Automatic costs at most 40 % more, gives the same twice, and its picture is the one that
the host makes by itself from the noise that was chosen. What else was tried with a kind of model is named behind it.
In ComfyUI small networks of its own classes were tried: off and one draw are the plain picture to the bit, costs are as
counted, and a choice is repeated without a question. For diffusers the column says what [diffusers.md](diffusers.md) says of
the pipeline that is named.
"""


@dataclass
class Cell:
    """What became of one path on one host with one checkpoint."""

    path: str
    host: str
    checkpoint: str
    outcome: str
    reasons: list[str] = field(default_factory=list)
    date: str = ""
    commit: str = ""

    @property
    def key(self) -> tuple[str, str, str]:
        return self.path, self.host, self.checkpoint

    @property
    def does_not_apply(self) -> bool:
        return bool(self.reasons) and all(DOES_NOT_APPLY in reason for reason in self.reasons)

    def add(self, outcome: str, reason: str) -> None:
        """One more test of the same path: the worst outcome counts, and no reason is lost."""
        self.outcome = min(self.outcome, outcome, key=_WORST_FIRST.index)
        if reason and reason not in self.reasons:
            self.reasons.append(reason)


def merged(old: Iterable[Cell], new: Iterable[Cell], everything_ran: bool) -> list[Cell]:
    """The old cells brought up to date; after a whole run nothing old is left of the hosts and checkpoints it met."""
    new = list(new)
    keys, met = {cell.key for cell in new}, {cell.key[1:] for cell in new}
    kept = [cell for cell in old if (cell.key[1:] not in met if everything_ran else cell.key not in keys)]
    return _sorted([*new, *kept])


def _sorted(cells: list[Cell]) -> list[Cell]:
    paths = list(dict.fromkeys(cell.path for cell in cells))
    hosts = list(TITLES)
    return sorted(cells, key=lambda cell: (paths.index(cell.path), hosts.index(cell.host), cell.checkpoint))


def rendered(cells: list[Cell], pipelines: Mapping[str, str] | None = None) -> str:
    """The document in Markdown.

    Args:
        pipelines: what became of diffusers' pipelines, by their names.
    """
    paths = [cell for cell in cells if not cell.path.startswith(_MODEL)]
    hosts = [host for host in TITLES if any(cell.host == host for cell in paths)]
    reasons: list[str] = []
    lines = [INTRODUCTION, *_table_of_hosts(cells, [host for host in TITLES if any(cell.host == host for cell in cells)])]
    lines += [
        "",
        "## Paths",
        "",
        "| path | " + " | ".join(TITLES[host] for host in hosts) + " |",
        "|---" * (len(hosts) + 1) + "|",
    ]
    for path in dict.fromkeys(cell.path for cell in paths):
        row = {host: [cell for cell in paths if cell.path == path and cell.host == host] for host in hosts}
        summaries = [_summary(results, reasons) or _not_run(path, host, reasons) for host, results in row.items()]
        lines.append(f"| {path} | " + " | ".join(summaries) + " |")
    lines += _table_of_models([cell for cell in cells if cell.path.startswith(_MODEL)], reasons, pipelines or {})
    if reasons:
        lines += ["", "## Reasons", "", *(f"{number}. {reason}" for number, reason in enumerate(reasons, 1))]
    return "\n".join(lines) + "\n"


def _table_of_hosts(cells: list[Cell], hosts: list[str]) -> list[str]:
    lines = ["| host | commit | checkpoint | date | works | fails | not there |", "|---|---|---|---|---|---|---|"]
    for host in hosts:
        for checkpoint in sorted({cell.checkpoint for cell in cells if cell.host == host and not cell.does_not_apply}):
            here = [cell for cell in cells if cell.key[1:] == (host, checkpoint) and not cell.does_not_apply]
            last = max(here, key=lambda cell: cell.date)
            counts = [sum(cell.outcome == outcome for cell in here) for outcome in (WORKS, FAILS, NOT_THERE)]
            lines.append("| " + " | ".join([TITLES[host], last.commit[:8], checkpoint, last.date, *map(str, counts)]) + " |")
    return lines


def _table_of_models(cells: list[Cell], reasons: list[str], pipelines: Mapping[str, str]) -> list[str]:
    """Kinds of models by hosts; of what was tried with one, the parts in a few words."""
    if not cells:
        return []
    lines = [MODELS, "| model | " + " | ".join(TITLES.values()) + " |", "|---" * (len(TITLES) + 1) + "|"]
    known = [family.title for family in FAMILIES]
    as_pipelines = {one.title: f"{pipelines[one.pipeline]}: {one.pipeline}" for one in FAMILIES if one.pipeline in pipelines}
    models = dict.fromkeys(_model_and_part(cell)[0] for cell in cells)
    for model in sorted(models, key=lambda model: known.index(model) if model in known else len(known)):
        row = []
        for host in TITLES:
            parts: dict[str, list[Cell]] = {}
            for cell in cells:
                if cell.host == host and _model_and_part(cell)[0] == model and not cell.does_not_apply:
                    parts.setdefault(_model_and_part(cell)[1], []).append(cell)
            told: dict[str, list[str]] = {}
            for part, results in parts.items():
                told.setdefault(_summary(results, reasons), []).append(part)
            said = [summary + ": " * any(names) + "; ".join(filter(None, names)) for summary, names in told.items()]
            if not said and host == "DIFFUSERS" and model in as_pipelines:
                said = [as_pipelines[model]]
            row.append("<br>".join(said) or _why_not_loaded(f"{_MODEL}{model}", host, reasons))
        lines.append(f"| {model} | " + " | ".join(row) + " |")
    return lines


def _pipelines(page: str) -> dict[str, str]:
    """What docs/diffusers.md says of every pipeline: "works", "refused" or "not tried"."""
    found: dict[str, str] = {}
    for part in page.split("\n## ")[1:]:
        heading, _, listed = part.partition("\n")
        found |= dict.fromkeys(re.findall(r"^[*|] `(\w+)`", listed, re.MULTILINE), heading.strip().lower())
    return found


def _model_and_part(cell: Cell) -> tuple[str, str]:
    model, _, part = cell.path.removeprefix(_MODEL).partition(": ")
    return model, part


def _why_not_loaded(path: str, host: str, reasons: list[str]) -> str:
    known = any(beginning and path.startswith(beginning) and host in hosts for beginning, hosts, _ in _WHY_NOT_RUN)
    return _not_run(path, host, reasons) if known else _NOT_TRIED


def _summary(results: list[Cell], reasons: list[str]) -> str:
    """One host's results of one path in a few words, "" where there are none; their reasons are numbered in `reasons`."""
    results = [cell for cell in results if not cell.does_not_apply] or results
    parts = []
    alike = len({cell.outcome for cell in results}) == 1
    for outcome in _WORST_FIRST:
        cells = [cell for cell in results if cell.outcome == outcome]
        if not cells:
            continue
        numbers = sorted({_number(reason, reasons) for cell in cells for reason in cell.reasons})
        where = "" if alike else f" ({', '.join(cell.checkpoint for cell in cells)})"
        parts.append(outcome + where + "".join(f" [{number}]" for number in numbers))
    return "; ".join(parts)


def _not_run(path: str, host: str, reasons: list[str]) -> str:
    reason = next(why for beginning, hosts, why in _WHY_NOT_RUN if path.startswith(beginning) and host in hosts)
    return f"{_NOT_RUN} [{_number(reason, reasons)}]"


def _number(reason: str, reasons: list[str]) -> int:
    if reason not in reasons:
        reasons.append(reason)
    return reasons.index(reason) + 1


class CompatibilityPlugin:
    """Collects the outcomes of one pytest run; a cell counts once all its tests of the run have ended."""

    def __init__(self, config: pytest.Config):
        given = os.environ.get("NOISEORDER_COMPATIBILITY")
        self._whole = not (config.option.keyword or config.option.markexpr) and all(Path(arg).is_dir() for arg in config.args)
        self._file = Path(given) if given else REPOSITORY / "docs/compatibility.md" if self._whole else None
        self._cells: dict[tuple[str, str, str], Cell] = {}
        self._to_come: Counter[tuple[str, str, str]] = Counter()

    def pytest_collection_finish(self, session):
        self._to_come.update(key for key in map(_key, session.items) if key)

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_makereport(self, item, call):
        report = (yield).get_result()
        key = _key(item)
        if key is None:
            return
        if report.when == "teardown":
            self._to_come[key] -= 1
        if report.when != "call" and report.passed:
            return
        cell = self._cells.setdefault(key, Cell(*key, NOT_THERE, [], date.today().isoformat(), _version(key[1])))
        callspec = getattr(item, "callspec", None)
        variant = callspec.id.replace(str(callspec.params.get("hosts", "")), "").strip("-") if callspec else ""
        cell.add(*outcome_and_reason(report, "" if variant == cell.path else variant))

    def pytest_sessionfinish(self):
        cells = [cell for key, cell in self._cells.items() if self._to_come[key] == 0]
        if self._file is None or not cells:
            return
        results = self._file.with_suffix(".json")
        old = [Cell(**cell) for cell in json.loads(results.read_text())] if results.is_file() else []
        cells = merged(old, cells, everything_ran=self._whole and not any(self._to_come.values()))
        results.write_text(json.dumps([asdict(cell) for cell in cells], indent=1, ensure_ascii=False) + "\n")
        self._file.write_text(rendered(cells, _pipelines((REPOSITORY / "docs/diffusers.md").read_text())))


def _version(host: str) -> str:
    return metadata.version("diffusers") if host == "DIFFUSERS" else commit(host)


def _key(item: pytest.Item) -> tuple[str, str, str] | None:
    """Path, host and checkpoint of a test; None for one that is not in the document."""
    marker = item.get_closest_marker("path")
    if marker is None:
        return None
    host, _, checkpoint = str(getattr(getattr(item, "callspec", None), "params", {}).get("hosts", "")).partition(":")
    host, checkpoint = marker.kwargs.get("host", host), marker.kwargs.get("checkpoint", checkpoint)
    if host not in TITLES:
        return None
    return marker.args[0].format(model=family_of(checkpoint).title), host, checkpoint


def outcome_and_reason(report: pytest.TestReport, variant: str) -> tuple[str, str]:
    """What a test's report means for its path, in words for a reader; `variant` tells the path's tests apart."""
    if hasattr(report, "wasxfail"):
        return (WORKS, "") if report.passed else (FAILS, report.wasxfail.removeprefix("reason: "))
    if report.passed:
        return WORKS, ""
    label = f"{variant}: " if variant else ""
    if report.skipped:
        return NOT_THERE, label + report.longrepr[2].removeprefix("Skipped: ")
    crash = getattr(report.longrepr, "reprcrash", None)
    said = crash.message if crash else str(report.longrepr)
    return FAILS, label + said.strip().splitlines()[0][:200].replace("|", "\\|")
