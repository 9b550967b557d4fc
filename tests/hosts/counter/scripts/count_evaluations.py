"""A tiny extension for the tests: counts what the diffusion model really evaluates and writes it to the infotext."""

from modules import scripts


class CountEvaluations(scripts.Script):
    def title(self):
        return "Count evaluations"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def ui(self, is_img2img):
        return []

    def process_batch(self, p, *args, **kwargs):
        objects = getattr(p.sd_model, "forge_objects", None)
        network = (objects.unet.model if objects else p.sd_model.model).diffusion_model
        p.counted_rows = 0

        def count(module, args, kwargs):
            p.counted_rows += len(args[0] if args else kwargs["x"])

        p.counting = network.register_forward_pre_hook(count, with_kwargs=True)

    def postprocess_batch(self, p, *args, **kwargs):
        p.counting.remove()
        p.extra_generation_params["Counted evaluations"] = p.counted_rows / p.batch_size
