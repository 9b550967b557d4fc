"""Muon and AdamW together, as the lab's latent models are trained."""

import re

import pytest
import torch
from torch import nn

from lib_noiseorder.tools.lab.optimiser import Averaged, Optimiser, clock


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 8))


def stepped(model: nn.Sequential, inner: str) -> list[torch.Tensor]:
    """What one step at the full rate changes, by parameter."""
    before = [parameter.detach().clone() for parameter in model.parameters()]
    optimiser = Optimiser(model.named_parameters(), re.compile(inner), peak=0.1)
    model(torch.randn(32, 8)).square().mean().backward()
    optimiser.step(step=60, progress=0.0)
    return [(parameter - old).detach() for parameter, old in zip(model.parameters(), before)]


@pytest.mark.parametrize("inner, muon", [(r"0\.weight$", 0), (r"1\.weight$", 2)])
def test_muon_takes_the_inner_matrices_and_moves_all_their_directions_alike(inner, muon):
    changes = stepped(net(), inner)
    for index in (0, 2):
        singular = torch.linalg.svdvals(changes[index])
        assert (singular.min() > 0.4 * singular.max()) == (index == muon)


def test_adam_moves_every_other_entry_by_the_rate():
    changes = stepped(net(), r"0\.weight$")
    for change in changes[1:]:
        assert torch.allclose(change.abs(), torch.tensor(0.1), rtol=0.01)


def test_gradients_are_forgotten_and_the_rate_falls_to_nearly_nothing():
    model = net()
    optimiser = Optimiser(model.named_parameters(), re.compile("weight"), peak=0.1)
    model(torch.randn(32, 8)).square().mean().backward()
    before = model[0].bias.detach().clone()
    optimiser.step(step=60, progress=0.999)
    assert (model[0].bias - before).abs().max() < 0.003
    assert all(parameter.grad is None for parameter in model.parameters())


def test_parameters_that_need_no_gradient_stay():
    model = net()
    model[0].requires_grad_(False)
    assert [bool(change.any()) for change in stepped(model, "weight")] == [False, False, True, True]


def test_an_average_follows_and_lags():
    live, copy = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(3))
    average = Averaged([live], [copy], keep=0.5)
    with torch.no_grad():
        live.fill_(1.0)
    average.update(step=1000)
    assert torch.equal(copy.data, torch.full((3,), 0.5))
    average.update(step=1000)
    assert torch.equal(copy.data, torch.full((3,), 0.75))


def test_the_clock_counts_steps_until_the_time_is_over():
    steps = list(clock(0.0005))
    assert [step for step, _ in steps] == list(range(len(steps))) and steps
    shares = [share for _, share in steps]
    assert shares == sorted(shares) and shares[0] >= 0 and shares[-1] < 1


def test_the_clock_runs_once_at_least_and_refuses_no_time():
    assert [step for step, _ in clock(1e-12)] == [0]
    for minutes in (0, -1, float("nan")):
        with pytest.raises(ValueError, match=f"minutes = {minutes}"):
            next(clock(minutes))
