"""X/Y/Z plot: an axis per knob, the right infotext per cell, nothing from one cell in the next."""

import copy
import itertools
import json
import re
import shutil
from types import SimpleNamespace

import pytest
import requests

from lib_noiseorder import KNOBS, NoiseOrderSettings, SettingsError
from lib_noiseorder.tools.lab import packaged

from .client import Refused, decoded, difference, noise_order
from .double.host import DoubleHost
from .real import FLAGS, RealHost, Server


class AxisOption:
    def __init__(self, label, type, apply, confirm=None, choices=None):
        self.label, self.type, self.apply, self.confirm, self.choices = label, type, apply, confirm, choices


@pytest.fixture(params=["xyz_grid.py", "scripts.xyz_grid"])
def axes(request, monkeypatch):
    """The axes by knob, in a grid script as either host loads it."""
    DoubleHost("eps")
    from modules import scripts

    from lib_noiseorder.webui.panel import grid_axes as grid

    module = SimpleNamespace(AxisOption=AxisOption, axis_options=[AxisOption("Nothing", str, None)])
    other = SimpleNamespace(script_class=type("Other", (), {"__module__": "other.py"}), module=None)
    found = SimpleNamespace(script_class=type("Script", (), {"__module__": request.param}), module=module)
    monkeypatch.setattr(scripts, "scripts_data", [other, found])
    grid.register_axes()
    grid.register_axes()
    labels = [option.label for option in module.axis_options]
    assert labels == ["Nothing", *(f"[Noise Order] {knob.label}" for knob in KNOBS)], "every knob once"
    return dict(zip((knob.name for knob in KNOBS), module.axis_options[1:]))


def test_a_host_without_the_grid_script_is_left_alone(monkeypatch):
    DoubleHost("eps")
    from modules import scripts

    from lib_noiseorder.webui.panel import grid_axes as grid

    monkeypatch.setattr(scripts, "scripts_data", [])
    grid.register_axes()


def test_axes_read_values_as_the_grid_script_gives_them(axes):
    for knob in KNOBS:
        axis = axes[knob.name]
        if knob.name == "judge":  # whether there is one of a name is seen when it is needed
            assert axis.type("PickScore") == "PickScore" and axis.type(" ") == "model"
            continue
        if axis.choices is not None:
            texts = axis.choices()
            assert set(map(axis.type, texts)) == set(knob.choices or (True, False))
        else:
            assert axis.type in ((str,) if knob.check else (int, float)), "the grid script reads ranges for numbers only"
            assert axis.type == knob.kind and axis.type(str(knob.default)) == knob.default
        for text in ("Magic", "AUTOMATIC", "nan", "x", *(() if knob.check else ("1e9",))):
            with pytest.raises(SettingsError, match=f"{knob.name} = .* is not {re.escape(knob.range)}"):
                axis.confirm(None, [axis.type(text)])


