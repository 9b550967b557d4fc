"""Every sampler and every scheduler that a host lists."""

import pytest
import requests

from .client import difference, noise_order
from .double.host import DoubleHost

ADAPTIVE = ("DPM adaptive",)
"""Samplers whose number of evaluations depends on the noise."""


def listed(host, what):
    if isinstance(host, DoubleHost):
        return ["Euler", "Euler a"]
    found = requests.get(f"{host.server.url}/sdapi/v1/{what}", timeout=60)
    if what == "schedulers" and found.status_code == 404:
        pytest.skip("this host has no list of schedulers in its API")
    found.raise_for_status()
    return [one["label" if what == "schedulers" else "name"] for one in found.json()]


def complaints(host, how, **payload):
    """What is wrong with Noise Order under these sampling settings, in words."""
    plain = host.txt2img(**payload)
    nothing = host.txt2img(**payload, **noise_order(erasure_samples=1, strength=0))
    own = difference(plain, host.txt2img(**payload))
    for preset in ({}, {"preset": "Automatic", "erasure_samples": 1, "strength": 0.0}):
        ordered = host.txt2img(**payload, **noise_order(**preset))
        again = host.txt2img(**payload, **noise_order(**preset))
        skipped = ordered["Noise Order skipped"]
        if skipped and "too few steps" not in skipped:
            yield f"{how} {preset}: skipped {skipped}"
        if difference(ordered, again) > own:
            yield f"{how} {preset}: not repeatable"
        announced = int(ordered["Noise Order evaluations"])
        if how not in ADAPTIVE and ordered.evaluations - plain.evaluations != announced:
            yield f"{how} {preset}: {ordered.evaluations - plain.evaluations} evaluations, announced {announced}"
        if not preset and difference(plain, ordered) == 0 and plain.pictures.std() > 1:
            yield f"{how}: nothing was ordered"
    if difference(plain, nothing) > own:
        yield f"{how}: one draw and strength 0 is not the same as off"


@pytest.mark.path("every sampler")
def test_every_sampler(host):
    names = listed(host, "samplers")
    assert not [told for name in names for told in complaints(host, name, sampler_name=name, steps=6)]


@pytest.mark.real_host
@pytest.mark.path("every scheduler")
def test_every_scheduler(host):
    labels = listed(host, "schedulers")
    if not labels:
        pytest.skip("this host has no schedulers to choose from")
    assert not [told for label in labels for told in complaints(host, label, scheduler=label, steps=6)]
