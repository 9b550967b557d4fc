"""The shapes world's checkpoint in FLUX.1's format, in diffusers' own pipeline."""

from __future__ import annotations

import inspect
from importlib.resources import files

import numpy as np
import pytest
import torch
from safetensors.torch import load
from torch.nn import functional as F

diffusers = pytest.importorskip("diffusers", reason="the Flux-format model is built from diffusers' modules")
pytest.importorskip("transformers", reason="the Flux-format model uses transformers' text encoders")
if "true_cfg_scale" not in inspect.signature(diffusers.FluxPipeline.__call__).parameters:
    pytest.skip("this diffusers' FluxPipeline has no true_cfg_scale", allow_module_level=True)

from lib_noiseorder.tools.lab.formats import flux, flux_training, sd1  # noqa: E402
from lib_noiseorder.tools.lab.oracle import Oracle  # noqa: E402
from lib_noiseorder.tools.lab.world import RARE_PAIRS, SHAPES, Prompt, random_prompt  # noqa: E402
from tests.lengths import at_length  # noqa: E402

WEIGHTS = files("lib_noiseorder.tools.lab").joinpath("weights/shapes-flux.safetensors")
MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def pipeline():
    return flux.shapes_flux_pipeline()


def draw(pipeline, texts: list[str], seed: int, **more) -> torch.Tensor:
    generators = [torch.Generator().manual_seed(seed + index) for index in range(len(texts))]
    call = {**flux.call_arguments(texts), "generator": generators, "output_type": "pt", **more}
    return pipeline(**call).images


def right(pictures: torch.Tensor, prompts: list[Prompt]) -> float:
    return sum(verdict.all for verdict in Oracle().judge(sd1.for_oracle(pictures), prompts)) / len(prompts)


def test_the_weights_are_small_and_half_precision():
    content = WEIGHTS.read_bytes()
    assert len(content) <= 20 * MEGABYTE
    assert {tensor.dtype for tensor in load(content).values()} == {torch.float16}


def test_it_is_a_stock_flux_pipeline_without_distilled_guidance(pipeline):
    assert type(pipeline) is diffusers.FluxPipeline
    assert type(pipeline.transformer) is diffusers.FluxTransformer2DModel
    assert not pipeline.transformer.config.guidance_embeds


def test_what_is_asked_for_is_drawn(pipeline):
    prompts = [Prompt.parse("red circle left of blue square")] * 4 + [Prompt.parse("yellow triangle above red square")] * 4
    pictures = draw(pipeline, [str(prompt) for prompt in prompts], seed=11)
    assert pictures.shape == (8, 3, flux.SIZE, flux.SIZE)
    assert right(pictures, prompts) >= 0.5  # measured: 8 of 8


def test_it_is_the_prompt_that_decides(pipeline):
    asked, other = Prompt.parse("red circle left of blue square"), Prompt.parse("yellow triangle")
    assert right(draw(pipeline, [str(other)] * 3, seed=11), [asked] * 3) == 0


def test_without_guidance_only_the_question_with_the_prompt_is_asked(pipeline):
    rows = []
    hook = pipeline.transformer.register_forward_pre_hook(
        lambda _, args, kwargs: rows.append(len(kwargs["hidden_states"])), with_kwargs=True
    )
    try:
        draw(pipeline, ["red circle"], seed=1, true_cfg_scale=1.0, output_type="latent")
        assert sum(rows) == flux.STEPS
        rows.clear()
        draw(pipeline, ["red circle"], seed=1, output_type="latent")
        assert sum(rows) == 2 * flux.STEPS
    finally:
        hook.remove()


def test_no_wording_is_longer_than_the_pipeline_reads_and_the_tokenizer_gives_the_trained_ids():
    rng = np.random.default_rng(5)
    texts = ["", "the yellow triangle, to the left of the blue square"]
    texts += [sd1.wording(random_prompt(rng, uniform=True), rng) for _ in range(300)]
    ids = flux.token_ids(texts)
    assert (ids != flux.tokenizer().unk_token_id).all() and ((ids == flux.tokenizer().eos_token_id).sum(1) == 1).all()
    padded = flux.tokenizer()(texts, padding="max_length", max_length=flux.PROMPT_TOKENS, truncation=True, return_tensors="pt")
    assert torch.equal(ids, padded.input_ids)


