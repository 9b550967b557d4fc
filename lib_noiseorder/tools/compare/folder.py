"""The run folder: the only state of a comparison. What is written there once is never made again.

run.json            the plan, the model, the versions
results*.jsonl      a line for every finished picture, of every process
pictures/ARM/N.png  the pictures
scores.jsonl        a line for every picture and metric
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from .. import store
from .generators import Made
from .plan import Plan, read, versions


class ModelChanged(OSError):
    """A picture came from another model than those before it."""


@dataclass(frozen=True)
class Record:
    """A finished picture."""

    pair: int
    arm: str
    file: str
    sha256: str
    """Of the pixels, not of the file."""
    steps: int
    evaluations_per_step: int
    extra_evaluations: int
    seconds: float
    skipped: str
    infotext: str
    host: str

    @property
    def evaluations(self) -> int:
        """Of the sampler and the ordering together."""
        return self.steps * self.evaluations_per_step + self.extra_evaluations


class RunFolder:
    """A comparison's folder, open for one process.

    Raises:
        ValueError: the folder holds another plan.
        OSError: it cannot be read or written, or another process works in it.
    """

    def __init__(self, path: Path, plan: Plan, process: int = 0):
        self.path, self.plan = path, plan
        self._suffix = f"-{process}" if process else ""
        self._lock = threading.Lock()
        self._said: dict[str, Any] = {}
        path.mkdir(parents=True, exist_ok=True)
        claim = store.claim(path / f".lock{self._suffix}")
        if claim is None:
            raise OSError(f"{path}: another comparison is at work in this folder")
        self._claim = claim
        try:
            self._open(process)
        except BaseException:
            self.close()
            raise

    def _open(self, process: int) -> None:
        path = self.path
        if (path / "run.json").exists():
            known, self._said = read(path)
            difference = known.first_difference(self.plan)
            if difference and process == 0 and not any(path.glob("results*.jsonl")):  # it never got as far as a picture
                self._said = {}
                self._write_run({})
            elif difference:
                raise ValueError(f"{path} holds a comparison with {difference}; take another --out for another comparison")
        elif process == 0:
            self._write_run({})
        self.records = {(record.pair, record.arm): record for record in self._records()}

    @property
    def model(self) -> dict[str, str]:
        """The model that the pictures are made with; empty before the first one."""
        return self._said.get("model", {})

    def expect(self, model: dict[str, str]) -> None:
        """Take no pictures of another model than this; for a repetition."""
        if model and not self.model:
            self._write_run({"model": model})

    def has(self, pair: int, arm: str) -> bool:
        return (pair, arm) in self.records

    def add(self, pair: int, arm: str, made: Made, steps: int, host: str) -> Record:
        """Keep a picture: first its file, then its line, each on the disk before the next.

        Raises:
            ModelChanged: it is not kept then.
            OSError: the disk is full, or the like.
        """
        with self._lock:
            if self.model and made.model != self.model:
                raise ModelChanged(
                    f"the model changed: {host} answered with {_said(made.model)}, this comparison has {_said(self.model)}. "
                    "Finished pictures are kept; load the model again and give the same command to go on"
                )
            if "host versions" not in self._said:
                self._write_run({"model": made.model, "host versions": made.versions})
            name = f"pictures/{arm}/{pair:05}.png"
            self._write_picture(self.path / name, made)
            record = Record(
                pair, arm, name, pixels_hash(made.picture), steps, made.evaluations_per_step,
                made.extra_evaluations, round(made.seconds, 3), made.skipped, made.infotext, host,
            )  # fmt: skip
            store.append(self.path / f"results{self._suffix}.jsonl", asdict(record))
            self.records[pair, arm] = record
            return record

    def picture(self, record: Record) -> Image.Image:
        return Image.open(self.path / record.file).convert("RGB")

    def scores(self) -> store.Kept:
        """What is known by metric and hash of the picture and its prompt."""
        return store.Kept(self.path / "scores.jsonl", "metric", "key")

    def run(self) -> dict[str, Any]:
        """What run.json says, with what it leaves to defaults."""
        return json.loads((self.path / "run.json").read_text(encoding="utf-8-sig")) | self.plan.to_dict()

    def reload(self) -> None:
        """Learn what other processes have finished meanwhile."""
        self.records = {(record.pair, record.arm): record for record in self._records()}

    def close(self) -> None:
        os.close(self._claim)

    def _records(self) -> Iterator[Record]:
        arms, count = {arm.name for arm in self.plan.arms}, len(self.plan.pairs)
        for path in sorted(self.path.glob("results*.jsonl")):
            for line in store.lines(path):
                try:
                    record = Record(**line)
                    finished = record.arm in arms and 0 <= record.pair < count and (self.path / record.file).is_file()
                except TypeError:
                    continue
                if finished:
                    yield record

    def _write_run(self, more: dict[str, Any]) -> None:
        self._said = {"model": self.model, **self._said, **more}
        kept = {name: self._said[name] for name in ("model", "host versions") if self._said.get(name)}
        run = {**self.plan.to_dict(), **kept, "versions": self._said.get("versions") or versions()}
        store.write_whole(self.path / "run.json", json.dumps(run, indent=1, ensure_ascii=False))

    def _write_picture(self, path: Path, made: Made) -> None:
        info = PngInfo()
        info.add_itxt("parameters", made.infotext)
        with store.whole_file(path) as part:
            made.picture.save(part, "PNG", pnginfo=info)


def pixels_hash(picture: Image.Image) -> str:
    """SHA-256 of an RGB picture's size and pixels."""
    return hashlib.sha256(f"{picture.size}".encode() + picture.tobytes()).hexdigest()


def _said(model: dict[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in model.items()) or "no model named"
