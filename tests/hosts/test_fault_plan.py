"""Seams × faults, on the double and on real hosts: the picture comes, the next one is right, and nothing is left behind."""

import re

import numpy as np
import pytest

from .client import Refused, difference, encoded, noise_order
from .real import grey_picture
from .sabotaged import PARAMETERS, SabotagedDouble, running, with_faults

WEBUI = "lib_noiseorder.webui"
SEAMS = {
    # what a hook calls: the hosts log it, and the picture is made without it
    "settings are checked": (f"{WEBUI}.extension:refuse_bad_settings", {"ordered"}),
    "a batch starts": (f"{WEBUI}.extension:start_batch", {"own"}),
    "the noise source is armed": (f"{WEBUI}.job.session:Session.arm", {"own"}),
    "before sampling": (f"{WEBUI}.extension:before_sampling", {"erased"}),
    "the sampler is wrapped": (f"{WEBUI}.job.session:Session.wrap_sampler", {"erased"}),
    "a batch ends": (f"{WEBUI}.extension:end_batch", {"ordered"}),
    "a session is closed": (f"{WEBUI}.job.session:Session.close", {"ordered"}),
    "a job ends": (f"{WEBUI}.extension:end_job", {"ordered"}),
    # what a wrapper calls while the host draws and samples: nobody else would catch it
    "the first noise arrives": (f"{WEBUI}.job.sampler_pass:SamplerPass.__init__", {"own"}),
    "further draws": (f"{WEBUI}.job.seed_keyed_draws:_noise", {"not erased"}),
    "erasure": (f"{WEBUI}.job.sampler_pass:erased_candidate", {"not erased"}),
    "the erased noise is handed over": (f"{WEBUI}.job.sampler_pass:SamplerPass.erased", {"own"}),
    "the pass is ordered": (f"{WEBUI}.job.sampler_pass:SamplerPass.ordered", {"erased"}),
    "the model is asked": (f"{WEBUI}.job.sampler_pass:ask_model", {"erased"}),
    "a probe is made": (f"{WEBUI}.model.probe:_kept", {"erased"}),
    "the host's model is wrapped": (f"{WEBUI}.model.host_model:HostModel.__init__", {"erased"}),
    "a question": (f"{WEBUI}.model.host_model:HostModel._ask", {"erased"}),
    "the answer": (f"{WEBUI}.model.host_model:HostModel._record", {"erased"}),
    "selection": (f"{WEBUI}.job.sampler_pass:choose", {"erased"}),
    "injection": (f"{WEBUI}.job.sampler_pass:inject_semantics", {"erased"}),
    "aggregation": ("lib_noiseorder.ordering:aggregate", {"erased"}),
    "the report": (f"{WEBUI}.job.session:Session._write", {"ordered"}),
    "the infotext": (f"{WEBUI}.job.session:outcome_infotext", {"ordered"}),
    "the line below the picture": (f"{WEBUI}.job.session:note_batch", {"ordered"}),
}
"""Where something fails, and which picture is to come of it: the ordered one all the same, or one from
the erased or the host's own noise."""

DIES_WITH_THE_JOB = {
    "a batch ends": {"p._noise_order_session"},
    "a session is closed": {"p._noise_order_session"},
    "a job ends": {"p._noise_order_outcome"},
}
"""What may stay on the job, which the host is about to drop, where the very cleaning-up fails; never anything on the model."""

SELECTION_SEAMS = {
    "a first prediction": (f"{WEBUI}.model.host_model:HostModel.predict_pair", "selection"),
    "the sampler's sigmas": (f"{WEBUI}.model.host_model:sampler_sigmas", "selection"),
    "answers are remembered": ("lib_noiseorder.answers:Answers.recording", "selection"),
    "answers are recalled": ("lib_noiseorder.answers:Answers._recalled", None),
    "a memory is consulted": ("lib_noiseorder.answers:Answers.answering", None),
}
AUTOMATIC = {"preset": "Automatic"}


@pytest.fixture(scope="module", params=PARAMETERS)
def host(request, tmp_path_factory):
    with running(request.param, tmp_path_factory.mktemp("faults")) as one:
        yield one


