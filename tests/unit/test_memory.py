"""The memory of the model's answers: exact questions only, rows from different questions, gone after the first miss."""

import pytest
import torch

from lib_noiseorder import answers as memory


class Model:
    calls = 0

    def forward(self, x, sigma, cond):
        self.calls += 1
        return x * 2


@pytest.fixture
def known():
    """A model, the memory of two of its answers, and the question's other arguments."""
    model, remembered, rest = Model(), memory.Memory(), {"sigma": torch.ones(2), "cond": {"crossattn": [torch.zeros(2, 3)]}}
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
    assert model.calls == 2 and remembered.hits == 2 and "forward" not in vars(model)


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
    assert model.calls == 3 and remembered.hits == 0


def test_a_row_that_is_not_known_asks_the_model_and_ends_the_memory(known):
    model, remembered, rest = known
    with remembered.answering(model, "forward"):
        model.forward(torch.tensor([[1.0] * 4, [2.0 + 1e-4] * 4]), **rest)
        model.forward(torch.ones(2, 4), **rest)
    assert model.calls == 4 and remembered.hits == 0


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

    model, remembered = Writing(), memory.Memory()
    with remembered.recording(model, "apply"):
        model.apply(torch.ones(1, 2), options={"mark": [0, 1]})
    with remembered.answering(model, "apply"):
        model.apply(torch.ones(1, 2), options={"mark": [0, 1]})
    assert model.calls == 1 and remembered.hits == 1


def test_nothing_is_remembered_while_forgetting():
    model, remembered, question = Model(), memory.Memory(), {"sigma": torch.ones(2), "cond": {}}
    with remembered.recording(model, "forward"), remembered.forgetting():
        model.forward(torch.ones(2, 4), **question)
    with remembered.answering(model, "forward"):
        model.forward(torch.ones(2, 4), **question)
    assert model.calls == 2 and remembered.hits == 0
