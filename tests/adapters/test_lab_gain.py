"""The lab's Flux-format checkpoint through diffusers' own FluxPipeline and our adapter."""

import inspect

import pytest
import torch

from lib_noiseorder import NoiseOrderSettings
from lib_noiseorder.plans import SamplerRun, plan_for

diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")
if "true_cfg_scale" not in inspect.signature(diffusers.FluxPipeline.__call__).parameters:
    pytest.skip("this diffusers' FluxPipeline has no true_cfg_scale", allow_module_level=True)

from lib_noiseorder.adapters.diffusers import ordered_latents, run_ordered  # noqa: E402
from lib_noiseorder.tools.lab.formats import flux  # noqa: E402
from lib_noiseorder.tools.lab.formats.through_diffusers import Checkpoint, compare  # noqa: E402

from ..lengths import at_length  # noqa: E402

AUTOMATIC = NoiseOrderSettings(enabled=True, preset="Automatic")
NOTHING = NoiseOrderSettings(enabled=True, erasure_samples=1, strength=0.0)


@pytest.fixture(scope="module")
def checkpoint():
    return Checkpoint.named("flux")


def call(*seeds: int) -> dict:
    texts = ["red circle left of blue square", "two yellow triangles"][: len(seeds)]
    return {**flux.call_arguments(texts), "generator": [torch.Generator().manual_seed(seed) for seed in seeds]}


def test_strength_0_with_one_draw_is_the_plain_picture_bit_for_bit(checkpoint):
    plain = checkpoint.pipeline(**call(3, 4), output_type="pt").images
    run = run_ordered(checkpoint.pipeline, settings=NOTHING, **call(3, 4), output_type="pt")
    assert torch.equal(run.output.images, plain) and run.report.evaluations == 0
    latents = ordered_latents(checkpoint.pipeline, settings=NOTHING, **call(3, 4))
    assert torch.equal(checkpoint.pipeline(**call(3, 4), latents=latents, output_type="pt").images, plain)


@pytest.mark.parametrize("guidance", [flux.GUIDANCE, 1.0])
def test_automatic_costs_what_was_announced(checkpoint, monkeypatch, guidance):
    rows, forward = [], checkpoint.pipeline.transformer.forward

    def counted(*args, **kwargs):
        rows.append(len(kwargs["hidden_states"]))
        return forward(*args, **kwargs)

    monkeypatch.setitem(vars(checkpoint.pipeline.transformer), "forward", counted)
    asked = {**call(3, 4), "true_cfg_scale": guidance}
    report = run_ordered(checkpoint.pipeline, settings=AUTOMATIC, **asked, output_type="latent").report
    run = SamplerRun(guidance, flux.STEPS)
    extra = plan_for(run).extra_evaluations(run)
    assert report.extra_evaluations == extra
    assert sum(rows) == 2 * ((1 if guidance == 1 else 2) * flux.STEPS + extra)
    assert len(report.chosen) == 2


def test_the_comparison_counts_and_judges_every_arm(checkpoint):
    done = []
    count = at_length(8, 16)
    figures = compare(checkpoint, run_ordered, AUTOMATIC, count, 71, progress=lambda *told: done.append(told))
    run = SamplerRun(flux.GUIDANCE, flux.STEPS)
    extra = plan_for(run).extra_evaluations(run)
    assert list(figures) == ["plain", "ordered", "equal-cost"]
    assert figures["plain"].evaluations == 2 * flux.STEPS and figures["ordered"].evaluations == 2 * flux.STEPS + extra
    assert extra <= figures["equal-cost"].evaluations - 2 * flux.STEPS <= extra + 1
    assert done == [(arm, count, count) for arm in figures]
    assert figures["plain"].all > 50  # measured: 87.5
    assert figures["ordered"].all > figures["plain"].all - 20  # measured: 87.5


def test_arms_and_checkpoints_are_named(checkpoint):
    with pytest.raises(ValueError, match="checkpoint 'sdxl'"):
        Checkpoint.named("sdxl")
    with pytest.raises(ValueError, match="unknown arm 'light'"):
        compare(checkpoint, run_ordered, AUTOMATIC, 4, 1, arms=["light"])
    with pytest.raises(ValueError, match='needs "ordered"'):
        compare(checkpoint, run_ordered, AUTOMATIC, 4, 1, arms=["equal-cost"])
