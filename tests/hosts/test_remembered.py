"""Ordered noise is remembered: what does not concern it costs no evaluation again, and what does is asked anew.

What the network evaluates is counted on its class: a hook on the network itself, as the counting extension's, is something
that Noise Order cannot see through, and so nothing is remembered while it hangs there.
"""

from types import SimpleNamespace

import pytest
import torch

from lib_noiseorder.ordering import Report

from .client import difference, encoded, noise_order
from .double.host import DoubleHost
from .real import grey_picture
from .sabotaged import PARAMETERS, SabotagedDouble, running, sabotage


class Watched:
    """A host whose every job tells how many rows the network evaluated, without the counting extension's hook."""

    def __init__(self, host):
        self.host = host
        host.txt2img(alwayson_scripts=sabotage())  # the count begins with the first job

    def __call__(self, kind="txt2img", plan=(), **payload):
        order = payload.pop("alwayson_scripts", {})
        before = self.host.state()["rows"]
        scripts = {**order, **sabotage(uncounted=True, **dict(plan))}
        result = getattr(self.host, kind)(**payload, alwayson_scripts=scripts)
        return result, self.host.state()["rows"] - before


@pytest.fixture(scope="module", params=PARAMETERS)
def host(request, tmp_path_factory):
    with running(request.param, tmp_path_factory.mktemp("remembered")) as one:
        yield Watched(one)


@pytest.fixture
def double():
    return Watched(SabotagedDouble("eps"))


def extra(host, seed, **payload):
    """The rows that ordering adds to a job, and its result."""
    order = payload.pop("order", noise_order())
    _, plain = host(seed=seed, **payload)
    result, ordered = host(seed=seed, **payload, **order)
    return ordered - plain, result


def test_the_count_is_what_the_hosts_say(host):
    asked, result = extra(host, 100)
    assert asked == int(result["Noise Order evaluations"]) == 3


UNRELATED = [
    {},
    {"steps": 7},
    {"sampler_name": "Euler a"},
    {"cfg_scale": 6.0},
    {"enable_hr": True},
    {"steps": 9, "cfg_scale": 2.0},
]


@pytest.mark.parametrize("change", UNRELATED, ids=str)
def test_what_does_not_concern_the_noise_costs_nothing(host, change):
    first, _ = host(seed=101, **noise_order())
    asked, again = extra(host, 101, **change)
    assert asked == 0
    assert again["Noise Order evaluations"] == first["Noise Order evaluations"], "the infotext is that of the first picture"
    if not change:
        assert difference(first, again) == 0
    anew, _ = host(seed=101, plan={"forget": True}, **change, **noise_order())
    assert difference(anew, again) == 0, "the remembered noise is another one"


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 299}, {"prompt": "blue square"}, {"negative_prompt": "red circle"}, {"batch_size": 2}, {"n_iter": 2},
        {"subseed_strength": 0.4}, {"order": noise_order(strength=0.2)}, {"order": noise_order(erasure_samples=3)},
        {"order": noise_order(noise_scale=0.9)}, {"order": noise_order(injection="literal")},
        {"order": noise_order(layout_timestep=0.8)}, {"order": noise_order(preset="Light")},
    ],
    ids=str,
)  # fmt: skip
def test_what_concerns_the_noise_is_asked_anew(host, change):
    host(seed=202, **noise_order())
    change = dict(change)
    seed = change.pop("seed", 202)
    order = change.pop("order", noise_order())
    _, plain = host(seed=seed, **change)
    _, ordered = host(seed=seed, **change, **order)
    assert ordered > plain


def test_a_selection_follows_the_sampler_and_is_remembered_with_its_course(host):
    automatic = noise_order(preset="Automatic")
    asked, first = extra(host, 303, steps=20, order=automatic)
    assert asked == int(first["Noise Order evaluations"]) > 0
    asked, again = extra(host, 303, steps=20, order=automatic)
    assert asked == 0 and again["Noise Order chosen"] == first["Noise Order chosen"]
    assert again.infotexts == first.infotexts and difference(first, again) <= 1  # its first call was not asked in a selection
    for change in ({"steps": 21}, {"cfg_scale": 5.0}, {"sampler_name": "Euler a"}):
        asked, _ = extra(host, 303, **{"steps": 20, **change}, order=automatic)
        assert asked > 0


def test_img2img_remembers_the_picture_it_starts_from(host):
    if hasattr(host.host, "server"):
        pytest.skip("real encoders draw noise of their own: no two jobs start from the very same latent")
    job = {"kind": "img2img", "denoising_strength": 0.7, "seed": 404}
    pictures = [encoded(grey_picture(host.host.size)), encoded(255 - grey_picture(host.host.size))]
    rows = [host(**job, init_images=[pictures[which]], **noise_order())[1] for which in (0, 0, 1)]
    assert rows[0] - rows[1] == 3 and rows[2] == rows[0]


@pytest.mark.parametrize(
    "seed, plan",
    [(501, {"answers": [2, 2, "nan"]}), (502, {"answers": [1, 1, "memory"]}), (503, {"state": ["interrupted", 5]})],
    ids=str,
)
def test_what_went_wrong_is_not_remembered(host, seed, plan):
    host(seed=seed, plan=plan, **noise_order())
    asked, result = extra(host, seed)
    assert asked == 3 and result["Noise Order skipped"] is None


# -- what a request cannot change, on the double ---------------------------------------------------------------------


def changed_weight(host, monkeypatch):
    with torch.no_grad():
        next(host.checkpoint.lab.net.parameters()).mul_(1.0)  # the values are the same, but who knows


