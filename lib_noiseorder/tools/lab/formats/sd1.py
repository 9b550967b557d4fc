"""The shapes world in Stable Diffusion 1's own format: a checkpoint that a WebUI loads and that draws what it is told.

Pictures are the world's, eight times as large (192×192 pixels): a latent (24×24) has as many places as the world's own
pictures. Text encoder, UNet and VAE are SD1's, shrunk: diffusers' and transformers' modules in memory, ldm names
("model.diffusion_model.…") in the file, with a `.yaml` beside it that tells a WebUI the sizes. Needs `diffusers` and
`transformers`, imported where they are used.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from ...store import whole_file
from .. import world
from ..model import alpha_bar
from ..packaged import packaged, packaged_tensors, tensors
from ..world import Prompt, Thing
from .ldm_names import text_name, unet_name, vae_name

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

SCALE = 8
"""Pixels per side of one of the world's pixels."""
SIZE = world.SIZE * SCALE
"""Pictures are SIZE×SIZE RGB; ask the WebUI for this width and height."""
LATENT = SIZE // 8
LATENT_SCALE = 0.18215
"""SD1's scale_factor: what the UNet sees is the VAE's latent times this."""
GUIDANCE = 4.0
"""A good classifier-free guidance scale."""
STEPS = 20
_RADII = (3.0, 3.5, 4.0)
_FEW = 4
"""Pictures that the VAE takes at once: a CPU is slower with more of them."""

TOKEN_LENGTH, VOCABULARY = 77, 49408
BEGIN, END = 49406, 49407
BEGIN_WORD, END_WORD = "<|startoftext|>", "<|endoftext|>"
# the world's words in CLIP's vocabulary; each is one token, but for "triangles": "tri", "angles"
TOKEN_IDS = {
    "a": 320, "an": 550, "the": 518, "to": 531, "is": 533, "of": 539, "left": 1823, "right": 1155, "above": 4348,
    "below": 3788, "two": 1237, "three": 2097, "red": 736, "green": 1901, "blue": 1746, "yellow": 4481, "circle": 7117,
    "circles": 19411, "square": 3999, "squares": 26972, "triangle": 14615, "tri": 924, "angles": 18627, ",": 267, ".": 269,
}  # fmt: skip

TEXT = {
    "vocab_size": VOCABULARY, "max_position_embeddings": TOKEN_LENGTH, "hidden_size": 64, "intermediate_size": 128,
    "num_hidden_layers": 3, "num_attention_heads": 4, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
    "projection_dim": 64, "bos_token_id": BEGIN, "eos_token_id": END, "pad_token_id": END,
}  # fmt: skip
_UNET = {
    "sample_size": LATENT, "in_channels": 4, "out_channels": 4, "block_out_channels": (64, 64, 128),
    "layers_per_block": 1, "cross_attention_dim": 64, "attention_head_dim": 4,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
}  # fmt: skip
_VAE = {
    "in_channels": 3, "out_channels": 3, "latent_channels": 4, "sample_size": SIZE, "layers_per_block": 1,
    "block_out_channels": (64, 64, 64, 128), "scaling_factor": LATENT_SCALE,
    "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
}  # fmt: skip
_SCHEDULER = {
    "num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
    "clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1,
}  # fmt: skip


# ---- words and pictures


def token_ids(texts: list[str]) -> Tensor:
    """Token ids [B, 77] as SD1 makes them: begin, the words, end, padded with end. Raises ValueError on unknown words."""
    rows = []
    for text in texts:
        words = re.findall(r"[a-z]+|[^\sa-z]", text.lower().replace("triangles", "tri angles"))
        unknown = [word for word in words if word not in TOKEN_IDS]
        if unknown:
            raise ValueError(f"{text!r}: the shapes world has no word {unknown[0]!r}; it knows {', '.join(TOKEN_IDS)}")
        ids = [BEGIN, *(TOKEN_IDS[word] for word in words)][: TOKEN_LENGTH - 1]
        rows.append(ids + [END] * (TOKEN_LENGTH - len(ids)))
    return torch.tensor(rows)


