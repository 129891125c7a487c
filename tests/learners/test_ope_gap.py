"""The difference of two policies that agree on most of the traffic."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from learners import ope
from learners.interactions import Interactions

K, DOMAINS, FLOOR = 4, 4, 0.1


def served(choice: list[int], domain: NDArray[np.int64]) -> NDArray[np.float64]:
    """The distribution of a policy that serves one arm a domain and explores a tenth."""
    found = np.full((len(domain), K), FLOOR / K)
    found[np.arange(len(domain)), np.array(choice)[domain]] += 1 - FLOOR
    return found


def passes(n: int, simulations: int, *, guarded: bool) -> float:
    """How often an equal candidate, other in one domain of four, seems surely better at 1 %."""
    rng = np.random.default_rng(7)
    count = 0
    for _ in range(simulations):
        domain = rng.integers(DOMAINS, size=n)
        logged = served([0, 0, 0, 0], domain)
        action = (rng.random(n)[:, None] > logged.cumsum(axis=1)).sum(axis=1).clip(0, K - 1)
        reward = (rng.random(n) < 0.95).astype(float)
        x = np.concatenate([np.ones((n, 1)), np.eye(DOMAINS)[domain]], axis=1)
        propensity = logged[np.arange(n), action]
        arms = tuple(map(str, range(K)))
        log = Interactions(arms, x, np.ones((n, K), bool), action, propensity, reward, np.ones(n))
        predicted = ope.reward_model(log)
        own = ope.evaluate(log, served([0, 0, 0, 1], domain), "dr", predicted=predicted)
        other = ope.evaluate(log, logged, "dr", predicted=predicted)
        spread = float(np.ptp(reward)) if guarded else 0.0
        gap = ope.difference(own, other, level=0.98, reward_range=spread)
        enough = gap.effective_n if guarded else own.effective_n
        count += gap.low > 0 and enough >= 50
    return count / simulations


def test_a_dozen_agreeing_rows_are_no_proof() -> None:
    """200 simulations at a nominal 1 %: chance gives more than 7 passes once in 200 such tests."""
    assert passes(2_000, 200, guarded=False) > 0.25, "the trap that this guards against is gone"
    assert passes(2_000, 200, guarded=True) == 0
    assert passes(12_000, 200, guarded=True) <= 7 / 200


def test_the_effective_size_is_that_of_the_rows_which_differ() -> None:
    influence, weights = np.zeros(100), np.ones(100)
    shifted = weights.copy()
    shifted[:4] = 3.0
    own = ope.Evaluation("dr", 0.0, influence, shifted)
    other = ope.Evaluation("dr", 0.0, influence, weights)
    assert ope.difference(own, other).effective_n == pytest.approx(4.0)
    assert ope.difference(own, own).effective_n == 0.0


def test_each_bound_has_one_more_row_as_bad_as_one_can_be() -> None:
    gap = np.array([0.1, 0.2, 0.3, 0.2])
    own = ope.Evaluation("dr", 0.2, gap, np.array([2.0, 1.0, 1.0, 1.0]))
    other = ope.Evaluation("dr", 0.0, np.zeros(4), np.ones(4))
    plain, padded = ope.difference(own, other), ope.difference(own, other, reward_range=0.5)
    worse = np.append(gap, -0.5)
    assert padded.value == plain.value
    assert padded.low == pytest.approx(
        worse.mean() - stats.t.ppf(0.975, 4) * worse.std(ddof=1) / np.sqrt(5), abs=1e-6
    )
    assert padded.high > plain.high
