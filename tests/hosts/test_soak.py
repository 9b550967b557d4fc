"""Many generations in one process: memory stays flat, nothing is left behind, the last plain picture is the same as the first.

NOISEORDER_SOAK says how many (default 32 on the double, 60 with --long, 40 on a real host; 2000 for the figures in
docs/reliability.md), and NOISEORDER_SOAK_LOG names a file for the resident memory, one number of bytes a line.
"""

import os
import random
from math import sqrt
from pathlib import Path

import pytest

from lib_noiseorder import KNOBS, NoiseOrderSettings, SettingsError

from ..lengths import at_length
from .client import Refused, difference, encoded, noise_order
from .real import grey_picture
from .sabotaged import PARAMETERS, running


@pytest.fixture(scope="module", params=PARAMETERS)
def host(request, tmp_path_factory):
    with running(request.param, tmp_path_factory.mktemp("soak")) as one:
        yield one


def slope(values):
    """Least squares: the change per index, and its standard error."""
    count = len(values)
    middle, mean = (count - 1) / 2, sum(values) / count
    spread = sum((index - middle) ** 2 for index in range(count))
    found = sum((index - middle) * (value - mean) for index, value in enumerate(values)) / spread
    rest = sum((value - mean - found * (index - middle)) ** 2 for index, value in enumerate(values))
    return found, sqrt(rest / (count - 2) / spread)


def test_the_slope_is_that_of_least_squares():
    found, error = slope([3.0, 5.0, 7.0, 9.0])
    assert (found, error) == (2.0, 0.0)
    found, error = slope([0.0, 1.0, 0.0, 1.0, 0.0, 1.0])
    assert found == pytest.approx(3 / 35) and error == pytest.approx(0.1400, abs=1e-4)


def random_settings(dice):
    """Settings that can be used, from anywhere in the ranges; mostly few draws, as people have them."""
    while True:
        wish = {"enabled": True}
        for knob in dice.sample(KNOBS[2:], dice.randint(0, 5)):
            if knob.choices:
                wish[knob.name] = dice.choice(knob.choices)
            elif knob.kind is bool:
                wish[knob.name] = dice.random() < 0.2
            elif knob.name == "selection_draws":
                wish[knob.name] = dice.choice([0, 2, 3])
            elif knob.name == "chosen":
                wish[knob.name] = f"{dice.randint(1, 3)}:{dice.randint(1, 16)}"
            elif knob.name == "judge":
                wish[knob.name] = dice.choice(["model", "nobody"])
            elif knob.name == "judge_threshold":
                wish[knob.name] = dice.choice(["", "0.5"])
            else:
                wish[knob.name] = knob.kind(dice.uniform(knob.minimum, knob.maximum))
        if not wish.keys() & {"compare_with_off", "show_injected"} and dice.random() < 0.3:
            wish = {"enabled": True, "preset": dice.choice(["Automatic", "Light", "Paper"])}
        try:
            NoiseOrderSettings.from_dict(wish)
        except SettingsError:
            continue
        wish.pop("compare_with_off", None)  # twice the time for nothing new
        return wish


REPEATED = [{"seed": seed, **noise_order(**wish)} for seed in (1, 2, 3) for wish in ({}, {"preset": "Light", "chosen": "1:2"})]
"""Jobs that come again and again."""


def repeated_generation(host, job, steps):
    return host.txt2img(steps=steps, **job)


def one_generation(host, dice):
    if dice.random() < 0.2:
        return repeated_generation(host, dice.choice(REPEATED), dice.randint(3, 4))
    payload = {
        "seed": dice.randrange(2**31), "steps": dice.randint(2, 4), "batch_size": dice.choice([1, 1, 1, 2]),
        "cfg_scale": dice.choice([1.0, 3.0, 7.0]), "sampler_name": dice.choice(["Euler", "Euler a"]),
    }  # fmt: skip
    if dice.random() < 0.9:
        payload |= noise_order(**random_settings(dice))
    if dice.random() < 0.15:
        return host.img2img(init_images=[encoded(grey_picture(host.size))], denoising_strength=0.7, **payload)
    if dice.random() < 0.05:
        payload["enable_hr"] = True
    return host.txt2img(**payload)


def test_memory_is_flat_and_nothing_is_left(host):
    real = hasattr(host, "server")
    count = int(os.environ.get("NOISEORDER_SOAK", "40" if real else at_length("32", "60")))
    dice, resident, failures = random.Random(8), [], []
    first = host.txt2img()
    for job in REPEATED:
        for steps in (3, 4):
            repeated_generation(host, job, steps)
    before = None
    for number in range(count):
        try:
            result = one_generation(host, dice)
            if "Error" in (result["Noise Order skipped"] or ""):
                failures.append(result["Noise Order skipped"])
        except Refused as refused:
            failures.append(str(refused))
        state = host.state()
        assert state["left"] == [], f"after generation {number + 1}"
        resident.append(state["resident"])
        if number == count // 4:
            before = host.alive()
    after = host.alive()
    assert not failures
    assert difference(host.txt2img(), first) == 0, "the last plain picture is not the first one"
    assert after["ours"] == before["ours"] and after["tensors"] <= before["tensors"] + 20
    growth, error = slope(resident[count // 4 :])
    if log := os.environ.get("NOISEORDER_SOAK_LOG"):
        Path(log).write_text("\n".join(map(str, resident)))
    print(f"{count} generations: resident memory grows by {growth / 1024:.2f} ± {error / 1024:.2f} KiB per generation")
    if count >= 400:
        assert growth < max(3 * error, 2048), "a picture's noise alone would be more"
