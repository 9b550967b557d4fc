"""The script as a WebUI loads it, and its panel."""

import json
import re

import gradio
import pytest

from lib_noiseorder import KNOBS, NoiseOrderSettings
from lib_noiseorder.ordering import Report
from lib_noiseorder.settings import PRESETS

from .double.host import REPOSITORY, DoubleHost, _load


@pytest.fixture(scope="module")
def host():
    return DoubleHost("eps")


@pytest.fixture
def panel(host, tmp_path):
    """A panel whose presets are in a folder of the test's own."""
    from lib_noiseorder.webui.panel.panel import Panel
    from lib_noiseorder.webui.panel.presets import SavedPresets

    with gradio.Blocks() as page:
        made = Panel("txt2img", saved=SavedPresets(tmp_path / "presets.json"))
    made.page = page
    made.by_name = {knob.name: control for knob, control in zip(KNOBS, made.components)}
    return made


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
    assert [control.value for control in made] == [knob.default for knob in KNOBS]
    assert NoiseOrderSettings.from_args([True, *[control.value for control in made][1:]]) == NoiseOrderSettings(enabled=True)
    assert [control.label for control in made][1:] == [knob.label for knob in KNOBS][1:]
    for control, knob in zip(made, KNOBS):
        if knob.minimum is not None:
            assert (control.minimum, control.maximum, control.step) == (knob.minimum, knob.maximum, knob.step)


def test_every_component_has_an_id_and_none_twice_in_either_tab(host):
    ids = []
    for is_img2img in (False, True):
        page, _ = controls(is_img2img)
        kinds = (gradio.Slider, gradio.Dropdown, gradio.Checkbox, gradio.Button, gradio.Textbox, gradio.Accordion)
        own = [block for block in page.blocks.values() if isinstance(block, kinds)]
        ids += [block.elem_id for block in own]
        lines = [block.value for block in page.blocks.values() if isinstance(block, gradio.HTML)]
        ids += [found[1] for line in lines if (found := re.search(r'id="(\w+)"', line))]
    assert all(ids) and len(set(ids)) == len(ids) > 2 * len(KNOBS)


def test_labels_of_what_the_host_saves_are_unique(host):
    page, made = controls(False)
    saved = [block.label for block in page.blocks.values() if block in made]
    assert len(set(saved)) == len(saved)
    others = [block for block in page.blocks.values() if isinstance(block, (gradio.Button, gradio.Textbox))]
    decided = [control for control, knob in zip(made, KNOBS) if knob.group == "formulas" or knob.name == "extra_cost"]
    assert len(decided) == 13 and all(block.do_not_save_to_config for block in [*others, *decided])
    assert not any(
        getattr(control, "do_not_save_to_config", False) for control in made if control.label in ("Preset", "Compare with off")
    )


def shown(panel, name):
    """What choosing a preset sets: values by knob, and the message."""
    (choose,) = [f for f in panel.page.fns.values() if f.fn is not None and f.targets[0] == (panel._menu._id, "input")]
    *updates, message = choose.fn(name)
    of = {panel.by_name[knob.name]._id: knob.name for knob in KNOBS}
    return {of[c._id]: u["value"] for c, u in zip(choose.outputs, updates) if "value" in u}, message


@pytest.mark.parametrize("name", PRESETS)
def test_choosing_a_built_in_preset_sets_its_values_in_the_page_itself(panel, name):
    (choose,) = [f for f in panel.page.fns.values() if f.fn is None and f.targets[0] == (panel._menu._id, "input")]
    table = json.loads(re.search(r"\(({.*})\)\[menu\]", choose.js)[1])
    of = {control._id: knob_name for knob_name, control in panel.by_name.items()}
    values = {of[c._id]: value for c, value in zip(choose.outputs, table[name]) if value is not None}
    page = {knob.name: knob.default for knob in KNOBS} | values | {"enabled": True}
    assert values["preset"] == name and NoiseOrderSettings.from_form(page) == NoiseOrderSettings(preset=name)
    assert ("strength" in values) == (name != "Custom"), "Custom takes what is there"
    assert shown(panel, name)[0] == {}, "and the server nothing more"


