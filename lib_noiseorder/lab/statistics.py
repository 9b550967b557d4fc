"""Figures of a paired evaluation: bootstrap intervals, diversity, Fréchet distance."""

from __future__ import annotations

import numpy as np

_RESAMPLES = 4000


def bootstrap(differences: np.ndarray, groups: np.ndarray, resamples: int = _RESAMPLES) -> tuple[float, float, float]:
    """Mean of paired differences with its 95 % interval.

    Whole groups (the pictures of one prompt) are resampled, because pictures of one prompt succeed or fail together.

    Args:
        differences: [N], one per picture.
        groups: [N] integers, equal for the pictures that belong together.

    Returns:
        Mean, lower and upper end of the interval; the same from call to call.

    Raises:
        ValueError: no differences.
    """
    if not len(differences):
        raise ValueError("a bootstrap needs at least one difference")
    _, member = np.unique(groups, return_inverse=True)
    sums, sizes = np.bincount(member, differences), np.bincount(member)
    rng = np.random.default_rng(0)
    means = []
    for _ in range(resamples):
        drawn = rng.integers(0, len(sums), len(sums))
        means.append(sums[drawn].sum() / sizes[drawn].sum())
    low, high = np.quantile(means, (0.025, 0.975))
    return float(np.mean(differences)), float(low), float(high)


def diversity(features: np.ndarray, groups: np.ndarray) -> float | None:
    """Mean distance between the features [N, F] of pictures of the same group; None if no group has two."""
    distances = []
    for group in np.unique(groups):
        rows = features[groups == group]
        distances += [float(np.linalg.norm(rows[i] - rows[j])) for i in range(len(rows)) for j in range(i)]
    return float(np.mean(distances)) if distances else None


def frechet(features: np.ndarray, reference: np.ndarray) -> float:
    """Fréchet distance of two sets of features [N, F] and [M, F], each taken as a Gaussian.

    |μ₁ − μ₂|² + tr(C₁ + C₂ − 2·(C₁C₂)^½); the trace of the root comes from the eigenvalues of C₁^½·C₂·C₁^½.
    """
    first, second = np.cov(features.T.astype(np.float64)), np.cov(reference.T.astype(np.float64))
    values, vectors = np.linalg.eigh(first)
    root = vectors * np.sqrt(values.clip(0)) @ vectors.T
    mixed = np.sqrt(np.linalg.eigvalsh(root @ second @ root).clip(0)).sum()
    apart = np.square(features.mean(0, dtype=np.float64) - reference.mean(0, dtype=np.float64)).sum()
    return float(apart + np.trace(first) + np.trace(second) - 2 * mixed)
