import os
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from learners import multi_objective
from learners.contract import Reading, Spec
from learners.frontier import compare, expected, of_arms
from learners.interactions import Interactions
from learners.records import Card
from learners.scorers.linear import Linear
from learners.scorers.mixed import Mixed

ARMS = 3
READING = Reading(("score", "cost_usd"), (1.0, -0.3))
PRICES = np.array([1.0, 10.0, 100.0])


def told(log, seed=5):
    """The log with a score of its own and costs that grow with the request, at each arm's price."""
    random = np.random.default_rng(seed)
    k = len(log.arms)
    prices = np.resize(PRICES, k)[log.action]
    long = np.exp(0.3 * log.x[:, 4])
    cost = prices * long * np.exp(0.1 * random.normal(size=len(log)))
    parts = np.column_stack([log.reward, cost])
    return replace(log, parts=parts, reward=parts @ np.array(READING.mix))


def spec_of(schema, log, params=None, **changes):
    return Spec(schema, log.arms, params or {}, reading=READING, **changes)


def fitted(spec, log):
    return multi_objective.learn(multi_objective.init(spec), log)


def test_each_part_without_a_price_is_the_ridge_regression_that_linucb_fits(schema, log_of):
    log = told(log_of(200, ARMS))
    params = {"ridge": 2.0, "ridge_constant": 2.0, "pooling": 0.0}
    scorer = multi_objective.freeze(fitted(spec_of(schema, log, params), log))
    assert isinstance(scorer, Mixed)
    mean = log.parts[:, 0].mean()
    for arm in range(ARMS):
        x, score = log.x[log.action == arm], log.parts[log.action == arm, 0]
        regular = x.T @ x + 2.0 * np.eye(x.shape[1])
        want = np.linalg.solve(regular, x.T @ (score - mean))
        want[0] += mean
        assert np.allclose(scorer.weights[0, arm], want, atol=1e-9)


def test_costs_are_regressed_in_each_arms_own_size(schema, log_of):
    log = told(log_of(200, ARMS))
    params = {"ridge": 2.0, "ridge_constant": 2.0, "pooling": 0.0, "size_prior": 1e-9}
    scorer = multi_objective.freeze(fitted(spec_of(schema, log, params), log))
    assert isinstance(scorer, Mixed)
    cost = log.parts[:, 1]
    size = np.array([np.sqrt(np.square(cost[log.action == arm]).mean()) for arm in range(ARMS)])
    relative = cost / size[log.action]
    for arm in range(ARMS):
        x, own = log.x[log.action == arm], relative[log.action == arm]
        regular = x.T @ x + 2.0 * np.eye(x.shape[1])
        want = np.linalg.solve(regular, x.T @ (own - relative.mean()))
        want[0] += relative.mean()
        assert np.allclose(scorer.weights[1, arm], size[arm] * want, atol=1e-6)


def test_what_makes_a_request_dear_is_learnt_for_a_cheap_arm_from_the_dear_ones(schema, log_of):
    log = told(log_of(600, ARMS))
    few = np.flatnonzero(log.action == 0)[20:]
    log = log.rows(np.setdiff1d(np.arange(len(log)), few))
    scorer = multi_objective.freeze(fitted(spec_of(schema, log), log))
    assert isinstance(scorer, Mixed)
    fresh = log_of(400, ARMS, seed=9).x
    predicted = scorer.predicted(fresh)[:, 1, 0]
    truth = PRICES[0] * np.exp(0.3 * fresh[:, 4])
    assert np.corrcoef(predicted, truth)[0, 1] > 0.9
    assert predicted.mean() == pytest.approx(truth.mean(), rel=0.2)


def test_a_new_arm_costs_what_its_card_lets_expect(schema, log_of):
    log = told(log_of(600, ARMS))
    cards = tuple(Card(price, 2 * price) for price in PRICES.tolist())
    spec = spec_of(schema, log, cards=cards)
    state = fitted(spec, log)
    new = replace(
        spec, arms=(*log.arms, "new"), cards=(*cards, Card(30.0, 60.0)), revisions=("",) * 4
    )
    scorer = multi_objective.freeze(multi_objective.rearm(state, new))
    assert isinstance(scorer, Mixed)
    cost = scorer.predicted(log.x)[:, 1].mean(axis=0)
    assert cost[3] == pytest.approx(30.0, rel=0.3)
    assert cost[1] < cost[3] < cost[2]


def test_a_requests_own_weights_move_its_choice_from_the_best_to_the_cheapest(schema, log_of):
    log = told(log_of(600, ARMS))
    best_is_dear = replace(
        log, parts=np.column_stack([0.1 * log.action + log.reward * 0, log.parts[:, 1]])
    )
    best_is_dear = replace(best_is_dear, reward=best_is_dear.parts @ np.array(READING.mix))
    scorer = multi_objective.freeze(fitted(spec_of(schema, log), best_is_dear)).greedy()
    everyone = np.ones((len(log), ARMS), bool)
    free = scorer.distribution(log.x, everyone, np.tile([1.0, 0.0], (len(log), 1)))
    dear = scorer.distribution(log.x, everyone, np.tile([1.0, -3.0], (len(log), 1)))
    assert free[:, 2].mean() > 0.95
    assert dear[:, 0].mean() > 0.95


