"""Whatever else has a say in a pipeline: the picture is the one it makes itself from the chosen noise, at the price told."""

import types

import pytest
import torch

diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")

from diffusers.models.attention_processor import AttnProcessor2_0  # noqa: E402

from lib_noiseorder.adapters.diffusers import order_latents, run_ordered  # noqa: E402

from ..lengths import at_length  # noqa: E402
from . import pipelines, tiny  # noqa: E402
from .diffusers_calls import counted, latents_of, picture, pictures_of, seeded  # noqa: E402

CALL = {"prompt": "a red circle", "height": 32, "width": 32, "num_inference_steps": 16}
SHORT = {**CALL, "max_sequence_length": 8}


def ordered_like_the_pipelines_own(pipe, call, settings, compared=True, atol=2e-5):
    """One run, with P1 (the picture from the chosen noise) and P4 (paid as told, within the limit) checked."""
    given = {"generator": seeded(3)} if not isinstance(call["prompt"], list) else {"generator": seeded(3, 4, 5)}
    settings = settings if isinstance(settings, dict) else {"preset": settings}
    with counted(pipe) as alone:
        plain = picture(pipe, call, generator=same_generator(given["generator"]))
    with counted(pipe) as paid:
        run = run_ordered(pipe, **call, **given, settings=settings, output_type="latent")
    pictures, report = len(plain), run.report
    assert paid.rows - alone.rows == pictures * report.extra_evaluations
    if settings["preset"] in ("Automatic", "Light"):
        limit = 0.4 if settings["preset"] == "Automatic" else 0.2
        assert report.extra_evaluations <= limit * alone.rows / pictures + 1e-9
    unaffordable = settings["preset"] == "Light" and "buys no comparison" in "".join(report.skipped)
    assert bool(report.chosen) == (compared and not unaffordable) and bool(report.skipped) == unaffordable, report
    again = picture(pipe, call, latents=run.noise) if run.noise is not None else plain
    torch.testing.assert_close(latents_of(run.output), again, rtol=1e-4, atol=atol)
    for row, draw in enumerate(report.chosen):
        if draw == 1 and report.std_before == report.std_after:
            torch.testing.assert_close(latents_of(run.output)[row], plain[row], rtol=1e-4, atol=atol)
    return run


def same_generator(generator):
    return [one.clone_state() for one in generator] if isinstance(generator, list) else generator.clone_state()


PRESETS = at_length(["Automatic"], ["Automatic", "Light", "Paper", "Custom"])
CACHES = {
    "first block": lambda: diffusers.FirstBlockCacheConfig(threshold=0.5),
    "taylor seer": lambda: diffusers.TaylorSeerCacheConfig(cache_interval=3, disable_cache_before_step=2),
    "mag": lambda: diffusers.MagCacheConfig(mag_ratios=torch.ones(16), num_inference_steps=16, max_skip_steps=2),
}


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("cache", CACHES)
def test_diffusers_own_step_caches_come_out_as_without_a_question(cache, preset):
    pipe = pipelines.flux()
    pipe.transformer.enable_cache(CACHES[cache]())
    ordered_like_the_pipelines_own(pipe, SHORT, preset, compared=preset in ("Automatic", "Light"))


def broadcast(pipe):
    config = diffusers.PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2,
        spatial_attention_timestep_skip_range=(100, 900),
        spatial_attention_block_identifiers=["transformer_blocks"],
        current_timestep_callback=lambda: pipe._current_timestep or 0,
    )
    pipe.transformer.enable_cache(config)


@pytest.mark.parametrize("preset", PRESETS)
def test_pyramid_attention_broadcast(preset):
    pipe = tiny.built(diffusers.CogVideoXPipeline)
    broadcast(pipe)
    call = {**tiny.call_of(diffusers.CogVideoXPipeline, steps=10)}
    ordered_like_the_pipelines_own(pipe, call, preset, compared=preset in ("Automatic", "Light"))


def skipping(pipe, every=3):
    """A step cache that counts its calls in a place that nobody else knows of, as other packages' do."""
    seen = {"calls": 0}
    for block in pipe.unet.down_blocks:
        original, kept = block.forward, {}

        def forward(*args, original=original, kept=kept, **kwargs):
            if seen["calls"] % every == 0 or "output" not in kept:
                kept["output"] = original(*args, **kwargs)
            return kept["output"]

        block.forward = forward
    outer = pipe.unet.forward

    def counting(*args, **kwargs):
        output = outer(*args, **kwargs)
        seen["calls"] += 1
        return output

    pipe.unet.forward = counting
    return seen


