"""The shapes world in FLUX.1's format: a shrunk flow transformer that diffusers' own FluxPipeline runs.

The VAE is that of `sd1`; the pictures are half as large as there (96×96 pixels, latents 4×12×12, packed to 36 tokens of
16). Transformer, T5 encoder and CLIP text encoder (for the pooled vector) are FLUX.1's, shrunk; there is no distilled guidance
(as in schnell), so `true_cfg_scale` is the only one. Needs `diffusers` and `transformers`, imported where they are used.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ...store import whole_file
from .. import world
from ..packaged import packaged_tensors, tensors
from . import sd1

if TYPE_CHECKING:
    from diffusers import FluxPipeline

SCALE = 4
SIZE = world.SIZE * SCALE
"""Pictures are SIZE×SIZE RGB."""
STEPS = 20
GUIDANCE = 4.0
"""A good `true_cfg_scale`."""
PROMPT_TOKENS = 12
"""The pipeline's `max_sequence_length`: the longest prompt, and what the model was trained with."""

_SIDE = SIZE // 16
"""Tokens per side."""
_WORDS = (
    "<pad>", "</s>", "<unk>", "a", "an", "the", "to", "is", "of", "left", "right", "above", "below", "two", "three", "red",
    "green", "blue", "yellow", "circle", "circles", "square", "squares", "triangle", "triangles", ",", ".",
)  # fmt: skip
VOCABULARY = {word: index for index, word in enumerate(_WORDS)}
_END, _UNKNOWN = VOCABULARY["</s>"], VOCABULARY["<unk>"]

_HIDDEN = 192
_TRANSFORMER = {
    "patch_size": 1, "in_channels": 16, "num_layers": 2, "num_single_layers": 4, "attention_head_dim": 32,
    "num_attention_heads": _HIDDEN // 32, "joint_attention_dim": 96, "pooled_projection_dim": 64, "guidance_embeds": False,
    "axes_dims_rope": (8, 12, 12),
}  # fmt: skip
T5 = {
    "vocab_size": 32, "d_model": 96, "d_kv": 24, "d_ff": 192, "num_layers": 3, "num_heads": 4, "dropout_rate": 0.0,
    "relative_attention_num_buckets": 32, "relative_attention_max_distance": 32, "feed_forward_proj": "gated-gelu",
    "is_encoder_decoder": False, "use_cache": False,
}  # fmt: skip
CLIP = {
    "vocab_size": 32, "max_position_embeddings": PROMPT_TOKENS, "hidden_size": 64, "intermediate_size": 128,
    "num_hidden_layers": 3, "num_attention_heads": 4, "projection_dim": 64, "bos_token_id": None, "eos_token_id": _END,
    "pad_token_id": 0,
}  # fmt: skip


def call_arguments(texts: Sequence[str], guidance: float = GUIDANCE, steps: int = STEPS) -> dict[str, Any]:
    """What the pipeline is to be called with for these prompts, but for generator, latents and `output_type`."""
    return {
        "prompt": list(texts), "negative_prompt": [""] * len(texts), "true_cfg_scale": guidance,
        "num_inference_steps": steps, "height": SIZE, "width": SIZE, "max_sequence_length": PROMPT_TOKENS,
    }  # fmt: skip


def shapes_flux_pipeline(path: Path | None = None) -> FluxPipeline:
    """diffusers' pipeline with the trained modules in float32; from a file of `save` (default: the packaged weights).

    Call it with `call_arguments`, in particular with `max_sequence_length=PROMPT_TOKENS`.

    Raises:
        ImportError: diffusers or transformers are missing.
        OSError: the file cannot be read.
        ValueError: the file holds other weights.
    """
    return ShapesFlux.load(path).pipeline()


