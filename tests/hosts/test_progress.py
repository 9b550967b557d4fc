"""What is told while noise is put in order, and when that is interrupted. On the double."""

import re

import pytest

from .client import noise_order
from .double.host import DoubleHost
from .test_faults import nothing_left_behind


@pytest.fixture(autouse=True)
def questions_one_by_one(host, monkeypatch):
    """As a host asks that was told to put no two prompts into one call."""
    monkeypatch.setattr(host.shared.opts, "batch_cond_uncond", False, raising=False)


@pytest.fixture(scope="module", params=["eps", "flow"])
def host(request):
    return DoubleHost(request.param)


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


def test_progress_says_which_question_of_how_many(host):
    seen = []

    def look(answer):
        seen.append(host.shared.state.textinfo)
        return answer

    with host.spoiled(look):
        host.txt2img(**noise_order())
    assert seen[:3] == [f"Noise Order: asking the model {k} of 3" for k in (1, 2, 3)]
    assert set(seen[3:]) == {None}


def test_a_preview_shows_no_question(host):
    shown = []

    def look(answer):
        shown.append(host.shared.state.current_latent)
        return answer

    with host.spoiled(look):
        host.txt2img(steps=20, **noise_order(preset="Automatic"))
    assert sum(one is not None for one in shown) <= 19, "a question is shown"


def test_progress_says_which_noise_of_how_many_is_looked_at(host):
    seen = []

    def look(answer):
        seen.append(host.shared.state.textinfo)
        return answer

    with host.spoiled(look):
        host.txt2img(steps=20, **noise_order(preset="Automatic"))
    told = [re.fullmatch(r"Noise Order: looking at noise (\d+) of (\d+)", text).groups() for text in seen if text]
    in_turn = [(str(number), str(count)) for count in (5, *[2] * 4) for number in range(1, count + 1)]
    assert told[:: len(told) // len(in_turn)] == in_turn, "all at the first call, the two best at four more"


@pytest.mark.parametrize(
    "settings, missing",
    [({"preset": "Automatic"}, "selection"), ({"selection": "automatic"}, "selection and injection"), ({}, "injection")],
)
def test_an_interrupt_names_only_what_was_going_to_be_done(host, settings, missing):
    def interrupt(answer):
        host.shared.state.interrupted = True
        return answer

    with host.spoiled(interrupt):
        result = host.txt2img(steps=20, **noise_order(**settings))
    assert result["Noise Order skipped"] == f"{missing}: interrupted"