def wording(prompt: Prompt, rng: np.random.Generator) -> str:
    """The prompt as a person may type it."""
    if prompt.count > 1:
        return str(prompt)
    articles = (("", ""), ("a ", "a "), ("the ", "the "), ("a ", "the "))[rng.choice(4, p=[0.45, 0.35, 0.1, 0.1])]
    text = f"{articles[0]}{prompt.colour} {prompt.shape}"
    if prompt.relation:
        join = ("", "is ", "to the ")[rng.choice(3, p=[0.7, 0.15, 0.15])]
        if prompt.relation in ("above", "below"):
            join = join.replace("to the ", "is ")
        comma = ", " if rng.random() < 0.1 else " "
        text += f"{comma}{join}{prompt.relation} {articles[1]}{prompt.other_colour} {prompt.other_shape}"
    return text


def render(things: list[Thing], rng: np.random.Generator, scale: int = SCALE) -> np.ndarray:
    """`world.render` with `scale` times as many pixels per side: a picture [S, S, 3] in 0..1."""
    size = scale * world.SIZE
    picture = np.full((size, size, 3), rng.uniform(0.30, 0.62), np.float32) + rng.uniform(-0.02, 0.02, 3).astype(np.float32)
    for thing in things:
        mask = _mask(thing.shape, _RADII[rng.integers(len(_RADII))], scale)[..., None]
        colour = world.RGB[world.COLOURS.index(thing.colour)] + rng.uniform(-0.06, 0.06, 3).astype(np.float32)
        half = mask.shape[0] // 2
        top, left = round((thing.y + 0.5) * scale) - half, round((thing.x + 0.5) * scale) - half
        rows, columns = slice(max(top, 0), top + 2 * half), slice(max(left, 0), left + 2 * half)
        region = picture[rows, columns]
        part = mask[max(-top, 0) :, max(-left, 0) :][: region.shape[0], : region.shape[1]]
        region[:] = region * (1 - part) + part * np.clip(colour, 0, 1)
    return picture


@cache
def _mask(shape: str, radius: float, scale: int, supersampling: int = 4) -> np.ndarray:
    """Coverage of a shape of this radius (in the world's pixels) at this scale."""
    side = 2 * math.ceil((radius + 0.5) * scale)
    grid = ((np.arange(side * supersampling) + 0.5) / supersampling - side / 2) / scale
    x, y = np.meshgrid(grid, grid)
    if shape == "circle":
        inside = x**2 + y**2 <= radius**2
    elif shape == "square":
        inside = np.maximum(abs(x), abs(y)) <= radius * 0.9
    else:
        depth = (y + radius) / (2 * radius)  # 0 at the apex, 1 at the base
        inside = (depth >= 0) & (depth <= 1) & (abs(x) <= depth * radius * 1.1)
    return inside.reshape(side, supersampling, side, supersampling).mean((1, 3)).astype(np.float32)


def dataset(count: int, seed: int, scale: int = SCALE) -> tuple[np.ndarray, list[Prompt]]:
    """Pictures [count, S, S, 3] uint8 of the training distribution, `scale` times as large as the world's; their prompts."""
    rng = np.random.default_rng(seed)
    prompts = [world.random_prompt(rng) for _ in range(count)]
    pictures = np.empty((count, *2 * (scale * world.SIZE,), 3), np.uint8)
    for picture, prompt in zip(pictures, prompts):
        picture[:] = np.round(render(world.place(prompt, rng), rng, scale) * 255)
    return pictures, prompts