@dataclass
class ShapesFlux:
    """The modules; the VAE is that of the SD1-format checkpoint."""

    transformer: nn.Module
    clip: nn.Module
    t5: nn.Module
    sd1: sd1.ShapesSD1

    @staticmethod
    def untrained() -> ShapesFlux:
        """Freshly initialised transformer and text encoders beside the packaged VAE."""
        first = sd1.ShapesSD1.load()
        from diffusers import FluxTransformer2DModel
        from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

        transformer = FluxTransformer2DModel(**_TRANSFORMER)
        _start_near_identity(transformer)
        return ShapesFlux(transformer, CLIPTextModel(CLIPTextConfig(**CLIP)), T5EncoderModel(T5Config(**T5)), first)

    @staticmethod
    def load(path: Path | None = None) -> ShapesFlux:
        """The trained modules in float32, ready to use. Errors as in `shapes_flux_pipeline`."""
        state = tensors(path) if path else packaged_tensors("shapes-flux.safetensors")
        model = ShapesFlux.untrained()
        named = model._named()
        wrong = [name for name in named if name not in state or state[name].shape != named[name].shape]
        if wrong:
            raise ValueError(f"no shapes-flux weights: {len(wrong)} tensors are missing or misshapen, such as {wrong[0]}")
        with torch.no_grad():
            for name, tensor in named.items():
                tensor.copy_(state[name])
        for module in (model.transformer, model.clip, model.t5):
            module.eval().requires_grad_(False)
        return model

    def _named(self) -> dict[str, Tensor]:
        """Every trained tensor by its name in the file: the pipeline's part, a dot, the tensor's name in it."""
        parts = {"transformer": self.transformer, "text_encoder": self.clip, "text_encoder_2": self.t5}
        named = {f"{part}.{name}": tensor for part, module in parts.items() for name, tensor in module.state_dict().items()}
        del named["text_encoder_2.encoder.embed_tokens.weight"]  # the same tensor as text_encoder_2.shared.weight
        return {name.replace("text_encoder.text_model.", "text_encoder."): tensor for name, tensor in named.items()}

    def save(self, path: Path) -> None:
        """Write transformer and text encoders as fp16."""
        state = {name: tensor.detach().half().contiguous() for name, tensor in self._named().items()}
        with whole_file(path) as part:
            save_file(state, part, {"format": "pt"})

    def pipeline(self) -> FluxPipeline:
        """diffusers' own pipeline around the modules."""
        from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline

        self.sd1.vae.register_to_config(shift_factor=0.0)  # the pipeline adds it
        pipeline = FluxPipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(), vae=self.sd1.vae, transformer=self.transformer,
            text_encoder=self.clip, tokenizer=tokenizer(), text_encoder_2=self.t5, tokenizer_2=tokenizer(),
        )  # fmt: skip
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    @torch.no_grad()
    def understand(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """What the T5 encoder makes of every token [B, PROMPT_TOKENS, 96], and CLIP's pooled vectors [B, 64]."""
        ids = token_ids(texts)
        return self.t5(ids)[0], self.clip(ids).pooler_output

    def velocity(self, x: Tensor, t: Tensor, tokens: Tensor, pooled: Tensor) -> Tensor:
        """The model's velocity eps − x0 for packed latents.

        Args:
            x: (1 − t)·x0 + t·eps, [B, 36, 16].
            t: times [B] in 0..1.
            tokens: the prompts' tokens, as `understand` gives them.
            pooled: the prompts' pooled vectors, as `understand` gives them.
        """
        places = torch.zeros(_SIDE, _SIDE, 3)
        places[..., 1], places[..., 2] = torch.arange(_SIDE)[:, None], torch.arange(_SIDE)[None]
        return self.transformer(
            hidden_states=x, encoder_hidden_states=tokens, pooled_projections=pooled, timestep=t,
            img_ids=places.view(-1, 3), txt_ids=torch.zeros(PROMPT_TOKENS, 3), return_dict=False,
        )[0]  # fmt: skip


def _start_near_identity(transformer: nn.Module) -> None:
    """Modulation that does nothing yet, with blocks half let through and an output of zero."""
    for name, module in transformer.named_modules():
        if re.search(r"norm\w*\.linear$", name):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
            if not name.startswith("norm_out"):
                with torch.no_grad():
                    module.bias.view(-1, _HIDDEN)[2::3] = 0.5  # (shift, scale, gate), once or twice
    nn.init.zeros_(transformer.proj_out.weight)
    nn.init.zeros_(transformer.proj_out.bias)


def packed(latents: Tensor) -> Tensor:
    """Latents [B, 4, 12, 12] as the transformer takes them: [B, 36, 16]."""
    return latents.view(-1, 4, _SIDE, 2, _SIDE, 2).permute(0, 2, 4, 1, 3, 5).reshape(-1, _SIDE**2, 16)


def tokenizer() -> Any:
    """A transformers tokenizer for the world's words, as both text encoders know them: the words, then the end."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel(VOCABULARY, unk_token="<unk>"))
    words.normalizer, words.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", _END)])
    return PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token="</s>", unk_token="<unk>", pad_token="<pad>", model_max_length=PROMPT_TOKENS
    )


def token_ids(texts: Sequence[str]) -> Tensor:
    """The tokenizer's ids [B, PROMPT_TOKENS] without the tokenizer."""
    rows = []
    for text in texts:
        ids = [VOCABULARY.get(word, _UNKNOWN) for word in re.findall(r"[a-z]+|[^\sa-z]", text.lower())]
        ids = [*ids[: PROMPT_TOKENS - 1], _END]
        rows.append(ids + [0] * (PROMPT_TOKENS - len(ids)))
    return torch.tensor(rows)
