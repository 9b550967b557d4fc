"""What Noise Order promises in every WebUI. The same tests run against the double and against real hosts."""

import numpy as np
import pytest

from lib_noiseorder import KNOBS, NoiseOrderSettings
from lib_noiseorder.infotexts import parameters

from .client import Refused, difference, encoded, noise_order
from .real import HOSTS, checkpoints, folder, grey_picture

pytestmark = pytest.mark.path("contract: txt2img, img2img, hires fix, batches, selection, infotext, bad settings")
NOTHING = noise_order(erasure_samples=1, strength=0)


def img2img(host, **payload):
    return host.img2img(init_images=[encoded(grey_picture(host.size))], denoising_strength=0.7, **payload)


@pytest.mark.real_host
@pytest.mark.parametrize("name", [name for name in HOSTS if folder(name)])
def test_a_real_host_to_check_is_ready(name):
    assert checkpoints(name), "no checkpoint in models/Stable-diffusion"


@pytest.mark.path("off: bit-identical to not installed")
def test_off_is_bit_identical_to_not_installed(host, bare_host):
    for payload in ({}, {"batch_size": 2, "n_iter": 2}, {"sampler_name": "Euler a"}, {"enable_hr": True}):
        off, bare = host.txt2img(**payload), bare_host.txt2img(**payload)
        assert difference(off, bare) == 0 and off.infotexts == bare.infotexts
        assert off.pictures.std() > 1, "the checkpoint draws nothing, so nothing here proves anything"


@pytest.mark.path("one draw, strength 0: bit-identical")
@pytest.mark.parametrize("payload", [{}, {"sampler_name": "Euler a"}, {"enable_hr": True}, {"batch_size": 2}], ids=str)
def test_one_draw_and_strength_0_is_bit_identical(host, payload):
    plain, nothing = host.txt2img(**payload), host.txt2img(**payload, **NOTHING)
    assert difference(plain, nothing) == 0
    assert nothing.evaluations == plain.evaluations


@pytest.mark.path("txt2img")
def test_on_is_another_picture_and_the_same_one_again(host):
    plain = host.txt2img()
    ordered = host.txt2img(**noise_order())
    assert difference(plain, ordered) > 0
    assert difference(ordered, host.txt2img(**noise_order())) == 0
    assert difference(plain, host.txt2img()) == 0, "something of the ordered job stayed behind"


@pytest.mark.path("txt2img")
def test_injection_alone_changes_the_picture(host):
    assert difference(host.txt2img(), host.txt2img(**noise_order(erasure_samples=1, strength=0.5))) > 0


@pytest.mark.path("batch size × batch count")
def test_a_seed_gives_the_same_picture_alone_and_in_a_batch_of_4(host):
    batch = host.txt2img(seed=1, batch_size=4, **noise_order())
    for index in range(4):
        alone = host.txt2img(seed=1 + index, **noise_order())
        assert abs(alone.pictures[0] - batch.pictures[index]).max() <= 1
    assert len({picture.tobytes() for picture in batch.pictures}) == 4


@pytest.mark.path("batch size × batch count")
def test_batch_count_continues_the_seeds(host):
    both = host.txt2img(seed=1, n_iter=2, **noise_order())
    assert abs(host.txt2img(seed=2, **noise_order()).pictures[0] - both.pictures[1]).max() <= 1


@pytest.mark.path("variation seed")
def test_variation_seeds_vary_within_a_batch(host):
    varied = host.txt2img(batch_size=2, subseed=7, subseed_strength=0.5, **noise_order())
    assert np.abs(varied.pictures[0] - varied.pictures[1]).max() > 1


