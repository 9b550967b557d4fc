"""A job's pictures are its asker's: what is made besides them goes where the host shows it, and nowhere else."""

import contextlib
import re

import numpy as np
import pytest
import requests
from PIL import Image

from .client import encoded, noise_order
from .double.host import DoubleHost
from .real import grey_picture
from .test_faults import other_script

TICKS = {"compare_with_off": "compare with off", "show_injected": "show what was compared"}


def script(name, *args):
    return {"script_name": name, "script_args": list(args)}


def grid(host):
    """Two numbers of steps; the hosts' further arguments differ."""
    infos = requests.get(f"{host.server.url}/sdapi/v1/script-info", timeout=60).json()
    args = next(info["args"] for info in infos if info["name"].lower() == "x/y/z plot" and not info["is_img2img"])
    labels = [label[0] if isinstance(label, list) else label for label in args[0]["choices"]]
    axes = [labels.index("Steps"), "3, 4", [], 0, "", [], 0, "", []]
    return script("x/y/z plot", *axes, *(arg["value"] for arg in args[9:]))


MATRIX = script("prompt matrix", False, False, "positive", "comma", 0)
ALTERNATIVE = script("img2img alternative test", "", True, True, "a circle", "", True, 4, True, 1.0, 0.0, False)
REAL = {
    "SD upscale": ("img2img", {"denoising_strength": 0.3, **script("sd upscale", "", 32, "Lanczos", 2)}),
    "outpainting: poor man's": ("img2img", script("poor man's outpainting", 32, 4, 0, ["left", "right"])),
    "outpainting: mk2": ("img2img", {"batch_size": 2, **script("outpainting mk2", "", 64, 4, ["left"], 1.0, 0.05)}),
    "prompt matrix": ("txt2img", {"prompt": "a circle|red|blue", **MATRIX}),
    "loopback": ("img2img", script("loopback", 2, 0.5, "Linear", "None")),
    "X/Y/Z plot": ("txt2img", grid),
    "prompts from a file": ("txt2img", script("prompts from file or textbox", False, False, "start", "a circle\na square")),
    "img2img alternative": ("img2img", ALTERNATIVE),
    "a script that returns what came": ("txt2img", {"enable_hr": True, **script("hires quick button")}),
}
"""The hosts' own scripts, and a tiny one of the tests'."""
DOUBLE = {
    "SD upscale": ("img2img", script("Tiles")),
    "outpainting: poor man's": ("img2img", script("Tiles")),
    "outpainting: mk2": ("img2img", {"batch_size": 2, **script("FirstOfTheBatch")}),
    "prompt matrix": ("txt2img", script("Matrix")),
    "loopback": ("img2img", script("Loop")),
    "X/Y/Z plot": ("txt2img", script("Cells")),
    "prompts from a file": ("txt2img", script("Lines")),
    "img2img alternative": ("txt2img", script("OwnSampling")),
    "a script that returns what came": ("txt2img", script("OwnSampling")),
}
"""Those of the double that do with the pictures as the hosts' do."""
ALTERNATIVE_ON = ("double", "A1111")
"""On Forge it fails by itself."""
OTHER_ARGUMENTS = ("NEO", "CLASSIC")
"""Hosts whose SD upscale takes others."""


def on_double(host):
    return isinstance(host, DoubleHost)


def gallery(host, name, **settings):
    """What is shown of a script's job, and the first infotext."""
    where = "double" if on_double(host) else host.server.name
    if (name == "img2img alternative" and where not in ALTERNATIVE_ON) or (name == "SD upscale" and where in OTHER_ARGUMENTS):
        pytest.skip("this host's script fails by itself, takes other arguments, or is not there")
    tab, payload = (DOUBLE if on_double(host) else REAL)[name]
    payload = {"seed": 5, **(payload(host) if callable(payload) else payload)}
    if tab == "img2img":
        payload = {"init_images": [encoded(grey_picture(host.size))], **payload}
    pictures, texts = host.gallery(tab, **payload, **noise_order(**settings))
    return pictures, texts[0]


def skipped(infotext):
    found = re.search(r'Noise Order skipped: (?:"([^"]*)"|([^,\n]*))', infotext)
    return (found[1] or found[2]).split("; ") if found else []


def counted(infotext):
    return float(re.search(r"Counted evaluations: ([\d.]+)", infotext)[1])


@contextlib.contextmanager
def no_trace_of_an_error(host):
    """Nothing is reported as an error, by anybody."""
    if on_double(host):
        from modules import errors

        errors.reports.clear()
        yield
        assert errors.reports == []
    else:
        start = len(host.server.said())
        yield
        assert "Traceback" not in host.server.said()[start:]


@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize("tick", TICKS)
def test_nothing_reaches_the_pictures_that_a_script_takes(host, name, tick):
    expected, usual = gallery(host, name)
    start = 0 if on_double(host) else len(host.server.said())
    with no_trace_of_an_error(host):
        pictures, infotext = gallery(host, name, **{tick: True})
    assert [one.shape for one in pictures] == [one.shape for one in expected]
    assert max(abs(a - b).max() for a, b in zip(pictures, expected)) <= 2, "another picture was pasted in"
    reason = f"{TICKS[tick]}: a script takes this job's pictures"
    assert skipped(infotext) == [*skipped(usual), reason]
    told = host.comments if on_double(host) else host.server.said()[start:].split("\n")  # below the pictures; in the console
    assert any(line.startswith(f"Noise Order: skipped {reason}") for line in told)
    assert counted(infotext) <= counted(usual), "something was paid for and dropped"


