"""A tiny extension for the tests: counts what the diffusion model really evaluates, and what the panel said beforehand.

Counted on the network's class, in code that looks like the host's own: nothing may hang on the network itself.
"""

import json
import sys

from modules import scripts


def network_of(sd_model):
    objects = getattr(sd_model, "forge_objects", None)
    return (objects.unet.model if objects else sd_model.model).diffusion_model


def count(kind):
    if hasattr(kind, "rows_evaluated"):
        return
    forward = kind.forward

    def counting(self, *args, **kwargs):
        kind.rows_evaluated += len(args[0] if args else kwargs["x"])
        return forward(self, *args, **kwargs)

    counting.__code__ = counting.__code__.replace(co_filename=forward.__code__.co_filename)
    kind.forward, kind.rows_evaluated = counting, 0


def page_of(p):
    """What the page would say of a job."""
    hires, masked = None, getattr(p, "image_mask", None) is not None or getattr(p, "nmask", None) is not None
    if getattr(p, "enable_hr", False):
        hires = {
            "sampler": p.hr_sampler_name or p.sampler_name, "scheduler": getattr(p, "hr_scheduler", None) or "",
            "guidance": getattr(p, "hr_cfg", None), "steps": p.hr_second_pass_steps, "denoising": p.denoising_strength,
        }  # fmt: skip
    return {
        "steps": p.steps, "sampler": p.sampler_name, "guidance": p.cfg_scale, "hires": hires, "script": False, "seeds": [""],
        "scheduler": getattr(p, "scheduler", None) or "Automatic", "masked": masked,
        "denoising": p.denoising_strength if hasattr(p, "init_images") else None, "prompt": p.prompt,
    }  # fmt: skip


def said_by_the_panel(p):
    """The cost line; None without Noise Order, or where it is off."""
    panel, ours = sys.modules.get("lib_noiseorder.webui.panel.cost_line"), sys.modules.get("lib_noiseorder")
    script = next((one for one in p.scripts.alwayson_scripts if one.title() == "Noise Order"), None)
    if panel is None or script is None:
        return None
    try:
        settings = ours.NoiseOrderSettings.from_args(p.script_args[script.args_from : script.args_to])
        page = panel.Page.read(json.dumps(page_of(p)))
    except ValueError:
        return None
    return panel.cost_line(settings, page, panel.Loaded.now(), None)[0] if settings.enabled else None


class CountEvaluations(scripts.Script):
    def title(self):
        return "Count evaluations"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def ui(self, is_img2img):
        return []

    def process(self, p, *args):
        p.panel_said = said_by_the_panel(p)

    def process_batch(self, p, *args, **kwargs):
        kind = type(network_of(p.sd_model))
        count(kind)
        p.counting = kind, kind.rows_evaluated

    def postprocess_batch(self, p, *args, **kwargs):
        kind, before = p.counting
        p.extra_generation_params["Counted evaluations"] = (kind.rows_evaluated - before) / p.batch_size
        if p.panel_said is not None:
            p.extra_generation_params["Panel said"] = p.panel_said
