import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learners.charges import Attempts, bill, charge
from learners.errors import FrontierError
from learners.frontier import (
    Point,
    best_single,
    compare,
    cost_at,
    expected,
    hull,
    nauc,
    of_arms,
    pareto,
)

SMALL, MIDDLE, LARGE = Point(1.0, 0.5, "small"), Point(4.0, 0.6, "middle"), Point(9.0, 0.9, "large")
SINGLES = (LARGE, SMALL, MIDDLE)
ROUTER = (Point(1.0, 0.5), Point(3.0, 0.8), Point(5.0, 0.9), Point(8.0, 0.92))

points = st.builds(
    Point,
    st.floats(0.01, 100.0).map(lambda cost: round(cost, 3)),
    st.floats(0.0, 1.0).map(lambda score: round(score, 3)),
)
clouds = st.lists(points, min_size=1, max_size=12)


def test_the_front_leaves_out_what_costs_more_and_scores_no_better() -> None:
    dominated = Point(4.5, 0.6, "dear")
    assert pareto([*SINGLES, dominated, Point(9.0, 0.4)]) == (SMALL, MIDDLE, LARGE)


def test_the_hull_leaves_out_what_a_mix_of_two_others_beats() -> None:
    # At cost 4 the mix of small and large scores 0.5 + 0.4 · 3/8 = 0.65, more than middle's 0.6.
    assert hull(SINGLES) == (SMALL, LARGE)


def test_a_mix_reaches_a_score_at_the_cost_in_proportion() -> None:
    assert cost_at(SINGLES, 0.7) == pytest.approx(1.0 + 8.0 * 0.5)
    assert cost_at(SINGLES, 0.7, mixed=False) == 9.0


def test_a_score_below_the_cheapest_point_costs_the_cheapest_point() -> None:
    assert cost_at(SINGLES, 0.2) == 1.0


def test_a_score_that_no_point_reaches_costs_infinitely_much() -> None:
    assert math.isinf(cost_at(SINGLES, 0.91))


def test_the_best_single_of_equal_scores_is_the_cheaper() -> None:
    assert best_single([LARGE, Point(7.0, 0.9, "bargain")]).name == "bargain"


@given(clouds, points)
def test_another_setting_never_makes_a_score_dearer(cloud: list[Point], more: Point) -> None:
    for target in (0.1, 0.5, 0.9):
        assert cost_at([*cloud, more], target) <= cost_at(cloud, target) + 1e-9


@given(clouds)
def test_mixing_never_makes_a_score_dearer_and_every_point_costs_at_most_itself(
    cloud: list[Point],
) -> None:
    for point in cloud:
        mixed = cost_at(cloud, point.score)
        unmixed = cost_at(cloud, point.score, mixed=False)
        assert mixed <= unmixed + 1e-9
        assert unmixed <= point.cost


@given(clouds, st.data())
def test_no_mix_of_two_points_beats_the_hull(cloud: list[Point], data: st.DataObject) -> None:
    one, two = data.draw(st.sampled_from(cloud)), data.draw(st.sampled_from(cloud))
    part = data.draw(st.floats(0.0, 1.0))
    score = part * one.score + (1.0 - part) * two.score
    cost = part * one.cost + (1.0 - part) * two.cost
    assert cost_at(cloud, score) <= cost + 1e-6


@given(clouds, st.floats(0.001, 1000.0))
def test_a_change_of_the_unit_of_cost_leaves_the_shares_as_they_are(
    cloud: list[Point], unit: float
) -> None:
    cloud = [*cloud, Point(50.0, 0.95)]
    scaled = [Point(point.cost * unit, point.score) for point in cloud]
    one, two = compare(cloud, cloud).router, compare(scaled, scaled).router
    assert two.shares == pytest.approx(one.shares)
    assert two.qnc == pytest.approx(one.qnc)
    assert two.nauc == pytest.approx(one.nauc, nan_ok=True)


def test_nauc_is_the_trapezoid_area_over_the_fronts_own_range() -> None:
    # (0.5 + 0.8)/2 · 2 + (0.8 + 0.9)/2 · 2 + (0.9 + 0.92)/2 · 3 over 7.
    assert nauc(ROUTER) == pytest.approx((1.3 + 1.7 + 2.73) / 7)


def test_nauc_of_a_constant_front_is_its_score_and_of_one_point_is_not_defined() -> None:
    assert nauc([Point(2.0, 0.7)], span=(2.0, 9.0)) == pytest.approx(0.7)
    assert math.isnan(nauc([Point(2.0, 0.7)]))


