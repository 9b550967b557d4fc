"""Figures of paired comparisons: intervals, tests, how many pairs it takes, diversity, Fréchet distance.

Pictures of one prompt succeed or fail together. So whatever judges a difference takes the prompts, not the pictures, as
its independent units: `groups` says which pictures belong to one prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, comb, sqrt
from statistics import NormalDist

import numpy as np

_RESAMPLES = 4000
_AT_ONCE = 2**20
"""Draws held in memory at a time."""


def bootstrap(differences: np.ndarray, groups: np.ndarray, resamples: int = _RESAMPLES) -> tuple[float, float, float]:
    """Mean of paired differences with its 95 % interval.

    Whole groups (the pictures of one prompt) are resampled.

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
    sums, sizes = _sums(differences, groups)
    rng = np.random.default_rng(0)
    at_once = max(1, _AT_ONCE // len(sums))
    means = []
    for start in range(0, resamples, at_once):
        drawn = rng.integers(0, len(sums), (min(at_once, resamples - start), len(sums)))
        means.append(sums[drawn].sum(1) / sizes[drawn].sum(1))
    low, high = np.quantile(np.concatenate(means), (0.025, 0.975))
    return float(np.mean(differences)), float(low), float(high)


def sign_test(wins: int, losses: int) -> float:
    """Exact two-sided sign test: how likely so uneven a split of wins and losses is where neither side is better.

    Ties are left out before. Without any win or loss: 1.
    """
    trials = wins + losses
    tail = sum(comb(trials, few) for few in range(min(wins, losses) + 1))
    return min(1.0, 2 * tail / 2**trials)


def prompts_won(differences: np.ndarray, groups: np.ndarray) -> tuple[int, int]:
    """For how many groups the mean difference is above, and for how many below zero."""
    sums, _ = _sums(differences, groups)
    return int((sums > 1e-12).sum()), int((sums < -1e-12).sum())


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values corrected for their number (Holm 1979), in the order given."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    corrected, least = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = least
    return corrected


def pairs_needed(differences: np.ndarray, groups: np.ndarray, power: float = 0.8, level: float = 0.05) -> int | None:
    """How many pairs would show a difference as large as the observed mean, with the probability `power`.

    From the standard error over groups, by the normal approximation, for a two-sided test at `level`. None where the mean
    is 0, or a single group does not say how much prompts differ.
    """
    sums, sizes = _sums(differences, groups)
    mean, count = float(np.mean(differences)), len(sums)
    if abs(mean) < 1e-12 or count < 2:
        return None
    residuals = sums - mean * sizes
    error = sqrt(float((residuals**2).sum()) * count / (count - 1)) / len(differences)
    wanted = NormalDist().inv_cdf(1 - level / 2) + NormalDist().inv_cdf(power)
    return max(1, ceil(len(differences) * (wanted * error / mean) ** 2))


def diversity(features: np.ndarray, groups: np.ndarray) -> float | None:
    """Mean distance between the features [N, F] of pictures of the same group; None if no group has two."""
    distances, _ = _distances(features, groups)
    return float(distances.mean()) if len(distances) else None


def diversity_change(features: np.ndarray, before: np.ndarray, groups: np.ndarray) -> tuple[float, float, float] | None:
    """How much the diversity of `features` [N, F] differs from that of `before` [N, F], in percent of the latter.

    Returns:
        Mean, lower and upper end of the 95 % interval (groups resampled); None if no group has two pictures.
    """
    distances, members = _distances(features, groups)
    if not len(distances):
        return None
    earlier, _ = _distances(before, groups)
    return bootstrap(100 * (distances - earlier) / earlier.mean(), members)


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


def _sums(differences: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sum of the differences and number of pictures of every group."""
    _, member = np.unique(groups, return_inverse=True)
    return np.bincount(member, differences), np.bincount(member)


def _distances(features: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distances between the features [N, F] of any two pictures of a group, and the group of each distance."""
    distances, members = [], []
    for group in np.unique(groups):
        rows = features[groups == group]
        here = [float(np.linalg.norm(rows[i] - rows[j])) for i in range(len(rows)) for j in range(i)]
        distances += here
        members += [group] * len(here)
    return np.array(distances), np.array(members)
