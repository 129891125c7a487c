import math
import os

import numpy as np
import pytest

from learners.cascade import Plan, Rows, Step, plan, scorer, simulate
from learners.errors import CascadeError

ARMS = ("small", "middle", "large")


def world(n: int, seed: int = 0, trust: float = 0.25) -> Rows:
    """Harder requests are failed by small arms; a judge sees each answer's worth in noise."""
    random = np.random.default_rng(seed)
    hard = random.random((n, 1))
    quality = random.random((n, 3)) < np.array([0.95, 0.95, 0.97]) - hard * [0.8, 0.5, 0.1]
    signal = quality + trust * random.normal(size=(n, 3))
    cost = np.array([1.0, 5.0, 30.0]) * (0.5 + random.random((n, 1)))
    return Rows(ARMS, quality.astype(float), cost, signal)


def brute_force(rows: Rows, target: float) -> float:
    """The least cost by trying every order and each signal that was seen as a threshold."""
    best = math.inf
    stops = [np.unique(rows.signal[:, arm]) for arm in range(len(rows.arms))]
    for one in range(len(rows.arms)):
        steps: list[tuple[Step, ...]] = [(Step(rows.arms[one]),)]
        for two in range(len(rows.arms)):
            if two != one:
                steps += [(Step(rows.arms[one], s), Step(rows.arms[two])) for s in stops[one]]
        for each in steps:
            cost, quality = simulate(Plan(each, 0.0, 0.0), rows)
            if quality.mean() >= target - 1e-12:
                best = min(best, float(cost.mean()))
    return best


def test_a_plan_is_as_cheap_as_the_best_of_all_that_its_thresholds_allow():
    rows = world(20)  # as many rows as quantiles, so that every threshold is tried
    for target in (0.5, 0.7, 0.8, 0.9):
        found = plan(rows, target, max_steps=2)
        least = brute_force(rows, target)
        assert found.reached == math.isfinite(least)
        if found.reached:
            assert found.cost == pytest.approx(least)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_what_a_plan_says_of_itself_is_what_simulating_it_gives(steps):
    rows = world(400)
    found = plan(rows, 0.85, steps)
    assert len(found.steps) <= steps
    cost, quality = simulate(found, rows)
    assert cost.mean() == pytest.approx(found.cost)
    assert quality.mean() == pytest.approx(found.quality)
    assert found.quality >= 0.85


def test_more_steps_never_cost_more():
    rows = world(600)
    costs = [plan(rows, 0.85, steps).cost for steps in (1, 2, 3)]
    assert costs == sorted(costs, reverse=True)


def test_on_fresh_requests_the_cascade_costs_a_fraction_at_equal_quality():
    # 4,000 rows: the quality's standard error is .006, so .02 is more than three of them.
    found = plan(world(4_000), 0.9)
    fresh = world(4_000, seed=1)
    cost, quality = simulate(found, fresh)
    assert quality.mean() > 0.88
    assert cost.mean() < 0.6 * fresh.cost[:, 2].mean()


def test_a_signal_that_tells_nothing_is_not_paid_for():
    rows = world(2_000, trust=1e6)
    target = float(rows.quality[:, 2].mean())
    assert [step.arm for step in plan(rows, target).steps] == ["large"]


def test_where_no_plan_reaches_the_target_the_best_is_made_and_says_so():
    rows = world(300)
    found = plan(rows, 2.0)
    assert not found.reached
    assert found.quality >= rows.quality.mean(axis=0).max()


def test_a_plan_says_which_arm_to_ask_next():
    one = Plan((Step("small", 0.6), Step("large", 0.5), Step("middle")), 1.0, 1.0)
    assert one.after({}) == "small"
    assert one.after({"small": 0.6}) is None
    assert one.after({"small": 0.59}) == "large"
    assert one.after({"small": 0.1, "large": 0.5}) is None
    assert one.after({"small": 0.1, "large": 0.4}) == "middle"
    assert one.after({"small": 0.1, "large": 0.4, "middle": 0.0}) is None


def test_asked_with_what_was_asked_excluded_the_policy_serves_the_next_step():
    one = Plan((Step("middle", 0.6), Step("large")), 1.0, 1.0)
    policy = scorer(one, ARMS, 4)
    x = np.ones((1, 4))
    for excluded, served in (
        ((), "middle"),
        (("middle",), "large"),
        (("middle", "large"), "small"),
    ):
        eligible = np.array([[arm not in excluded for arm in ARMS]])
        spread = policy.distribution(x, eligible)[0]
        assert spread[ARMS.index(served)] == 1.0


def test_a_plan_is_written_and_read_back():
    one = Plan((Step("small", 0.6), Step("large")), 1.5, 0.9)
    assert Plan.from_json(one.as_json()) == one
    assert "stop_at" not in one.as_json()["steps"][-1]
    assert one.as_json()["steps"][0]["stop_at"] == 0.6


@pytest.mark.parametrize(
    "row",
    [
        {},
        {"steps": [], "cost": 1, "quality": 1, "reached": True},
        {"steps": [{"arm": "a"}, {"arm": "a"}], "cost": 1, "quality": 1, "reached": True},
        {"steps": [{"arm": "a", "stop_at": 0.5}], "cost": 1, "quality": 1, "reached": True},
        {"steps": [{"name": "a"}], "cost": 1, "quality": 1, "reached": True},
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(row):
    with pytest.raises(CascadeError):
        Plan.from_json(row)


def test_rows_and_targets_out_of_range_are_refused():
    good = np.ones((2, 3))
    for changed in (
        {"quality": np.ones((2, 2))},
        {"quality": np.ones((0, 3))},
        {"cost": -good},
        {"cost": np.full((2, 3), np.nan)},
        {"signal": np.ones((3, 3))},
    ):
        with pytest.raises(CascadeError):
            Rows(ARMS, **{"quality": good, "cost": good, "signal": good, **changed})
    many = tuple(map(str, range(25)))
    with pytest.raises(CascadeError, match="at most 24"):
        Rows(many, *(np.ones((1, 25)),) * 3)
    rows = Rows(ARMS, good, good, good)
    for wrong in ((0.5, 0), (0.5, 4), (math.nan, 2)):
        with pytest.raises(CascadeError):
            plan(rows, *wrong)
    with pytest.raises(CascadeError, match="no arm 'huge'"):
        simulate(Plan((Step("huge"),), 0.0, 0.0), rows)
    with pytest.raises(CascadeError, match="no arm 'huge'"):
        scorer(Plan((Step("huge"),), 0.0, 0.0), ARMS, 1)


@pytest.mark.skipif(
    "POINTSMAN_BENCH_DATA" not in os.environ, reason="POINTSMAN_BENCH_DATA names no real tables"
)
def test_on_a_real_table_a_cascade_costs_less_at_the_best_arms_quality():
    from bench import tables  # noqa: PLC0415 — only where tables are

    place = tables.folder()
    assert place is not None
    table = tables.read(place, "routellm2")
    random = np.random.default_rng(0)
    # The table has no judge: a noisy look at the truth stands in for one.
    signal = table.scores + 0.3 * random.normal(size=table.scores.shape)
    half = random.random(len(table.scores)) < 0.5
    made, judged = (
        Rows(tuple(table.arms), table.scores[side], table.costs_usd[side], signal[side])
        for side in (half, ~half)
    )
    best = int(made.quality.mean(axis=0).argmax())
    found = plan(made, float(made.quality[:, best].mean()))
    cost, quality = simulate(found, judged)
    assert quality.mean() > judged.quality[:, best].mean() - 0.02
    assert cost.mean() < 0.7 * judged.cost[:, best].mean()
