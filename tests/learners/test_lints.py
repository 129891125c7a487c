import numpy as np
import pytest
from scipy import stats

from learners import lints
from learners.contract import Spec
from learners.errors import SpecError
from learners.features import Schema
from learners.interactions import Interactions
from learners.ridge import Pooled

ARMS = 3
FALSE_ALARM = 1e-6
"""Of one test; the seed is fixed, so what passes once passes always."""


def plain(n: tuple[int, int], mean: tuple[float, float], seed: int) -> Interactions:
    """Two arms that only their means tell apart: n rewards each, of exactly these means."""
    random = np.random.default_rng(seed)
    rewards = [random.normal(size=size) for size in n]
    reward = np.concatenate([r - r.mean() + m for r, m in zip(rewards, mean, strict=True)])
    total = len(reward)
    return Interactions(
        arms=("a", "b"),
        x=np.ones((total, 1)),
        eligible=np.ones((total, 2), dtype=np.bool_),
        action=np.repeat([0, 1], n),
        propensity=np.full(total, 0.5),
        reward=reward,
        weight=np.ones(total),
    )


def test_votes_are_the_probability_that_a_gaussian_draw_is_the_better():
    n, penalty, members = (8, 30), 2.0, 40_000
    log = plain(n, (0.3, 0.0), seed=3)
    params = {"ridge_constant": penalty, "pooling": 0.0, "members": members, "floor": 0.0}
    state = lints.learn(lints.init(Spec(Schema(()), log.arms, params)), log)
    mean = log.reward.mean()
    precision = np.array(n) + penalty
    centre = np.array(n) * (np.array([0.3, 0.0]) - mean) / precision
    apart = log.reward - mean
    moment = np.array(n) * (np.array([0.3, 0.0]) - mean)
    residual = apart @ apart - moment @ centre
    noise = (residual + log.reward.var()) / (len(log) + 1)
    gap = (centre[0] - centre[1]) / np.sqrt(noise * (1 / precision).sum())
    expected = stats.norm.cdf(gap)
    found = lints.freeze(state).distribution(np.ones((1, 1)), np.ones((1, 2), dtype=np.bool_))
    # The members' draws are centred, so their share varies less than a binomial would.
    width = stats.norm.isf(FALSE_ALARM / 2) * np.sqrt(expected * (1 - expected) / members)
    assert 0.6 < expected < 0.95
    assert abs(found[0, 0] - expected) < width


def test_draws_have_the_joint_posteriors_covariance(schema, log_of):
    log = log_of(60, ARMS)
    ridge, pooling, members = 5.0, 0.3, 20_000
    params = {"ridge": ridge, "ridge_constant": ridge, "pooling": pooling, "members": members}
    state = lints.learn(lints.init(Spec(schema, log.arms, params)), log)
    weights = lints.freeze(state).weights.reshape(members, -1)
    d, n = schema.dimension, len(log)
    wide = np.zeros((n, d * (1 + ARMS)))
    wide[:, :d] = log.x
    for i, arm in enumerate(log.action):
        wide[i, d * (1 + arm) : d * (2 + arm)] = log.x[i]
    penalty = np.diag(np.repeat([ridge * pooling] + [ridge] * ARMS, d))
    joint = np.linalg.inv(wide.T @ wide + penalty)
    each = np.hstack([np.tile(np.eye(d), (ARMS, 1)), np.eye(ARMS * d)])
    expected = each @ joint @ each.T
    apart = log.reward - log.reward.mean()
    moment = wide.T @ apart
    noise = (apart @ apart - moment @ joint @ moment + log.reward.var()) / (n + 1)
    directions = np.random.default_rng(0).normal(size=(30, ARMS * d))
    found = (weights @ directions.T).var(axis=0)
    ratio = found / (noise * np.einsum("nd,de,ne->n", directions, expected, directions))
    # Each is a chi-square over its degrees; 30 tests share the false alarm.
    low, high = stats.chi2.ppf([FALSE_ALARM / 60, 1 - FALSE_ALARM / 60], members - 1)
    assert ((ratio > low / members) & (ratio < high / members)).all()


def test_the_members_mean_is_the_regression_itself(schema, log_of):
    log = log_of(80, ARMS)
    state = lints.learn(lints.init(Spec(schema, log.arms)), log)
    seen = state.moments
    expected = Pooled.of(state.params).fit(state.statistics, seen.mean, seen.scale).weights
    found = lints.freeze(state).weights.mean(axis=0)
    found[:, 0] -= seen.mean
    assert np.allclose(found, expected, atol=1e-12)


def test_draws_are_new_with_each_revision_and_the_seed_decides_them(schema, log_of):
    log = log_of(80, ARMS)

    def deviations(rows: Interactions, seed: int = 0) -> np.ndarray:
        state = lints.learn(lints.init(Spec(schema, log.arms, seed=seed)), rows)
        weights = lints.freeze(state).weights
        return np.asarray(weights - weights.mean(axis=0))

    first = deviations(log)
    assert np.array_equal(first, deviations(log))
    assert np.corrcoef(first.ravel(), deviations(log, seed=1).ravel())[0, 1] < 0.5
    assert np.corrcoef(first.ravel(), deviations(log.rows(slice(0, 79))).ravel())[0, 1] < 0.5


def test_an_arm_keeps_its_draws_when_another_joins(schema, log_of):
    log = log_of(80, ARMS)
    spec = Spec(schema, log.arms, {"pooling": 0.0, "ridge": 10.0})
    state = lints.learn(lints.init(spec), log)
    more = lints.rearm(state, Spec(schema, ("new", *log.arms), spec.params))
    assert np.allclose(lints.freeze(more).weights[:, 1:], lints.freeze(state).weights)


def test_an_arm_of_little_data_gets_more_votes_than_one_known_to_be_as_good():
    few, many = (3, 400), (400, 400)
    shares = []
    for n in (few, many):
        log = plain(n, (-0.3, 0.0), seed=1)
        state = lints.learn(lints.init(Spec(Schema(()), log.arms)), log)
        spread = lints.freeze(state).distribution(np.ones((1, 1)), np.ones((1, 2), dtype=np.bool_))
        shares.append(spread[0, 0])
    assert shares[0] > 0.2
    assert shares[1] < 0.05


def test_draws_that_no_bundle_holds_are_refused(schema):
    with pytest.raises(SpecError, match="fewer members"):
        lints.init(Spec(schema, tuple(f"arm-{i}" for i in range(100)), {"members": 10_000}))


def test_one_member_is_no_vote(schema):
    with pytest.raises(SpecError, match="at least 2"):
        lints.init(Spec(schema, ("a", "b"), {"members": 1}))
