"""The diffusers adapter on real pipelines: tiny, with random weights."""

import copy

import pytest
import torch

from lib_noiseorder import NoiseOrderSettings, order_noise
from lib_noiseorder.adapters.noise_keyed_draws import further_draws
from lib_noiseorder.plans import SamplerRun, plan_for

diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")

from lib_noiseorder.adapters.diffusers import Interrupted, order_latents, ordered_latents, run_ordered  # noqa: E402

from . import pipelines  # noqa: E402
from .diffusers_calls import COMPARED, ERASED, FAMILIES, INJECTED, PLAIN, SHAPES, picture, pictures_of, seeded, watched  # noqa: E402


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def pipe(family):
    return getattr(pipelines, family)()


@pytest.fixture
def call(family):
    return {"prompt": "a red circle", "num_inference_steps": 4, "height": 32, "width": 32, **FAMILIES[family]}


def test_one_draw_without_injection_is_the_plain_picture_bit_for_bit(pipe, call):
    plain = picture(pipe, call, generator=seeded(3))
    generator = seeded(3)
    with watched(pipe) as seen:
        ordered = order_latents(pipe, **call, generator=generator, settings=PLAIN)
    assert not seen and ordered.report.evaluations == 0 and not ordered.report.skipped
    assert torch.equal(picture(pipe, call, generator=generator, latents=ordered.noise), plain)


def test_shape_and_dtype_are_the_pipelines(family, pipe, call):
    latents = ordered_latents(pipe, **call, generator=seeded(3), settings=INJECTED)
    assert latents.shape == (1, *SHAPES[family]) and latents.dtype == torch.float32
    assert torch.isfinite(picture(pipe, call, latents=latents)).all()


def test_injection_costs_one_evaluation_per_key_timestep(pipe, call):
    with watched(pipe) as seen:
        report = order_latents(pipe, **call, generator=seeded(3), settings=INJECTED).report
    assert report.evaluations == 3 and report.saved_evaluations == 0
    assert [rows for _, rows, _ in seen] == [1, 1, 1], "with the prompt alone, one picture"
    fewer = NoiseOrderSettings(enabled=True, detail_weight=0.0)
    with watched(pipe) as seen:
        assert order_latents(pipe, **call, settings=fewer).report.evaluations == 2 == len(seen)


def test_the_model_is_asked_at_the_key_timesteps(family, pipe, call):
    with watched(pipe) as seen:
        order_latents(pipe, **call, settings=INJECTED)
    expected = {"stable_diffusion": [899, 500, 100], "stable_diffusion_xl": [899, 500, 100], "flux": [0.9, 0.5, 0.1]}
    assert [timestep for *_, timestep in seen] == pytest.approx(expected.get(family, [900, 500, 100]), rel=1e-3)


def test_selection_is_done_and_counted(family, pipe, call):
    with watched(pipe) as seen:
        report = order_latents(pipe, **call, generator=seeded(3), settings=COMPARED).report
    assert report.chosen in ([1], [2]) and not report.skipped
    assert report.evaluations == sum(rows for _, rows, _ in seen) > 0
    assert report.saved_evaluations == 0, "the pipeline's own call asks everything again"


def test_automatic_selection_within_its_cost(family, pipe, call):
    automatic = NoiseOrderSettings(enabled=True, preset="Automatic")
    with watched(pipe) as seen:
        report = order_latents(pipe, **{**call, "num_inference_steps": 20}, generator=seeded(3), settings=automatic).report
    assert report.chosen and report.evaluations == sum(rows for _, rows, _ in seen)
    assert report.evaluations <= 0.5 * 20 * (1 if family == "flux" else 2)