@pytest.fixture(scope="module")
def untouched(host):
    """The pictures that nothing has gone wrong with, by name."""
    return {
        "own": host.txt2img(),
        "erased": host.txt2img(**noise_order(strength=0)),
        "not erased": host.txt2img(**noise_order(erasure_samples=1)),
        "ordered": host.txt2img(**noise_order()),
        "selected": host.txt2img(steps=20, **noise_order(**AUTOMATIC)),
        "plain 20": host.txt2img(steps=20),
    }


def the_next_ones_are_right(host, untouched):
    assert difference(host.txt2img(), untouched["own"]) == 0, "the next plain picture is another one"
    assert host.state()["left"] == []
    assert difference(host.txt2img(**noise_order()), untouched["ordered"]) == 0, "the next ordered picture is another one"
    assert host.state()["left"] == []


def same_as(result, untouched):
    return {name for name in ("own", "erased", "not erased", "ordered") if difference(result, untouched[name]) == 0}


ERRORS = ("RuntimeError", "OutOfMemoryError")


@pytest.mark.parametrize("seam, error", [
    pytest.param(seam, error, marks=[pytest.mark.long] * (number % 2 != turn), id=f"{seam}-{error}")
    for number, seam in enumerate(SEAMS) for turn, error in enumerate(ERRORS)
])  # fmt: skip
def test_an_exception_in_any_seam(host, untouched, seam, error):
    place, expected = SEAMS[seam]
    result = host.txt2img(**with_faults(noise_order(), raise_in=place, error=error))
    assert same_as(result, untouched) & expected, f"not the picture from the {expected} noise"
    assert set(host.state()["left"]) <= DIES_WITH_THE_JOB.get(seam, set())
    text = result.infotexts[0]
    if "ordered" not in expected and "Noise Order evaluations" in text:
        assert re.search(r"Noise Order skipped: .*(sabotage|out of memory|not seen|does not sample)", text), text
    the_next_ones_are_right(host, untouched)


@pytest.mark.parametrize("seam", SELECTION_SEAMS)
def test_an_exception_in_a_seam_of_selection(host, untouched, seam):
    place, skipped = SELECTION_SEAMS[seam]
    result = host.txt2img(steps=20, **with_faults(noise_order(**AUTOMATIC), raise_in=place))
    assert host.state()["left"] == []
    if skipped:
        assert difference(result, untouched["plain 20"]) == 0 and skipped in result["Noise Order skipped"]
    else:
        assert difference(result, untouched["selected"]) <= 1, "a memory that fails costs time, not the choice"
    the_next_ones_are_right(host, untouched)


@pytest.mark.parametrize("kind", ["nan", "inf", "memory", "error"])
@pytest.mark.parametrize("answer", [1, 2, 3])
def test_the_kth_answer_is_no_answer(host, untouched, kind, answer):
    """Asked one by one, for want of memory for two."""
    result = host.txt2img(**with_faults(noise_order(), answers=[answer, answer, kind], memory_for=1))
    assert same_as(result, untouched) == {"erased"}
    assert result["Noise Order skipped"].startswith("injection: ")
    the_next_ones_are_right(host, untouched)


@pytest.mark.parametrize("kind", ["nan", "memory"])
def test_a_fault_in_the_first_answers_of_a_selection(host, untouched, kind):
    result = host.txt2img(steps=20, **with_faults(noise_order(**AUTOMATIC), answers=[1, 1, kind]))
    assert np.isfinite(result.pictures).all()
    if kind == "memory":
        assert difference(result, untouched["plain 20"]) == 0 and "OutOfMemoryError" in result["Noise Order skipped"]
    assert host.state()["left"] == []
    the_next_ones_are_right(host, untouched)


@pytest.mark.parametrize("flag", ["interrupted", "skipped"])
@pytest.mark.parametrize("answer", [1, 2, 3, 4, 6])
def test_interrupt_and_skip_at_every_point(host, untouched, flag, answer):
    """After answers 1 to 3, which are ours, and in the middle of the host's own steps."""
    result = host.txt2img(**with_faults(noise_order(), state=[flag, answer], memory_for=1))
    assert host.state()["left"] == []
    if answer < 3:
        assert result["Noise Order skipped"] == "injection: interrupted"
    the_next_ones_are_right(host, untouched)


