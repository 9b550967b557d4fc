"""The setting `chosen`: which draw a picture gets without anything being compared, so that a choice can be replayed.

5:3             the picture of seed 5 gets draw 3
5+77:3          the same for the variation seed 77 of seed 5 alone
5:3 6:1         two pictures; commas may stand between them, too
5:3/2           draw 3, and draw 2 in the hires pass
3               every picture gets draw 3
3 1 2           the pictures of a batch in their order, on hosts that know no seeds
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .plans import MOST_DRAWS

RANGE = f"seed:draw pairs such as 5:3 6:1, or a draw number; draws are from 1 to {MOST_DRAWS}"
_ENTRY = re.compile(r"(?:(-?\d{1,20}(?:\+-?\d{1,20})?):)?(\d{1,2})(?:/(\d{1,2}))?", re.ASCII)
_NONE = (0, 0)


@dataclass(frozen=True)
class _Chosen:
    by_seed: Mapping[str, tuple[int, int]]
    """Draws of the first and of the hires pass, 0 where the pass chooses as usual."""
    in_order: Sequence[tuple[int, int]]


def check(text: str) -> str:
    """The text as it is kept, single spaces between its entries.

    Raises:
        ValueError: an entry that cannot be read, named in the message; two entries that contradict each other; draws with
            seeds beside draws without.
    """
    _read(text)
    return " ".join(_entries(text))


def of_hires_pass(text: str) -> str:
    """The setting as it concerns the hires pass alone, in the form of one for the first pass."""
    return " ".join(re.sub(r"\d+/", "", part) for part in _entries(text) if "/" in part)


def chosen_draws(text: str, pictures: int, seeds: Sequence[str] | None) -> list[int]:
    """Per picture the draw that it is to get, 0 where it chooses as usual.

    Args:
        text: the setting.
        pictures: how many there are in the batch.
        seeds: their seeds as text, "5" or "5+77" with a variation seed; None where the host knows none.

    Raises:
        ValueError: the text cannot be read, or does not fit: seeds on a host that knows none, several draws without seeds
            on one that does, another number of draws than of pictures.
    """
    chosen = _read(text)
    if seeds is None:
        check_without_seeds(text)
    if seeds is not None:
        if len(chosen.in_order) > 1:
            raise ValueError(f"chosen = {text!r} lists draws without their seeds; this host needs seed:draw pairs")
        everyone = chosen.in_order[0] if chosen.in_order else _NONE
        found = [chosen.by_seed.get(seed, chosen.by_seed.get(seed.split("+")[0], everyone)) for seed in seeds[:pictures]]
    elif len(chosen.in_order) > 1 and len(chosen.in_order) != pictures:
        raise ValueError(f"chosen = {text!r} lists {len(chosen.in_order)} draws for {pictures} pictures")
    else:
        found = list(chosen.in_order or [_NONE])
        found *= pictures if len(found) == 1 else 1
    return [first for first, _ in found]


def part_of(text: str, start: int, pictures: int) -> str:
    """Of a setting that lists draws in order those for `pictures` pictures from number `start` on; others as they are."""
    entries = _entries(text)
    return text if len(entries) < 2 or ":" in text else " ".join(entries[start : start + pictures])


def check_without_seeds(text: str) -> None:
    """For hosts that know no seeds.

    Raises:
        ValueError: the setting names some.
    """
    if _read(text).by_seed:
        raise ValueError(f"chosen = {text!r} names seeds, which this host does not know; give draw numbers alone")


def entry(draw: str, hires_draw: str) -> str:
    """The two draws that an infotext names, either of which may be ""; as one entry without its seed."""
    return f"{draw or 0}/{hires_draw}" if hires_draw and "/" not in draw else draw


def with_seed(text: str, seed: str, variation_seed: str = "") -> str:
    """A picture's own choice as a setting that leaves other seeds alone."""
    if not text or " " in text or ":" in text or not re.fullmatch(r"-?\d+", seed):
        return text
    return f"{seed}+{variation_seed}:{text}" if variation_seed else f"{seed}:{text}"


def _entries(text: str) -> list[str]:
    return text.replace(",", " ").split()


def _read(text: str) -> _Chosen:
    by_seed: dict[str, tuple[int, int]] = {}
    in_order: list[tuple[int, int]] = []
    for part in _entries(text):
        found = _ENTRY.fullmatch(part)
        seed, *numbers = found.groups() if found else (None, None, None)
        draws = int(numbers[0] or 0), int(numbers[1] or 0)
        if not any(draws) or max(draws) > MOST_DRAWS or (draws[0] == 0 and not numbers[1]):
            raise ValueError(f"chosen = {part[:80]!r} is not {RANGE}")
        if seed is None:
            in_order.append(draws)
        elif by_seed.setdefault(seed, draws) != draws:
            raise ValueError(f"chosen = {part!r} contradicts another draw of the same seed")
    if by_seed and in_order:
        raise ValueError(f"chosen = {text[:80]!r} mixes draws with their seeds and draws without")
    return _Chosen(by_seed, in_order)