def test_touching_a_formula_makes_the_preset_custom_without_asking_the_server(panel):
    def touched(name):
        (found,) = [f for f in panel.page.fns.values() if f.targets and f.targets[0][0] == panel.by_name[name]._id]
        assert found.fn is None and found.outputs == [panel.by_name["preset"], panel._menu]
        return found.js

    assert touched("strength") == '() => ["Custom", "Custom"]'
    assert (
        touched("extra_cost")
        == touched("hires_pass")
        == ('(preset) => preset === "Light" ? ["Automatic", "Automatic"] : [preset, preset]')
    )


def test_presets_are_saved_shown_and_deleted(panel):
    controls = [value for name, value in NoiseOrderSettings(strength=0.3).to_form().items() if name not in NOT_A_PRESETS]
    menu, name, message = panel._saved_as("mine", *controls)
    assert menu["choices"] == [*PRESETS, "mine"] and menu["value"] == "mine" and name == "" and "Saved as" in message
    values, _ = shown(panel, "mine")
    assert values["strength"] == 0.3 and values["preset"] == "Custom" and "enabled" not in values
    menu, *decided, message, judge = panel._refreshed("Custom", "mine")
    assert judge["choices"][0] == "model" and "value" not in judge
    assert "value" not in menu and not any("value" in one for one in [*decided, message])
    menu, message = panel._deleted("mine", "Automatic")
    assert menu["value"] == "Automatic" and menu["choices"] == list(PRESETS) and "Deleted" in message
    menu, *decided, _, _ = panel._refreshed("Automatic", "mine")  # deleted in another page
    assert menu["value"] == "Automatic" and not any("value" in one for one in decided)
    menu, *decided, _, _ = panel._refreshed("Paper", "Automatic")  # what a page has kept as its defaults
    assert menu["value"] == "Paper" and "literal" in [one["value"] for one in decided]
    assert "there is no preset" in shown(panel, "mine")[1]


NOT_A_PRESETS = ("enabled", "compare_with_off", "show_injected", "chosen")


def test_what_cannot_be_saved_or_deleted_is_told_and_escaped(panel):
    controls = [value for name, value in NoiseOrderSettings().to_form().items() if name not in NOT_A_PRESETS]
    assert "Not saved: &#x27;paper&#x27; is built in" in panel._saved_as("paper", *controls)[2]
    controls[2] = 9
    assert "strength = 9 is not" in panel._saved_as("mine", *controls)[2]
    assert "Not deleted" in panel._deleted("Paper", "Paper")[1]
    assert "<script>" not in panel._deleted("<script>", "Custom")[1]


def test_a_broken_preset_file_does_not_stop_the_panel_and_is_told_there(host, tmp_path):
    from lib_noiseorder.webui.panel.panel import Panel
    from lib_noiseorder.webui.panel.presets import SavedPresets

    (tmp_path / "presets.json").write_text("{")
    with gradio.Blocks():
        panel = Panel("txt2img", saved=SavedPresets(tmp_path / "presets.json"))
    assert "is kept as presets.broken-1.json" in panel._message.value


def test_one_line_says_what_happened(host):
    from lib_noiseorder.webui.job.outcome import Batch, outcome_line

    def compared(chosen, **more):
        scores = [[0.0] * 7 for _ in chosen]
        return Report(evaluations=14, saved_evaluations=2, std_before=1.0, chosen=chosen, scores=scores, **more)

    one = compared([3], seconds=0.32, std_after=0.99)
    assert outcome_line([Batch(one, 0.94, False)]) == (
        "Noise Order: kept noise 3 of 7, 12 more evaluations, 0.32 s (34 % of the time)"
    )
    first = compared([2, 1], seconds=1.0, std_after=0.8)
    second = compared([3], seconds=1.5, std_after=0.9, correlation=0.25)
    assert outcome_line([Batch(first, 4.0, True), Batch(second, 6.0, True)]) == (
        "Noise Order: kept noises 2, 1, 3 of 7, 12 more evaluations, 2.50 s (25 % of the time), "
        "mean 0.000 → 0.000, standard deviation 1.000 → 0.850, correlation 0.250"
    )
    named = Report(chosen=[0, 5], std_before=1.0, std_after=1.0)
    mixed = Report(evaluations=14, saved_evaluations=2, chosen=[9, 2], scores=[[], [0.0] * 7])
    assert outcome_line([Batch(mixed, 0, False)]).startswith(
        "Noise Order: kept noise 2 of 7, noise 9 again, 12 more evaluations"
    )
    assert outcome_line([Batch(named, 2.0, False)]) == "Noise Order: kept noise 5, 0 more evaluations, 0.00 s (0 % of the time)"
    assert outcome_line([Batch(Report(evaluations=1), 0, False)]) == "Noise Order: 1 more evaluation, 0.00 s"