def test_the_mixed_score_is_the_rewards_own_regression_where_no_part_is_a_cost(schema, log_of):
    log = told(log_of(300, ARMS))
    reading = Reading(("score", "speed"), (1.0, 0.5))
    parts = np.column_stack([log.parts[:, 0], log.x[:, 5]])
    both = replace(log, parts=parts, reward=parts @ np.array(reading.mix))
    params = {"ridge": 5.0}
    mixed = multi_objective.freeze(
        fitted(replace(spec_of(schema, log, params), reading=reading), both)
    )
    whole = multi_objective.freeze(fitted(Spec(schema, log.arms, params), both_as_one(both)))
    assert isinstance(mixed, Mixed)
    assert isinstance(whole, Linear)
    assert np.allclose(mixed.scores(log.x), whole.scores(log.x), atol=1e-8)


def both_as_one(log):
    return replace(log, parts=log.reward[:, None])


def test_where_the_parts_are_not_told_the_reward_is_learnt(schema, log_of):
    log = told(log_of(300, ARMS))
    state = fitted(spec_of(schema, log), log)
    assert isinstance(multi_objective.freeze(state), Mixed)
    blurred = multi_objective.learn(state, both_as_one(log))
    scorer = multi_objective.freeze(blurred)
    assert isinstance(scorer, Linear)
    twice = multi_objective.learn(state, log)
    one = Spec(schema, log.arms)
    same = multi_objective.learn(fitted(one, both_as_one(log)), both_as_one(log))
    assert np.allclose(scorer.weights, multi_objective.freeze(same).tensors()["weights"])
    assert isinstance(multi_objective.freeze(twice), Mixed)


def test_costs_in_another_unit_are_explored_alike(schema, log_of):
    log = told(log_of(400, ARMS))
    cents = Reading(("score", "cost_usd"), (1.0, -0.003))
    parts = log.parts * np.array([1.0, 100.0])
    other = replace(log, parts=parts)
    everyone = np.ones((len(log), ARMS), bool)
    first = multi_objective.freeze(fitted(spec_of(schema, log), log))
    second = multi_objective.freeze(fitted(replace(spec_of(schema, log), reading=cents), other))
    usual, other_unit = (each.distribution(log.x, everyone) for each in (first, second))
    assert np.allclose(usual, other_unit, atol=1e-9)


def test_older_costs_fade_when_a_half_life_is_given(schema, log_of):
    log = told(log_of(900, ARMS))
    parts = log.parts.copy()
    parts[:, 1] *= 5.0
    dearer = replace(log, parts=parts, reward=parts @ np.array(READING.mix))
    spec = spec_of(schema, log, {"half_life": 100.0})
    scorer = multi_objective.freeze(multi_objective.learn(fitted(spec, log), dearer))
    assert isinstance(scorer, Mixed)
    cost = scorer.predicted(log.x)[:, 1].mean(axis=0)
    now = [parts[log.action == arm, 1].mean() for arm in range(ARMS)]
    assert cost == pytest.approx(now, rel=0.25)


@pytest.mark.skipif(
    "POINTSMAN_BENCH_DATA" not in os.environ, reason="POINTSMAN_BENCH_DATA names no real tables"
)
def test_on_a_real_table_the_preference_traces_a_frontier():
    from bench import tables  # noqa: PLC0415 — only where tables are

    place = tables.folder()
    assert place is not None
    course = tables.Whole.of(place, "llmrouter9").split(0)
    train, reading = course.train, course.spec({}, 0).reading
    n = len(train.x)
    action = np.random.default_rng(0).integers(len(course.arms), size=n)
    log = Interactions(
        arms=course.arms,
        x=train.x,
        eligible=np.ones(train.scores.shape, bool),
        action=action,
        propensity=np.full(n, 1 / len(course.arms)),
        reward=train.rewards[np.arange(n), action],
        weight=np.ones(n),
        parts=train.parts[np.arange(n), action],
    )
    scorer = multi_objective.freeze(fitted(course.spec({}, 0), log)).greedy()
    test = course.test
    everyone = np.ones(test.scores.shape, bool)
    points = []
    for factor in (0.0, 0.5, 1.0, 2.0, 5.0, 50.0, 1000.0):
        mix = np.array(reading.mix) * np.array([1.0, factor])
        choice = scorer.distribution(test.x, everyone, np.tile(mix, (len(test.x), 1)))
        points.append(expected(choice, test.scores, test.costs_usd))
    costs = [point.cost for point in points]
    # What is predicted falls; what was paid on fresh requests does but for a little noise.
    assert all(after <= 1.02 * before for before, after in pairwise(costs))
    assert costs[0] > 5 * costs[-1]
    found = compare(points, of_arms(test.scores, test.costs_usd, course.arms))
    assert found.router.nauc_common > found.two_model_mix.nauc_common
