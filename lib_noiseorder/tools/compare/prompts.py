"""The prompts of a comparison: built-in sets, or a file of the user's; and the prompt-seed pairs made from them."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from ...knobs import shown

BUILT_IN = ("categories", "paper", "shapes")
"""categories: 50 of our own in the manner of DrawBench; paper: the paper's showcase; shapes: the lab's, for its checkpoints."""

PROMPT_COLUMNS = ("prompt", "prompts", "caption", "text")
CATEGORY_COLUMNS = ("category", "challenge")
"""Names that files of prompts use: DrawBench's CSV has Prompts and Category, Pick-a-Pic's has caption."""

SHAPES_PAIRS = 200
_SEPARATORS = {".csv": ",", ".tsv": "\t"}
_SEED_LIMIT = 2**31


@dataclass(frozen=True)
class Prompt:
    text: str
    category: str = ""


@dataclass(frozen=True)
class Pair:
    """A prompt with the seed of its pictures, the same in every arm."""

    number: int
    prompt: str
    category: str
    seed: int
    group: int
    """Equal for the pairs of one prompt."""


class PromptsError(ValueError):
    """Prompts that cannot be used. The text names the file and the line."""


def pairs_of(source: str, count: int | None, per_prompt: int, seed: int) -> list[Pair]:
    """The prompt-seed pairs of a comparison; they depend on the arguments alone.

    Args:
        source: one of BUILT_IN, or the path of a .txt, .csv, .tsv or .jsonl file.
        count: how many pairs; None takes every prompt `per_prompt` times. More than that goes round again with new seeds.
        per_prompt: pictures of a prompt that stand together. The lab's shapes always have 2.
        seed: decides the seeds of the pictures, and the prompts of `shapes`.

    Raises:
        PromptsError: prompts that cannot be used.
        ValueError: a number out of range.
        OSError: the file cannot be read.
    """
    if count is not None and count < 1:
        raise ValueError(f"--pairs = {count} is not an integer from 1 on")
    if per_prompt < 1:
        raise ValueError(f"--per-prompt = {per_prompt} is not an integer from 1 on")
    if seed < 0:
        raise ValueError(f"--seed = {seed} is not an integer from 0 on")
    if source == "shapes":
        return _shapes(SHAPES_PAIRS if count is None else count, seed)
    prompts = read(source)
    count = len(prompts) * per_prompt if count is None else count
    numbers = [number // per_prompt % len(prompts) for number in range(count)]
    return [Pair(number, prompts[of].text, prompts[of].category, _seed(seed, number), of) for number, of in enumerate(numbers)]


def read(source: str) -> list[Prompt]:
    """The prompts of a built-in set, or of a file; raises as `pairs_of`."""
    built_in = files(__package__).joinpath("prompt_sets")
    for name in (f"{source}.txt", f"{source}.csv"):
        if source in BUILT_IN and built_in.joinpath(name).is_file():
            return _parsed(built_in.joinpath(name).read_text(encoding="utf-8"), name)
    path = Path(source)
    if not os.path.isfile(path):  # Path.is_file raises where a name is too long
        raise PromptsError(f"--prompts {shown(source)} is neither a file nor one of {', '.join(BUILT_IN)}")
    return _parsed(_text(path), str(path))


def _text(path: Path) -> str:
    content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise PromptsError(f"{path}, line {line}: not UTF-8 text") from None


def _parsed(text: str, name: str) -> list[Prompt]:
    suffix = Path(name).suffix.lower()
    if suffix in _SEPARATORS:
        rows = _rows(text, name, _SEPARATORS[suffix])
    elif suffix in (".jsonl", ".ndjson"):
        rows = _objects(text, name)
    else:
        rows = ((number, Prompt(line)) for number, line in enumerate(text.splitlines(), 1) if _is_prompt(line))
    prompts = []
    for number, prompt in rows:
        if "\0" in prompt.text or any("\ud800" <= letter <= "\udfff" for letter in prompt.text + prompt.category):
            raise PromptsError(f"{name}, line {number}: a NUL, or half of a character, is no text")
        if not prompt.text.strip():
            raise PromptsError(f"{name}, line {number}: the prompt is empty")
        prompts.append(Prompt(prompt.text.strip(), prompt.category.strip()))
    if not prompts:
        raise PromptsError(f"{name} has no prompts")
    return prompts


def _is_prompt(line: str) -> bool:
    return bool(line.strip()) and not line.startswith("#")


def _rows(text: str, name: str, separator: str) -> Iterator[tuple[int, Prompt]]:
    reader = csv.DictReader(text.splitlines(keepends=True), delimiter=separator, strict=True)
    read = 0
    try:
        columns = [column or "" for column in reader.fieldnames or []]
        prompt, category = _column(columns, PROMPT_COLUMNS), _column(columns, CATEGORY_COLUMNS)
        if prompt is None:
            raise PromptsError(f"{name}, line 1: none of the columns {columns} is named {' or '.join(PROMPT_COLUMNS)}")
        read = reader.line_num
        for row in reader:
            if row.get(prompt) is None:
                raise PromptsError(f"{name}, line {read + 1}: the row has no column {prompt!r}")
            yield read + 1, Prompt(row[prompt], (row.get(category) or "") if category else "")
            read = reader.line_num
    except csv.Error as error:
        raise PromptsError(f"{name}, line {read + 1}: {error}") from None


def _objects(text: str, name: str) -> Iterator[tuple[int, Prompt]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            value: Any = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise PromptsError(f"{name}, line {number}: not JSON ({error})") from None
        if isinstance(value, str):
            yield number, Prompt(value)
            continue
        key = _column(list(value), PROMPT_COLUMNS) if isinstance(value, dict) else None
        if key is None or not isinstance(value[key], str):
            raise PromptsError(f"{name}, line {number}: no text, and no object with a text named {' or '.join(PROMPT_COLUMNS)}")
        category = _column(list(value), CATEGORY_COLUMNS)
        yield number, Prompt(value[key], str(value[category]) if category else "")


def _column(columns: Sequence[str], wanted: Sequence[str]) -> str | None:
    """The first of the wanted names among the columns, as it is written there."""
    by_name = {column.strip().lower(): column for column in reversed(columns)}
    return next((by_name[name] for name in wanted if name in by_name), None)


def _shapes(count: int, seed: int) -> list[Pair]:
    """The pairs of the lab's own evaluation with that seed."""
    from ..lab.evaluation import pairs_of as lab_pairs

    prompts, seeds, groups = lab_pairs(count, seed)
    return [
        Pair(number, str(prompt), "rare" if prompt.rare else "common", noise % _SEED_LIMIT, int(group))
        for number, (prompt, noise, group) in enumerate(zip(prompts, seeds, groups))
    ]


def _seed(seed: int, number: int) -> int:
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0]) % _SEED_LIMIT
