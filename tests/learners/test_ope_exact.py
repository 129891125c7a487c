"""Estimators against expectations over all draws, and against slow and plain code."""

import itertools
import math

import numpy as np
import pytest
from numpy.typing import NDArray

from learners import ope
from learners.errors import EstimateError
from learners.interactions import Interactions
from learners.ope import models, tuning

Floats = NDArray[np.float64]
ARMS = ("a", "b")
SERVED = np.array([[0.3, 0.7], [0.6, 0.4], [0.5, 0.5], [0.9, 0.1]])
JUDGED = np.array([[0.8, 0.2], [0.0, 1.0], [0.4, 0.6], [0.5, 0.5]])
CHANCE = np.array([[0.2, 0.9], [0.5, 0.1], [0.7, 0.7], [0.0, 0.4]])
RIDGE = np.diag([1.0, 4.0, 4.0, 4.0])
X = np.array([[1.0, 0.5], [1.0, -1.0], [1.0, 2.0], [1.0, 0.0]])


def log_of(x: Floats, action: NDArray[np.int64], propensity: Floats, reward: Floats, k: int = 2):
    n = len(x)
    arms = tuple("abcdefgh"[:k])
    eligible = np.ones((n, k), dtype=np.bool_)
    return Interactions(arms, x, eligible, action, propensity, reward, np.ones(n))


def every_log():
    """All logs of the four requests, each with its chance."""
    rows = np.arange(4)
    for draw in itertools.product(range(2), repeat=8):
        action, reward = np.array(draw[:4]), np.array(draw[4:], dtype=float)
        paid = CHANCE[rows, action]
        chance = np.prod(SERVED[rows, action] * np.where(reward > 0, paid, 1 - paid))
        if chance > 0:
            yield float(chance), log_of(X, action, SERVED[rows, action], reward)


def test_ips_and_cross_fitted_dr_are_right_on_average_over_all_logs():
    truth = float((JUDGED * CHANCE).sum(axis=1).mean())
    mean = dict.fromkeys(("ips", "dr", "given", "dm"), 0.0)
    guess = np.array([[0.9, 0.1], [0.3, 0.3], [0.2, 0.8], [1.5, -2.0]])
    for chance, log in every_log():
        for name in ("ips", "dr", "dm"):
            mean[name] += chance * ope.evaluate(log, JUDGED, name).value
        mean["given"] += chance * ope.evaluate(log, JUDGED, "dr", predicted=guess).value
    for name in ("ips", "dr", "given"):
        assert mean[name] == pytest.approx(truth, abs=1e-12), name
    assert abs(mean["dm"] - truth) > 1e-3


def test_paired_differences_are_right_on_average_over_all_logs():
    other = JUDGED[:, ::-1].copy()
    truth = float(((JUDGED - other) * CHANCE).sum(axis=1).mean())
    mean = sum(
        chance * ope.difference(ope.evaluate(log, JUDGED), ope.evaluate(log, other)).value
        for chance, log in every_log()
    )
    assert mean == pytest.approx(truth, abs=1e-12)


def test_segments_and_arms_are_right_on_average_over_all_logs():
    labels = np.array(["x", "y", "x", "y"])
    parts = {"x": 0.0, "y": 0.0}
    arms = {"a": 0.0, "b": 0.0}
    alone = {"a": 0.0, "b": 0.0}
    model = np.full((4, 2), 0.4)
    for chance, log in every_log():
        for name, one in ope.by_segment(log, JUDGED, labels, "dr").items():
            parts[name] += chance * one.value
        for name, one in ope.by_arm(log, JUDGED, "dr", predicted=model).items():
            arms[name] += chance * one.value
        for name in alone:  # an arm that never served is left out, so its mean is not over all logs
            always = np.tile([float(name == "a"), float(name == "b")], (4, 1))
            alone[name] += chance * ope.evaluate(log, always, "ips").value
    earned = JUDGED * CHANCE
    assert parts["x"] == pytest.approx(earned[[0, 2]].sum() / 2)
    assert parts["y"] == pytest.approx(earned[[1, 3]].sum() / 2)
    for i, name in enumerate(ARMS):
        assert arms[name] == pytest.approx(earned[:, i].sum() / JUDGED[:, i].sum())
        assert alone[name] == pytest.approx(CHANCE[:, i].mean())


