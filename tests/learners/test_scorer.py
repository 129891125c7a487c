import tracemalloc

import numpy as np

from learners.exploration import Exploration
from learners.scorers.linear import ROWS_AT_ONCE, Linear


def scorer_of(k: int, d: int) -> Linear:
    random = np.random.default_rng(0)
    root = random.normal(size=(k, d, d))
    return Linear(
        arms=tuple(f"arm-{i}" for i in range(k)),
        weights=random.normal(size=(k, d)),
        exploration=Exploration("greedy"),
        inverse=root @ root.transpose(0, 2, 1),
        alpha=0.5,
    )


def test_a_long_log_is_scored_as_each_of_its_rows_is():
    scorer = scorer_of(3, 8)
    x = np.random.default_rng(1).normal(size=(2 * ROWS_AT_ONCE + 7, 8))
    one_by_one = np.concatenate([scorer.scores(row[None]) for row in x])
    assert scorer.inverse is not None
    bonus = np.sqrt(np.einsum("nd,kde,ne->nk", x, scorer.inverse, x))
    assert np.allclose(scorer.scores(x), one_by_one, rtol=1e-12, atol=1e-12)
    assert np.allclose(one_by_one, x @ scorer.weights.T + 0.5 * bonus, rtol=1e-12, atol=1e-12)
    assert scorer.scores(x[:0]).shape == (0, 3)


def test_a_long_log_needs_no_array_of_arms_by_rows_by_columns():
    k, d, n = 8, 32, 20 * ROWS_AT_ONCE
    scorer, x = scorer_of(k, d), np.ones((n, d))
    tracemalloc.start()
    try:
        scorer.scores(x)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < k * n * d * 8 / 4
