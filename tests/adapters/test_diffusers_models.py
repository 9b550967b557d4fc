"""The answers are the model's own: predictions, schedulers, embeddings, two transformers, wrapped and compiled models."""

import inspect
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from lib_noiseorder import NoiseOrderSettings, along_noise, order_noise
from lib_noiseorder.adapters.noise_keyed_draws import further_draws
from lib_noiseorder.model import NoiseLevel
from lib_noiseorder.plans import SamplerRun, plan_for

diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")

from lib_noiseorder.adapters.diffusers import order_latents, ordered_latents, run_ordered  # noqa: E402

from . import pipelines  # noqa: E402
from .diffusers_calls import COMPARED, INJECTED, PLAIN, picture, seeded, watched  # noqa: E402
from .pipelines import WIDTH  # noqa: E402


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_the_answers_are_the_unets_own(prediction):
    pipe = pipelines.stable_diffusion(pipelines.ddim(prediction_type=prediction))
    first = torch.randn(1, 4, 16, 16, generator=seeded(5))
    with torch.no_grad():
        embeds, _ = pipe.encode_prompt("a red circle", torch.device("cpu"), 1, False)

        def denoiser(noise, fraction):
            timestep = round(fraction * 999)
            level = NoiseLevel.variance_preserving(pipe.scheduler.alphas_cumprod[timestep].item())
            output = pipe.unet(noise, timestep, encoder_hidden_states=embeds, return_dict=False)[0]
            return along_noise(output, noise, level, "eps" if prediction == "epsilon" else "v")

        expected = order_noise(INJECTED, further_draws(first), denoiser).noise
    for guidance in (7.5, 1.0):
        call = {"prompt": "a red circle", "guidance_scale": guidance, "negative_prompt": "two pizza" if guidance > 1 else None}
        latents = ordered_latents(pipe, **call, height=32, width=32, latents=first, settings=INJECTED)
        torch.testing.assert_close(latents, expected, atol=1e-5, rtol=1e-5)


def test_flux_answers_with_its_guidance_embeds_and_true_guidance_left_out():
    pipe = pipelines.flux()
    call = {"prompt": "a red circle", "height": 32, "width": 32, "max_sequence_length": 8, "settings": INJECTED}
    plain = ordered_latents(pipe, **call, generator=seeded(3))
    stronger = ordered_latents(pipe, **call, generator=seeded(3), guidance_scale=9.0)
    assert not torch.equal(plain, stronger), "the distilled guidance is part of the question"
    with watched(pipe) as seen:
        true = ordered_latents(pipe, **call, generator=seeded(3), negative_prompt="two pizza", true_cfg_scale=4.0)
    torch.testing.assert_close(true, plain)
    assert len(seen) == 3, "the call without the prompt is left out"


with_wan_2_2 = pytest.mark.skipif(
    "transformer_2" not in inspect.signature(diffusers.WanPipeline.__init__).parameters, reason="this diffusers has no Wan 2.2"
)


@with_wan_2_2
def test_wan_2_2_switches_between_its_transformers_itself():
    pipe = pipelines.wan(two=True)
    call = {"prompt": "a red circle", "height": 32, "width": 32, "num_frames": 5, "max_sequence_length": 8}
    with watched(pipe) as seen:
        order_latents(pipe, **call, num_inference_steps=4, settings=INJECTED)
    assert [name for name, *_ in seen] == ["transformer", "transformer_2", "transformer_2"]


@with_wan_2_2
def test_wan_from_an_image():
    pipe = pipelines.wan(from_image=True)
    image = Image.new("RGB", (32, 32), "red")
    embeds = {"prompt_embeds": torch.ones(1, 8, WIDTH), "negative_prompt_embeds": torch.zeros(1, 8, WIDTH)}
    call = {"image": image, **embeds, "height": 32, "width": 32, "num_frames": 5, "num_inference_steps": 4}
    plain = picture(pipe, call, generator=seeded(3))
    latents = ordered_latents(pipe, **call, generator=seeded(3), settings=PLAIN)
    assert torch.equal(picture(pipe, call, latents=latents), plain)
    with watched(pipe) as seen:
        ordered = order_latents(pipe, **call, generator=seeded(3), settings=INJECTED)
    assert ordered.noise.shape == latents.shape and len(seen) == 3


def test_ip_adapter_embeds_come_along():
    """Image prompts are lists of [2·B, n, d] under guidance: the half with the prompt of each must go with its pictures."""
    pipe = pipelines.stable_diffusion()
    shown = []
    original = pipe.unet.forward

    def forward(*args, added_cond_kwargs=None, **kwargs):
        shown.append(added_cond_kwargs["image_embeds"])
        return original(*args, **kwargs)

    pipe.unet.forward = forward
    pipe.unet.encoder_hid_proj = SimpleNamespace(image_projection_layers=[None])
    embeds = torch.cat([torch.zeros(1, 3, WIDTH), torch.ones(1, 3, WIDTH)])  # without the prompt, with it
    call = {"prompt": ["a red circle", "two pizza"], "height": 32, "width": 32, "ip_adapter_image_embeds": [embeds]}
    order_latents(pipe, **call, settings=INJECTED)
    assert len(shown) == 3 and all(torch.equal(image_embeds[0], torch.ones(2, 3, WIDTH)) for image_embeds in shown)


