"""Tiny pipelines of the families that diffusers has: denoising models of its own classes with random weights, and stand-ins for
what only prepares a prompt or decodes latents. Nothing is downloaded."""

import contextlib
import inspect
import sys
import zlib
from types import SimpleNamespace
from typing import ClassVar

import diffusers
import torch
from PIL import Image

from .tiny_models import DENOISERS, UNET_XL, WIDTH


class Tokens(dict):
    """What a tokenizer gives: indexed, or by attribute."""

    __getattr__ = dict.__getitem__

    def to(self, *args, **kwargs):
        return self


class Tokenizer:
    """Every word is a number of its own; texts are filled up to the length that is asked for."""

    model_max_length, pad_token_id, eos_token_id, bos_token_id, padding_side = 77, 0, 1, 2, "right"
    pad_token = eos_token = "<pad>"
    tokenizer = property(lambda self: self)

    def __call__(self, text=None, *args, padding=None, max_length=None, **kwargs):
        texts = kwargs.get("text", text)
        texts = [texts] if isinstance(texts, str) else list(texts)
        length = max_length if max_length and padding == "max_length" else 64
        rows = []
        for words in texts:
            ids = [zlib.crc32(word.encode()) % 90 + 5 for word in str(words).split()][:length]
            rows.append(ids + [0] * (length - len(ids)))
        ids = torch.tensor(rows)
        return Tokens(
            input_ids=ids, attention_mask=torch.ones_like(ids), position_ids=ids, length=torch.tensor([length] * len(texts))
        )

    def apply_chat_template(self, messages, *args, tokenize=True, **kwargs):
        return self(str(messages), **kwargs) if tokenize else str(messages)

    def batch_decode(self, ids, *args, **kwargs):
        return ["" for _ in ids]

    def tokenize(self, text):
        return str(text).split()

    added_tokens_encoder: ClassVar = {}

    def encode(self, text, *args, **kwargs):
        return self(text)["input_ids"][0].tolist()[: len(text.split())]

    def decode(self, *args, **kwargs):
        return ""

    def convert_ids_to_tokens(self, ids):
        return [str(number) for number in ids]

    def pad(self, *args, **kwargs):
        raise NotImplementedError


class TextOutput(Tokens):
    def __getitem__(self, key):
        return dict.__getitem__(self, key) if isinstance(key, str) else dict.__getitem__(self, list(self)[key])


class TextEncoder(torch.nn.Module):
    """A table of words."""

    def __init__(self, width=WIDTH, layers=48, pooled_first=False):
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.table = torch.nn.Parameter(torch.randn(100, width, generator=generator))
        sizes = {"hidden_size": width, "projection_dim": width, "d_model": width, "num_hidden_layers": layers}
        self.config = SimpleNamespace(**sizes, text_config=SimpleNamespace(**sizes), use_attention_mask=False)
        self._layers, self._pooled_first = layers, pooled_first

    dtype = property(lambda self: self.table.dtype)
    device = property(lambda self: self.table.device)
    model = language_model = shared = property(lambda self: self)

    def get_encoder(self):
        return self

    def forward(self, input_ids=None, *args, **kwargs):
        states = self.table[input_ids % 100]
        pooled = states.mean(1)
        last = {"text_embeds": pooled} if self._pooled_first else {}
        layers = (states,) * (self._layers + 1)
        return TextOutput(**last, last_hidden_state=states, pooler_output=pooled, hidden_states=layers)


