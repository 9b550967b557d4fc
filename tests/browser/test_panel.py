"""The panel in the real pages, used as people use it."""

import dataclasses
import json
import re

import pytest

from lib_noiseorder import NoiseOrderSettings
from lib_noiseorder.plans import SamplerRun, plan_for
from lib_noiseorder.settings import KNOB, KNOBS, PRESETS

from .page import Tab, started

pytestmark = [pytest.mark.needs("a browser"), pytest.mark.real_host]
EVERYTHING = NoiseOrderSettings(
    enabled=True,
    erasure_samples=3,
    strength=0.25,
    layout_weight=0.5,
    structure_weight=-0.5,
    detail_weight=1.5,
    injection="literal",
    strength_schedule="cosine",
    noise_scale=0.9,
    layout_timestep=0.8,
    structure_timestep=0.4,
    detail_timestep=0.2,
    selection="automatic",
    selection_draws=2,
    compare_with_off=True,
    show_injected=True,
    hires_pass=True,
    inner_passes=True,
    extra_cost=0.5,
)
WITHOUT_A_JUDGE = ("judge_at", "judge_threshold")
"""What is hidden until a judge is named."""


def set_everything(tab):
    first = ["selection", "extra_cost"]  # with a number of draws there is no cost to set
    left_out = [
        "enabled",
        "preset",
        "chosen",
        "judge",
        *WITHOUT_A_JUDGE,
        *first,
        *(["hires_pass"] if tab.name == "img2img" else []),
    ]  # it has no control
    for name in [*first, *(name for name in KNOB if name not in left_out)]:
        tab.set(name, getattr(EVERYTHING, name))


def everything(tab, **more):
    return {**EVERYTHING.to_dict(), "hires_pass": tab.name == "txt2img", **more}


def test_the_panel_starts_closed_and_off_and_opens_with_the_recommended_preset(open_page):
    page = open_page()
    for name in ("txt2img", "img2img"):
        tab = Tab(page, name)
        assert not tab.switched_on() and not tab.part("menu").is_visible()
        tab.open()
        assert tab.read_all() == NoiseOrderSettings(enabled=True).to_form()


def test_ids_are_unique_and_everything_can_be_reached_by_keyboard(open_page):
    page = open_page()
    ids = page.evaluate("[...document.querySelectorAll('[id*=_noise_order_]')].map(e => e.id)")
    assert len(ids) == len(set(ids)) and len(ids) > 2 * len(KNOBS)
    tab = Tab(page, "txt2img")
    page.locator("#txt2img_noise_order_accordion .label-wrap").first.focus()
    page.keyboard.press("Enter")
    tab.open()
    tab.set("selection", "automatic")  # Custom, with which every control has an effect
    tab.part("detail_timestep").wait_for()
    reached = set()
    page.locator("#txt2img_noise_order_accordion-visible-checkbox").focus()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("(document.activeElement.closest('[id*=_noise_order_]') || {}).id"))
    wanted = {f"txt2img_noise_order_{name}" for name in KNOB if name not in ("enabled", "preset", *WITHOUT_A_JUDGE)}
    wanted |= {
        f"txt2img_noise_order_{name}" for name in ("menu", "use", "forget", "preset_name", "preset_save", "preset_delete")
    }
    assert wanted <= reached


def test_the_cost_line_follows_the_page(open_page, request):
    both_halves = request.node.callspec.params["servers"] == "A1111"  # which asks for them at guidance 1, too
    tab = Tab(open_page(), "txt2img").prepare(steps=20, cfg=7).open()
    tab.says("cost", re.compile(r"^Compares \d+ noises: \d+ more model evaluations, \+[234]\d % at 20 steps"))
    tab.set("extra_cost", 1.0)
    tab.says("cost", re.compile(r"^Compares [79] noises: "))  # 7 where the host asks everything anew
    tab.set("preset", "Paper")
    tab.says("cost", re.compile(r"^Asks the model 3 times: 3 more model evaluations, \+8 % at 20 steps"))
    tab.type(tab.host("cfg_scale"), 1)
    tab.says("cost", re.compile(rf"\+{8 if both_halves else 15} % at 20 steps"))
    tab.choose(tab.host("sampling"), "Heun")
    tab.says("cost", re.compile(rf"\+{4 if both_halves else 8} % at 20 steps"))
    tab.set("detail_weight", 0.0)
    tab.says("cost", re.compile(r"^Asks the model 2 times: 2 more"))
    assert tab.read("preset") == "Custom"
    tab.set("compare_with_off", True)
    tab.says("cost", re.compile(r"The pictures without it double the time$"))
    for stage in ("layout", "structure"):
        tab.set(f"{stage}_weight", 0.0)
    tab.says("cost", re.compile("^⚠ .*leave nothing to inject"))
    tab.set("preset", "Automatic")
    tab.choose(tab.host("sampling"), "Euler")
    tab.type(tab.host("steps"), 2)
    tab.says("cost", re.compile("^⚠ With 2 steps, an extra cost of 0.4 is too little to compare noises"))


