from dataclasses import replace

import numpy as np
import pytest

from learners import linucb
from learners.contract import Spec
from learners.errors import SpecError
from learners.features import Feature, Schema
from learners.ridge import PENALTIES, Pooled

ARMS = 3


def test_without_pooling_each_arm_is_its_own_ridge_regression(schema, log_of):
    log = log_of(200, ARMS)
    params = {"ridge": 2.0, "ridge_constant": 2.0, "pooling": 0.0}
    state = linucb.learn(linucb.init(Spec(schema, log.arms, params)), log)
    scorer = linucb.freeze(state)
    mean = log.reward.mean()
    for arm in range(ARMS):
        x, reward = log.x[log.action == arm], log.reward[log.action == arm]
        regular = x.T @ x + 2.0 * np.eye(x.shape[1])
        expected = np.linalg.solve(regular, x.T @ (reward - mean))
        expected[0] += mean
        assert np.allclose(scorer.weights[arm], expected, atol=1e-9)


def test_pooled_weights_minimise_the_joint_penalised_error(schema, log_of):
    log = log_of(150, ARMS)
    ridge, pooling = 5.0, 0.3
    params = {"ridge": ridge, "ridge_constant": ridge, "pooling": pooling}
    found = linucb.freeze(linucb.learn(linucb.init(Spec(schema, log.arms, params)), log)).weights
    d, n = schema.dimension, len(log)
    # One regression of all weights at once: the shared ones, then each arm's own.
    wide = np.zeros((n, d * (1 + ARMS)))
    wide[:, :d] = log.x
    for i, arm in enumerate(log.action):
        wide[i, d * (1 + arm) : d * (2 + arm)] = log.x[i]
    penalty = np.diag(np.repeat([ridge * pooling] + [ridge] * ARMS, d))
    mean = log.reward.mean()
    joint = np.linalg.solve(wide.T @ wide + penalty, wide.T @ (log.reward - mean))
    expected = joint[d:].reshape(ARMS, d) + joint[:d]
    expected[:, 0] += mean
    assert np.allclose(found, expected, atol=1e-8)


def test_the_bonus_is_alpha_standard_errors(schema, log_of, contexts_of):
    log = log_of(100, ARMS)
    params = {"ridge": 4.0, "ridge_constant": 4.0, "alpha": 0.7}
    state = linucb.learn(linucb.init(Spec(schema, log.arms, params)), log)
    scorer, x = linucb.freeze(state), contexts_of(20, 3)
    bonus = scorer.scores(x) - x @ scorer.weights.T
    for arm in range(ARMS):
        seen = log.x[log.action == arm]
        inverse = np.linalg.inv(seen.T @ seen + 4.0 * np.eye(x.shape[1]))
        expected = 0.7 * log.reward.std() * np.sqrt(np.einsum("nd,de,ne->n", x, inverse, x))
        assert np.allclose(bonus[:, arm], expected, atol=1e-9)


def test_noise_is_met_with_a_stronger_penalty_than_signal(schema, log_of):
    log = log_of(400, ARMS)
    state = linucb.init(Spec(schema, log.arms))
    signal = linucb.learn(state, log)
    shuffled = np.random.default_rng(0).permutation(log.reward)
    noise = linucb.learn(state, replace(log, reward=shuffled))

    def chosen(trained):
        def evidence(ridge):
            seen = trained.moments
            return Pooled(ridge, 1.0, 0.1).fit(trained.statistics, seen.mean, seen.scale).evidence

        return max(PENALTIES, key=evidence)

    assert chosen(noise) > chosen(signal)


def test_statistics_that_no_bundle_holds_are_refused():
    wide = Schema((Feature("terms", "vector", size=1000),))
    with pytest.raises(SpecError, match="fewer columns"):
        linucb.init(Spec(wide, tuple("abcdefg")))


