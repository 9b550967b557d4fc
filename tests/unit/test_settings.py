"""One place for every knob: validation, presets, and the ways in and out."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib_noiseorder import KNOBS, NoiseOrderSettings, SettingsError
from lib_noiseorder.settings import KNOB, PRESETS

BAD = {
    "enabled": ["yes", 1, None],
    "preset": ["Magic", 3, None],
    "erasure_samples": [0, 65, 2.5, True, "4", None, float("nan")],
    "strength": [2.01, -2.01, float("nan"), float("inf"), 10**400, True, "0.1", None, [0.1]],
    "layout_weight": [3, True],
    "structure_weight": [float("-inf")],
    "detail_weight": ["much"],
    "injection": ["maybe", True],
    "strength_schedule": ["exponential"],
    "noise_scale": [0, 0.49, 1.51],
    "layout_timestep": [-0.1, 0, 1.01],
    "structure_timestep": [float("nan")],
    "detail_timestep": [{}],
    "selection": ["on", False, None],
    "selection_draws": [-1, 17, 1.5, True],
    "compare_with_off": [1, "yes"],
    "show_injected": [None, 0],
    "hires_pass": [1, "second"],
    "inner_passes": ["all", None],
    "extra_cost": [-0.1, 4.01, float("nan"), "a lot", True],
    "judge": ["two\nlines", "x" * 201, True, None, ["clip"]],
    "judge_at": [0, 1.01, "late", True],
    "judge_threshold": ["good", "nan", "inf", True, None, [20]],
    "chosen": ["five", "5:", "5:0", "5:17", "5:3/17", "5:3:1", "-", "5:3 x", True, None, 1.5, [3]],
}


@pytest.mark.parametrize("name, value", [(name, value) for name, values in BAD.items() for value in values])
def test_a_bad_value_is_refused_with_field_value_and_range(name, value):
    shown = repr(value.split()[-1] if name == "chosen" and isinstance(value, str) else value)  # the one bad pair of several
    for way in (NoiseOrderSettings.from_dict, lambda values: NoiseOrderSettings(**values)):
        with pytest.raises(SettingsError) as refused:
            way({name: value})
        assert f"{name} = {shown[:40]}" in str(refused.value)
        assert KNOB[name].range in str(refused.value)


def test_every_knob_has_bad_values_here():
    assert set(BAD) == set(KNOB)


@pytest.mark.parametrize(
    "values, says",
    [
        ({"strenght": 0.1}, "unknown setting 'strenght'; did you mean 'strength'?"),
        ({3: 1}, "unknown setting '3'"),
        ([1], "must be an object of named values, not list"),
    ],
)
def test_unknown_keys_and_non_objects(values, says):
    with pytest.raises(SettingsError) as refused:
        NoiseOrderSettings.from_dict(values)
    assert says in str(refused.value)


def test_settings_are_frozen_and_typed():
    settings = NoiseOrderSettings(strength=1, erasure_samples=2.0)
    assert isinstance(settings.strength, float) and isinstance(settings.erasure_samples, int)
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.strength = 0.5


def test_numbers_of_numpy_are_numbers():
    settings = NoiseOrderSettings(strength=np.float32(0.5), erasure_samples=np.int64(2), chosen=np.int64(3))
    assert settings == NoiseOrderSettings(strength=0.5, erasure_samples=2, chosen="3")
    assert json.loads(json.dumps(settings.to_dict())) == settings.to_dict()


def test_injecting_with_no_weight_is_refused():
    with pytest.raises(SettingsError, match="leave nothing to inject"):
        NoiseOrderSettings(layout_weight=0, structure_weight=0, detail_weight=0)
    assert NoiseOrderSettings(layout_weight=0, structure_weight=0, detail_weight=0, strength=0).strength == 0


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_decides_its_fields(preset):
    settings = NoiseOrderSettings.from_dict({"preset": preset})
    assert {name: getattr(settings, name) for name in PRESETS[preset]} == PRESETS[preset]


WAYS = {
    "constructor": lambda values: NoiseOrderSettings(**values),
    "from_dict": NoiseOrderSettings.from_dict,
    "args with an object": lambda values: NoiseOrderSettings.from_args([values]),
    "infotext": lambda values: NoiseOrderSettings.from_infotext({KNOB[k].infotext_key: str(v) for k, v in values.items()}),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("wish", [{"strength": 0.5}, {"injection": "calibrated"}, {"noise_scale": 0.9}], ids=str)
def test_a_wish_that_contradicts_the_preset_is_refused_even_if_it_is_the_default(way, wish):
    with pytest.raises(SettingsError, match="contradicts preset 'Paper'"):
        way({"preset": "Paper", **wish})


ON = NoiseOrderSettings(enabled=True)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize(
    "wish, meant",
    [
        ({"enabled": True}, {"preset": "Automatic", "selection": "automatic", "erasure_samples": 1, "strength": 0.0}),
        ({"extra_cost": 1.0}, {"preset": "Automatic", "extra_cost": 1.0}),
        ({"selection_draws": 5}, {"preset": "Automatic", "selection_draws": 5, "strength": 0.0}),
        ({"preset": "Light"}, {"selection": "automatic", "extra_cost": 0.2}),
        ({"strength": 0.2}, {"preset": "Custom", "selection": "off", "strength": 0.2, "erasure_samples": 4}),
        ({"selection": "automatic"}, {"preset": "Custom", "selection": "automatic", "strength": 0.1, "erasure_samples": 4}),
        ({"layout_timestep": 0.8}, {"preset": "Custom", "strength": 0.1}),
        ({"preset": "Custom"}, {"selection": "off", "strength": 0.1, "erasure_samples": 4}),
        ({"preset": "Light", "selection": "light"}, {"selection": "automatic", "extra_cost": 0.2}),
        ({"selection": "light"}, {"preset": "Custom", "selection": "automatic", "extra_cost": 0.2}),
    ],
    ids=str,
)
def test_one_default_and_one_rule_everywhere(way, wish, meant):
    settings = way(wish)
    assert settings.enabled
    assert {name: getattr(settings, name) for name in meant} == meant


def test_nothing_named_is_off():
    for nothing in (NoiseOrderSettings(), NoiseOrderSettings.from_dict({}), NoiseOrderSettings.from_args([])):
        assert not nothing.enabled
    assert not NoiseOrderSettings(enabled=False, preset="Light").enabled


@pytest.mark.parametrize(
    "args, same_as",
    [
        ([True], {"enabled": True}),
        ([True, "Light"], {"preset": "Light"}),
        ([True, "Paper"], {"preset": "Paper"}),
        ([True, "Custom"], {"preset": "Custom"}),
        ([True, "Custom", 4, 0.3], {"strength": 0.3}),
        ([False, "Paper"], {"enabled": False, "preset": "Paper"}),
    ],
    ids=str,
)
def test_a_flat_list_means_the_same_however_the_host_fills_it_up(args, same_as):
    filled_up = [*args, *(knob.default for knob in KNOBS[len(args) :])]
    assert NoiseOrderSettings.from_args(args) == NoiseOrderSettings.from_args(filled_up) == NoiseOrderSettings(**same_as)


def test_a_flat_list_that_contradicts_its_preset_is_refused():
    for args in ([True, "Automatic", 2], [True, "Paper", 4, 0.3]):
        with pytest.raises(SettingsError, match="contradicts preset"):
            NoiseOrderSettings.from_args(args)
    with pytest.raises(SettingsError, match="selection_draws = False is not"):  # equal to the default, but no number
        NoiseOrderSettings.from_form({"enabled": True, "selection_draws": False})
    assert NoiseOrderSettings.from_args([True, "Automatic", 1, 0.0]) == ON  # as 0.1's panel sent it


def test_what_is_not_named_follows_the_preset():
    assert NoiseOrderSettings.from_dict({"preset": "Paper", "strength": 0.1}).injection == "literal"


def test_turning_a_knob_that_the_preset_decides_makes_it_custom():
    automatic = NoiseOrderSettings(preset="Automatic")
    stronger = automatic.changed(strength=0.3)
    assert stronger == NoiseOrderSettings(strength=0.3)
    assert stronger.changed(noise_scale=0.9) == NoiseOrderSettings(strength=0.3, noise_scale=0.9)
    assert automatic.changed(hires_pass=True, selection_draws=3).preset == "Automatic"
    assert NoiseOrderSettings(strength=0.5, erasure_samples=2).changed(preset="Paper") == NoiseOrderSettings(preset="Paper")
    assert NoiseOrderSettings(preset="Light").changed(extra_cost=0.3) == NoiseOrderSettings(extra_cost=0.3)
    assert NoiseOrderSettings(strength=0.5).changed(preset="Custom") == NoiseOrderSettings(strength=0.5)
    dearer = NoiseOrderSettings(extra_cost=0.8)
    assert dearer.changed(preset="Light") == NoiseOrderSettings(preset="Light")
    assert dearer.changed(preset="Automatic") == dearer
    assert NoiseOrderSettings(preset="Light").changed(preset="Automatic") == NoiseOrderSettings(preset="Automatic")
    paper = NoiseOrderSettings(preset="Paper")
    assert paper.changed(strength=0.1) == paper and paper.changed(strength=0.2).injection == "literal"
    for bad in ({"preset": "Magic"}, {"strength": 9}, {"strenght": 1}, {"preset": "Paper", "noise_scale": 0.9}):
        with pytest.raises(SettingsError):
            automatic.changed(**bad)


pairs = st.dictionaries(st.integers(0, 2**32 - 1), st.tuples(st.integers(1, 16), st.integers(1, 16)), max_size=3)
chosen_texts = pairs.map(lambda found: " ".join(f"{seed}:{first}/{hires}" for seed, (first, hires) in found.items()))
texts = {
    "chosen": chosen_texts,
    "judge": st.sampled_from(["model", "openai/clip-vit-base-patch32", "my judge, v2: the best"]),
    "judge_threshold": st.sampled_from(["", "0", "-1.25", "21.5", "1234567.5"]),
}
values = {
    knob.name: st.booleans()
    if knob.kind is bool
    else st.sampled_from(knob.choices)
    if knob.choices
    else texts[knob.name]
    if knob.check
    else st.integers(int(knob.minimum), int(knob.maximum))
    if knob.kind is int
    else st.floats(knob.minimum, knob.maximum).filter(lambda value: value != 0)
    for knob in KNOBS
}
custom = st.fixed_dictionaries({**values, "preset": st.just("Custom")}).map(NoiseOrderSettings.from_dict)
any_settings = st.one_of(custom, st.builds(NoiseOrderSettings, preset=st.sampled_from(sorted(PRESETS)), enabled=st.booleans()))


def quoted(value):
    """As the hosts write a value into an infotext."""
    return json.dumps(value) if set(",\n:") & set(value) else value


@given(any_settings)
def test_round_trips(settings):
    assert NoiseOrderSettings.from_dict(settings.to_dict()) == settings
    assert NoiseOrderSettings.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings
    assert NoiseOrderSettings.from_args([settings.to_dict()]) == settings
    assert NoiseOrderSettings.from_args(list(settings.to_dict().values())) == settings
    assert NoiseOrderSettings.from_dict(settings.named()) == settings
    settings = dataclasses.replace(settings, enabled=True, compare_with_off=False, show_injected=False)  # as in a picture
    assert NoiseOrderSettings.from_infotext(settings.to_infotext()) == settings
    parameters = ", ".join(f"{key}: {quoted(value)}" for key, value in settings.to_infotext().items())
    text = f"a cat\nSteps: 20, {parameters}, Size: 64x64"
    assert NoiseOrderSettings.from_infotext(text) == settings


def test_infotext_has_what_is_needed_to_make_the_picture_again_and_no_more():
    assert NoiseOrderSettings(enabled=True, compare_with_off=True).to_infotext() == {"Noise Order": "Automatic"}
    light = NoiseOrderSettings(preset="Light", hires_pass=True, chosen="5:3").to_infotext()
    assert light == {"Noise Order": "Light", "Noise Order order the hires pass": "True", "Noise Order chosen": "5:3"}
    assert NoiseOrderSettings(strength=0.2).to_infotext() == {"Noise Order": "Custom", "Noise Order strength": "0.2"}


OF_0_1 = (
    "Noise Order enable: True, Noise Order preset: {}, Noise Order erasure draws: {}, Noise Order strength: {}, "
    "Noise Order layout weight: 1.0, Noise Order structure weight: 1.0, Noise Order detail weight: 1.0, "
    "Noise Order injection: {}, "
    "Noise Order strength schedule: constant, Noise Order noise scale: 1.0, Noise Order layout timestep: 0.9, "
    "Noise Order structure timestep: 0.5, Noise Order detail timestep: 0.1, Noise Order selection: {}, "
    "Noise Order selection draws: 0, Noise Order compare with off: False, Noise Order show what is injected: False, "
    "Noise Order order the hires pass: False, Noise Order order inner passes: False, Noise Order evaluations: 12"
)


@pytest.mark.parametrize(
    "said, meant",
    [
        (("Automatic", 1, 0.0, "calibrated", "automatic"), {"preset": "Automatic"}),
        (("Light", 1, 0.0, "calibrated", "light"), {"preset": "Light"}),
        (("Paper", 4, 0.1, "literal", "off"), {"preset": "Paper"}),
        (("Custom", 4, 0.1, "calibrated", "off"), {"preset": "Custom"}),
        (
            ("Custom", 2, 0.3, "literal", "automatic"),
            {"erasure_samples": 2, "strength": 0.3, "injection": "literal", "selection": "automatic"},
        ),
    ],
    ids=str,
)
def test_infotexts_of_0_1_mean_what_they_meant(said, meant):
    assert NoiseOrderSettings.from_infotext(f"a cat\nSteps: 20, {OF_0_1.format(*said)}, Version: v1") == NoiseOrderSettings(
        **meant
    )


def test_infotext_without_our_keys_is_off_and_other_keys_are_passed_over():
    assert NoiseOrderSettings.from_infotext("a cat\nSteps: 20") == NoiseOrderSettings()
    assert NoiseOrderSettings.from_infotext({"Noise Order evaluations": "3"}) == NoiseOrderSettings()
    with pytest.raises(SettingsError, match="strength = 'much'"):
        NoiseOrderSettings.from_infotext({"Noise Order strength": "much"})


@pytest.mark.parametrize(
    "args, says",
    [
        ([True] * (len(KNOBS) + 1), f"args has {len(KNOBS) + 1} values"),
        ("enabled", "args must be a list, not str"),
        ({"enabled": True}, "args must be a list, not dict"),
        ([True, "Custom", 4.5], "erasure_samples = 4.5"),
    ],
)
def test_bad_args(args, says):
    with pytest.raises(SettingsError, match=says):
        NoiseOrderSettings.from_args(args)


def test_flat_args_come_in_the_order_of_the_knobs_and_may_be_few():
    assert NoiseOrderSettings.from_args([True, "Custom", 2]) == NoiseOrderSettings(enabled=True, erasure_samples=2)
    assert NoiseOrderSettings.from_args([]) == NoiseOrderSettings()


def test_infotext_keys_are_prefixed_and_unique():
    keys = [knob.infotext_key for knob in KNOBS]
    assert len(set(keys)) == len(keys) and all(f"{key} ".startswith("Noise Order ") for key in keys)
