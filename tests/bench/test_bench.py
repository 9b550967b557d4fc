"""Ordering costs its evaluations and next to nothing besides: on the embedded models, in diffusers, through a real WebUI.

Processor time, where the model runs in this process, and the best of several paired runs: other programs can only make it
slower. The bounds leave room for a busy machine; `noiseorder bench` prints the figures themselves, docs/reliability.md has
those of a quiet one.
"""

import time

import pytest

from lib_noiseorder.tools.bench import measuring, subjects
from tests.hosts.real import Server, checkpoints
from tests.hosts.sabotaged import SABOTEUR, sabotage

STEPS, RUNS = 20, 4


def best(subject, clock):
    """The lowest of every figure over the runs, and the smallest distance from the ideals."""
    runs = [measuring.ratios(subject, times) for times in measuring.measure(subject.ways, RUNS, clock)]
    found = {name: min(run[name] for run in runs) for name in runs[0]}
    found["ordered beside evaluations"] = min(run["ordered_over_plain"] - run["ideal"] for run in runs)
    if subject.calls is not None:
        found["selection beside evaluations"] = min(run["selection_over_plain"] - run["selection_ideal"] for run in runs)
    return found


def hold_to_the_promises(found):
    assert found["ordered_over_plain"] < 1.2
    assert found["ordered beside evaluations"] < 0.05
    assert found["full_pass_over_plain"] > 1.5 > found["ordered_over_plain"]


@pytest.mark.parametrize("family", ["eps", "flow"])
def test_the_embedded_models(family):
    found = best(subjects.embedded(family, STEPS), time.process_time)
    hold_to_the_promises(found)
    assert found["selection beside evaluations"] < 0.1


def test_diffusers():
    pytest.importorskip("diffusers")
    found = best(subjects.diffusers_pipeline(STEPS, 96), time.process_time)
    assert found["ordered_over_plain"] < 1.25, "the pipeline reads the prompt twice: once for the questions"
    assert found["ordered beside evaluations"] < 0.12
    assert found["full_pass_over_plain"] > 1.5


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    server = Server("A1111", tmp_path_factory.mktemp("bench") / "data", True, also=(SABOTEUR,))
    yield server.url
    server.stop()


@pytest.mark.parametrize("checkpoint", checkpoints("A1111")[:1])
def test_a_real_webui(checkpoint, url):
    found = best(subjects.webui(url, checkpoint, STEPS, 64, scripts=sabotage(uncounted=True)), time.perf_counter)
    assert found["ordered_over_plain"] < 1.2
    assert found["full_pass_over_plain"] > 1.5
