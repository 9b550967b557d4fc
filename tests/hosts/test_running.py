"""What a user does and sees while a picture is being made: progress, live preview, interrupt, skip. On real hosts."""

import contextlib
import threading
import time

import pytest
import requests

from .client import difference, noise_order

pytestmark = pytest.mark.real_host


@pytest.fixture
def watched(host):
    """Runs a job in the background and yields what the host's progress says, until the job is done."""

    @contextlib.contextmanager
    def run(**payload):
        outcome = []
        job = threading.Thread(target=lambda: outcome.append(host.txt2img(**payload)))
        job.start()

        def progress():
            while job.is_alive():
                with contextlib.suppress(requests.RequestException):
                    url = f"{host.server.url}/sdapi/v1/progress?skip_current_image=false"
                    yield requests.get(url, timeout=60).json()
                time.sleep(0.005)

        try:
            yield progress(), outcome
        finally:
            job.join()

    return run


@contextlib.contextmanager
def option(host, **values):
    before = requests.get(f"{host.server.url}/sdapi/v1/options", timeout=60).json()
    host.server.post("/sdapi/v1/options", values)
    try:
        yield
    finally:
        host.server.post("/sdapi/v1/options", {name: before[name] for name in values})


LONG = {"width": 192, "height": 192, "batch_size": 2, "steps": 12}


@pytest.mark.path("progress and live preview")
def test_progress_tells_what_is_going_on_and_live_previews_change_nothing(host, watched):
    usual = host.txt2img(**LONG, **noise_order())
    previews = option(host, live_previews_enable=True, show_progress_every_n_steps=1)
    with previews, watched(**LONG, **noise_order()) as (progress, outcome):
        said = [seen["textinfo"] for seen in progress]
    told = {text for text in said if text and text.startswith("Noise Order: asking the model ")}
    assert told and all(text.endswith(" of 3") for text in told), set(said)
    assert difference(usual, outcome[0]) <= 1


def test_progress_tells_that_noises_are_compared(watched):
    with watched(**LONG, **noise_order(preset="Automatic")) as (progress, _):
        told = {text for seen in progress if (text := seen["textinfo"]) and text.startswith("Noise Order")}
    assert told and all(text.startswith("Noise Order: looking at noise ") for text in told)


@pytest.mark.path("interrupt")
def test_an_interrupt_ends_a_job_and_the_next_one_is_as_ever(host, watched):
    stopped(host, watched, "interrupt")


@pytest.mark.path("skip")
def test_a_skip_ends_a_picture_and_the_next_job_is_as_ever(host, watched):
    stopped(host, watched, "skip")


def stopped(host, watched, how):
    plain, ordered = host.txt2img(), host.txt2img(**noise_order())
    for begun in ("asking the model", None):
        started = time.monotonic()
        with watched(**{**LONG, "steps": 150}, **noise_order()) as (progress, outcome):
            for seen in progress:
                reached = begun in (seen["textinfo"] or "") if begun else seen["state"]["sampling_step"] >= 2
                if reached:
                    host.server.post(f"/sdapi/v1/{how}", {})
        assert outcome and len(outcome[0].pictures) == 2, "no pictures came"
        assert outcome[0].evaluations < 100, f"{how} was not heard within {time.monotonic() - started:.0f} s"
        assert "Noise Order evaluations" in outcome[0].infotexts[0]
    assert difference(plain, host.txt2img()) == 0 and difference(ordered, host.txt2img(**noise_order())) == 0
