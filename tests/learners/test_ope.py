"""Estimators against closed forms, and their intervals against simulated truth."""

import numpy as np
import pytest
from scipy import stats

from learners import ope
from learners.errors import EstimateError
from learners.interactions import Interactions
from learners.records import Estimate

FALSE_ALARM = 1e-6
K = 3


def make_log(n: int, seed: int, *, uniform: bool = False) -> tuple[Interactions, np.ndarray]:
    """A log of a context-dependent policy, and every arm's expected reward ``(n, K)``."""
    random = np.random.default_rng(seed)
    x = np.column_stack([np.ones(n), random.normal(size=(n, 2))])
    expected = 0.5 + x @ np.array([[0.1, 0.2, 0.0], [0.0, -0.1, 0.1], [-0.1, 0.0, 0.2]]).T
    share = np.exp(0.0 if uniform else x @ np.random.default_rng(1).normal(size=(3, K)) / 2)
    share = np.broadcast_to(share, (n, K)) / np.broadcast_to(share, (n, K)).sum(1, keepdims=True)
    action = (random.random((n, 1)) > share.cumsum(axis=1)[:, :-1]).sum(axis=1)
    rows = np.arange(n)
    log = Interactions(
        arms=("a", "b", "c"),
        x=x,
        eligible=np.ones((n, K), dtype=np.bool_),
        action=action,
        propensity=share[rows, action],
        reward=expected[rows, action] + random.normal(size=n) / 5,
        weight=np.ones(n),
    )
    return log, expected


def policy(x: np.ndarray) -> np.ndarray:
    """A policy to judge: it prefers arm 0 where the first number is high."""
    raw = np.column_stack(
        [1 / (1 + np.exp(-3 * x[:, 1])), np.full(len(x), 0.3), np.full(len(x), 0.2)]
    )
    found: np.ndarray = raw / raw.sum(axis=1, keepdims=True)
    return found


def test_ips_is_the_mean_weighted_reward():
    log, _ = make_log(50, 0)
    found = ope.evaluate(log, policy(log.x), "ips")
    weights = policy(log.x)[np.arange(50), log.action] / log.propensity
    assert found.value == pytest.approx((weights * log.reward).mean())
    assert np.allclose(found.weights, weights)
    assert found.effective_n == pytest.approx(weights.sum() ** 2 / (weights**2).sum())


def test_snips_is_the_ratio_and_its_influence_averages_to_it():
    log, _ = make_log(50, 0)
    found = ope.evaluate(log, policy(log.x), "snips")
    weights = policy(log.x)[np.arange(50), log.action] / log.propensity
    assert found.value == pytest.approx((weights * log.reward).sum() / weights.sum())
    assert found.influence.mean() == pytest.approx(found.value)


def test_snips_moves_with_the_reward_and_ips_does_not():
    log, _ = make_log(200, 0)
    columns = {name: getattr(log, name) for name in Interactions.__slots__}
    moved = Interactions(**{**columns, "reward": log.reward + 5})
    gap = [ope.evaluate(each, policy(log.x), "snips").value for each in (log, moved)]
    assert gap[1] - gap[0] == pytest.approx(5)


def test_dr_with_a_given_model_is_direct_plus_weighted_residual():
    log, expected = make_log(60, 0)
    spread = policy(log.x)
    found = ope.evaluate(log, spread, "dr", predicted=expected)
    rows = np.arange(60)
    weights = spread[rows, log.action] / log.propensity
    residual = log.reward - expected[rows, log.action]
    assert found.value == pytest.approx(((spread * expected).sum(1) + weights * residual).mean())


@pytest.mark.parametrize("estimator", ope.ESTIMATORS)
def test_the_policy_that_served_the_log_is_worth_the_mean_reward(estimator):
    log, _ = make_log(2000, 2, uniform=True)
    spread = np.full((2000, K), 1 / K)
    found = ope.evaluate(log, spread, estimator)
    tolerance = 1e-12 if estimator in {"ips", "snips"} else 0.02
    assert found.value == pytest.approx(log.reward.mean(), abs=tolerance)
    assert found.effective_n == pytest.approx(2000, rel=0.002)


