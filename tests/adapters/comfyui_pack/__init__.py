"""Nodes for the tests inside ComfyUI: tiny random models of its own classes, prompts without a text encoder, a counter."""

import hashlib

import comfy.model_patcher
import comfy.supported_models
import torch

from . import others, watching

CONFIGS = {
    "sd15": (comfy.supported_models.SD15, {
        "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32, "num_res_blocks": [1, 1],
        "transformer_depth": [0, 1], "transformer_depth_output": [0, 0, 1, 1], "transformer_depth_middle": 1,
        "channel_mult": (1, 2), "context_dim": 16, "use_spatial_transformer": True, "use_linear_in_transformer": False,
        "adm_in_channels": None, "num_classes": None, "legacy": False, "use_temporal_attention": False,
    }),
    "flux": (comfy.supported_models.Flux, {
        "image_model": "flux", "in_channels": 16, "out_channels": 16, "patch_size": 2, "vec_in_dim": 16, "context_in_dim": 16,
        "hidden_size": 32, "mlp_ratio": 2.0, "num_heads": 2, "depth": 1, "depth_single_blocks": 1, "axes_dim": [4, 6, 6],
        "theta": 10000, "qkv_bias": True, "guidance_embed": True,
    }),
    "wan": (comfy.supported_models.WAN21_T2V, {
        "image_model": "wan2.1", "dim": 32, "in_dim": 16, "out_dim": 16, "num_heads": 2, "ffn_dim": 32, "num_layers": 1,
        "patch_size": (1, 2, 2), "freq_dim": 16, "text_dim": 16, "window_size": (-1, -1), "qk_norm": True,
        "cross_attn_norm": True, "eps": 1e-6, "model_type": "t2v",
    }),
}  # fmt: skip


class TinyModel:
    """A random model of one of the host's own kinds; every evaluation is written down, the `fail_at`-th one fails."""

    RETURN_TYPES, FUNCTION, CATEGORY = ("MODEL",), "make", "test"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"kind": (list(CONFIGS),), "fail_at": ("INT", {"default": 0})}}

    def make(self, kind, fail_at):
        base, unet_config = CONFIGS[kind]
        config = base(unet_config)
        config.set_inference_dtype(torch.float32, None)
        model = config.get_model({}, "", device=torch.device("cpu"))
        generator = torch.Generator().manual_seed(0)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(False)
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
            if "norm" in name and name.endswith(("weight", "scale")):
                parameter.data += 1
        network = model.diffusion_model
        network.__class__ = counting(type(network), fail_at)  # nothing that looks like another node's patch
        return (comfy.model_patcher.ModelPatcher(model, torch.device("cpu"), torch.device("cpu")),)


def counting(network, fail_at):
    """A kind of network that writes down every evaluation."""

    class Counting(network):
        def forward(self, x, timesteps, *args, **kwargs):
            seen = watching.seen()
            seen.append((len(x), float(timesteps.flatten()[0])))
            if len(seen) == fail_at:
                raise RuntimeError("the test's model fails here")
            return super().forward(x, timesteps, *args, **kwargs)

    return Counting


class TinyPrompt:
    """A conditioning made from the text's hash."""

    RETURN_TYPES, FUNCTION, CATEGORY = ("CONDITIONING",), "make", "test"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"text": ("STRING", {"default": ""})}}

    def make(self, text):
        generator = torch.Generator().manual_seed(int(hashlib.sha256(text.encode()).hexdigest()[:8], 16))
        embedding = torch.randn(1, 8, 16, generator=generator)
        return ([[embedding, {"pooled_output": torch.randn(1, 16, generator=generator)}]],)


class TinyVAE:
    """Shows three channels of a latent, as the host's own would: [B, H, W, 3], of a video [B, frames, H, W, 3]."""

    RETURN_TYPES, FUNCTION, CATEGORY = ("VAE",), "make", "test"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}

    def make(self):
        return (self,)

    def decode(self, latent):
        return torch.sigmoid(latent[:, :3]).movedim(1, -1)


NODE_CLASS_MAPPINGS = {"TinyModel": TinyModel, "TinyPrompt": TinyPrompt, "TinyVAE": TinyVAE, **others.NODE_CLASS_MAPPINGS}
