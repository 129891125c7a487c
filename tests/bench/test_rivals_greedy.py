import numpy as np
import pytest
from scipy import stats

from bench.rivals_greedy import EPSILON, EpsilonGreedy

FALSE_ALARM = 1e-6
"""Of one test; the seed is fixed, so what passes once passes always."""


def test_it_explores_evenly_with_probability_epsilon():
    rival = EpsilonGreedy(4, seed=5)
    for arm, reward in enumerate([0.1, 0.9, 0.2, 0.3]):
        rival.update(0, arm, reward)
    n = 20_000
    counts = np.bincount([rival.choose(0) for _ in range(n)], minlength=4)
    expected = np.full(4, EPSILON / 4)
    expected[1] += 1 - EPSILON
    assert stats.chisquare(counts, expected * n).pvalue > FALSE_ALARM


def test_it_settles_on_the_best_mean():
    rival = EpsilonGreedy(3, seed=0)
    for arm, rewards in enumerate([(0.5, 0.5), (1.0, 0.2, 0.2), (0.9, 0.3)]):
        for reward in rewards:
            rival.update(0, arm, reward)
    assert rival._mean == pytest.approx([0.5, 1.4 / 3, 0.6])
    chosen = rival.choices(np.zeros((3, 1)), np.zeros(3, dtype=np.int64))
    assert chosen.tolist() == [2, 2, 2]


def test_an_arm_that_was_not_tried_comes_first():
    rival = EpsilonGreedy(2, seed=1)
    rival.update(0, 0, 100.0)
    assert rival.choices(np.zeros((1, 1)), np.zeros(1, dtype=np.int64)).tolist() == [1]
