"""Remembered answers are given back: a comparison costs what its plan says, by the counter on the network."""

import pytest

from lib_noiseorder.plans import EXTRA_COST, SamplerRun, plan_for

from .client import difference, encoded, noise_order
from .real import grey_picture

AUTOMATIC = noise_order(preset="Automatic")
pytestmark = pytest.mark.path("remembered answers are given")


def compared(make, plain, run, **payload):
    """An automatic choice, held to the plan that the run gets."""
    selected, plan = make(**payload, **AUTOMATIC), plan_for(run)
    assert plan.draws > 1 and plain.evaluations == run.own_evaluations
    assert selected["First call unlike the questions"] is None and selected["Noise Order skipped"] is None
    extra = selected.evaluations - plain.evaluations
    assert extra == int(selected["Noise Order evaluations"]) <= EXTRA_COST * plain.evaluations
    assert extra == plan.extra_evaluations(run) and bool(plan.reusable(run)) == run.reuses_answers


def run_of(host, steps, guidance):
    """The sampler's run. A1111 asks without the prompt at guidance 1, too: with the prompt alone it is asked for less."""
    in_vain = guidance == 1 and host.asks_both_halves_at_guidance_1 and host.evaluations_per_question == 1
    return SamplerRun(
        guidance, steps, reuses_answers=not in_vain,
        cond_evaluations=host.evaluations_per_question, sampler_evaluations=2 * steps if in_vain else None,
    )  # fmt: skip


@pytest.mark.parametrize("steps, guidance", [(20, 4.0), (20, 1.0), (8, 1.0)], ids=str)
def test_the_samplers_first_calls_are_answered_from_memory(host, steps, guidance):
    payload = {"steps": steps, "cfg_scale": guidance}
    compared(host.txt2img, host.txt2img(**payload), run_of(host, steps, guidance), **payload)


def test_the_second_half_of_a_schedule_is_as_well_remembered(host):
    """img2img at strength 0.7 takes 15 of 20 steps, under a schedule that was made for 20."""
    payload = {"steps": 20, "init_images": [encoded(grey_picture(host.size))], "denoising_strength": 0.7}
    compared(host.img2img, host.img2img(**payload), run_of(host, 15, host.family.how.get("cfg_scale", 3.0)), **payload)


def test_the_schedule_that_a_question_leaves_behind_is_the_hosts(host):
    """A picture that is made after a choice is the one that was made before it, under whatever sampler."""
    for sampler in ("Euler", "Euler a"):
        before = host.txt2img(sampler_name=sampler)
        host.txt2img(steps=20, **AUTOMATIC)
        assert difference(before, host.txt2img(sampler_name=sampler)) == 0


@pytest.mark.real_host
def test_what_an_earlier_sampler_left_in_the_options_is_no_reason_to_ask_again(host):
    if host.family.flow:
        pytest.skip("does not apply: DDIM knows no flow models")
    host.txt2img(sampler_name="Euler", steps=20)
    plain, chosen = (host.txt2img(sampler_name="DDIM", steps=20, **settings) for settings in ({}, AUTOMATIC))
    assert chosen["First call unlike the questions"] is None and chosen["Noise Order skipped"] is None
    assert f" {int(chosen.evaluations - plain.evaluations)} more model evaluations" in chosen["Panel said"]