@pytest.mark.parametrize(
    "settings, told",
    [
        ({"preset": "Automatic"}, False),
        ({"preset": "Automatic", "chosen": "1:2"}, False),
        ({"strength": 0}, True),
        ({"erasure_samples": 1}, True),
        ({"erasure_samples": 1, "strength": 0, "noise_scale": 0.9}, True),
    ],
    ids=str,
)
def test_statistics_are_told_where_the_noise_itself_was_changed(host, settings, told):
    from .client import noise_order

    host.txt2img(steps=20, **noise_order(**settings))
    (line,) = [comment for comment in host.comments if "more evaluation" in comment]
    assert ("standard deviation" in line) == told and ("kept noise" in line) != told


def test_a_job_of_several_batches_has_one_line(host):
    from .client import noise_order

    host.txt2img(n_iter=3, **noise_order())
    lines = [comment for comment in host.comments if "more evaluation" in comment]
    assert len(lines) == 1 and lines[0].startswith("Noise Order: 3 more evaluations, ")


def test_pasting_restores_what_can_be_read_and_tells_the_rest(host, capsys):
    script = _load(REPOSITORY / "scripts/noise_order.py").NoiseOrder()
    with gradio.Blocks():
        script.ui(False)
    of_knobs, (_, trouble) = script.infotext_fields[: len(KNOBS)], script.infotext_fields[-1]

    def pasted(**said):
        infotext = {"Steps": "20", "Seed": "5", **{f"Noise Order{key}": value for key, value in said.items()}}
        return {knob.name: function(infotext) for knob, (_, function) in zip(KNOBS, of_knobs)}, trouble(infotext)

    nothing = {"enabled": False, "chosen": ""}
    assert pasted() == ({knob.name: nothing.get(knob.name) for knob in KNOBS}, None), "the others stay as they are"
    values, told = pasted(**{"": "Automatic", " chosen": "3"})
    assert values == NoiseOrderSettings(chosen="5:3").to_form() and told is None
    values, told = pasted(**{"": "Custom", " strength": "9", " injection": "literal", " future": "1"})
    assert values == NoiseOrderSettings(injection="literal").to_form()
    assert "strength = 9.0 is not a number from -2 to 2; the rest of the infotext is pasted" in told
    assert (
        capsys.readouterr().out
        == "Noise Order: strength = 9.0 is not a number from -2 to 2; the rest of the infotext is pasted\n"
    )
    values, told = pasted(**{"": "Automatic", " strength": "0.3"})
    assert values["enabled"] is False and "contradicts preset &#x27;Automatic&#x27;" in told


def test_a_picture_s_noise_is_used_again(panel):
    chosen, message = panel._used_again("a cat\nSteps: 20, Seed: 5, Noise Order: Automatic, Noise Order chosen: 3", "")
    assert chosen == "5:3" and "nothing is compared again" in message
    chosen, message = panel._used_again("a cat\nSteps: 20, Seed: 5", "7:2")
    assert chosen == "7:2" and "was not chosen by comparing" in message


def test_send_to_copies_every_control_to_the_other_tab(host):
    """The hosts pair the components of two tabs that stand beside equal names in the tabs' lists of fields."""
    scripts = [_load(REPOSITORY / "scripts/noise_order.py").NoiseOrder() for _ in range(2)]
    with gradio.Blocks():
        made = [script.ui(is_img2img) for script, is_img2img in zip(scripts, (False, True))]
    names = scripts[0].paste_field_names
    source, target = ([component for component, name in script.infotext_fields if name in names] for script in scripts)
    pairs = [(a.elem_id.removeprefix("txt2img"), b.elem_id.removeprefix("img2img")) for a, b in zip(source, target)]
    assert all(a == b for a, b in pairs) and len(pairs) == len(KNOBS) + 1
    assert set(made[0]) <= set(source) and not set(source) & set(target)


