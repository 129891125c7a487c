from dataclasses import replace

import numpy as np
import pytest

from learners.exploration import Exploration
from learners.interactions import Interactions, joined
from learners.scorers.linear import Linear, constant
from learners.trials import MIN_REQUESTS, Trials, tried

ARMS = ("a", "b", "c")
TRUTH = np.array([0.2, 0.5, 0.8])


def policy(*scores: float) -> Linear:
    return constant(dict(zip(ARMS, scores, strict=True)), 1, Exploration("greedy", floor=0.1))


FIRST, BEST, WORST = policy(0.0, 0.9, 0.1), policy(0.0, 0.0, 1.0), policy(1.0, 0.0, 0.0)


def served(n: int, seed: int) -> Interactions:
    """Single rows of uneven propensities, rewards 0 or 1."""
    random = np.random.default_rng(seed)
    share = np.array([0.2, 0.3, 0.5])
    action = random.choice(3, size=n, p=share)
    return rows_of(action, share[action], (random.random(n) < TRUTH[action]).astype(float))


def asked(n: int, seed: int) -> Interactions:
    """Whole probes."""
    random = np.random.default_rng(seed)
    reward = (random.random((n, 3)) < TRUTH).astype(float)
    return rows_of(np.tile(np.arange(3), n), np.ones(3 * n), reward.ravel())


def rows_of(action, propensity, reward) -> Interactions:
    n = len(action)
    return Interactions(
        arms=ARMS,
        x=np.ones((n, 1)),
        eligible=np.ones((n, 3), dtype=np.bool_),
        action=action,
        propensity=propensity,
        reward=reward,
        weight=np.ones(n),
    )


@pytest.mark.parametrize("log_of", [served, asked])
def test_gains_over_the_first_are_right_on_average(log_of):
    n, found = 200, []
    for seed in range(60):
        trials = tried(Trials.empty(3), log_of(n, seed), (FIRST, BEST, WORST), 1.0)
        assert trials.count == n
        found.append(trials.gain / trials.count)
    mean, error = np.mean(found, axis=0), np.std(found, axis=0) / np.sqrt(60)
    # What the policies choose when they do not explore. False alarm below 1 in 10,000 each.
    assert mean[0] == 0.0
    assert np.abs(mean[1:] - (0.3, -0.3)) == pytest.approx(0, abs=float(4 * error.max()))


def test_a_cut_probe_counts_as_what_it_shows_and_a_whole_one_once():
    both = joined([asked(10, 0), served(15, 1)])
    assert tried(Trials.empty(2), both, (FIRST, BEST), 1.0).count == 25


def test_the_squares_tell_how_sure_a_gain_is():
    found = [tried(Trials.empty(2), asked(100, seed), (FIRST, BEST), 1.0) for seed in range(60)]
    means = np.array([trials.gain[1] / trials.count for trials in found])
    told = [np.sqrt(t.square[1] / t.count - (t.gain[1] / t.count) ** 2) / 10 for t in found]
    assert np.mean(told) == pytest.approx(means.std(), rel=0.3)


def test_older_pieces_count_less():
    once = tried(Trials.empty(2), asked(100, 0), (FIRST, BEST), 1.0)
    faded = tried(once, asked(50, 1), (FIRST, WORST), 0.5)
    alone = tried(Trials.empty(2), asked(50, 1), (FIRST, WORST), 1.0)
    assert faded.count == 0.5 * 100 + 50
    assert faded.gain == pytest.approx(0.5 * once.gain + alone.gain)
    assert faded.square == pytest.approx(0.5 * once.square + alone.square)


def test_the_first_wins_until_another_is_surely_better():
    few = Trials(MIN_REQUESTS - 1, np.array([0.0, 40.0]), np.array([0.0, 40.0]))
    assert few.winner(2.0) == 0
    n = 400.0
    # A gain of .1 of deviation 1 has a standard error of .05.
    some = Trials(n, np.array([0.0, 0.1 * n]), np.array([0.0, 1.01 * n]))
    assert some.winner(1.9) == 1
    assert some.winner(2.1) == 0
    three = Trials(n, np.array([0.0, 0.2 * n, 0.3 * n]), np.array([0.0, 1.04, 30.0]) * n)
    assert three.winner(0.0) == 2
    assert three.winner(1.0) == 1


@pytest.mark.parametrize("log_of", [served, asked])
def test_what_is_doubted_says_less(log_of):
    log = log_of(40, 3)
    doubted = replace(log, weight=np.full(len(log), 0.25))
    sure, unsure = (tried(Trials.empty(2), each, (FIRST, BEST), 1.0) for each in (log, doubted))
    assert unsure.count == pytest.approx(0.25 * sure.count)
    assert unsure.gain == pytest.approx(0.25 * sure.gain)
    twice = replace(log, weight=np.full(len(log), 2.0))
    assert tried(Trials.empty(2), twice, (FIRST, BEST), 1.0).count == sure.count