def another_option(host, monkeypatch):
    monkeypatch.setattr(host.shared.opts, "token_merging_ratio", 0.5, raising=False)


def another_checkpoint(host, monkeypatch):
    host.checkpoint = type(host.checkpoint)()
    host.saboteur.count(host.checkpoint.lab.net)


def another_schedule(host, monkeypatch):
    monkeypatch.setattr(host.checkpoint, "sigmas", host.checkpoint.sigmas * 1.0001)


def a_lora(host, monkeypatch):
    import sys

    disk = SimpleNamespace(filename=__file__)
    net = SimpleNamespace(name="blue", te_multiplier=1.0, unet_multiplier=0.7, dyn_dim=None, network_on_disk=disk)
    monkeypatch.setitem(sys.modules, "networks", SimpleNamespace(loaded_networks=[net]))


def an_attribute_of_another_extension(host, monkeypatch):
    monkeypatch.setattr(host.processing.Processing, "comment", lambda p, text: None)
    original = host.processing.Processing.noise_source

    def noise_source(p, first):
        p.regional_prompts = [0.3]
        return original(p, first)

    monkeypatch.setattr(host.processing.Processing, "noise_source", noise_source)


CHANGES = [changed_weight, another_option, another_checkpoint, another_schedule, a_lora, an_attribute_of_another_extension]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_change_beside_the_request_is_asked_anew_and_remembered_in_its_turn(double, change, monkeypatch):
    double(seed=1, **noise_order())
    change(double.host, monkeypatch)
    assert extra(double, 1)[0] == 3
    assert extra(double, 1)[0] == 0


def a_hook(host, monkeypatch):
    return host.checkpoint.lab.net.blocks[0].register_forward_hook(lambda *_: None).remove


def a_replaced_forward(host, monkeypatch):
    monkeypatch.setattr(host.checkpoint.lab.net.blocks[0], "forward", host.checkpoint.lab.net.blocks[0].forward, raising=False)
    return lambda: None


def a_callback_on_evaluations(host, monkeypatch):
    import sys

    listening = {"callbacks_cfg_denoiser": [print]}
    monkeypatch.setitem(sys.modules, "modules.script_callbacks", SimpleNamespace(callback_map=listening))
    return lambda: None


def a_hypernetwork(host, monkeypatch):
    monkeypatch.setattr(host.shared, "loaded_hypernetworks", [object()], raising=False)
    return lambda: None


@pytest.mark.parametrize(
    "patch", [a_hook, a_replaced_forward, a_callback_on_evaluations, a_hypernetwork], ids=lambda p: p.__name__
)
def test_what_cannot_be_seen_through_is_never_remembered(double, patch, monkeypatch):
    double(seed=1, **noise_order())
    undo = patch(double.host, monkeypatch)
    assert [extra(double, 1)[0] for _ in range(2)] == [3, 3]
    undo()


@pytest.mark.parametrize("name", ["object_patches", "controlnet_linked_list", "extra_model_patchers_during_sampling"])
def test_forges_patches_are_never_remembered(name):
    forge = Watched(SabotagedDouble("flow"))
    forge(seed=1, **noise_order())
    setattr(forge.host.checkpoint.forge_objects.unet, name, {"a": 1})
    assert [extra(forge, 1)[0] for _ in range(2)] == [3, 3]


def test_forges_options_and_loras_are_in_the_key():
    forge = Watched(SabotagedDouble("flow"))
    unet = forge.host.checkpoint.forge_objects.unet
    forge(seed=1, **noise_order())
    for change in (
        lambda: setattr(unet, "lora_patches", {(__file__, 0.7, 1.0, False): {}}),
        lambda: setattr(unet, "lora_patches", {(__file__, 0.8, 1.0, False): {}}),
        lambda: unet.model_options.update(disable_cfg1_optimization=True),
    ):
        change()
        assert [extra(forge, 1)[0] for _ in range(2)] == [3, 0]
    unet.model_options["model_function_wrapper"] = print
    assert [extra(forge, 1)[0] for _ in range(2)] == [3, 3]


def test_the_line_below_the_picture_says_that_nothing_was_asked(double):
    double(seed=1, **noise_order())
    assert not any("remembered" in comment for comment in double.host.comments)
    double(seed=1, **noise_order())
    (line,) = [comment for comment in double.host.comments if "extra evaluation" in comment]
    assert line.startswith("Noise Order: 0 extra evaluations per picture, the noise is remembered, ")


def test_showing_what_is_injected_asks_anew(double):
    double(seed=1, **noise_order())
    assert extra(double, 1, order=noise_order(show_injected=True))[0] == 3


def test_every_script_has_a_memory_of_its_own():
    first, second = Watched(SabotagedDouble("eps")), Watched(SabotagedDouble("eps"))
    assert extra(first, 1)[0] == extra(second, 1)[0] == 3


def test_nothing_that_the_double_puts_on_a_job_is_forgotten_by_the_key(double):
    """Attributes are left out by name only; a new one of the host counts until it is proven irrelevant."""
    from lib_noiseorder.webui.model.remembered import IRRELEVANT

    double(seed=1, **noise_order())
    counting = {name for name in vars(double.host.last_job) if name not in IRRELEVANT}
    assert counting <= {"_noise_order_outcome", "_noise_order_shown"}


def test_a_remembered_report_is_told_apart():
    assert not Report().remembered


def test_the_counting_extension_keeps_everything_from_being_remembered():
    host = DoubleHost("eps")
    evaluations = {host.txt2img(**noise_order()).evaluations for _ in range(3)}
    assert evaluations == {11.0}
