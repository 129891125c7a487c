from dataclasses import replace

import numpy as np
import pytest

from bench import learning_drift, streams
from controlplane.replay_loop import prepare
from controlplane.simulation.tables import Table


def a_table(n: int, seed: int) -> Table:
    """Arm b is right most often, c next, a never; free of cost."""
    random = np.random.default_rng(seed)
    return Table(
        query_ids=tuple(f"q{seed}-{i}" for i in range(n)),
        texts=None,
        domains=tuple("law" if i % 2 else "maths" for i in range(n)),
        arms=("a", "b", "c"),
        scores=(random.random((n, 3)) < (0.0, 0.9, 0.6)).astype(float),
        costs_usd=np.zeros((n, 3)),
    )


@pytest.fixture(name="course", scope="module")
def _course():
    return prepare(a_table(300, 0), a_table(200, 1), "score")


def test_a_stream_is_every_request_once_a_pass_in_an_order_of_its_seed(course):
    rows = streams.passes(course, 3)
    first = np.concatenate([next(rows) for _ in range(10)])
    assert sorted(first[:300]) == list(range(300))
    assert sorted(first[300:600]) == list(range(300))
    again = streams.passes(course, 3)
    assert np.array_equal(first[:64], next(again))


def test_swapped_arms_have_each_others_outcomes(course):
    change = streams.swapped(course)
    before, after = change.before.test, change.after.test
    assert np.array_equal(after.rewards, before.rewards[:, [1, 0, 2]])
    assert np.array_equal(after.parts, before.parts[:, [1, 0, 2]])
    assert change.best_after == before.rewards[:, 1].mean()


def test_a_degraded_arm_earns_half(course):
    change = streams.degraded(course)
    assert np.allclose(change.after.train.rewards[:, 1], course.train.rewards[:, 1] / 2)
    assert np.array_equal(change.after.train.rewards[:, 2], course.train.rewards[:, 2])
    assert change.best_after == course.test.rewards[:, 2].mean()


def test_the_first_two_looks_in_a_row_near_the_best_count():
    best = 0.6
    assert streams.rounds([0.1, 0.59, 0.2, 0.581, 0.7], best) == 3 * streams.REFRESH
    assert streams.rounds([0.6, 0.6], best) == 0
    assert streams.rounds([0.1, 0.57], best) == float("inf")


@pytest.mark.parametrize("name", ["best_fixed", "ema", "epsilon-greedy"])
def test_a_router_that_knows_one_arm_finds_the_new_best_after_the_old_one_fell(course, name):
    change = streams.degraded(course)
    router = learning_drift._router(name, course, 0)
    earned = streams.recovery(router, change, 0, 512, 3_072)
    assert earned[0] < change.best_after - 0.1
    assert 0 < streams.rounds(earned, change.best_after) < 3_072


def test_a_rearmed_learner_draws_from_the_arms_that_it_has_then(course):
    router = streams.Learning("beta_thompson", course, {}, 0)
    rows = streams.passes(course, 0)
    for _ in range(6):
        router.serve(course, next(rows))
    assert router.picks.total() == 6 * streams.REFRESH
    assert router.picks["b"] > 0
    without = streams.over_arms(course, [2, 0])
    router.rearm(without)
    for _ in range(6):
        router.serve(without, next(rows))
    assert router.picks["b"] == 0
    assert router.picks.total() == 6 * streams.REFRESH
    assert router.shares(without).argmax() == 0


def test_arms_are_drawn_as_often_as_is_logged(course):
    router = streams.Learning("uniform", course, {}, 0)
    rows = streams.passes(course, 0)
    for _ in range(40):
        router.serve(course, next(rows))
    n = router.picks.total()
    # Binomial; 4.5 standard deviations: false alarm below 1 in 100,000.
    limit = 4.5 * np.sqrt(n * 2 / 9)
    assert all(abs(router.picks[arm] - n / 3) < limit for arm in course.arms)


def test_endpoints_take_the_snapshots_of_march_and_then_of_june():
    arms = (*streams.MARCH, *streams.JUNE)
    table = replace(
        a_table(100, 0),
        arms=arms,
        scores=np.tile([0.1, 0.9, 0.6, 0.3], (100, 1)),
        costs_usd=np.ones((100, 4)),
    )
    change = streams.endpoints(prepare(table, table, "score - 0.2*cost_usd/COST_REF"))
    assert change.before.arms == change.after.arms == ("gpt-3.5-turbo", "gpt-4")
    assert np.allclose(change.before.train.rewards, [0.1, 0.9])
    assert np.allclose(change.after.train.rewards, [0.6, 0.3])
    assert change.best_after == pytest.approx(0.6)


def test_a_share_is_fair_from_the_first_look_that_is_near_enough():
    assert learning_drift.fair_after([0.1, 0.15, 0.17, 0.0], 0.2, 256) == 3 * streams.REFRESH
    assert learning_drift.fair_after([0.1, 0.15], 0.2, 2_048) == 2_048
    assert learning_drift.fair_after([0.0], 0.0, 2_048) == streams.REFRESH
