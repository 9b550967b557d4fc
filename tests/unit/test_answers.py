"""Remembered answers: exact questions only, rows from different questions, gone after the first miss."""

import pytest
import torch

from lib_noiseorder.answers import Answers, foreign_say, hooked, is_plain, is_replaced, replaced, shadow, step_rounding
from lib_noiseorder.model import NoiseLevel


class Model:
    calls = 0

    def forward(self, x, sigma, cond):
        self.calls += 1
        return x * 2


@pytest.fixture
def known():
    """A model, the memory of two of its answers, and the question's other arguments."""
    model, remembered, rest = Model(), Answers(), {"sigma": torch.ones(2), "cond": {"crossattn": [torch.zeros(2, 3)]}}
    with remembered.recording(model, "forward"):
        for value in (1.0, 2.0):
            model.forward(torch.full((2, 4), value), **rest)
    assert model.calls == 2 and "forward" not in vars(model)
    return model, remembered, rest


def test_rows_of_different_questions_are_answered(known):
    model, remembered, rest = known
    with remembered.answering(model, "forward"):
        answer = model.forward(torch.tensor([[1.0] * 4, [2.0] * 4]), **rest)
    assert torch.equal(answer, torch.tensor([[2.0] * 4, [4.0] * 4]))
    assert model.calls == 2 and remembered.reused == 2 and "forward" not in vars(model)


@pytest.mark.parametrize(
    "change",
    [
        {"sigma": torch.full((2,), 2.0)},
        {"sigma": torch.ones(2, dtype=torch.float64)},
        {"cond": {"crossattn": [torch.ones(2, 3)]}},
        {"cond": {"crossattn": [torch.zeros(2, 3)], "vector": None}},
        {"cond": {"crossattn": (torch.zeros(2, 3),)}},
    ],
)
def test_any_other_argument_asks_the_model(known, change):
    model, remembered, rest = known
    with remembered.answering(model, "forward"):
        model.forward(torch.ones(2, 4), **{**rest, **change})
    assert model.calls == 3 and remembered.reused == 0


def test_a_row_that_is_not_known_asks_the_model_and_ends_the_memory(known):
    model, remembered, rest = known
    with remembered.answering(model, "forward"):
        model.forward(torch.tensor([[1.0] * 4, [2.0 + 1e-4] * 4]), **rest)
        model.forward(torch.ones(2, 4), **rest)
    assert model.calls == 4 and remembered.reused == 0


def test_the_model_is_put_back_when_it_raises(known):
    model, remembered, _ = known
    with pytest.raises(TypeError), remembered.answering(model, "forward"):
        model.forward(torch.full((2, 4), 9.0))
    assert "forward" not in vars(model)


def test_what_a_model_writes_into_its_arguments_is_no_part_of_the_question():
    class Writing:
        calls = 0

        def apply(self, x, options):
            self.calls += 1
            options["block"] = ("input", self.calls)
            return x

    model, remembered = Writing(), Answers()
    with remembered.recording(model, "apply"):
        model.apply(torch.ones(1, 2), options={"mark": [0, 1]})
    with remembered.answering(model, "apply"):
        model.apply(torch.ones(1, 2), options={"mark": [0, 1]})
    assert model.calls == 1 and remembered.reused == 1


def test_what_is_remembered_ends_with_its_block_and_can_be_forgotten():
    remembered = Answers()
    remembered.note(("cond", 1.0), torch.ones(2, 3), torch.zeros(2, 3))
    assert remembered and torch.equal(remembered.recall(("cond", 1.0), torch.ones(1, 3).expand(2, 3)), torch.zeros(2, 3))
    assert remembered.recall(("uncond", 1.0), torch.ones(2, 3)) is None
    remembered.forget()
    assert not remembered and remembered.recall(("cond", 1.0), torch.ones(2, 3)) is None


