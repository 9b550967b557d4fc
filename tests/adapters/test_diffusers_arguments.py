"""The call's arguments as the pipeline takes them, and what is paid over many calls."""

import itertools

import numpy as np
import pytest
import torch

from lib_noiseorder import NoiseOrderSettings

diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")

from lib_noiseorder.adapters.diffusers import order_latents, run_ordered  # noqa: E402

from ..lengths import at_length  # noqa: E402
from . import pipelines  # noqa: E402
from .diffusers_calls import FAMILIES, PLAIN, counted, latents_of, picture, pictures_of, seeded  # noqa: E402

CALL = {"prompt": "a red circle", "height": 32, "width": 32, "num_inference_steps": 6}


@pytest.fixture(scope="module")
def pipe():
    return pipelines.stable_diffusion()


@pytest.mark.parametrize("family", FAMILIES)
def test_an_empty_prompt_is_a_prompt(family):
    pipe = getattr(pipelines, family)()
    call = {**CALL, **FAMILIES[family], "prompt": ""}
    run = run_ordered(pipe, **call, generator=seeded(3), settings=PLAIN, output_type="latent")
    assert torch.equal(pictures_of(run.output), picture(pipe, call, generator=seeded(3)))
    del call["prompt"]
    assert torch.equal(order_latents(pipe, "", **call, generator=seeded(3), settings=PLAIN).noise, run.noise)


@pytest.mark.parametrize("settings", [{"preset": "Automatic"}, {"preset": "Light", "extra_cost": 0.2}, {}, None])
def test_settings_need_not_say_that_they_are_on(pipe, settings):
    report = order_latents(pipe, **{**CALL, "num_inference_steps": 20}, settings=settings).report
    assert report.chosen and not report.skipped
    assert order_latents(pipe, **CALL, settings={"enabled": False}).report.skipped == ["switched off"]


TAKEN = {
    "numpy steps": {"num_inference_steps": np.int64(6)},
    "numpy scale": {"guidance_scale": np.float32(5.0)},
    "timesteps": {"num_inference_steps": None, "timesteps": [900, 700, 400, 100]},
    "numpy count": {"num_images_per_prompt": np.int32(2)},
    "no count": {"num_images_per_prompt": None},
    "no generator": {"generator": None},
    "no latents": {"latents": None},
    "negative": {"negative_prompt": None},
}


@pytest.mark.parametrize("given", TAKEN.values(), ids=TAKEN)
def test_numbers_and_none_as_the_pipeline_takes_them(pipe, given):
    call = {**CALL, "generator": seeded(3), **given}
    try:
        torch.manual_seed(3)
        plain = picture(pipe, call)
    except Exception as error:  # as the pipeline says
        with pytest.raises(type(error)):
            run_ordered(pipe, **call, settings=PLAIN)
        return
    torch.manual_seed(3)
    call = {**call, "generator": seeded(3)} if "generator" not in given else call
    run = run_ordered(pipe, **call, settings=PLAIN, output_type="latent")
    assert torch.equal(pictures_of(run.output), plain)


@pytest.mark.parametrize("family", ["stable_diffusion_3", "flux"])
def test_sigmas_without_steps(family):
    pipe = getattr(pipelines, family)()
    call = {**CALL, **FAMILIES[family], "sigmas": [1.0, 0.7, 0.4, 0.1], "num_inference_steps": 4}
    run = run_ordered(pipe, **call, generator=seeded(3), settings=PLAIN, output_type="latent")
    assert torch.equal(pictures_of(run.output), picture(pipe, call, generator=seeded(3)))


def test_no_output_type(pipe):
    plain = latents_of(pipe(**CALL, generator=seeded(3), output_type=None))
    run = run_ordered(pipe, **CALL, generator=seeded(3), settings=PLAIN, output_type=None)
    assert np.array_equal(np.asarray(latents_of(run.output)), np.asarray(plain))