@pytest.mark.parametrize("preset", ["Light", "Automatic"])
def test_run_ordered_does_not_pay_twice_for_the_winners_answers(family, pipe, call, preset):
    settings = NoiseOrderSettings(enabled=True, preset=preset)
    call = {**call, "num_inference_steps": 16, "prompt": ["a red circle", "two pizza"]}
    with watched(pipe) as seen:
        picture(pipe, call)
    plain = sum(rows for _, rows, _ in seen)
    before = state(pipe)
    with watched(pipe) as seen:
        run = run_ordered(pipe, **call, generator=seeded(3, 4), settings=settings, output_type="latent")
    report = run.report
    assert sum(rows for _, rows, _ in seen) == plain + 2 * report.extra_evaluations
    guidance = 1.0 if family == "flux" else 5.0
    euler = family != "wan"  # its scheduler is UniPC
    own = SamplerRun(guidance, 16, takes_euler_steps=euler)
    assert report.extra_evaluations == plan_for(own, extra_cost=settings.extra_cost).extra_evaluations(own)
    assert {name: value for name, value in before[0].items() if not name.startswith("_")} == {
        name: value for name, value in vars(pipe).items() if not name.startswith("_")
    }
    torch.testing.assert_close(pictures_of(run.output), picture(pipe, call, latents=run.noise), atol=1e-4, rtol=1e-3)


def test_run_ordered_gives_the_pictures_of_the_two_calls(pipe, call):
    latents = ordered_latents(pipe, **call, generator=seeded(3), settings=INJECTED)
    run = run_ordered(pipe, **call, generator=seeded(3), settings=INJECTED, output_type="latent")
    assert torch.equal(run.noise, latents)
    assert torch.equal(pictures_of(run.output), picture(pipe, call, latents=latents))


@pytest.mark.parametrize("steps", [16, 12])
def test_a_choice_is_replayed_without_a_question(pipe, call, steps):
    call = {**call, "num_inference_steps": 16, "prompt": ["a red circle", "two pizza"]}
    automatic = {"preset": "Automatic"}  # a mapping is switched on unless it says otherwise
    first = run_ordered(pipe, **call, generator=seeded(3, 4), settings=automatic)
    chosen = {**automatic, "chosen": " ".join(map(str, first.report.chosen))}
    call["num_inference_steps"] = steps
    with watched(pipe) as seen:
        again = run_ordered(pipe, **call, generator=seeded(3, 4), settings=chosen)
    asked = sum(rows for _, rows, _ in seen)
    with watched(pipe) as seen:
        picture(pipe, call)
    assert torch.equal(again.noise, first.noise) and again.report.chosen == first.report.chosen
    assert again.report.evaluations == 0 and asked == sum(rows for _, rows, _ in seen)
    assert torch.equal(ordered_latents(pipe, **call, generator=seeded(3, 4), settings=chosen), first.noise)


@pytest.mark.parametrize(
    "chosen, says", [("5:3", "names seeds"), ("1 2 3", "lists 3 draws for 1 pictures"), ("x", "chosen = 'x'")]
)
def test_a_choice_that_does_not_fit_is_refused(pipe, call, chosen, says):
    with watched(pipe) as seen, pytest.raises(ValueError, match=says):
        order_latents(pipe, **call, settings={"chosen": chosen})
    assert not seen


def test_what_cannot_be_compared_is_said(pipe, call):
    automatic = NoiseOrderSettings(enabled=True, preset="Automatic")
    with pytest.warns(UserWarning, match="skipped selection: "):
        ordered_latents(pipe, **{**call, "num_inference_steps": 1}, settings=automatic)


def test_one_generator_per_picture_makes_pictures_independent_of_the_batch(pipe, call):
    prompts = ["a red circle", "two blue square", "a pizza on a boat"]
    for settings in (ERASED, INJECTED, COMPARED):
        together = ordered_latents(pipe, **{**call, "prompt": prompts}, generator=seeded(1, 2, 3), settings=settings)
        for number, prompt in enumerate(prompts):
            alone = ordered_latents(pipe, **{**call, "prompt": prompt}, generator=seeded(number + 1), settings=settings)
            torch.testing.assert_close(together[number : number + 1], alone, atol=1e-5, rtol=1e-5)


