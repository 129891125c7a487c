import os
from dataclasses import replace

import numpy as np
import pytest

from learners import cheapest, multi_objective
from learners.contract import Reading, Spec
from learners.errors import SpecError
from learners.interactions import Interactions
from learners.records import Card

ARMS = 3
READING = Reading(("score", "cost_usd"), (1.0, -0.3))
PRICES = np.array([0.01, 0.1, 1.0])


def chances(x: np.ndarray) -> np.ndarray:
    """The true chance of each arm: the small one fails where the fifth column is high."""
    steep = np.array([1.2, 0.6, 0.1])
    found: np.ndarray = np.array([0.75, 0.85, 0.9]) - 0.2 * steep * x[:, 4:5]
    return found.clip(0.02, 0.98)


def log_of_successes(log_of, n: int, seed: int = 0):
    random = np.random.default_rng(seed + 50)
    log = log_of(n, ARMS, seed=seed)
    score = (random.random(n) < chances(log.x)[np.arange(n), log.action]).astype(float)
    parts = np.column_stack([score, PRICES[log.action]])
    return replace(log, parts=parts, reward=parts @ np.array(READING.mix))


def fitted(schema, log, params=None, reading=READING, cards=()):
    spec = Spec(schema, log.arms, params or {}, reading=reading, cards=cards)
    return cheapest.learn(cheapest.init(spec), log)


def chosen(scorer, x):
    return scorer.greedy().distribution(x, np.ones((len(x), len(scorer.arms)), bool)).argmax(1)


def test_each_request_gets_the_cheapest_arm_that_is_sure_to_reach_the_target(schema, log_of):
    log = log_of_successes(log_of, 8_000)
    x = log_of(2_000, ARMS, seed=3).x
    truth, rows = chances(x), np.arange(2_000)
    spent = []
    for target in (0.6, 0.75, 0.85):
        scorer = cheapest.freeze(fitted(schema, log, {"target": target}))
        arm = chosen(scorer, x)
        low = scorer.chances(x)[1]
        sure = low >= target
        some = sure.any(axis=1)
        assert np.array_equal(arm[some], sure.argmax(axis=1)[some])  # arms stand by their price
        # One-sided bounds of 90% for one arm at a time: the cheapest of three may fail thrice.
        assert (truth[rows, arm][some] >= target - 0.03).mean() > 0.7
        assert truth[rows, arm][some].mean() >= target
        spent.append(PRICES[arm].mean())
    assert spent[0] < spent[1] < spent[2] < PRICES[2]
    assert spent[0] < 0.2 * PRICES[2]


def test_where_nothing_is_sure_the_likeliest_is_served(schema, log_of):
    log = log_of_successes(log_of, 4_000)
    scorer = cheapest.freeze(fitted(schema, log, {"target": 1.0}))
    x = log_of(300, ARMS, seed=3).x
    value, low = scorer.chances(x)
    assert (low < 1.0).all()
    assert np.array_equal(chosen(scorer, x), value.argmax(axis=1))


def test_curves_are_fitted_to_the_newest_rows_and_predictions_to_the_others(schema, log_of):
    log = log_of_successes(log_of, 1_000)
    state = fitted(schema, log, {"held": 0.3})
    assert len(state.held) == 300
    assert np.array_equal(state.held.x, log.x[700:])
    spec = Spec(schema, log.arms, reading=READING)
    older = multi_objective.learn(multi_objective.init(spec), log.rows(slice(0, 700)))
    assert np.allclose(cheapest.freeze(state).success, multi_objective.regressions(older)[0])


def test_it_is_calibrated_where_the_arms_have_changed_since(schema, log_of):
    old = log_of_successes(log_of, 4_000)
    log = log_of_successes(log_of, 3_000, seed=1)
    worse = log.parts.copy()
    worse[log.action == 0, 0] = 0.0
    late = replace(log, parts=worse)
    state = cheapest.learn(fitted(schema, old), late)
    scorer = cheapest.freeze(state)
    x = log_of(300, ARMS, seed=3).x
    assert (x @ scorer.success.T)[:, 0].mean() > 0.2  # the older rows' good years
    value, low = scorer.chances(x)
    assert value[:, 0].max() < 0.05
    assert (low[:, 0] < 0.05).all()
    assert (chosen(scorer, x) != 0).all()


