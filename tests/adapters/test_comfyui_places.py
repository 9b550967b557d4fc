"""ComfyUI: where the model is asked, and what the report says."""

import pytest
import torch

from .comfyui_graphs import (
    KINDS,
    active_from,
    difference,
    dual,
    evaluations_of,
    from_the_same_noise,
    graph,
    masked,
    node,
    said,
    sampled,
    second_pass,
    two_areas,
    without_ours,
)

pytestmark = pytest.mark.needs("ComfyUI", fixture="host")
AUTOMATIC, CUSTOM = {"preset": "Automatic"}, {"preset": "Custom"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("denoise", [0.2, 0.5])
def test_a_second_pass_is_asked_no_noisier_than_it_starts(host, kind, denoise):
    plain, own = sampled(host, without_ours(second_pass(graph(kind, CUSTOM), denoise)))
    ordered, seen = sampled(host, second_pass(graph(kind, CUSTOM), denoise))
    first = len(own) // 2
    asked, start = [level for _, level in seen[first : first + 3]], own[first][1]
    assert max(asked) <= start * 1.01 and asked == sorted(asked, reverse=True)
    whole, _ = sampled(host, without_ours(graph(kind, CUSTOM)))
    anew, _ = sampled(host, graph(kind, CUSTOM))
    change, most = (ordered - plain).std() / plain.std(), (anew - whole).std() / whole.std()
    assert 0 < change < most, "the strength fades with the denoising strength"


def test_a_sampler_that_starts_later_is_asked_no_noisier(host):
    def advanced(settings):
        nodes = graph("sd15", settings, steps=8)
        inputs = nodes["sampler"]["inputs"]
        inputs["noise_seed"] = inputs.pop("seed")
        del inputs["denoise"]
        more = {"add_noise": "enable", "start_at_step": 4, "end_at_step": 8, "return_with_leftover_noise": "disable"}
        nodes["sampler"] = node("KSamplerAdvanced", **inputs, **more)
        return nodes

    _, seen = sampled(host, advanced(CUSTOM))
    assert max(level for _, level in seen[:3]) <= seen[3][1]
    assert seen[3][1] < 600, "the sampler starts in the middle"


@pytest.mark.parametrize("kind", KINDS)
def test_the_kept_picture_is_seen_under_its_noise(host, kind):
    """If it were not, the winner's answers would not fit the sampler's questions."""
    nodes = masked(second_pass(graph(kind, AUTOMATIC, steps=16), 0.6))
    _, own = sampled(host, without_ours(nodes))
    ordered, seen = sampled(host, nodes)
    announced, chosen, _ = said(host)
    assert evaluations_of(seen) - evaluations_of(own) == announced and chosen
    assert difference(ordered, from_the_same_noise(host, without_ours(nodes))) < 1e-3


@pytest.mark.parametrize("kind", ["sd15", "flux"])
def test_a_prompt_is_not_asked_where_it_is_not_active(host, kind):
    sampled(host, active_from(graph(kind, CUSTOM), 0.3))
    evaluations, _, reasons = said(host)
    assert evaluations == 2 and reasons == ["the layout timestep: the prompt is not active there"]
    sampled(host, active_from(graph(kind, AUTOMATIC), 0.3))
    evaluations, chosen, [reason] = said(host)
    assert (evaluations, chosen) == (0, []) and reason.startswith(
        "selection: the positive prompt is not active at a noise share"
    )


def test_areas_are_counted_as_rows(host):
    nodes = two_areas(graph("sd15", CUSTOM))
    _, own = sampled(host, without_ours(nodes))
    _, seen = sampled(host, nodes)
    assert evaluations_of(seen) - evaluations_of(own) == said(host)[0] == 6


@pytest.mark.parametrize("style", ["regular", "nested"])
def test_a_guider_with_two_scales_chooses_as_the_usual_one_of_the_same_guidance(host, style):
    """With the negative prompt in the middle, (3, 3) regular and (3, 1) nested come to one scale of 3.

    Four noises are what Automatic compares in 16 Euler steps; the other guiders take more evaluations a call.
    """
    usual = graph("sd15", AUTOMATIC, steps=16)
    usual["sampler"]["inputs"]["scheduler"] = "simple"
    sampled(host, usual)
    _, expected, _ = said(host)
    nodes = dual("sd15", {**AUTOMATIC, "selection_draws": 4}, style, 3.0, 3.0 if style == "regular" else 1.0)
    nodes["middle"] = node("TinyPrompt", text="")
    sampled(host, nodes)
    assert said(host)[1:] == (expected, []) and expected


def test_a_guider_that_is_not_known_is_named_and_nothing_is_compared(host):
    nodes = dual("sd15", AUTOMATIC, "regular", 3.0, 2.0)
    nodes["guider"] = node(
        "PerpNegGuider", model=["order", 0], positive=["positive", 0], negative=["negative", 0],
        empty_conditioning=["middle", 0], cfg=3.0, neg_scale=1.0,
    )  # fmt: skip
    sampled(host, nodes)
    assert said(host) == (0, [], ["selection: the guidance of Guider_PerpNeg is not known"])


@pytest.mark.parametrize("kind, batch", [("sd15", 2), ("wan", 1)])
def test_the_report_says_and_shows_what_was_chosen(host, kind, batch):
    nodes = graph(kind, AUTOMATIC, steps=16, batch=batch)
    nodes["report"] = node("NoiseOrderReport", latent=["sampler", 0], model=["order", 0])
    nodes["save"]["inputs"]["samples"] = ["report", 0]
    nodes["shown"] = node("PreviewImage", images=["report", 2])
    nodes["text"] = node("PreviewAny", source=["report", 1])
    outputs = host.finish(host.queue(nodes))
    [text] = outputs["text"]["text"]
    announced, chosen, _ = said(host)
    assert f"Cost: {announced} evaluations per picture more" in text and outputs["report"]["text"] == [text]
    assert "Kept: " + ", ".join(f"noise {draw}" for draw in chosen) in text
    assert outputs["shown"]["images"]
    nodes["report"]["inputs"]["model"] = ["model", 0]
    assert "did not run" in host.finish(host.queue(nodes))["text"]["text"][0]


def test_old_graphs_may_say_what_this_node_no_longer_does(host):
    old = {"hires_pass": True, "inner_passes": True, "compare_with_off": True, "show_injected": True, "preset": "Paper"}
    latent, _ = sampled(host, graph("sd15", old))
    assert torch.equal(latent, sampled(host, graph("sd15", {"preset": "Paper"}))[0])


def test_frames_in_the_batch_are_not_chosen_one_by_one(host):
    nodes = graph("sd15", AUTOMATIC, steps=16, batch=2)
    nodes["windows"] = node(
        "ContextWindowsManual", model=["model", 0], context_length=16, context_overlap=4, context_schedule="standard_static",
        context_stride=1, closed_loop=False, fuse_method="pyramid", dim=0,
    )  # fmt: skip
    nodes["order"]["inputs"]["model"] = ["windows", 0]
    sampled(host, nodes)
    assert said(host)[1:] == ([], ["selection: the pictures of this batch are frames of one video"])
