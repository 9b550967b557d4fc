"""What an infotext names is what its picture was made from, whatever fails."""

import pytest

from lib_noiseorder import NoiseOrderSettings

from .client import difference, noise_order
from .double.host import DoubleHost
from .test_faults import nothing_left_behind, out_of_memory


@pytest.fixture(autouse=True)
def questions_one_by_one(host, monkeypatch):
    """As a host asks that was told to put no two prompts into one call."""
    monkeypatch.setattr(host.shared.opts, "batch_cond_uncond", False, raising=False)


@pytest.fixture(scope="module", params=["eps", "flow"])
def host(request):
    return DoubleHost(request.param)


BOTH = {"selection": "automatic", "erasure_samples": 1, "strength": 0.1}


@pytest.mark.parametrize("chosen", ["", "1:2"])
def test_an_injection_that_fails_after_a_choice_leaves_the_chosen_noise_and_says_so(host, chosen):
    """What the infotext names is what the picture was made from."""

    def spoil(answer):
        injecting = "asking the model" in (host.shared.state.textinfo or "")
        return out_of_memory(answer) if injecting else answer

    with host.spoiled(spoil):
        result = host.txt2img(steps=20, **noise_order(**BOTH, chosen=chosen))
    assert result["Noise Order skipped"].startswith("injection: OutOfMemoryError")
    assert chosen in ("", f"1:{result['Noise Order chosen']}") and result["Noise Order chosen"] is not None
    replayed = host.txt2img(steps=20, **noise_order(**{**BOTH, "strength": 0, "chosen": result["Noise Order chosen"]}))
    assert difference(result, replayed) <= 1
    nothing_left_behind(host)


def test_where_nothing_could_be_chosen_no_draw_is_named(host, monkeypatch):
    from lib_noiseorder.webui.job import sampler_pass

    monkeypatch.setattr(sampler_pass, "ask_model", lambda *_: out_of_memory(None))
    failed = host.txt2img(**noise_order(preset="Automatic", chosen="3"))
    assert difference(failed, host.txt2img()) == 0 and failed["Noise Order chosen"] is None
    assert "OutOfMemoryError" in failed["Noise Order skipped"]


def test_a_list_of_choices_names_only_the_pictures_own(host):
    pictures = host.txt2img(seed=5, batch_size=2, **noise_order(selection="off", chosen="6:2 9:1"))
    assert pictures["Noise Order chosen"] is None and "Noise Order chosen: 2" in pictures.infotexts[1]
    short = {"steps": 1, "enable_hr": True, "hr_second_pass_steps": 20, "seed": 7}
    hires = host.txt2img(**short, **noise_order(preset="Automatic", hires_pass=True, chosen="5:3 6:2"))
    assert hires["Noise Order chosen"] is None and hires["Noise Order hires chosen"] is not None
    assert NoiseOrderSettings.from_infotext(hires.infotexts[0]).chosen == f"7:0/{hires['Noise Order hires chosen']}"
