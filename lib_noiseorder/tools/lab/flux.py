"""The shapes world in FLUX.1's format: a shrunk flow transformer that diffusers' own FluxPipeline runs.

The VAE is that of `sd1`; the pictures are half as large as there (96×96 pixels, latents 4×12×12, packed to 36 tokens of
16). Transformer, T5 encoder and CLIP text encoder (for the pooled vector) are FLUX.1's, shrunk; there is no distilled guidance
(as in schnell), so `true_cfg_scale` is the only one. Needs `diffusers` and `transformers`, imported where they are used.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from . import sd1, world
from .optimiser import Averaged, Log, LossLog, Optimiser, clock, require_time
from .sd1_training import encoded
from .world import Prompt

if TYPE_CHECKING:
    from diffusers import FluxPipeline

_SCALE = 4
SIZE = world.SIZE * _SCALE
"""Pictures are SIZE×SIZE RGB."""
STEPS = 16
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
_VOCABULARY = {word: index for index, word in enumerate(_WORDS)}
_END, _UNKNOWN = _VOCABULARY["</s>"], _VOCABULARY["<unk>"]

_HIDDEN = 192
_TRANSFORMER = {
    "patch_size": 1, "in_channels": 16, "num_layers": 2, "num_single_layers": 4, "attention_head_dim": 32,
    "num_attention_heads": _HIDDEN // 32, "joint_attention_dim": 96, "pooled_projection_dim": 64, "guidance_embeds": False,
    "axes_dims_rope": (8, 12, 12),
}  # fmt: skip
_T5 = {
    "vocab_size": 32, "d_model": 96, "d_kv": 24, "d_ff": 192, "num_layers": 3, "num_heads": 4, "dropout_rate": 0.0,
    "relative_attention_num_buckets": 32, "relative_attention_max_distance": 32, "feed_forward_proj": "gated-gelu",
    "is_encoder_decoder": False, "use_cache": False,
}  # fmt: skip
_CLIP = {
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
        return ShapesFlux(transformer, CLIPTextModel(CLIPTextConfig(**_CLIP)), T5EncoderModel(T5Config(**_T5)), first)

    @staticmethod
    def load(path: Path | None = None) -> ShapesFlux:
        """The trained modules in float32, ready to use. Errors as in `shapes_flux_pipeline`."""
        content = (path or files(__package__).joinpath("weights/shapes-flux.safetensors")).read_bytes()
        model, state = ShapesFlux.untrained(), load(content)
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
        path.parent.mkdir(parents=True, exist_ok=True)
        state = {name: tensor.detach().half().contiguous() for name, tensor in self._named().items()}
        save_file(state, str(path), {"format": "pt"})

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


def tokenizer() -> Any:
    """A transformers tokenizer for the world's words, as both text encoders know them: the words, then the end."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel(_VOCABULARY, unk_token="<unk>"))
    words.normalizer, words.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", _END)])
    return PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token="</s>", unk_token="<unk>", pad_token="<pad>", model_max_length=PROMPT_TOKENS
    )


def token_ids(texts: Sequence[str]) -> Tensor:
    """The tokenizer's ids [B, PROMPT_TOKENS] without the tokenizer."""
    rows = []
    for text in texts:
        ids = [_VOCABULARY.get(word, _UNKNOWN) for word in re.findall(r"[a-z]+|[^\sa-z]", text.lower())]
        ids = [*ids[: PROMPT_TOKENS - 1], _END]
        rows.append(ids + [0] * (PROMPT_TOKENS - len(ids)))
    return torch.tensor(rows)


# ---- training

_BATCH = 64
_PROMPT_DROPOUT = 0.12
_EMA = 0.999
_PEAK = 2e-3
_TEXT_SHARE = 1 / 30
_SAVE_STEPS = 500
_INNER = re.compile(
    r"(attn\.(to_|add_).*|ff(_context)?\.net.*|proj_mlp|single_transformer_blocks\.\d+\.proj_out"
    r"|SelfAttention\.[qkvo]|DenseReluDense\.w.*|self_attn.*|mlp.*)\.weight$"
)
"""The tensors that Muon trains."""
_SIDES = (*range(1, len(world.COUNTS) + 1), *world.RELATIONS)
_ANSWERS = (len(_SIDES), len(world.COLOURS), len(world.SHAPES))
"""How many answers there are to what `_said` tells of a thing."""


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


def train_text(model: ShapesFlux, minutes: float, seed: int, log: Log) -> None:
    """Teach the text encoders what the words say before any picture is seen; afterwards they stay as they are.

    Every token of T5's before the relation must tell side, colour and shape of its thing, every one after it those of the
    other thing, CLIP's pooled vector those of both. Colour and shape are asked for separately: an encoder that learns pairs,
    or learns from pictures, has no use for the pairs that it hardly ever meets.
    """
    rng = np.random.default_rng(seed)
    of_token, of_prompt = nn.Linear(_T5["d_model"], sum(_ANSWERS)), nn.Linear(_CLIP["hidden_size"], 2 * sum(_ANSWERS))
    trained = (model.t5, model.clip, of_token, of_prompt)
    optimiser = Optimiser([named for module in trained for named in module.named_parameters()], _INNER, _PEAK)
    for step, progress in clock(minutes):
        prompts = [world.random_prompt(rng, uniform=step % 2 == 0) for _ in range(2 * _BATCH)]
        ids = token_ids([sd1.wording(prompt, rng) for prompt in prompts])
        relation = (ids >= _VOCABULARY["left"]) & (ids <= _VOCABULARY["below"])
        said = torch.tensor([_said(prompt) for prompt in prompts])
        meant = torch.where(relation.cumsum(1)[..., None] > 0, said[:, None, 1], said[:, None, 0])
        pooled = of_prompt(model.clip(ids).pooler_output).unflatten(1, (2, -1))
        loss = _cross_entropy(of_token(model.t5(ids)[0]), meant) + _cross_entropy(pooled, said)
        loss.backward()
        optimiser.step(step, progress)
        if step % 100 == 0:
            log(f"text step {step}: cross-entropy {loss.item():.4f}")
    for module in (model.t5, model.clip):
        module.requires_grad_(False)


