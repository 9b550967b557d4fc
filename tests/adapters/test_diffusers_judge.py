"""A judge chooses on real pipelines: among the pictures that are coming, and among finished ones."""

import copy
import functools
import math

import numpy as np
import pytest
import torch

from lib_noiseorder import NoiseOrderSettings, judges
from lib_noiseorder.knobs import SettingsError
from lib_noiseorder.tools.lab import packaged

diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")

from lib_noiseorder.adapters.diffusers import (  # noqa: E402
    Interrupted,
    order_latents,
    ordered_call,
    run_ordered,
)
from lib_noiseorder.adapters.diffusers.finished_runs import mixed  # noqa: E402

from . import pipelines, tiny  # noqa: E402
from .diffusers_calls import FAMILIES, counted, picture, seeded  # noqa: E402

CALL = {"prompt": "a red circle", "height": 32, "width": 32, "num_inference_steps": 4}
EARLY = {"judge_at": 0.5, "selection_draws": 3}
FINISHED = {"judge_at": 1.0, "extra_cost": 2.0}
PICTURES = ["stable_diffusion", "stable_diffusion_xl", "stable_diffusion_3", "flux"]
DITS = ["PixArtSigmaPipeline", "QwenImagePipeline"]


class Vae(tiny.Vae):
    """Latents whose first channels are their picture."""

    def decode(self, latents, return_dict=True, **kwargs):
        shown = latents[:, :3].repeat_interleave(8, -1).repeat_interleave(8, -2)
        return diffusers.models.autoencoders.vae.DecoderOutput(shown) if return_dict else (shown,)


@functools.lru_cache
def made(name):
    """A pipeline, and a call of it."""
    if name in FAMILIES:
        return getattr(pipelines, name)(), {**CALL, **FAMILIES[name]}
    kind = getattr(diffusers, name)
    pipe = tiny.built(kind)
    pipe.vae = Vae()
    pipe.set_progress_bar_config(disable=True)
    return pipe, tiny.call_of(kind)


@pytest.fixture(params=[*PICTURES, *DITS])
def host(request):
    return made(request.param)


@pytest.fixture
def sd():
    return made("stable_diffusion")


class Bright:
    """Likes bright pictures; remembers what it was shown."""

    name = "bright"

    def __init__(self):
        self.seen, self.prompts, self.at_once = [], [], []

    def __call__(self, pictures, prompts):
        self.seen += pictures.split(1)
        self.prompts += prompts
        self.at_once.append(len(pictures))
        return pictures.flatten(1).mean(1)


def out(output):
    return np.stack([np.asarray(one) for one in output.images])


def state(pipe):
    """Everything about a pipeline that a call may change."""
    models = [model for model in pipe.components.values() if isinstance(model, torch.nn.Module)]
    owned = [sorted(vars(module)) for model in models for module in model.modules()]
    scheduler = {name: copy.deepcopy(value) for name, value in vars(pipe.scheduler).items()}
    return dict(vars(pipe)), dict(pipe.config), repr(scheduler), owned, torch.get_rng_state().tolist()


def test_what_it_sees_is_what_the_pipeline_makes_of_it_and_the_pipeline_is_left_as_it_was(host):
    pipe, call = host
    picture(pipe, call)
    before, judge, generator = state(pipe), Bright(), seeded(3)
    with counted(pipe) as paid:
        ordered = order_latents(pipe, **call, generator=generator, settings=EARLY, judge=judge)
    report = ordered.report
    assert state(pipe) == before and not report.skipped
    assert report.evaluations == paid.rows and report.judge == "bright"
    assert judge.at_once == [1] * len(judge.seen) and set(judge.prompts) == {call["prompt"]}
    finite = [score for score in report.scores[0] if math.isfinite(score)]
    assert len(finite) == len(judge.seen) == 2, "nothing is judged twice"
    assert max(finite) == report.kept_scores[0] == max(shown.mean().item() for shown in judge.seen)
    plain = seeded(3)
    order_latents(pipe, **call, generator=plain, settings={"chosen": "1"})
    assert torch.equal(generator.get_state(), plain.get_state())
    again = order_latents(pipe, **call, generator=seeded(3), settings={"chosen": str(report.chosen[0])})
    assert torch.equal(again.noise, ordered.noise)