def test_a_common_range_counts_zero_where_a_policy_serves_nothing() -> None:
    late = [Point(5.0, 0.8), Point(9.0, 0.8)]
    assert nauc(late, span=(1.0, 9.0)) == pytest.approx(0.8 * 4.0 / 8.0)
    assert nauc([Point(9.0, 0.9)], span=(1.0, 9.0)) == 0.0


def test_a_range_inside_the_front_takes_the_scores_at_its_ends() -> None:
    assert nauc([Point(0.0, 0.0), Point(10.0, 1.0)], span=(2.0, 4.0)) == pytest.approx(0.3)
    assert nauc([Point(0.0, 0.0), Point(1.0, 1.0)], span=(2.0, 4.0)) == pytest.approx(1.0)


def test_on_the_log_scale_each_factor_of_cost_weighs_the_same() -> None:
    front = [Point(1.0, 0.0), Point(10.0, 0.5), Point(100.0, 1.0)]
    assert nauc(front, scale="log") == pytest.approx(0.5)
    with pytest.raises(FrontierError, match="'linear'"):
        nauc([Point(0.0, 0.1), Point(1.0, 0.2)], scale="log")


def test_a_comparison_holds_shares_peak_and_neutral_cost_against_the_best_single_model() -> None:
    found = compare(ROUTER, SINGLES)
    assert found.best == LARGE
    assert found.router.peak == 0.92
    assert found.router.qnc == pytest.approx(5.0 / 9.0)
    # 0.9, 0.882, 0.855 and 0.81 lie between the settings of cost 3 and 5.
    exact = [(3.0 + 2.0 * (0.9 * level - 0.8) / 0.1) / 9.0 for level in found.levels]
    assert found.router.shares == pytest.approx(tuple(exact))
    assert found.two_model_mix.qnc == 1.0
    assert found.two_model_mix.shares[0] == pytest.approx(1.0)
    assert found.two_model_mix.shares[2] == pytest.approx((1.0 + 8.0 * 0.355 / 0.4) / 9.0)
    assert found.router.nauc_common == pytest.approx(nauc(ROUTER, span=(1.0, 9.0)))
    assert found.full_information is None


def test_a_router_out_of_reach_of_a_level_is_reported_as_none_in_json() -> None:
    weak = [Point(1.0, 0.5), Point(2.0, 0.82)]
    found = compare(weak, SINGLES, full_information=ROUTER)
    assert [math.isinf(share) for share in found.router.shares] == [True, True, True, False]
    plain = json.loads(json.dumps(found.as_json(), allow_nan=False))
    assert plain["router"]["qnc"] is None
    assert plain["router"]["shares"][:3] == [None, None, None]
    assert plain["full_information"]["qnc"] == pytest.approx(5.0 / 9.0)


def test_a_mix_of_an_arm_with_itself_reaches_the_arms_own_score() -> None:
    scores = np.random.default_rng(0).random((997, 1))
    choice = np.full((997, 2), [0.1, 0.9])
    costs = np.full((997, 2), 3.0)
    both = np.hstack([scores, scores])
    mix, single = expected(choice, both, costs), of_arms(both, costs, ["a", "b"])
    assert compare([mix], single).router.qnc == pytest.approx(1.0)


def test_points_of_a_table_are_the_means_of_its_columns_and_of_a_choice_the_expectation() -> None:
    scores = np.array([[1.0, 0.0], [0.0, 1.0]])
    costs = np.array([[1.0, 2.0], [3.0, 6.0]])
    assert of_arms(scores, costs, ["a", "b"]) == (Point(2.0, 0.5, "a"), Point(4.0, 0.5, "b"))
    choice = np.array([[1.0, 0.0], [0.5, 0.5]])
    assert expected(choice, scores, costs, "x") == Point((1.0 + 4.5) / 2, (1.0 + 0.5) / 2, "x")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Point(-1.0, 0.5, "a"), "cost=-1"),
        (lambda: Point(math.inf, 0.5), "cost=inf"),
        (lambda: Point(1.0, math.nan), "score=nan"),
        (lambda: pareto([]), "at least one"),
        (lambda: compare(ROUTER, [Point(0.0, 0.9, "free")]), "'free'"),
        (lambda: compare(ROUTER, [Point(1.0, 0.0)]), "both above 0"),
        (lambda: compare(ROUTER, SINGLES, levels=[0.0]), "level 0"),
        (lambda: nauc(ROUTER, span=(2.0, 1.0)), "lower cost first"),
        (lambda: of_arms(np.ones((2, 2)), np.ones((2, 3)), ["a"]), "differ"),
        (lambda: of_arms(np.ones((2, 2)), np.ones((2, 2)), ["a"]), "one column an arm"),
        (lambda: bill(np.ones(2), np.ones(3, np.bool_)), "differ"),
        (lambda: bill(np.ones(2), np.ones(2, np.bool_), -1.0), "penalty"),
        (lambda: bill(np.array([-1.0]), np.ones(1, np.bool_)), "cost"),
        (lambda: bill(np.ones(2), np.ones(2, np.bool_), np.ones(3)), "broadcast"),
    ],
)
def test_what_makes_no_frontier_is_refused(call, words) -> None:
    with pytest.raises(FrontierError, match=words):
        call()


