"""The paper on one page: erasure, injection and the key timesteps of arXiv 2511.07756.

    z_T     = (1/√n) Σ z_i                         erase      semantic erasure (NLN), formula 1
    eps_agg = Σ w_k·eps_θ(z_T, t_k, y) / √(Σ w_k²)  aggregate  temporal prediction weighting (TPW), formula 2
    eps_adj = (z_T + δ·eps_agg) / √(1 + δ²)         inject     noise adjustment, formula 3

`inject_calibrated` is ours: formula 3 with every sample's mean and standard deviation restored.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import cos, hypot, isfinite, pi, sqrt
from typing import NamedTuple

import torch
from torch import Tensor

from .settings import NoiseOrderSettings
from .tensors import require_floating, require_same_shape, sample_rows, to_compute

_CANCELLED = 1e-3
"""A mixture whose standard deviation is below this share of the noise's is rounding error: nothing to rescale."""


def erase(draws: Iterable[Tensor]) -> Tensor:
    """Sum n independent noises and re-standardise: z_T = (1/√n) Σ z_i.

    The sum of independent N(0, I) draws over √n is again N(0, I): on average the result is another picture,
    not a better one; what it erases is the semantics that one particular draw carries.

    Args:
        draws: n ≥ 1 noises of one shape, any rank; a sequence or an iterator (then never more than two are held).

    Returns:
        A new tensor of the draws' shape, dtype and device; fp16 and bf16 are summed in fp32.
        One draw comes back bit for bit.

    Raises:
        ValueError: no draws, a draw that is no floating-point tensor, or unequal shapes.
    """
    draws = iter(draws)
    first = next(draws, None)
    if first is None:
        raise ValueError("erase needs at least one draw")
    total, count = to_compute(require_floating("draw 1", first)), 1
    for draw in draws:
        count += 1
        require_floating(f"draw {count}", draw)
        require_same_shape(f"draw {count}", draw, "draw 1", first)
        total = total + to_compute(draw)
    return first.clone() if count == 1 else (total / sqrt(count)).to(first.dtype)


def aggregate(predictions: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Weighted sum of the key timesteps' predictions: Σ w_k·p_k / √(Σ w_k²).

    Args:
        predictions: K ≥ 1 tensors of one shape, any rank, in the convention of `lib_noiseorder.model`.
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


def inject_calibrated(noise: Tensor, semantics: Tensor, delta: float) -> Tensor:
    """Formula 3 with, per sample, the noise's own mean and standard deviation restored.

    Whatever the predictions look like, the sampler starts from noise of the statistics it was trained on.
    Where noise and semantics cancel out (nothing is left to rescale) the sample's noise comes back unchanged.

    Args:
        noise, semantics, delta: as in `inject`.

    Returns:
        A new tensor of the noise's shape, dtype and device. δ = 0 returns the noise bit for bit.

    Raises:
        ValueError: as `inject`.
    """
    mixed = _mixed(noise, semantics, delta)
    if delta == 0:
        return mixed
    reference = to_compute(noise)
    for row, target in zip(sample_rows(mixed), sample_rows(reference)):
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


class KeyTimestep(NamedTuple):
    name: str
    """What is decided at this noise level: layout, structure or detail."""
    timestep: float
    """Fraction of the noise schedule, 1 = noisiest."""
    weight: float
    """w_k of formula 2, with the strength's decay δ(t) in it."""


DECAYS = {
    "constant": lambda timestep: 1.0,
    "linear": lambda timestep: timestep,
    "cosine": lambda timestep: (1 - cos(pi * timestep)) / 2,
}
"""δ(t)/δ over the noise schedule: 1 at the noisiest level; the decaying ones reach 0 at the cleanest."""


def key_timesteps(settings: NoiseOrderSettings) -> list[KeyTimestep]:
    """The key timesteps that cost an evaluation, noisiest first; those that weigh nothing are left out."""
    decay = DECAYS[settings.strength_schedule]
    stages = [
        KeyTimestep("layout", settings.layout_timestep, settings.layout_weight),
        KeyTimestep("structure", settings.structure_timestep, settings.structure_weight),
        KeyTimestep("detail", settings.detail_timestep, settings.detail_weight),
    ]
    weighted = [stage._replace(weight=stage.weight * decay(stage.timestep)) for stage in stages]
    return sorted((stage for stage in weighted if stage.weight != 0), key=lambda stage: -stage.timestep)