@pytest.mark.path("evaluations as announced")
@pytest.mark.parametrize("weights", [{}, {"detail_weight": 0}, {"layout_weight": 0, "structure_weight": 0}], ids=str)
def test_k_evaluations_are_k_evaluations(host, weights):
    plain, ordered = host.txt2img(batch_size=2), host.txt2img(batch_size=2, **noise_order(**weights))
    announced = int(ordered["Noise Order evaluations"])
    questions = 3 - list(weights.values()).count(0)
    assert ordered.evaluations - plain.evaluations == announced
    assert announced == questions * host.evaluations_per_question


@pytest.mark.path("CFG 1")
def test_no_negative_prompt_is_evaluated_at_cfg_1(host):
    plain, ordered = host.txt2img(cfg_scale=1), host.txt2img(cfg_scale=1, **noise_order())
    assert ordered.evaluations - plain.evaluations == int(ordered["Noise Order evaluations"])


@pytest.mark.path("img2img")
def test_img2img(host):
    plain = img2img(host)
    assert difference(plain, img2img(host, **NOTHING)) <= host.img2img_noise
    ordered = img2img(host, **noise_order())
    assert difference(plain, ordered) > host.img2img_noise
    assert difference(ordered, img2img(host, **noise_order())) <= host.img2img_noise
    assert ordered.evaluations - plain.evaluations == int(ordered["Noise Order evaluations"])


@pytest.mark.path("hires fix")
def test_hires_orders_the_first_pass_only(host):
    plain, ordered = host.txt2img(enable_hr=True), host.txt2img(enable_hr=True, **noise_order())
    assert difference(plain, ordered) > 0
    assert ordered.evaluations - plain.evaluations == int(ordered["Noise Order evaluations"])


@pytest.mark.path("API infotext")
def test_every_knob_is_in_the_infotext_and_comes_back_from_it(host):
    wish = NoiseOrderSettings(
        enabled=True, erasure_samples=2, strength=0.3, layout_weight=0.5, injection="literal", noise_scale=0.9
    )
    ordered = host.txt2img(**noise_order(**wish.to_dict()))
    assert NoiseOrderSettings.from_infotext(ordered.infotexts[0]) == wish
    try:
        restored = host.txt2img(infotext=ordered.infotexts[0])
    except Refused as refused:
        if refused.status == 500:
            pytest.skip("this host fails on the request field infotext, with and without Noise Order")
        raise
    assert difference(ordered, restored) == 0
    assert NoiseOrderSettings.from_infotext(restored.infotexts[0]) == wish


@pytest.mark.path("off: bit-identical to not installed")
def test_off_writes_nothing(host):
    assert "Noise Order" not in host.txt2img().infotexts[0]


@pytest.mark.path("API")
def test_flat_arguments_in_the_order_of_the_panel(host):
    wish = NoiseOrderSettings(enabled=True, strength=0.2)
    flat = host.txt2img(alwayson_scripts={"noise order": {"args": list(wish.to_dict().values())}})
    assert difference(flat, host.txt2img(**noise_order(strength=0.2))) == 0
    assert len(wish.to_dict()) == len(KNOBS)


@pytest.mark.path("selection")
@pytest.mark.parametrize("preset", ["Automatic", "Light"])
@pytest.mark.parametrize("payload", [{}, {"sampler_name": "Euler a"}, {"cfg_scale": 1}, {"batch_size": 3}], ids=str)
def test_selection_keeps_one_of_the_noises_and_costs_what_it_says(host, preset, payload):
    payload = {"steps": 20, **payload}  # Automatic keeps to its cost limit: fewer steps may leave nothing to compare with
    plain = host.txt2img(**payload)
    selected = host.txt2img(**payload, **noise_order(preset=preset))
    assert selected["Noise Order skipped"] is None
    assert int(selected["Noise Order chosen"]) >= 1
    assert selected.evaluations - plain.evaluations == int(selected["Noise Order evaluations"])
    assert difference(selected, host.txt2img(**payload, **noise_order(preset=preset))) == 0


