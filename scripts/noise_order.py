"""The WebUI's door: hooks and nothing else."""

from modules import scripts

if hasattr(scripts.Script, "process_before_every_sampling"):
    from lib_noiseorder.webui import extension
    from lib_noiseorder.webui.panel import cost_line, grid_axes, panel

    class NoiseOrder(scripts.Script):
        def __init__(self):
            self.timing = cost_line.Timing()

        def title(self):
            return panel.TITLE

        def show(self, is_img2img):
            grid_axes.register_axes()
            return scripts.AlwaysVisible

        def ui(self, is_img2img):
            built = panel.Panel("img2img" if is_img2img else "txt2img", self.timing)
            self.infotext_fields = built.infotext_fields
            self.paste_field_names = built.paste_field_names
            return built.components

        def process(self, p, *args):
            extension.refuse_bad_settings(p, args)

        def process_batch(self, p, *args, **kwargs):
            extension.start_batch(p, args)

        def process_before_every_sampling(self, p, *args, **kwargs):
            extension.before_sampling(p)

        def postprocess_batch(self, p, *args, **kwargs):
            self.timing.note(extension.end_batch(p))

        def postprocess(self, p, processed, *args):
            extension.end_job(p, processed, args, self.args_from)

else:
    print("Noise Order: not loaded. It needs AUTOMATIC1111 1.10 or newer, or Forge (process_before_every_sampling is missing).")
