"""The ComfyUI node: its inputs here, its work inside the real ComfyUI where an environment variable names one."""

import copy
import json
import re
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lib_noiseorder import NoiseOrderSettings
from lib_noiseorder.adapters.comfyui.node import OF_THE_WEBUI, NoiseOrderNode, node_settings
from lib_noiseorder.plans import SamplerRun, plan_for
from lib_noiseorder.settings import KNOB, KNOBS, PRESETS, RECOMMENDED, SettingsError

from . import comfyui
from .comfyui_graphs import COMPARED, KINDS, OFF, ON, PLAIN, custom, evaluations_of, graph, node, sampled

pytestmark = pytest.mark.needs("ComfyUI", fixture="host")
WORKFLOW = Path(__file__).resolve().parents[2] / "docs/comfyui-workflow.json"


def widgets():
    """The optional inputs that have a value of their own."""
    optional = NoiseOrderNode.INPUT_TYPES()["optional"]
    return {name: entry for name, entry in optional.items() if name not in ("noise_judge", "vae")}


# -- without the host --------------------------------------------------------------------------------------------------


def test_inputs_are_made_from_the_knobs():
    assert list(NoiseOrderNode.INPUT_TYPES()["required"]) == ["model"]
    inputs = NoiseOrderNode.INPUT_TYPES()["optional"]
    assert list(inputs) == [*(knob.name for knob in KNOBS if knob.name not in OF_THE_WEBUI), "noise_judge", "vae"]
    assert set(OF_THE_WEBUI) <= set(KNOB)
    assert inputs["preset"][1]["default"] == RECOMMENDED and inputs["enabled"][1]["default"] is True
    assert inputs["erasure_samples"][0] == "INT" and inputs["erasure_samples"][1]["max"] == 64
    about = {"tooltip": KNOB["strength"].help, "advanced": True, "min": -2.0, "max": 2.0, "step": 0.01}
    assert inputs["strength"] == ("FLOAT", {"default": 0.1, **about})
    json.dumps(inputs)
    unseen = [name for name, entry in inputs.items() if entry[1].get("hidden")]
    assert unseen == ["hires_pass", "inner_passes"], "saved graphs know values by their places: these two keep theirs"


def test_a_fresh_node_is_valid_and_a_bad_value_is_named():
    defaults = {name: entry[1]["default"] for name, entry in widgets().items()}
    assert node_settings(defaults) == node_settings({})
    assert "chosen = '99' is not seed:draw pairs" in NoiseOrderNode.VALIDATE_INPUTS(chosen="99")
    assert "names seeds" in NoiseOrderNode.VALIDATE_INPUTS(chosen="5:3")
    assert NoiseOrderNode.VALIDATE_INPUTS(chosen=None) is True, "linked inputs are not known beforehand"
    with pytest.raises(SettingsError, match="strength = 9 is not a number from -2 to 2"):
        node_settings({**ON, "strength": 9})


def test_inputs_left_alone_follow_the_preset_and_touched_ones_must_agree_with_it():
    fresh = {name: entry[1]["default"] for name, entry in widgets().items()}
    for preset in PRESETS:
        settings = node_settings({**fresh, "preset": preset})
        assert {name: getattr(settings, name) for name in PRESETS[preset]} == PRESETS[preset]
        assert node_settings({"preset": preset}) == settings
    assert node_settings({**fresh, "preset": "Custom"}) == NoiseOrderSettings(preset="Custom"), "Custom is what the node shows"
    for touched in ({"erasure_samples": 2}, {"strength": 0.5}):
        with pytest.raises(SettingsError, match="contradicts preset 'Automatic'"):
            node_settings({**fresh, **touched})
    assert node_settings({**fresh, "preset": "Paper", "erasure_samples": 4}).preset == "Paper"
    with pytest.raises(SettingsError, match="names seeds"):
        node_settings({**fresh, "chosen": "5:3"})


@pytest.mark.parametrize("preset", PRESETS)
def test_a_workflow_of_version_0_1_means_what_it_meant(preset):
    saved = {knob.name: knob.default for knob in KNOBS if knob.name not in (*OF_THE_WEBUI, "chosen", "extra_cost")}
    assert node_settings({**saved, "enabled": True, "preset": preset}) == NoiseOrderSettings(preset=preset)
    turned = {**saved, "enabled": True, "preset": "Custom", "selection": "light", "erasure_samples": 1}
    assert "light" in NoiseOrderNode.INPUT_TYPES()["optional"]["selection"][0]
    assert node_settings(turned) == NoiseOrderSettings(
        preset="Custom", selection="automatic", extra_cost=0.2, erasure_samples=1
    )


def test_an_old_comfyui_is_told():
    class Old:
        def clone(self):
            return self

    with pytest.raises(RuntimeError, match="too old"):
        NoiseOrderNode().patch(Old(), **ON)


