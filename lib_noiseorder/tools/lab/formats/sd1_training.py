"""Training of the SD1-format checkpoint of `sd1` on the CPU: VAE, then UNet and text encoder together."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import world
from ..model import alpha_bar
from ..optimiser import Averaged, Log, LossLog, Optimiser, clock, require_time
from ..world import Prompt
from .sd1 import LATENT, LATENT_SCALE, SCALE, ShapesSD1, dataset, for_vae, token_ids, wording

_BATCH = 32
_PROMPT_DROPOUT = 0.1
_MAX_LAYOUT_WEIGHT = 30.0
_EMA = 0.998
_SAVE_SECONDS = 180
_VAE_SCALE = 4
"""The VAE learns from pictures this many times as large as the world's: it looks at small pieces of them anyhow."""
_WORDS = 16
"""So many of the encoder's states foretell the layout; no prompt of the world is longer."""
_FORETELLING = 0.05
"""How much foretelling weighs beside the error of eps."""
_INNER = re.compile(r"(resnets\..*conv[12]|attentions\..*|(down|up)samplers.*|self_attn.*|mlp.*)\.weight$")
"""The tensors that Muon trains."""


def train_vae(model: ShapesSD1, minutes: float, seed: int, log: Log) -> None:
    """Train the VAE as a plain autoencoder: three channels follow the 8× smaller picture, one is free.

    Half of the time goes to encoder and decoder together. Then the encoder is made deterministic, its latents are brought
    to zero mean and unit variance times 1 / LATENT_SCALE, and the other half goes to the decoder alone. The decoder sees
    latents with noise on them, so that it forgives what a diffusion model gets slightly wrong.
    """
    vae = model.vae.to(memory_format=torch.channels_last).requires_grad_(True)
    for half in (vae.encoder, vae.decoder):  # a picture of flat shapes needs no attention
        attention = half.mid_block.attentions[0].requires_grad_(False)
        nn.init.zeros_(attention.to_out[0].weight)
        nn.init.zeros_(attention.to_out[0].bias)
    pictures, _ = dataset(3000, seed, _VAE_SCALE)
    generator = torch.Generator().manual_seed(seed)

    def batch(size: int) -> Tensor:
        chosen = torch.from_numpy(pictures)[torch.randint(len(pictures), (size,), generator=generator)]
        return for_vae(chosen).contiguous(memory_format=torch.channels_last)

    def decoding_error(latent: Tensor, noise: Tensor | float, x: Tensor) -> Tensor:
        error = vae.decode(latent + noise * torch.randn(latent.shape, generator=generator)).sample - x
        return error.abs().mean() + 2 * error.square().mean()

    optimiser = Optimiser(vae.named_parameters(), _INNER, peak=2e-3)
    for step, progress in clock(minutes / 2):
        x = batch(6)
        latent = vae.encode(x).latent_dist.mode()
        small = ((F.avg_pool2d(x, 8) + 1) / 2 - world.MEAN) / world.STD
        error, distance = decoding_error(latent, 0.12, x), (latent[:, :3] - small).square().mean()
        (error + 0.05 * distance + 0.01 * (latent[:, 3].square().mean() - 1).square()).backward()
        optimiser.step(step, progress)
        if step % 20 == 0:
            log(f"VAE step {step}: pixel error {error.item():.4f}, distance from the small picture {distance.item():.3f}")
    vae.requires_grad_(False)
    _normalise_latents(vae, pictures[:256])
    decoder = [(name, p.requires_grad_()) for name, p in vae.decoder.named_parameters() if "attentions" not in name]
    optimiser = Optimiser(decoder, _INNER, peak=1e-3, hold=0.3)
    for step, progress in clock(minutes / 2):
        x = batch(4)
        error = decoding_error(vae.encode(x).latent_dist.mode(), 0.2 / LATENT_SCALE * torch.rand(len(x), 1, 1, 1), x)
        error.backward()
        optimiser.step(step, progress)
        if step % 20 == 0:
            log(f"decoder step {step}: pixel error {error.item():.4f}")
    vae.requires_grad_(False)


