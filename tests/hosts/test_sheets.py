"""The sheets of what was compared, on the double."""

import re

import numpy as np
import pytest
import torch
from PIL import Image, ImageFont

from lib_noiseorder import NoiseOrderSettings
from lib_noiseorder.formulas import KeyTimestep
from lib_noiseorder.report import Report

from .client import difference, noise_order
from .double.host import DoubleHost, _parameters

KEPT = (0x11, 0x77, 0x33)
COMPARED = "What the model saw coming from each noise. The framed one was kept; the highest score is the best."
CHANGED = "What the model saw in the noise, and the noise before and after."
EARLY, MIDDLE, LATE = (
    f"what the model saw {when}"
    for when in ("early (layout, timestep 0.9)", "in the middle (structure, timestep 0.5)", "late (detail, timestep 0.1)")
)


@pytest.fixture(scope="module", params=["eps", "flow"])
def host(request):
    return DoubleHost(request.param)


@pytest.fixture
def drawn(host, monkeypatch):
    """The title and the parts of every sheet that is drawn."""
    from lib_noiseorder.webui.job import sheets

    seen, draw = [], sheets.draw_sheet
    monkeypatch.setattr(sheets, "draw_sheet", lambda *sheet: (seen.append(sheet[:2]), draw(*sheet))[1])
    return seen


def told(parts):
    """Heading and captions of every part, the scores left out."""
    return [(part.heading, [re.sub(r"score -?[\d.e-]+", "score", one.caption) for one in part.pictures]) for part in parts]


@pytest.mark.parametrize(
    "settings, expected",
    [
        ({}, [(CHANGED, ["the noise before", EARLY, MIDDLE, LATE, "the noise after"])]),
        ({"detail_weight": 0}, [(CHANGED, ["the noise before", EARLY, MIDDLE, "the noise after"])]),
        ({"strength": 0}, [("The noise before and after.", ["the noise before", "the noise after"])]),
    ],
    ids=str,
)
def test_a_sheet_per_picture_shows_what_the_formulas_did(host, drawn, settings, expected):
    host.txt2img(batch_size=2, **noise_order(show_injected=True, **settings))
    assert [(title, told(parts)) for title, parts in drawn] == [(f"Noise Order, seed {seed}", expected) for seed in (1, 2)]


def test_a_sheet_per_picture_shows_the_noises_compared_and_frames_the_one_that_was_kept(host, drawn):
    result = host.txt2img(batch_size=2, steps=20, **noise_order(preset="Automatic", selection_draws=4, show_injected=True))
    assert len(drawn) == 2
    for (_, parts), infotext in zip(drawn, result.infotexts):
        (part,) = parts
        assert part.heading == COMPARED
        chosen = int(re.search(r"Noise Order chosen: (\d)", infotext)[1])
        assert [one.framed for one in part.pictures] == [number == chosen for number in (1, 2, 3, 4)]
        scores = [float(re.search(r"score ([-\d.e]+)", one.caption)[1]) for one in part.pictures]
        assert scores[chosen - 1] == max(scores)
        assert part.pictures[chosen - 1].caption.startswith(f"noise {chosen}, 1st, ")
        assert [one.caption.endswith(", kept") for one in part.pictures] == [one.framed for one in part.pictures]


def test_what_was_compared_and_what_was_injected_then_are_two_parts(host, drawn):
    settings = noise_order(selection="automatic", selection_draws=2, erasure_samples=1, show_injected=True)
    host.txt2img(steps=8, **settings)
    ((_, parts),) = drawn
    assert [part.heading for part in parts] == [COMPARED, CHANGED]


def test_an_ordered_hires_pass_is_shown_below_the_first(host, drawn):
    job = {"steps": 20, "enable_hr": True, "hr_second_pass_steps": 20, "denoising_strength": 1.0}
    host.txt2img(**job, **noise_order(preset="Automatic", selection_draws=2, hires_pass=True, show_injected=True))
    ((_, parts),) = drawn
    assert [part.heading for part in parts] == [COMPARED, f"Hires pass. {COMPARED}"]
    assert all(sum(one.framed for one in part.pictures) == 1 for part in parts)


def test_where_nothing_was_compared_there_is_no_sheet(host, drawn):
    pictures, _ = host.gallery("txt2img", steps=20, **noise_order(preset="Automatic", chosen="2", show_injected=True))
    assert len(pictures) == 1 and drawn == []


@pytest.mark.parametrize("settings", [{}, {"preset": "Automatic"}], ids=str)
def test_the_sheets_text_says_what_it_shows_and_is_no_infotext(host, drawn, settings):
    host.txt2img(steps=20, **noise_order(show_injected=True, **settings))
    text = host.last_processed.infotexts[-1]
    ((title, parts),) = drawn
    assert all(said in text for said in [title, *(part.heading for part in parts)])
    assert all(one.caption in text for part in parts for one in part.pictures)
    assert _parameters(text) == {}
    assert NoiseOrderSettings.from_infotext(text) == NoiseOrderSettings.from_infotext("a cat\nSteps: 20, Seed: 5")


