"""The script as a WebUI loads it, and its panel."""

import gradio
import pytest

from lib_noiseorder import KNOBS, NoiseOrderSettings
from lib_noiseorder.settings import PRESETS

from .double.host import REPOSITORY, DoubleHost, _load


@pytest.fixture(scope="module")
def host():
    return DoubleHost("eps")


def test_a_webui_without_the_hook_is_refused_with_one_line(host, monkeypatch, capsys):
    from modules import scripts

    monkeypatch.delattr(scripts.Script, "process_before_every_sampling")
    module = _load(REPOSITORY / "scripts/noise_order.py")
    assert not hasattr(module, "NoiseOrder")
    (line,) = capsys.readouterr().out.strip().split("\n")
    assert line.startswith("Noise Order: not loaded. It needs AUTOMATIC1111 1.10 or newer")


def controls(is_img2img):
    with gradio.Blocks() as page:
        made = _load(REPOSITORY / "scripts/noise_order.py").NoiseOrder().ui(is_img2img)
    return page, made


def test_the_panel_has_one_control_per_knob_in_their_order(host):
    _, made = controls(False)
    recommended = NoiseOrderSettings(preset="Automatic")
    assert [control.value for control in made] == list(recommended.to_dict().values())
    assert [control.label for control in made][1:] == [knob.label for knob in KNOBS][1:]
    for control, knob in zip(made, KNOBS):
        if knob.minimum is not None:
            assert (control.minimum, control.maximum, control.step) == (knob.minimum, knob.maximum, knob.step)


def test_ids_are_there_and_differ_between_the_tabs(host):
    ids = [control.elem_id for is_img2img in (False, True) for control in controls(is_img2img)[1]]
    assert all(ids) and len(set(ids)) == len(ids)


def test_choosing_a_preset_shows_its_values_and_touching_one_makes_it_custom(host):
    page, made = controls(False)
    functions = [function for function in page.fns.values() if function.fn is not None]
    by_name = {knob.name: control for knob, control in zip(KNOBS, made)}
    (show,) = [function for function in functions if function.targets[0][0] == by_name["preset"]._id]
    shown = dict(zip((component._id for component in show.outputs), show.fn("Paper")))
    for name, value in PRESETS["Paper"].items():
        assert shown[by_name[name]._id]["value"] == value
    touched = [function for function in functions if function.targets[0][0] == by_name["strength"]._id]
    assert touched[0].fn() == "Custom" and touched[0].outputs == [by_name["preset"]]


def test_pasting_foreign_infotext_switches_off_and_bad_values_touch_nothing(host):
    script = _load(REPOSITORY / "scripts/noise_order.py").NoiseOrder()
    with gradio.Blocks():
        script.ui(False)
    pasted = {knob.name: function for knob, (_, function) in zip(KNOBS, script.infotext_fields)}
    assert pasted["enabled"]({"Steps": "20"}) is False and pasted["strength"]({"Steps": "20"}) is None
    assert pasted["strength"]({"Noise Order strength": "0.3"}) == 0.3
    assert pasted["strength"]({"Noise Order strength": "9"}) is None