def test_the_workflow_names_the_node_and_every_input():
    workflow = json.loads(WORKFLOW.read_text(encoding="utf-8"))
    node = next(node for node in workflow["nodes"] if node["type"] == "NoiseOrder")
    defaults = [entry[1]["default"] for entry in widgets().values()]
    assert node["widgets_values"] == defaults


# -- inside the real one -----------------------------------------------------------------------------------------------

_MODELS = {"sd15": "SD1 eps", "flux": "Flux with guidance embedding (dev's shape)", "wan": "Wan text-to-video"}
TOLD = [
    pytest.param(kind, marks=pytest.mark.path(f"model: {_MODELS[kind]}", host="COMFYUI", checkpoint=kind)) for kind in KINDS
]
"""Every kind, for the tests that docs/compatibility.md tells of."""


@pytest.mark.parametrize("kind", TOLD)
@pytest.mark.parametrize("make", [graph, custom])
def test_off_and_one_draw_without_injection_are_plain_bit_for_bit(host, kind, make):
    plain, evaluations = sampled(host, make(kind, None))
    for settings in (OFF, PLAIN):
        latent, seen = sampled(host, make(kind, settings))
        assert torch.equal(latent, plain) and len(seen) == len(evaluations)


@pytest.mark.parametrize("kind", TOLD)
@pytest.mark.parametrize("make", [graph, custom])
def test_injection_costs_its_evaluations_and_is_repeatable(host, kind, make):
    plain, evaluations = sampled(host, make(kind, None))
    latent, seen = sampled(host, make(kind, ON))
    again, _ = sampled(host, make(kind, ON))
    assert not torch.equal(latent, plain) and torch.equal(latent, again) and torch.isfinite(latent).all()
    assert latent.shape == plain.shape
    assert sum(rows for rows, _ in seen) == sum(rows for rows, _ in evaluations) + 3
    assert [rows for rows, _ in seen[:3]] == [1, 1, 1], "with the prompt alone"
    assert seen[0][1] > seen[1][1] > seen[2][1], "noisiest first"


@pytest.mark.parametrize("kind", TOLD)
@pytest.mark.parametrize("preset", ["Light", "Automatic"])
@pytest.mark.parametrize("sampler, batch", [("euler", 1), ("euler", 3), ("dpmpp_2m", 1)])
def test_selection_is_counted_and_the_winners_answers_are_not_paid_twice(host, kind, preset, sampler, batch):
    _, before = sampled(host, graph(kind, None, steps=16, sampler=sampler, batch=batch))
    latent, seen = sampled(host, graph(kind, {**ON, "preset": preset}, steps=16, sampler=sampler, batch=batch))
    line = host.log.read_text(errors="replace").rsplit("Noise Order:", 1)[-1]
    assert "chosen [" in line and torch.isfinite(latent).all()
    more = (evaluations_of(seen) - evaluations_of(before)) / batch
    assert more == int(line.split()[0]) > 0, "as the log says"
    cost = NoiseOrderSettings(preset=preset).extra_cost
    run = SamplerRun(3.0, 16, takes_euler_steps=sampler == "euler")
    # DPM++ 2M's second call stands where an Euler step leads: it is asked all the same, as announced
    assert more == plan_for(run, extra_cost=cost).extra_evaluations(run)


def test_a_batch(host):
    latent, seen = sampled(host, graph("sd15", ON, batch=3))
    assert latent.shape[0] == 3 and [rows for rows, _ in seen[:3]] == [3, 3, 3]
    alone, _ = sampled(host, graph("sd15", ON))
    torch.testing.assert_close(latent[:1], alone, atol=1e-4, rtol=1e-4)


def test_other_samplers_and_img2img(host):
    for sampler in ("dpmpp_2m_sde", "uni_pc", "ddim", "heun"):
        for settings in (ON, COMPARED):
            assert torch.isfinite(sampled(host, graph("sd15", settings, sampler=sampler))[0]).all()
    nodes = graph("sd15", ON)
    nodes["first"] = nodes["sampler"]
    nodes["sampler"] = copy.deepcopy(nodes["first"])
    nodes["sampler"]["inputs"] |= {"latent_image": ["first", 0], "denoise": 0.5}
    assert torch.isfinite(sampled(host, nodes)[0]).all()


def test_a_sampler_that_adds_no_noise_is_left_alone(host):
    def advanced(settings):
        nodes = graph("sd15", settings)
        inputs = nodes["sampler"]["inputs"]
        seed = inputs.pop("seed")
        del inputs["denoise"]
        more = {"noise_seed": seed, "add_noise": "disable", "start_at_step": 2, "end_at_step": 4}
        nodes["sampler"] = node("KSamplerAdvanced", **inputs, **more, return_with_leftover_noise="disable")
        return nodes

    plain, _ = sampled(host, advanced(None))
    assert torch.equal(sampled(host, advanced(ON))[0], plain)