def test_settings_in_numpys_numbers(pipe):
    numpys = {"extra_cost": np.float32(0.25), "selection_draws": np.int64(2), "enabled": True}
    plain = {"extra_cost": 0.25, "selection_draws": 2, "enabled": True}
    ours, theirs = (order_latents(pipe, **CALL, generator=seeded(3), settings=one) for one in (numpys, plain))
    assert torch.equal(ours.noise, theirs.noise) and ours.report.chosen == theirs.report.chosen


class OutOfMemory(RuntimeError):
    pass


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("nth", [1, 3])
def test_a_question_that_fails_costs_the_effect_never_the_picture(family, nth):
    pipe = getattr(pipelines, family)()
    call = {**CALL, **FAMILIES[family], "num_inference_steps": 16}
    plain = picture(pipe, call, generator=seeded(3))
    model = getattr(pipe, "unet", None) or pipe.transformer
    original, calls = model.forward, []

    def failing(*args, **kwargs):
        calls.append(1)
        if len(calls) == nth:
            raise OutOfMemory("no room")
        return original(*args, **kwargs)

    model.forward = failing
    run = run_ordered(pipe, **call, generator=seeded(3), settings={"preset": "Automatic"}, output_type="latent")
    assert run.report.skipped == ["everything: OutOfMemory: no room"] and not run.report.chosen
    assert torch.equal(pictures_of(run.output), plain)


SCHEDULERS = {
    "stable_diffusion": [pipelines.ddim, pipelines.euler, lambda: diffusers.HeunDiscreteScheduler(**pipelines.BETAS)],
    "stable_diffusion_xl": [pipelines.euler, lambda: diffusers.DPMSolverMultistepScheduler(**pipelines.BETAS)],
    "stable_diffusion_3": [lambda: pipelines.flow_euler(shift=3.0), diffusers.FlowMatchHeunDiscreteScheduler],
    "flux": [lambda: pipelines.flow_euler(use_dynamic_shifting=True)],
    "wan": [lambda: None],
}
STEPS, PRESETS = at_length((8,), (1, 4, 9, 16)), at_length(("Automatic", "Light"), ("Automatic", "Light", "Custom"))
CALLS = [
    (family, scheduler, steps, guidance, preset)
    for family, schedulers in SCHEDULERS.items()
    for scheduler, steps, guidance, preset in itertools.product(schedulers, STEPS, (1.0, 4.0), PRESETS)
]
assert len(CALLS) >= at_length(36, 200)


@pytest.mark.parametrize("family", SCHEDULERS)
def test_what_is_told_is_what_is_paid_and_within_the_limit(family):
    made = {scheduler: getattr(pipelines, family)(scheduler()) for scheduler in SCHEDULERS[family]}
    for name, scheduler, steps, guidance, preset in CALLS:
        if name != family:
            continue
        pipe = made[scheduler]
        scale = (
            {"negative_prompt": "two pizza", "true_cfg_scale": guidance} if family == "flux" else {"guidance_scale": guidance}
        )
        call = {**CALL, **FAMILIES[family], "num_inference_steps": steps, **scale, "output_type": "latent"}
        with counted(pipe) as alone:
            pipe(**call, generator=seeded(3))
        with counted(pipe) as paid:
            report = run_ordered(pipe, **call, generator=seeded(3), settings={"preset": preset}).report
        what = (family, type(pipe.scheduler).__name__, steps, guidance, preset, report)
        assert paid.rows - alone.rows == report.extra_evaluations, what
        settings = NoiseOrderSettings(enabled=True, preset=preset)
        if preset != "Custom":
            assert report.extra_evaluations <= settings.extra_cost * alone.rows + 1e-9, what
            assert bool(report.chosen) != bool(report.skipped), what
        else:
            assert report.extra_evaluations == 3, what


@pytest.mark.parametrize(
    "wrong", [{"latents": torch.zeros(1, 4, 7, 9)}, {"settings": {"chosen": "1 2 3"}}], ids=["latents", "chosen"]
)
def test_what_cannot_be_used_is_refused_by_run_ordered_too(pipe, wrong):
    with counted(pipe) as paid, pytest.raises(ValueError, match=r"latents have shape|lists 3 draws"):
        run_ordered(pipe, **{**CALL, **wrong})
    assert not paid.rows
