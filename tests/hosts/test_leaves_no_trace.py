"""A question leaves no trace: whatever counts the model's calls, keeps something of them or changes the weights between them
comes out as if nothing had been asked, and the picture is the one that the host makes of the chosen noise by itself."""

import pytest

from .client import difference, noise_order
from .sabotaged import PARAMETERS, running, with_faults

EVERYWHERE = ["cfg_denoiser", "cfg_denoised", "cfg_after_cfg", "forward", "block", "hook", "pre_hook", "weights"]
MECHANISMS = [*EVERYWHERE, "apply_model", "pre_cfg", "conditioning", "patch"]
COMPARING = [{"preset": "Automatic"}, {"preset": "Light"}, {"preset": "Automatic", "extra_cost": 1}]
INJECTING = [{"preset": "Paper"}, {"preset": "Custom", "selection": "automatic"}]
USUAL = {"steps": 12, "cfg_scale": 4}
NO_MEMORY = "lib_noiseorder.answers:Answers._recalled"


@pytest.fixture(scope="module", params=PARAMETERS)
def host(request, tmp_path_factory):
    with running(request.param, tmp_path_factory.mktemp("trace")) as one:
        yield one


def made(host, how, settings=None, **faults):
    """The picture that is made in this company, and how many calls it saw."""
    order = {} if settings is None else noise_order(**settings)
    result = host.txt2img(**{**USUAL, **with_faults(order, company=how, **faults)})
    return result, host.state()["seen"]


@pytest.fixture(scope="module")
def plain(host):
    """A function that gives the plain picture in some company, and how many calls it saw."""
    known, alone = {}, host.txt2img(**USUAL)

    def of(how):
        if how not in known:
            known[how] = made(host, how)
            if difference(known[how][0], alone) == 0:
                known[how] = None
        if known[how] is None:
            pytest.skip("this host does not call it")
        return known[how]

    return of


def repeated(settings, chosen):
    """The same noise again, with nothing asked."""
    return {**settings, "chosen": str(chosen)}


def with_mechanisms(*short):
    """Each mechanism; `short` are those of the short run of the tests on the double, --long tries all."""
    marked = [pytest.param(how, marks=[pytest.mark.long] * (how not in short)) for how in MECHANISMS]
    return pytest.mark.parametrize("how", marked)


def longer(settings):
    """The first of them in the short run of the tests; --long tries all."""
    return [pytest.param(one, id=str(one), marks=[pytest.mark.long] * (number > 0)) for number, one in enumerate(settings)]


@pytest.mark.parametrize("settings", longer(COMPARING))
@with_mechanisms("cfg_after_cfg", "block", "apply_model", "pre_cfg")
def test_a_comparison_leaves_no_trace(host, plain, how, settings):
    own, own_calls = plain(how)
    compared, calls = made(host, how, settings)
    assert compared["Noise Order skipped"] is None
    chosen = int(compared["Noise Order chosen"])
    again, _ = made(host, how, repeated(settings, chosen))
    assert again["Noise Order evaluations"] == "0"
    assert difference(compared, again) <= 1, "P1: not the host's own picture of the chosen noise"
    anew, _ = made(host, how, settings, raise_in=NO_MEMORY)
    assert difference(compared, anew) <= 1, "P2: remembered answers change the picture"
    first = again if chosen == 1 else made(host, how, repeated(settings, 1))[0]
    if difference(first, own) == 0:  # a flow model's draws are scaled
        assert chosen != 1 or difference(compared, own) <= 1, "P3: not the plain picture of the seed's own draw"
    assert calls <= own_calls, "the questions were seen"
    assert compared.evaluations - own.evaluations == int(compared["Noise Order evaluations"])


@pytest.mark.parametrize("settings", longer(INJECTING))
@with_mechanisms("hook")
def test_the_formulas_leave_no_trace(host, plain, how, settings):
    own, own_calls = plain(how)
    ordered, calls = made(host, how, settings)
    assert ordered["Noise Order skipped"] is None
    assert calls == own_calls
    assert difference(ordered, own) > 0
    assert ordered.evaluations - own.evaluations == int(ordered["Noise Order evaluations"])


@pytest.mark.parametrize("settings", longer([*COMPARING[:2], *INJECTING]))
def test_what_cannot_be_taken_off_is_not_asked_and_named(host, plain, settings):
    own, own_calls = plain("class")
    compared, calls = made(host, "class", settings)
    reason = compared["Noise Order skipped"]
    assert "the extension saboteur replaces " in reason and "would count the questions" in reason
    assert (calls, compared.evaluations) == (own_calls, own.evaluations)
    if settings in COMPARING:
        assert difference(compared, own) == 0
    again, _ = made(host, "class", {"preset": "Automatic", "chosen": "2"})
    assert again["Noise Order chosen"] == "2" and again["Noise Order skipped"] is None
