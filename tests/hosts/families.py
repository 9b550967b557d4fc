"""The kinds of models that hosts load: what each is called in the document, and how the tests have it draw."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Family:
    """One kind of model."""

    part: str
    """What the names of its checkpoints have in them."""
    title: str
    flow: bool = False
    how: dict = field(default_factory=dict)
    """What its pictures need of a request."""
    modules: tuple[str, ...] = ()
    """Folders under models/ whose files it needs besides itself, on the hosts that ask for them."""
    shows_pictures: bool = False
    """Whether it looks at the picture that img2img starts from, besides starting from it."""
    video: bool = False
    pipeline: str = ""
    """diffusers' class for it, of which docs/diffusers.md says what happens."""


_SIMPLE = {"scheduler": "Simple"}
"""For those that come out black with "Automatic"."""
_FLUX = {**_SIMPLE, "cfg_scale": 1.0}
_BESIDE = ("VAE", "text_encoder")
FAMILIES = (
    Family("inpaint", "SD1 inpainting, 9 channels", pipeline="StableDiffusionInpaintPipeline"),
    Family("sdxl-refiner", "SDXL refiner", pipeline="StableDiffusionXLImg2ImgPipeline"),
    Family("sdxl-rectified", "SDXL, rectified flow", flow=True, how=_SIMPLE),
    Family("sdxl-v-ztsnr", "SDXL v, zero terminal SNR"),
    Family("sdxl-v", "SDXL v"),
    Family("sdxl", "SDXL eps", pipeline="StableDiffusionXLPipeline"),
    Family("mugen", "Mugen (SDXL's network with 32 channels, flow)", flow=True, how=_SIMPLE),
    Family("sd3", "SD3", flow=True, pipeline="StableDiffusion3Pipeline"),
    Family("sd2-v", "SD2 v"),
    Family("sd1-v", "SD1 v"),
    Family("sd1", "SD1 eps", pipeline="StableDiffusionPipeline"),
    Family("kontext", "Flux Kontext", flow=True, how=_FLUX, shows_pictures=True, pipeline="FluxKontextPipeline"),
    Family("klein", "Flux.2 Klein", flow=True, shows_pictures=True, pipeline="Flux2KleinPipeline"),
    Family("flux-schnell", "Flux without guidance embedding (schnell's shape)", flow=True, how=_FLUX, modules=_BESIDE),
    Family(
        "flux", "Flux with guidance embedding (dev's shape)", flow=True, how=_FLUX, modules=_BESIDE, pipeline="FluxPipeline"
    ),
    Family("chroma", "Chroma", flow=True, pipeline="ChromaPipeline"),
    Family("z-image", "Z-Image", flow=True, pipeline="ZImagePipeline"),
    Family("qwen-image-edit", "Qwen-Image-Edit", flow=True, shows_pictures=True, pipeline="QwenImageEditPipeline"),
    Family("qwen-image", "Qwen-Image", flow=True, pipeline="QwenImagePipeline"),
    Family("lumina", "Lumina 2", flow=True, pipeline="Lumina2Pipeline"),
    Family("anima", "Anima", flow=True),
    Family("krea", "Krea 2", flow=True, pipeline="Krea2Pipeline"),
    Family("ernie", "Ernie-Image", flow=True, pipeline="ErnieImagePipeline"),
    Family("wan", "Wan text-to-video", flow=True, how=_SIMPLE, video=True, pipeline="WanPipeline"),
)
_UNKNOWN = Family("", "another model")


def family_of(checkpoint: str) -> Family:
    """The kind of a checkpoint, by its file's name: the first that fits."""
    return next((family for family in FAMILIES if family.part in checkpoint), _UNKNOWN)
