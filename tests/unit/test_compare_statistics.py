"""Statistics on cases with known answers."""

import numpy as np
import pytest

from lib_noiseorder.tools.statistics import holm, pairs_needed, prompts_won, sign_test


@pytest.mark.parametrize(
    ("wins", "losses", "p"),
    [(0, 0, 1.0), (5, 5, 1.0), (10, 0, 2 / 1024), (0, 10, 2 / 1024), (8, 2, 2 * (1 + 10 + 45) / 1024), (1, 0, 1.0)],
)
def test_sign_test_is_the_exact_binomial(wins, losses, p):
    assert sign_test(wins, losses) == pytest.approx(p)


def test_sign_test_of_thousands():
    # normal approximation with continuity correction: z = (2600 − 2500 − 0.5) / √1250
    assert sign_test(2600, 2400) == pytest.approx(0.00489, rel=0.01)


def test_a_group_counts_once():
    differences, groups = np.array([1.0, 1.0, -1.0, 1.0, 0.0, -0.5]), np.array([0, 0, 1, 1, 2, 2])
    assert prompts_won(differences, groups) == (1, 1)


def test_holm_as_in_a_worked_example():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []


def test_pairs_needed_follow_the_textbook():
    # mean 0.5, standard deviation 1: ((1.96 + 0.8416) / 0.5)² = 31.4
    differences = np.tile([1.5, -0.5], 500)
    assert pairs_needed(differences, np.arange(1000)) == 32


def test_pictures_that_go_together_need_twice_as_many():
    once = np.random.default_rng(0).normal(0.2, 1, 4000)
    alone = pairs_needed(once, np.arange(4000))
    doubled = pairs_needed(np.repeat(once, 2), np.repeat(np.arange(4000), 2))
    assert doubled == pytest.approx(2 * alone, rel=0.01)


def test_pairs_needed_hold_what_they_promise():
    rng, shown = np.random.default_rng(1), 0
    needed = pairs_needed(np.tile([1.3, -0.7], 100), np.arange(200))
    for _ in range(400):
        sample = rng.choice([1.3, -0.7], needed)
        shown += abs(sample.mean()) > 1.96 * sample.std(ddof=1) / np.sqrt(needed)
    assert 0.74 < shown / 400 < 0.86


def test_nothing_to_reckon_with():
    assert pairs_needed(np.array([0.0, 0.0]), np.array([0, 1])) is None
    assert pairs_needed(np.array([1.0, 2.0]), np.array([0, 0])) is None
