"""Tiny diffusers pipelines with random weights, made from the libraries' own configuration classes; nothing is downloaded."""

import inspect

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLWan,
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
    WanPipeline,
    WanTransformer3DModel,
)
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
    UMT5Config,
    UMT5EncoderModel,
)

WORDS = ["a", "red", "blue", "circle", "square", "of", "the", "on", "two", "pizza", "boat", "bicycle"]
WIDTH = 16


def tokenizer(length=8):
    vocabulary = {word: number for number, word in enumerate(["<s>", "</s>", "<pad>", "<unk>", *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=words, model_max_length=length, **special)


def clip(projection=None):
    config = CLIPTextConfig(
        vocab_size=32, hidden_size=WIDTH, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=8, projection_dim=projection or WIDTH, bos_token_id=0, eos_token_id=1, pad_token_id=2,
    )  # fmt: skip
    return (CLIPTextModelWithProjection if projection else CLIPTextModel)(config).eval()


def t5(kind=T5EncoderModel, config=T5Config):
    return kind(config(vocab_size=32, d_model=WIDTH, d_kv=8, d_ff=16, num_layers=1, num_heads=2)).eval()


def vae(channels=4, **more):
    return AutoencoderKL(
        block_out_channels=(4, 8), in_channels=3, out_channels=3, down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2, latent_channels=channels, norm_num_groups=2, layers_per_block=1, **more,
    ).eval()  # fmt: skip


def unet(**more):
    return UNet2DConditionModel(
        block_out_channels=(8, 16), layers_per_block=1, sample_size=8, in_channels=4, out_channels=4, norm_num_groups=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=4, **more,
    ).eval()  # fmt: skip


BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def ddim(**more):
    return DDIMScheduler(**BETAS, clip_sample=False, set_alpha_to_one=False, steps_offset=1, **more)


def euler(**more):
    return EulerDiscreteScheduler(**BETAS, timestep_spacing="leading", steps_offset=1, **more)


def made(kind, parts):
    """A pipeline of these parts and None for all that it takes and this version wants besides."""
    known = inspect.signature(kind.__init__).parameters
    rest = {name: None for name, p in known.items() if name != "self" and name not in parts and p.default is p.empty}
    pipe = kind(**{name: part for name, part in parts.items() if name in known}, **rest)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def stable_diffusion(scheduler=None):
    torch.manual_seed(0)
    parts = {"unet": unet(cross_attention_dim=WIDTH), "vae": vae(), "text_encoder": clip(), "tokenizer": tokenizer()}
    return made(StableDiffusionPipeline, {**parts, "scheduler": scheduler or ddim(), "requires_safety_checker": False})


def stable_diffusion_xl(scheduler=None):
    torch.manual_seed(0)
    denoiser = unet(
        cross_attention_dim=2 * WIDTH, addition_embed_type="text_time", addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=6 * 4 + WIDTH, transformer_layers_per_block=(1, 1), use_linear_projection=True,
    )  # fmt: skip
    parts = {
        "unet": denoiser, "vae": vae(), "text_encoder": clip(), "text_encoder_2": clip(WIDTH), "tokenizer": tokenizer(),
        "tokenizer_2": tokenizer(), "scheduler": scheduler or euler(), "add_watermarker": False,
    }  # fmt: skip
    return made(StableDiffusionXLPipeline, parts)


def flow_euler(**more):
    return FlowMatchEulerDiscreteScheduler(**more)


def stable_diffusion_3(scheduler=None):
    torch.manual_seed(0)
    denoiser = SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=1, attention_head_dim=8,
        num_attention_heads=2, joint_attention_dim=2 * WIDTH, caption_projection_dim=16, pooled_projection_dim=2 * WIDTH,
        pos_embed_max_size=16,
    ).eval()  # fmt: skip
    parts = {
        "transformer": denoiser, "vae": vae(shift_factor=0.0), "text_encoder": clip(WIDTH), "text_encoder_2": clip(WIDTH),
        "tokenizer": tokenizer(), "tokenizer_2": tokenizer(), "scheduler": scheduler or flow_euler(shift=3.0),
    }  # fmt: skip
    return made(StableDiffusion3Pipeline, parts)


def flux(scheduler=None, guidance_embeds=True):
    torch.manual_seed(0)
    denoiser = FluxTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=WIDTH, pooled_projection_dim=WIDTH, axes_dims_rope=(4, 4, 8), guidance_embeds=guidance_embeds,
    ).eval()  # fmt: skip
    parts = {
        "transformer": denoiser, "vae": vae(shift_factor=0.0), "text_encoder": clip(), "text_encoder_2": t5(),
        "tokenizer": tokenizer(), "tokenizer_2": tokenizer(),
        "scheduler": scheduler or flow_euler(use_dynamic_shifting=True),
    }  # fmt: skip
    return made(FluxPipeline, parts)


def wan_transformer(in_channels=4):
    return WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=in_channels, out_channels=4,
        text_dim=WIDTH, freq_dim=16, ffn_dim=16, num_layers=1, cross_attn_norm=True, rope_max_seq_len=32,
    ).eval()  # fmt: skip


def wan(scheduler=None, two=False, from_image=False):
    torch.manual_seed(0)
    autoencoder = AutoencoderKLWan(
        base_dim=3, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True],
        latents_mean=[0.0] * 4, latents_std=[1.0] * 4,
    ).eval()  # fmt: skip
    scheduler = scheduler or UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    parts = {
        "transformer": wan_transformer(12 if from_image else 4), "vae": autoencoder, "tokenizer": tokenizer(),
        "text_encoder": t5(UMT5EncoderModel, UMT5Config), "scheduler": scheduler,
    }  # fmt: skip
    if two:
        parts |= {"transformer_2": wan_transformer(), "boundary_ratio": 0.7}
    return made(WanImageToVideoPipeline if from_image else WanPipeline, parts)