def for_oracle(pictures: Tensor | np.ndarray) -> Tensor:
    """Pictures as the oracle reads them: normalised pixels [B, 3, 24, 24].

    Args:
        pictures: uint8 [B, H, W, 3] (a WebUI's PNGs), or float [B, 3, H, W] in 0..1; H and W at least 24.
    """
    if isinstance(pictures, np.ndarray):
        pictures = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
    return (F.adaptive_avg_pool2d(pictures, world.SIZE) - world.MEAN) / world.STD


def for_vae(pictures: Tensor) -> Tensor:
    """uint8 pictures [B, S, S, 3] as the VAE takes them: [B, 3, S, S] in −1..1."""
    return pictures.permute(0, 3, 1, 2).float() / 127.5 - 1


# ---- the modules, their file, and other programs' formats


@dataclass
class ShapesSD1:
    """Text encoder, UNet and VAE: diffusers' and transformers' modules."""

    text: nn.Module
    unet: nn.Module
    vae: nn.Module

    @staticmethod
    def untrained() -> ShapesSD1:
        """Freshly initialised modules."""
        try:
            from diffusers import AutoencoderKL, UNet2DConditionModel
            from transformers import CLIPTextConfig, CLIPTextModel
        except ImportError as error:
            raise ImportError(f"{error.name} is missing; pip install diffusers transformers", name=error.name) from error
        text = CLIPTextModel(CLIPTextConfig(**TEXT))
        return ShapesSD1(text, UNet2DConditionModel(**_UNET), AutoencoderKL(**_VAE))

    @staticmethod
    def load(path: Path | None = None) -> ShapesSD1:
        """The trained modules in float32, ready to use; from an ldm-format file (default: the packaged weights)."""
        model = ShapesSD1.untrained()
        state = tensors(path) if path else packaged_tensors("shapes-sd1.safetensors")
        try:
            model.load_ldm(state)
        except ValueError as error:
            raise ValueError(f"{path or 'the packaged file'} is {error}") from None
        for module in (model.text, model.unet, model.vae):
            module.eval().requires_grad_(False)
        return model

    def _named(self) -> dict[str, Tensor]:
        """Every tensor under its ldm name."""
        levels, unet = len(_VAE["block_out_channels"]), (_UNET["layers_per_block"], _UNET["up_block_types"])
        named = {f"cond_stage_model.transformer.{text_name(name)}": x for name, x in self.text.state_dict().items()}
        named |= {f"model.diffusion_model.{unet_name(name, *unet)}": x for name, x in self.unet.state_dict().items()}
        return named | {f"first_stage_model.{vae_name(name, levels)}": x for name, x in self.vae.state_dict().items()}

    def to_ldm(self, dtype: torch.dtype = torch.float16) -> dict[str, Tensor]:
        """The state of an SD1 checkpoint."""
        state = {}
        for name, tensor in self._named().items():
            if re.search(r"attn_1\.(q|k|v|proj_out)\.weight", name):
                tensor = tensor[:, :, None, None]  # ldm keeps the VAE's attention as 1×1 convolutions
            state[name] = tensor.detach().to("cpu", dtype).clone(memory_format=torch.contiguous_format)
        state["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(TOKEN_LENGTH)[None]
        return state

    @torch.no_grad()
    def load_ldm(self, state: dict[str, Tensor]) -> None:
        """Take over a checkpoint's tensors. Raises ValueError when names or shapes are not this model's."""
        named = self._named()
        missing = [name for name in named if name not in state or state[name].numel() != named[name].numel()]
        if missing:
            raise ValueError(
                f"not a shapes-sd1 checkpoint: {len(missing)} tensors are missing or misshapen, such as {missing[0]}"
            )
        for name, tensor in named.items():
            tensor.copy_(state[name].view_as(tensor))

    def save(self, path: Path) -> None:
        """Write an fp16 checkpoint and its `.yaml` sidecar."""
        with whole_file(path) as part:
            save_file(self.to_ldm(), part, {"format": "pt"})
        path.with_suffix(".yaml").write_bytes(packaged("shapes-sd1.yaml"))

    def pipeline(self) -> StableDiffusionPipeline:
        """diffusers' own pipeline around the modules."""
        from diffusers import DDIMScheduler, StableDiffusionPipeline

        return StableDiffusionPipeline(
            vae=self.vae, text_encoder=self.text, tokenizer=tokenizer(), unet=self.unet, scheduler=DDIMScheduler(**_SCHEDULER),
            safety_checker=None, feature_extractor=None, requires_safety_checker=False,
        )  # fmt: skip

    # ---- use

    @torch.no_grad()
    def condition(self, texts: list[str]) -> Tensor:
        """Text embeddings [B, 77, 64]."""
        return self.text(token_ids(texts).to(self.text.device)).last_hidden_state

    @torch.no_grad()
    def encode(self, pictures: np.ndarray) -> Tensor:
        """uint8 pictures [B, S, S, 3] → latents [B, 4, S/8, S/8] of about unit variance."""
        x = for_vae(torch.from_numpy(pictures).to(self.vae.device))
        return torch.cat([self.vae.encode(part).latent_dist.mode() for part in x.split(_FEW)]) * LATENT_SCALE

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Latents [B, 4, S/8, S/8] → pictures [B, 3, S, S] in 0..1."""
        parts = [self.vae.decode(part / LATENT_SCALE).sample for part in latents.split(_FEW)]
        return (torch.cat(parts) / 2 + 0.5).clamp(0, 1)

    @torch.no_grad()
    def sample(self, noise: Tensor, texts: list[str], guidance: float = GUIDANCE, steps: int = STEPS) -> Tensor:
        """DDIM ("trailing" spacing) from noise [B, 4, LATENT, LATENT] to latents."""
        condition = torch.cat([self.condition(texts), self.condition([""]).expand(len(texts), -1, -1)])
        cumulative, x = alpha_bar().to(noise), noise
        schedule = [round(1000 - step * 1000 / steps) - 1 for step in range(steps)]
        for timestep, following in zip(schedule, [*schedule[1:], None]):
            with_prompt, without = self.unet(torch.cat([x, x]), timestep, condition).sample.chunk(2)
            eps = without + guidance * (with_prompt - without)
            x0 = (x - (1 - cumulative[timestep]).sqrt() * eps) / cumulative[timestep].sqrt()
            if following is None:
                return x0
            x = cumulative[following].sqrt() * x0 + (1 - cumulative[following]).sqrt() * eps
        raise ValueError(f"steps must be at least 1, got {steps}")


def tokenizer() -> Any:
    """A transformers tokenizer for the world's words with CLIP's ids; a WebUI's own gives the same ids."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    begin, end = BEGIN_WORD, END_WORD
    words = Tokenizer(models.WordLevel({**TOKEN_IDS, begin: BEGIN, end: END}, unk_token=end))
    words.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Replace("triangles", "tri angles")])
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A {end}", special_tokens=[(begin, BEGIN), (end, END)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token=begin, eos_token=end, unk_token=end, pad_token=end, model_max_length=TOKEN_LENGTH
    )


def score(model: ShapesSD1, pairs: int, seed: int, guidance: float = GUIDANCE, steps: int = STEPS) -> float:
    """Percent of pictures in which everything is right, half of them from rare prompts, from plain noise."""
    from ..oracle import Oracle

    prompts = world.test_prompts(pairs, seed)
    noise = torch.randn(pairs, 4, LATENT, LATENT, generator=torch.Generator().manual_seed(seed))
    parts = zip(noise.split(64), (prompts[i : i + 64] for i in range(0, pairs, 64)))
    pictures = torch.cat([model.decode(model.sample(x, [str(p) for p in some], guidance, steps)) for x, some in parts])
    verdicts = Oracle().judge(for_oracle(pictures), prompts)
    return 100 * sum(verdict.all for verdict in verdicts) / pairs