@pytest.mark.parametrize("job", [{}, {"enable_hr": True}, {"batch_size": 2}, {"n_iter": 2}], ids=str)
def test_the_host_shows_what_was_asked_for(host, job):
    """The ordered picture, its plain copy, and the sheets at the end."""
    ordered, _ = host.gallery("txt2img", **job, **noise_order())
    plain, _ = host.gallery("txt2img", **job)
    with no_trace_of_an_error(host):
        both, texts = host.gallery("txt2img", **job, **noise_order(compare_with_off=True, show_injected=True))
    count = job.get("batch_size", 1) * job.get("n_iter", 1)
    grids = len(ordered) - count
    assert len(both) == grids + 3 * count
    expected = [one for pair in zip(ordered[grids:], plain[grids:]) for one in pair]
    assert max(abs(a - b).max() for a, b in zip(both[grids:], expected)) <= 1
    assert ["Noise Order" in text.split("\n")[-1] for text in texts[grids:]] == [True, False] * count + [True] * count
    assert not any("Noise Order skipped" in text for text in texts)


@pytest.mark.real_host
def test_other_hires_prompts_are_those_of_the_plain_copies_too(host):
    job = {"enable_hr": True, "hr_prompt": "a blue square # and a comment", "hr_negative_prompt": "red"}
    _, (expected,) = host.gallery("txt2img", **job)
    with no_trace_of_an_error(host):
        _, (_, plain) = host.gallery("txt2img", **job, **noise_order(compare_with_off=True))
    assert expected.split("Counted")[0] == plain.split("Counted")[0]


@pytest.mark.real_host
def test_a_plain_copys_file_does_not_replace_the_ordered_pictures(host):
    """As in img2img's batch tab, whose files are named after the pictures it started from."""
    names = {"samples_filename_pattern": "plain-copy-[seed]", "save_images_add_number": False, "save_to_dirs": False}
    job = {"save_images": True, "override_settings": {**host.defaults()["override_settings"], **names}}
    host.gallery("txt2img", **job, **noise_order(compare_with_off=True))
    files = sorted(host.server.log.parent.rglob("plain-copy-*.png"), key=lambda file: (len(file.name), file.name))
    assert len(files) == 2
    with Image.open(files[0]) as first, Image.open(files[1]) as second:
        assert ["Noise Order" in one.info["parameters"] for one in (first, second)] == [True, False]


def test_reasons_name_only_what_was_going_to_be_done(host):
    wanted = {
        "erasure": {"strength": 0},
        "injection": {"erasure_samples": 1},
        "erasure and injection": {},
        "selection": {"preset": "Automatic"},
    }
    for what, settings in wanted.items():
        _, infotext = gallery(host, "img2img alternative", **settings)
        reason = "the host's sampler was not seen"
        assert skipped(infotext)[0].startswith((f"{what}: {reason}", "everything: this job does not sample"))


def test_one_noise_is_nothing_to_compare(host):
    result = host.txt2img(steps=20, **noise_order(selection="automatic", selection_draws=1))
    assert result["Noise Order skipped"] == "selection: selection_draws = 1 leaves nothing to compare"
    assert result["Noise Order chosen"] is None


# -- on the double -----------------------------------------------------------------------------------------------------


@pytest.fixture
def double():
    return DoubleHost("eps")


def test_an_extensions_own_tab_gets_the_pictures_it_asked_for(double):
    """It calls the host's function for a job, and no script is chosen."""
    double.txt2img(**noise_order(compare_with_off=True, show_injected=True))
    tab = double.processing.process_images(double.last_job)
    assert len(tab.images) == 1
    assert skipped(tab.info) == [f"{label}: a script takes this job's pictures" for label in TICKS.values()]


@pytest.mark.parametrize("hook", ["before_process", "postprocess", "postprocess with the same job"])
def test_a_job_in_another_ones_hook_is_a_job_inside_it(double, monkeypatch, hook):
    came = []

    def another(p, *_, **__):
        if came or hasattr(p, "inner"):
            return
        inner = p if "same" in hook else double.processing.Txt2Img(script_args=p.script_args, scripts=p.scripts)
        inner.inner = True
        came.append(double.processing.process_images(inner))

    other_script(double, monkeypatch, 0, **{hook.split()[0]: another})
    double.gallery("txt2img", **noise_order(compare_with_off=True, show_injected=True))
    assert len(came[0].images) == 1 and "Noise Order" not in came[0].info


@pytest.mark.parametrize("hires", [{}, {"enable_hr": True, "hr_prompt": "blue square"}], ids=str)
def test_a_script_that_wants_prompts_to_be_texts_and_the_seed_a_number_finds_them(double, monkeypatch, hires):
    found = []

    def process(p, *_):
        p.all_prompts[1] = "red circle"
        found.append((p.prompt.strip(), p.hr_prompt.strip(), p.all_prompts, p.seed + 1))

    other_script(double, monkeypatch, 0, process=process)
    with no_trace_of_an_error(double):
        double.txt2img(**hires, batch_size=2, **noise_order(compare_with_off=True))
    assert len(found) == 2 and found[0] == found[1]


def test_a_grid_whose_settings_cannot_be_used_is_made_plain_and_says_why(double):
    """The grid script swallows the refusal that an API request would get; its cells would stay empty."""
    plain, _ = double.gallery("txt2img", **script("Cells"))
    pictures, texts = double.gallery("txt2img", **script("Cells"), **noise_order(strength=9))
    assert np.array_equal(pictures, plain)
    assert "Noise Order error: strength = 9 is not a number from -2 to 2" in texts[0]
