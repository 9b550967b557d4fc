"""A judge chooses inside the real ComfyUI: the lab's small CLIP, and a decoder of the tests' own."""

import math
import re
import shutil
import time

import pytest
import torch
from safetensors.torch import load_file

from lib_noiseorder import judges
from lib_noiseorder.tools.lab import packaged

from . import comfyui
from .comfyui_graphs import (
    JUDGE,
    OFF,
    ON,
    custom,
    difference,
    evaluations_of,
    graph,
    judged,
    node,
    part_of_the_steps,
    said,
    sampled,
    second_pass,
)

pytestmark = pytest.mark.needs("ComfyUI", fixture="host")
AUTOMATIC = {**ON, "preset": "Automatic"}
FINISHED = {**AUTOMATIC, "judge_at": 1.0, "extra_cost": 2.0}
EARLY = {**AUTOMATIC, "judge_at": 0.5, "extra_cost": 1.0}


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    """A ComfyUI with judges, one of them broken."""
    running = comfyui.ComfyUI(tmp_path_factory.mktemp("comfyui") / "data", judges={JUDGE: packaged.folder("judge")})
    broken = shutil.copytree(packaged.folder("judge"), running.data / "models/noise_order_judges/broken words")
    (broken / "vocab.json").write_text("{")
    yield running
    running.stop()


@pytest.mark.parametrize("kind", ["sd15", "flux"])
@pytest.mark.parametrize("sampler", ["euler", "euler_ancestral", "dpmpp_2m_sde", "heun"])
def test_a_finished_picture_is_the_one_made_from_its_draw_alone_and_every_run_is_counted(host, kind, sampler):
    plain, before = sampled(host, graph(kind, None, sampler=sampler, batch=2))
    latent, seen = sampled(host, judged(graph(kind, FINISHED, sampler=sampler, batch=2)))
    more, chosen, reasons = said(host)
    assert not reasons and len(chosen) == 2 and latent.shape == plain.shape
    assert more * 2 == evaluations_of(seen) - evaluations_of(before) == 2 * evaluations_of(before)
    alone, _ = sampled(host, graph(kind, {**AUTOMATIC, "chosen": " ".join(map(str, chosen))}, sampler=sampler, batch=2))
    assert torch.equal(latent, alone)


@pytest.mark.parametrize("kind", ["sd15", "flux"])
@pytest.mark.parametrize("make", [graph, custom])
def test_an_early_judge_costs_what_is_said(host, kind, make):
    _, before = sampled(host, make(kind, None))
    latent, seen = sampled(host, judged(make(kind, EARLY)))
    more, chosen, reasons = said(host)
    assert not reasons and len(chosen) == 1 and torch.isfinite(latent).all()
    assert 0 < more == evaluations_of(seen) - evaluations_of(before) <= evaluations_of(before)
    again, _ = sampled(host, judged(make(kind, EARLY)))
    assert torch.equal(latent, again)


@pytest.mark.parametrize("settings", [EARLY, FINISHED], ids=["early", "finished"])
def test_the_report_says_who_chose_what_it_gave_and_that_the_prompt_was_cut(host, settings):
    long, batch = "a red circle " * 40, {"chosen": "3 0 0"}
    nodes = judged(graph("sd15", {**settings, **batch}, batch=3), prompt=long)
    nodes["report"] = node("NoiseOrderReport", latent=["sampler", 0], model=["order", 0])
    nodes["save"]["inputs"]["samples"] = ["report", 0]
    [text] = host.finish(host.queue(nodes))["report"]["text"]
    named, *scores = re.search(r"^Score: (.*)$", text, re.MULTILINE)[1].split(", ")
    assert named == "none" and len(scores) == 2 and all(math.isfinite(float(score)) for score in scores)
    assert f"\nJudge hash: {judges.digest(packaged.folder('judge'))}\n" in text and "Compared: " in text
    _, _, (reason,) = said(host)
    assert re.fullmatch(r"the end of the prompt: the judge reads \d+ tokens", reason) and f"Skipped {reason}" in text
    [text] = host.finish(host.queue(judged({**nodes}, prompt="a red circle")))["report"]["text"]
    assert "Score: " in text and "the end of the prompt" not in text
    nodes["order"]["inputs"] |= {"chosen": "3"}
    [text] = host.finish(host.queue(nodes))["report"]["text"]
    assert "Score" not in text and "hash" not in text


def test_off_and_named_draws_need_no_judge(host):
    plain, _ = sampled(host, graph("sd15", None))
    assert torch.equal(sampled(host, judged(graph("sd15", OFF)))[0], plain)
    named, seen = sampled(host, judged(graph("sd15", {**FINISHED, "chosen": "2"}), name="broken words"))
    assert said(host) == (0, [2], []) and len(seen) == 4
    assert torch.equal(named, sampled(host, graph("sd15", {**AUTOMATIC, "chosen": "2"}))[0])


def test_good_enough_stops(host):
    _, before = sampled(host, graph("sd15", None))
    _, seen = sampled(host, judged(graph("sd15", {**FINISHED, "judge_threshold": "-1000"})))
    assert said(host) == (0, [1], []) and len(seen) == len(before)


