"""Every kind of checkpoint that a host has: the same promises, held briefly; and kinds that only some hosts know."""

import pytest
import requests

from .client import difference, noise_order
from .double.host import DoubleHost

NOTHING = noise_order(erasure_samples=1, strength=0)


def extra_evaluations(ordered, plain) -> float:
    return ordered.evaluations - plain.evaluations


def check(host, **payload):
    """Plain, untouched, ordered and selected pictures of one job, each with what it cost."""
    plain = host.txt2img(**payload)
    assert plain.pictures.std() > 1, "the checkpoint draws nothing, so nothing here proves anything"
    assert difference(plain, host.txt2img(**payload, **NOTHING)) == 0
    ordered = host.txt2img(**payload, **noise_order())
    assert ordered["Noise Order skipped"] is None and difference(plain, ordered) > 0
    assert extra_evaluations(ordered, plain) == int(ordered["Noise Order evaluations"])
    plain = host.txt2img(**payload, steps=20)
    selected = host.txt2img(**payload, steps=20, **noise_order(preset="Automatic"))
    assert selected["Noise Order skipped"] is None and int(selected["Noise Order chosen"]) >= 1
    assert extra_evaluations(selected, plain) == int(selected["Noise Order evaluations"])


@pytest.mark.real_host
@pytest.mark.path("model: {model}")
def test_a_checkpoint(host):
    check(host)


@pytest.mark.real_host
@pytest.mark.path("model: zero terminal SNR")
def test_zero_terminal_snr(host):
    options = requests.get(f"{host.server.url}/sdapi/v1/options", timeout=60).json()
    if "sd_noise_schedule" not in options:
        pytest.skip("the host has no option for the noise schedule")
    if "-v" not in host.checkpoint:
        pytest.skip("does not apply: made for checkpoints that predict v")
    host.server.post("/sdapi/v1/options", {"sd_noise_schedule": "Zero Terminal SNR"})
    try:
        check(host)
    finally:
        host.server.post("/sdapi/v1/options", {"sd_noise_schedule": options["sd_noise_schedule"]})


@pytest.mark.real_host
@pytest.mark.path("Wan: a video of five frames")
def test_a_video(host):
    if "wan" not in host.checkpoint:
        pytest.skip("does not apply: not a video model")
    frames = 5
    plain, ordered = host.txt2img(batch_size=frames), host.txt2img(batch_size=frames, **noise_order())
    assert difference(plain, host.txt2img(batch_size=frames, **NOTHING)) == 0 < difference(plain, ordered)
    assert round(frames * extra_evaluations(ordered, plain)) == int(ordered["Noise Order evaluations"])
    selected = host.txt2img(batch_size=frames, steps=20, **noise_order(preset="Automatic"))
    assert selected["Noise Order skipped"] is None and int(selected["Noise Order chosen"]) >= 1


@pytest.mark.real_host
@pytest.mark.path("Wan: two models, switched by the refiner")
def test_two_models(host):
    if "wan-high" not in host.checkpoint:
        pytest.skip("does not apply: not a model of a pair")
    switch = {"refiner_checkpoint": host.checkpoint.replace("high", "low"), "refiner_switch_at": 0.5, "steps": 8}
    plain, ordered = host.txt2img(**switch), host.txt2img(**switch, **noise_order())
    assert plain["Refiner"] == ordered["Refiner"] is not None
    assert difference(plain, host.txt2img(**switch, **NOTHING)) == 0 < difference(plain, ordered)
    assert difference(ordered, host.txt2img(**switch, **noise_order())) == 0
    assert ordered["Noise Order skipped"] is None


def test_an_unknown_kind_of_model_gets_erased_noise_only(monkeypatch):
    host = DoubleHost("flow")
    erased = host.txt2img(**noise_order(strength=0))
    monkeypatch.setattr(host.checkpoint.forge_objects.unet.model.predictor, "prediction_type", "dreams")
    unknown = host.txt2img(**noise_order())
    assert unknown["Noise Order skipped"].endswith("predicts 'dreams', which Noise Order cannot read")
    assert difference(erased, unknown) == 0
