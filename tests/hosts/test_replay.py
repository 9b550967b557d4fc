"""A choice is replayed: a picture's infotext, or the setting `chosen`, gives the same noise without one question."""

import json
import re

import numpy as np
import pytest

from lib_noiseorder import NoiseOrderSettings

from .client import Refused, decoded, difference, encoded, noise_order
from .conftest import PARAMETERS
from .double.host import DoubleHost
from .real import RealHost, Server, grey_picture

AUTOMATIC = noise_order(preset="Automatic")


def replaying(seed, result, **settings):
    """The settings that a picture's infotext stands for, by API."""
    return noise_order(preset="Automatic", chosen=f"{seed}:{result['Noise Order chosen']}", **settings)


def chosen_otherwise(host, **payload):
    """A seed whose own draw was not the one chosen, and its picture: else nothing here proves anything."""
    for seed in range(1, 30):
        result = host.txt2img(seed=seed, steps=20, **payload, **AUTOMATIC)
        if result["Noise Order chosen"] not in (None, "1"):
            return seed, result
    raise AssertionError("every seed keeps its own draw")


@pytest.fixture(scope="module")
def found(host):
    return chosen_otherwise(host)


def plain_cost(host, **payload):
    return host.txt2img(**payload).evaluations


def test_the_choice_sent_back_gives_the_same_picture_without_a_question(host, found):
    seed, first = found
    again = host.txt2img(seed=seed, steps=20, **replaying(seed, first))
    assert difference(again, first) <= 1
    assert again.evaluations == plain_cost(host, seed=seed, steps=20) < first.evaluations
    assert again["Noise Order evaluations"] == "0" and again["Noise Order chosen"] == first["Noise Order chosen"]


@pytest.mark.parametrize("parameter", PARAMETERS)
def test_the_infotext_sent_to_another_instance_gives_the_same_picture(parameter, servers, tmp_path):
    name, _, checkpoint = parameter.partition(":")
    double = parameter.startswith("double")
    first_host = DoubleHost(parameter.removeprefix("double-")) if double else RealHost(servers(name, True), checkpoint)
    _, first = chosen_otherwise(first_host)
    settings = NoiseOrderSettings.from_infotext(first.infotexts[0]).to_dict()
    by_settings = {"seed": int(first["Seed"]), "steps": 20, **noise_order(**settings)}
    if double:
        again = DoubleHost(parameter.removeprefix("double-")).txt2img(**by_settings)
    else:
        other = Server(name, tmp_path / "another", True)
        try:
            request = {"infotext": first.infotexts[0], "override_settings": {"sd_model_checkpoint": checkpoint}}
            answer = other.post("/sdapi/v1/txt2img", request)  # nothing else: the infotext alone says it all
            again = decoded(answer["images"], json.loads(answer["info"])["infotexts"], 1)
        except Refused:  # Forge fails on the request field infotext, with and without Noise Order
            again = RealHost(other, checkpoint).txt2img(**by_settings)
        finally:
            other.stop()
    assert difference(again, first) <= 1
    assert again["Noise Order evaluations"] == "0" and again.evaluations < first.evaluations


@pytest.mark.parametrize(
    "change", [{"steps": 9}, {"sampler_name": "Euler a"}, {"cfg_scale": 5.0}, {"enable_hr": True}], ids=str
)
def test_with_other_steps_sampler_guidance_or_hires_fix_nothing_is_asked(host, found, change):
    seed, first = found
    payload = {"seed": seed, "steps": 20, **change}
    replayed = host.txt2img(**payload, **replaying(seed, first))
    assert replayed.evaluations == plain_cost(host, **payload)
    assert replayed["Noise Order chosen"] == first["Noise Order chosen"] and replayed["Noise Order skipped"] is None
    assert difference(replayed, host.txt2img(**payload)) > 0


def test_one_seed_of_a_batch_is_replayed_and_the_others_choose_as_usual(host, found):
    seed, first = found
    batch = {"seed": seed - 1, "steps": 20, "batch_size": 3}
    usual = host.txt2img(**batch, **AUTOMATIC)
    other = 1 + int(first["Noise Order chosen"]) % 2
    mixed = host.txt2img(**batch, **noise_order(preset="Automatic", chosen=f"{seed}:{other}"))
    wanted = host.txt2img(seed=seed, steps=20, **noise_order(preset="Automatic", chosen=f"{seed}:{other}"))
    assert np.abs(mixed.pictures[[0, 2]] - usual.pictures[[0, 2]]).max() <= 1
    assert np.abs(mixed.pictures[1] - wanted.pictures[0]).max() <= 1
    names = [re.search(r"Noise Order chosen: (\d+)", text) for text in mixed.infotexts]
    assert [int(name[1]) for name in names][1] == other


