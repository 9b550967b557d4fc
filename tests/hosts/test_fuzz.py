"""Random and adversarial API arguments: refused by name, or done exactly as the infotext says; never an error of our making.

With --long, 10 000 examples go through the double, else 440: most of them through the door only (the hooks that read the
settings, refuse, arm and take off), the others through whole pictures. Where an environment variable names a real A1111,
NOISEORDER_FUZZ examples (default 50) go through its API.
"""

import dataclasses
import json
import math
import os

import pytest
import requests
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from lib_noiseorder import KNOBS, NoiseOrderSettings, SettingsError
from lib_noiseorder.chosen import check_with_seeds, chosen_draws

from ..lengths import at_length
from .client import Refused, decoded, difference
from .double.host import DoubleHost
from .real import RealHost, checkpoints

DOOR, PICTURES = at_length((360, 80), (9_000, 1_000))
REAL = int(os.environ.get("NOISEORDER_FUZZ", "50"))
PANEL = [knob.default for knob in KNOBS]
# the short run tries the same examples everywhere: a new one is no news about a commit
LIMITS = {"derandomize": at_length(True, False), "deadline": None, "suppress_health_check": list(HealthCheck)}

scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(min_value=10**30, max_value=10**40), st.floats(),
    st.sampled_from([0, -0.0, 1e308, 5e-324, 2**31, -(2**63), "", "0", "NaN", "true", "None", "\0", "‮", "𝕏" * 300]),
    st.text(max_size=20),
)  # fmt: skip
junk = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3), max_leaves=6
)
deep = st.integers(2, 60).map(lambda depth: json.loads('{"a": [' * depth + "1" + "]}" * depth))


def of_the_knob(knob):
    """Values of the knob's range, its borders included, and those just beyond."""
    if knob.choices:
        return st.sampled_from([*knob.choices, knob.choices[0].upper(), knob.choices[0] + " "])
    if knob.kind is bool:
        return st.booleans()
    if knob.name == "judge":
        return st.sampled_from(["model", "", "no such judge", "two\nlines"])
    if knob.name == "judge_threshold":
        return st.sampled_from(["", "0.3", 0.3, "-1", "nan", "good"])
    if knob.check:
        pair = st.builds("{}:{}".format, st.integers(-1, 3), st.integers(0, 17))
        return (
            st.lists(pair, max_size=3).map(" ".join)
            | st.integers(-1, 17)
            | st.sampled_from(["1:3/2", "1+2:3", "1:", "3 1", "x"])
        )
    low, high = knob.minimum, knob.maximum
    if knob.kind is int:
        return st.integers(int(low), int(high)) | st.sampled_from([int(low) - 1, int(high) + 1, low, high, low + 0.5])
    beyond = [math.nextafter(low, -math.inf), math.nextafter(high, math.inf), math.nan, math.inf, str(low)]
    return st.floats(low, high) | st.sampled_from([low, high, int(high), *beyond])


named = {knob.name: of_the_knob(knob) for knob in KNOBS}
wild = {knob.name: of_the_knob(knob) | junk | deep for knob in KNOBS}
strange_keys = st.text(max_size=30) | st.sampled_from(
    [knob.name.upper() for knob in KNOBS] + [f"{KNOBS[3].name} ", "__class__"]
)
objects = st.one_of(
    st.fixed_dictionaries({}, optional=named).map(lambda values: {**values, "enabled": True}),
    st.fixed_dictionaries({}, optional=wild),
    st.dictionaries(strange_keys, junk, max_size=3).flatmap(
        lambda more: st.fixed_dictionaries({}, optional=named).map(more.__or__)
    ),
)
flat = st.one_of(
    st.integers(0, len(KNOBS)).flatmap(lambda count: st.tuples(*list(named.values())[:count]).map(list)),
    st.lists(junk | deep, max_size=len(KNOBS)),
    st.lists(st.booleans() | st.integers(0, 9), min_size=len(KNOBS), max_size=len(KNOBS) + 9),
)
arguments = st.one_of(objects.map(lambda values: [values]), objects.map(lambda values: [values]), flat)


def arrived(args):
    """What is left of the arguments where the hosts hand them over: cut to the panel's length, filled up with its values."""
    return [*args[: len(PANEL)], *PANEL[len(args) :]]


def wish(args):
    """The settings that the arguments stand for; None where they are to be refused."""
    try:
        wished = NoiseOrderSettings.from_args(arrived(args))
        check_with_seeds(wished.chosen)
        return wished
    except SettingsError:
        return None


