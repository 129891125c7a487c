from dataclasses import replace

import numpy as np
import pytest

from bench import learning_judge
from bench.learning_judge import GAMED, GUARDS, Guard, guarded, share_of, worth_of
from learners.interactions import Interactions


def log_of(n: int = 2_000) -> tuple[Interactions, np.ndarray]:
    """Two arms: the first only pleases the judge, and a trusted person spoke of a tenth."""
    rng = np.random.default_rng(0)
    action = rng.integers(2, size=n)
    worth = np.array([0.0, 0.6])[action]
    log = Interactions(
        arms=(GAMED, "honest"),
        x=np.ones((n, 1)),
        eligible=np.ones((n, 2), dtype=np.bool_),
        action=action,
        propensity=np.full(n, 0.5),
        reward=np.array([0.9, 0.6])[action],
        weight=np.ones(n),
        source=np.zeros(n, dtype=np.int64),
    )
    said = (rng.random(n) < worth).astype(np.float64)
    return log, np.where(rng.random(n) < 0.1, said, np.nan)


def means(log: Interactions) -> list[float]:
    rows = [log.action == arm for arm in (0, 1)]
    return [float(np.average(log.reward[one], weights=log.weight[one])) for one in rows]


def test_without_a_guard_the_log_is_the_judges():
    log, trusted = log_of()
    assert means(guarded(GUARDS[0], log, np.full_like(trusted, np.nan))) == pytest.approx(
        [0.9, 0.6]
    )


def test_a_cap_has_judge_and_trusted_weigh_alike_and_a_correction_ends_the_game():
    log, trusted = log_of()
    plain, capped, corrected = (
        means(guarded(guard, log, trusted))
        for guard in (Guard("", 0.1), Guard("", 0.1, 0.5), Guard("", 0.1, correct=True))
    )
    assert plain[0] == pytest.approx(0.81, abs=0.02)
    assert capped[0] == pytest.approx(0.45, abs=1e-9)
    # 100 trusted grades of a variance of .24: 4 standard errors.
    assert corrected == pytest.approx([0.0, 0.6], abs=0.2)
    assert corrected[0] < 0.05


def test_the_goal_is_missed_by_a_share_that_is_not_below_it():
    guard = replace(GUARDS[0], goal=True)
    assert share_of(guard, "linucb", [0.01, 0.02]).holds is True
    assert share_of(guard, "linucb", [0.02, 0.02]).holds is False
    assert share_of(GUARDS[0], "linucb", [0.9]).holds is None
    assert worth_of("linucb", [0.3, 0.4], 0.7).ratio == 0.5


def test_nothing_is_measured_without_the_tables(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("POINTSMAN_BENCH_DATA", raising=False)
    assert learning_judge.run(quick=True) == []
