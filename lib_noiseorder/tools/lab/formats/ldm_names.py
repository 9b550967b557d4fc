"""What diffusers' and transformers' tensors are called in a checkpoint of Stable Diffusion 1 (ldm)."""

from __future__ import annotations

import re
from collections.abc import Sequence


def text_name(name: str) -> str:
    """ldm's name of a tensor of transformers' CLIPTextModel."""
    return name if name.startswith("text_model.") else f"text_model.{name}"  # transformers 5 dropped the prefix


_UNET_OUTER_NAMES = {
    "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
}  # fmt: skip
_RESNET_NAMES = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
    "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip


def unet_name(name: str, layers_per_block: int, up_block_types: Sequence[str]) -> str:
    """ldm's name of a tensor of diffusers' UNet of this configuration."""
    head, _, rest = name.rpartition(".")
    if head in _UNET_OUTER_NAMES:
        return f"{_UNET_OUTER_NAMES[head]}.{rest}"
    kind, *path = name.split(".")
    if kind == "mid_block":
        part, index, *rest = path
        place = "middle_block.1" if part == "attentions" else f"middle_block.{2 * int(index)}"
    else:
        level, part, index, *rest = path
        per_level = layers_per_block + 1
        first = int(level) * per_level
        if part == "downsamplers":
            return f"input_blocks.{first + per_level}.0.op.{rest[-1]}"
        if part == "upsamplers":
            attends = up_block_types[int(level)].startswith("CrossAttn")
            return f"output_blocks.{first + per_level - 1}.{1 + attends}.conv.{rest[-1]}"
        block = f"input_blocks.{1 + first + int(index)}" if kind == "down_blocks" else f"output_blocks.{first + int(index)}"
        place = f"{block}.{int(part == 'attentions')}"
    if part == "resnets":
        rest = [_RESNET_NAMES[rest[0]], *rest[1:]]
    return ".".join([place, *rest])


_VAE_ATTENTION_NAMES = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def vae_name(name: str, levels: int) -> str:
    """ldm's name of a tensor of diffusers' AutoencoderKL with so many levels of resolution."""
    name = re.sub(r"down_blocks\.(\d+)\.resnets\.(\d+)", r"down.\1.block.\2", name)
    name = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d+)\.resnets\.(\d+)", lambda m: f"up.{levels - 1 - int(m[1])}.block.{m[2]}", name)
    name = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0", lambda m: f"up.{levels - 1 - int(m[1])}.upsample", name)
    name = re.sub(r"mid_block\.resnets\.(\d+)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    name = re.sub(
        r"mid_block\.attentions\.0\.(group_norm|to_q|to_k|to_v|to_out\.0)",
        lambda m: f"mid.attn_1.{_VAE_ATTENTION_NAMES[m[1]]}",
        name,
    )
    return name.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
