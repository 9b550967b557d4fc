"""The line that says beforehand what a picture will cost, by the code that does the work."""

import json
import sys

import pytest

from lib_noiseorder import NoiseOrderSettings
from lib_noiseorder.plans import SamplerRun, plan_for
from lib_noiseorder.report import Report

from .double.host import DoubleHost


@pytest.fixture(scope="module", autouse=True)
def host():
    return DoubleHost("eps")


def said(settings, family="eps", seconds=None, **page):
    from lib_noiseorder.webui.model.beforehand import Loaded
    from lib_noiseorder.webui.panel.cost_line import Page, cost_line

    usual = {
        "steps": 20, "sampler": "Euler", "scheduler": "Automatic", "guidance": 7, "prompt": "", "denoising": None,
        "masked": False, "hires": None, "seeds": ["5"], "script": False,
    }  # fmt: skip
    loaded = None if family is None else Loaded(family)
    return cost_line(NoiseOrderSettings(enabled=True, **settings), Page.read(json.dumps({**usual, **page})), loaded, seconds)


HIRES = {"sampler": "Euler", "scheduler": "", "guidance": None, "steps": 10, "denoising": 0.7}
FIVE = "Compares 5 noises: 16 more model evaluations, +40 % at 20 steps"
BOTH = {"strength": 0.2, "selection": "automatic"}


@pytest.mark.parametrize(
    "strength, more", [(0.0, ""), (0.2, " Asks the model 3 times: 3 more model evaluations, +8 % at 20 steps.")]
)
@pytest.mark.parametrize("at", [0.25, 1])
def test_a_judge_that_is_not_here_is_told_beforehand_and_nothing_is_announced_for_it(at, strength, more):
    settings = {"preset": "Custom", "selection": "automatic", "judge": "mine", "judge_at": at, "strength": strength}
    assert said(settings) == (f"There is no judge 'mine' here. None are compared.{more}", True)


@pytest.mark.parametrize(
    "settings, page, line",
    [
        ({}, {}, FIVE),
        ({}, {"family": "flow"}, FIVE),
        ({}, {"family": None}, FIVE),
        ({}, {"seconds": 0.25}, f"{FIVE}, about 4.0 s"),
        ({}, {"guidance": 1}, "Compares 6 noises: 16 more model evaluations, +40 % at 20 steps"),
        ({}, {"guidance": 1, "family": None}, "Compares 6 noises: 16 more model evaluations, +40 % at 20 steps"),
        ({}, {"masked": True, "denoising": 0.95}, "Compares 3 noises: 14 more model evaluations, +35 % at 20 steps"),
        ({}, {"prompt": "a circle AND a square"}, "Compares 5 noises: 24 more model evaluations, +40 % at 20 steps"),
        ({}, {"prompt": "a RAND AND_PERP one"}, FIVE),
        ({}, {"sampler": "Euler a"}, "Compares 3 noises: 16 more model evaluations, +40 % at 20 steps"),
        ({}, {"denoising": 0.5}, "Compares 3 noises: 8 more model evaluations, +36 % at 20 steps"),
        ({"extra_cost": 1}, {}, "Compares 9 noises: 40 more model evaluations, +100 % at 20 steps"),
        ({"preset": "Light"}, {}, "Compares 3 noises: 8 more model evaluations, +20 % at 20 steps"),
        ({"selection_draws": 3}, {}, "Compares 3 noises: 8 more model evaluations, +20 % at 20 steps"),
        ({"preset": "Paper"}, {}, "Asks the model 3 times: 3 more model evaluations, +8 % at 20 steps"),
        (BOTH, {}, "Compares 3 noises and asks the model 3 times: 17 more model evaluations, +42 % at 20 steps"),
        ({"strength": 0}, {}, "No extra cost"),
        ({"chosen": "5:3"}, {}, "A noise is kept for this seed: no extra cost"),
        ({"chosen": "5:3"}, {"seeds": ["5", "6"]}, FIVE),
        ({"chosen": "5:3"}, {"seeds": [""]}, FIVE),
        ({"judge": "mine", "chosen": "5:3"}, {}, "A noise is kept for this seed: no extra cost"),
        ({"compare_with_off": True}, {}, f"{FIVE}. The pictures without it double the time"),
        ({"compare_with_off": True}, {"script": True}, FIVE),
        ({"hires_pass": True}, {"hires": HIRES}, f"{FIVE}; 8 more in the hires pass"),
        ({"hires_pass": True, "chosen": "5:3/2"}, {"hires": HIRES}, "A noise is kept for this seed: no extra cost"),
        ({}, {"steps": 4, "family": None}, "Compares 2 noises: 2 more model evaluations, +25 % at 4 steps"),
        ({}, {"sampler": "DPM adaptive"}, "Compares 3 noises: 16 more model evaluations"),
    ],
    ids=str,
)  # fmt: skip
def test_what_it_says(settings, page, line):
    assert said(settings, **page) == (line, False)