@pytest.mark.parametrize("settings", [EARLY, FINISHED], ids=["early", "finished"])
@pytest.mark.parametrize(
    "how, says",
    [
        ({"name": "broken words"}, "the judge broken words cannot be loaded"),
        ({"vae": False}, "connect a VAE"),
        ({"kind": "wan"}, "a video"),
    ],
    ids=["broken", "no VAE", "video"],
)
def test_what_cannot_be_judged_is_the_plain_picture_and_said(host, settings, how, says):
    kind = how.get("kind", "sd15")
    latent, _ = sampled(host, judged(graph(kind, settings), **{name: how[name] for name in how if name != "kind"}))
    _, chosen, reasons = said(host)
    again = {**AUTOMATIC, "chosen": "1"} if any(chosen) else None  # a finished picture had its first noise by then
    assert any(says in reason for reason in reasons) and torch.equal(latent, sampled(host, graph(kind, again))[0])


@pytest.mark.parametrize("settings", [EARLY, FINISHED], ids=["early", "finished"])
@pytest.mark.parametrize("how", [{"name": "broken words"}, {"vae": False}], ids=["broken", "no VAE"])
def test_named_pictures_are_those_of_the_batch_that_chose_them_though_there_is_no_judge(host, settings, how):
    whole, _ = sampled(host, judged(graph("flux", settings, batch=3)))
    _, kept, _ = said(host)
    named = {**settings, "chosen": f"{kept[0]} 0 {kept[2]}"}
    again, _ = sampled(host, judged(graph("flux", named, batch=3), **how))
    _, chosen, reasons = said(host)
    assert chosen == [kept[0], 0, kept[2]] and len(reasons) == 1
    assert difference(again[::2], whole[::2]) < 1e-4
    assert difference(again[1], sampled(host, graph("flux", None, batch=3))[0][1]) < 1e-4


@pytest.mark.parametrize("settings", [EARLY, FINISHED], ids=["early", "finished"])
def test_what_starts_from_a_picture_is_injected_into_alike_with_a_judge_and_without(host, settings):
    """A named draw needs no judge, so that how it is judged makes no difference."""
    injecting = {**settings, "preset": "Custom", "selection": "automatic", "erasure_samples": 1, "chosen": "2"}
    latent, _ = sampled(host, judged(second_pass(graph("sd15", injecting), 0.5)))
    own, _ = sampled(host, second_pass(graph("sd15", {**injecting, "judge_at": 0.5}), 0.5))
    assert difference(latent, own) < 1e-4


def test_an_injection_that_fails_before_the_first_picture_leaves_the_plain_one(host):
    injecting = {**FINISHED, "preset": "Custom", "selection": "automatic", "erasure_samples": 1}
    paths, _ = host.run(judged(graph("sd15", injecting, fail_at=1, save={"filename_prefix": "an injection that fails"})))
    _, chosen, reasons = said(host)
    assert not any(chosen) and any("the test's model fails here" in reason for reason in reasons)
    assert torch.equal(load_file(paths[0])["latent_tensor"], sampled(host, graph("sd15", None))[0])


@pytest.mark.parametrize("question", [1, 3])
def test_an_injection_that_fails_at_a_later_noise_ends_the_comparison_with_all_counted(host, question):
    _, own = sampled(host, graph("sd15", None, seed=100 + question))  # a graph that the host has not cached
    injecting = {**FINISHED, "preset": "Custom", "selection": "automatic", "erasure_samples": 1}
    at = 3 + len(own) + question  # the first noise is injected into and made
    named = {"filename_prefix": f"an injection that fails at question {question} of the second noise"}
    _, seen = host.run(judged(graph("sd15", injecting, fail_at=at, save=named)))
    more, chosen, reasons = said(host)
    assert chosen == [1] and len(reasons) == 1 and reasons[0].startswith("selection: noise 2 of 3: ")
    assert more == evaluations_of(seen) - evaluations_of(own) == 3 + question


def test_cancelling_while_a_later_picture_is_finished_ends_the_run(host):
    """It is no failure of ours, after which the best so far would be kept."""
    nodes = judged(graph("sd15", {**FINISHED, "extra_cost": 3.0}, seed=77, steps=400))
    host.get("/noise_order_test/seen")
    number, seen, deadline = host.queue(nodes), 0, time.monotonic() + 120
    while seen < 600 and time.monotonic() < deadline:
        seen += len(host.get("/noise_order_test/seen"))
        time.sleep(0.02)
    comfyui.requests.post(f"{host.url}/interrupt", timeout=10)
    assert 600 <= seen < 1600
    with pytest.raises(comfyui.Failed, match="interrupted"):
        host.finish(number, seconds=120)


@pytest.mark.parametrize("kind", ["sd15", "flux"])
def test_what_another_sampler_goes_on_with_is_no_finished_picture(host, kind):
    plain, before = sampled(host, part_of_the_steps(graph(kind, None, steps=8), 0, 4))
    latent, seen = sampled(host, judged(part_of_the_steps(graph(kind, FINISHED, steps=8), 0, 4)))
    more, chosen, (reason,) = said(host)
    assert torch.equal(latent, plain) and len(seen) == len(before) and (more, any(chosen)) == (0, False)
    assert reason.startswith("selection: this sampler leaves its pictures unfinished")
    sampled(host, judged(part_of_the_steps(graph(kind, EARLY, steps=8), 0, 4)))
    more, chosen, reasons = said(host)
    assert not reasons and all(chosen) and more


def test_a_judge_that_is_not_there_is_refused(host):
    with pytest.raises(comfyui.Refused, match="nobody"):
        host.run(judged(graph("sd15", EARLY), name="nobody"))