def test_the_last_prediction_of_a_run_is_seen_as_its_finished_picture():
    """At the last of two steps the scheduler's result is x0, so that the kept picture is the one the judge saw."""
    pipe = pipelines.stable_diffusion_3()
    call = {**CALL, **FAMILIES["stable_diffusion_3"], "num_inference_steps": 2}
    judge = Bright()
    settings = {"judge_at": 0.95, "selection_draws": 3}
    run = run_ordered(pipe, **call, generator=seeded(3), settings=settings, judge=judge, output_type="pt")
    best = max(judge.seen, key=torch.mean)
    torch.testing.assert_close(run.output.images, best, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("callback", [False, True])
def test_an_early_judge_costs_what_is_said_and_nothing_is_paid_twice(host, callback):
    pipe, call = host
    call = {**call, "num_inference_steps": 8}
    if callback:
        call["callback_on_step_end"] = lambda pipe, index, timestep, given: given
    with counted(pipe) as alone:
        picture(pipe, call)
    judge = Bright()
    settings = {"judge_at": 0.5, "extra_cost": 2.0}  # with a callback, guidance may end after the first step
    with counted(pipe) as paid:
        run = run_ordered(pipe, **call, generator=seeded(3), settings=settings, judge=judge, output_type="latent")
    assert not run.report.skipped and run.report.chosen and judge.seen
    assert paid.rows - alone.rows == run.report.extra_evaluations <= 2 * alone.rows
    again = picture(pipe, call, latents=run.noise)
    torch.testing.assert_close(run.output.images, again, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("truncation", [0.15, 0.3, 0.45, 0.6, 0.9])
@pytest.mark.parametrize("at", [0.25, 0.75, 0.9])
def test_where_guidance_ends_late_what_is_to_be_reused_is_reused(truncation, at):
    """From some step on the pipeline asks for less than a question does."""
    pipe, _ = made("ZImagePipeline")
    call = {**tiny.call_of(diffusers.ZImagePipeline, 10), "guidance_scale": 4.0, "cfg_truncation": truncation}
    with counted(pipe) as alone:
        picture(pipe, call)
    settings = {"judge_at": at, "selection_draws": 2}
    with counted(pipe) as paid:
        run = run_ordered(pipe, **call, generator=seeded(3), settings=settings, judge=Bright(), output_type="latent")
    report = run.report
    assert not report.skipped and report.chosen
    assert report.reusable_evaluations == report.saved_evaluations
    assert paid.rows - alone.rows == report.extra_evaluations


def test_the_call_around_the_pictures_keeps_its_own_place(sd, monkeypatch):
    """What the judge is shown does not change the answers: they are those of a run without pictures in between."""
    pipe, call = sd
    ordered = order_latents(pipe, **call, generator=seeded(3), settings=EARLY, judge=Bright())
    monkeypatch.setattr(ordered_call, "pictures_of", lambda pipe, call, seen, x0, others: x0[:, :3])
    latents = []

    def noting(pictures, prompts):
        latents.append(pictures)
        return pictures.flatten(1).mean(1)

    without = order_latents(pipe, **call, generator=seeded(3), settings=EARLY, judge=noting)
    assert without.report.evaluations == ordered.report.evaluations
    monkeypatch.undo()
    seen, real = [], ordered_call.pictures_of
    monkeypatch.setattr(ordered_call, "pictures_of", lambda *args: seen.append(args[3][:, :3]) or real(*args))
    order_latents(pipe, **call, generator=seeded(3), settings=EARLY, judge=Bright())
    assert len(seen) == len(latents) and all(torch.equal(a, b) for a, b in zip(seen, latents))


def test_offloading_and_caches_are_as_they_were():
    accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed")
    pipe = pipelines.flux()
    call = {**CALL, **FAMILIES["flux"]}
    expected = order_latents(pipe, **call, generator=seeded(3), settings=EARLY, judge=Bright())
    pipe.transformer.enable_cache(diffusers.FirstBlockCacheConfig(threshold=1e-9))

    def offload(*args, **kwargs):  # as diffusers' own, which wants a GPU
        pipe.remove_all_hooks()
        for model in (pipe.text_encoder, pipe.text_encoder_2, pipe.vae):
            accelerate.hooks.add_hook_to_module(model, accelerate.hooks.CpuOffload(torch.device("cpu")))
        pipe._all_hooks = [pipe.vae._hf_hook]

    pipe.enable_model_cpu_offload = offload
    offload()
    ordered = order_latents(pipe, **call, generator=seeded(3), settings=EARLY, judge=Bright())
    assert ordered.report.chosen == expected.report.chosen and ordered.report.scores[0] == pytest.approx(
        expected.report.scores[0], abs=1e-5, nan_ok=True
    )
    assert all(hasattr(model, "_hf_hook") for model in (pipe.text_encoder, pipe.vae))


def test_a_picture_does_not_depend_on_the_others(host):
    pipe, call = host
    prompts = ["a red circle", "two blue square"]
    for settings in (EARLY, FINISHED):
        together = Bright()
        more = {"output_type": "pt"}
        batch = {**call, "prompt": prompts}
        whole = run_ordered(pipe, **batch, **more, generator=seeded(1, 2), settings=settings, judge=together)
        for row, prompt in enumerate(prompts):
            single = {**call, "prompt": prompt}
            alone = run_ordered(pipe, **single, **more, generator=seeded(row + 1), settings=settings, judge=Bright())
            assert alone.report.chosen == whole.report.chosen[row : row + 1]
            torch.testing.assert_close(alone.output[0][0], whole.output[0][row], atol=1e-4, rtol=1e-3)
            torch.testing.assert_close(
                torch.tensor(alone.report.scores[0]),
                torch.tensor(whole.report.scores[row]),
                atol=1e-4,
                rtol=1e-3,
                equal_nan=True,
            )


SCHEDULERS = {
    "euler a": lambda: diffusers.EulerAncestralDiscreteScheduler(**pipelines.BETAS),
    "sde": lambda: diffusers.DPMSolverMultistepScheduler(**pipelines.BETAS, algorithm_type="sde-dpmsolver++"),
    "heun": lambda: diffusers.HeunDiscreteScheduler(**pipelines.BETAS),
    "ddim": pipelines.ddim,
}


@pytest.mark.parametrize("generators", ["one", "each", "global"])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_the_finished_picture_kept_is_the_one_of_its_noise_alone(scheduler, generators):
    pipe = pipelines.stable_diffusion(SCHEDULERS[scheduler]())
    call = {**CALL, "prompt": ["a red circle", "two pizza", "a boat"], "output_type": "pt"}

    def given():
        torch.manual_seed(7)
        return {"one": seeded(3), "each": seeded(3, 4, 5), "global": None}[generators]

    with counted(pipe) as alone:
        pipe(**call, generator=given())
    own = given()
    plain_end = (torch.get_rng_state(), None)
    with counted(pipe) as paid:
        run = run_ordered(pipe, **call, generator=own, settings=FINISHED, judge=Bright())
    end = torch.get_rng_state()
    report = run.report
    assert not report.skipped and paid.rows == 3 * alone.rows
    assert 3 * report.evaluations == paid.rows and 3 * report.saved_evaluations == alone.rows
    for row in range(3):
        assert report.kept_scores[row] == max(report.scores[row]) and len(report.scores[row]) == 3
    named, again = {"chosen": " ".join(map(str, report.chosen))}, given()
    replayed = run_ordered(pipe, **call, generator=again, settings=named)
    assert torch.equal(replayed.output.images, run.output.images) and torch.equal(replayed.noise, run.noise)
    assert torch.equal(end, torch.get_rng_state()) and (generators == "global") != torch.equal(end, plain_end[0])
    for one, other in zip(own if isinstance(own, list) else [own], again if isinstance(again, list) else [again]):
        assert one is None or torch.equal(one.get_state(), other.get_state())


@pytest.mark.parametrize("settings", [{}, {"preset": "Custom", "selection": "automatic"}], ids=["Automatic", "injected"])
def test_finished_pictures_of_every_family(host, settings):
    pipe, call = host
    before = {name: value for name, value in vars(pipe).items() if not name.startswith("_")}
    judge = Bright()
    with counted(pipe) as paid:
        run = run_ordered(pipe, **call, generator=seeded(3), settings={**FINISHED, **settings}, judge=judge)
    assert {name: value for name, value in vars(pipe).items() if not name.startswith("_")} == before
    report = run.report
    assert len(judge.seen) == 3 and not report.skipped and report.evaluations == paid.rows
    assert report.kept_scores == [max(report.scores[0])]
    named = {**settings, "chosen": str(report.chosen[0])}
    replayed = run_ordered(pipe, **call, generator=seeded(3), settings=named)
    assert np.array_equal(out(replayed.output), out(run.output)) and torch.equal(replayed.noise, run.noise)


@pytest.mark.parametrize("output", ["pil", "np", "pt"])
@pytest.mark.parametrize("as_dict", [True, False])
def test_outputs_of_every_kind_are_put_together(sd, output, as_dict):
    pipe, call = sd
    call = {**call, "num_images_per_prompt": 4, "output_type": output, "return_dict": as_dict}
    run = run_ordered(pipe, **call, generator=seeded(1, 2, 3, 4), settings=FINISHED, judge=Bright())
    assert len(set(run.report.chosen)) > 1 and not run.report.skipped
    named = {"chosen": " ".join(map(str, run.report.chosen))}
    replayed = run_ordered(pipe, **call, generator=seeded(1, 2, 3, 4), settings=named)
    assert type(run.output) is type(replayed.output)
    for ours, theirs in zip(run.output[0], replayed.output[0]):
        assert np.array_equal(np.asarray(ours), np.asarray(theirs))


def test_what_belongs_to_a_picture_goes_with_it():
    flags = [(["a", "b"], [True, False], None, "x"), (["c", "d"], [False, True], None, "y")]
    assert mixed(flags, [1, 0]) == (["c", "b"], [False, False], None, "y")
    kind = diffusers.pipelines.stable_diffusion.StableDiffusionPipelineOutput
    outputs = [kind(np.full((2, 4, 4, 3), float(run)), [run == 0, run == 1]) for run in range(2)]
    put = mixed(outputs, [0, 1])
    assert type(put) is kind and put.images[:, 0, 0, 0].tolist() == [0.0, 1.0] and put.nsfw_content_detected == [True, True]


def test_prompts_are_those_of_the_pictures(sd):
    pipe, call = sd
    judge = Bright()
    call = {**call, "prompt": ["a boat", "a pizza"], "num_images_per_prompt": 2}
    run_ordered(pipe, **call, settings={"judge_at": 1, "selection_draws": 2}, judge=judge)
    assert judge.prompts == ["a boat", "a boat", "a pizza", "a pizza"] * 2


@pytest.mark.parametrize("settings", [EARLY, FINISHED], ids=["early", "finished"])
def test_good_enough_ends_it(sd, settings):
    pipe, call = sd
    whole = run_ordered(pipe, **call, generator=seeded(3), settings=settings, judge=Bright()).report
    first = Bright()
    with counted(pipe) as paid:
        settings = {**settings, "judge_threshold": "-1000"}
        run = run_ordered(pipe, **call, generator=seeded(3), settings=settings, judge=first, output_type="pil")
    assert len(first.seen) == 1 and not run.report.skipped
    assert run.report.evaluations <= whole.evaluations and paid.rows >= run.report.evaluations


def plain_function(pictures, prompts):
    return pictures.flatten(1).mean(1)


def test_a_plain_function_and_a_name(sd):
    pipe, call = sd
    run = run_ordered(pipe, **call, generator=seeded(3), settings=FINISHED, judge=plain_function)
    assert run.report.judge == "judge" and run.report.kept_scores[0] is not None
    named = {**FINISHED, "judge": "my own"}
    assert run_ordered(pipe, **call, generator=seeded(3), settings=named, judge=plain_function).report.judge == "my own"


@pytest.mark.parametrize("as_path", [True, False])
def test_a_judge_from_its_folder_goes_by_its_digest(sd, as_path):
    pipe, call = sd
    folder = packaged.folder("judge")
    for settings in (EARLY, FINISHED):
        given = folder if as_path else str(folder)
        report = run_ordered(pipe, **call, generator=seeded(3), settings=settings, judge=given).report
        assert report.judge == judges.digest(folder) and report.kept_scores[0] is not None and not report.skipped
        loaded = run_ordered(pipe, **call, generator=seeded(3), settings=settings, judge=judges.load(folder)).report
        assert loaded.judge == "judge" and loaded.scores[0] == pytest.approx(report.scores[0], nan_ok=True)


def failing(pictures, prompts):
    raise RuntimeError("no room")


BROKEN = {
    "NaN": (lambda pictures, prompts: torch.full((len(pictures),), math.nan), "no finite score for 1 of 1 pictures"),
    "count": (lambda pictures, prompts: torch.zeros(len(pictures) + 1), "the judge gave 2 scores for 1 pictures"),
    "shape": (lambda pictures, prompts: torch.zeros(len(pictures), 1), "the judge gave scores of shape (1, 1)"),
    "failing": (failing, "the judge failed (RuntimeError: no room)"),
}


@pytest.mark.parametrize("family", ["stable_diffusion", "flux"])
@pytest.mark.parametrize("settings", [EARLY, FINISHED], ids=["early", "finished"])
@pytest.mark.parametrize("judge, says", BROKEN.values(), ids=BROKEN)
def test_a_broken_judge_costs_the_effect_and_not_the_picture(family, settings, judge, says):
    pipe, call = made(family)
    with counted(pipe) as alone:
        picture(pipe, call)
    with counted(pipe) as paid:
        run = run_ordered(pipe, **call, generator=seeded(3), settings=settings, judge=judge)
    (reason,) = run.report.skipped
    assert reason.startswith("selection: ") and says in reason
    assert paid.rows - alone.rows == run.report.extra_evaluations
    again = {"chosen": "1"} if run.report.chosen else {"enabled": False}
    expected = run_ordered(pipe, **call, generator=seeded(3), settings=again)
    assert np.array_equal(out(run.output), out(expected.output))


def test_a_judge_that_fails_before_an_injection_costs_the_choice_alone(sd):
    pipe, call = sd
    settings = {**EARLY, "preset": "Custom", "selection": "automatic"}
    with counted(pipe) as paid:
        ordered = order_latents(pipe, **call, generator=seeded(3), settings=settings, judge=failing)
    assert ordered.report.evaluations == paid.rows and ordered.report.skipped == [
        "selection: the judge failed (RuntimeError: no room)"
    ]
    injected = order_latents(pipe, **call, generator=seeded(3), settings={"preset": "Custom"})
    assert torch.equal(ordered.noise, injected.noise)


@pytest.mark.parametrize("settings", [EARLY, FINISHED], ids=["early", "finished"])
@pytest.mark.parametrize(
    "given, more, says",
    [
        ({"judge": "nobody"}, {}, "there is no judge 'nobody'"),
        ({}, {"judge": "nobody"}, "there is no judge 'nobody'"),
        ({"judge": plain_function, "prompt": None}, {}, "a judge needs the prompt as text"),
    ],
    ids=["named", "by the settings", "embeds"],
)
def test_a_judge_that_is_not_there_is_said_before_anything_is_evaluated(sd, monkeypatch, tmp_path, settings, given, more, says):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    pipe, call = sd
    call = {**call, **given}
    if call["prompt"] is None:
        embeds = pipe.encode_prompt("a red circle", "cpu", 1, False)[0]
        call |= {"prompt_embeds": embeds, "negative_prompt_embeds": embeds}
    judge = call.pop("judge", None)
    with counted(pipe) as alone:
        plain = pipe(**call, generator=seeded(3))
    with counted(pipe) as paid:
        run = run_ordered(pipe, **call, generator=seeded(3), settings={**settings, **more}, judge=judge)
    (reason,) = run.report.skipped
    assert says in reason and paid.rows == alone.rows and run.report.evaluations == 0 and not run.report.chosen
    assert np.array_equal(out(run.output), out(plain))


@pytest.mark.parametrize("judge", ["nobody", failing])
@pytest.mark.parametrize("settings", [EARLY, FINISHED], ids=["early", "finished"])
def test_named_pictures_are_those_of_the_batch_that_chose_them_though_there_is_no_judge(settings, judge):
    pipe, call = made("flux")
    call = {**call, "prompt": ["a red circle", "two pizza", "a boat"]}
    more = {"generator": seeded(3, 4, 5), "output_type": "pt"}
    whole = run_ordered(pipe, **call, **more, settings=settings, judge=Bright())
    kept = whole.report.chosen
    named = {**settings, "chosen": f"{kept[0]} 0 {kept[2]}"}
    run = run_ordered(pipe, **call, **{**more, "generator": seeded(3, 4, 5)}, settings=named, judge=judge)
    assert len(run.report.skipped) == 1 and [run.report.chosen[0], run.report.chosen[2]] == [kept[0], kept[2]]
    torch.testing.assert_close(run.output.images[::2], whole.output.images[::2], atol=1e-4, rtol=1e-3)


def test_a_judge_that_fails_at_a_later_noise_is_told_with_all_that_was_asked(sd):
    """With something injected afterwards the core begins once more, and is told again what was judged until then."""
    pipe, call = sd
    asked = []

    def fails_later(pictures, prompts):
        asked.append(pictures)
        if len(asked) == 2:
            raise RuntimeError("no room")
        return pictures.flatten(1).mean(1)

    settings = {**EARLY, "preset": "Custom", "selection": "automatic", "judge_threshold": "1000"}
    with counted(pipe) as paid:
        ordered = order_latents(pipe, **call, generator=seeded(3), settings=settings, judge=fails_later)
    assert len(asked) == 2 and ordered.report.evaluations == paid.rows and ordered.report.correlation is not None


@pytest.mark.parametrize("question", [1, 2, 3])
def test_an_injection_that_fails_at_a_later_noise_ends_the_comparison_with_all_counted(sd, question):
    pipe, call = sd
    with counted(pipe) as alone:
        picture(pipe, call)
    asked, original = [], pipe.unet.forward

    def forward(sample, *args, **kwargs):
        asked.append(len(sample))
        if len(asked) == 3 + call["num_inference_steps"] + question:  # the first noise is injected into and made
            raise RuntimeError("no room")
        return original(sample, *args, **kwargs)

    settings = {**FINISHED, "preset": "Custom", "selection": "automatic"}
    pipe.unet.forward = forward
    try:
        run = run_ordered(pipe, **call, generator=seeded(3), settings=settings, judge=Bright())
    finally:
        del pipe.unet.forward
    report = run.report
    assert report.skipped == ["selection: noise 2 of 3: RuntimeError: no room"] and report.chosen == [1]
    assert sum(asked) - alone.rows == report.extra_evaluations == 3 + question


def test_a_folder_that_is_no_judge_is_said(sd, tmp_path):
    pipe, call = sd
    for folder in (tmp_path, str(tmp_path)):
        report = run_ordered(pipe, **call, settings=EARLY, judge=folder).report
        assert "is no judge" in report.skipped[0] and not report.evaluations


@pytest.mark.parametrize("settings", [EARLY, FINISHED], ids=["early", "finished"])
def test_what_is_no_judges_folder_or_name_costs_the_effect_and_not_the_call(sd, monkeypatch, tmp_path, settings):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    pipe, call = sd
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_bytes((packaged.folder("judge") / "config.json").read_bytes())
    (broken / "model.safetensors.index.json").write_text("{")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for judge in (broken, str(broken), tmp_path / "loop", tmp_path / ("x" * 300), "x" * 5000, "a/b", "\0", "ü"):
        report = run_ordered(pipe, **call, settings=settings, judge=judge).report
        (reason,) = report.skipped
        assert "is no judge" in reason and not report.evaluations


def test_by_its_name_the_model_is_the_judge(sd):
    pipe, call = sd
    expected = order_latents(pipe, **call, generator=seeded(3), settings={"selection_draws": 2})
    for name in ("model", "", " model "):
        ordered = order_latents(pipe, **call, generator=seeded(3), settings={"selection_draws": 2}, judge=name)
        assert torch.equal(ordered.noise, expected.noise) and not ordered.report.skipped
        assert ordered.report.scores == expected.report.scores and not ordered.report.judge
        run = run_ordered(pipe, **call, generator=seeded(3), settings={"judge_at": 1, "selection_draws": 2}, judge=name)
        assert run.report.chosen == expected.report.chosen


def test_latents_and_videos_are_not_judged(sd):
    pipe, call = sd
    call = {**call, "output_type": "latent"}
    run = run_ordered(pipe, **call, generator=seeded(3), settings=FINISHED, judge=plain_function)
    assert "makes something else" in run.report.skipped[0] and not run.report.evaluations
    assert torch.equal(run.output.images, pipe(**call, generator=seeded(3)).images)
    pipe, call = made("wan")
    for settings in (EARLY, FINISHED):
        run = run_ordered(pipe, **call, generator=seeded(3), settings=settings, judge=plain_function, output_type="np")
        assert "makes something else" in run.report.skipped[0] and not run.report.evaluations
        assert np.array_equal(run.output.frames, pipe(**call, generator=seeded(3), output_type="np").frames)


def test_named_draws_need_no_judge(sd):
    pipe, call = sd
    judge = Bright()
    run = run_ordered(pipe, **call, generator=seeded(3), settings={**FINISHED, "chosen": "2"}, judge=judge)
    assert run.report.chosen == [2] and not run.report.skipped and not judge.seen
    call = {**call, "prompt": ["a boat", "a pizza"]}
    run = run_ordered(pipe, **call, generator=seeded(3, 4), settings={**FINISHED, "chosen": "2 0"}, judge=judge)
    assert run.report.chosen[0] == 2 and run.report.scores[0] == [] and len(run.report.scores[1]) == 3
    named = {"chosen": " ".join(map(str, run.report.chosen))}
    replayed = run_ordered(pipe, **call, generator=seeded(3, 4), settings=named)
    assert np.array_equal(out(replayed.output), out(run.output))


def test_without_a_second_picture_it_is_the_plain_one(sd):
    pipe, call = sd
    run = run_ordered(pipe, **call, generator=seeded(3), settings={"judge_at": 1.0, "extra_cost": 0.4}, judge=Bright())
    assert "buys no second picture" in run.report.skipped[0] and run.report.extra_evaluations == 0
    assert np.array_equal(out(run.output), out(pipe(**call, generator=seeded(3))))


def test_off_is_off_whoever_judges(sd):
    pipe, call = sd
    run = run_ordered(pipe, **call, generator=seeded(3), settings=NoiseOrderSettings(), judge=failing)
    assert run.report.skipped == ["switched off"]
    assert np.array_equal(out(run.output), out(pipe(**call, generator=seeded(3))))


def test_order_latents_makes_no_finished_pictures(sd):
    pipe, call = sd
    with pytest.raises(SettingsError, match="run_ordered"):
        order_latents(pipe, **call, settings=FINISHED, judge=Bright())
    with pytest.raises(SettingsError, match="judge must be a function"):
        order_latents(pipe, **call, settings=EARLY, judge=3)


@pytest.mark.parametrize("at", [1, 2, 3])
@pytest.mark.parametrize("while_", ["it runs", "it is judged"])
def test_an_interrupt_keeps_the_best_so_far(at, while_):
    pipe, call = pipelines.stable_diffusion(), CALL
    runs = [run_ordered(pipe, **call, generator=seeded(3), settings={"chosen": str(k)}).output for k in (1, 2, 3)]
    calls, judged = [], []

    def interrupting(pipe, index, timestep, given):
        calls.append(index)
        if while_ == "it runs" and len(calls) == 4 * (at - 1) + 2:
            pipe._interrupt = True
        return given

    def judge(pictures, prompts):
        judged.append(pictures)
        if while_ == "it is judged" and len(judged) == at:
            pipe._interrupt = True
        return plain_function(pictures, prompts)

    given = {**call, "generator": seeded(3), "callback_on_step_end": interrupting}
    run = run_ordered(pipe, **given, settings=FINISHED, judge=judge)
    seen = at - 1 if while_ == "it runs" else at
    assert len(judged) == seen
    if (while_, at) == ("it is judged", 3):
        assert not run.report.skipped
    else:
        assert "interrupted at noise" in run.report.skipped[0]
    if seen:
        best = max(range(seen), key=lambda k: judged[k].mean().item())
        assert run.report.chosen == [best + 1] and np.array_equal(out(run.output), out(runs[best]))
    assert pipe.interrupt, "whoever interrupted can still see it"
    assert run_ordered(pipe, **call, settings=FINISHED, judge=Bright()).report.chosen, "and the next call is another one"


def test_an_interrupt_while_an_early_picture_is_shown():
    pipe = pipelines.stable_diffusion()

    def judge(pictures, prompts):
        pipe._interrupt = True
        return plain_function(pictures, prompts)

    with pytest.raises(Interrupted):
        run_ordered(pipe, **CALL, settings=EARLY, judge=judge)


@pytest.mark.parametrize("at", [1, 2])
def test_what_the_pipeline_raises_in_its_first_run_is_its_own_affair(at):
    pipe, calls = pipelines.stable_diffusion(), []
    plain = pipe(**CALL, generator=seeded(3))
    original = pipe.unet.forward

    def forward(*args, **kwargs):
        calls.append(1)
        if len(calls) == 4 * (at - 1) + 2:
            raise RuntimeError("out of something")
        return original(*args, **kwargs)

    pipe.unet.forward = forward
    given = {**CALL, "generator": seeded(3), "settings": FINISHED, "judge": Bright()}
    if at == 1:
        with pytest.raises(RuntimeError, match="out of something"):
            run_ordered(pipe, **given)
        return
    run = run_ordered(pipe, **given)
    assert "noise 2 of 3: RuntimeError: out of something" in run.report.skipped[0]
    assert np.array_equal(out(run.output), out(plain)) and run.report.evaluations == 2 * len(calls)


def test_callbacks_run_in_every_run(sd):
    pipe, call = sd
    seen = []
    call = {**call, "callback_on_step_end": lambda pipe, index, timestep, given: seen.append(index) or given}
    run_ordered(pipe, **call, settings=FINISHED, judge=Bright())
    assert seen == [0, 1, 2, 3] * 3


def test_a_judge_that_draws_advances_nobodys_generator(sd):
    pipe, call = sd
    torch.manual_seed(7)

    def noisy(pictures, prompts):
        torch.rand(3)
        return plain_function(pictures, prompts)

    before = torch.get_rng_state()
    run_ordered(pipe, **call, generator=seeded(3), settings=FINISHED, judge=noisy)
    order_latents(pipe, **call, generator=seeded(3), settings=EARLY, judge=noisy)
    assert torch.equal(torch.get_rng_state(), before)