def test_the_cost_line_counts_a_hires_pass_that_is_ordered(open_page):
    tab = Tab(open_page(), "txt2img").prepare(steps=20, cfg=7).open()
    tab.set("preset", "Paper")
    tab.set("hires_pass", True)
    tab.says("cost", re.compile(r"^Asks the model 3 times: 3 more .* at 20 steps$"))
    assert tab.read("preset") == "Paper", "Paper says nothing of passes"
    tab.page.locator("#txt2img_hr-visible-checkbox").check()
    tab.says("cost", re.compile(r"^Asks the model 3 times: 3 more .*; 3 more in the hires pass$"))


def test_only_what_has_an_effect_is_shown(open_page):
    def visible(*names):
        return [name for name in names if tab.part(name).is_visible()]

    formulas = ("strength", "layout_weight", "detail_timestep", "injection")
    tab = Tab(open_page(), "txt2img").prepare()
    tab.panel.locator(".label-wrap").first.click()
    tab.says("cost", re.compile("^Compares"))
    assert visible("menu", "extra_cost", "compare_with_off", "chosen", *formulas, "hires_pass") == [
        "menu", "extra_cost", "compare_with_off", "chosen",
    ]  # fmt: skip
    tab.set("preset", "Paper")
    tab.part("strength").wait_for()
    assert visible("extra_cost", *formulas) == list(formulas), "the formulas' fold opens"
    tab.set("detail_weight", 0.0)
    tab.part("detail_timestep").wait_for(state="hidden")
    tab.set("strength", 0.0)
    tab.part("layout_weight").wait_for(state="hidden")
    tab.set("selection", "automatic")
    tab.part("extra_cost").wait_for()
    tab.set("preset", "Light")
    tab.part("strength").wait_for(state="hidden")
    assert tab.read("extra_cost") == 0.2
    tab.set("extra_cost", 0.3)
    tab.page.wait_for_timeout(500)
    assert tab.read("preset") == "Automatic"


def test_the_fold_of_judges_shows_what_a_judge_makes_of_it(tab):
    tab.part("judge_at").wait_for(state="hidden")
    judged = "Noise Order: Automatic, Noise Order judge: nobody, Noise Order judge at: 0.5, Noise Order extra cost: 2"
    tab.paste(f"a cat\nSteps: 20, Sampler: Euler, Seed: 5, {judged}")
    tab.says("cost", re.compile("^⚠ There is no judge 'nobody' here. None are compared"))
    tab.part("judge_at").wait_for()
    assert (tab.read("judge"), tab.read("judge_at")) == ("nobody", 0.5)
    told = tab.generate()[0]
    assert "Noise Order judge: nobody" in told and "there is no judge 'nobody'" in told


def test_send_to_img2img_takes_the_controls_along(open_page):
    tab = Tab(open_page(), "txt2img").prepare().open()
    set_everything(tab)
    tab.generate()
    tab.page.locator("#txt2img_send_to_img2img").click()
    other = Tab(tab.page, "img2img")
    other.page.wait_for_timeout(2500)
    assert other.read_all() == everything(tab)


def test_a_wrong_value_is_told_and_changes_nothing(tab):
    tab.set("strength", 0.25)
    field = tab.part("strength").locator("input[type=number]")
    field.fill("9")
    tab.says("complaint", "Strength: 9 is not a number from -2 to 2. It stays 0.25.")
    field.press("Tab")
    assert tab.read("strength") == 0.25
    infotext = tab.generate()[0]
    assert NoiseOrderSettings.from_infotext(infotext).strength == 0.25
    tab.set("erasure_samples", 2.5)
    tab.says("complaint", re.compile(r"^Erasure draws: 2\.5 is not an integer from 1 to 64"))
    tab.set("erasure_samples", 5)
    tab.says("complaint", "")
    assert tab.read("erasure_samples") == 5
    tab.set("erasure_samples", 99)
    tab.says("complaint", re.compile(r"^Erasure draws: 99 is not"))
    tab.set("compare_with_off", True)
    tab.says("complaint", "")


