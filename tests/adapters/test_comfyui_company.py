"""ComfyUI: what other nodes do comes out as if the model had not been asked.

P1: the picture equals the one that the host makes by itself from the chosen noise.
P2: it is the same with remembered answers on and off.
P3: it is the plain picture where the seed's own noise was kept.
P4: what is paid is what was announced, within the limit.
"""

import pytest

from ..lengths import at_length
from .comfyui_graphs import KINDS, difference, evaluations_of, from_the_same_noise, graph, node, said, sampled

pytestmark = pytest.mark.needs("ComfyUI", fixture="host")
STEPS = 16
LIMITS = {"Automatic": 0.4, "Light": 0.2}
PRESETS = at_length(["Automatic", "Custom"], ["Automatic", "Light", "Custom", "Paper"])
ATTENTION = {"PerturbedAttentionGuidance", "SelfAttentionGuidance", "FreeU", "FreeU_V2", "HyperTile", "TomePatchModel"}
OF_THE_UNET = ATTENTION | {"PatchModelAddDownscale", "SharedAttention", "ControlledPrompt"}
PATCHES = {
    "none": {},
    "PerturbedAttentionGuidance": {"scale": 3.0},
    "SelfAttentionGuidance": {"scale": 1.0, "blur_sigma": 2.0},
    "FreeU": {}, "FreeU_V2": {}, "HyperTile": {"tile_size": 32, "swap_size": 2}, "TomePatchModel": {"ratio": 0.3},
    "PatchModelAddDownscale": {"block_number": 1},
    "RescaleCFG": {}, "APG": {"momentum": 0.3}, "TCFG": {}, "Mahiro": {}, "CFGZeroStar": {}, "CFGNorm": {},
    "Epsilon Scaling": {}, "FreSca": {}, "RenormCFG": {}, "SkipLayerGuidanceDiT": {}, "SkipLayerGuidanceDiTSimple": {},
    "EasyCache": {}, "LazyCache": {}, "WanContextWindowsManual": {"context_length": 5, "context_overlap": 1},
    "ClosureCounter": {}, "GlobalCounter": {}, "NetworkCounter": {}, "RandomWrapper": {}, "NoWayBack": {},
    "SharedAttention": {}, "HookedPrompt": {}, "ControlledPrompt": {},
    "StepCacheInOptions": {}, "FirstBlockCache": {}, "ReplacedMethod": {}, "ReplacedForAll": {},
    "CountingGuidance": {}, "StepCallback": {},
}  # fmt: skip
COMBINATIONS = [
    (kind, patch)
    for patch in PATCHES
    for kind in KINDS
    if (kind == "sd15" or patch not in OF_THE_UNET)
    and (kind == "wan" or patch != "WanContextWindowsManual")
    and (kind != "wan" or patch not in ("FreSca", "RenormCFG"))  # which fail there by themselves
]


@pytest.fixture(scope="module")
def host(host):
    host.nodes = host.get("/object_info")
    return host


def patched(host, kind, patch, settings, batch=1, steps=STEPS):
    """The graph with another node's patch of the model, or of the prompts, before ours."""
    nodes = graph(kind, settings, steps=steps, batch=batch)
    if kind == "sd15":
        nodes["latent"]["inputs"] |= {"width": 128, "height": 128}
    if kind == "wan":
        nodes["latent"]["inputs"]["length"] = 17
    if patch == "none":
        return nodes
    inputs = {}
    for name, (form, *options) in host.nodes[patch]["input"]["required"].items():
        more = options[0] if options else {}
        choices = form if isinstance(form, list) else more.get("options", [None])
        inputs[name] = more.get("default", choices[0])
    inputs |= PATCHES[patch]
    before = nodes["order" if settings else "sampler"]["inputs"]
    if "prompt" in inputs:
        for name in ("positive", "negative"):
            given = {**inputs, "prompt": [name, 0], **({"model": ["model", 0]} if "model" in inputs else {})}
            nodes[f"hooked {name}"] = node(patch, **given)
            nodes["sampler"]["inputs"][name] = [f"hooked {name}", 0]
    else:
        nodes["patch"] = node(patch, **{**inputs, "model": ["model", 0]})
        before["model"] = ["patch", 0]
    return nodes


@pytest.mark.parametrize("kind, patch", COMBINATIONS[:: at_length(3, 1)])
def test_other_nodes_come_out_as_if_nothing_had_been_asked(host, kind, patch):
    batch = 3 if patch == "SharedAttention" else 1
    plain, own = sampled(host, patched(host, kind, patch, None, batch))
    for preset in PRESETS:
        settings = {"preset": preset}
        ordered, seen = sampled(host, patched(host, kind, patch, settings, batch))
        paid = (evaluations_of(seen) - evaluations_of(own)) / batch
        announced, chosen, reasons = said(host)
        print(f"{kind} {patch} {preset}: {paid:g} paid of {evaluations_of(own) / batch:g}, chosen {chosen} {reasons}")
        assert difference(ordered, from_the_same_noise(host, patched(host, kind, patch, None, batch))) < 1e-3, "P1"
        if preset in LIMITS:
            host.get("/noise_order_test/remember/nothing")
            try:
                again, _ = sampled(host, patched(host, kind, patch, settings, batch))
            finally:
                host.get("/noise_order_test/remember/answers")
            assert difference(again, ordered) < 1e-3, "P2"
            if set(chosen) <= {1} and kind == "sd15":
                assert difference(ordered, plain) < 1e-3, "P3"
        if patch not in ("EasyCache", "LazyCache"):  # which skip as many of the sampler's calls as its noise lets them
            assert paid == announced, "P4"
            assert paid <= LIMITS.get(preset, 1) * evaluations_of(own) / batch, "P4"
