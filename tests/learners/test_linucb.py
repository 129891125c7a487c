from dataclasses import replace

import numpy as np
import pytest

from learners import linucb
from learners.contract import Spec
from learners.errors import SpecError
from learners.features import Feature, Schema

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
        return max(linucb.PENALTIES, key=lambda ridge: linucb._fit(trained, ridge).evidence)

    assert chosen(noise) > chosen(signal)


def test_statistics_that_no_bundle_holds_are_refused():
    wide = Schema((Feature("terms", "vector", size=1000),))
    with pytest.raises(SpecError, match="fewer columns"):
        linucb.init(Spec(wide, tuple("abcdefg")))


def test_alpha_0_leaves_a_plain_linear_scorer(schema, log_of):
    log = log_of(50, ARMS)
    state = linucb.learn(linucb.init(Spec(schema, log.arms, {"alpha": 0.0})), log)
    assert linucb.freeze(state).kind == "linear"