def test_every_control_arrives_and_comes_back_from_the_infotext(tab, open_page):
    set_everything(tab)
    infotexts = tab.generate()
    of_the_picture = {"chosen": "", "compare_with_off": False, "show_injected": False}
    said = dataclasses.replace(NoiseOrderSettings.from_infotext(infotexts[0]), **of_the_picture)
    assert said == NoiseOrderSettings(**everything(tab, **of_the_picture))
    fresh = Tab(open_page(), tab.name)
    fresh.paste(infotexts[0])
    fresh.open()
    pasted = fresh.read_all()
    assert re.fullmatch(r"\d+:\d", pasted.pop("chosen"))
    assert {**pasted, "chosen": ""} == everything(tab, **of_the_picture)
    fresh.paste(infotexts[1])
    assert not fresh.switched_on(), "the plain copy's infotext switches off"
    fresh.page.close()


def test_pasting_tells_what_cannot_be_used_and_restores_the_rest(tab):
    tab.paste("a cat\nSteps: 20, Seed: 5, Noise Order: Custom, Noise Order strength: 9, Noise Order noise scale: 0.9")
    tab.says("message", re.compile("strength = 9.0 is not a number from -2 to 2; the rest of the infotext is pasted"))
    assert (tab.read("preset"), tab.read("noise_scale"), tab.read("strength")) == ("Custom", 0.9, 0.1)


def test_what_happened_is_told_in_the_panel(tab):
    tab.set("preset", "Automatic")
    announced = int(re.search(r"(\d+) more", tab.says("cost", re.compile("^Compares")))[1])
    tab.generate()
    told = r"^Last time: kept noise \d of \d, \d+ more evaluations, [\d.]+ s \(\d+ % of the time\)$"
    line = tab.says("outcome", re.compile(told))
    reusable = plan_for(run := SamplerRun(3.0, 8)).reusable(run)  # which the host may have to ask again
    assert announced <= int(re.search(r"(\d+) more", line)[1]) <= announced + reusable
    tab.says("cost", re.compile(r"about [\d.]+ s$"))
    tab.set("preset", "Paper")
    tab.generate()
    tab.says("outcome", re.compile(r"^Last time: 3 more evaluations, .* correlation [\d.-]+$"))


def test_a_noise_is_used_again_with_its_seed_and_chosen_anew(tab):
    tab.set("preset", "Automatic")
    tab.type(tab.host("steps"), 20)
    (infotext,) = tab.generate()
    seed, draw = (re.search(rf"{key}: (\d+)", infotext)[1] for key in ("Seed", "Noise Order chosen"))
    tab.host("seed").locator("input").first.fill("-1")
    tab.part("use").click()
    tab.says("message", re.compile("nothing is compared again"))
    assert tab.read("chosen") == f"{seed}:{draw}" and tab.host("seed").locator("input").first.input_value() == seed
    tab.says("cost", re.compile("^A noise is kept for this seed: no extra cost"))
    tab.part("forget").click()
    tab.says("cost", re.compile("^Compares"))
    assert tab.read("chosen") == ""


def test_compare_with_off_puts_the_plain_copy_beside_each_picture(tab):
    tab.set("compare_with_off", True)
    tab.type(tab.host("batch_count"), 2)
    infotexts = tab.generate()[-4:]  # a grid comes first
    assert ["Noise Order" in text for text in infotexts] == [True, False, True, False]
    seeds = [re.search(r"Seed: (\d+)", text)[1] for text in infotexts]
    assert seeds[0] == seeds[1] and seeds[2] == seeds[3] and int(seeds[2]) == int(seeds[0]) + 1
    tab.set("compare_with_off", False)
    tab.panel.locator("input[type=checkbox]").first.uncheck()
    tab.type(tab.host("batch_count"), 1)
    assert "Noise Order" not in tab.generate()[-1]


def test_what_is_left_out_for_a_script_is_told_in_the_panel(tab):
    chosen = tab.page.locator(f"#{tab.name}_script_container #script_list")
    tab.set("compare_with_off", True)
    tab.choose(chosen, "Prompt matrix")
    infotexts = tab.generate()
    tab.says("outcome", re.compile(r"skipped compare with off: a script takes this job's pictures"))
    assert all("Noise Order skipped" in text for text in infotexts)
    tab.choose(chosen, "None")
    tab.set("compare_with_off", False)


