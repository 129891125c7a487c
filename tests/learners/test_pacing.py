import numpy as np
import pytest

from learners.errors import PacingError
from learners.exploration import Exploration, probabilities
from learners.pacing import Pace, price


def greedy(scores):
    return probabilities(scores, np.ones(scores.shape, bool), Exploration("greedy"))


def world(n=2_000, k=4, seed=0):
    random = np.random.default_rng(seed)
    cost = np.array([0.1, 1.0, 3.0, 10.0][:k]) * (0.5 + random.random((n, 1)))
    utility = 0.2 * np.arange(k) + 0.3 * random.normal(size=(n, k))
    return utility, cost


@pytest.mark.parametrize("rate", [0.2, 1.0, 3.0])
def test_at_the_price_requests_cost_the_rate_and_below_it_more(rate):
    utility, cost = world()
    found = price(utility, cost, rate, greedy)
    assert found.holds
    assert 0.98 * rate < found.expected <= rate
    less = greedy(utility - 0.9 * found.multiplier * cost)
    assert (less * cost).sum(axis=1).mean() > rate


def test_no_other_policy_of_the_same_cost_is_worth_more():
    utility, cost = world(400)
    found = price(utility, cost, 1.5, greedy)
    served = greedy(utility - found.multiplier * cost)
    # Weak duality: no policy at this cost earns more than the dual function at any price.
    dual = (utility - found.multiplier * cost).max(axis=1).mean() + found.multiplier * 1.5
    assert dual - (served * utility).sum(axis=1).mean() < 0.01


def test_a_budget_that_is_never_spent_has_no_price():
    utility, cost = world()
    found = price(utility, cost, 100.0, greedy)
    assert (found.multiplier, found.holds) == (0.0, True)


def test_a_budget_below_the_cheapest_arm_is_said_not_to_hold():
    utility, cost = world()
    found = price(utility, cost, 0.05, greedy)
    assert not found.holds
    assert found.expected == pytest.approx(cost[:, 0].mean())
    assert np.isfinite(found.multiplier)


def test_what_exploration_spends_is_counted():
    utility, cost = world()

    def spread(scores):
        return probabilities(scores, np.ones(scores.shape, bool), Exploration("greedy", floor=0.2))

    found = price(utility, cost, 1.5, spread)
    served = spread(utility - found.multiplier * cost)
    assert found.holds
    assert (served * cost).sum(axis=1).mean() == pytest.approx(1.5, rel=0.02)
    assert not price(utility, cost, 0.5, spread).holds  # the floor alone costs .2 · 3.5


def test_arms_that_cost_the_same_leave_nothing_to_price():
    utility, _ = world()
    same = np.ones_like(utility)
    assert price(utility, same, 1.0, greedy).holds
    assert not price(utility, same, 0.5, greedy).holds


def test_a_debt_is_paid_back_within_the_horizon():
    pace = Pace(2.0, 100.0)
    assert pace.rate(0.0, 0) == 2.0
    assert pace.rate(250.0, 100) == pytest.approx(1.5)
    assert pace.rate(150.0, 100) == pytest.approx(2.5)
    assert pace.rate(1e6, 100) == 0.0
    spent = 300.0
    for request in range(100, 600):
        spent += pace.rate(spent, request)
    # 100 of debt, less by a 100th with each of 500 requests.
    assert spent - 2.0 * 600 == pytest.approx(100 * 0.99**500, rel=1e-6)


@pytest.mark.parametrize("wrong", [(0.0, 10.0), (-1.0, 10.0), (float("nan"), 10.0), (1.0, 0.5)])
def test_a_budget_or_horizon_out_of_range_is_refused(wrong):
    with pytest.raises(PacingError):
        Pace(*wrong)
