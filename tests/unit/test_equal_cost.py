"""Equal cost: rounded up, and an evaluation counts as the sampler pays it."""

import pytest

from lib_noiseorder.tools.equal_cost import evaluations_per_step, more_steps


@pytest.mark.parametrize(("guidance", "calls", "per_step"), [(7, 1, 2), (1, 1, 1), (4.0, 2, 4), (1.0, 2, 2)])
def test_evaluations_of_a_step(guidance, calls, per_step):
    assert evaluations_per_step(guidance, calls) == per_step


@pytest.mark.parametrize(("evaluations", "per_step", "steps"), [(0, 2, 0), (13, 2, 7), (12, 2, 6), (12.0, 1, 12), (1, 4, 1)])
def test_more_steps_cost_no_less(evaluations, per_step, steps):
    assert more_steps(evaluations, per_step) == steps
