"""Semantic injection: temporal prediction weighting (TPW) and noise adjustment, formulas 2 and 3 of arXiv 2511.07756."""

from __future__ import annotations

from collections.abc import Sequence
from math import hypot, isfinite, sqrt

import torch
from torch import Tensor

from .tensors import require_floating, require_same_shape, sample_rows, to_compute

_CANCELLED = 1e-3
"""A mixture whose standard deviation is below this share of the noise's is rounding error: nothing to rescale."""


def aggregate(predictions: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Weighted sum of the key timesteps' predictions: Σ w_k·p_k / √(Σ w_k²).

    Args:
        predictions: K ≥ 1 tensors of one shape, any rank, in the convention of `lib_noiseorder.denoiser`.
        weights: K finite numbers, not all zero; negative ones push away from a prediction.

    Returns:
        A new tensor of the predictions' shape, dtype and device; fp16 and bf16 are summed in fp32.

    Raises:
        ValueError: unequal counts or shapes, no predictions, a weight that is not finite, all weights zero.
    """
    predictions, weights = list(predictions), [float(weight) for weight in weights]
    if not predictions or len(predictions) != len(weights):
        raise ValueError(f"aggregate needs as many weights as predictions, got {len(weights)} and {len(predictions)}")
    if not all(map(isfinite, weights)) or not any(weights):
        raise ValueError(f"weights must be finite and not all zero, got {weights}")
    first = require_floating("prediction 1", predictions[0])
    total = torch.zeros_like(to_compute(first))
    for number, (prediction, weight) in enumerate(zip(predictions, weights), 1):
        require_floating(f"prediction {number}", prediction)
        require_same_shape(f"prediction {number}", prediction, "prediction 1", first)
        total += weight * to_compute(prediction)
    return (total / sqrt(sum(weight * weight for weight in weights))).to(first.dtype)


def inject(noise: Tensor, semantics: Tensor, delta: float) -> Tensor:
    """The paper's formula 3, untouched: (noise + δ·semantics) / √(1 + δ²).

    The formula keeps the noise's standard deviation only if noise and semantics are uncorrelated. A model's
    predictions for pure noise are not (0.93 to 0.998 measured): use `inject_calibrated` unless the letter matters.

    Args:
        noise: purified noise z_T, any shape.
        semantics: aggregated predictions of the same shape.
        delta: injection strength δ, finite, either sign.

    Returns:
        A new tensor of the noise's shape, dtype and device. δ = 0 returns the noise bit for bit.

    Raises:
        ValueError: δ not finite, unequal shapes, or a tensor that is not floating point.
    """
    return _mixed(noise, semantics, delta).to(noise.dtype)


def inject_calibrated(noise: Tensor, semantics: Tensor, delta: float, layout: list[slice] | None = None) -> Tensor:
    """Formula 3 with, per sample, the noise's own mean and standard deviation restored.

    Whatever the predictions look like, the sampler starts from noise of the statistics it was trained on.
    Where noise and semantics cancel out (nothing is left to rescale) the sample's noise comes back unchanged.

    Args:
        noise, semantics, delta: as in `inject`.
        layout: slices of the first axis that make up one sample each, for sparse features [M, C]; without it
            a sample is one index of the first axis.

    Returns:
        A new tensor of the noise's shape, dtype and device. δ = 0 returns the noise bit for bit.

    Raises:
        ValueError: as `inject`.
    """
    mixed = _mixed(noise, semantics, delta)
    if delta == 0:
        return mixed
    reference = to_compute(noise)
    for row, target in zip(sample_rows(mixed, layout), sample_rows(reference, layout)):
        if target.numel() < 2:
            row.copy_(target)
            continue
        std, wanted = row.std(), target.std()
        if std <= _CANCELLED * wanted:
            row.copy_(target)
        else:
            row.sub_(row.mean()).mul_(wanted / std).add_(target.mean())
    return mixed.to(noise.dtype)


def _mixed(noise: Tensor, semantics: Tensor, delta: float) -> Tensor:
    """(noise + δ·semantics) / √(1 + δ²) as a fresh contiguous tensor in compute precision."""
    if not isfinite(delta):
        raise ValueError(f"delta must be a finite number, got {delta}")
    require_floating("noise", noise)
    require_floating("semantics", semantics)
    require_same_shape("semantics", semantics, "noise", noise)
    if delta == 0:
        return noise.clone()
    scale = hypot(1.0, delta)
    return (to_compute(noise) / scale + to_compute(semantics) * (delta / scale)).contiguous()