def test_a_choice_is_pasted_announced_replayed_and_forgotten(tab, open_page):
    tab.type(tab.host("steps"), 20)
    tab.set("preset", "Automatic")
    (infotext,) = tab.generate()
    line = tab.says("outcome", re.compile(r"^Last time: kept noise \d+ of \d+, [1-9]\d* more evaluations"))
    kept = re.search(r"kept noise \d+", line)[0]
    fresh = Tab(open_page(), "txt2img")
    fresh.paste(infotext)
    fresh.open()
    seed = int(re.search(r"Seed: (\d+)", infotext)[1])
    assert re.fullmatch(rf"{seed}:\d+", fresh.read("chosen"))
    if tab.name == "txt2img":
        fresh.says("cost", re.compile("^A noise is kept for this seed: no extra cost"))
        fresh.generate(seed)
        fresh.says("outcome", re.compile(f"^Last time: {kept}, 0 more evaluations"))
    fresh.part("forget").click()
    fresh.says("cost", re.compile(r"^Compares \d+ noises"))
    assert fresh.read("chosen") == ""
    fresh.page.close()


def test_show_what_was_compared_adds_a_sheet(tab):
    tab.set("preset", "Paper")
    tab.set("show_injected", True)
    if tab.name == "img2img":
        tab.type(tab.host("denoising_strength"), 0.75)
    infotexts = tab.generate()
    assert tab.gallery_size() >= 2
    latest = 1 if tab.name == "txt2img" else 0.857  # img2img starts at denoising strength 0.75, that is timestep 0.857
    keys = (f"early (layout, timestep {0.9 * latest:.3g})", f"late (detail, timestep {0.1 * latest:.3g})")
    for seen in ("the noise before", *keys, "the noise after"):
        assert seen in infotexts[-1]
    tab.set("preset", "Automatic")
    tab.says("cost", re.compile("^Compares"))
    assert re.search(r"noise 2, \d(st|nd|rd|th), score -?[\d.]+", tab.generate()[-1])


def test_presets_are_saved_named_reloaded_and_deleted(tab, open_page):
    set_everything(tab)
    name = f"calm & <b>bold</b> {tab.name}"
    tab.part("preset_name").locator("input, textarea").first.fill(name)
    tab.part("preset_save").click()
    tab.says("message", f"Saved as {name!r}.")
    assert tab.read("preset") == name

    again = Tab(open_page(), tab.name).open()
    again.set("preset", name)
    kept = everything(tab, preset=name, compare_with_off=False, show_injected=False)
    again.page.wait_for_timeout(800)
    assert again.read_all() == kept
    again.set("strength", 0.1)
    again.page.wait_for_timeout(500)
    assert again.read("preset") == "Custom", "a touched control is no longer the preset's"

    for bad, why in (("Paper", "'Paper' is built in"), ("  ", "a preset needs a name"), ("x" * 41, "at most 40")):
        again.part("preset_name").locator("input, textarea").first.fill(bad)
        again.part("preset_save").click()
        again.says("message", re.compile(f"^Not saved: .*{why}"))
    again.set("preset", name)
    again.part("preset_delete").click()
    again.says("message", f"Deleted {name!r}.")
    again.part("preset_delete").click()
    again.says("message", "Not deleted: 'Custom' is built in and cannot be deleted")
    again.part("menu").locator("input").first.click()
    assert again.page.locator("ul.options li").count() == len(PRESETS)
    again.page.close()


def test_what_a_page_has_kept_as_its_defaults_is_what_the_menu_says(browser, servers, tmp_path):
    data, kept = tmp_path / "data", "customscript/noise_order.py/txt2img"
    data.mkdir()
    saved = {f"{kept}/Preset/value": "Paper", f"{kept}/Strength/value": 0.7, f"{kept}/Extra cost/value": 2.0}
    (data / "ui-config.json").write_text(json.dumps(saved), encoding="utf-8")
    server = started(servers(True).name, data, True)
    try:
        page = browser.new_page(viewport={"width": 1200, "height": 1400})
        page.goto(server.url)
        tab = Tab(page, "txt2img").prepare().open()
        assert [tab.read(name) for name in ("preset", "strength", "injection")] == ["Paper", 0.1, "literal"]
        assert "Noise Order: Paper, Noise Order evaluations: 3" in tab.generate()[0]
        page.close()
    finally:
        server.stop()


def test_the_panel_fits_a_width_of_400_pixels(open_page):
    page = open_page(width=400)
    tab = Tab(page, "txt2img").open()
    outside = page.evaluate(
        """() => [...document.querySelectorAll('#txt2img_noise_order_accordion *')]
            .filter(e => e.offsetParent && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML)"""
    )
    assert outside == [] and tab.part("strength").bounding_box()["width"] > 240


def test_the_console_has_no_error_that_is_not_the_hosts_own(open_page):
    def used(with_extension):
        page = open_page(with_extension)
        tab = Tab(page, "txt2img").prepare()
        if with_extension:
            tab.open()
        tab.generate()
        return {re.sub(r":\d{4,5}/", ":port/", error) for error in page.errors}

    assert used(True) - used(False) == set()