def _said(prompt: Prompt) -> list[tuple[int, int, int]]:
    """Side, colour and shape of the first and of the second thing, as indices; twice the same where there is no second."""
    colour, shape = world.COLOURS.index(prompt.colour), world.SHAPES.index(prompt.shape)
    if not prompt.relation:
        return [(_SIDES.index(prompt.count), colour, shape)] * 2
    other_colour, other_shape = world.COLOURS.index(prompt.other_colour), world.SHAPES.index(prompt.other_shape)
    opposite = _SIDES.index(world.OPPOSITE[prompt.relation])
    return [(_SIDES.index(prompt.relation), colour, shape), (opposite, other_colour, other_shape)]


def _cross_entropy(answers: Tensor, meant: Tensor) -> Tensor:
    """Of answers [B, N, sum(_ANSWERS)] to what was meant [B, N, len(_ANSWERS)]."""
    parts = zip(answers.flatten(0, 1).split(_ANSWERS, 1), meant.flatten(0, 1).unbind(1))
    return sum(F.cross_entropy(answer, right) for answer, right in parts)


def train(minutes: float, seed: int, out: Path, log: Log = print, pictures: int = 20_000) -> None:
    """Make transformer and text encoders from nothing on the CPU, with the packaged VAE left as it is.

    The text encoders learn their words in a thirtieth of the time and stay as they are. The transformer has the rest: flow
    matching on random pictures of the pool, half of the times uniform, half logit-normal towards the noisy end; Muon and
    AdamW in bfloat16 autocast; averaged weights, written to `out` every 500 steps and at the end.

    The packaged weights took a detour, which weights/README.md tells; what this function makes from nothing in one go has
    not been measured.

    Args:
        minutes: wall-clock time, after the pictures have been encoded.
        out: the .safetensors to write.
        pictures: how many to encode as training data (16 minutes for all of them on one core).

    Raises:
        ImportError: diffusers or transformers are missing, or torch is older than 2.3.
        ValueError: minutes not positive.
    """
    require_time(minutes)
    averaged = ShapesFlux.untrained()
    latents, prompts = encoded(averaged.sd1, pictures, 1, log, _SCALE)
    torch.manual_seed(seed)
    live = ShapesFlux.untrained()
    train_text(live, minutes * _TEXT_SHARE, seed, log)
    train_transformer(live, averaged, packed(latents), prompts, minutes * (1 - _TEXT_SHARE), seed, out, log)


def packed(latents: Tensor) -> Tensor:
    """Latents [B, 4, 12, 12] as the transformer takes them: [B, 36, 16]."""
    return latents.view(-1, 4, _SIDE, 2, _SIDE, 2).permute(0, 2, 4, 1, 3, 5).reshape(-1, _SIDE**2, 16)


def train_transformer(
    live: ShapesFlux,
    averaged: ShapesFlux,
    latents: Tensor,
    prompts: Sequence[Prompt],
    minutes: float,
    seed: int,
    out: Path,
    log: Log,
) -> None:
    """Train on packed latents [N, 36, 16]; `averaged` ends with the averaged weights."""
    from torch.nn.attention import SDPBackend, sdpa_kernel  # the plain one is the fastest for so few tokens

    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    for ours, theirs in ((live.transformer, averaged.transformer), (live.clip, averaged.clip), (live.t5, averaged.t5)):
        theirs.load_state_dict(ours.state_dict())
        theirs.requires_grad_(False)
    optimiser = Optimiser(live.transformer.named_parameters(), _INNER, _PEAK)
    average = Averaged(live.transformer.parameters(), averaged.transformer.parameters(), _EMA)
    understood, losses = _Understood(live), LossLog(log, "transformer")
    for step, progress in clock(minutes):
        chosen = rng.integers(len(latents), size=_BATCH)
        texts = ["" if rng.random() < _PROMPT_DROPOUT else sd1.wording(prompts[index], rng) for index in chosen]
        x0, t = latents[torch.from_numpy(chosen)], _times(generator)
        eps, share = torch.randn(x0.shape, generator=generator), t.view(-1, 1, 1)
        said = understood(texts)
        with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            velocity = live.velocity((1 - share) * x0 + share * eps, t, *said)
        error = (velocity.float() - (eps - x0)).square().mean()
        error.backward()
        optimiser.step(step, progress)
        average.update(step)
        losses.add(step, progress, error.item())
        if step % _SAVE_STEPS == _SAVE_STEPS - 1:
            averaged.save(out)
    averaged.save(out)


def _times(generator: torch.Generator) -> Tensor:
    """Times [_BATCH] spread evenly: half of them uniform in 0..1, half logit-normal towards the noisy end."""
    half = _BATCH // 2
    spread = (torch.arange(half) + torch.rand(half, generator=generator)) / half
    return torch.cat([spread, torch.sigmoid(0.5 + torch.special.ndtri(spread.clamp(1e-4, 1 - 1e-4)))])


class _Understood:
    """`ShapesFlux.understand`, remembered."""

    def __init__(self, model: ShapesFlux):
        self._model, self._known = model, {}

    def __call__(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if new:
            self._known.update(zip(new, zip(*self._model.understand(new))))
        tokens, pooled = zip(*(self._known[text] for text in texts))
        return torch.stack(tokens), torch.stack(pooled)