class Shown:
    """What a host is about to show: pictures by name, a grid first where there is one."""

    def __init__(self, *images, texts=None, grid=False):
        self.images, self.infotexts = [*images], [*(texts if texts is not None else images)]
        self.index_of_first_image, self.comments = int(grid), ""


def compared(monkeypatch, processed, copies, **job):
    from types import SimpleNamespace

    from modules import processing, shared

    from lib_noiseorder.webui.job import plain_copies

    made = []
    monkeypatch.setattr(processing, "process_images", lambda p: made.append(p) or Shown(*copies))
    monkeypatch.setattr(shared.state, "job_count", 1, raising=False)
    p = SimpleNamespace(
        n_iter=1, script_args=("other", True, "Paper"), all_subseeds=[1, 2], all_prompts=["a", "b"],
        all_negative_prompts=["", ""], styles=["painting"], extra_generation_params={"Noise Order": "Paper", "ENSD": 1},
        comments={}, do_not_save_grid=False, override_settings={"CLIP_stop_at_last_layers": 2}, setup_prompts=lambda: None,
        **{"subseed_strength": 0, "all_seeds": [7, 8], **job},
    )  # fmt: skip
    before = dict(vars(p))
    plain_copies.add_plain_copies(p, processed, 1)
    assert vars(p) == before, "the job itself is left alone"
    return made


def test_the_plain_copy_is_the_same_job_with_the_switch_off(host, monkeypatch):
    processed = Shown("A", "B")
    (plain,) = compared(monkeypatch, processed, ["a", "b"])
    assert processed.images == processed.infotexts == ["A", "a", "B", "b"]
    assert plain.script_args == ["other", False, "Paper"] and plain.seed == 7 and plain.prompt == "a"
    assert plain.override_settings["CLIP_stop_at_last_layers"] == 2 and len(plain.override_settings) == 2
    plain.setup_prompts()
    assert plain.all_prompts == ["a", "b"] and plain.all_negative_prompts == ["", ""]
    assert plain.styles == [] and plain.extra_generation_params == {"ENSD": 1} and plain.do_not_save_grid


@pytest.mark.parametrize(
    "strength, seeds, expected", [(0, [7, 8], 7), (0, [7, 7], [7, 7]), (0.5, [7, 7], 7), (0.5, [7, 8], [7, 8]), (0, [7], 7)]
)
def test_a_plain_copy_has_the_pictures_seeds(host, monkeypatch, strength, seeds, expected):
    (plain,) = compared(monkeypatch, Shown("A"), ["a"], subseed_strength=strength, all_seeds=seeds)
    assert plain.seed == expected


def test_plain_copies_find_their_place_beside_grids_and_masks(host, monkeypatch):
    grid = Shown("grid", "A", "B", grid=True)
    compared(monkeypatch, grid, ["a", "b"])
    assert grid.images == ["grid", "A", "a", "B", "b"]
    masked = Shown("A", "mask of A", texts=["A"])
    compared(monkeypatch, masked, ["a"])
    assert masked.images == ["A", "mask of A", "a"]


def test_an_interrupted_job_gets_no_plain_copies(host, monkeypatch):
    monkeypatch.setattr(host.shared.state, "interrupted", True)
    assert compared(monkeypatch, Shown("A"), ["a"]) == []


def test_a_failing_copy_costs_the_comparison_only(host, monkeypatch):
    from modules import errors

    from lib_noiseorder.webui.job import plain_copies

    from .client import noise_order

    def fail(*_):
        raise RuntimeError("out of copies")

    monkeypatch.setattr(plain_copies, "add_plain_copies", fail)
    pictures, _ = host.gallery("txt2img", **noise_order(compare_with_off=True))
    assert len(pictures) == 1
    assert "Noise Order: the plain copies failed, RuntimeError: out of copies ⚠" in host.comments
    errors.reports.clear()