@pytest.mark.parametrize("settings", [{}, {"preset": "Automatic"}, {"selection": "automatic"}], ids=str)
def test_looking_changes_nothing_and_costs_nothing(host, settings):
    from modules import errors

    errors.reports.clear()
    plain = host.txt2img(batch_size=2, steps=8, **noise_order(**settings))
    looked = host.txt2img(batch_size=2, steps=8, **noise_order(show_injected=True, **settings))
    assert difference(plain, looked) == 0 and plain.evaluations == looked.evaluations
    assert errors.reports == []


def shown(count, scores, chosen):
    from lib_noiseorder.webui.job.sheets import Shown

    run = Shown()
    for _ in range(count):
        run.candidate(torch.zeros(1, 4, 8, 8))
    run.compared(Report(scores=scores, chosen=chosen))
    return run


def captions(run):
    return [one.caption for part in run.parts(0) for one in part.pictures]


def test_equal_scores_share_a_place_and_what_is_not_finite_has_none(host):
    assert captions(shown(4, [[0.5, float("nan"), 1.25, 0.5]], [3])) == [
        "noise 1, 2nd, score 0.5", "noise 2, no score", "noise 3, 1st, score 1.25, kept", "noise 4, 2nd, score 0.5"
    ]  # fmt: skip
    assert captions(shown(2, [], [])) == [], "a comparison that was not finished"


def test_when_the_model_looked_is_said_by_the_timestep(host):
    from lib_noiseorder.webui.job.sheets import Shown

    run = Shown()
    run.key_timestep(KeyTimestep("layout", 0.2, 1.0), torch.zeros(1, 4, 8, 8))
    assert captions(run) == ["what the model saw late (layout, timestep 0.2)"]


@pytest.fixture
def decoders(host, monkeypatch):
    """The host's decoders: which were asked, and which of them can do it."""
    from modules import sd_samplers_common

    asked, able = [], set()

    def single_sample_to_image(latent, approximation):
        asked.append((approximation, latent.ndim))
        if approximation not in able:
            raise RuntimeError("cannot decode this")
        return Image.new("RGB", (8, 8), (approximation, 9, 9))

    monkeypatch.setattr(sd_samplers_common, "single_sample_to_image", single_sample_to_image, raising=False)
    monkeypatch.setattr(sd_samplers_common, "approximation_indexes", {"Full": 0, "TAESD": 3}, raising=False)
    return asked, able


@pytest.mark.parametrize(
    "setting, able, order",
    [("TAESD", {3, 2, 0}, [3]), ("TAESD", {2, 0}, [3, 2]), ("TAESD", {0}, [3, 2, 0]), ("Full", {2, 0}, [2])],
)
def test_the_whole_vae_decodes_only_what_no_approximation_can(host, decoders, monkeypatch, setting, able, order):
    from lib_noiseorder.webui.job.previews import preview

    asked, can = decoders
    can |= able
    monkeypatch.setattr(host.shared.opts, "show_progress_type", setting, raising=False)
    assert preview(torch.zeros(4, 8, 8)).getpixel((0, 0)) == (order[-1], 9, 9)
    assert [approximation for approximation, _ in asked] == order


def test_where_nothing_decodes_channels_are_shown_and_of_a_video_its_first_frame(host, decoders):
    from lib_noiseorder.webui.job.previews import preview

    asked, _ = decoders
    latent = torch.zeros(4, 2, 8, 8)
    latent[1, 0, 0, 0] = 1.0
    assert preview(latent).getpixel((0, 0)) == (0, 255, 0) and asked and {ndim for _, ndim in asked} == {3}


def test_a_sheet_has_its_frame_around_the_framed_picture_only_and_fits_its_words():
    from lib_noiseorder.webui.job.sheet_drawing import Drawn, Part, draw_sheet

    tall = Image.new("RGB", (8, 16), "red")
    pictures = [Drawn(f"noise {number}, a caption that takes more than one line", tall, number == 6) for number in range(1, 8)]
    sheet = draw_sheet("title", [Part("a heading of the first part", pictures)], ImageFont.load_default)
    frame = (np.asarray(sheet) == KEPT).all(2)
    rows, columns = np.nonzero(frame & (np.roll(frame, 1, 1) & np.roll(frame, -1, 1)))
    assert sheet.width == 16 + 4 * (256 + 16) and columns.min() >= 16 + 256 + 16 and columns.max() < 16 + 2 * (256 + 16)
    assert rows.min() > sheet.height / 2, "the second of the second row"
    widths = [draw_sheet("", [Part("", pictures[:count])], ImageFont.load_default).width for count in (1, 5, 6)]
    assert widths == [16 + columns * (256 + 16) for columns in (1, 5, 3)]


def test_the_folder_of_unsaved_pictures_is_there(host, tmp_path, monkeypatch):
    """Forge Neo names one that it does not make, and loses the whole gallery."""
    monkeypatch.setattr(host.shared.opts, "temp_dir", str(tmp_path / "tmp"), raising=False)
    host.txt2img(steps=20, **noise_order(preset="Automatic", show_injected=True))
    assert (tmp_path / "tmp").is_dir()
