"""Every kind of checkpoint that a host has: the same promises, held briefly; and kinds that only some hosts know."""

import pytest
import requests

from lib_noiseorder.plans import EXTRA_COST

from .client import difference, encoded, noise_order
from .double.host import DoubleHost
from .real import grey_picture

NOTHING = noise_order(erasure_samples=1, strength=0)
AUTOMATIC = noise_order(preset="Automatic")
PAPER = noise_order(preset="Paper")
STEPS = 8
"""Enough for Automatic to compare with any kind of model, with guidance and without."""


def extra_evaluations(ordered, plain) -> float:
    return ordered.evaluations - plain.evaluations


def asked_as_announced(ordered, plain):
    """Nothing failed, and the network was asked as often as is said."""
    assert ordered["Noise Order skipped"] is None
    assert extra_evaluations(ordered, plain) == int(ordered["Noise Order evaluations"])


def compared(make, noise=0, **payload):
    """The plain picture and that of an automatic choice: within its cost, and the one that the host makes of the chosen noise.

    Args:
        noise: by how much two equal jobs may differ.
    """
    plain, chosen = make(**payload), make(**payload, **AUTOMATIC)
    asked_as_announced(chosen, plain)
    assert extra_evaluations(chosen, plain) <= EXTRA_COST * plain.evaluations
    again = make(**payload, **noise_order(preset="Automatic", chosen=f"1:{chosen['Noise Order chosen']}"))
    assert again.evaluations == plain.evaluations and difference(chosen, again) <= max(1, noise)
    return plain, chosen


def check(host, **payload):
    """Untouched, ordered and chosen pictures of one job, each with what it cost."""
    plain = host.txt2img(**payload)
    assert plain.pictures.std() > 1, "the checkpoint draws nothing, so nothing here proves anything"
    assert difference(plain, host.txt2img(**payload, **NOTHING)) == 0
    ordered = host.txt2img(**payload, **PAPER)
    assert difference(plain, ordered) > 0
    asked_as_announced(ordered, plain)
    plain, chosen = compared(host.txt2img, steps=STEPS, **payload)
    assert difference(chosen, host.txt2img(steps=STEPS, **payload, **AUTOMATIC)) == 0
    if chosen["Noise Order chosen"] == "1" and not host.family.flow:  # a flow model's noises are scaled
        assert difference(plain, chosen) <= 1


@pytest.mark.real_host
@pytest.mark.path("model: {model}")
def test_a_checkpoint(host):
    check(host)


@pytest.mark.real_host
@pytest.mark.path("model: {model}: off is as if not installed")
def test_off_is_as_if_not_installed(host, bare_host):
    off, bare = host.txt2img(), bare_host.txt2img()
    assert difference(off, bare) == 0 and off.infotexts == bare.infotexts


@pytest.mark.real_host
@pytest.mark.path("model: {model}: img2img, hires fix")
def test_from_a_picture_and_with_a_second_pass(host):
    started = {"init_images": [encoded(grey_picture(host.size))], "denoising_strength": 0.7, "steps": 12}
    plain, _ = compared(host.img2img, noise=host.img2img_noise, **started)
    asked_as_announced(host.img2img(**started, **PAPER), plain)
    plain, ordered = (host.txt2img(enable_hr=True, steps=STEPS, **more) for more in ({}, AUTOMATIC))
    asked_as_announced(ordered, plain)


@pytest.mark.real_host
@pytest.mark.path("model: {model}: a batch of two")
def test_a_batch_is_as_its_pictures_alone(host):
    if host.family.video:
        pytest.skip("does not apply: a batch is a video's frames")
    both = host.txt2img(batch_size=2, steps=STEPS, **AUTOMATIC)
    assert both["Noise Order skipped"] is None
    for number in range(2):
        alone = host.txt2img(seed=1 + number, steps=STEPS, **AUTOMATIC)
        assert abs(alone.pictures[0] - both.pictures[number]).max() <= 1


@pytest.mark.real_host
@pytest.mark.path("model: {model}: reference pictures")
@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_a_picture_to_be_changed(host, guidance):
    """img2img at full strength: the picture is none that is started from, but the network looks at it."""
    if not host.family.shows_pictures:
        pytest.skip("does not apply: looks at no pictures")
    shown = {"init_images": [encoded(grey_picture(host.size))], "denoising_strength": 1.0, "cfg_scale": guidance}
    other = {**shown, "init_images": [encoded(255 - grey_picture(host.size))]}
    plain, _ = compared(host.img2img, noise=host.img2img_noise, steps=STEPS, **shown)
    assert difference(plain, host.img2img(steps=STEPS, **other)) > host.img2img_noise, "it does not look at the picture"
    asked_as_announced(host.img2img(steps=STEPS, **shown, **PAPER), plain)


@pytest.mark.real_host
@pytest.mark.path("model: {model}: weights kept as fp8")
def test_weights_of_eight_bits(host):
    options = requests.get(f"{host.server.url}/sdapi/v1/options", timeout=60).json()
    if "forge_unet_storage_dtype" not in options:
        pytest.skip("the host has no option for how weights are kept")
    override = {"forge_unet_storage_dtype": "float8-e4m3fn", **host.defaults()["override_settings"]}  # in this order
    plain = host.txt2img()
    try:
        if difference(plain, host.txt2img(override_settings=override)) == 0:
            pytest.skip("the host keeps this checkpoint's weights as they were")
        check(host, override_settings=override)
    finally:
        host.server.post("/sdapi/v1/options", {"forge_unet_storage_dtype": options["forge_unet_storage_dtype"]})


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
    if not host.family.video:
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
    reason = "this checkpoint predicts 'dreams', which Noise Order cannot read"
    assert unknown["Noise Order skipped"] == f"injection: {reason}"
    assert unknown["Panel said"] == f"{reason[0].upper()}{reason[1:]}. Nothing is asked."
    assert difference(erased, unknown) == 0
    compared = host.txt2img(**AUTOMATIC)
    assert compared["Noise Order skipped"] == f"selection: {reason}" and difference(compared, host.txt2img()) == 0
