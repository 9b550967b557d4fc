"""Questions are asked as large as the sampler's own calls are, and one by one where that might change an answer."""

import pytest

from .client import difference, noise_order
from .sabotaged import PARAMETERS, running, sabotage


@pytest.fixture(scope="module", params=PARAMETERS)
def host(request, tmp_path_factory):
    with running(request.param, tmp_path_factory.mktemp("together")) as one:
        yield one


def calls_of(host, order, memory_for=None, **payload):
    """The rows of every call of the network that ordering adds to a job, and its result."""
    _, plain = host.txt2img(**payload, alwayson_scripts=sabotage()), host.state()["calls"]
    plan = {} if memory_for is None else {"memory_for": memory_for}
    result = host.txt2img(**payload, alwayson_scripts={**order["alwayson_scripts"], **sabotage(**plan)})
    calls = host.state()["calls"]
    assert calls[len(calls) - len(plain) :] == plain, "the sampler's own calls are other ones"
    return calls[: len(calls) - len(plain)], result


def conditioned_on_a_picture(host):
    return getattr(host, "evaluations_per_question", 1) > 1


def test_three_questions_are_two_calls_and_the_same_picture(host):
    calls, together = calls_of(host, noise_order(), seed=901)
    alone, one_by_one = calls_of(host, noise_order(), memory_for=1, seed=901)
    if conditioned_on_a_picture(host):
        assert calls == [2, 2, 2]
        return
    assert (alone, calls) == ([1, 1, 1], [2, 1])
    assert together["Noise Order evaluations"] == one_by_one["Noise Order evaluations"]
    assert difference(together, one_by_one) <= 1


def test_a_batch_of_two(host):
    calls, result = calls_of(host, noise_order(), seed=902, batch_size=2)
    assert calls == ([4, 4, 4] if conditioned_on_a_picture(host) else [4, 2])
    for index, alone in enumerate((902, 903)):
        assert abs(host.txt2img(seed=alone, **noise_order()).pictures[0] - result.pictures[index]).max() <= 1


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"cfg_scale": 1.0}, id="without guidance"),
        pytest.param({"prompt": "[red:blue:0.5] circle"}, id="prompt editing", marks=pytest.mark.real_host),
        pytest.param({"prompt": "red circle AND blue square"}, id="AND", marks=pytest.mark.real_host),
    ],
)
def test_one_by_one_where_the_sampler_or_the_prompt_wants_it(host, change):
    calls, result = calls_of(host, noise_order(), seed=903, **change)
    assert len(calls) == 3
    assert len(set(calls)) == 1
    assert result["Noise Order skipped"] is None


def test_too_little_memory_for_two_is_enough_for_one(host):
    if conditioned_on_a_picture(host):
        pytest.skip("its questions are as large as the sampler's calls already")
    _, expected = calls_of(host, noise_order(), seed=904)
    calls, result = calls_of(host, noise_order(), seed=905, memory_for=1)
    assert calls == [1, 1, 1]
    assert result["Noise Order skipped"] is None
    calls, result = calls_of(host, noise_order(), seed=904, memory_for=1)
    assert difference(result, expected) <= 1


def test_a_comparison_asks_with_both_prompts_in_one_call(host):
    if conditioned_on_a_picture(host):
        pytest.skip("its questions are as large as the sampler's calls already")
    order = noise_order(preset="Automatic")["alwayson_scripts"]
    host.txt2img(seed=906, steps=16, alwayson_scripts=sabotage())
    plain = host.state()["calls"]
    result = host.txt2img(seed=906, steps=16, alwayson_scripts={**order, **sabotage()})
    calls = host.state()["calls"]
    assert calls.count(1) <= plain.count(1), calls  # Classic leaves the negative prompt out of the first step by itself
    assert len(calls) > len(plain) and result["Noise Order chosen"]