@pytest.fixture
def case() -> tuple[Interactions, Floats]:
    """A log of 300 rows with some heavy weights, and a policy."""
    random = np.random.default_rng(5)
    n, k = 300, 4
    x = np.column_stack([np.ones(n), random.normal(size=(n, 3))])
    share = random.dirichlet([0.4] * k, size=n) * 0.96 + 0.01
    judged = random.dirichlet([0.6] * k, size=n)
    action = (random.random((n, 1)) > share.cumsum(axis=1)).sum(axis=1).clip(0, k - 1)
    reward = 0.3 + 0.1 * x[:, 1] + 0.2 * (action == 2) + random.normal(size=n)
    return log_of(x, action, share[np.arange(n), action], reward, k), judged


def test_the_reward_model_is_one_ridge_regression_an_arm_and_fold(case):
    log, _ = case
    fold = np.arange(300) % ope.FOLDS
    slow = np.empty((300, 4))
    for number in range(ope.FOLDS):
        mean = log.reward[fold != number].mean()
        for arm in range(4):
            rows = (fold != number) & (log.action == arm)
            x = log.x[rows]
            weights = np.linalg.solve(x.T @ x + RIDGE, x.T @ (log.reward[rows] - mean))
            slow[fold == number, arm] = log.x[fold == number] @ weights + mean
    assert np.allclose(ope.reward_model(log), slow, atol=1e-12)


def test_rows_of_one_cluster_share_a_fold(case):
    log, _ = case
    clusters = np.random.default_rng(0).integers(-1, 40, size=300)
    before = ope.reward_model(log, clusters=clusters)
    columns = {name: getattr(log, name) for name in Interactions.__slots__}
    reward = log.reward + 100.0 * (clusters == 7)
    after = ope.reward_model(Interactions(**{**columns, "reward": reward}), clusters=clusters)
    assert np.array_equal(before[clusters == 7], after[clusters == 7])
    assert not np.allclose(before, after)


def test_the_direct_method_weighs_rewards_as_its_regression_does(case):
    log, judged = case
    wanted = models.chosen_contexts(log.x, judged)
    assert np.allclose(wanted, judged.T @ log.x)
    weights = models.implied_weights(log, wanted)
    value = 0.0
    for arm in range(4):
        x, reward = log.x[log.action == arm], log.reward[log.action == arm]
        fitted = np.linalg.solve(x.T @ x + RIDGE, x.T @ reward)
        value += float((judged[:, arm] * (log.x @ fitted)).sum())
    assert weights @ log.reward == pytest.approx(value)


def test_the_threshold_is_the_one_of_the_least_estimated_error(case):
    log, judged = case
    rows = np.arange(300)
    model = ope.reward_model(log)
    weights = judged[rows, log.action] / log.propensity
    direct, residual = (judged * model).sum(axis=1), log.reward - model[rows, log.action]
    spread = 0.02  # rewards that are close, so that a bias is cheap
    positive = weights[weights > 0]
    low, high = np.quantile(positive, (0.05, 0.95)).tolist()
    tried = np.geomspace(low, high, tuning.THRESHOLDS).tolist()

    def error(most: float) -> float:
        kept = direct + np.where(weights <= most, weights, 0.0) * residual
        return float(kept.var(ddof=1) / 300 + (spread * weights[weights > most].sum() / 300) ** 2)

    best = min([*tried, math.inf], key=error)
    assert tuning.threshold(weights, direct, residual, spread) == pytest.approx(best)
    assert math.isfinite(best)
    assert tuning.threshold(weights, direct, residual, 1e6) == math.inf


