"""The shapes world's checkpoint in Stable Diffusion 1's format."""

from __future__ import annotations

from dataclasses import replace
from importlib.resources import files

import numpy as np
import pytest
import torch
from safetensors.torch import load

pytest.importorskip("diffusers", reason="the SD1-format model is built from diffusers' modules")
pytest.importorskip("transformers", reason="the SD1-format model uses transformers' text encoder")

from lib_noiseorder.model import NoiseLevel, clean
from lib_noiseorder.tools.lab.formats import sd1, sd1_training
from lib_noiseorder.tools.lab.model import alpha_bar
from lib_noiseorder.tools.lab.oracle import Oracle
from lib_noiseorder.tools.lab.world import OPPOSITE, Prompt
from tests.lengths import at_length

WEIGHTS = files("lib_noiseorder.tools.lab").joinpath("weights")
MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def model() -> sd1.ShapesSD1:
    return sd1.ShapesSD1.load()


@pytest.fixture(scope="module")
def checkpoint() -> dict[str, torch.Tensor]:
    return load(WEIGHTS.joinpath("shapes-sd1.safetensors").read_bytes())


def right(pictures: torch.Tensor | np.ndarray, prompts: list[Prompt]) -> float:
    return sum(verdict.all for verdict in Oracle().judge(sd1.for_oracle(pictures), prompts)) / len(prompts)


def test_the_checkpoint_is_small_and_half_precision(checkpoint):
    assert len(WEIGHTS.joinpath("shapes-sd1.safetensors").read_bytes()) <= 40 * MEGABYTE
    assert {tensor.dtype for tensor in checkpoint.values()} == {torch.float16, torch.int64}


def test_the_checkpoint_has_the_names_and_shapes_a_webui_looks_for(checkpoint):
    shapes = {name: tuple(tensor.shape) for name, tensor in checkpoint.items()}
    expected = {
        "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight": (49408, 64),
        "cond_stage_model.transformer.text_model.embeddings.position_ids": (1, 77),
        "cond_stage_model.transformer.text_model.final_layer_norm.weight": (64,),
        "model.diffusion_model.time_embed.0.weight": (256, 64),
        "model.diffusion_model.input_blocks.0.0.weight": (64, 4, 3, 3),
        "model.diffusion_model.input_blocks.2.0.op.weight": (64, 64, 3, 3),
        "model.diffusion_model.input_blocks.3.1.transformer_blocks.0.attn2.to_k.weight": (64, 64),
        "model.diffusion_model.middle_block.1.proj_in.weight": (128, 128, 1, 1),
        "model.diffusion_model.output_blocks.1.1.conv.weight": (128, 128, 3, 3),
        "model.diffusion_model.out.2.weight": (4, 64, 3, 3),
        "first_stage_model.encoder.down.2.downsample.conv.weight": (64, 64, 3, 3),
        "first_stage_model.encoder.mid.attn_1.q.weight": (128, 128, 1, 1),
        "first_stage_model.decoder.up.3.block.0.conv1.weight": (128, 128, 3, 3),
        "first_stage_model.decoder.up.1.upsample.conv.weight": (64, 64, 3, 3),
        "first_stage_model.post_quant_conv.weight": (4, 4, 1, 1),
    }
    assert {name: shapes.get(name) for name in expected} == expected


def test_the_sidecar_tells_a_webui_the_models_sizes(model):
    yaml = pytest.importorskip("yaml")
    told = yaml.safe_load(WEIGHTS.joinpath("shapes-sd1.yaml").read_text("utf-8"))["model"]["params"]
    unet, vae = told["unet_config"]["params"], told["first_stage_config"]["params"]["ddconfig"]
    widths = tuple(unet["model_channels"] * factor for factor in unet["channel_mult"])
    assert widths == tuple(model.unet.config.block_out_channels)
    assert tuple(vae["ch"] * factor for factor in vae["ch_mult"]) == tuple(model.vae.config.block_out_channels)
    assert (unet["context_dim"], unet["image_size"], vae["resolution"]) == (model.text.config.hidden_size, sd1.LATENT, sd1.SIZE)
    assert told["scale_factor"] == sd1.LATENT_SCALE


def test_a_saved_checkpoint_is_read_again_and_has_its_sidecar_beside_it(model, tmp_path):
    model.save(tmp_path / "a.safetensors")
    assert (tmp_path / "a.yaml").read_bytes() == WEIGHTS.joinpath("shapes-sd1.yaml").read_bytes()
    again = sd1.ShapesSD1.load(tmp_path / "a.safetensors")
    assert all(torch.equal(x, y) for x, y in zip(again.unet.state_dict().values(), model.unet.state_dict().values()))


def test_training_pictures_are_encoded_with_their_prompts(model, monkeypatch):
    asked = []

    def few(count, seed, scale):
        asked.append((count, seed, scale))
        return few.pictures, few.prompts

    few.pictures, few.prompts = sd1.dataset(3, seed=4)
    monkeypatch.setattr(sd1_training, "dataset", few)
    latents, prompts = sd1_training.encoded(model, 1500, 7, print)
    assert asked == [(1000, 8000, sd1.SCALE), (1000, 8001, sd1.SCALE)]
    assert prompts == 2 * few.prompts and torch.allclose(latents[3:], model.encode(few.pictures), atol=1e-5)