def test_the_reward_model_never_sees_the_row_that_it_predicts():
    log, _ = make_log(40, 3)
    before = ope.reward_model(log)
    columns = {name: getattr(log, name) for name in Interactions.__slots__}
    reward = log.reward.copy()
    reward[7] += 1000
    after = ope.reward_model(Interactions(**{**columns, "reward": reward}))
    fold = np.arange(40) % ope.FOLDS == 7 % ope.FOLDS
    assert np.array_equal(before[fold], after[fold])
    assert not np.allclose(before[~fold], after[~fold])


def test_an_arm_without_data_is_predicted_by_the_mean_reward():
    log, _ = make_log(60, 3)
    kept = log.rows(log.action != 2)
    predicted = ope.reward_model(kept)
    fold = np.arange(len(kept)) % ope.FOLDS
    for number in range(ope.FOLDS):
        rest = kept.reward[fold != number].mean()
        assert np.allclose(predicted[fold == number, 2], rest)


@pytest.fixture(scope="module")
def found() -> dict[str, list[Estimate]]:
    """Every estimator's estimate on each of 250 logs of 800 rows."""
    estimates: dict[str, list[Estimate]] = {name: [] for name in ope.ESTIMATORS}
    for seed in range(250):
        log, _ = make_log(800, 100 + seed)
        for name, evaluation in ope.evaluate_each(log, policy(log.x)).items():
            estimates[name].append(ope.estimate(evaluation))
    return estimates


@pytest.mark.parametrize("estimator", ope.ESTIMATORS)
def test_a_95_percent_interval_covers_the_truth_95_times_of_100(estimator, found):
    covered = sum(one.low <= TRUTH <= one.high for one in found[estimator])
    # Too few: 0.92 leaves room for the normal approximation at n = 800.
    assert stats.binom.cdf(covered, 250, 0.92) > FALSE_ALARM, covered
    # Too many: such an interval would be too wide to be of use.
    assert stats.binom.sf(covered - 1, 250, 0.975) > FALSE_ALARM, covered


def test_a_model_that_fits_makes_estimates_more_exact(found):
    error = {
        name: np.sqrt(np.mean([(one.value - TRUTH) ** 2 for one in estimates]))
        for name, estimates in found.items()
    }
    assert error["dm"] < error["dr"] < error["ips"]
    assert error["dros"] < 1.02 * error["dr"]
    assert error["switch_dr"] < 1.02 * error["dr"]


def _truth() -> float:
    log, expected = make_log(400_000, 7)
    return float((policy(log.x) * expected).sum(axis=1).mean())


TRUTH = _truth()


def test_a_paired_difference_is_narrower_than_two_intervals():
    log, _ = make_log(1000, 4)
    spread = policy(log.x)
    near = 0.9 * spread + 0.1 / K
    first, second = (ope.evaluate(log, each, "dr") for each in (spread, near))
    paired = ope.difference(first, second)
    assert paired.value == pytest.approx(first.value - second.value)
    assert paired.standard_error < 0.5 * ope.estimate(first).standard_error
    assert ope.difference(first, first).value == 0


def test_what_can_not_be_evaluated_is_refused():
    log, _ = make_log(20, 0)
    spread = policy(log.x)
    with pytest.raises(EstimateError, match="empty"):
        ope.evaluate(log.rows(slice(0, 0)), spread[:0])
    with pytest.raises(EstimateError, match="is not"):
        ope.evaluate(log, spread[:, :2])
    with pytest.raises(EstimateError, match="predicted"):
        ope.evaluate(log, spread, "dr", predicted=np.zeros((20, 2)))
    with pytest.raises(EstimateError, match="level"):
        ope.estimate(ope.evaluate(log, spread), level=1.0)
    with pytest.raises(EstimateError, match="different logs"):
        ope.difference(
            ope.evaluate(log, spread, "ips"), ope.evaluate(log.rows(slice(0, 9)), spread[:9], "ips")
        )


@pytest.mark.parametrize("value", [np.nan, -0.5, 2.0])
def test_a_distribution_that_is_none_is_refused_with_its_row(value):
    log, _ = make_log(20, 0)
    spread = policy(log.x)
    spread[4, 1] = value
    with pytest.raises(EstimateError, match="row 4"):
        ope.evaluate(log, spread)


def test_a_policy_that_never_chooses_what_was_served_has_no_overlap():
    log, _ = make_log(20, 0)
    kept = log.rows(log.action != 0)
    always = np.tile([1.0, 0.0, 0.0], (len(kept), 1))
    with pytest.raises(EstimateError, match="no overlap"):
        ope.evaluate(kept, always, "snips")
