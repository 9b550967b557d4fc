"""Whatever fails costs the effect, never the picture, is told, and leaves nothing behind. On the double."""

import pytest
import torch

from lib_noiseorder.plans import noise_scale_for

from .client import difference, noise_order
from .double.host import DoubleHost

AFTER_OURS = 3
"""Behind the two extensions of the tests' own, and Noise Order."""


@pytest.fixture(autouse=True)
def questions_one_by_one(host, monkeypatch):
    """As a host asks that was told to put no two prompts into one call."""
    monkeypatch.setattr(host.shared.opts, "batch_cond_uncond", False, raising=False)


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
    off = host.processing.process_images(job)
    assert "Noise Order" in on.infotexts[0] and "Noise Order" not in off.info and errors.reports == []


def other_script(host, monkeypatch, place, **hooks):
    """Another extension whose hooks run before ours (place 0) or after (place AFTER_OURS)."""
    from modules import scripts

    other = scripts.Script()
    vars(other).update(hooks)
    monkeypatch.setattr(host.runner, "alwayson_scripts", list(host.runner.alwayson_scripts))
    host.runner.alwayson_scripts.insert(place, other)


def broken(*_, **__):
    raise RuntimeError("somebody else's failure")


HOOKS = (
    "process", "before_process_batch", "process_batch", "process_before_every_sampling", "postprocess_batch", "postprocess"
)  # fmt: skip


@pytest.mark.parametrize("place", [0, AFTER_OURS], ids=["before ours", "after ours"])
def test_other_scripts_that_fail_do_not_matter(host, monkeypatch, place):
    alone = host.txt2img(**noise_order())
    other_script(host, monkeypatch, place, **dict.fromkeys(HOOKS, broken))
    result = host.txt2img(**noise_order())
    assert difference(result, alone) == 0 and result["Noise Order skipped"] is None
    nothing_left_behind(host)


def test_a_script_that_brings_its_own_noise_keeps_it(host, monkeypatch):
    """Replaced in place after ours, as ControlNet's preprocessors may; it is injected into, not overwritten."""

    def replace(p, x, noise, **_):
        noise.copy_(torch.randn(noise.shape, generator=torch.Generator().manual_seed(99)))

    other_script(host, monkeypatch, AFTER_OURS, process_before_every_sampling=replace)
    plain = host.txt2img()
    assert difference(plain, host.txt2img(**noise_order(strength=0))) == 0
    assert difference(plain, host.txt2img(**noise_order())) > 0
    selected = host.txt2img(steps=8, **noise_order(preset="Light"))
    assert selected["Noise Order skipped"] == "selection: another script replaced the noise"


def test_a_script_that_brings_its_own_source_of_noise_keeps_it(host, monkeypatch):
    from modules import rng

    def replace(p, *_, **__):
        p.rng = rng.ImageRNG((3, 24, 24), [99] * p.batch_size)

    other_script(host, monkeypatch, AFTER_OURS, process_batch=replace)
    plain, result = host.txt2img(), host.txt2img(**noise_order())
    assert difference(plain, result) == 0
    assert result["Noise Order skipped"] == "everything: this job does not sample from the seed's noise"
    nothing_left_behind(host)


def test_switched_off_in_mid_batch(host, monkeypatch):
    """Our script is gone from the runner after it armed the noise: the picture comes, and the next job is as ever."""
    plain = host.txt2img()

    def gone(p, *_, **__):
        host.runner.alwayson_scripts = [one for one in host.runner.alwayson_scripts if one.title() != "Noise Order"]

    def title():
        return "Other"

    everyone = host.runner.alwayson_scripts
    other_script(host, monkeypatch, AFTER_OURS, process_batch=gone, title=title)
    host.txt2img(**noise_order())
    for owner in (host.last_job.rng, host.last_job.sampler):
        assert not {"next", "sample", "sample_img2img"} & set(vars(owner))
    host.runner.alwayson_scripts = everyone
    assert difference(plain, host.txt2img()) == 0


