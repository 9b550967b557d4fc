"""The pictograms' model: a small diffusion transformer with cross-attention to the words, 2.2 M parameters."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .scenes import SIZE, TOKENS, VOCABULARY

PATCH = 4
GRID = SIZE // PATCH
_WIDTH, _DEPTH, _HEADS = 128, 6, 4
_MODULATIONS = 8
"""Per block: scale, gate and shift of self-attention, scale and gate of cross-attention, scale, gate and shift of the MLP."""


class Block(nn.Module):
    """Self-attention, cross-attention and an MLP, each scaled and gated by time and text."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm_self, self.norm_cross, self.norm_mlp = (nn.LayerNorm(width, elementwise_affine=False) for _ in range(3))
        self.self_in, self.self_out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.cross_query, self.cross_words = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.cross_out = nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.modulation = nn.Parameter(torch.zeros(_MODULATIONS, width))
        self.modulation_in = nn.Linear(width, 32, bias=False)
        self.modulation_out = nn.Linear(32, _MODULATIONS * width, bias=False)
        nn.init.zeros_(self.modulation_out.weight)

    def forward(self, x: Tensor, words: Tensor, shared: Tensor, condition: Tensor) -> Tensor:
        """x [B, patches, width]; words [B, TOKENS, width]; shared [B, 8, width] and condition [B, width] modulate."""
        own = self.modulation_out(self.modulation_in(condition)).view(shared.shape)
        modulations = (shared + own + self.modulation)[:, :, None].unbind(1)
        scale_self, gate_self, shift_self, scale_cross, gate_cross, scale_mlp, gate_mlp, shift_mlp = modulations
        h = self.norm_self(x) * (1 + scale_self) + shift_self
        x = x + (0.5 + gate_self) * self.self_out(self._attend(*self.self_in(h).chunk(3, -1)))
        query = self.cross_query(self.norm_cross(x) * (1 + scale_cross))
        x = x + (0.5 + gate_cross) * self.cross_out(self._attend(query, *self.cross_words(words).chunk(2, -1)))
        h = self.norm_mlp(x) * (1 + scale_mlp) + shift_mlp
        return x + (0.5 + gate_mlp) * self.down(F.gelu(self.up(h), approximate="tanh"))

    def _attend(self, *query_key_value: Tensor) -> Tensor:
        split = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in query_key_value)
        return F.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2)


class PictogramsNet(nn.Module):
    """Predicts v (of an eps model) or the velocity [B, 3, SIZE, SIZE] from a noisy picture, its time and its prompt."""

    def __init__(self) -> None:
        super().__init__()
        width, channels = _WIDTH, 3 * PATCH * PATCH
        self.stem, self.position = nn.Linear(channels, width), nn.Parameter(torch.randn(1, GRID * GRID, width) * 0.3)
        self.words, self.word_position = nn.Embedding(VOCABULARY, width), nn.Parameter(torch.randn(1, TOKENS, width) * 0.3)
        self.word_small, self.word_mix = nn.Linear(width, 64), nn.Linear(TOKENS * 64, width)
        self.text = nn.Sequential(nn.Linear(TOKENS * 64, 256), nn.SiLU(), nn.Linear(256, width))
        self.time = nn.Sequential(nn.Linear(64, width), nn.SiLU(), nn.Linear(width, width))
        self.modulation = nn.Linear(width, _MODULATIONS * width)
        self.blocks = nn.ModuleList(Block(width, _HEADS) for _ in range(_DEPTH))
        self.norm, self.modulation_last = nn.LayerNorm(width, elementwise_affine=False), nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, channels)
        for zeroed in (self.modulation, self.modulation_last, self.out):
            nn.init.zeros_(zeroed.weight)
            nn.init.zeros_(zeroed.bias)

    def forward(self, x: Tensor, time: Tensor, tokens: Tensor) -> Tensor:
        """x [B, 3, SIZE, SIZE]; time [B] in 0..1, 1 = the noisiest; tokens [B, TOKENS]."""
        words = self.words(tokens) + self.word_position
        sentence = self.word_small(words).flatten(1)
        words = words + 0.5 * self.word_mix(sentence)[:, None]
        condition = F.silu(self.time(_sinusoids(time)) + self.text(sentence))
        shared = self.modulation(condition).unflatten(1, (_MODULATIONS, -1))
        h = self.stem(F.pixel_unshuffle(x, PATCH).flatten(2).transpose(1, 2)) + self.position
        for block in self.blocks:
            h = block(h, words, shared, condition)
        scale, shift = self.modulation_last(condition)[:, None].chunk(2, -1)
        patches = self.out(self.norm(h) * (1 + scale) + shift)
        return F.pixel_shuffle(patches.transpose(1, 2).unflatten(2, (GRID, GRID)), PATCH)


def _sinusoids(time: Tensor) -> Tensor:
    frequencies = torch.exp(-math.log(1000.0) * torch.arange(32, device=time.device) / 31)
    angles = time[:, None].float() * 1000 * frequencies
    return torch.cat([angles.sin(), angles.cos()], 1)
