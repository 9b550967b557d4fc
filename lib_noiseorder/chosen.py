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

from .knobs import INFOTEXT_PREFIX, SettingsError, shown
from .plans import MOST_DRAWS

RANGE = f"seed:draw pairs such as 5:3 6:1, or a draw number; draws are from 1 to {MOST_DRAWS}"
_ENTRY = re.compile(r"(?:(\d{1,20})(?:\+(\d{1,20}))?:)?(\d{1,2})(?:/(\d{1,2}))?", re.ASCII)
_NONE = (0, 0)


@dataclass(frozen=True)
class _Chosen:
    by_seed: Mapping[str, tuple[int, int]]
    """Draws of the first and of the hires pass, 0 where the pass chooses as usual."""
    in_order: Sequence[tuple[int, int]]


def check(text: str) -> str:
    """The text as it is kept: single spaces between its entries, seeds without leading zeros.

    Raises:
        ValueError: an entry that cannot be read, named in the message; two entries that contradict each other; draws with
            seeds beside draws without.
    """
    chosen = _read(text)
    entries = [(f"{seed}:", draws) for seed, draws in chosen.by_seed.items()] + [("", draws) for draws in chosen.in_order]
    return " ".join(f"{seed}{first}" + (f"/{hires}" if hires else "") for seed, (first, hires) in entries)


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
    else:
        check_with_seeds(text)
    if seeds is not None:
        everyone = chosen.in_order[0] if chosen.in_order else _NONE
        found = [chosen.by_seed.get(seed, chosen.by_seed.get(seed.split("+")[0], everyone)) for seed in seeds[:pictures]]
    elif len(chosen.in_order) > 1 and len(chosen.in_order) != pictures:
        raise ValueError(f"chosen = {shown(text)} lists {len(chosen.in_order)} draws for {pictures} pictures")
    else:
        found = list(chosen.in_order or [_NONE])
        found *= pictures if len(found) == 1 else 1
    return [first for first, _ in found]


def all_named(text: str, pictures: int, seeds: Sequence[str] | None) -> bool:
    """Whether `chosen_draws` names one for every picture; raises as that does."""
    return all(chosen_draws(text, pictures, seeds))


def part_of(text: str, start: int, pictures: int) -> str:
    """Of a setting that lists draws in order those for `pictures` pictures from number `start` on; others as they are.

    Raises:
        ValueError: fewer draws are listed than pictures made.
    """
    entries = _entries(text)
    if len(entries) < 2 or ":" in text:
        return text
    part = entries[start : start + pictures]
    if len(part) < pictures:
        raise ValueError(f"chosen = {shown(text)} lists {len(entries)} draws for at least {start + pictures} pictures")
    return " ".join(part) if any(int(draw.partition("/")[0]) for draw in part) else ""


def check_with_seeds(text: str) -> None:
    """For hosts that know their pictures' seeds.

    Raises:
        SettingsError: the setting lists several draws without seeds.
    """
    if len(_read(text).in_order) > 1:
        raise SettingsError(f"{INFOTEXT_PREFIX}: chosen = {shown(text)} lists draws without their seeds; give seed:draw pairs")


def check_without_seeds(text: str) -> None:
    """For hosts that know no seeds.

    Raises:
        SettingsError: the setting names some.
    """
    if _read(text).by_seed:
        raise SettingsError(
            f"{INFOTEXT_PREFIX}: chosen = {shown(text)} names seeds, which this host does not know; give draw numbers alone"
        )


def of_infotext(draw: str, hires_draw: str, seed: str, variation_seed: str) -> str:
    """What an infotext says of its own picture's draws, as a setting that leaves other seeds alone; "" if it says nothing.

    Args:
        draw, hires_draw: the two draws that it names, either of which may be "".
        seed, variation_seed: the picture's own, "" where it names none.
    """
    text = draw
    if hires_draw.isdecimal() and (draw.isdecimal() or not draw):
        text = f"{draw or 0}/{hires_draw}"
    if not text or " " in text or ":" in text or not seed.isdecimal():
        return text
    return f"{seed}+{variation_seed}:{text}" if variation_seed.isdecimal() else f"{seed}:{text}"


def _entries(text: str) -> list[str]:
    return text.replace(",", " ").split()


def _read(text: str) -> _Chosen:
    by_seed: dict[str, tuple[int, int]] = {}
    in_order: list[tuple[int, int]] = []
    entries = _entries(text)
    for part in entries:
        found = _ENTRY.fullmatch(part)
        seed, variation, first, hires = found.groups() if found else (None, None, None, None)
        draws = int(first or 0), int(hires or 0)
        as_usual = draws == (0, 0) and first is not None and seed is None and len(entries) > 1
        if max(draws) > MOST_DRAWS or not (any(draws) or as_usual) or (hires is not None and draws[1] == 0):
            raise ValueError(f"chosen = {shown(part)} is not {RANGE}")
        if seed is None:
            in_order.append(draws)
            continue
        key = str(int(seed)) + (f"+{int(variation)}" if variation else "")
        if by_seed.setdefault(key, draws) != draws:
            raise ValueError(f"chosen = {shown(part)} contradicts another draw of the same seed")
    if by_seed and in_order:
        raise ValueError(f"chosen = {shown(text)} mixes draws with their seeds and draws without")
    return _Chosen(by_seed, in_order)