@pytest.mark.parametrize("preset", PRESETS)
def test_a_cache_that_nobody_can_put_back_is_not_asked(preset):
    pipe = pipelines.stable_diffusion()
    seen = skipping(pipe)
    run = run_ordered(pipe, **CALL, generator=seeded(3), settings={"preset": preset}, output_type="latent")
    assert run.report.evaluations == 0 and seen["calls"] == 16
    (reason,) = run.report.skipped
    assert reason.startswith("everything: ") and "DownBlock2D" in reason
    seen["calls"] = 0
    assert torch.equal(pictures_of(run.output), picture(pipe, CALL, generator=seeded(3))), "plain noise"


@pytest.mark.parametrize("onto", ["instance", "class"])
def test_another_implementation_that_counts_steps_on_itself_is_put_back(onto):
    """What TeaCache's authors tell their users to do."""
    pipe = pipelines.flux()
    kind = type("FluxTransformer2DModel", (type(pipe.transformer),), {"__module__": type(pipe.transformer).__module__})
    pipe.transformer.__class__ = kind
    own = diffusers.FluxTransformer2DModel.forward

    def forward(self, *args, **kwargs):
        self.step = getattr(self, "step", 0) + 1
        if self.step % 2 == 1 or not hasattr(self, "last"):
            self.last = own(self, *args, **kwargs)[0]
        return (self.last,)

    if onto == "class":
        kind.forward = forward
    else:
        pipe.transformer.forward = types.MethodType(forward, pipe.transformer)

    def reset():
        for name in ("step", "last"):
            vars(pipe.transformer).pop(name, None)

    run = run_ordered(pipe, **SHORT, generator=seeded(3), settings={"preset": "Automatic"}, output_type="latent")
    assert run.report.chosen and run.report.saved_evaluations == 0
    reset()
    assert torch.equal(pictures_of(run.output), picture(pipe, SHORT, latents=run.noise))


class SharedKeys(AttnProcessor2_0):
    """The pictures of a batch look at the first one's keys, as in style alignment."""

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, *args, **kwargs):
        if encoder_hidden_states is None:
            encoder_hidden_states = (hidden_states + hidden_states.roll(1, 0)) / 2
        return super().__call__(attn, hidden_states, encoder_hidden_states, *args, **kwargs)


@pytest.mark.parametrize("preset", PRESETS)
def test_pictures_that_see_each_other_are_asked_together(preset):
    pipe = pipelines.stable_diffusion()
    pipe.unet.set_attn_processor(SharedKeys())
    call = {**CALL, "prompt": ["a red circle", "two pizza", "a boat"]}
    run = ordered_like_the_pipelines_own(pipe, call, preset, compared=preset in ("Automatic", "Light"))
    assert run.report.saved_evaluations == 0, "nothing is put together of different questions"


@pytest.mark.parametrize("preset", at_length(["Automatic"], ["Automatic", "Light"]))
@pytest.mark.parametrize("layers", [[0], [1]])
def test_skipped_layers_are_another_question(preset, layers):
    pipe = tiny.built(diffusers.StableDiffusion3Pipeline)
    call = {**tiny.call_of(diffusers.StableDiffusion3Pipeline, 16), "skip_guidance_layers": layers, "guidance_scale": 4.0}
    ordered_like_the_pipelines_own(pipe, call, preset)


PERTURBED = [
    "StableDiffusionPAGPipeline",
    "StableDiffusionXLPAGPipeline",
    "StableDiffusion3PAGPipeline",
    "PixArtSigmaPAGPipeline",
]


@pytest.mark.parametrize("guidance", [1.0, 5.0])
@pytest.mark.parametrize("name", PERTURBED)
def test_perturbed_attention_guidance(name, guidance):
    kind = getattr(diffusers, name)
    pipe = tiny.built(kind)
    call = {**tiny.call_of(kind, 16), "guidance_scale": guidance, "pag_scale": 3.0}
    run = ordered_like_the_pipelines_own(pipe, call, "Automatic")
    assert run.report.saved_evaluations == 0


def other_prompt(pipe, index, timestep, given):
    return {**given, "prompt_embeds": given["prompt_embeds"] + 1.0} if index == 0 else given


