"""The lab's second world: its pictures show what their prompts say, its oracle reads them, its models draw them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from lib_noiseorder.model import NoiseLevel
from lib_noiseorder.tools.lab import worlds
from lib_noiseorder.tools.lab.arms import Arm, seed_draws
from lib_noiseorder.tools.lab.evaluation import pairs_of
from lib_noiseorder.tools.lab.model import LabModel
from lib_noiseorder.tools.lab.packaged import SCALE, in_8_bits, packaged_tensors, packaged_weights
from lib_noiseorder.tools.lab.worlds.pictograms import WORLD
from lib_noiseorder.tools.lab.worlds.pictograms.judge import verdict
from lib_noiseorder.tools.lab.worlds.pictograms.scenes import (
    COLOURS,
    OBJECTS,
    RGB,
    Prompt,
    Thing,
    place,
    random_prompt,
    sprite,
    test_prompts,
)


def rendered(prompts) -> torch.Tensor:
    rng = np.random.default_rng(3)
    return WORLD.to_latent(np.stack([np.round(WORLD.picture(prompt, rng) * 255).astype(np.uint8) for prompt in prompts]))


def test_the_oracle_reads_renderings_and_calls_no_other_prompt_right():
    prompts, oracle = test_prompts(120, 4), WORLD.oracle()
    pictures = rendered(prompts)
    assert sum(verdict.all for verdict in oracle.judge(pictures, prompts)) >= 119
    other = [replace(prompt, colour=COLOURS[(COLOURS.index(prompt.colour) + 1) % 5]) for prompt in prompts]
    assert sum(verdict.all for verdict in oracle.judge(pictures, other)) == 0
    things, features = oracle.read(pictures)
    assert [len(found) for found in things] == [len(prompt.things) for prompt in prompts] and features.shape == (120, 896)


@pytest.mark.parametrize("family", ["eps", "flow"])
def test_the_models_draw_most_prompts_right(family):
    model = LabModel(family, world="pictograms")
    prompts, seeds, _ = pairs_of(8, 5, WORLD)
    pictures = model.sample(seed_draws(seeds, WORLD.size)(1), prompts)
    assert model.evaluations == 40
    assert sum(verdict.all for verdict in WORLD.oracle().judge(pictures, prompts)) >= 5


@pytest.mark.parametrize("world", worlds.NAMES)
def test_the_few_step_models_draw_in_four_evaluations(world):
    model = LabModel("few-steps", world=world)
    prompts, seeds, _ = pairs_of(16, 5, model.world)
    pictures = model.sample(seed_draws(seeds, model.world.size)(1), prompts)
    assert model.guidance == 1 and model.evaluations == 4
    assert sum(verdict.all for verdict in model.world.oracle().judge(pictures, prompts)) >= 5


def test_the_v_model_begins_with_pure_noise():
    model = LabModel("v")
    assert model.family == "eps" and model.level(1) == NoiseLevel(0, 1)
    assert model.level(0) == LabModel("eps").level(0)  # the cleanest level is Stable Diffusion's
    prompts, seeds, _ = pairs_of(16, 5)
    pictures = model.sample(seed_draws(seeds)(1), prompts)
    assert sum(verdict.all for verdict in model.world.oracle().judge(pictures, prompts)) >= 5


def test_automatic_starts_from_one_of_the_draws_and_pays_what_it_announces():
    model, prompts = LabModel("eps", world="pictograms"), test_prompts(2, 5)
    arm, draw = Arm.named("automatic"), seed_draws([1, 2], WORLD.size)
    assert arm.sample(model, prompts, draw).shape == (2, 3, 32, 32)
    assert 40 < model.evaluations <= 40 * 1.4
    with pytest.raises(ValueError, match="the model of pictograms must be one of eps, flow, few-steps, got 'distilled'"):
        LabModel("distilled", world="pictograms")
    with pytest.raises(ValueError, match="must be one of shapes, pictograms, got 'letters'"):
        worlds.named("letters")


def test_prompts_depend_on_the_seed_alone_and_a_third_is_rare():
    prompts = test_prompts(90, 8)
    assert prompts == test_prompts(90, 8) != test_prompts(90, 9)
    assert sum(prompt.rare for prompt in prompts) == 30
    assert all(len(prompt.tokens) == 6 and max(prompt.tokens) < 28 for prompt in prompts)
    assert len({tuple(prompt.tokens) for prompt in prompts}) == len({str(prompt) for prompt in prompts})


def test_things_are_where_the_prompt_wants_them_and_do_not_overlap():
    rng = np.random.default_rng(6)
    for _ in range(200):
        prompt = random_prompt(rng)
        things = place(prompt, rng)
        assert verdict(things, prompt).all
        assert all(6 <= where <= 26 for thing in things for where in (thing.x, thing.y))


@pytest.mark.parametrize(
    ("prompt", "things", "right", "share"),
    [
        (Prompt("red", "cat"), [Thing("red", "cat", 16, 16)], True, 1),
        (Prompt("red", "cat"), [Thing("red", "cat", 16, 16), Thing("other", "cat", 6, 6)], False, 3 / 4),
        (Prompt("red", "cat", 2), [Thing("red", "cat", 6, 6), Thing("blue", "cat", 26, 6)], False, (1 + 1 + 0.5 + 0.5) / 4),
        (Prompt("red", "cat", corner="top left"), [Thing("red", "cat", 26, 6)], False, 4 / 5),
        (Prompt("red", "cat", corner="bottom right"), [Thing("red", "cat", 26, 22)], True, 1),
        (
            Prompt("red", "cat", 1, "above", "blue", "car"),
            [Thing("red", "cat", 6, 26), Thing("blue", "car", 6, 6)],
            False,
            4 / 5,
        ),
        (Prompt("red", "cat", 1, "left of", "blue", "car"), [Thing("red", "cat", 6, 6), Thing("blue", "car", 26, 16)], True, 1),
        (
            Prompt("red", "cat", 1, "left of", "blue", "car"),
            [Thing("blue", "cat", 6, 6), Thing("red", "car", 26, 16)],
            False,
            3 / 5,
        ),
        (Prompt("red", "cat", 1, "left of", "blue", "car"), [], False, 0),
    ],
)
def test_verdicts_on_known_scenes(prompt, things, right, share):
    found = verdict(things, prompt)
    assert found.all == right and found.share == pytest.approx(share)


def test_every_pictogram_is_tinted_and_has_edges():
    shown = [sprite(thing, RGB[0]) for thing in OBJECTS]
    for pixels, alpha in shown:
        assert pixels.shape == (12, 12, 3) and alpha.min() == 0 and alpha.max() == 1
        red, green, blue = (pixels * alpha).sum((0, 1)) / alpha.sum()
        assert red > 1.5 * max(green, blue)
    assert len({pixels.tobytes() for pixels, _ in shown}) == len(OBJECTS)
    flipped, _ = sprite("fish", RGB[0], flipped=True)
    assert np.array_equal(flipped[:, ::-1], sprite("fish", RGB[0])[0])


def test_weights_in_8_bits_come_back_within_half_a_step():
    generator = torch.Generator().manual_seed(1)
    weights = {"matrix": torch.randn(64, 128, generator=generator), "bias": torch.randn(64, generator=generator)}
    kept = in_8_bits(weights)
    assert kept["matrix"].dtype == torch.int8 and kept["bias"].dtype == torch.float16
    error = (kept["matrix"].float() * kept[f"matrix{SCALE}"] - weights["matrix"]).abs()
    assert (error <= 0.5001 * weights["matrix"].abs().amax(1, keepdim=True) / 127).all()
    packed = packaged_tensors("pictograms-eps.safetensors")
    loaded = packaged_weights("pictograms-eps.safetensors")
    assert packed["blocks.0.up.weight"].dtype == torch.int8 and loaded["blocks.0.up.weight"].dtype == torch.float32
    assert set(loaded) == {name for name in packed if not name.endswith(SCALE)}
