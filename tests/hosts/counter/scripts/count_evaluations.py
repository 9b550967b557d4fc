"""A tiny extension for the tests: counts what the diffusion model really evaluates and writes it to the infotext."""

from types import SimpleNamespace

from modules import scripts


class CountEvaluations(scripts.Script):
    def title(self):
        return "Count evaluations"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def ui(self, is_img2img):
        return []

    def process_batch(self, p, *args, **kwargs):
        """Counts in the network's class: a hook on the network itself would have it asked one latent at a time."""
        objects = getattr(p.sd_model, "forge_objects", None)
        network = (objects.unet.model if objects else p.sd_model.model).diffusion_model
        kind, call = type(network), type(network).__call__
        its_own = "__call__" in vars(kind)
        p.counted_rows = 0

        def counting(module, *args, **kwargs):
            if module is network:
                p.counted_rows += len(args[0] if args else kwargs["x"])
            return call(module, *args, **kwargs)

        def remove():
            if its_own:
                kind.__call__ = call
            else:
                del kind.__call__

        kind.__call__, p.counting = counting, SimpleNamespace(remove=remove)

    def postprocess_batch(self, p, *args, **kwargs):
        p.counting.remove()
        p.extra_generation_params["Counted evaluations"] = p.counted_rows / p.batch_size
