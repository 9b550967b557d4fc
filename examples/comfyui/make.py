"""Makes the example workflows: pictures of their graphs that can be dropped onto ComfyUI's canvas.

    python examples/comfyui/make.py http://127.0.0.1:8188

asks a running ComfyUI, with this repository among its custom nodes, how its nodes look. The model files that the graphs name
are those of ComfyUI's own examples; they need not be there.
"""

from __future__ import annotations

import json
import sys
import urllib.request
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo

HERE = Path(__file__).parent
TEXT = "A bicycle on top of a boat."
Graph = dict[str, dict[str, Any]]


def node(kind: str, /, **inputs: Any) -> dict[str, Any]:
    """A node of a graph; a link is written as ["name of the node", number of its output]."""
    return {"class_type": kind, "inputs": inputs}


def sampled(model: list[Any], vae: list[Any], **settings: Any) -> Graph:
    """The end of all graphs: Noise Order, a KSampler, the report, the picture."""
    return {
        "noise order": node("NoiseOrder", model=model),
        "sampler": node(
            "KSampler", model=["noise order", 0], positive=["prompt", 0], negative=["negative", 0], latent_image=["latent", 0],
            **{"seed": 1, "denoise": 1.0, **settings},
        ),
        **shown("sampler", vae),
    }  # fmt: skip


def shown(sampler: str, vae: list[Any], save: str = "SaveImage") -> Graph:
    images = {
        "SaveImage": {"filename_prefix": "noise order"},
        "SaveAnimatedWEBP": {"filename_prefix": "noise order", "fps": 16.0},
    }
    return {
        "report": node("NoiseOrderReport", latent=[sampler, 0], model=["noise order", 0]),
        "chosen": node("PreviewAny", source=["report", 1]),
        "compared": node("PreviewImage", images=["report", 2]),
        "decoded": node("VAEDecode", samples=["report", 0], vae=vae),
        "saved": node(save, images=["decoded", 0], **images[save]),
    }


def parts(model: str, encoder: dict[str, Any], vae: str) -> Graph:
    """Model, text encoder and VAE from files of their own, and the two prompts."""
    return {
        "model": node("UNETLoader", unet_name=model),
        "clip": encoder,
        "vae": node("VAELoader", vae_name=vae),
        "prompt": node("CLIPTextEncode", clip=["clip", 0], text=TEXT),
        "negative": node("CLIPTextEncode", clip=["clip", 0], text=""),
    }