@pytest.mark.path("selection")
def test_selection_gives_a_seed_the_same_picture_alone_and_in_a_batch(host):
    batch = host.txt2img(seed=1, batch_size=4, steps=8, **noise_order(preset="Automatic"))
    for index in range(4):
        alone = host.txt2img(seed=1 + index, steps=8, **noise_order(preset="Automatic"))
        assert abs(alone.pictures[0] - batch.pictures[index]).max() <= 1


@pytest.mark.path("selection")
def test_a_remembered_answer_changes_nothing(host):
    """The picture of the chosen noise is the same whether the sampler's first answers were remembered or not."""
    two = {"preset": "Automatic", "selection_draws": 2}
    compared = host.txt2img(steps=8, **noise_order(**two))
    again = host.txt2img(steps=8, **noise_order(**two, chosen=compared["Noise Order chosen"]))
    assert int(compared["Noise Order evaluations"]) > 0 and again["Noise Order evaluations"] == "0"
    assert difference(compared, again) <= 1


@pytest.mark.path("selection in img2img and hires fix")
def test_selection_in_img2img_and_hires(host):
    automatic = noise_order(preset="Automatic")
    first = img2img(host, steps=8, **automatic)
    assert difference(first, img2img(host, steps=8, **automatic)) <= host.img2img_noise
    hires = host.txt2img(enable_hr=True, steps=8, **automatic)
    plain = host.txt2img(enable_hr=True, steps=8)
    assert hires.evaluations - plain.evaluations == int(hires["Noise Order evaluations"])


@pytest.mark.path("txt2img")
def test_the_paper_preset(host):
    paper = host.txt2img(**noise_order(preset="Paper"))
    literal = host.txt2img(**noise_order(injection="literal"))
    assert difference(paper, literal) == 0 and paper["Noise Order"] == "Paper"


@pytest.mark.path("txt2img")
@pytest.mark.parametrize(
    "args, said",
    [
        ([True], {"": "Automatic"}),
        ([True, "Light"], {"": "Light"}),
        ([True, "Custom"], {"": "Custom"}),
        ([True, "Custom", 4, 0.2], {"": "Custom", " strength": "0.2"}),
        ([{"enabled": True}], {"": "Automatic"}),
        ([{"preset": "Light"}], {"": "Light"}),
        ([{"extra_cost": 1}], {"": "Automatic", " extra cost": "1.0"}),
        ([{"strength": 0.2}], {"": "Custom", " strength": "0.2"}),
        ([{}], {}),
        ([False], {}),
    ],
    ids=str,
)
def test_one_default_and_an_infotext_of_what_counts(host, args, said):
    result = host.txt2img(**{"alwayson_scripts": {"Noise Order": {"args": args}}})
    found = {key.removeprefix("Noise Order"): value for key, value in parameters(result.infotexts[0]).items() if "Noise" in key}
    results = {key: found.pop(key) for key in (" evaluations", " chosen", " skipped") if key in found}
    assert found == said and (" evaluations" in results) == bool(said)


@pytest.mark.path("API: bad settings are refused")
@pytest.mark.parametrize(
    "args, says",
    [
        ([{"enabled": True, "strength": 9}], "strength = 9 is not a number from -2 to 2"),
        ([{"enabled": True, "erasure_samples": True}], "erasure_samples = True is not an integer from 1 to 64"),
        ([{"enabled": True, "strenght": 0.1}], "unknown setting 'strenght'; did you mean 'strength'?"),
        ([{"enabled": True, "preset": "Magic"}], "preset = 'Magic' is not one of Custom, Automatic, Light, Paper"),
        ([True, "Custom", 0], "erasure_samples = 0 is not an integer from 1 to 64"),
        (["yes"], "enabled = 'yes' is not true or false"),
    ],
)
def test_bad_settings_are_refused_by_name_value_and_range(host, args, says):
    with pytest.raises(Refused) as refused:
        host.txt2img(alwayson_scripts={"Noise Order": {"args": args}})
    assert refused.value.status == 422 and says in refused.value.message
    host.txt2img()
