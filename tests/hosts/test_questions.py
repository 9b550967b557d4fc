"""What the network and everybody who listens sees of a question: the sampler's own surroundings. On the double."""

import sys
from types import SimpleNamespace

import pytest
import torch

from .client import difference, noise_order
from .double.host import DoubleHost
from .test_faults import nothing_left_behind

PICTURE = torch.zeros(1, 4, 8, 8)
ONE_BY_ONE = {"cfg_scale": 1, "steps": 4}


@pytest.fixture
def calls(monkeypatch):
    """A flow host, and what its network was told in every call: the noise level, the schedule and the step."""
    host, told = DoubleHost("flow"), []
    state, asked = host.shared.state, host.checkpoint.denoised

    def telling(x, sigma, c_crossattn, transformer_options):
        told.append((sigma, transformer_options["sampling_sigmas"], state.sampling_step))
        return asked(x, sigma, c_crossattn, transformer_options)

    monkeypatch.setattr(host.checkpoint, "denoised", telling)
    return host, told


def test_a_question_finds_its_level_in_the_schedule_that_the_network_is_told(calls):
    host, told = calls
    host.txt2img(**ONE_BY_ONE, **noise_order())
    questions, steps = told[:-4], told[-4:]
    own = steps[0][1]
    assert [float(sigma) for sigma, _, _ in steps] == own[:-1].tolist()
    assert len(questions) == 3 and not any(torch.isin(sigma, own).any() for sigma, _, _ in questions)
    for sigma, schedule, _ in questions:
        assert (schedule == sigma).sum() == 1 and (schedule != own).sum() == 1 and len(schedule) == len(own)
    nothing_left_behind(host)


def test_a_question_at_a_level_of_the_sampler_is_told_the_samplers_schedule(calls):
    host, told = calls
    host.txt2img(**{**ONE_BY_ONE, "steps": 8}, **noise_order(preset="Automatic"))
    first = [schedule for sigma, schedule, _ in told if sigma == 1]
    assert len(first) > 1 and all(torch.equal(schedule, told[-1][1]) for schedule in first)


def test_a_question_is_asked_at_the_step_that_has_come_to_its_level(calls):
    """Hosts count a step when it is done: the first two calls are both made at step 0."""
    host, told = calls
    host.txt2img(**ONE_BY_ONE, **noise_order(layout_timestep=0.9, structure_timestep=0.5, detail_timestep=0.1))
    assert [step for _, _, step in told] == [0, 1, 2, 0, 0, 1, 2]


@pytest.mark.parametrize(
    "error", [RuntimeError("sizes of tensors must match"), AssertionError(), ValueError("one at a time")], ids=repr
)
def test_a_network_that_takes_one_latent_is_asked_one_by_one(error):
    host = DoubleHost("flow")
    expected, refused = host.txt2img(**noise_order()), []

    def refuse(answer):
        if host.shared.state.textinfo and len(answer) > 1:
            refused.append(1)
            raise error
        return answer

    with host.spoiled(refuse):
        result = host.txt2img(**noise_order())
    assert refused == [1], "never asked several at once, so nothing here proves anything"
    assert result["Noise Order skipped"] is None and difference(expected, result) <= 1


@pytest.mark.parametrize(
    "kept", [{"ref_latents": []}, {"ref_latents": [PICTURE]}, {"concat_latent": PICTURE}, {"lq_latent": [PICTURE, None]}]
)
def test_where_pictures_are_shown_the_network_is_asked_one_by_one(monkeypatch, kept):
    monkeypatch.setitem(sys.modules, "backend.args", SimpleNamespace(dynamic_args=SimpleNamespace(**kept)))
    host, rows = DoubleHost("flow"), []

    def look(answer):
        if host.shared.state.textinfo:
            rows.append(len(answer))
        return answer

    with host.spoiled(look):
        assert host.txt2img(**noise_order())["Noise Order skipped"] is None
    assert max(rows) == (2 if kept == {"ref_latents": []} else 1)