def test_of_two_nodes_in_a_row_the_last_one_decides(host):
    nodes = graph("sd15", ON)
    nodes["second"] = node("NoiseOrder", model=["order", 0], **PLAIN)
    nodes["sampler"]["inputs"]["model"] = ["second", 0]
    assert torch.equal(sampled(host, nodes)[0], sampled(host, graph("sd15", None))[0])


def test_bad_values_are_refused_before_anything_runs(host):
    for bad in ({"strength": 9.0}, {"chosen": "5:3"}, {"preset": "Best"}, {"erasure_samples": "many"}):
        with pytest.raises(comfyui.Refused) as refused:
            host.run(graph("sd15", {**ON, **bad}))
        told = json.loads(str(refused.value))["node_errors"]["order"]["errors"]
        assert len(told) == 1 and told[0]["extra_info"]["input_name"] == next(iter(bad)), "one message for one bad value"
    with pytest.raises(comfyui.Refused) as refused:  # not a link, as lists are
        host.run(graph("sd15", {**ON, "chosen": [1, 2, 3]}))
    assert [error["type"] for error in json.loads(str(refused.value))["node_errors"]["order"]["errors"]] == ["bad_linked_input"]
    with pytest.raises(comfyui.Failed, match="contradicts preset"):
        host.run(graph("sd15", {**ON, "preset": "Paper", "erasure_samples": 7}))


@pytest.mark.parametrize("kind", TOLD)
def test_a_choice_is_replayed_without_a_question(host, kind):
    automatic = {**ON, "preset": "Automatic"}
    latent, seen = sampled(host, graph(kind, automatic, steps=16, batch=2, seed=3))
    chosen = re.search(r"chosen \[(.*?)\]", host.log.read_text(errors="replace").rsplit("Noise Order:", 1)[-1])[1]
    again, fewer = sampled(host, graph(kind, {**automatic, "chosen": chosen}, steps=16, batch=2, seed=3))
    torch.testing.assert_close(again, latent, atol=1e-4, rtol=1e-3)
    _, plain = sampled(host, graph(kind, None, steps=16, batch=2, seed=3))
    assert evaluations_of(fewer) == evaluations_of(plain) < evaluations_of(seen)


def test_a_batch_with_one_named_draw_compares_for_the_other(host):
    def chosen(setting):
        latent, _ = sampled(host, graph("sd15", {**ON, "preset": "Automatic", "chosen": setting}, steps=16, batch=2, seed=3))
        said = host.log.read_text(errors="replace").rsplit("Noise Order:", 1)[-1]
        return latent, json.loads(re.search(r"chosen (\[.*?\])", said)[1])

    latent, usual = chosen("")
    other = 1 + usual[0] % 2
    mixed, draws = chosen(f"{other} 0")
    assert draws == [other, usual[1]]
    torch.testing.assert_close(mixed[1], latent[1], atol=1e-4, rtol=1e-3)


def test_a_question_that_fails_costs_the_effect_and_the_next_run_is_as_ever(host):
    plain, _ = sampled(host, graph("sd15", None))
    paths, seen = host.run(graph("sd15", ON, fail_at=2))
    assert torch.equal(load_file(paths[0])["latent_tensor"], plain) and len(seen) == 2 + 4
    said = host.log.read_text(errors="replace")
    assert "Noise Order: skipped everything: RuntimeError: the test's model fails here" in said
    with pytest.raises(comfyui.Failed, match="fails here"):  # the sampler's own call
        host.run(graph("sd15", ON, fail_at=5))
    assert torch.equal(sampled(host, graph("sd15", None))[0], plain)


def test_a_graph_may_leave_inputs_out(host):
    latent, _ = sampled(host, graph("sd15", {"preset": "Paper"}))
    assert torch.equal(latent, sampled(host, graph("sd15", {**ON, "preset": "Paper"}))[0])
    assert not torch.equal(latent, sampled(host, graph("sd15", None))[0])


def test_a_choice_that_does_not_fit_the_batch_costs_the_effect_and_is_told(host):
    plain, _ = sampled(host, graph("sd15", None))
    assert torch.equal(sampled(host, graph("sd15", {**ON, "preset": "Automatic", "chosen": "1 2 3"}))[0], plain)
    assert "lists 3 draws for 1 pictures" in host.log.read_text(errors="replace")


def test_interrupt_while_the_model_is_asked(host):
    nodes = graph("sd15", {**ON, "preset": "Custom", "selection": "automatic", "selection_draws": 16}, batch=8, steps=200)
    nodes["latent"]["inputs"] |= {"width": 256, "height": 256}
    host.get("/noise_order_test/seen")
    number = host.queue(nodes)
    deadline = time.monotonic() + 20
    while not host.get("/noise_order_test/seen") and time.monotonic() < deadline:
        time.sleep(0.02)
    comfyui.requests.post(f"{host.url}/interrupt", timeout=10)
    with pytest.raises(comfyui.Failed, match="interrupted"):
        host.finish(number, seconds=60)
