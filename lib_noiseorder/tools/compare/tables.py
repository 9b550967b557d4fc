"""The results as CSV, and as Markdown tables: the main one, and one in the manner of the paper's README."""

from __future__ import annotations

import csv
import io
from typing import Any

from .arms import PLAIN


def csv_of(results: dict[str, Any]) -> str:
    """A row for every picture, with its prompt and its scores."""
    scores = list(results["metrics"])
    columns = [
        "pair",
        "category",
        "prompt",
        "seed",
        "arm",
        "steps",
        "evaluations",
        "seconds",
        *scores,
        "skipped",
        "file",
        "sha256",
    ]
    pairs = {pair["number"]: pair for pair in results["run"]["pairs"]}
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for picture in results["pictures"]:
        pair = {name: pairs[picture["pair"]][name] for name in ("category", "prompt", "seed")}
        writer.writerow({**picture, **picture["scores"], **pair})
    return text.getvalue()


def main_table(results: dict[str, Any]) -> str:
    """Every score of every arm with its difference from plain, tests and costs."""
    lines = [
        "| score | arm | mean | against plain [95 %] | win rate | p (corrected) | pairs for 80 % power "
        "| against equal cost [95 %] | diversity | evaluations |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for score, arms in results["metrics"].items():
        for name, arm in arms.items():
            difference, cost = arm.get("difference"), results["arms"][name]["evaluations"]
            against = ["", "", "", ""]
            if difference:
                p = f"{p_text(difference['p'])} ({p_text(difference['p corrected'])})"
                needed = difference["pairs needed"]
                against = [interval(difference), f"{difference['win rate']:.1%}", p, "" if needed is None else str(needed)]
            equal = interval(arm["against equal cost"]) if "against equal cost" in arm else ""
            variety = "" if arm.get("diversity") is None else f"{arm['diversity']:.3f}"
            cells = [cell(score), name, f"{arm['mean']:.4f}", *against, equal, variety, f"{cost:g}"]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def paper_table(results: dict[str, Any]) -> str:
    """Benchmark, model, method and a column for every score; the best of a column in bold, as in the paper's README."""
    scores = results["metrics"]
    head = ["Benchmark", "Model", "Method", *(cell(score) for score in scores)]
    best = {score: max(arm["mean"] for arm in arms.values()) for score, arms in scores.items()}
    lines = ["| " + " | ".join(head) + " |", "|" + " :--- |" * len(head)]
    benchmark, model = cell(f"**{results['run']['prompts']}**"), cell(results["run"].get("model", {}).get("name", ""))
    for number, name in enumerate(results["arms"]):
        means = [(arms[name]["mean"], best[score]) for score, arms in scores.items()]
        figures = [f"**{mean:.4f}**" if mean == top else f"{mean:.4f}" for mean, top in means]
        method = "Standard" if name == PLAIN else f"**{name}**"
        lines.append("| " + " | ".join([*([benchmark, model] if number == 0 else ["", ""]), method, *figures]) + " |")
    return "\n".join(lines)


def interval(difference: dict[str, float]) -> str:
    return f"{difference['mean']:+.4f} [{difference['low']:+.4f}, {difference['high']:+.4f}]"


def cell(text: str) -> str:
    """A text that does not break a Markdown table."""
    return text.replace("|", "\\|").replace("\n", " ")


def p_text(p: float) -> str:
    return "<0.0001" if p < 0.0001 else f"{p:.4f}" if p < 0.01 else f"{p:.2f}"