def test_prompt_embeds_and_several_pictures_per_prompt():
    pipe = pipelines.stable_diffusion_xl()
    call = {"prompt": ["a red circle", "two pizza"], "height": 32, "width": 32}
    by_text = ordered_latents(pipe, **call, num_images_per_prompt=2, generator=seeded(1, 2, 3, 4), settings=INJECTED)
    assert by_text.shape == (4, 4, 16, 16)
    with torch.no_grad():
        names = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
        embeds = dict(zip(names, pipe.encode_prompt(call["prompt"])))
    by_embeds = ordered_latents(
        pipe, **embeds, height=32, width=32, num_images_per_prompt=2, generator=seeded(1, 2, 3, 4), settings=INJECTED
    )
    torch.testing.assert_close(by_embeds, by_text)


def test_the_refiner_takes_over_what_the_base_began():
    pipe = pipelines.stable_diffusion_xl()
    call = {"prompt": "a red circle", "height": 32, "width": 32, "num_inference_steps": 5, "denoising_end": 0.8}
    with watched(pipe) as seen:
        latents = ordered_latents(pipe, **call, generator=seeded(3), settings=INJECTED)
    assert len(seen) == 3
    refiner = diffusers.StableDiffusionXLImg2ImgPipeline(**pipe.components, add_watermarker=False)
    refiner.set_progress_bar_config(disable=True)
    begun = picture(pipe, call, latents=latents)
    done = refiner(prompt="a red circle", image=begun, denoising_start=0.8, num_inference_steps=5, output_type="latent").images
    assert torch.isfinite(done).all()


SCHEDULERS = {
    "euler a": lambda: diffusers.EulerAncestralDiscreteScheduler(**pipelines.BETAS),
    "dpm++ karras": lambda: diffusers.DPMSolverMultistepScheduler(**pipelines.BETAS, use_karras_sigmas=True),
    "dpm++ sde": lambda: diffusers.DPMSolverMultistepScheduler(**pipelines.BETAS, algorithm_type="sde-dpmsolver++"),
    "pndm": lambda: diffusers.PNDMScheduler(**pipelines.BETAS, skip_prk_steps=True, steps_offset=1),
    "heun": lambda: diffusers.HeunDiscreteScheduler(**pipelines.BETAS),
    "unipc": lambda: diffusers.UniPCMultistepScheduler(**pipelines.BETAS),
    "ddpm": lambda: diffusers.DDPMScheduler(**pipelines.BETAS),
    "lcm": lambda: diffusers.LCMScheduler(**pipelines.BETAS),
    "euler trailing": lambda: diffusers.EulerDiscreteScheduler(**pipelines.BETAS, timestep_spacing="trailing"),
    "zero snr": lambda: pipelines.ddim(prediction_type="v_prediction", rescale_betas_zero_snr=True),
}


@pytest.mark.parametrize("scheduler", SCHEDULERS.values(), ids=SCHEDULERS)
def test_schedulers(scheduler):
    pipe = pipelines.stable_diffusion(scheduler())
    call = {"prompt": "a red circle", "num_inference_steps": 6, "height": 32, "width": 32}
    plain = picture(pipe, call, generator=seeded(3))
    generator = seeded(3)
    latents = ordered_latents(pipe, **call, generator=generator, settings=PLAIN)
    assert torch.equal(picture(pipe, call, generator=generator, latents=latents), plain), "stochastic steps go on as plain"
    for settings in (INJECTED, COMPARED):
        ordered = order_latents(pipe, **call, generator=seeded(3), settings=settings)
        assert ordered.report.evaluations and not ordered.report.skipped and torch.isfinite(ordered.noise).all()
    assert ordered.report.chosen


@pytest.mark.parametrize("steps", [4, 8, 20])
def test_from_pure_noise_no_more_is_asked_than_was_announced(steps):
    trailing = {**pipelines.BETAS, "prediction_type": "v_prediction", "timestep_spacing": "trailing"}
    pipe = pipelines.stable_diffusion(diffusers.EulerDiscreteScheduler(**trailing, rescale_betas_zero_snr=True))
    automatic = NoiseOrderSettings(enabled=True, preset="Automatic")
    with watched(pipe) as seen:
        run_ordered(
            pipe, prompt="a red circle", num_inference_steps=steps, height=32, width=32, generator=seeded(3), settings=automatic
        )
    own = SamplerRun(7.5, steps)
    assert sum(rows for _, rows, _ in seen) == own.own_evaluations + plan_for(own).extra_evaluations(own)


def test_a_scheduler_without_a_known_schedule_is_refused():
    pipe = pipelines.stable_diffusion(diffusers.EDMEulerScheduler())
    with pytest.raises(ValueError, match="EDMEulerScheduler"):
        order_latents(pipe, prompt="a red circle")


def test_models_with_forwards_replaced_by_others():
    """Offloading and hooks replace `forward` on the instance, too: theirs must run, and be there again."""
    accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed")
    pipe = pipelines.stable_diffusion()
    call = {"prompt": "a red circle", "height": 32, "width": 32, "settings": INJECTED}
    expected = ordered_latents(pipe, **call, generator=seeded(3))
    accelerate.cpu_offload(pipe.unet, execution_device=torch.device("cpu"))
    hooked = vars(pipe.unet)["forward"]
    assert torch.equal(ordered_latents(pipe, **call, generator=seeded(3)), expected)
    assert vars(pipe.unet)["forward"] is hooked


def test_compiled_models():
    pipe = pipelines.stable_diffusion()
    call = {"prompt": "a red circle", "height": 32, "width": 32, "settings": INJECTED}
    expected = ordered_latents(pipe, **call, generator=seeded(3))
    pipe.unet = torch.compile(pipe.unet, backend="eager")
    torch.testing.assert_close(ordered_latents(pipe, **call, generator=seeded(3)), expected)