def workflows() -> dict[str, Graph]:
    """Every example's graph, as the API takes it, by the name of its picture."""
    sdxl = {
        "model": node("CheckpointLoaderSimple", ckpt_name="sd_xl_base_1.0.safetensors"),
        "prompt": node("CLIPTextEncode", clip=["model", 1], text=TEXT),
        "negative": node("CLIPTextEncode", clip=["model", 1], text=""),
        "latent": node("EmptyLatentImage", width=1024, height=1024),
        **sampled(["model", 0], ["model", 2], steps=30, cfg=7.0, sampler_name="euler", scheduler="normal"),
    }
    clip = node("DualCLIPLoader", clip_name1="clip_l.safetensors", clip_name2="t5xxl_fp8_e4m3fn.safetensors", type="flux")
    flux = {
        **parts("flux1-dev.safetensors", clip, "ae.safetensors"),
        "guidance": node("FluxGuidance", conditioning=["prompt", 0], guidance=3.5),
        "latent": node("EmptySD3LatentImage", width=1024, height=1024),
        "noise": node("RandomNoise", noise_seed=1),
        "noise order": node("NoiseOrder", model=["model", 0]),
        "guider": node("BasicGuider", model=["noise order", 0], conditioning=["guidance", 0]),
        "kind": node("KSamplerSelect", sampler_name="euler"),
        "sigmas": node("BasicScheduler", model=["noise order", 0], scheduler="simple", steps=20),
        "sampler": node(
            "SamplerCustomAdvanced", noise=["noise", 0], guider=["guider", 0], sampler=["kind", 0], sigmas=["sigmas", 0],
            latent_image=["latent", 0],
        ),
        **shown("sampler", ["vae", 0]),
    }  # fmt: skip
    del flux["negative"]
    clip = node("CLIPLoader", clip_name="qwen_2.5_vl_7b_fp8_scaled.safetensors", type="qwen_image")
    qwen = {
        **parts("qwen_image_fp8_e4m3fn.safetensors", clip, "qwen_image_vae.safetensors"),
        "shift": node("ModelSamplingAuraFlow", model=["model", 0], shift=3.1),
        "latent": node("EmptySD3LatentImage", width=1328, height=1328),
        **sampled(["shift", 0], ["vae", 0], steps=20, cfg=2.5, sampler_name="euler", scheduler="simple"),
    }
    z_image = {
        **parts(
            "z_image_turbo_bf16.safetensors",
            node("CLIPLoader", clip_name="qwen_3_4b.safetensors", type="lumina2"),
            "ae.safetensors",
        ),
        "shift": node("ModelSamplingAuraFlow", model=["model", 0], shift=3.0),
        "negative": node("ConditioningZeroOut", conditioning=["prompt", 0]),
        "latent": node("EmptySD3LatentImage", width=1024, height=1024),
        **sampled(["shift", 0], ["vae", 0], steps=8, cfg=1.0, sampler_name="euler", scheduler="simple"),
    }
    clip = node("CLIPLoader", clip_name="umt5_xxl_fp8_e4m3fn_scaled.safetensors", type="wan")
    wan = {
        **parts("wan2.1_t2v_1.3B_fp16.safetensors", clip, "wan_2.1_vae.safetensors"),
        "shift": node("ModelSamplingSD3", model=["model", 0], shift=8.0),
        "latent": node("EmptyHunyuanLatentVideo", width=832, height=480, length=33),
        **sampled(["shift", 0], ["vae", 0], steps=30, cfg=6.0, sampler_name="euler", scheduler="simple"),
        **shown("sampler", ["vae", 0], "SaveAnimatedWEBP"),
    }
    return {"sdxl": sdxl, "flux": flux, "qwen-image": qwen, "z-image": z_image, "wan": wan}


# -- the same as the canvas keeps it -----------------------------------------------------------------------------------


def completed(graph: Graph, known: dict[str, Any]) -> Graph:
    """The graph with the defaults of its nodes' inputs, under numbers instead of names."""
    numbers = {name: str(number) for number, name in enumerate(graph, 1)}
    done = {}
    for name, each in graph.items():
        inputs = {}
        for input_name, kind, options in _inputs(known[each["class_type"]]):
            value = each["inputs"].get(input_name, options.get("default", kind[0] if isinstance(kind, list) and kind else None))
            if isinstance(value, list):
                value = [numbers[value[0]], value[1]]
            if value is not None:
                inputs[input_name] = value
        done[numbers[name]] = {"class_type": each["class_type"], "inputs": inputs}
    return done