def test_shrunk_weights_are_at_most_half_the_root_of_the_parameter():
    weights = np.array([0.0, 0.5, 2.0, 50.0])
    assert np.array_equal(tuning.shrunk(weights, math.inf), weights)
    assert np.allclose(tuning.shrunk(weights, 4.0), [0.0, 0.5 * 4 / 4.25, 1.0, 200 / 2504])


def heavy(seed: int) -> tuple[Interactions, Floats, float]:
    """A log of which a policy weighs some rows by up to 500, and that policy's value."""
    random = np.random.default_rng(seed)
    n = 1_000
    x = np.column_stack([np.ones(n), random.normal(size=n)])
    chance = np.exp(random.uniform(np.log(0.001), np.log(0.5), n))
    action = (random.random(n) < chance).astype(np.int64)
    reward = 0.5 + 0.1 * x[:, 1] + random.normal(size=n)
    log = log_of(x, action, np.where(action == 1, chance, 1 - chance), reward)
    return log, np.full((n, 2), 0.5), 0.5


def test_shrinkage_and_switching_help_where_few_rows_weigh_much():
    errors: dict[str, list[float]] = {"dr": [], "dros": [], "switch_dr": []}
    inside = dict.fromkeys(errors, 0)
    for seed in range(60):
        log, judged, truth = heavy(seed)
        for name, one in ope.evaluate_each(log, judged, ("dr", "dros", "switch_dr")).items():
            errors[name].append((one.value - truth) ** 2)
            interval = ope.estimate(one)
            inside[name] += interval.low <= truth <= interval.high
    assert np.mean(errors["dros"]) < 0.75 * np.mean(errors["dr"])
    assert np.mean(errors["switch_dr"]) <= np.mean(errors["dr"])
    assert inside["dros"] >= inside["dr"]


def test_the_intervals_of_shrunk_estimators_are_as_wide_as_those_of_dr():
    log, judged, _ = heavy(3)
    plain, shrunk = (ope.evaluate(log, judged, name) for name in ("dr", "dros"))
    assert shrunk.parameter is not None
    assert math.isfinite(shrunk.parameter)
    assert ope.estimate(shrunk).standard_error == pytest.approx(ope.estimate(plain).standard_error)
    assert shrunk.influence.mean() == pytest.approx(shrunk.value)


def test_repeating_each_row_within_its_cluster_makes_nothing_surer(case):
    log, judged = case
    twice = log.rows(np.repeat(np.arange(300), 2))
    clusters = np.repeat(np.arange(300), 2)
    model = ope.reward_model(log)
    both, doubled = np.repeat(judged, 2, axis=0), np.asarray(np.repeat(model, 2, axis=0))
    other = np.full(judged.shape, 0.25)
    names: tuple[ope.Estimator, ...] = ("ips", "snips", "dr")
    for name in names:
        once = ope.evaluate(log, judged, name, predicted=model)
        again = ope.evaluate(twice, both, name, predicted=doubled, clusters=clusters)
        naive = ope.evaluate(twice, both, name, predicted=doubled)
        first, second = ope.estimate(once), ope.estimate(again)
        assert second.standard_error == pytest.approx(first.standard_error)
        assert ope.estimate(naive).standard_error < 0.75 * first.standard_error
        assert ope.mean_weight(again).standard_error == pytest.approx(
            ope.mean_weight(once).standard_error
        )
        rival = ope.evaluate(
            twice, np.repeat(other, 2, axis=0), name, predicted=doubled, clusters=clusters
        )
        gap = ope.difference(once, ope.evaluate(log, other, name, predicted=model))
        assert ope.difference(again, rival).standard_error == pytest.approx(gap.standard_error)
        with pytest.raises(EstimateError, match="different clusters"):
            ope.difference(again, naive)


