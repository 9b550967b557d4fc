"""A tiny extension for the tests: writes down what every batch has cost, in jobs inside jobs too, and what was announced."""

from modules import scripts


class InnerJobs(scripts.Script):
    def title(self):
        return "Inner jobs"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def postprocess_batch(self, p, *args, **kwargs):
        told = p.extra_generation_params.get
        counted, announced = told("Counted evaluations"), told("Noise Order evaluations", 0)
        print(f"Inner jobs: {p.width}x{p.height}, counted {counted}, announced {announced}")
