"""A tiny extension for the tests: repaints every picture by a job of its own inside the host's job, as ADetailer does."""

import gradio
from modules import processing, scripts


class InnerPicture(scripts.Script):
    def title(self):
        return "Inner picture"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def ui(self, is_img2img):
        return [gradio.Checkbox(False, label="Repaint every picture")]

    def postprocess_image(self, p, shown, repaint=False, *args):
        if not repaint or getattr(p, "is_inner_picture", False):
            return
        inner = processing.StableDiffusionProcessingImg2Img(
            init_images=[shown.image], prompt=p.prompt, seed=p.seed, steps=p.steps, cfg_scale=p.cfg_scale, width=p.width,
            height=p.height, sampler_name=p.sampler_name, denoising_strength=0.7,
            do_not_save_samples=True, do_not_save_grid=True, **({"scheduler": p.scheduler} if hasattr(p, "scheduler") else {}),
        )  # fmt: skip
        inner.scripts, inner.script_args, inner.is_inner_picture = p.scripts, p.script_args, True
        shown.image = processing.process_images(inner).images[0]
        p.extra_generation_params["Inner picture"] = inner.extra_generation_params.get("Noise Order evaluations", "left alone")