def test_erasure_draws_more_noises_of_the_same_picture(pipe, call):
    first = ordered_latents(pipe, **call, generator=seeded(3), settings=PLAIN)
    erased = ordered_latents(pipe, **call, generator=seeded(3), settings=ERASED)
    assert torch.equal(erased, order_noise(ERASED, further_draws(first), None).noise)
    assert torch.equal(erased, ordered_latents(pipe, **call, latents=first, settings=ERASED)), "given latents are draw 1"


def test_the_generator_is_advanced_by_the_pipelines_own_draw_alone(pipe, call):
    plain, ordered = seeded(3), seeded(3)
    order_latents(pipe, **call, generator=plain, settings=PLAIN)
    order_latents(pipe, **call, generator=ordered, settings=INJECTED)
    assert torch.equal(plain.get_state(), ordered.get_state())
    assert not torch.equal(plain.get_state(), seeded(3).get_state())
    given = seeded(3)
    latents = order_latents(pipe, **call, generator=seeded(5), settings=PLAIN).noise
    order_latents(pipe, **call, generator=given, latents=latents, settings=INJECTED)
    assert torch.equal(given.get_state(), seeded(3).get_state())


def test_the_global_random_state_is_untouched(pipe, call):
    torch.manual_seed(7)
    before = torch.get_rng_state()
    order_latents(pipe, **call, generator=seeded(3), settings=INJECTED)
    assert torch.equal(torch.get_rng_state(), before)


def test_without_a_generator_the_global_one_gives_draw_1(pipe, call):
    torch.manual_seed(7)
    plain = picture(pipe, call)
    torch.manual_seed(7)
    latents = ordered_latents(pipe, **call, settings=PLAIN)
    assert torch.equal(picture(pipe, call, latents=latents), plain)


def state(pipe):
    """Everything about a pipeline that a call may change."""
    scheduler = {name: copy.deepcopy(value) for name, value in vars(pipe.scheduler).items()}
    forwards = [vars(model).get("forward") for model in pipe.components.values() if isinstance(model, torch.nn.Module)]
    return dict(vars(pipe)), dict(pipe.config), repr(scheduler), forwards


@pytest.mark.parametrize("error", [RuntimeError("out of something"), KeyboardInterrupt()], ids=["error", "interrupt"])
def test_what_the_model_raises_passes_through_and_leaves_the_pipeline_as_it_was(pipe, call, error):
    picture(pipe, call)
    before = state(pipe)
    denoiser = getattr(pipe, "unet", None) or pipe.transformer
    calls = []

    def failing(module, args):
        calls.append(1)
        if len(calls) == 3:  # the pre-hook hears the loop's silent first turn, too
            raise error

    handle = denoiser.register_forward_pre_hook(failing)
    try:
        with pytest.raises(type(error)):
            order_latents(pipe, **call, settings=INJECTED)
    finally:
        handle.remove()
    assert state(pipe) == before


def test_the_pipeline_is_as_it_was_afterwards(pipe, call):
    before = state(pipe)
    order_latents(pipe, **call, settings=INJECTED)
    assert state(pipe) == before


def test_an_interrupt_from_elsewhere_gives_draw_1_and_says_so(pipe, call):
    denoiser = getattr(pipe, "unet", None) or pipe.transformer
    calls = []

    def interrupt(module, args):
        calls.append(1)
        pipe._interrupt = len(calls) >= 2

    plain = ordered_latents(pipe, **call, generator=seeded(3), settings=PLAIN)
    handle = denoiser.register_forward_pre_hook(interrupt)
    try:
        ordered = order_latents(pipe, **call, generator=seeded(3), settings=INJECTED)
        calls.clear()
        with pytest.raises(Interrupted):
            run_ordered(pipe, **call, settings=INJECTED)
    finally:
        handle.remove()
    assert torch.equal(ordered.noise, plain) and ordered.report.skipped == ["everything: interrupted"]
    assert pipe.interrupt, "whoever interrupted can still see it"
    pipe._interrupt = False