@pytest.mark.parametrize(
    "settings, page, line",
    [
        (
            {},
            {"steps": 2},
            "With 2 steps, an extra cost of 0.4 is too little to compare noises. None are compared; 0.5 would do.",
        ),
        (
            {"extra_cost": 0},
            {},
            "With 20 steps, an extra cost of 0 is too little to compare noises. None are compared; 0.05 would do.",
        ),
        (
            {**BOTH, "extra_cost": 0.2},
            {"steps": 3},
            "With 3 steps, an extra cost of 0.2 is too little to compare noises. None are compared; 0.7 would do. "
            "Asks the model 3 times: 3 more model evaluations, +50 % at 3 steps.",
        ),
        (
            {"hires_pass": True},
            {"steps": 2, "hires": HIRES},
            "With 2 steps, an extra cost of 0.4 is too little to compare noises. None are compared; 0.5 would do. "
            "8 more in the hires pass.",
        ),
        ({"selection_draws": 1}, {}, "One noise leaves nothing to compare: set Selection draws to 0, or to 2 and more."),
        ({"strength": 0, "erasure_samples": 1}, {}, "These settings leave the noise as it is: the picture is the plain one."),
    ],
    ids=str,
)
def test_it_warns_where_nothing_will_be_done(settings, page, line):
    assert said(settings, **page) == (line, True)


@pytest.mark.parametrize("family", ["eps", "flow"])
@pytest.mark.parametrize("guidance", [1, 7])
@pytest.mark.parametrize("steps", [7, 20, 150])
def test_it_reckons_as_the_plan_does(family, guidance, steps, monkeypatch):
    if family == "flow":  # as the double behaves
        monkeypatch.setitem(sys.modules, "modules_forge", None)
    in_vain = guidance == 1 and family == "eps"  # A1111 asks for both halves there
    run = SamplerRun(guidance, steps, reuses_answers=not in_vain, sampler_evaluations=2 * steps if in_vain else None)
    plan = plan_for(run)
    cost = plan.extra_evaluations(run)
    line, warns = said({}, family, guidance=guidance, steps=steps)
    assert warns == (plan.draws == 1)
    assert warns or line.startswith(f"Compares {plan.draws} noises: {cost} more model evaluations")


@pytest.mark.parametrize("text", ["", "{}", "[]", "3", '{"steps": null}'])
def test_what_a_page_cannot_say(text):
    from lib_noiseorder.webui.panel.cost_line import Page

    with pytest.raises(ValueError):
        Page.read(text)


def test_what_has_no_effect_need_not_be_shown():
    from lib_noiseorder.webui.panel.cost_line import in_effect

    def used(tab="txt2img", **settings):
        return {name for name, does in in_effect(NoiseOrderSettings(enabled=True, **settings), tab).items() if does}

    assert used() == {"extra_cost", "selection_draws", "judge", "hires_pass"}
    assert used(judge="mine") == used() | {"judge_at", "judge_threshold"}
    assert used(selection_draws=3, tab="img2img") == {"selection_draws", "judge"}
    formulas = {f"{stage}_{what}" for stage in ("layout", "structure", "detail") for what in ("weight", "timestep")}
    formulas |= {"injection", "strength_schedule", "hires_pass"}
    assert used(preset="Paper") == formulas
    assert used(detail_weight=0) == formulas - {"detail_timestep"}
    assert used(strength=0) == {"hires_pass"}


def test_seconds_are_those_of_the_last_picture():
    from lib_noiseorder.webui.panel.cost_line import Timing

    timing = Timing()
    for report in (None, Report(evaluations=10, seconds=2.0), Report(seconds=1.0)):
        timing.note(report)
    assert timing.seconds == 0.2


def test_the_kind_of_checkpoint_is_looked_up_without_loading_one(monkeypatch):
    from types import SimpleNamespace

    from modules import sd_models

    from lib_noiseorder.webui.model.beforehand import Loaded

    class FakeInitialModel:
        """Forge's, before anything is loaded."""

    def loaded(**data):
        monkeypatch.setattr(sd_models, "model_data", SimpleNamespace(**data), raising=False)
        now = Loaded.now()
        return now and now.family

    assert loaded(sd_model=None) is None
    assert loaded(sd_model=sd_models.EpsCheckpoint()) == "eps"
    forge = {"forge_loading_parameters": {"checkpoint": "a"}}
    assert loaded(sd_model=sd_models.FlowCheckpoint(), forge_hash="{'checkpoint': 'a'}", **forge) == "flow"
    assert loaded(sd_model=sd_models.FlowCheckpoint(), forge_hash="another", **forge) is None
    assert loaded(sd_model=FakeInitialModel(), forge_hash="{'checkpoint': 'a'}", **forge) is None