def other_weights(pipe, index, timestep, given):
    if index in (0, 15):
        with torch.no_grad():
            for parameter in pipe.transformer.parameters():
                parameter.mul_(1.5 if index == 0 else 1 / 1.5)
    return given


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("callback", [other_prompt, other_weights])
@pytest.mark.parametrize("family", ["flux", "stable_diffusion_3"])
def test_callbacks_that_change_what_is_asked(family, callback, preset):
    pipe = getattr(pipelines, family)()
    call = {**SHORT, "callback_on_step_end": callback, "callback_on_step_end_tensor_inputs": ["latents", "prompt_embeds"]}
    ordered_like_the_pipelines_own(pipe, call, preset, compared=preset in ("Automatic", "Light"), atol=1e-4)


@pytest.mark.parametrize("preset", at_length(["Automatic"], ["Automatic", "Light"]))
def test_guidance_that_a_callback_leaves_out_is_not_counted_on(preset):
    from diffusers.callbacks import SDXLCFGCutoffCallback

    pipe = pipelines.stable_diffusion_xl()
    call = {**CALL, "callback_on_step_end": SDXLCFGCutoffCallback(cutoff_step_ratio=0.1)}
    ordered_like_the_pipelines_own(pipe, call, preset)


@pytest.mark.parametrize("preset", at_length(["Automatic"], ["Automatic", "Light"]))
@pytest.mark.parametrize("end, steps", [(0.8, 10), (0.5, 10), (0.3, 12)])
def test_a_base_model_that_ends_early_pays_for_its_own_steps_alone(end, steps, preset):
    pipe = pipelines.stable_diffusion_xl()
    call = {**CALL, "num_inference_steps": steps, "denoising_end": end}
    run = run_ordered(pipe, **call, generator=seeded(3), settings={"preset": preset}, output_type="latent")
    ordered_like_the_pipelines_own(pipe, call, preset, compared=bool(run.report.chosen))


@pytest.mark.parametrize("preset", ["Automatic", "Custom"])
def test_continuous_timesteps_are_converted(preset):
    scheduler = diffusers.EulerDiscreteScheduler(
        **pipelines.BETAS, timestep_type="continuous", prediction_type="v_prediction", timestep_spacing="leading"
    )
    pipe = pipelines.stable_diffusion(scheduler)
    told = []
    original = pipe.unet.forward

    def forward(sample, timestep, *args, **kwargs):
        told.append(float(timestep))
        return original(sample, timestep, *args, **kwargs)

    pipe.unet.forward = forward
    order_latents(pipe, **CALL, generator=seeded(3), settings={"preset": preset})
    assert told and all(-2.5 < timestep < 2.5 for timestep in told), "a quarter of the logarithm of sigma"
    del pipe.unet.forward
    ordered_like_the_pipelines_own(pipe, CALL, preset, compared=preset == "Automatic")


@pytest.mark.parametrize("preset", PRESETS)
def test_guidance_that_sets_in_later(preset):
    """Wan 2.2 with guidance in its second model only."""
    pipe = pipelines.wan(two=True)
    call = {**SHORT, "num_frames": 5, "guidance_scale": 1.0, "guidance_scale_2": 4.0}
    ordered_like_the_pipelines_own(pipe, call, preset, compared=preset in ("Automatic", "Light"))


@pytest.mark.parametrize("preset", PRESETS)
def test_guidance_that_ends_early(preset):
    pipe = tiny.built(diffusers.ZImagePipeline)
    call = {**tiny.call_of(diffusers.ZImagePipeline, 10), "guidance_scale": 4.0, "cfg_truncation": 0.3}
    ordered_like_the_pipelines_own(pipe, call, preset, compared=preset in ("Automatic", "Light"))


@pytest.mark.parametrize("preset", at_length(["Automatic"], PRESETS))
@pytest.mark.parametrize("name", ["QwenImage", "StableDiffusion", "CogView4"])
def test_guidance_that_is_not_linear_is_not_followed(name, preset):
    kind = getattr(diffusers, f"{name}Pipeline")
    more = {"QwenImage": {"true_cfg_scale": 4.0, "negative_prompt": "a boat"}, "StableDiffusion": {"guidance_rescale": 0.7}}
    call = {**tiny.call_of(kind, 16), **more.get(name, {})}
    ordered_like_the_pipelines_own(tiny.built(kind), call, preset, compared=preset in ("Automatic", "Light"))