def hold(result, expected):
    """The infotext says what was asked for."""
    text = result.infotexts[0]
    if not expected.enabled:
        assert "Noise Order" not in text
        return
    said = NoiseOrderSettings.from_infotext(text)
    of_the_picture = {"chosen": "", "compare_with_off": False, "show_injected": False}
    assert dataclasses.replace(said, **of_the_picture) == dataclasses.replace(expected, **of_the_picture)
    given = any(chosen_draws(expected.chosen, 1, [result["Seed"]]))
    assert said.chosen or not given, "a choice that was given to this seed is named again"
    assert "Noise Order error" not in text
    skipped = result["Noise Order skipped"] or ""
    assert "Error" not in skipped, f"something of ours failed: {skipped}"


@pytest.fixture(scope="module", params=["eps", "flow"])
def double(request):
    return DoubleHost(request.param)


@pytest.fixture(scope="module")
def eps():
    return DoubleHost("eps")


@settings(max_examples=DOOR, **LIMITS)
@given(args=arguments)
@example(args=[{"enabled": True, "chosen": "3 1"}])
@example(args=[{"enabled": True, "strength": 10**5000}])
@example(args=[{"enabled": True, "x" * 100_000: 1}])
def test_the_door(eps, args):
    """The hooks alone: refused with status 422 and a message of ours, or armed with exactly these settings, and taken off."""
    from fastapi import HTTPException

    from lib_noiseorder.webui.job.session import Session

    expected = wish(args)
    p = eps.processing.Txt2Img(prompt=eps.prompt, script_args=[*eps.defaults], scripts=eps.runner)
    script = next(script for script in eps.runner.alwayson_scripts if script.title() == "Noise Order")
    p.is_api, p.script_args[script.args_from : script.args_to] = True, arrived(args)
    own = p.init
    script.process(p, *arrived(args))
    if expected is None:
        with pytest.raises(HTTPException, match="Noise Order: ") as refused:
            p.init([], [], [])
        assert refused.value.status_code == 422 and len(refused.value.detail) < 1000
        return
    assert p.init == own
    p.setup_prompts(), p.setup_seeds()
    p.iteration = 0
    p.begin_batch()
    script.process_batch(p, *arrived(args))
    armed = Session.of(p)
    assert (armed.settings if armed else NoiseOrderSettings()) == (expected if expected.enabled else NoiseOrderSettings())
    script.postprocess_batch(p, *arrived(args))
    assert Session.of(p) is None and "next" not in vars(p.rng)


@settings(max_examples=PICTURES // 2, **LIMITS)
@given(args=arguments)
def test_pictures_of_the_double(double, args):
    expected = wish(args)
    payload = {"steps": 2, "alwayson_scripts": {"Noise Order": {"args": args}}}
    try:
        result = double.txt2img(**payload)
    except Refused as refused:
        assert expected is None and refused.status == 422 and refused.message.startswith("Noise Order: ")
        return
    assert expected is not None
    hold(result, expected)
    said = NoiseOrderSettings.from_infotext(result.infotexts[0])
    again = double.txt2img(steps=2, alwayson_scripts={"Noise Order": {"args": [said.to_dict()]}})
    assert difference(result, again) == 0, "the picture was not made with the settings that its infotext says"


@pytest.fixture(scope="module", params=[f"A1111:{name}" for name in checkpoints("A1111")[:1]])
def real(request, servers):
    return RealHost(servers("A1111", True), request.param.partition(":")[2])


def generated(host, args):
    """As `RealHost.txt2img`, with NaN and infinity, which are no JSON but arrive all the same."""
    payload = {**host.defaults(), "steps": 1, "alwayson_scripts": {"Noise Order": {"args": args}}}
    answer = requests.post(
        f"{host.server.url}/sdapi/v1/txt2img",
        data=json.dumps(payload),
        headers={"Content-Type": "application/json"},
        timeout=600,
    )
    if not answer.ok:
        raise Refused(answer.status_code, answer.text)
    found = answer.json()
    return decoded(found["images"][:1], json.loads(found["info"])["infotexts"][:1], 1)  # plain copies and sheets come after it


@pytest.mark.real_host
@settings(max_examples=REAL, **LIMITS)
@given(args=arguments)
def test_pictures_of_a_real_webui(real, args):
    expected = wish(args)
    try:
        result = generated(real, args)
    except Refused as refused:
        if "Integer exceeds 64-bit range" not in refused.message:  # the host cannot echo such a number in its answer
            assert expected is None and refused.status == 422 and "Noise Order: " in refused.message, refused
        return
    assert expected is not None, "bad settings were accepted"
    hold(result, expected)
    if expected.enabled:
        said = NoiseOrderSettings.from_infotext(result.infotexts[0])
        assert difference(result, generated(real, [said.to_dict()])) == 0
