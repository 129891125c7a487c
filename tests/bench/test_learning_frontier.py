import pytest

from bench.learning_frontier import FULL, ROUTER, Fronts, curves
from learners.frontier import Point


def fronts(cost, score):
    swept = (Point(2 * cost, score, "cost=0"), Point(cost, score / 2, "cost=1"))
    return Fronts(swept, swept, (Point(cost, score, "small"),))


def test_a_drawn_point_is_a_settings_mean_over_the_seeds_by_rising_cost():
    found = {one.name: one for one in curves("here", [fronts(0.001, 0.8), fronts(0.003, 0.4)])}
    assert list(found) == [ROUTER, FULL, "small"]
    assert found[ROUTER].x == pytest.approx((2.0, 4.0))
    assert found[ROUTER].y == pytest.approx((0.3, 0.6))
    assert [one.reference for one in found.values()] == [False, True, True]
    assert found["small"].x == pytest.approx((2.0,))
    assert found["small"].y == pytest.approx((0.6,))
