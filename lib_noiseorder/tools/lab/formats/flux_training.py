"""Training of the FLUX.1-format checkpoint of `flux` on the CPU: the text encoders first, then the transformer alone."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import world
from ..optimiser import Averaged, Log, LossLog, Optimiser, clock, require_time
from ..world import Prompt
from . import sd1
from .flux import CLIP, SCALE, T5, VOCABULARY, ShapesFlux, packed, token_ids
from .sd1_training import encoded

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


def train_text(model: ShapesFlux, minutes: float, seed: int, log: Log) -> None:
    """Teach the text encoders what the words say before any picture is seen; afterwards they stay as they are.

    Every token of T5's before the relation must tell side, colour and shape of its thing, every one after it those of the
    other thing, CLIP's pooled vector those of both. Colour and shape are asked for separately: an encoder that learns pairs,
    or learns from pictures, has no use for the pairs that it hardly ever meets.
    """
    rng = np.random.default_rng(seed)
    of_token, of_prompt = nn.Linear(T5["d_model"], sum(_ANSWERS)), nn.Linear(CLIP["hidden_size"], 2 * sum(_ANSWERS))
    trained = (model.t5, model.clip, of_token, of_prompt)
    optimiser = Optimiser([named for module in trained for named in module.named_parameters()], _INNER, _PEAK)
    for step, progress in clock(minutes):
        prompts = [world.random_prompt(rng, uniform=step % 2 == 0) for _ in range(2 * _BATCH)]
        ids = token_ids([sd1.wording(prompt, rng) for prompt in prompts])
        relation = (ids >= VOCABULARY["left"]) & (ids <= VOCABULARY["below"])
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
    latents, prompts = encoded(averaged.sd1, pictures, 1, log, SCALE)
    torch.manual_seed(seed)
    live = ShapesFlux.untrained()
    train_text(live, minutes * _TEXT_SHARE, seed, log)
    train_transformer(live, averaged, packed(latents), prompts, minutes * (1 - _TEXT_SHARE), seed, out, log)


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