@pytest.mark.parametrize("settings", [{}, {"preset": "Automatic"}], ids=str)
def test_a_sampler_of_an_unknown_kind_costs_the_effect_only(host, monkeypatch, settings):
    """One that has neither sigmas nor timesteps of its own to ask for."""
    from modules import sd_samplers

    class Unknown(sd_samplers.Sampler):
        def __init__(self, func, sd_model):
            super().__init__(func, sd_model)
            self.config = None

        def __getattribute__(self, name):
            if name == "get_sigmas" and self.config is None:
                raise AttributeError("this sampler has no sigmas")
            return super().__getattribute__(name)

        def sample(self, p, x, *args, **kwargs):
            self.config = "running"
            return super().sample(p, x, *args, **kwargs)

    make = sd_samplers.create_sampler
    erased = host.txt2img(steps=8, **noise_order(strength=0, erasure_samples=1 if settings else 4))

    def create(name, sd_model):
        return Unknown(sd_samplers.euler, sd_model) if name == "Odd" else make(name, sd_model)

    monkeypatch.setattr(sd_samplers, "create_sampler", create)
    result = host.txt2img(sampler_name="Odd", steps=8, **noise_order(**settings))
    assert difference(result, erased) == 0
    assert "AttributeError" in result["Noise Order skipped"]


def test_a_sampler_that_scales_answers_in_its_own_way_is_given_none_of_the_remembered_ones(host, monkeypatch):
    """As A1111's LCM sampler: the picture of a chosen noise is the one that the host makes of it."""
    from modules import sd_models, sd_samplers

    from lib_noiseorder.webui.model.checkpoint import checkpoint_of, family_of

    class Halving(sd_models.Denoiser):
        def forward(self, x, sigma, cond):
            return super().forward(x, sigma, cond) * 0.5

    def create(name, sd_model):
        sampler = make(name, sd_model)
        if len(made) % 2 == 0:  # the host's own comes first, then the one for the questions
            sampler.model_wrap_cfg.inner_model = Halving(sd_model)
        made.append(sampler)
        return sampler

    make, made = sd_samplers.create_sampler, []
    for seed in range(1, 9):
        with monkeypatch.context() as patched:
            patched.setattr(sd_samplers, "create_sampler", create)
            selected = host.txt2img(seed=seed, **noise_order(preset="Automatic", selection_draws=2))
            if selected["Noise Order chosen"] == "1":
                made.clear()
                scale = noise_scale_for(family_of(checkpoint_of(host.checkpoint)))
                own = noise_order(erasure_samples=1, strength=0, noise_scale=scale)
                assert difference(selected, host.txt2img(seed=seed, **own)) <= 1
                return
            made.clear()
    raise AssertionError("no seed keeps its own noise")


def test_a_job_inside_a_job_is_ordered_only_if_asked(host, monkeypatch):
    """As ADetailer's second pass is, made by the host's own function out of another script's hook."""
    inner_texts = []

    def repaint(p, *_, **__):
        if not hasattr(p, "inner"):
            inner = host.processing.Txt2Img(prompt=p.prompt, script_args=p.script_args, scripts=p.scripts)
            inner.inner = True
            inner_texts.append(host.processing.process_images(inner).info)

    alone = host.txt2img(**noise_order())
    other_script(host, monkeypatch, AFTER_OURS, postprocess=repaint)
    assert difference(alone, host.txt2img(**noise_order())) == 0
    host.txt2img(**noise_order(inner_passes=True))
    left_alone, ordered = inner_texts
    assert "Noise Order" not in left_alone and "Noise Order evaluations: 3" in ordered


def test_the_hires_pass_reports_for_itself(host):
    result = host.txt2img(enable_hr=True, steps=20, **noise_order(preset="Automatic", hires_pass=True))
    assert {result["Noise Order chosen"], result["Noise Order hires chosen"]} <= set("1234567")
    nothing_left_behind(host)


def test_a_failing_hires_question_costs_that_pass_only(host):
    plain, asked = host.txt2img(enable_hr=True), []

    def spoil(answer):
        asked.append(1)
        return out_of_memory(answer) if len(asked) == 3 + 4 + 1 else answer  # the first pass: 3 questions, 4 steps

    with host.spoiled(spoil):
        result = host.txt2img(enable_hr=True, **noise_order(hires_pass=True))
    assert result["Noise Order skipped"].startswith("hires pass: injection: OutOfMemoryError")
    assert int(result["Noise Order evaluations"]) == result.evaluations - plain.evaluations == 3 + 1
    nothing_left_behind(host)
