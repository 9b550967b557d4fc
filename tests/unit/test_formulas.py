"""The three formulas against float64, and what they promise about dtype, inputs and bad input."""

from math import nan, sqrt

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lib_noiseorder import aggregate, erase, inject, inject_calibrated

SHAPES = [(4096,), (2, 4096), (2, 64, 64), (2, 4, 24, 24), (2, 4, 3, 24, 24)]
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


def noises(count, shape, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for _ in range(count)]


def close_to(result, exact):
    assert torch.allclose(result.double(), exact, atol=TOLERANCE[result.dtype], rtol=TOLERANCE[result.dtype])


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("shape", SHAPES)
def test_formulas_agree_with_float64(shape, dtype):
    draws = noises(3, shape, dtype)
    before = [draw.clone() for draw in draws]
    exact = [draw.double() for draw in draws]
    weights, delta = [1.0, -0.5, 0.25], 0.3

    erased = erase(draws)
    close_to(erased, sum(exact) / sqrt(3))
    combined = aggregate(draws, weights)
    close_to(combined, sum(w * d for w, d in zip(weights, exact)) / sqrt(sum(w * w for w in weights)))
    injected = inject(draws[0], draws[1], delta)
    close_to(injected, (exact[0] + delta * exact[1]) / sqrt(1 + delta**2))

    for result in (erased, combined, injected, inject_calibrated(draws[0], draws[1], delta)):
        assert result.dtype == dtype and result.shape == shape
    assert all(torch.equal(draw, copy) for draw, copy in zip(draws, before)), "inputs were modified"


def test_sums_in_half_precision_are_taken_in_fp32():
    draws = [torch.full((4,), 2048.0, dtype=torch.float16), *[torch.ones(4, dtype=torch.float16)] * 15]
    assert erase(draws)[0] == torch.tensor(2063 / 4).half()  # fp16 would lose every 1


def test_erasing_one_draw_or_injecting_nothing_returns_the_noise_bit_for_bit():
    noise, semantics = noises(2, (2, 4, 8, 8), torch.float16)
    noise[0, 0, 0, 0] = -0.0
    for result in (erase([noise]), inject(noise, semantics, 0), inject_calibrated(noise, semantics, 0)):
        assert torch.equal(result.view(torch.int16), noise.view(torch.int16))
        assert result.data_ptr() != noise.data_ptr()


def test_erase_takes_an_iterator():
    draws = noises(4, (2, 8))
    assert torch.equal(erase(iter(draws)), erase(draws))


def test_erasure_keeps_the_distribution():
    erased = erase(noises(16, (64, 4, 24, 24)))
    assert abs(erased.std().item() - 1) < 0.01 and abs(erased.mean().item()) < 0.01


@settings(deadline=None, max_examples=60)
@given(
    rho=st.floats(-1, 1),
    delta=st.floats(-2, 2),
    scale=st.sampled_from([0.01, 1.0, 30.0]),
    offset=st.sampled_from([0.0, 5.0]),
    shape=st.sampled_from(SHAPES),
)
def test_calibrated_injection_keeps_mean_and_std_at_any_correlation(rho, delta, scale, offset, shape):
    noise, other = noises(2, shape)
    semantics = (rho * noise + sqrt(1 - rho**2) * other) * scale + offset
    result = inject_calibrated(noise, semantics, delta)
    samples = zip(result, noise) if len(shape) > 1 else [(result, noise)]
    for after, before in samples:
        assert abs(after.mean() - before.mean()) < 1e-3
        assert abs(after.std() - before.std()) < 1e-3


def test_calibrated_injection_of_the_opposite_noise_returns_the_noise():
    (noise,) = noises(1, (2, 4, 8, 8))
    assert torch.allclose(inject_calibrated(noise, -noise, 1.0), noise)


def test_calibrated_injection_moves_towards_the_semantics_and_literal_inflates():
    noise, other = noises(2, (2, 4, 24, 24))
    semantics = 1.7 * noise + 0.1 * other  # what a model says about pure noise
    assert inject(noise, semantics, 0.2).std() > 1.25
    moved = inject_calibrated(noise, other, 0.5) - noise
    assert torch.corrcoef(torch.stack([moved.flatten(), other.flatten()]))[0, 1] > 0.5


def test_calibration_is_per_sample():
    noise, semantics = noises(2, (6, 512))
    whole = inject_calibrated(noise, semantics, 0.5)
    assert torch.allclose(whole[2], inject_calibrated(noise[2:3], semantics[2:3], 0.5)[0])
    for row, before in zip(whole, noise):
        assert abs(row.std() - before.std()) < 1e-5
        assert abs(row.mean() - before.mean()) < 1e-5


def test_non_contiguous_inputs():
    noise, semantics = (tensor.transpose(1, 2) for tensor in noises(2, (2, 8, 16)))
    expected = inject_calibrated(noise.contiguous(), semantics.contiguous(), 0.5)
    assert torch.allclose(inject_calibrated(noise, semantics, 0.5), expected)


A, B = noises(2, (2, 4))


@pytest.mark.parametrize(
    "call, says",
    [
        (lambda: erase([]), "at least one draw"),
        (lambda: erase([A, B[:, :2]]), r"draw 2 has shape \(2, 2\)"),
        (lambda: erase([A.int()]), "floating-point"),
        (lambda: erase(["noise"]), "floating-point"),
        (lambda: aggregate([A, B], [1.0]), "1 and 2"),
        (lambda: aggregate([], []), "as many weights"),
        (lambda: aggregate([A, B], [0.0, 0.0]), "not all zero"),
        (lambda: aggregate([A, B], [1.0, nan]), "finite"),
        (lambda: aggregate([A, B[:1]], [1, 1]), r"prediction 2 has shape \(1, 4\)"),
        (lambda: inject(A, B, nan), "delta must be a finite number, got nan"),
        (lambda: inject(A, B, float("inf")), "got inf"),
        (lambda: inject(A, B[:1], 0.1), "semantics has shape"),
        (lambda: inject_calibrated(A, B[:1], 0.0), "semantics has shape"),
    ],
)
def test_bad_input(call, says):
    with pytest.raises(ValueError, match=says):
        call()


def test_zero_sum_weights_are_allowed():
    assert torch.allclose(aggregate([A, B], [1, -1]), (A - B) / sqrt(2))