def test_no_more_is_given_than_was_reckoned_with(known):
    model, remembered, rest = known
    remembered.most = 2
    with remembered.answering(model, "forward"):
        for value in (1.0, 2.0, 1.0):
            model.forward(torch.full((2, 4), value), **rest)
    assert model.calls == 4 and remembered.reused == 2


@pytest.mark.parametrize("dtype, close", [(torch.float32, 1e-7), (torch.float16, 1e-3), (torch.bfloat16, 1e-2)])
def test_rounding_of_the_sampler_is_forgiven_in_every_precision(dtype, close):
    remembered, x = Answers(), torch.tensor([[1.0, -2.0, 0.5]]).to(dtype)
    remembered.note("cond", x, x * 2)
    assert remembered.recall("cond", x * (1 + close)) is not None
    assert remembered.recall("cond", x * (1 + 20 * close)) is None


@pytest.mark.parametrize("first, second, steep", [(4518.0, 6.5, True), (4518.0, 60.0, True), (14.6, 13.0, False)])
def test_a_steep_step_rounds_as_finely_as_the_latent_that_it_starts_from(first, second, steep):
    noise, picture = torch.randn(1, 4, 64, 64, generator=torch.Generator().manual_seed(7)), 0.5
    x = noise * first
    stepped = x + (x - picture) / first * (second - first)  # as k-diffusion's Euler sampler
    exact = (picture + second / first * (x.double() - picture)).float()
    rounding = step_rounding([NoiseLevel(1.0, sigma) for sigma in (first, second, second / 2)])
    usual, fitting = Answers(), Answers(rounding)
    for remembered in (usual, fitting):
        remembered.note("cond", exact, exact)
    assert (usual.recall("cond", stepped) is None) == steep
    assert fitting.recall("cond", stepped) is not None and rounding < 4e-4


# -- who else has a say ----------------------------------------------------------------------------------------------


def network():
    return torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Sequential(torch.nn.Linear(2, 2)))


def test_a_network_of_ones_own_may_be_remembered():
    assert foreign_say(network()) is None and hooked(network()) is None


@pytest.mark.parametrize("where", ["around", "inside"])
@pytest.mark.parametrize("method", ["forward", "extra_repr"])
def test_a_replaced_method_has_a_say_unless_it_is_known_to_be_harmless(where, method):
    net = network()
    module = net if where == "around" else net[1][0]
    setattr(module, method, getattr(module, method))
    assert foreign_say(net) == f"a replaced {method} of a {type(module).__name__} in the network"
    assert foreign_say(net, harmless=lambda other: other is module) is None


@pytest.mark.parametrize("register", ["register_forward_hook", "register_forward_pre_hook"])
def test_hooks_are_seen_wherever_they_hang(register):
    net = network()
    handle = getattr(net[1][0], register)(lambda *_: None)
    assert "a hook of" in hooked(net) and hooked(net, harmless=lambda hook: True) is None
    handle.remove()
    assert hooked(net) is None


@pytest.mark.parametrize(
    "value, plain",
    [
        (None, True), (1.5, True), ({"a": [torch.ones(2), (1, "b")]}, True), ({1, 2}, True), (torch.float16, True),
        (print, False), ([print], False), ({"a": {"b": object()}}, False), (lambda: 1, False),
    ],
    ids=range(9),
)  # fmt: skip
def test_plain_values_have_no_say(value, plain):
    assert is_plain(value) is plain


def test_a_shadow_leaves_what_somebody_put_over_it():
    model = Model()
    restore = shadow(model, "forward", lambda original, *args: original(*args))
    assert is_replaced(model, "forward")
    theirs = vars(model)["forward"] = print
    restore()
    assert vars(model)["forward"] is theirs


def test_what_was_on_the_instance_before_comes_back():
    model = Model()
    vars(model)["forward"] = theirs = lambda x: x + 1
    with replaced(model, "forward", lambda original, x: original(x) * 10):
        assert model.forward(1) == 20
    assert vars(model)["forward"] is theirs