BAD = {
    "no prompt": ({"prompt": None}, ValueError, "prompt"),
    "prompt and embeds": ({"prompt_embeds": torch.zeros(1, 8, 16)}, ValueError, "prompt_embeds"),
    "empty list": ({"prompt": []}, ValueError, "prompt"),
    "number": ({"prompt": 3}, ValueError, "prompt"),
    "shape": ({"latents": torch.zeros(1, 4, 7, 9)}, ValueError, "latents have shape (1, 4, 7, 9)"),
    "rank": ({"latents": torch.tensor(1.0)}, ValueError, "latents"),
    "batch": ({"latents": torch.zeros(2, 4, 16, 16)}, ValueError, "1 pictures"),
    "integers": ({"latents": torch.zeros(1, 4, 16, 16, dtype=torch.int64)}, ValueError, "floating"),
    "list": ({"latents": [1.0]}, ValueError, "floating"),
    "nan": ({"latents": torch.full((1, 4, 16, 16), float("nan"))}, ValueError, "finite"),
    "output_type": ({"output_type": "jpeg"}, ValueError, "output_type = 'jpeg'"),
    "steps": ({"num_inference_steps": 0}, ValueError, "num_inference_steps"),
    "unknown argument": ({"colour": "red"}, TypeError, "colour"),
    "generators": ({"generator": [torch.Generator(), torch.Generator()]}, ValueError, "2 entries for 1 pictures"),
    "seed": ({"generator": 3}, ValueError, "generator"),
    "settings": ({"settings": {"strenght": 1}}, ValueError, "strength"),
    "range": ({"settings": {"strength": 9}}, ValueError, "strength = 9"),
}


@pytest.mark.parametrize("wrong, error, text", BAD.values(), ids=BAD)
def test_bad_input_is_one_clear_error_before_the_model_is_asked(pipe, call, wrong, error, text):
    before = state(pipe)
    with watched(pipe) as seen, pytest.raises(error) as raised:
        order_latents(pipe, **{**call, **wrong})
    assert text in str(raised.value) and "\n" not in str(raised.value) and not seen
    assert state(pipe) == before


def test_a_pipeline_that_cannot_be_ordered_is_named_in_one_sentence(call):
    class Other:
        def __call__(self, prompt=None):
            pass

    for work in (order_latents, run_ordered):
        with pytest.raises(TypeError, match=r"^Noise Order: Other takes no latents$"):
            work(Other(), **call)


def test_switched_off_gives_draw_1(pipe, call):
    off = NoiseOrderSettings(enabled=False)
    with pytest.warns(UserWarning, match="switched off"):
        latents = ordered_latents(pipe, **call, generator=seeded(3), settings=off)
    assert torch.equal(latents, ordered_latents(pipe, **call, generator=seeded(3), settings=PLAIN))


def test_callbacks_and_dictionaries_of_the_call_are_left_alone(family, pipe, call):
    extra = {"stable_diffusion_3": "joint_attention_kwargs", "flux": "joint_attention_kwargs", "wan": "attention_kwargs"}
    mine = {}
    order_latents(
        pipe,
        **call,
        settings=INJECTED,
        callback_on_step_end=lambda *args: pytest.fail("a callback was called"),
        **{extra.get(family, "cross_attention_kwargs"): mine},
    )
    assert mine == {}


def test_bf16(family, call):
    pipe = getattr(pipelines, family)().to(torch.bfloat16)
    plain = picture(pipe, call, generator=seeded(3))
    latents = ordered_latents(pipe, **call, generator=seeded(3), settings=PLAIN)
    assert latents.dtype == (torch.float32 if family == "wan" else torch.bfloat16), "as the pipeline draws them"
    assert torch.equal(picture(pipe, call, latents=latents), plain)
    ordered = order_latents(pipe, **call, generator=seeded(3), settings=INJECTED)
    assert ordered.noise.dtype == latents.dtype and ordered.report.evaluations == 3 and not ordered.report.skipped
