"""docs/diffusers.md: which of the installed diffusers' pipelines can be ordered, found by trying each with small random models.

python -m tests.adapters.diffusers_table > docs/diffusers.md
"""

import inspect
import signal
import sys
import warnings

import diffusers
import torch

from lib_noiseorder.adapters.diffusers import order_latents, run_ordered

from . import tiny
from .diffusers_calls import PLAIN, counted, latents_of, seeded

WORKS, REFUSED, NOT_TRIED = "works", "refused", "not tried"


def outcome(kind):
    """What happens to a pipeline class, and why."""
    known = inspect.signature(kind.__call__).parameters
    if "args" in inspect.signature(kind.__init__).parameters:
        return NOT_TRIED, "another library is missing"
    if "prompt" not in known or "latents" not in known:
        return refusal(lambda: order_latents(kind.__new__(kind), prompt="a red circle"))
    try:
        pipe = tiny.built(kind)
        call = tiny.call_of(kind)
        plain = latents_of(pipe(**call, output_type="latent", generator=seeded(3)))
    except Exception as error:
        return NOT_TRIED, one_line(error)
    return refusal(lambda: checked(pipe, call, plain))


class TooLong(Exception):
    pass


def in_time(kind, seconds=15):
    """`outcome`, given up after some seconds of the processor."""

    def give_up(*_):
        raise TooLong(f"takes more than {seconds} s here")

    signal.signal(signal.SIGVTALRM, give_up)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        return outcome(kind)
    except TooLong as error:
        return NOT_TRIED, one_line(error)
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)


def refusal(work):
    try:
        work()
    except (TypeError, ValueError) as error:
        if str(error).startswith("Noise Order: "):
            return REFUSED, one_line(error)
        raise
    return WORKS, ""


def checked(pipe, call, plain):
    """The plain picture from one draw without injection, and the picture of the chosen noise, at the price that is told."""
    call = {**call, "output_type": "latent"}
    run = run_ordered(pipe, **call, generator=seeded(3), settings=PLAIN)
    if run.report.skipped:
        raise ValueError(f"Noise Order: {run.report.skipped[0]}")
    assert torch.equal(latents_of(run.output), plain)
    with counted(pipe) as alone:
        pipe(**call, generator=seeded(3))
    with counted(pipe) as ordered:
        run = run_ordered(pipe, **call, generator=seeded(3), settings={"preset": "Automatic", "extra_cost": 2.0})
    if run.report.skipped:
        raise ValueError(f"Noise Order: {run.report.skipped[0]}")
    assert run.report.chosen
    assert ordered.rows - alone.rows == run.report.extra_evaluations <= 2 * alone.rows
    drawn = seeded(3)
    order_latents(pipe, **call, generator=drawn, settings=PLAIN)  # a sampler's own draws come after the latents'
    again = pipe(**call, latents=run.noise, generator=drawn)
    torch.testing.assert_close(latents_of(run.output), latents_of(again), rtol=1e-3, atol=1e-3)


def one_line(error):
    return (
        f"{error}".strip().splitlines()[0].removeprefix("Noise Order: ").replace("|", "or")[:140]
        if f"{error}"
        else type(error).__name__
    )


def page(found):
    """The document, of what happened to every class."""
    per = {what: [name for name, (happened, _) in found.items() if happened == what] for what in (WORKS, REFUSED, NOT_TRIED)}
    counts = f"{len(per[WORKS])} work, {len(per[REFUSED])} are refused, {len(per[NOT_TRIED])} could not be tried"
    lines = [
        "# diffusers' pipelines",
        "",
        f"Of the {len(found)} pipelines of diffusers {diffusers.__version__}, {counts}.",
        "Which ones is found out by behaviour, not by name, so a pipeline that could not be tried may well work; if it does",
        "not, one sentence says so before anything is evaluated. Written by",
        "",
        "    python -m tests.adapters.diffusers_table > docs/diffusers.md",
        "",
        "from small models with random weights, one of each class. Tried were: the plain picture, bit for bit, from one draw",
        "without injection; the picture of the chosen noise as the pipeline itself makes it; evaluations told and counted.",
        "",
        "## Works",
        "",
        *(f"* `{name}`" for name in per[WORKS]),
        "",
        "## Refused",
        "",
        "| pipeline | reason |",
        "|---|---|",
        *(f"| `{name}` | {found[name][1].removeprefix(name).strip()} |" for name in per[REFUSED]),
        "",
        "## Not tried",
        "",
        "| pipeline | why it could not be made or run small |",
        "|---|---|",
        *(f"| `{name}` | {found[name][1]} |" for name in per[NOT_TRIED]),
    ]
    return "\n".join(lines)


def read(text):
    """What a document says of every class: works, refused or not tried."""
    found, heading = {}, ""
    for line in text.splitlines():
        if line.startswith("## "):
            heading = line[3:].lower()
        elif line.startswith(("* `", "| `")):
            found[line.split("`")[1]] = heading
    return found


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    kinds = tiny.pipeline_classes()
    print(page({name: in_time(kinds[name]) for name in sys.argv[1:] or kinds}))