def test_the_axis_of_judges_lists_those_that_the_panel_lists(axes, monkeypatch, tmp_path):
    import gradio
    from modules import paths_internal

    from lib_noiseorder.webui.panel.panel import Panel

    monkeypatch.setattr(paths_internal, "models_path", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    assert axes["judge"].choices() == ["model"]
    shutil.copytree(packaged.folder("judge"), tmp_path / "noise_order_judges/my CLIP")
    with gradio.Blocks():
        menu = next(component for component in Panel("txt2img").components if component.label == "Judge")
    assert axes["judge"].choices() == ["model", "my CLIP"], "looked up anew"
    assert [choice[0] if isinstance(choice, tuple) else choice for choice in menu.choices] == axes["judge"].choices()


def cell(host, axes, job, **turned):
    """One cell of a grid over a finished job, as the grid script makes it: a shallow copy with the axes applied."""
    p = copy.copy(job)
    for name, value in turned.items():
        axes[name].confirm(p, [value])
        axes[name].apply(p, value, [value])
    processed = host.processing.process_images(p)
    return processed.images[0], processed.infotexts[0]


@pytest.mark.parametrize("family", ["eps", "flow"])
def test_cells_are_what_the_settings_give_and_do_not_leak(axes, family):
    host = DoubleHost(family)
    host.txt2img()
    job = host.last_job
    plain, text = cell(host, axes, job)
    assert "Noise Order" not in text
    strong, text = cell(host, axes, job, strength=0.5)
    direct = host.txt2img(**noise_order(**NoiseOrderSettings(preset="Automatic").changed(strength=0.5).to_dict()))
    assert NoiseOrderSettings.from_infotext(text) == NoiseOrderSettings.from_infotext(direct.infotexts[0])
    assert NoiseOrderSettings.from_infotext(text).preset == "Custom" and NoiseOrderSettings.from_infotext(text).enabled
    paper, text = cell(host, axes, job, preset="Paper", strength_schedule="constant")
    assert NoiseOrderSettings.from_infotext(text) == NoiseOrderSettings(enabled=True, preset="Paper")
    off, text = cell(host, axes, job, enabled=False, strength=0.5)
    again, _ = cell(host, axes, job)
    assert "Noise Order" not in text
    assert (off == plain).all() and (again == plain).all() and not (strong == plain).all() and not (paper == strong).all()


def test_a_cell_whose_knobs_contradict_one_another_is_made_plain_and_says_why(axes):
    host = DoubleHost("eps")
    host.txt2img()
    plain, _ = cell(host, axes, host.last_job)
    host.last_job.is_api = False
    weights = dict.fromkeys(("layout_weight", "structure_weight", "detail_weight"), 0.0)
    latents, text = cell(host, axes, host.last_job, strength=0.5, **weights)
    assert (latents == plain).all() and "Noise Order error: " in text


# -- the real script ---------------------------------------------------------------------------------------------------


def plotted(host, x, y, settings):
    """The cells of a 2 × 2 plot (pictures and infotexts) over the API, as many as there are values."""
    infos = requests.get(f"{host.server.url}/sdapi/v1/script-info", timeout=60).json()
    script = next(info for info in infos if info["name"].lower() == "x/y/z plot" and not info["is_img2img"])
    labels = script["args"][0]["choices"]
    labels = [label[0] if isinstance(label, list) else label for label in labels]
    args = []
    for name, values in (x, y):
        knob = next(knob for knob in KNOBS if knob.name == name)
        listed = knob.kind is bool or bool(knob.choices) or knob.name == "judge"
        number = labels.index(f"[Noise Order] {knob.label}")
        args += [number, "" if listed else values, values.split(", ") if listed else []]
    wanted = {"Draw legend": False, "Include Sub Images": True}  # the hosts' further arguments differ
    args += [0, "", [], *(wanted.get(arg["label"], arg["value"]) for arg in script["args"][9:])]
    payload = {**host.defaults(), "script_name": "x/y/z plot", "script_args": args, **noise_order(**settings)}
    answer = host.server.post("/sdapi/v1/txt2img", payload)
    infotexts = json.loads(answer["info"])["infotexts"]
    return [decoded(answer["images"][1:][k : k + 1], infotexts[1:][k : k + 1], 1) for k in range(4)]


def held_against_single_pictures(host):
    cells = plotted(host, ("strength", "0.1, 0.5"), ("injection", "calibrated, literal"), {"erasure_samples": 2})
    for found, (injection, strength) in zip(cells, itertools.product(("calibrated", "literal"), (0.1, 0.5))):
        single = host.txt2img(**noise_order(erasure_samples=2, strength=strength, injection=injection))
        assert NoiseOrderSettings.from_infotext(found.infotexts[0]) == NoiseOrderSettings.from_infotext(single.infotexts[0])
        assert difference(found, single) == 0
    on_and_off = plotted(host, ("enabled", "True, False"), ("strength", "0.2, 0.4"), {})
    plain = host.txt2img()
    for found, on in zip(on_and_off, (True, False, True, False)):
        assert ("Noise Order" in found.infotexts[0]) == on and (difference(found, plain) > 0) == on


@pytest.mark.real_host
@pytest.mark.path("X/Y/Z plot")
def test_the_hosts_own_grid(host):
    held_against_single_pictures(host)


@pytest.mark.real_host
@pytest.mark.parametrize(
    "name, values",
    [("strength", "0.1, 9"), ("strength", "much"), ("erasure_samples", "0-2"), ("preset", "automatic"), ("enabled", "maybe")],
)
def test_an_axis_with_a_value_that_cannot_be_used_is_refused(host, name, values):
    knob = next(knob for knob in KNOBS if knob.name == name)
    start = len(host.server.said())
    with pytest.raises(Refused, match=f"{name} = .* is not {re.escape(knob.range)}") as refused:
        plotted(host, (name, values), ("injection", "calibrated, literal"), {})
    assert refused.value.status == 422 and "Traceback" not in host.server.said()[start:]


@pytest.mark.real_host
def test_settings_that_cannot_be_used_leave_the_cells_plain_and_say_why(host):
    """The grid script swallows the refusal that every other request gets."""
    plain = host.txt2img()
    for cell in plotted(host, ("strength", "0.1, 0.5"), ("injection", "calibrated, literal"), {"noise_scale": 9}):
        assert difference(cell, plain) == 0
        assert cell["Noise Order error"].startswith("noise_scale = 9 is not a number from")


@pytest.mark.real_host
@pytest.mark.path("X/Y/Z plot with --nowebui")
def test_the_hosts_own_grid_without_a_page(host, tmp_path, monkeypatch):
    name = host.server.name
    monkeypatch.setenv(f"NOISEORDER_{name}_FLAGS", f"{FLAGS[name]} --nowebui")
    server = Server(name, tmp_path / "data", True)
    try:
        held_against_single_pictures(RealHost(server, host.checkpoint))
    finally:
        server.stop()