def test_alpha_0_leaves_a_plain_linear_scorer(schema, log_of):
    log = log_of(50, ARMS)
    state = linucb.learn(linucb.init(Spec(schema, log.arms, {"alpha": 0.0})), log)
    assert linucb.freeze(state).kind == "linear"


def test_with_a_half_life_it_is_the_regression_of_rows_that_fade_by_position(schema, log_of):
    log, half_life = log_of(120, ARMS), 25.0
    fixed = {"ridge": 3.0, "alpha": 0.6}
    fading = Spec(schema, log.arms, {**fixed, "half_life": half_life})
    state = linucb.init(fading)
    for start, stop in ((0, 1), (1, 50), (50, 50), (50, 120)):
        state = linucb.learn(state, log.rows(slice(start, stop)))
    weighted = replace(log, weight=np.exp2(-np.arange(120)[::-1] / half_life))
    plain = linucb.learn(linucb.init(Spec(schema, log.arms, fixed)), weighted)
    first, second = linucb.freeze(state), linucb.freeze(plain)
    assert np.allclose(first.weights, second.weights, atol=1e-10)
    assert first.inverse is not None
    assert second.inverse is not None
    assert np.allclose(first.inverse, second.inverse, atol=1e-10)
    assert first.alpha == pytest.approx(second.alpha)


def test_an_arm_that_changed_is_left_sooner_where_older_rewards_fade(schema, log_of):
    early, late = log_of(600, 2, seed=1), log_of(100, 2, seed=2)
    early = replace(early, reward=np.where(early.action == 0, 0.8, 0.5))
    late = replace(late, reward=np.where(late.action == 0, 0.2, 0.5))
    shares = []
    for half_life in (0.0, 40.0):
        state = linucb.init(Spec(schema, early.arms, {"half_life": half_life}))
        scorer = linucb.freeze(linucb.learn(linucb.learn(state, early), late))
        shares.append(scorer.distribution(late.x, np.ones((100, 2), dtype=np.bool_))[:, 0].mean())
    assert shares[0] > 0.8
    assert shares[1] < 0.2


def test_workers_states_merge_to_the_same_bytes_in_any_order(schema, log_of):
    spec = Spec(schema, log_of(1, ARMS).arms)
    base = linucb.learn(linucb.init(spec), log_of(50, ARMS, seed=9))
    workers = [linucb.learn(base, log_of(70, ARMS, seed=seed)) for seed in range(4)]
    found = linucb.merge(base, workers)
    for order in ((3, 2, 1, 0), (1, 3, 0, 2)):
        merged = linucb.merge(base, [workers[i] for i in order])
        assert linucb.snapshot(merged) == linucb.snapshot(found)
    one = base
    for seed in range(4):
        one = linucb.learn(one, log_of(70, ARMS, seed=seed))
    x = log_of(40, ARMS, seed=5).x
    first, second = linucb.freeze(found).scores(x), linucb.freeze(one).scores(x)
    assert np.allclose(first, second, rtol=0, atol=1e-9)


def test_states_that_do_not_fit_together_are_not_merged(schema, log_of):
    log = log_of(30, ARMS)
    state = linucb.learn(linucb.init(Spec(schema, log.arms)), log)
    other = linucb.init(Spec(schema, log.arms, {"alpha": 1.0}))
    for states in ([], [state, other]):
        with pytest.raises(SpecError, match="all of the base's spec"):
            linucb.merge(state, states)
    fading = linucb.init(Spec(schema, log.arms, {"half_life": 9.0}))
    with pytest.raises(SpecError, match="half_life is 9"):
        linucb.merge(fading, [fading])


@pytest.mark.parametrize("params", [{"half_life": -1.0}, {"pooling": 1e-9}, {"pooling": -0.1}])
def test_fading_and_pooling_that_fit_nothing_are_refused(schema, params):
    with pytest.raises(SpecError, match="give a finite number of at least"):
        linucb.init(Spec(schema, ("a", "b"), params))
