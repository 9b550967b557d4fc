"""How the tests of `noiseorder compare` run it on small WebUIs, and read what it wrote."""

import json
from pathlib import Path

from lib_noiseorder.tools.cli import main

COUNT = 12


def arguments(*webuis, out, pairs=COUNT, more=()):
    urls = [getattr(one, "url", one) for one in webuis]
    return ["compare", "--webui", *urls, "--prompts", "shapes", "--pairs", str(pairs), "--out", str(out), "--quiet", *more]


def compare(*webuis, **more) -> int:
    return main(arguments(*webuis, **more))


def results(folder: Path) -> dict:
    """results.json without what differs between two equal runs: seconds."""
    found = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    for part in [*found["pictures"], *found["arms"].values()]:
        del part["seconds"]
    return found


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text(encoding="utf-8").split("\n") if line]
