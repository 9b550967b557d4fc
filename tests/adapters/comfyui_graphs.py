"""Graphs for the tests inside ComfyUI: tiny models, Noise Order, samplers."""

import copy
import json
import re
import time

from safetensors.torch import load_file

from lib_noiseorder.adapters.comfyui.node import NODE_KNOBS

OFF = {**{knob.name: knob.default for knob in NODE_KNOBS}, "enabled": False, "preset": "Custom"}
ON = {**OFF, "enabled": True}
PLAIN = {**ON, "erasure_samples": 1, "strength": 0.0}
COMPARED = {**ON, "preset": "Automatic", "selection_draws": 2}

LATENTS = {
    "sd15": ("EmptyLatentImage", {"width": 64, "height": 64, "batch_size": 1}),
    "flux": ("EmptySD3LatentImage", {"width": 64, "height": 64, "batch_size": 1}),
    "wan": ("EmptyHunyuanLatentVideo", {"width": 32, "height": 32, "length": 5, "batch_size": 1}),
}


JUDGE = "lab judge"


def judged(nodes, name=JUDGE, prompt="a red circle", vae=True):
    """The same graph with a judge."""
    nodes["judge"] = node("NoiseOrderJudge", judge=name, prompt=prompt)
    nodes["order"]["inputs"]["noise_judge"] = ["judge", 0]
    if vae:
        nodes["vae"] = node("TinyVAE")
        nodes["order"]["inputs"]["vae"] = ["vae", 0]
    return nodes


def node(class_type, /, **inputs):
    return {"class_type": class_type, "inputs": inputs}


def graph(kind, settings, batch=1, seed=1, steps=4, cfg=3.0, sampler="euler", fail_at=0, **more):
    """Model → Noise Order → KSampler → file."""
    empty, size = LATENTS[kind]
    nodes = {
        "model": node("TinyModel", kind=kind, fail_at=fail_at),
        "order": node("NoiseOrder", model=["model", 0], **(settings or {})),
        "positive": node("TinyPrompt", text="a red circle"),
        "negative": node("TinyPrompt", text=""),
        "latent": node(empty, **{**size, "batch_size": batch}),
        "sampler": node(
            "KSampler", model=["order" if settings else "model", 0], seed=seed, steps=steps, cfg=cfg, sampler_name=sampler,
            scheduler="normal", positive=["positive", 0], negative=["negative", 0], latent_image=["latent", 0], denoise=1.0,
        ),
        "save": node("SaveLatent", samples=["sampler", 0], filename_prefix="latent"),
    }  # fmt: skip
    if settings is None:
        del nodes["order"]
    for name, inputs in more.items():
        nodes[name]["inputs"].update(inputs)
    return nodes


def custom(kind, settings):
    """The same with SamplerCustomAdvanced and a guider without a negative prompt, as Flux graphs have it."""
    nodes = graph(kind, settings)
    model = nodes["sampler"]["inputs"]["model"]
    nodes |= {
        "noise": node("RandomNoise", noise_seed=1),
        "guider": node("BasicGuider", model=model, conditioning=["positive", 0]),
        "euler": node("KSamplerSelect", sampler_name="euler"),
        "sigmas": node("BasicScheduler", model=model, scheduler="simple", steps=4, denoise=1.0),
        "sampler": node(
            "SamplerCustomAdvanced", noise=["noise", 0], guider=["guider", 0], sampler=["euler", 0], sigmas=["sigmas", 0],
            latent_image=["latent", 0],
        ),
    }  # fmt: skip
    del nodes["negative"]
    return nodes


def sampled(host, nodes):
    """The saved latents, and what the model was shown."""
    nodes = copy.deepcopy(nodes)
    nodes["save"]["inputs"]["filename_prefix"] = f"latent{time.monotonic_ns()}"  # every run a new file, and none cached
    if "order" in nodes:
        nodes["model"]["inputs"]["fail_at"] -= time.monotonic_ns()  # nor the model's
    paths, seen = host.run(nodes)
    return load_file(paths[0])["latent_tensor"], seen


KINDS = list(LATENTS)


def evaluations_of(seen):
    return sum(rows for rows, _ in seen)