@pytest.mark.parametrize(
    "hook",
    ["process", "before_process_batch", "process_batch", "process_before_every_sampling", "postprocess_batch", "postprocess"],
)
def test_another_extension_raises_in_its_hook(host, untouched, hook):
    result = host.txt2img(**with_faults(noise_order(), hook=hook))
    assert same_as(result, untouched) == {"ordered"}
    the_next_ones_are_right(host, untouched)


@pytest.mark.parametrize("hook", ["process", "process_batch", "process_before_every_sampling", "postprocess_batch"])
@pytest.mark.parametrize("family", ["eps", "flow"])
def test_another_extension_raises_before_our_turn(family, hook):
    host = SabotagedDouble(family, before=True)
    assert difference(host.txt2img(**with_faults(noise_order(), hook=hook)), host.txt2img(**noise_order())) == 0


@pytest.mark.parametrize(
    "attributes",
    [
        pytest.param({"comments": "absent"}, marks=pytest.mark.real_host),  # the double cannot do without it itself
        pytest.param({"comments": None}, marks=pytest.mark.real_host),
        {"is_hr_pass": "absent"}, {"initial_noise_multiplier": None},
        {"_noise_order_session": "somebody else's"}, {"_noise_order_outcome": None}, {"_noise_order_shown": 3},
        {"unknown_attribute": {"deep": [[1]]}}, {"refiner_checkpoint_info": "absent"},
    ],
    ids=str,
)  # fmt: skip
def test_jobs_with_missing_and_extra_attributes(host, untouched, attributes):
    try:
        plain = host.txt2img(**with_faults({}, attributes=attributes))
    except (Refused, AttributeError, TypeError):
        pytest.skip("this host cannot do without it itself")
    result = host.txt2img(**with_faults(noise_order(), attributes=attributes))
    assert difference(plain, untouched["own"]) == 0
    assert same_as(result, untouched), "neither the ordered picture nor one that some fault explains"
    the_next_ones_are_right(host, untouched)


@pytest.mark.parametrize(
    "args",
    [[{"enabled": True, "strength": [1]}], [{"enabled": True, "preset": {"a": 1}}], [{"enabled": None}], [[True]], [{"": {}}]],
)
def test_arguments_of_a_wrong_kind_are_refused(host, untouched, args):
    with pytest.raises(Refused) as refused:
        host.txt2img(alwayson_scripts={"Noise Order": {"args": args}})
    assert refused.value.status == 422 and "Noise Order" in refused.value.message
    the_next_ones_are_right(host, untouched)


def test_img2img_with_a_failing_question(host, untouched):
    def generate(**payload):
        return host.img2img(init_images=[encoded(grey_picture(host.size))], denoising_strength=0.7, **payload)

    erased = generate(**noise_order(strength=0))
    failed = generate(**with_faults(noise_order(), answers=[1, 1, "memory"], memory_for=1))
    assert difference(erased, failed) <= host.img2img_noise and "injection" in failed["Noise Order skipped"]
    the_next_ones_are_right(host, untouched)


def test_reload_ui_during_a_job(host, untouched):
    result = host.reloading(**with_faults(noise_order(), reload=2))
    assert result is None or same_as(result, untouched) == {"ordered"}
    the_next_ones_are_right(host, untouched)


@pytest.mark.real_host
def test_the_model_is_swapped_between_arming_and_sampling(host, untouched):
    other = host.another_checkpoint
    if other is None:
        pytest.skip("only one checkpoint here")
    expected = host.txt2img(**noise_order(), override_settings={"sd_model_checkpoint": other})
    swapped = host.txt2img(**with_faults(noise_order(), swap=other))
    assert difference(swapped, expected) == 0, "the questions went to another model than the steps"
    the_next_ones_are_right(host, untouched)


def test_two_jobs_at_once(host, untouched):
    at_once = host.at_once([noise_order(), {}, noise_order(strength=0), noise_order()])
    assert [min(same_as(result, untouched)) for result in at_once] == ["ordered", "own", "erased", "ordered"]
    the_next_ones_are_right(host, untouched)