@pytest.mark.parametrize("method", cheapest.METHODS)
def test_a_lower_bound_is_below_the_truth_about_as_often_as_it_says(schema, log_of, method):
    # 40 worlds, one bound each: a true 90% gives fewer than 30 with a chance of 1.5e-3.
    below = 0
    x = np.zeros((1, schema.dimension))
    x[0, 0] = 1.0
    for seed in range(40):
        log = log_of_successes(log_of, 600, seed=seed)
        flat = np.random.default_rng(seed).random(600) < 0.6
        log = replace(log, parts=np.column_stack([flat, log.parts[:, 1]]))
        params = {"calibration": method, "level": 0.9, "low": 0.0, "high": 1.0}
        below += bool(cheapest.freeze(fitted(schema, log, params)).chances(x)[1][0, 1] <= 0.6)
    assert below >= 30


def test_an_arm_with_few_rows_is_sure_of_nothing(schema, log_of):
    log = log_of_successes(log_of, 2_000)
    keep = (log.action != 0) | (np.arange(2_000) % 100 == 0)
    parts = log.parts.copy()
    parts[log.action == 0, 0] = 1.0
    log = replace(log, parts=parts).rows(keep)
    scorer = cheapest.freeze(fitted(schema, log, {"target": 0.3}))
    assert (scorer.low[0] == 0).all()
    assert (chosen(scorer, log.x) != 0).all()


def test_without_a_cost_in_the_reward_the_cards_prices_count(schema, log_of):
    log = log_of_successes(log_of, 4_000)
    score = replace(log, reward=log.parts[:, 0], parts=log.parts[:, :1])
    cards = tuple(Card(price, price) for price in PRICES[::-1].tolist())
    reading = Reading(("score",), (1.0,))
    scorer = cheapest.freeze(fitted(schema, score, {"target": 0.3}, reading, cards))
    assert scorer.cost[:, 0] == pytest.approx(2 * PRICES[::-1])
    assert (chosen(scorer, log.x) == 2).all()  # which is the cheapest by its card


def test_where_the_parts_are_not_told_the_reward_is_the_success(schema, log_of):
    log = log_of_successes(log_of, 1_000)
    blurred = replace(log, parts=log.reward[:, None])
    scorer = cheapest.freeze(fitted(schema, blurred))
    alone = cheapest.freeze(fitted(schema, blurred, reading=Reading()))
    assert np.allclose(scorer.scores(log.x), alone.scores(log.x))


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"success": "beauty"}, "success is 'beauty': name a part of the reward: score, cost_usd"),
        ({"cost": "latency_s"}, "cost is 'latency_s': name a part"),
        ({"target": 1.2}, "target is 1.2"),
        ({"level": 0.3}, "level is 0.3"),
        ({"held": 0.0}, "held is 0.0"),
        ({"points": 0}, "points"),
        ({"points": 10**6}, "points"),
        ({"calibration": "magic"}, "platt or isotonic"),
        ({"low": 1.0, "high": 0.0}, "low is 1.0"),
        ({"pooling": 1e-9}, "pooling"),
    ],
)
def test_parameters_out_of_range_are_refused(schema, params, words):
    with pytest.raises(SpecError, match=words):
        cheapest.init(Spec(schema, ("a", "b"), params, reading=READING))


@pytest.mark.skipif(
    "POINTSMAN_BENCH_DATA" not in os.environ, reason="POINTSMAN_BENCH_DATA names no real tables"
)
def test_on_a_real_table_the_target_is_reached_below_the_best_arms_cost():
    from bench import tables  # noqa: PLC0415 — only where tables are

    place = tables.folder()
    assert place is not None
    course = tables.Whole.of(place, "routellm2").split(0)
    train, test = course.train, course.test
    n = len(train.x)
    action = np.random.default_rng(0).integers(len(course.arms), size=n)
    at = np.arange(n), action
    log = Interactions(
        arms=course.arms,
        x=train.x,
        eligible=np.ones(train.scores.shape, bool),
        action=action,
        propensity=np.full(n, 1 / len(course.arms)),
        reward=train.rewards[at],
        weight=np.ones(n),
        parts=train.parts[at],
    )
    spec = course.spec({"target": 0.6}, 0)
    scorer = cheapest.freeze(cheapest.learn(cheapest.init(spec), log))
    arm = chosen(scorer, test.x)
    rows = np.arange(len(test.x))
    sure = (scorer.chances(test.x)[1] >= 0.6).any(axis=1)
    assert sure.mean() > 0.5
    assert test.scores[rows, arm][sure].mean() >= 0.6
    best = test.scores.mean(axis=0).argmax()
    assert test.costs_usd[rows, arm].mean() < 0.8 * test.costs_usd[:, best].mean()
