"""The setting `chosen`: what can be read, whom it concerns, and that a choice is replayed without a question."""

import pytest
import torch

from lib_noiseorder import NoiseOrderSettings, order_noise
from lib_noiseorder.chosen import check, chosen_draws, entry, of_hires_pass, part_of, with_seed

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
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_told_with_field_and_value(text, says):
    with pytest.raises(ValueError, match=says):
        check(text)


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


def test_an_entry_is_read_back():
    assert [entry("3", "2"), entry("3", ""), entry("", ""), entry("", "2")] == ["3/2", "3", "", "0/2"]
    assert with_seed("3/2", "5") == "5:3/2" and with_seed("3", "5", "7") == "5+7:3" and with_seed("6:3", "5") == "6:3"
    assert with_seed("", "5") == "" and with_seed("3", "") == "3" and with_seed("3 1", "5") == "3 1"


def test_a_list_is_dealt_out_to_run_after_run():
    assert [part_of("1 2 3 4", *part) for part in ((0, 2), (2, 1), (4, 2))] == ["1 2", "3", ""]
    assert part_of("3", 5, 2) == "3"


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