def test_latents_are_packed_as_the_pipeline_packs_them():
    latents = torch.randn(2, 4, 12, 12)
    assert torch.equal(flux.packed(latents), diffusers.FluxPipeline._pack_latents(latents, 2, 4, 12, 12))


def test_the_velocity_is_what_the_pipeline_asks_for(pipeline):
    model, texts = flux.ShapesFlux.load(), ["red circle left of blue square"]
    noise = torch.randn(1, 36, 16, generator=torch.Generator().manual_seed(3))
    theirs = pipeline(**flux.call_arguments(texts, guidance=1.0, steps=1), latents=noise, output_type="latent").images
    ours = noise - model.velocity(noise, torch.ones(1), *model.understand(texts))
    assert torch.allclose(ours, theirs, atol=1e-4)


def test_other_weights_are_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    with pytest.raises(OSError):
        flux.shapes_flux_pipeline(path)
    path.write_bytes(files("lib_noiseorder.tools.lab").joinpath("weights/flow.safetensors").read_bytes())
    with pytest.raises(ValueError, match="no shapes-flux weights"):
        flux.shapes_flux_pipeline(path)


def test_trained_weights_are_written_as_the_loader_reads_them(tmp_path):
    torch.manual_seed(0)
    live, averaged = flux.ShapesFlux.untrained(), flux.ShapesFlux.untrained()
    before = live.transformer.proj_out.weight.clone()
    latents, prompts = torch.randn(8, 36, 16), [Prompt("red", "circle")] * 8
    path = tmp_path / "a.safetensors"
    flux_training.train_transformer(live, averaged, latents, prompts, minutes=0.02, seed=1, out=path, log=print)
    assert not torch.equal(live.transformer.proj_out.weight, before)
    again = flux.ShapesFlux.load(path)
    for ours, theirs in ((averaged.transformer, again.transformer), (live.clip, again.clip), (live.t5, again.t5)):
        for name, tensor in ours.state_dict().items():
            assert torch.allclose(theirs.state_dict()[name], tensor, atol=1e-3), name


def test_the_text_encoders_learn_what_stands_where_and_stay_as_they_are():
    torch.manual_seed(0)
    model, lines = flux.ShapesFlux.untrained(), []
    flux_training.train_text(model, minutes=at_length(0.02, 0.1), seed=1, log=lines.append)
    assert float(lines[0].split()[-1]) > 6  # before anything was learnt: three guesses, of the tokens and of the prompt
    assert not any(parameter.requires_grad for module in (model.t5, model.clip) for parameter in module.parameters())


def test_the_text_encoders_know_colour_and_shape_apart_of_pairs_that_pictures_hardly_show():
    model, rng = flux.ShapesFlux.load(), np.random.default_rng(3)
    prompts = [prompt for prompt in (random_prompt(rng, uniform=True) for _ in range(1200)) if prompt.relation]
    tokens, pooled = model.understand([str(prompt) for prompt in prompts])
    shape = torch.tensor([SHAPES.index(prompt.shape) for prompt in prompts])
    rare = torch.tensor([(prompt.colour, prompt.shape) in RARE_PAIRS for prompt in prompts])
    for features in (tokens[:, 0], pooled):  # the word for the colour, and the whole prompt
        x = torch.cat([features, torch.ones(len(features), 1)], 1)
        fitted = torch.linalg.lstsq(x[~rare], F.one_hot(shape[~rare]).float()).solution
        assert ((x[rare] @ fitted).argmax(1) == shape[rare]).float().mean() > 0.95


def test_training_for_no_time_is_refused(tmp_path):
    with pytest.raises(ValueError, match="minutes = 0"):
        flux_training.train(0, 1, tmp_path / "a.safetensors")