class Vae(torch.nn.Module):
    """Sizes, and latents without a picture."""

    def __init__(self, channels=4, scale=8, frames=4):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        levels = scale.bit_length()
        self.config = SimpleNamespace(
            block_out_channels=[8] * levels, encoder_block_out_channels=[8] * levels, down_block_types=["x"] * levels,
            latent_channels=channels, z_dim=channels, scaling_factor=1.0, shift_factor=0.0, latents_mean=[0.0] * channels,
            latents_std=[1.0] * channels, temperal_downsample=[False, True, True], scale_factor_spatial=scale,
            scale_factor_temporal=frames, spatial_compression_ratio=scale, temporal_compression_ratio=frames,
            force_upcast=False, sample_size=64, invert_scale_latents=False, patch_size=None, in_channels=3,
            batch_norm_eps=1e-5, downscale_freq_shift=0.0, dim_mult=[1] * levels, scale_factor=scale, vae_scale_factor=scale,
        )  # fmt: skip
        self.temperal_downsample = self.config.temperal_downsample
        self.spatial_compression_ratio, self.temporal_compression_ratio = scale, frames
        self.z_dim = self.latent_channels = channels
        self.latents_mean, self.latents_std = torch.zeros(channels), torch.ones(channels)
        self.bn = torch.nn.BatchNorm2d(4 * channels)
        self.channels, self.scale, self.frames = channels, scale, frames

    dtype = property(lambda self: self.weight.dtype)
    device = property(lambda self: self.weight.device)

    def encode(self, picture, *args, **kwargs):
        small = picture[..., :: self.scale, :: self.scale].mean(1, keepdim=True)
        small = small[:, :, :: self.frames] if small.ndim == 5 else small
        latents = small.repeat(1, self.channels, *[1] * (small.ndim - 2))
        distribution = SimpleNamespace(sample=lambda generator=None: latents, mode=lambda: latents)
        return SimpleNamespace(latent_dist=distribution)


def flow(**more):
    return diffusers.FlowMatchEulerDiscreteScheduler(**more)


def shifting():
    return flow(use_dynamic_shifting=True)


