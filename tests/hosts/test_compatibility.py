"""The compatibility document: what a run's outcomes become."""

from types import SimpleNamespace

import pytest

from .compatibility import FAILS, NOT_THERE, WORKS, Cell, _key, _pipelines, merged, outcome_and_reason, rendered


def cell(path="hires fix", host="FORGE", checkpoint="sd15", outcome=WORKS, reasons=(), day="2026-01-01"):
    return Cell(path, host, checkpoint, outcome, list(reasons), day, "0123456789")


@pytest.mark.parametrize(
    "outcomes, worst",
    [([WORKS, NOT_THERE], WORKS), ([NOT_THERE, FAILS, WORKS], FAILS), ([NOT_THERE], NOT_THERE)],
)
def test_the_worst_outcome_of_several_tests_counts(outcomes, worst):
    tested = cell(outcome=NOT_THERE)
    for outcome in outcomes:
        tested.add(outcome, "" if outcome == WORKS else f"because it {outcome}")
    assert tested.outcome == worst
    assert tested.reasons == [f"because it {outcome}" for outcome in outcomes if outcome != WORKS]


def test_hosts_that_did_not_run_keep_their_results_and_dates():
    old = [cell(), cell("gone"), cell(host="NEO"), cell(checkpoint="flux")]
    new = [cell(outcome=FAILS, day="2026-02-02")]
    after = {found.key: (found.outcome, found.date) for found in merged(old, new, everything_ran=True)}
    assert after == {
        ("hires fix", "FORGE", "sd15"): (FAILS, "2026-02-02"),
        ("hires fix", "FORGE", "flux"): (WORKS, "2026-01-01"),
        ("hires fix", "NEO", "sd15"): (WORKS, "2026-01-01"),
    }
    assert ("gone", "FORGE", "sd15") in {found.key for found in merged(old, new, everything_ran=False)}


def test_the_table_tells_outcome_checkpoint_and_reason():
    cells = [
        cell(reasons=["drawn twice"]),
        cell(checkpoint="flux", outcome=NOT_THERE, reasons=["Flux has no negative prompt"]),
        cell(host="NEO", outcome=FAILS, reasons=["drawn twice"]),
        cell("refiner", host="NEO"),
    ]
    text = rendered(cells)
    assert "| hires fix | works (sd15) [1]; not there (flux) [2] | fails [1] |" in text
    assert "| refiner | not run [3] | works |" in text
    assert "1. drawn twice\n2. Flux has no negative prompt\n" in text
    assert "| Forge | 01234567 | sd15 | 2026-01-01 | 1 | 0 | 0 |" in text


def test_what_does_not_apply_to_a_checkpoint_counts_only_if_nothing_is_better():
    video = cell("video", checkpoint="flux", outcome=NOT_THERE, reasons=["does not apply: not a video model"])
    assert "| video | not there [1] |" in rendered([video])
    assert "| video | works |" in rendered([video, cell("video", checkpoint="wan")])


def test_models_have_a_table_of_their_own_with_what_was_tried_of_each():
    of_model = [
        cell("model: Z-Image", host="NEO"),
        cell("model: Z-Image: img2img", host="NEO"),
        cell("model: Z-Image: fp8", host="NEO", outcome=FAILS, reasons=["too coarse"]),
        cell("model: Z-Image: reference", host="NEO", outcome=NOT_THERE, reasons=["does not apply: looks at no pictures"]),
        cell("model: Z-Image", host="COMFYUI"),
        cell("model: SD3", host="A1111"),
    ]
    paths, _, models = rendered([cell(), *of_model]).partition("## Models")
    assert "| path | Forge |" in paths and "Z-Image" not in paths.partition("## Paths")[2]
    columns = "not tried | not tried | not tried"
    assert f"| Z-Image | {columns} | works: img2img<br>fails [2]: fp8 | not tried | works | not tried |" in models
    with_pipelines = rendered(of_model, _pipelines("# Page\n\n## Works\n\n* `ZImagePipeline`\n"))
    assert "| works | works: ZImagePipeline |" in with_pipelines
    assert "| SD3 | works | not tried | not tried | not run [1] | not run [1] | not tried | not tried |" in models


@pytest.mark.parametrize(
    "marked, params, found",
    [
        (pytest.mark.path("model: {model}"), {"hosts": "NEO:z-image"}, ("model: Z-Image", "NEO", "z-image")),
        (pytest.mark.path("hires fix"), {"hosts": "double-eps"}, None),
        (pytest.mark.path("model: Sana", host="DIFFUSERS", checkpoint="tiny"), {}, ("model: Sana", "DIFFUSERS", "tiny")),
    ],
)
def test_which_host_and_checkpoint_a_test_is_about(marked, params, found):
    item = SimpleNamespace(callspec=SimpleNamespace(params=params), get_closest_marker=lambda name: marked.mark)
    assert _key(item) == found


def report(outcome, longrepr=None, **more):
    kinds = {kind: kind == outcome for kind in ("passed", "failed", "skipped")}
    return SimpleNamespace(longrepr=longrepr, **kinds, **more)


def crashed(message):
    return SimpleNamespace(reprcrash=SimpleNamespace(message=message))


@pytest.mark.parametrize(
    "made, expected",
    [
        (report("passed"), (WORKS, "")),
        (report("skipped", ("file", 1, "Skipped: no such sampler")), (NOT_THERE, "Euler a: no such sampler")),
        (report("skipped", wasxfail="reason: the host counts twice"), (FAILS, "the host counts twice")),
        (report("failed", crashed("assert 3 == 4\nmore")), (FAILS, "Euler a: assert 3 == 4")),
    ],
)
def test_what_a_report_means(made, expected):
    assert outcome_and_reason(made, "Euler a") == expected