def said(host):
    """(evaluations announced as paid, draws chosen, reasons) of the last run."""
    *_, line = re.finditer(r"Noise Order: (\d+) evaluations more, .*?(?:chosen (\[.*?\]))?$", host.said(), re.MULTILINE)
    reasons = re.findall(r"Noise Order: skipped (.*)", host.said()[line.end() :])
    return int(line[1]), json.loads(line[2] or "[]"), reasons


def from_the_same_noise(host, nodes):
    """What the host makes by itself, from the noise that the last sampler was given."""
    host.get("/noise_order_test/keep_noise")
    last = nodes["sampler"]["inputs"]["model"]
    nodes["given"] = node("GivenNoise", model=last)
    nodes["sampler"]["inputs"]["model"] = ["given", 0]
    return sampled(host, nodes)[0]


def difference(a, b):
    """As a share of the standard deviation."""
    return ((a - b).abs().max() / b.std()).item()


def without_ours(nodes):
    """The same graph without Noise Order."""
    nodes = copy.deepcopy(nodes)
    before = nodes.pop("order")["inputs"]["model"]
    for each in nodes.values():
        each["inputs"].update({name: before for name, value in each["inputs"].items() if value == ["order", 0]})
    return nodes


def masked(nodes):
    """Half of the picture is kept."""
    nodes["all"] = node("SolidMask", value=1.0, width=64, height=64)
    nodes["half"] = node("SolidMask", value=0.0, width=32, height=64)
    nodes["mask"] = node("MaskComposite", destination=["all", 0], source=["half", 0], x=0, y=0, operation="multiply")
    latent = nodes["sampler"]["inputs"]["latent_image"]
    nodes["masked"] = node("SetLatentNoiseMask", samples=latent, mask=["mask", 0])
    nodes["sampler"]["inputs"]["latent_image"] = ["masked", 0]
    return nodes


def second_pass(nodes, denoise):
    """A plain picture first, which the sampler then starts from."""
    nodes["first"] = copy.deepcopy(nodes["sampler"])
    nodes["first"]["inputs"]["model"] = ["model", 0]
    nodes["sampler"]["inputs"] |= {"latent_image": ["first", 0], "denoise": denoise}
    return nodes


def two_areas(nodes):
    """A second prompt for half of the picture."""
    nodes["latent"]["inputs"] |= {"width": 128, "height": 128}
    nodes["other"] = node("TinyPrompt", text="a blue square")
    nodes["area"] = node("ConditioningSetArea", conditioning=["other", 0], width=64, height=128, x=0, y=0, strength=1.0)
    nodes["both"] = node("ConditioningCombine", conditioning_1=["positive", 0], conditioning_2=["area", 0])
    nodes["sampler"]["inputs"]["positive"] = ["both", 0]
    return nodes


def active_from(nodes, start, end=1.0):
    """The prompt takes part in a range of the steps."""
    nodes["range"] = node("ConditioningSetTimestepRange", conditioning=["positive", 0], start=start, end=end)
    nodes["sampler"]["inputs"]["positive"] = ["range", 0]
    return nodes


def from_pure_noise(nodes):
    """Predicting v, with zero terminal SNR, as the finetunes of SDXL that do."""
    nodes["zero"] = node("ModelSamplingDiscrete", model=["model", 0], sampling="v_prediction", zsnr=True)
    nodes["order"]["inputs"]["model"] = ["zero", 0]
    return nodes


def dual(kind, settings, style, conds, negative, steps=16):
    """A guider with two scales."""
    nodes = custom(kind, settings)
    nodes["sigmas"]["inputs"]["steps"] = steps
    nodes["middle"], nodes["negative"] = node("TinyPrompt", text="a circle"), node("TinyPrompt", text="")
    nodes["guider"] = node(
        "DualCFGGuider", model=nodes["guider"]["inputs"]["model"], cond1=["positive", 0], cond2=["middle", 0],
        negative=["negative", 0], cfg_conds=conds, cfg_cond2_negative=negative, style=style,
    )  # fmt: skip
    return nodes


def part_of_the_steps(nodes, start, end):
    """A sampler that goes from one step to another, and hands on a picture that is noisy still."""
    inputs = nodes["sampler"]["inputs"]
    more = {"add_noise": "enable", "start_at_step": start, "end_at_step": end, "return_with_leftover_noise": "enable"}
    inputs = {("noise_seed" if name == "seed" else name): value for name, value in inputs.items() if name != "denoise"}
    nodes["sampler"] = node("KSamplerAdvanced", **inputs, **more)
    return nodes
