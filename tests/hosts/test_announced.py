"""What the panel says beforehand, what the infotext says afterwards and what a counter on the network sees are one number, and
none is above the limit that was set."""

import re

import pytest

from .client import Refused, encoded, noise_order
from .double.host import DoubleHost
from .real import grey_picture

AUTOMATIC, LIGHT, DOUBLE = {"preset": "Automatic"}, {"preset": "Light"}, {"extra_cost": 1}
PAPER, CUSTOM, BOTH = {"preset": "Paper"}, {"preset": "Custom"}, {"preset": "Custom", "selection": "automatic"}
FEW = (1, 2, 3, 4, 6, 8, 12, 20)
IN_A1111 = ("DDIM", "DDIM CFG++", "PLMS", "UniPC", "LCM", "Heun", "DPM2", "DPM++ 2S a", "DPM++ SDE", "DPM++ 3M SDE", "DPM fast",
            "Restart", "DPM++ 2M", "LMS")  # fmt: skip
IN_NEO = ("ER SDE", "DPM++ 2M SDE", "Res Multistep", "DPM++ 2s a RF", "Kohaku LoNyu Yog")
REAL = pytest.mark.real_host


def one(settings, *marks, tab="txt2img", **payload):
    payload = {"steps": 8, "cfg_scale": 7, **payload}
    return pytest.param(tab, payload, settings, marks=marks, id=f"{tab} {settings} {payload}")


MASKED = {"tab": "img2img", "denoising_strength": 0.75, "mask": True}
COMBINATIONS = [
    *(one(settings, steps=steps, cfg_scale=scale)
      for settings in (AUTOMATIC, LIGHT, DOUBLE) for scale in (1, 7) for steps in FEW),
    *(one(settings, steps=steps) for settings in (PAPER, CUSTOM, BOTH) for steps in (1, 20)),
    *(one(settings, cfg_scale=1) for settings in (PAPER, BOTH)),
    *(one(settings, sampler_name="Euler a", cfg_scale=scale) for settings in (AUTOMATIC, LIGHT) for scale in (1, 7)),
    *(one(AUTOMATIC, REAL, sampler_name=name, steps=steps) for name in IN_A1111 for steps in (7, 20)),
    *(one(AUTOMATIC, REAL, sampler_name=name, cfg_scale=scale, steps=20) for name in IN_NEO for scale in (1, 4)),
    *(one(AUTOMATIC, REAL, sampler_name=name, cfg_scale=1) for name in ("DDIM", "UniPC", "LCM")),
    *(one(settings, sampler_name="Heun", cfg_scale=scale) for settings in (AUTOMATIC, PAPER) for scale in (1, 7)),
    one(AUTOMATIC, sampler_name="Heun", steps=20),  # its second call stands where an Euler step leads
    *(one(LIGHT, REAL, sampler_name=name, steps=4) for name in ("DDIM", "LCM", "Heun", "Restart")),
    *(one(AUTOMATIC, tab="img2img", denoising_strength=strength, steps=20) for strength in (0.2, 0.5, 0.9)),
    *(one(AUTOMATIC, REAL, tab="img2img", denoising_strength=0.5, steps=steps, sampler_name="DDIM") for steps in (7, 20)),
    one(DOUBLE, tab="img2img", denoising_strength=0.6, batch_size=2),
    one(AUTOMATIC, tab="img2img", denoising_strength=0.4, steps=40, sampler_name="Euler a"),
    *(one(settings, steps=16, **MASKED) for settings in (AUTOMATIC, PAPER)),
    *(one({**settings, "hires_pass": True}, enable_hr=True, hr_second_pass_steps=steps)
      for settings in (AUTOMATIC, LIGHT, PAPER) for steps in (0, 3, 10)),
    one({**AUTOMATIC, "hires_pass": True}, enable_hr=True, hr_sampler_name="Euler a"),
    one(AUTOMATIC, enable_hr=True),
    *(one(settings, batch_size=3, n_iter=2) for settings in (AUTOMATIC, CUSTOM)),
    *(one(settings, REAL, prompt="a red circle AND a blue square :0.7", steps=steps)
      for settings in (AUTOMATIC, PAPER, LIGHT) for steps in (6, 20)),
    one(AUTOMATIC, REAL, prompt="a red circle AND a blue square", cfg_scale=1),
    *(one(AUTOMATIC, REAL, prompt=prompt, steps=20) for prompt in ("a red circle :0.7", "a red circle AND a square :-0.5")),
    *(one(settings, REAL, prompt="a [red:blue:0.5] circle") for settings in (AUTOMATIC, PAPER)),
    *(one(settings, steps=steps, override_settings={"s_min_uncond": sigma})
      for settings in (AUTOMATIC, LIGHT) for steps in (3, 20) for sigma in (0.7, 4.0, 50.0)),
    *(one(settings, steps=steps, override_settings={"skip_early_cond": 0.3})
      for settings in (AUTOMATIC, LIGHT) for steps in (4, 20)),
    one(AUTOMATIC, override_settings={"s_min_uncond_all": True, "s_min_uncond": 50.0}),
    one(AUTOMATIC, REAL, sampler_name="DPM adaptive"),
]  # fmt: skip


QUICK = 11
"""Every so many of them are tried in the short run of the tests; --long tries all."""


def make(host, tab, payload, **more):
    payload = {**payload, **more}
    if tab == "img2img":
        payload["init_images"] = [encoded(grey_picture(host.size))]
    if payload.pop("mask", False):
        kept = grey_picture(host.size) * 0
        kept[: host.size // 2] = 255
        payload["mask"] = encoded(kept)
    if not isinstance(host, DoubleHost) and "override_settings" in payload:
        host.settle(payload["override_settings"])
        payload["override_settings"] = {**host.defaults()["override_settings"], **payload["override_settings"]}
    try:
        return getattr(host, tab)(**payload)
    except Refused as refusal:
        if "Sampler not found" in refusal.message:
            pytest.skip(f"this host has no sampler {payload['sampler_name']}")
        raise


def announced(line):
    """The evaluations of a cost line, over both passes."""
    found = re.findall(r"(\d+) more (?:model evaluation|in the hires pass)", line)
    return sum(map(int, found))


@pytest.mark.path("evaluations as announced")
@pytest.mark.parametrize(
    "tab, payload, settings",
    [
        pytest.param(*each.values, id=each.id, marks=[*each.marks, *[pytest.mark.long] * (number % QUICK > 0)])
        for number, each in enumerate(COMBINATIONS)
    ],
)
def test_announced_is_counted_and_within_the_limit(host, tab, payload, settings):
    plain = make(host, tab, payload)
    ordered = make(host, tab, payload, **noise_order(**{"preset": "Automatic", **settings}))
    said = announced(ordered["Panel said"])
    told = int(ordered["Noise Order evaluations"])
    adaptive = payload.get("sampler_name") == "DPM adaptive"  # its steps depend on the noise
    counted = told if adaptive else ordered.evaluations - plain.evaluations
    assert (said, told, counted) == (told, told, told), ordered["Panel said"]
    if settings in (AUTOMATIC, LIGHT, DOUBLE):
        limit = {"Automatic": 0.4, "Light": 0.2}.get(settings.get("preset"), 1.0)
        assert counted <= limit * plain.evaluations + 1e-9
    if settings.get("preset") in ("Automatic", "Light"):
        reason = re.search(r"(?<!hires pass: )selection: extra_cost .* buys no", ordered["Noise Order skipped"] or "")
        assert bool(reason) == ("None are compared" in ordered["Panel said"])