@pytest.mark.parametrize("estimator", ope.ESTIMATORS)
def test_the_parts_add_up_to_the_whole(case, estimator):
    log, judged = case
    model = ope.reward_model(log)
    labels = np.arange(300) % 3
    whole = ope.evaluate(log, judged, estimator, predicted=model)
    arms = ope.by_arm(log, judged, estimator, predicted=model)
    for one in arms.values():
        assert one.influence.mean() == pytest.approx(one.value)
    share = judged.mean(axis=0)
    if estimator == "snips":
        share = np.array([whole.weights[log.action == arm].sum() for arm in range(4)])
        share = share / share.sum()
    total = sum(share[log.arms.index(name)] * one.value for name, one in arms.items())
    assert total == pytest.approx(whole.value)
    if estimator in {"ips", "dm", "dr"}:
        segments = ope.by_segment(log, judged, labels, estimator, predicted=model)
        assert list(segments) == [0, 1, 2]
        assert np.mean([one.value for one in segments.values()]) == pytest.approx(whole.value)


@pytest.mark.parametrize("estimator", ope.ESTIMATORS)
def test_one_segment_of_all_rows_is_the_whole_log(case, estimator):
    log, judged = case
    whole = ope.evaluate(log, judged, estimator)
    part = ope.by_segment(log, judged, np.zeros(300), estimator)[0.0]
    assert part.value == pytest.approx(whole.value)
    assert np.allclose(part.influence, whole.influence)
    assert np.allclose(part.weights, whole.weights)


@pytest.mark.parametrize("estimator", ope.ESTIMATORS)
def test_an_arm_alone_is_the_policy_that_always_chooses_it(case, estimator):
    log, _ = case
    found = ope.of_arms(log, estimator)
    assert tuple(found) == log.arms
    for arm, one in enumerate(found.values()):
        always = np.zeros((300, 4))
        always[:, arm] = 1.0
        whole = ope.evaluate(log, always, estimator)
        assert one.value == pytest.approx(whole.value)
        assert np.allclose(one.influence, whole.influence)


def test_an_arm_is_judged_where_it_was_eligible(case):
    log, _ = case
    eligible = log.eligible.copy()
    eligible[:150, 3] = log.action[:150] == 3
    columns = {name: getattr(log, name) for name in Interactions.__slots__}
    fewer = Interactions(**{**columns, "eligible": eligible})
    found = ope.of_arms(fewer, "ips")["d"]
    assert len(found.influence) == eligible[:, 3].sum()


def without_propensities(log: Interactions) -> ope.Imported:
    propensity = log.propensity.copy()
    propensity[5:12] = np.nan
    return ope.Imported(log.arms, log.x, log.eligible, log.action, propensity, log.reward)


def test_rows_without_a_propensity_serve_the_direct_method_alone(case):
    log, judged = case
    rows = without_propensities(log)
    direct = ope.evaluate(rows, judged, "dm")
    assert direct.value == ope.evaluate(log, judged, "dm").value
    assert np.isfinite(ope.estimate(direct).high)
    for name in set(ope.ESTIMATORS) - {"dm"}:
        with pytest.raises(EstimateError, match="7 of 300 rows have no propensity"):
            ope.evaluate(rows, judged, name)
    kept = rows.rows(rows.weighable)
    assert len(kept) == 293
    ope.evaluate_each(kept, judged[rows.weighable])


def test_imported_rows_that_no_estimator_can_use_are_refused(case):
    log, _ = case
    good = without_propensities(log)
    for name, value in (("propensity", 0.0), ("reward", np.nan), ("action", 9), ("x", np.inf)):
        columns = {each: getattr(good, each).copy() for each in ope.Imported.__slots__[1:]}
        columns[name][3] = value
        with pytest.raises(EstimateError, match=f"row 3: {name}"):
            ope.Imported(good.arms, **columns)


def test_what_does_not_fit_the_log_is_refused(case):
    log, judged = case
    with pytest.raises(EstimateError, match="clusters"):
        ope.evaluate(log, judged, clusters=np.zeros(3, np.int64))
    with pytest.raises(EstimateError, match="labels"):
        ope.by_segment(log, judged, np.zeros(3))
