"""The setting `chosen`: what can be read, whom it concerns, and that a choice is replayed without a question."""

from types import SimpleNamespace

import pytest
import torch

from lib_noiseorder import NoiseOrderSettings, order_noise
from lib_noiseorder.chosen import check, chosen_draws, of_hires_pass, of_infotext, part_of
from lib_noiseorder.webui.job.picture_texts import PictureTexts

from .test_selection import Host, draws_of

SHAPE = (4, 8, 8)


@pytest.mark.parametrize(
    "text, kept",
    [
        ("", ""),
        ("5:3", "5:3"),
        (" 5:3,6:1 ", "5:3 6:1"),
        ("3", "3"),
        ("5+77:2", "5+77:2"),
        ("5:3/2", "5:3/2"),
        ("5:0/2", "5:0/2"),
    ],
)
def test_what_can_be_read(text, kept):
    assert check(text) == check(kept) == kept


@pytest.mark.parametrize(
    "text, says",
    [
        ("5:x", "chosen = '5:x' is not seed:draw pairs"), ("5:3 6:99", "chosen = '6:99'"), ("0", "chosen = '0'"),
        ("5:3 5:4", "contradicts"), ("5:3 2", "mixes"), ("٣", "chosen ="), ("5:3;", "chosen ="), ("5:3" * 50, "chosen ="),
        ("-1:3", "chosen = '-1:3'"), ("05:3 5:4", "contradicts"), ("5:3/0", "chosen ="), ("5:0", "chosen ="),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_told_with_field_and_value(text, says):
    with pytest.raises(ValueError, match=says):
        check(text)


def test_a_message_stays_short_and_seeds_are_numbers():
    for call in (lambda: check("1 " * 20_000 + "5:3"), lambda: chosen_draws("1 " * 20_000, 2, ["5", "6"])):
        with pytest.raises(ValueError) as refused:
            call()
        assert len(str(refused.value)) < 300
    assert check("05:3 005+07:2") == "5:3 5+7:2" and chosen_draws("05:3", 1, ["5"]) == [3]
    assert check("3 0 2") == "3 0 2" and chosen_draws("3 0 2", 3, None) == [3, 0, 2]


@pytest.mark.parametrize(
    "text, seeds, draws",
    [
        ("", ["5", "6"], [0, 0]), ("5:3", ["5", "6"], [3, 0]), ("5:3 6:1", ["6", "5", "7"], [1, 3, 0]),
        ("2", ["5", "6"], [2, 2]),
        ("5+1:3", ["5+1", "5+2"], [3, 0]), ("5:3", ["5+1", "5+2"], [3, 3]), ("5+1:2 5:3", ["5+1", "5+2"], [2, 3]),
        ("5:0/2", ["5"], [0]),
    ],
)  # fmt: skip
def test_seeds_find_their_draws(text, seeds, draws):
    assert chosen_draws(text, len(seeds), seeds) == draws


def test_hosts_without_seeds_take_one_draw_or_one_per_picture():
    assert (
        chosen_draws("3", 2, None) == [3, 3] and chosen_draws("3 1", 2, None) == [3, 1] and chosen_draws("", 2, None) == [0, 0]
    )
    with pytest.raises(ValueError, match="lists 3 draws for 2 pictures"):
        chosen_draws("3 1 2", 2, None)
    with pytest.raises(ValueError, match="names seeds"):
        chosen_draws("5:3", 2, None)
    with pytest.raises(ValueError, match="without their seeds"):
        chosen_draws("3 1", 2, ["5", "6"])


def test_what_the_hires_pass_is_told():
    assert of_hires_pass("5:3/2 6:1 7+1:0/4") == "5:2 7+1:4" and of_hires_pass("3/2") == "2" and of_hires_pass("3") == ""


@pytest.mark.parametrize(
    "said, setting",
    [
        (("3", "", "5", ""), "5:3"), (("3", "2", "5", ""), "5:3/2"), (("", "2", "5", ""), "5:0/2"),
        (("3", "", "5", "7"), "5+7:3"), (("3", "", "", ""), "3"), (("", "", "5", ""), ""),
        (("6:3", "2", "5", ""), "6:3"), (("5:3 6:2", "6", "7", ""), "5:3 6:2"),
    ],
)  # fmt: skip
def test_an_infotexts_draws_are_tied_to_its_own_seed(said, setting):
    assert of_infotext(*said) == setting


def test_a_list_is_dealt_out_to_run_after_run():
    assert [part_of("1 2 3 4", *part) for part in ((0, 2), (2, 1), (3, 1))] == ["1 2", "3", "4"]
    assert part_of("3", 5, 2) == "3" and part_of("1 0 0 2", 1, 2) == ""
    with pytest.raises(ValueError, match="lists 3 draws for at least 4 pictures"):
        part_of("2 3 4", 2, 2)


# -- replay ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", ["Automatic", "Light"])
@pytest.mark.parametrize("family", ["eps", "flow"])
def test_a_choice_is_replayed_to_the_bit_without_a_question(preset, family):
    seeds, draw = ["5", "6", "7"], draws_of(SHAPE, [5, 6, 7])
    first = Host(torch.ones(3, *SHAPE), levels=tuple(1 - k / 20 for k in range(20)))
    again = Host(torch.ones(3, *SHAPE), levels=(1.0, 0.5))  # another number of steps
    first.family = again.family = family
    settings = NoiseOrderSettings(enabled=True, preset=preset)
    ordered = order_noise(settings, draw, first, seeds=seeds)
    assert set(ordered.report.chosen) != {1}
    chosen = " ".join(f"{seed}:{draw}" for seed, draw in zip(seeds, ordered.report.chosen))
    replayed = order_noise(NoiseOrderSettings(enabled=True, preset=preset, chosen=chosen), draw, again, seeds=seeds)
    assert torch.equal(replayed.noise, ordered.noise) and replayed.report.chosen == ordered.report.chosen
    assert again.calls == replayed.report.evaluations == 0 < first.calls


def test_pictures_that_are_not_named_choose_as_usual():
    seeds, draw = ["5", "6", "7"], draws_of(SHAPE, [5, 6, 7])
    usual = order_noise(NoiseOrderSettings(enabled=True, preset="Automatic"), draw, host := many_steps(), seeds=seeds)
    other = 1 + usual.report.chosen[1] % 7
    mixed = NoiseOrderSettings(enabled=True, preset="Automatic", chosen=f"6:{other}")
    ordered = order_noise(mixed, draw, many_steps(), seeds=seeds)
    assert ordered.report.chosen == [usual.report.chosen[0], other, usual.report.chosen[2]]
    assert torch.equal(ordered.noise[[0, 2]], usual.noise[[0, 2]]) and torch.equal(ordered.noise[1], draw(other)[1])
    assert ordered.report.evaluations == usual.report.evaluations == host.calls


def test_a_picture_that_was_not_compared_is_not_called_chosen():
    """Two steps are too few to compare anything: replaying draw 1 would be flow's draw 1 times its noise scale."""
    host = Host(torch.ones(2, *SHAPE), levels=(1.0, 0.5))
    host.family = "flow"
    settings = NoiseOrderSettings(enabled=True, preset="Automatic", chosen="5:2")
    draw = draws_of(SHAPE, [5, 6])
    ordered = order_noise(settings, draw, host, seeds=["5", "6"])
    assert ordered.report.chosen == [2, 0] and torch.equal(ordered.noise[1], draw(1)[1])
    assert torch.allclose(ordered.noise[0], draw(2)[0] * 0.95)


def test_injection_goes_on_from_the_replayed_draw():
    settings = NoiseOrderSettings(enabled=True, selection="automatic", strength=0.3)
    draw = draws_of(SHAPE, [5], count=28)
    ordered = order_noise(settings, draw, many_steps(1), seeds=["5"])
    host = many_steps(1)
    replayed = order_noise(settings.changed(chosen=f"5:{ordered.report.chosen[0]}"), draw, host, seeds=["5"])
    assert torch.equal(replayed.noise, ordered.noise) and replayed.report.evaluations == host.calls == 3


def many_steps(pictures=3):
    return Host(torch.ones(pictures, *SHAPE), levels=tuple(1 - k / 20 for k in range(20)))


def test_an_infotext_ties_the_draw_to_its_seed():
    text = "a cat\nSeed: 5, Noise Order preset: Automatic, Noise Order chosen: 3, Noise Order hires chosen: 2, Size: 8x8"
    assert NoiseOrderSettings.from_infotext(text).chosen == "5:3/2"
    varied = {"Seed": "5", "Variation seed": "77", "Noise Order chosen": "3"}
    assert NoiseOrderSettings.from_infotext(varied).chosen == "5+77:3"
    assert NoiseOrderSettings.from_infotext({"Noise Order chosen": "3"}).chosen == "3"


@pytest.mark.parametrize("place", ['{}, Noise Order chosen: 3, Hires prompt: "{}"', "{}, Noise Order chosen: 3, Size: 8x8"])
@pytest.mark.parametrize("words", ["a cat, Seed: 9, dog", "a cat, Seed: 9", "x, Noise Order enable: True, y"])
def test_only_the_parameters_of_an_infotext_count(place, words):
    text = f"{words}\nNegative prompt: {words}\nSteps: 4, " + place.format("Seed: 5", words)
    found = NoiseOrderSettings.from_infotext(text)
    assert found == NoiseOrderSettings(chosen="5:3")


def test_an_infotext_that_is_cut_short_is_no_error():
    text = 'a cat\nSeed: 5, Noise Order enable: True, Noise Order skipped: "injection: x, y'
    assert NoiseOrderSettings.from_infotext(text).enabled


def test_a_selection_that_fails_does_not_cost_the_named_pictures_their_draws():
    class Failing(Host):
        def predict_pair(self, x, level):
            raise RuntimeError("out of something")

    host = Failing(torch.ones(2, *SHAPE), levels=tuple(1 - k / 20 for k in range(20)))
    draw = draws_of(SHAPE, [5, 6])
    settings = NoiseOrderSettings(enabled=True, preset="Automatic", chosen="6:2")
    ordered = order_noise(settings, draw, host, seeds=["5", "6"])
    assert torch.equal(ordered.noise[1], draw(2)[1]) and torch.equal(ordered.noise[0], draw(1)[0])
    assert ordered.report.chosen == [0, 2] and ordered.report.skipped == ["selection: RuntimeError: out of something"]
    with pytest.raises(RuntimeError):
        order_noise(settings, draw, host, seeds=["5", "7"])


# -- which draw an infotext names ------------------------------------------------------------------------------------


def job(seeds, n_iter=1):
    return SimpleNamespace(
        seeds=seeds, subseeds=[0] * len(seeds), n_iter=n_iter, all_seeds=seeds, all_subseeds=[0] * len(seeds)
    )


def written(p, value, index, seeds, main=False):
    """As the hosts write an infotext, with everything they know."""
    return value(
        p=p, all_prompts=[], all_seeds=seeds, all_subseeds=[0] * len(seeds), index=index, use_main_prompt=main, iteration=0
    )


def test_every_picture_of_a_job_and_its_grid_name_their_own_draw():
    p = job([1, 2], n_iter=2)
    p.all_seeds, p.all_subseeds = [1, 2, 3, 4], [0] * 4
    PictureTexts.of(p, "key").note(p, ["3", ""])
    p.seeds = [3, 4]
    value = PictureTexts.of(p, "key").note(p, ["5", "6"])
    assert [written(p, value, index, [3, 4]) for index in (0, 1)] == ["5", "6"]
    assert [written(p, value, index, p.all_seeds) for index in range(4)] == ["3", None, "5", "6"], "earlier batches, too"
    assert written(p, value, 0, [3, 4], main=True) == "3", "a grid has the seed of the job's first picture"


def test_one_picture_alone_is_a_plain_text_and_a_video_names_its_one_draw():
    p = job([7])
    assert PictureTexts.of(p, "key").note(p, ["3"]) == "3"
    PictureTexts.forget(p)
    video = job([7, 8, 9])
    value = PictureTexts.of(video, "key").note(video, ["4"])
    assert [written(video, value, index, video.seeds) for index in range(3)] == ["4", "4", "4"]
