"""A tiny extension for the tests: where no question was the sampler's first call, it tells what was unlike in that.

Of the question that is most alike, the arguments that differ go into the infotext, with their way down: "1.options.sigmas".
"""

import sys

from modules import scripts


class CompareQuestions(scripts.Script):
    def title(self):
        return "Compare questions"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def ui(self, is_img2img):
        return []

    def process_batch(self, p, *args, **kwargs):
        memory = getattr(sys.modules.get("lib_noiseorder.answers"), "Answers", None)
        recall = getattr(memory, "recall", None)
        p.unlike, p.stop_comparing = None, lambda: None
        if memory is None:
            return

        def comparing(answers, question, x):
            if p.unlike is None:
                alike = (different(known, question) or unlike_latents(x, seen) for known, seen, _ in answers._known)
                p.unlike = min(alike, key=len, default=[])
            return recall(answers, question, x)

        memory.recall = comparing
        p.stop_comparing = lambda: setattr(memory, "recall", recall)

    def postprocess_batch(self, p, *args, **kwargs):
        p.stop_comparing()
        if p.unlike:
            p.extra_generation_params["First call unlike the questions"] = " ".join(p.unlike)


def different(a, b, where="") -> list[str]:
    """The ways down to where two nested arguments differ."""
    if isinstance(a, dict) and isinstance(b, dict):
        below = [different(a.get(key), b.get(key), f"{where}.{key}") for key in {**a, **b}]
        return [way for ways in below for way in ways]
    if isinstance(a, (list, tuple)) and type(a) is type(b) and len(a) == len(b):
        return [way for i, (one, other) in enumerate(zip(a, b)) for way in different(one, other, f"{where}.{i}")]
    if hasattr(a, "shape") and hasattr(b, "shape"):
        same = a.shape == b.shape and a.dtype == b.dtype and bool((a == b).all())
    else:
        same = a is b or (type(a) is type(b) and a == b)
    return [] if same else [where.removeprefix(".")]


def unlike_latents(a, b) -> list[str]:
    return [] if a.shape == b.shape and bool((abs(a - b) <= 1e-5 * abs(a).max()).all()) else ["x"]