@torch.no_grad()
def _normalise_latents(vae: nn.Module, pictures: np.ndarray) -> None:
    """Bring latents to zero mean and standard deviation 1 / LATENT_SCALE, in the 1×1 convolutions around them."""
    latents = torch.cat([vae.encode(part).latent_dist.mode() for part in for_vae(torch.from_numpy(pictures)).split(8)])
    mean, deviation = latents.mean((0, 2, 3)), latents.std((0, 2, 3)) * LATENT_SCALE
    into, out = vae.quant_conv, vae.post_quant_conv
    into.weight[:4] /= deviation[:, None, None, None]
    into.bias[:4] = (into.bias[:4] - mean) / deviation
    into.weight[4:] = 0
    into.bias[4:] = -30  # log variance: encoding draws nothing
    out.bias += out.weight[:, :, 0, 0] @ mean
    out.weight *= deviation[None, :, None, None]


def encoded(model: ShapesSD1, pictures: int, seed: int, log: Log, scale: int = SCALE) -> tuple[Tensor, list[Prompt]]:
    """Latents [N, 4, 3·scale, 3·scale] of N pictures of the training distribution, full thousands of them; their prompts."""
    latents: list[Tensor] = []
    prompts: list[Prompt] = []
    for part in range(math.ceil(pictures / 1000)):
        some, theirs = dataset(1000, 1000 * (seed + 1) + part, scale)
        latents.append(model.encode(some))
        prompts += theirs
        log(f"{len(prompts)} pictures encoded")
    return torch.cat(latents), prompts


