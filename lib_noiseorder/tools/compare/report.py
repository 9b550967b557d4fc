"""The report: one HTML page that needs nothing else, neither a network nor a file beside it."""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Iterable, Sequence
from importlib.resources import files
from typing import Any

from PIL import Image

from .. import plots
from ..progress import duration
from .arms import PLAIN
from .folder import RunFolder
from .tables import interval, p_text, paper_table

_THUMBNAIL = 384
"""Pixels of a picture's longer side at most; shown at about half of that, for sharp screens."""
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def page(folder: RunFolder, results: dict[str, Any], shown: int) -> str:
    """The page.

    Args:
        results: as `figures.found` gives it.
        shown: how many pairs are shown with their pictures.
    """
    sections = [
        _head(results),
        _verdicts(results),
        _differences(results),
        _scores(results),
        _costs(results),
        _gallery(folder, results, shown),
        _categories(results),
        _repeat(results),
    ]
    style, script = (files(__package__).joinpath(f"page/report.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Noise Order compared</title><style>{style}</style></head>\n<body>\n"
        + "\n".join(filter(None, sections))
        + f"\n<script>{script}</script></body></html>\n"
    )


# -- sections ----------------------------------------------------------------------------------------------------------


def _head(results: dict[str, Any]) -> str:
    run, pairs = results["run"], results["pairs"]
    sampling, model = run["sampling"], run.get("model", {}).get("name", "")
    how = ", ".join(
        filter(
            None,
            (
                model,
                sampling["sampler"],
                sampling["scheduler"],
                f"{sampling['steps']} steps",
                f"CFG {sampling['cfg']:g}",
                f"{sampling['width']}×{sampling['height']}",
            ),
        )
    )
    count = f"{pairs['complete']} prompt-seed pairs in {len(results['arms'])} arms"
    if pairs["complete"] < pairs["planned"]:
        count += f" ({pairs['planned'] - pairs['complete']} more are not finished and not counted)"
    return (
        '<div class="top"><div><h1>Noise Order compared</h1>'
        f'<p class="faint">{_text(how)}<br>{_text(count)}, prompts: {_text(run["prompts"])}, seed {run["seed"]}</p></div>'
        '<button id="theme" type="button">dark / light</button></div>'
    )


def _verdicts(results: dict[str, Any]) -> str:
    lines = []
    of_equal_cost = {arm["name"] for arm in results["run"]["arms"] if "costs_as" in arm}
    for score, arms in results["metrics"].items():
        for name, arm in arms.items():
            if "difference" in arm and name not in of_equal_cost:
                lines.append(_verdict(score, name, arm))
    skipped = [
        f"<li class=unclear>{_text(one['metric'])} was skipped: {_text(one['reason'])}"
        + (f" – <code>{_text(one['command'])}</code>" if one["command"] else "")
        + "</li>"
        for one in results["skipped metrics"]
    ]
    left_out = [
        f"<li class=worse>{_text(name)}: in {count} of {arm['pictures']} pictures the ordering left out {_text(reason)}</li>"
        for name, arm in results["arms"].items()
        for reason, count in arm["skipped"].items()
    ]
    if "repetition" in results:
        same = results["repetition"]
        left_out.append(f"<li>A repetition: {same['same']} of {same['compared']} pictures are the same, pixel for pixel.</li>")
    return f'<ul class="verdicts">{"".join([*lines, *left_out, *skipped])}</ul>' if lines or left_out or skipped else ""


def _verdict(score: str, name: str, arm: dict[str, Any]) -> str:
    difference = arm["difference"]
    says = {"better": "better than plain", "worse": "worse than plain", "unclear": "no certain difference from plain"}
    kind = plots.kind(difference)
    line = f"<b>{_text(name)}</b>, {_text(score)}: {says[kind]}, {interval(difference)}"
    if kind == "unclear" and difference["pairs needed"]:
        line += f"; a difference like the one seen would take about {difference['pairs needed']} pairs to show"
    if "against equal cost" in arm:
        line += f". Against plain pictures of equal cost: {interval(arm['against equal cost'])}"
    return f'<li class="{kind}">{line}.</li>'


def _differences(results: dict[str, Any]) -> str:
    figures = []
    for score, arms in results["metrics"].items():
        rows = [(name, arm["difference"]) for name, arm in arms.items() if "difference" in arm]
        rows += [
            (f"{name} − equal cost", arm["against equal cost"]) for name, arm in arms.items() if "against equal cost" in arm
        ]
        if rows:
            figures.append(f'<div class="wide">{plots.forest(score, rows, label=f"Differences in {score}")}</div>')
    if not figures:
        return ""
    note = "Mean of the paired differences and its 95 % interval (bootstrap over prompts). Right of the line is better."
    return f'<h2>Differences from plain</h2><p class="faint">{note}</p>{"".join(figures)}'


def _scores(results: dict[str, Any]) -> str:
    head = ["score", "arm", "mean", "against plain", "win rate", "p (corrected)", "pairs needed", "equal cost", "diversity"]
    rows = []
    for score, arms in results["metrics"].items():
        for name, arm in arms.items():
            difference, equal, variety = arm.get("difference"), arm.get("against equal cost"), arm.get("diversity")
            cells = [_cell(score), _cell(name), _cell(f"{arm['mean']:.4f}", arm["mean"])]
            if difference:
                needed = difference["pairs needed"]
                cells += [
                    _interval_cell(difference),
                    _cell(f"{difference['win rate']:.1%}", difference["win rate"]),
                    _cell(f"{p_text(difference['p'])} ({p_text(difference['p corrected'])})", difference["p corrected"]),
                    _cell("" if needed is None else str(needed), needed),
                ]
            else:
                cells += [_cell("", None)] * 4
            cells += [_interval_cell(equal) if equal else _cell("", None)]
            cells += [_cell("" if variety is None else f"{variety:.3f}", variety)]
            rows.append(cells)
    if not rows:
        return ""
    notes = (
        "Win rate: pairs in which the arm scores higher, ties counted half. p: exact sign test over prompts; corrected for the "
        "number of arms and scores (Holm). Pairs needed: how many would show the difference seen with 80 % power. "
        "Equal cost: the difference from plain pictures that cost as much. "
        "Diversity: mean distance between pictures of one prompt, in the metric's own features."
    )
    table = _markdown(paper_table(results))
    return f'<h2>Scores</h2>{_table(head, rows)}<p class="faint">{notes}</p>{table}'


def _costs(results: dict[str, Any]) -> str:
    head, rows = ["arm", "steps", "evaluations", "more than plain", "seconds", "what it is"], []
    plain = results["arms"][PLAIN]
    for name, arm in results["arms"].items():
        if arm["evaluations"] is None:
            continue
        share = arm["evaluations"] / plain["evaluations"] - 1
        rows.append(
            [
                _cell(name),
                _cell(f"{arm['steps per picture']:g}", arm["steps per picture"]),
                _cell(f"{arm['evaluations']:g}", arm["evaluations"]),
                _cell(f"{share:+.0%}", share),
                _cell(f"{arm['seconds']:.2f}", arm["seconds"]),
                _cell(_description(arm), css="text"),
            ]
        )
    note = "Per picture. Evaluations of the model, with and without the prompt counted one each; seconds as the pictures came."
    return f'<h2>Cost</h2>{_table(head, rows)}<p class="faint">{note}</p>'


def _categories(results: dict[str, Any]) -> str:
    head, rows = ["score", "arm", "category", "pairs", "mean", "against plain"], []
    for score, arms in results["metrics"].items():
        for name, arm in arms.items():
            for category, of in arm["categories"].items():
                difference = of.get("difference")
                cells = [_cell(score), _cell(name), _cell(category), _cell(str(of["pairs"]), of["pairs"])]
                cells += [_cell(f"{of['mean']:.4f}", of["mean"])]
                rows.append([*cells, _interval_cell(difference) if difference else _cell("", None)])
    if not rows:
        return ""
    note = "Not corrected for their number: where to look next, not what is shown."
    inside = f'{_table(head, rows)}<p class="faint">{note}</p>'
    return f"<h2>By category</h2><details><summary>{len(rows)} rows</summary>{inside}</details>"


def _gallery(folder: RunFolder, results: dict[str, Any], shown: int) -> str:
    pairs = {pair["number"]: pair for pair in results["run"]["pairs"]}
    by_pair: dict[int, list[dict[str, Any]]] = {}
    for picture in results["pictures"]:
        by_pair.setdefault(picture["pair"], []).append(picture)
    numbers = list(by_pair)[: max(shown, 0)]
    if not numbers:
        return ""
    blocks = [_pair(folder, pairs[number], by_pair[number]) for number in numbers]
    gains = [(arm, score) for score, arms in results["metrics"].items() for arm in arms if arm != PLAIN]
    orders = ['<option value="">as made</option>'] + [
        f'<option value="{_text(json.dumps([_gain_key(arm, score), way]))}">{_text(f"{score}: {arm} {verb} most")}</option>'
        for arm, score in gains
        for way, verb in (("most", "gains"), ("least", "loses"))
    ]
    names = dict.fromkeys(pairs[number]["category"] for number in numbers)
    choices = ['<option value="">all</option>'] + [f"<option>{_text(name)}</option>" for name in names if name]
    part = f"The first {len(numbers)} of {len(by_pair)} pairs. " if len(numbers) < len(by_pair) else ""
    return (
        f'<h2>Pictures</h2><p class="faint">{part}Same prompt and seed in a row.</p><div class="controls">'
        f'<label>Order <select id="order">{"".join(orders)}</select></label>'
        f'<label>Category <select id="category">{"".join(choices)}</select></label></div>'
        f'<div id="gallery">{"".join(blocks)}</div>'
    )


def _pair(folder: RunFolder, pair: dict[str, Any], pictures: Sequence[dict[str, Any]]) -> str:
    plain = next(picture["scores"] for picture in pictures if picture["arm"] == PLAIN)
    gains = {
        _gain_key(picture["arm"], score): value - plain[score]
        for picture in pictures
        for score, value in picture["scores"].items()
        if picture["arm"] != PLAIN
    }
    figures = []
    for picture in pictures:
        scores = "<br>".join(f"{_text(score)} {value:.3g}" for score, value in picture["scores"].items())
        source = _thumbnail(folder.path / picture["file"])
        caption = f"<b>{_text(picture['arm'])}</b><br>{scores}"
        alt = _text(f"{picture['arm']}: {pair['prompt']}")
        figures.append(f'<figure><img src="{source}" alt="{alt}"><figcaption>{caption}</figcaption></figure>')
    category = f"<br>{_text(pair['category'])}" if pair["category"] else ""
    return (
        f'<div class="pair" data-number="{pair["number"]}" data-category="{_text(pair["category"])}" '
        f'data-gains="{_text(json.dumps(gains))}"><div>{_text(pair["prompt"])}'
        f'<div class="faint">seed {pair["seed"]}{category}</div></div><div class="row">{"".join(figures)}</div></div>'
    )


def _repeat(results: dict[str, Any]) -> str:
    run = results["run"]
    kept = ("generator", "sampling", "arms", "model", "host versions", "versions")
    made_with = {name: run[name] for name in kept if name in run}
    made_with["scored with"] = results.get("scored with", {})
    said = json.dumps(made_with, indent=1, ensure_ascii=False)
    seconds = sum(picture["seconds"] for picture in results["pictures"])
    source = " --webui URL" if run["generator"]["kind"] == "webui" else ""
    return (
        "<h2>Repeat it</h2><p>Everything that decides these pictures stands in <code>results.json</code> beside this page:</p>"
        f"<pre>noiseorder compare --repeat results.json{source}</pre>"
        f'<p class="faint">{len(results["pictures"])} pictures, {duration(seconds)} of making.</p>'
        f"<details><summary>Settings and versions</summary><pre>{_text(said)}</pre></details>"
    )


# -- parts -------------------------------------------------------------------------------------------------------------


def _table(head: Iterable[str], rows: Sequence[Sequence[str]]) -> str:
    titles = "".join(f'<th><button type="button">{_text(title)}</button></th>' for title in head)
    body = "".join(f"<tr>{''.join(cells)}</tr>" for cells in rows)
    return f'<div class="wide"><table class="sortable"><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table></div>'


def _cell(text: str, value: float | str | None = "text", css: str = "") -> str:
    """A cell that sorts by its value; by its text without one."""
    key = text if value == "text" else "" if value is None else repr(value)
    return f'<td class="{css}" data-value="{_text(key)}">{_text(text)}</td>'


def _interval_cell(difference: dict[str, float]) -> str:
    return _cell(interval(difference), difference["mean"], plots.kind(difference))


def _description(arm: dict[str, Any]) -> str:
    if "costs_as" in arm:
        return f"plain, with as many more steps as {arm['costs_as']} costs"
    own = [f"{name} {arm[name]:g}" for name in ("steps", "cfg") if name in arm]
    if "settings" not in arm:
        return ", ".join(["the seed's own noise", *own])
    from ...settings import NoiseOrderSettings

    settings = NoiseOrderSettings.from_dict(arm["settings"])
    changed = [f"{name} {value}" for name, value in settings.named().items() if name not in ("enabled", "preset")]
    return ", ".join([f"preset {settings.preset}", *changed, *own])


def _markdown(table: str) -> str:
    return f"<details><summary>As a table of the paper's README</summary><pre>{_text(table)}</pre></details>"


def _thumbnail(path: Any) -> str:
    with Image.open(path) as picture:
        small = picture.convert("RGB")
    small.thumbnail((_THUMBNAIL, _THUMBNAIL))
    data = io.BytesIO()
    small.save(data, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"


def _gain_key(arm: str, score: str) -> str:
    return f"{arm}\n{score}"


def _text(text: str) -> str:
    return html.escape(str(text), quote=True)
