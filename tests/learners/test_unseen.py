import numpy as np
import pytest

from learners import ope
from learners.interactions import Interactions
from learners.unseen import LEAST, gain_seen

ARMS = 5


def logged(seed, rows, policy):
    """A log that a policy ``(rows, ARMS)`` served, with rewards of a coin."""
    random = np.random.default_rng(seed)
    action = (policy.cumsum(axis=1) < random.random((rows, 1))).sum(axis=1)
    return Interactions(
        arms=tuple(f"arm{number}" for number in range(ARMS)),
        x=np.ones((rows, 1)),
        eligible=np.ones((rows, ARMS), dtype=np.bool_),
        action=action,
        propensity=policy[np.arange(rows), action],
        reward=random.integers(0, 2, rows).astype(float),
        weight=np.ones(rows),
    )


def favouring(arms, exploration):
    return (1 - exploration) * np.eye(ARMS)[arms] + exploration / ARMS


def turned(rows, share):
    """Favourites that turn from arm 0 to arm 1 on the first rows."""
    return np.where(np.arange(rows) < share * rows, 1, 0)


def test_a_turn_that_the_log_never_served_is_not_shown_though_many_rows_have_weight():
    rows = 600
    champion = favouring(np.zeros(rows, dtype=int), 0.2)
    candidate = favouring(turned(rows, 0.05), 0.02)
    log = logged(0, rows, champion)
    unlucky = ~((log.action == 1) & (turned(rows, 0.05) == 1))
    log, champion, candidate = log.rows(unlucky), champion[unlucky], candidate[unlucky]
    own, other = (ope.evaluate(log, policy) for policy in (candidate, champion))
    assert ope.difference(own, other).effective_n > 300
    found = gain_seen(log, candidate, champion)
    assert not found.passed
    assert found.value == 0.0
    assert found.sentence == (
        "the log shows 0% of what it would choose otherwise than the champion, less than the 50% "
        "needed"
    )


def test_a_log_that_explored_evenly_shows_what_any_policy_would_change():
    rows = 2_000
    even = np.full((rows, ARMS), 1 / ARMS)
    for share in (0.05, 0.3, 1.0):
        candidate = favouring(turned(rows, share), 0.02)
        found = gain_seen(logged(1, rows, even), candidate, favouring(np.zeros(rows, dtype=int), 0))
        assert found.passed
        assert found.value == pytest.approx(1.0, abs=0.35)


def test_with_as_many_effective_rows_as_a_gate_asks_for_it_hardly_ever_refuses():
    rows, refused, asked = 3_000, 0, 0
    champion = favouring(np.zeros(rows, dtype=int), 0.2)
    candidate = favouring(turned(rows, 0.45), 0.02)
    for seed in range(300):
        log = logged(seed, rows, champion)
        own, other = (ope.evaluate(log, policy, "ips") for policy in (candidate, champion))
        if ope.difference(own, other).effective_n >= 50:
            asked += 1
            refused += not gain_seen(log, candidate, champion).passed
    # Half of 50 rows missing is 3.5 standard errors.
    assert asked > 100
    assert refused == 0


def test_two_policies_that_are_alike_have_nothing_to_show():
    champion = favouring(np.zeros(50, dtype=int), 0.2)
    found = gain_seen(logged(2, 50, champion), champion, champion, name="best fixed arm")
    assert found.passed
    assert (found.name, found.value, found.bound) == ("gain_seen_over_best_fixed_arm", 1.0, LEAST)