def test_training_goes_through_all_of_its_stages(tmp_path, monkeypatch):
    monkeypatch.setattr(sd1_training, "_BATCH", at_length(4, 32))
    few = {scale: sd1.dataset(at_length(12, 40), 8, scale) for scale in (4, sd1.SCALE)}
    monkeypatch.setattr(sd1_training, "dataset", lambda count, seed, scale: few[scale])
    said = []
    monkeypatch.setattr(sd1_training.LossLog, "add", lambda log, step, progress, loss: said.append((log._what, loss)))
    sd1_training.train(at_length(0.05, 0.2), 3, tmp_path / "trained.safetensors", lambda line: None, pictures=1000)
    trained = sd1.ShapesSD1.load(tmp_path / "trained.safetensors")
    assert {what for what, _ in said} == {"text", "UNet"} and all(np.isfinite(loss) for _, loss in said)
    assert torch.isfinite(trained.sample(torch.randn(1, 4, sd1.LATENT, sd1.LATENT), ["red circle"], steps=2)).all()


def test_the_checkpoint_knows_left_from_right_and_above_from_below(model):
    pictures, prompts = sd1.dataset(at_length(24, 60), seed=9)
    related = [index for index, prompt in enumerate(prompts) if prompt.relation]
    latents = model.encode(pictures[related])
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(1))
    level = NoiseLevel.variance_preserving(alpha_bar()[900].item())

    def errors(prompts):
        x = level.alpha * latents + level.sigma * noise
        eps = model.unet(x, 900, model.condition([str(prompt) for prompt in prompts])).sample
        return (clean(eps, x, level, "eps") - latents).square().mean((1, 2, 3))

    asked = [prompts[index] for index in related]
    wrong = errors([replace(prompt, relation=OPPOSITE[prompt.relation]) for prompt in asked])
    assert (errors(asked) < wrong).float().mean() > 0.9


def test_names_survive_the_way_to_ldm_and_back(model):
    again = sd1.ShapesSD1.untrained()
    again.load_ldm(model.to_ldm(torch.float32))
    for ours, theirs in ((model.text, again.text), (model.unet, again.unet), (model.vae, again.vae)):
        for name, tensor in ours.state_dict().items():
            assert torch.equal(tensor, theirs.state_dict()[name]), name


def test_diffusers_own_converter_reads_the_unet_and_vae_the_same(model, checkpoint):
    single_file = pytest.importorskip("diffusers.loaders.single_file_utils")
    unet = single_file.convert_ldm_unet_checkpoint(dict(checkpoint), dict(model.unet.config))
    vae = single_file.convert_ldm_vae_checkpoint(dict(checkpoint), dict(model.vae.config))
    for ours, theirs in ((model.unet.state_dict(), unet), (model.vae.state_dict(), vae)):
        assert ours.keys() == theirs.keys()
        for name, tensor in ours.items():
            assert torch.equal(tensor, theirs[name].float().view_as(tensor)), name


def test_other_checkpoints_are_refused(checkpoint):
    del checkpoint["model.diffusion_model.out.2.weight"]
    with pytest.raises(ValueError, match=r"not a shapes-sd1 checkpoint.*out\.2\.weight"):
        sd1.ShapesSD1.untrained().load_ldm(checkpoint)


def test_the_oracle_reads_the_pictures_and_what_the_vae_makes_of_them(model):
    pictures, prompts = sd1.dataset(at_length(24, 60), seed=71)
    few = len(prompts) // 2
    assert right(pictures, prompts) > 0.98
    latents = model.encode(pictures)
    assert latents.mean().abs() < 0.1 and 0.9 < latents.std() < 1.1
    assert right(model.decode(latents[:few]), prompts[:few]) > 0.95


def test_encoding_is_deterministic(model):
    pictures, _ = sd1.dataset(1, seed=3)
    distribution = model.vae.encode(torch.from_numpy(pictures).permute(0, 3, 1, 2) / 127.5 - 1).latent_dist
    assert distribution.std.max() < 1e-6


def test_words_become_the_ids_that_clip_gives_them():
    ids = sd1.token_ids(["A red circle, left of three triangles"])
    assert ids[0, :11].tolist() == [49406, 320, 736, 7117, 267, 1823, 539, 2097, 924, 18627, 49407]
    assert ids.shape == (1, 77) and (ids[0, 11:] == 49407).all()
    assert torch.equal(
        sd1.tokenizer()("A red circle, left of three triangles", padding="max_length", return_tensors="pt").input_ids, ids
    )
    with pytest.raises(ValueError, match="purple"):
        sd1.token_ids(["purple circle"])


def test_every_wording_says_its_prompt():
    rng = np.random.default_rng(5)
    for _ in range(300):
        prompt = sd1.world.random_prompt(rng, uniform=True)
        assert Prompt.parse(sd1.wording(prompt, rng)) == prompt


def test_plain_noise_gives_what_is_asked_for(model):
    assert sd1.score(model, pairs=at_length(12, 48), seed=5, steps=12) > 70


def test_the_pipeline_draws_the_same_picture_from_the_same_noise(model):
    noise = torch.randn(1, 4, sd1.LATENT, sd1.LATENT, generator=torch.Generator().manual_seed(2))
    pipeline = model.pipeline()
    pipeline.scheduler = type(pipeline.scheduler).from_config(
        pipeline.scheduler.config, timestep_spacing="trailing", set_alpha_to_one=True
    )
    pipeline.set_progress_bar_config(disable=True)
    text = "red circle left of blue square"
    theirs = pipeline(text, latents=noise.clone(), num_inference_steps=8, guidance_scale=4.0, output_type="pt").images
    ours = model.decode(model.sample(noise, [text], guidance=4.0, steps=8))
    assert (theirs - ours).abs().max() < 0.02