def on_canvas(prompt: Graph, known: dict[str, Any]) -> dict[str, Any]:
    """A completed graph as ComfyUI's canvas saves it: nodes with places, links with numbers, values in their order."""
    nodes, links = [], []
    columns: dict[int, int] = {}
    for number, each in prompt.items():
        column = _column(prompt, number)
        form = known[each["class_type"]]
        sockets, values = [], []
        for name, kind, options in _inputs(form):
            given = each["inputs"].get(name)
            if isinstance(given, list):
                links.append([len(links) + 1, int(given[0]), given[1], int(number), len(sockets), kind])
                sockets.append({"name": name, "type": kind, "link": len(links)})
            elif not _is_widget(kind):
                sockets.append({"name": name, "type": kind, "link": None})
            else:
                values.append(given)
                if options.get("control_after_generate") or name in ("seed", "noise_seed"):
                    values.append("fixed")
        height = 60 + 24 * max(len(sockets), len(form["output"])) + 28 * len(values)
        top = columns.get(column, 0)
        columns[column] = top + height + 60
        outputs = [{"name": name, "type": kind, "links": []} for name, kind in zip(form["output_name"], form["output"])]
        nodes.append({
            "id": int(number), "type": each["class_type"], "pos": [360 * column, top], "size": [300, height], "flags": {},
            "order": column, "mode": 0, "inputs": sockets, "outputs": outputs,
            "properties": {"Node name for S&R": each["class_type"]}, "widgets_values": values,
        })  # fmt: skip
    for link in links:
        nodes[link[1] - 1]["outputs"][link[2]]["links"].append(link[0])
    return {
        "last_node_id": len(nodes), "last_link_id": len(links), "nodes": nodes, "links": links, "groups": [], "config": {},
        "extra": {}, "version": 0.4,
    }  # fmt: skip


def _inputs(form: dict[str, Any]) -> list[tuple[str, Any, dict[str, Any]]]:
    """(name, type or choices, options) of a node's inputs, in their order."""
    found = []
    for group in ("required", "optional"):
        for name, (kind, *options) in form["input"].get(group, {}).items():
            more = options[0] if options else {}
            found.append((name, more["options"] if kind == "COMBO" else kind, more))
    return found


def _is_widget(kind: Any) -> bool:
    return isinstance(kind, list) or kind in ("INT", "FLOAT", "STRING", "BOOLEAN")


def _column(prompt: Graph, number: str) -> int:
    before = [value[0] for value in prompt[number]["inputs"].values() if isinstance(value, list)]
    return 1 + max((_column(prompt, each) for each in before), default=-1)


def drawn(workflow: dict[str, Any], title: str) -> Image.Image:
    """The graph as a small picture."""
    scale, margin, top = 0.36, 20, 44
    right = max(each["pos"][0] + each["size"][0] for each in workflow["nodes"])
    bottom = max(each["pos"][1] + each["size"][1] for each in workflow["nodes"])
    picture = Image.new("RGB", (int(right * scale) + 2 * margin, int(bottom * scale) + margin + top), "#202225")
    draw = ImageDraw.Draw(picture)
    draw.text((margin, 16), f"{title} with Noise Order: drop this picture onto ComfyUI's canvas", fill="#e8e8e8")
    places = {each["id"]: [margin + each["pos"][0] * scale, top + each["pos"][1] * scale] for each in workflow["nodes"]}
    for _, source, output, target, input_number, _kind in workflow["links"]:
        start = (places[source][0] + 300 * scale, places[source][1] + 20 + 7 * output)
        end = (places[target][0], places[target][1] + 20 + 7 * input_number)
        middle = (start[0] + end[0]) / 2
        draw.line([start, (middle, start[1]), (middle, end[1]), end], fill="#7a8fa6")
    for each in workflow["nodes"]:
        x, y = places[each["id"]]
        ours = each["type"].startswith("NoiseOrder")
        box = (x, y, x + each["size"][0] * scale, y + each["size"][1] * scale)
        draw.rectangle(box, fill="#2f5d46" if ours else "#35383d", outline="#9fd6b8" if ours else "#6a6e75")
        draw.text((x + 5, y + 3), each["type"][:17], fill="#ffffff")
    return picture


def main(url: str) -> None:
    with urllib.request.urlopen(f"{url}/object_info") as answer:
        known = json.load(answer)
    for name, graph in workflows().items():
        prompt = completed(graph, known)
        workflow = on_canvas(prompt, known)
        text = PngInfo()
        text.add_text("prompt", json.dumps(prompt))
        text.add_text("workflow", json.dumps(workflow))
        drawn(workflow, name).quantize(32).save(HERE / f"{name}.png", pnginfo=text, optimize=True)


if __name__ == "__main__":
    main(sys.argv[1])