def test_the_hires_pass_is_replayed_too(host):
    payload = {"seed": 3, "steps": 20, "enable_hr": True}
    first = host.txt2img(**payload, **noise_order(preset="Automatic", hires_pass=True))
    draws = f"{first['Noise Order chosen']}/{first['Noise Order hires chosen']}"
    again = host.txt2img(**payload, **noise_order(preset="Automatic", hires_pass=True, chosen=f"3:{draws}"))
    assert difference(again, first) <= 1 and again["Noise Order evaluations"] == "0"
    assert again.evaluations == plain_cost(host, **payload) < first.evaluations


def test_a_variation_seed_has_choices_of_its_own(host):
    payload = {"seed": 3, "subseed": 77, "subseed_strength": 0.5, "steps": 20}
    first = host.txt2img(**payload, **AUTOMATIC)
    again = host.txt2img(**payload, **noise_order(preset="Automatic", chosen=f"3+77:{first['Noise Order chosen']}"))
    assert difference(again, first) <= 1 and again["Noise Order evaluations"] == "0"
    elsewhere = host.txt2img(**payload, **noise_order(preset="Automatic", chosen="3+78:5"))
    assert difference(elsewhere, first) <= 1 and elsewhere["Noise Order evaluations"] != "0"


def test_img2img_is_replayed(host):
    payload = {"seed": 4, "steps": 20, "denoising_strength": 0.8, "init_images": [encoded(grey_picture(host.size))]}
    first = host.img2img(**payload, **AUTOMATIC)
    if first["Noise Order chosen"] is None:
        assert first["Noise Order skipped"], "nothing was compared, and nobody said so"
        return
    again = host.img2img(**payload, **noise_order(preset="Automatic", chosen=f"4:{first['Noise Order chosen']}"))
    assert difference(again, first) <= max(1, host.img2img_noise) and again["Noise Order evaluations"] == "0"


@pytest.mark.real_host
def test_a_grid_names_the_draw_of_the_seed_that_it_names(host):
    job = {**host.defaults(), "steps": 20, "n_iter": 3, "save_images": True, **AUTOMATIC}
    grid, *texts = json.loads(host.server.post("/sdapi/v1/txt2img", job)["info"])["infotexts"]
    drawn = [re.search(r"Noise Order chosen: (\d+)", text)[1] for text in (grid, *texts)]
    assert len(texts) == 3 and len(set(drawn[1:])) > 1, "equal draws prove nothing"
    assert re.search(r"Seed: (\d+)", grid)[1] == re.search(r"Seed: (\d+)", texts[0])[1] and drawn[0] == drawn[1]


@pytest.mark.real_host
def test_a_script_in_img2img_replays_what_is_named_and_names_nothing_itself(host):
    picture = {"seed": 4, "steps": 20, "denoising_strength": 0.8, "init_images": [encoded(grey_picture(host.size))]}
    script = {"script_name": "Prompts from file or textbox", "script_args": [False, False, "start", host.prompt]}
    both = {**picture, "prompt": f"{host.prompt} {host.prompt}"}  # the script puts its line before the prompt
    wanted = host.img2img(**both, **noise_order(preset="Automatic", chosen="4:5"))
    named = host.img2img(**picture, **script, **noise_order(preset="Automatic", chosen="4:5"))
    assert difference(named, wanted) <= max(1, host.img2img_noise) and named["Noise Order evaluations"] == "0"
    assert named["Noise Order chosen"] is None and wanted["Noise Order chosen"] == "5"


def test_what_cannot_be_read_is_refused_in_one_message(host):
    for text, says in (("5:x", "chosen = '5:x' is not seed:draw"), ("3 1", "without their seeds"), ("5:1 5:2", "contradicts")):
        with pytest.raises(Refused, match=says) as refused:
            host.txt2img(**noise_order(chosen=text))
        assert refused.value.status == 422 and refused.value.message.count("Noise Order:") == 1