def attempts(*rows: tuple[int, float, float, bool]) -> Attempts:
    request, cost, score, failed = zip(*rows, strict=True)
    return Attempts(
        np.array(request, np.int64), np.array(cost), np.array(score), np.array(failed, np.bool_)
    )


def test_an_escalation_pays_for_the_failure_and_for_the_answer() -> None:
    costs, scores = charge(
        attempts((0, 1.0, 0.0, True), (1, 2.0, 0.7, False), (0, 9.0, 0.9, False))
    )
    assert costs.tolist() == [10.0, 2.0]
    assert scores.tolist() == [0.9, 0.7]


def test_a_request_that_nothing_solved_scores_zero_and_pays_the_penalty_too() -> None:
    tried = attempts((0, 1.0, math.nan, True), (0, 2.0, math.nan, True), (1, 3.0, 0.4, False))
    costs, scores = charge(tried, penalty=0.6)
    assert costs.tolist() == pytest.approx([3.6, 3.0])
    assert scores.tolist() == [0.0, 0.4]


def test_an_answer_stands_when_a_later_attempt_fails_and_yields_when_one_succeeds() -> None:
    _, kept = charge(attempts((0, 1.0, 0.4, False), (0, 1.0, 0.0, True)))
    _, newer = charge(attempts((0, 1.0, 0.9, False), (0, 1.0, 0.2, False)))
    assert (kept.tolist(), newer.tolist()) == ([0.4], [0.2])


def test_a_penalty_of_the_strongest_arms_cost_gives_the_static_tracks_saving() -> None:
    spent, solved = np.array([1.0, 2.0, 5.0]), np.array([True, False, True])
    strongest = np.array([10.0, 20.0, 4.0])
    saving = np.where(solved, strongest - spent, -spent)
    assert (strongest - bill(spent, solved, strongest)).tolist() == saving.tolist()


def test_a_cheap_arm_that_mostly_fails_is_no_saving_once_failures_are_charged() -> None:
    scores = np.array([[0.0, 1.0]] * 9 + [[1.0, 1.0]])
    costs = np.array([[1.0, 10.0]] * 10)
    charged = bill(costs, scores > 0.0, costs[:, 1:])
    cheap, strong = of_arms(scores, charged, ["cheap", "strong"])
    assert cheap.cost == pytest.approx(1.0 + 9.0)
    assert pareto([cheap, strong]) == (strong,)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([(1, 1.0, 0.5, False)], "request 0"),
        ([(-1, 1.0, 0.5, False)], "request"),
        ([(0, -1.0, 0.5, False)], "cost"),
        ([(0, 1.0, math.nan, False)], "score"),
    ],
)
def test_attempts_that_can_not_be_charged_are_refused(rows, words) -> None:
    with pytest.raises(FrontierError, match=words):
        attempts(*rows)


@pytest.mark.skipif(
    "POINTSMAN_BENCH_DATA" not in os.environ, reason="POINTSMAN_BENCH_DATA names no real tables"
)
def test_on_a_real_table_the_right_answer_known_beforehand_is_cheaper_than_the_two_model_mix() -> (
    None
):
    from controlplane.simulation.tables import read_table  # noqa: PLC0415 — only where tables are

    folder = Path(os.environ["POINTSMAN_BENCH_DATA"]) / "public"
    table = read_table(
        folder / "routellm2.queries.csv.gz", folder / "routellm2.outcomes.csv.gz", None
    )
    settings = []
    for price in (0.0, 10.0, 100.0, 1000.0, 1e5):
        best = (table.scores - price * table.costs_usd).argmax(axis=1)
        choice = np.eye(len(table.arms))[best]
        settings.append(expected(choice, table.scores, table.costs_usd))
    found = compare(settings, of_arms(table.scores, table.costs_usd, table.arms))
    assert all(
        oracle < mix
        for oracle, mix in zip(found.router.shares, found.two_model_mix.shares, strict=True)
    )
    assert found.router.nauc_common > found.two_model_mix.nauc_common
    assert found.router.peak > found.best.score