class Foreteller(nn.Module):
    """Foretells a latent from its prompt alone: places that look at the words, as the UNet's cross-attention does."""

    def __init__(self, words_width: int, width: int = 128, heads: int = 4):
        super().__init__()
        self.heads, self.side = heads, LATENT // 2
        self.places = nn.Parameter(torch.randn(self.side**2, width) * 0.3)
        self.key_value, self.out = nn.Linear(words_width, 2 * width), nn.Linear(width, width)
        self.latent = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, 4 * 4)
        )  # fmt: skip

    def forward(self, words: Tensor) -> Tensor:
        """Latents [B, 4, LATENT, LATENT] from the encoder's states [B, words, width]."""
        batch, width = len(words), self.places.shape[1]
        query = self.places.view(1, -1, self.heads, width // self.heads).transpose(1, 2).expand(batch, -1, -1, -1)
        key, value = self.key_value(words).view(batch, -1, 2, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(batch, -1, width)
        patches = self.latent(self.places + self.out(seen)).transpose(1, 2)
        return F.pixel_shuffle(patches.reshape(batch, -1, self.side, self.side), 2)


def train_text(model: ShapesSD1, latents: Tensor, prompts: Sequence[Prompt], minutes: float, seed: int, log: Log) -> Foreteller:
    """Train the text encoder to foretell the layout; returns the head that reads it.

    Which thing is on which side follows from their order and the relation together, and neither says anything alone. A
    UNet that has to learn that from noisy latents stays blind to it for thousands of steps; from the words alone it is
    learnt in minutes.
    """
    generator, rng = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    foreteller, text = Foreteller(model.text.config.hidden_size), model.text.requires_grad_(True)
    parameters = [*text.parameters(), *foreteller.parameters()]
    optimiser, losses = torch.optim.AdamW(parameters, betas=(0.9, 0.98), weight_decay=0), LossLog(log, "text")
    for step, progress in clock(minutes):
        x0, texts = _batch(latents, prompts, 2 * _BATCH, generator, rng)
        loss = (foreteller(text(token_ids(texts)[:, :_WORDS]).last_hidden_state) - x0).square().mean()
        for group in optimiser.param_groups:
            group["lr"] = 1e-3 * min(1, (step + 1) / 100) * min(1, max(0.02, (1 - progress) / 0.4))
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        losses.add(step, progress, loss.item())
    return foreteller


def _batch(
    latents: Tensor, prompts: Sequence[Prompt], size: int, generator: torch.Generator, rng: np.random.Generator
) -> tuple[Tensor, list[str]]:
    """Latents drawn at random and their prompts, as people may type them."""
    chosen = torch.randint(len(latents), (size,), generator=generator)
    return latents[chosen], [wording(prompts[index], rng) for index in chosen.tolist()]


def train_unet(
    model: ShapesSD1, foreteller: Foreteller | None, latents: Tensor, prompts: Sequence[Prompt], minutes: float, seed: int,
    out: Path, log: Log,
) -> None:  # fmt: skip
    """Train UNet and text encoder on, together, on latents [N, 4, LATENT, LATENT]; leaves averaged weights in the model.

    eps-prediction with SD1's schedule, weighted by 1 + 1/SNR (clipped): the layout is decided where the noise is high.
    With a foreteller the text encoder goes on foretelling, lest it forget. The model is written to `out` every three
    minutes and at the end.
    """
    generator, rng = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    live = ShapesSD1.untrained()
    live.unet.to(memory_format=torch.channels_last)
    named = [*live.unet.named_parameters(), *live.text.named_parameters()]
    parameters = [parameter for _, parameter in named]
    if foreteller is not None:
        named += foreteller.named_parameters()
    averaged = [*model.unet.requires_grad_(False).parameters(), *model.text.requires_grad_(False).parameters()]
    with torch.no_grad():
        torch._foreach_copy_(parameters, averaged)
    optimiser = Optimiser(named, _INNER, peak=2e-3)
    average = Averaged(parameters, averaged, _EMA)
    cumulative, losses, saved = alpha_bar(), LossLog(log, "UNet"), time.monotonic()
    for step, progress in clock(minutes):
        x0, texts = _batch(latents, prompts, _BATCH, generator, rng)
        kept = torch.rand(_BATCH, generator=generator) >= _PROMPT_DROPOUT
        words = live.text(token_ids([text if keep else "" for text, keep in zip(texts, kept.tolist())])).last_hidden_state
        timestep, eps = _timesteps(generator, progress), torch.randn(x0.shape, generator=generator)
        signal = cumulative[timestep].view(-1, 1, 1, 1)
        noisy = (signal.sqrt() * x0 + (1 - signal).sqrt() * eps).contiguous(memory_format=torch.channels_last)
        prediction = live.unet(noisy, timestep, words).sample
        error = ((prediction - eps).square() * (1 / signal).clamp(max=_MAX_LAYOUT_WEIGHT) / 4).mean()
        loss = error
        if foreteller is not None:
            loss = loss + _FORETELLING * (foreteller(words[kept, :_WORDS]) - x0[kept]).square().mean()
        loss.backward()
        optimiser.step(step, progress)
        average.update(step)
        losses.add(step, progress, error.item())
        if time.monotonic() - saved > _SAVE_SECONDS:
            model.save(out)
            saved = time.monotonic()
    model.save(out)


def _timesteps(generator: torch.Generator, progress: float) -> Tensor:
    """Timesteps [_BATCH] spread evenly: some over all of the schedule, the rest over its noisier part.

    In the first half of the time three of four are so noisy that only the layout can be seen.
    """
    spread = (torch.arange(_BATCH) + torch.rand(_BATCH, generator=generator)) / _BATCH
    if progress < 0.5:
        return torch.where(torch.arange(_BATCH) % 4 == 0, 1000 * spread, 700 + 300 * spread).long()
    return torch.where(torch.arange(_BATCH) % 2 == 0, 1000 * spread, 400 + 600 * spread).long()


def train(
    minutes: float, seed: int, out: Path, log: Log = print, start: Path | None = None, pictures: int = 5_000
) -> None:  # fmt: skip
    """Make the checkpoint from nothing on the CPU: VAE in a quarter of the time, text encoder, then the UNet with it.

    The packaged weights came about in the same stages, but for the last one on pictures half as large: the VAE in 12 minutes on
    one core and its decoder alone in 9; a first UNet, without foretelling, in 104; then on two cores the text encoder anew in
    3, and UNet and text encoder together in 36 of planned 44, about 2900 steps; at last, from these weights and at today's
    size, UNet and text encoder in 12 minutes, about 890 steps. What this function makes from nothing in one go has not been
    measured.

    Args:
        minutes: wall-clock time, without that for encoding the pictures.
        out: the .safetensors to write, with its .yaml beside it.
        start: a checkpoint whose UNet and text encoder are to be trained on, without foretelling; its VAE stays.
        pictures: how many to encode as training data (8 minutes for all of them on two cores).

    Raises:
        ImportError: diffusers or transformers are missing.
        ValueError: minutes not positive.
    """
    require_time(minutes)
    torch.manual_seed(seed)
    model = ShapesSD1.untrained() if start is None else ShapesSD1.load(start)
    foreteller, left = None, minutes
    if start is None:
        train_vae(model, minutes / 4, seed, log)
    latents, prompts = encoded(model, pictures, seed, log)
    if start is None:
        foreteller, left = train_text(model, latents, prompts, minutes / 12, seed, log), minutes * 2 / 3
    train_unet(model, foreteller, latents, prompts, left, seed, out, log)
