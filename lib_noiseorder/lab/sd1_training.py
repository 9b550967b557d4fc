"""Training of the SD1-format checkpoint of `lib_noiseorder.lab.sd1` on the CPU: VAE, then UNet and text encoder together."""

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

from . import world
from .model import alpha_bar
from .optimiser import Averaged, Log, LossLog, Optimiser, clock
from .sd1 import LATENT_SCALE, ShapesSD1, dataset, for_vae, token_ids, wording
from .world import Prompt

_BATCH = 64
_PROMPT_DROPOUT = 0.1
_MAX_LAYOUT_WEIGHT = 30.0
_EMA = 0.998
_SAVE_SECONDS = 180
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
    pictures, _ = dataset(3000, seed)
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


def encoded(model: ShapesSD1, pictures: int, seed: int, log: Log) -> tuple[Tensor, list[Prompt]]:
    """Latents [N, 4, LATENT, LATENT] of N pictures of the training distribution, full thousands of them; their prompts."""
    latents: list[Tensor] = []
    prompts: list[Prompt] = []
    for part in range(math.ceil(pictures / 1000)):
        some, theirs = dataset(1000, 1000 * (seed + 1) + part)
        latents += [model.encode(few) for few in np.array_split(some, math.ceil(len(some) / 5))]
        prompts += theirs
        log(f"{len(prompts)} pictures encoded")
    return torch.cat(latents), prompts


def train_unet(
    model: ShapesSD1, latents: Tensor, prompts: Sequence[Prompt], minutes: float, seed: int, out: Path, log: Log
) -> None:  # fmt: skip
    """Train UNet and text encoder on, together, on latents [N, 4, LATENT, LATENT]; leaves averaged weights in the model.

    eps-prediction with SD1's schedule, weighted by 1 + 1/SNR (clipped): the layout is decided where the noise is high.
    The model is written to `out` every three minutes and at the end.
    """
    generator, rng = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    live = ShapesSD1.untrained()
    live.unet.to(memory_format=torch.channels_last)
    parameters = [*live.unet.parameters(), *live.text.parameters()]
    averaged = [*model.unet.requires_grad_(False).parameters(), *model.text.requires_grad_(False).parameters()]
    with torch.no_grad():
        torch._foreach_copy_(parameters, averaged)
    optimiser = Optimiser([*live.unet.named_parameters(), *live.text.named_parameters()], _INNER, peak=2e-3)
    average = Averaged(parameters, averaged, _EMA)
    cumulative, losses, saved = alpha_bar(), LossLog(log, "UNet"), time.monotonic()
    for step, progress in clock(minutes):
        chosen = rng.integers(len(latents), size=_BATCH)
        texts = ["" if rng.random() < _PROMPT_DROPOUT else wording(prompts[index], rng) for index in chosen]
        x0 = latents[torch.from_numpy(chosen)]
        timestep, eps = _timesteps(generator), torch.randn(x0.shape, generator=generator)
        signal = cumulative[timestep].view(-1, 1, 1, 1)
        noisy = (signal.sqrt() * x0 + (1 - signal).sqrt() * eps).contiguous(memory_format=torch.channels_last)
        prediction = live.unet(noisy, timestep, live.text(token_ids(texts)).last_hidden_state).sample
        error = ((prediction - eps).square() * (1 / signal).clamp(max=_MAX_LAYOUT_WEIGHT) / 4).mean()
        error.backward()
        optimiser.step(step, progress)
        average.update(step)
        losses.add(step, progress, error.item())
        if time.monotonic() - saved > _SAVE_SECONDS:
            model.save(out)
            saved = time.monotonic()
    model.save(out)


def _timesteps(generator: torch.Generator) -> Tensor:
    """Timesteps [_BATCH] spread evenly: every other one over all of the schedule, the rest over its noisier part."""
    spread = (torch.arange(_BATCH) + torch.rand(_BATCH, generator=generator)) / _BATCH
    return torch.where(torch.arange(_BATCH) % 2 == 0, 1000 * spread, 400 + 600 * spread).long()


def train(
    minutes: float, seed: int, out: Path, log: Log = print, start: Path | None = None, pictures: int = 18_000
) -> None:  # fmt: skip
    """Make the checkpoint from nothing on the CPU: VAE in a quarter of the time, then UNet and text encoder together.

    The packaged weights came about in the same stages, on one core: the VAE in 12 minutes; UNet and text encoder, 6000
    steps in 68 minutes; the VAE's decoder alone, 740 steps in 9 minutes. What this function makes from nothing in one go
    has not been measured.

    Args:
        minutes: wall-clock time; 90 for about as many steps.
        out: the .safetensors to write, with its .yaml beside it.
        start: a checkpoint whose UNet and text encoder are to be trained on; its VAE stays.
        pictures: how many to encode as training data.

    Raises:
        ImportError: diffusers or transformers are missing.
        ValueError: minutes not positive.
    """
    if not minutes > 0:
        raise ValueError(f"minutes = {minutes} is not above 0")
    torch.manual_seed(seed)
    began = time.monotonic()
    model = ShapesSD1.untrained() if start is None else ShapesSD1.load(start)
    if start is None:
        train_vae(model, minutes / 4, seed, log)
    latents, prompts = encoded(model, pictures, seed, log)
    train_unet(model, latents, prompts, minutes - (time.monotonic() - began) / 60, seed, out, log)
