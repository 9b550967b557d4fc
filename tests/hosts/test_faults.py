"""Whatever fails costs the effect, never the picture, is told, and leaves nothing behind. On the double."""

import pytest
import torch

from .client import difference, noise_order
from .double.host import DoubleHost


@pytest.fixture(scope="module", params=["eps", "flow"])
def host(request):
    return DoubleHost(request.param)


def nothing_left_behind(host):
    job = host.last_job
    assert not [name for name in vars(job) if "noise_order" in name]
    for owner in (job.rng, job.sampler):
        assert not {"next", "sample", "sample_img2img"} & set(vars(owner))
    unet = getattr(getattr(host.checkpoint, "forge_objects", None), "unet", None)
    assert unet is None or unet.model_options == {}


def first_answers(count, then):
    """Spoils the first answers of a job: the questions come before the steps."""
    asked = []

    def spoil(answer):
        asked.append(1)
        return then(answer) if len(asked) <= count else answer

    return spoil


def out_of_memory(answer):
    raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


FAULTS = {
    "NaN": lambda answer: answer * float("nan"),
    "infinity": lambda answer: answer / 0,
    "out of memory": out_of_memory,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_failing_question_costs_the_injection_only(host, fault, capsys):
    erased = host.txt2img(**noise_order(strength=0))
    with host.spoiled(first_answers(3 if fault != "out of memory" else 1, FAULTS[fault])):
        result = host.txt2img(**noise_order())
    assert difference(result, erased) == 0
    assert result["Noise Order skipped"].startswith("injection: ")
    assert any("Noise Order: skipped injection" in comment for comment in host.comments)
    assert "injection" in capsys.readouterr().out
    nothing_left_behind(host)


def test_one_picture_of_a_batch_may_fail_alone(host):
    def spoil(answer):
        answer[1] = float("nan")
        return answer

    good, erased = host.txt2img(batch_size=2, **noise_order()), host.txt2img(batch_size=2, **noise_order(strength=0))
    with host.spoiled(first_answers(3, spoil)):
        result = host.txt2img(batch_size=2, **noise_order())
    assert (result.pictures[0] == good.pictures[0]).all() and (result.pictures[1] == erased.pictures[1]).all()
    assert "1 of 2 pictures" in result["Noise Order skipped"]


@pytest.mark.parametrize("flag", ["interrupted", "skipped"])
def test_an_interrupt_between_questions_ends_them(host, flag):
    asked = []

    def interrupt(answer):
        asked.append(1)
        setattr(host.shared.state, flag, True)
        return answer

    with host.spoiled(interrupt):
        result = host.txt2img(**noise_order())
    assert len(asked) == 1, "the model was asked on after the interrupt"
    assert result["Noise Order skipped"] == "injection: interrupted"
    nothing_left_behind(host)


def test_failing_draws_leave_the_hosts_own_noise(host, monkeypatch):
    from modules import rng

    def broken(seed, shape):
        raise RuntimeError("no generator")

    plain = host.txt2img()
    monkeypatch.setattr(rng, "randn_local", broken)
    result = host.txt2img(**noise_order(strength=0))
    assert difference(result, plain) == 0
    assert result["Noise Order skipped"] == "erasure: RuntimeError: no generator"
    nothing_left_behind(host)


def test_a_failing_sampler_takes_the_wrappers_off(host):
    def broken(answer):
        raise RuntimeError("the host's own failure")

    with host.spoiled(broken), pytest.raises(RuntimeError, match="the host's own failure"):
        host.txt2img(**noise_order(strength=0))
    for owner in (host.last_job.rng, host.last_job.sampler):
        assert not {"next", "sample", "sample_img2img"} & set(vars(owner))
    assert difference(host.txt2img(), host.txt2img()) == 0


def test_progress_and_infotext_are_put_back(host):
    result = host.txt2img(**noise_order())
    assert host.shared.state.textinfo is None
    assert "NGMS" not in result.infotexts[0], "the probe's settings leaked into the infotext"
    nothing_left_behind(host)


def test_bad_settings_from_the_page_give_the_plain_picture_and_say_why(host, monkeypatch):
    from modules import processing

    plain = host.txt2img()
    generate = processing.process_images
    monkeypatch.setattr(host.processing, "process_images", lambda p: (setattr(p, "is_api", False), generate(p))[1])
    result = host.txt2img(**noise_order(strength=9))
    assert difference(result, plain) == 0
    assert result["Noise Order error"] == "strength = 9 is not a number from -2 to 2"
    assert any("strength = 9" in comment for comment in host.comments)


def test_img2img_noise_multiplier(host, monkeypatch):
    from .client import encoded
    from .real import grey_picture

    def generate(**payload):
        return host.img2img(init_images=[encoded(grey_picture(24))], denoising_strength=0.7, **payload)

    monkeypatch.setattr(host.shared.opts, "initial_noise_multiplier", 0.9)
    assert difference(generate(), generate(**noise_order(erasure_samples=1, strength=0))) == 0
    assert difference(generate(), generate(**noise_order())) > 0


def test_a_grid_cell_that_is_off_after_one_that_was_on_writes_nothing(host):
    from modules import errors

    errors.reports.clear()
    on = host.txt2img(**noise_order())
    job = host.last_job
    job.script_args = list(host.defaults)
    _, texts, _ = host.processing.process_images(job)
    assert "Noise Order" in on.infotexts[0] and "Noise Order" not in texts[0] and errors.reports == []