def betas(kind, **more):
    return kind(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", **more)


def ddim():
    return betas(diffusers.DDIMScheduler, clip_sample=False, set_alpha_to_one=False, steps_offset=1)


def pipeline_classes():
    """Every pipeline of the installed diffusers, by name, those that another library is missing for as well."""
    names = [
        name for name in sorted(dir(diffusers)) if name.endswith("Pipeline") and not name.startswith(("Auto", "Diffusion"))
    ]
    found = {name: getattr(diffusers, name) for name in names}
    with contextlib.suppress(ImportError):  # which the package leaves out where only its tokenizer's library is missing
        from diffusers.pipelines.kolors.pipeline_kolors import KolorsPipeline

        found["KolorsPipeline"] = KolorsPipeline
    return {name: kind for name, kind in found.items() if inspect.isclass(kind)}


def built(kind):
    """A tiny pipeline of a class.

    Raises:
        NotImplementedError: a part of it is not known here.
    """
    torch.manual_seed(0)
    vars(sys.modules[kind.__module__]).setdefault("ftfy", SimpleNamespace(fix_text=str))  # what only tidies texts
    parts = {}
    for name, parameter in list(inspect.signature(kind.__init__).parameters.items())[1:]:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise NotImplementedError("another library is missing")
        parts[name] = _part(kind, name, parameter, parts)
    pipe = kind(**parts)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _part(kind, name, parameter, parts):
    if name == "scheduler":
        return scheduler(kind, parameter.annotation)
    if "unet" in name or "transformer" in name:
        return denoiser(kind, parameter.annotation, parts)
    if name == "controlnet":
        return controlnet(parameter.annotation, parts)
    if name.startswith(("text_encoder", "bert")) and "layers" not in name:
        pooled = "XL" in kind.__name__ or kind.__name__.startswith(("StableDiffusion3", "HiDream"))
        if kind.__name__.startswith("StableDiffusion3") and name.endswith("_3"):
            return None
        return TextEncoder(layers=1 if "Krea" in kind.__name__ else 48, pooled_first=pooled and not name.endswith(("_3", "_4")))
    if name.startswith(("tokenizer", "processor", "text_processor")):
        return Tokenizer()
    if name in ("vae", "movq", "vqgan"):
        return vae(kind)
    if name == "guider":
        return diffusers.guiders.ClassifierFreeGuidance() if parameter.default is parameter.empty else None
    if name == "text_encoder_select_layers":
        return [0, 1]
    if name in ("requires_safety_checker", "add_watermarker"):
        return False
    if name in (
        "safety_checker",
        "pe",
        "pe_tokenizer",
        "feature_extractor",
        "image_encoder",
        "image_processor",
        "text_encoder_select_layers",
    ):
        return None
    if parameter.default is not parameter.empty:
        return parameter.default
    raise NotImplementedError(f"its {name} has no small one here")


def _classes(annotation):
    kinds = getattr(annotation, "__args__", (annotation,))
    return [kind for kind in kinds if inspect.isclass(kind)]


def scheduler(kind, annotation):
    names = [one.__name__ for one in _classes(annotation)]
    if kind.__name__.startswith(("Wan", "SkyReels", "ChronoEdit", "Lucy")):
        return diffusers.UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    if kind.__name__.startswith("Sana") and "DPMSolverMultistepScheduler" in names:
        return flow(shift=3.0)
    if any("FlowMatchEuler" in name for name in names) or "Motif" in kind.__name__:
        return flow()
    if any("CogVideoX" in name for name in names):
        return diffusers.CogVideoXDDIMScheduler(
            prediction_type="v_prediction", rescale_betas_zero_snr=True, snr_shift_scale=3.0
        )
    own = next((one for one in _classes(annotation) if one.__name__ in ("LCMScheduler", "SCMScheduler", "DDPMScheduler")), None)
    return own() if own else ddim()


def denoiser(kind, annotation, parts):
    known = [one for one in _classes(annotation) if one.__name__ in DENOISERS]
    if not known:
        names = ", ".join(one.__name__ for one in _classes(annotation)) or str(annotation)
        raise NotImplementedError(f"no small {names} here")
    values = dict(DENOISERS[known[0].__name__])
    if known[0].__name__ == "UNet2DConditionModel" and ("XL" in kind.__name__ or "Kolors" in kind.__name__):
        values = dict(UNET_XL)
    if "LatentConsistency" in kind.__name__:
        values["time_cond_proj_dim"] = 16
    if "InstructPix2Pix" in kind.__name__:
        values["in_channels"] = 8
    if "Control" in kind.__name__ and "ControlNet" not in kind.__name__:
        values["in_channels"] *= 2
    if "ImageToVideo" in kind.__name__ and "Wan" in kind.__name__:
        values["in_channels"] = 12
    return known[0](**values).eval()


def controlnet(annotation, parts):
    for one in _classes(annotation):
        if hasattr(one, "from_unet") and "unet" in parts:
            return one.from_unet(parts["unet"], conditioning_embedding_out_channels=(4, 4, 8, 8)).eval()
        if hasattr(one, "from_transformer") and "transformer" in parts:
            small = {
                "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 16, "num_attention_heads": 2,
                "load_weights_from_transformer": False, "num_extra_conditioning_channels": 0,
            }  # fmt: skip
            known = inspect.signature(one.from_transformer).parameters
            if known.keys() >= {"num_layers"}:
                return one.from_transformer(
                    parts["transformer"], **{name: value for name, value in small.items() if name in known}
                ).eval()
    raise NotImplementedError("no small ControlNet here")


def vae(kind):
    name = kind.__name__
    channels = 4
    return Vae(channels, scale=16 if name.startswith(("HunyuanImage", "QwenImage21")) else 8)


def call_of(kind, steps=4):
    """The arguments of a small call."""
    picture = Image.new("RGB", (64, 64), "red")
    usual = {
        "prompt": "a red circle", "num_inference_steps": steps, "height": 64, "width": 64, "max_sequence_length": 16,
        "num_frames": 5, "video_length": 2, "use_resolution_binning": False,
    }  # fmt: skip
    known = inspect.signature(kind.__call__).parameters
    call = {name: value for name, value in usual.items() if name in known}
    if "SanaSprint" in kind.__name__:
        call["num_inference_steps"] = 2
    for name, parameter in known.items():
        if name in ("image", "control_image", "input_image", "mask_image") and parameter.default in (parameter.empty, None):
            call[name] = picture
        if name == "video":
            call[name] = [picture] * 5
    return call
