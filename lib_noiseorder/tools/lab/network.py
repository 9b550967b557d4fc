"""The lab's model: convolutions and joint attention on an 8×8 grid of 3×3-pixel patches, 1.2 M parameters."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .world import SIZE, TOKENS, VOCABULARY

PATCH = 3
GRID = SIZE // PATCH


class FlatConv(nn.Module):
    """3×3 convolution whose weight is kept as a matrix, so that a matrix optimiser (Muon) can train it."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs * 9) / math.sqrt(inputs * 9))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight.view(len(self.weight), -1, 3, 3), self.bias, padding=1)


class ResidualBlock(nn.Module):
    """Two convolutions, scaled and shifted by time and text."""

    def __init__(self, width: int):
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(8, width), FlatConv(width, width)
        self.norm2, self.conv2 = nn.GroupNorm(8, width, affine=False), FlatConv(width, width)
        self.film = nn.Linear(width * 2, 3 * width)
        nn.init.zeros_(self.film.weight)
        nn.init.zeros_(self.film.bias)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        scale, shift, gate = self.film(condition)[..., None, None].chunk(3, 1)
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(shift + self.norm2(h) * (1 + scale)))
        return x + h * (0.3 + gate)


class JointAttention(nn.Module):
    """Every patch attends to all patches and all words."""

    def __init__(self, width: int, heads: int = 4):
        super().__init__()
        self.heads = heads
        self.norm, self.position = nn.LayerNorm(width), nn.Parameter(torch.randn(1, GRID * GRID, width) * 0.3)
        self.query, self.key_value = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.text_key_value, self.out = nn.Linear(width, 2 * width), nn.Linear(width, width)

    def forward(self, x: Tensor, words: Tensor) -> Tensor:
        batch, width = x.shape[:2]
        patches = self.norm(x.flatten(2).transpose(1, 2)) + self.position
        key_value = torch.cat([self.key_value(patches), self.text_key_value(words)], 1)
        key, value = key_value.view(batch, -1, 2, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        query = self.query(patches).view(batch, -1, self.heads, width // self.heads).transpose(1, 2)
        mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(batch, -1, width)
        return x + self.out(mixed).transpose(1, 2).view_as(x)


class ShapesNet(nn.Module):
    """Predicts eps or velocity [B, 3, SIZE, SIZE] from a noisy picture, its time and its prompt."""

    def __init__(self, width: int = 64, depth: int = 6):
        super().__init__()
        channels = 3 * PATCH * PATCH
        self.stem, self.position = FlatConv(channels, width), nn.Parameter(torch.randn(1, width, GRID, GRID) * 0.3)
        self.words = nn.Embedding(VOCABULARY, width)
        self.word_position = nn.Parameter(torch.randn(1, TOKENS, width) * 0.3)
        self.text = nn.Sequential(nn.Linear(TOKENS * width, 2 * width), nn.SiLU(), nn.Linear(2 * width, 2 * width))
        self.time = nn.Sequential(nn.Linear(64, width), nn.SiLU(), nn.Linear(width, 2 * width))
        self.blocks = nn.ModuleList(ResidualBlock(width) for _ in range(depth))
        self.attentions = nn.ModuleList(JointAttention(width) for _ in range(depth // 2))
        self.layout = nn.Sequential(
            nn.Linear(TOKENS * width, 256), nn.SiLU(), nn.Linear(256, 256), nn.SiLU(), nn.Linear(256, 16 * GRID * GRID)
        )  # fmt: skip
        self.layout_out = nn.Conv2d(16, width, 1)
        self.norm, self.out = nn.GroupNorm(8, width), nn.Conv2d(width, channels, 3, padding=1)
        for zeroed in (self.layout_out, self.out):
            nn.init.zeros_(zeroed.weight)
            nn.init.zeros_(zeroed.bias)

    def forward(self, x: Tensor, time: Tensor, tokens: Tensor) -> Tensor:
        """x [B, 3, SIZE, SIZE]; time [B] in 0..1, 1 = pure noise; tokens [B, TOKENS]."""
        words = self.words(tokens) + self.word_position
        sentence = words.flatten(1)
        condition = F.silu(self.time(_sinusoids(time)) + self.text(sentence))
        h = self.stem(F.pixel_unshuffle(x, PATCH)) + self.position
        h = h + self.layout_out(self.layout(sentence).view(-1, 16, GRID, GRID))
        for index, block in enumerate(self.blocks):
            h = block(h, condition)
            if index % 2 == 0:
                h = self.attentions[index // 2](h, words)
        return F.pixel_shuffle(self.out(F.silu(self.norm(h))), PATCH)


def _sinusoids(time: Tensor) -> Tensor:
    frequencies = torch.exp(-math.log(1000.0) * torch.arange(32, device=time.device) / 31)
    angles = time[:, None].float() * 1000 * frequencies
    return torch.cat([angles.sin(), angles.cos()], 1)
