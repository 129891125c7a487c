from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learners.errors import InteractionError, SpecError
from learners.grades import Grades
from learners.influence import cap


def graded(source: list[int], reward: list[float], action: list[int] | None = None) -> Grades:
    n = len(source)
    return Grades(
        (2, max(source, default=-1) + 1),
        np.array(action or [0] * n, dtype=np.int64),
        np.array(source, dtype=np.int64),
        np.array(reward),
        np.ones(n),
        np.full(n, np.nan),
    )


def means(grades: Grades) -> np.ndarray:
    weight = np.bincount(grades.arm, grades.weight, grades.shape[0])
    total = np.bincount(grades.arm, grades.weight * grades.reward, grades.shape[0])
    return total / np.where(weight > 0, weight, 1.0)


@st.composite
def worlds(draw: st.DrawFn) -> tuple[Grades, float, int, np.ndarray]:
    """Grades in [0, 1], a bound, a source, and what it says instead."""
    n, k, s = draw(st.integers(1, 40)), draw(st.integers(1, 3)), draw(st.integers(1, 5))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    grades = Grades(
        (k, s),
        rng.integers(k, size=n),
        rng.integers(draw(st.sampled_from([-1, 0])), s, size=n),
        rng.random(n),
        rng.choice([0.0, 0.5, 1.0, 30.0], size=n),
        np.full(n, np.nan),
    )
    bound = draw(st.one_of(st.floats(0.01, 1.0), st.sampled_from([0.2, 0.25, 1 / 3, 0.5, 1.0])))
    return grades, bound, int(rng.integers(s)), rng.integers(0, 2, size=n).astype(np.float64)


@given(worlds())
@settings(max_examples=300, deadline=None)
def test_a_source_that_changes_all_that_it_said_moves_no_arm_beyond_the_bound(world):
    grades, bound, liar, lies = world
    lied = replace(grades, reward=np.where(grades.source == liar, lies, grades.reward))
    honest, gamed = (means(cap(one, bound, (0.0, 1.0))) for one in (grades, lied))
    assert np.abs(honest - gamed).max() <= bound + 1e-7


@given(worlds())
@settings(max_examples=300, deadline=None)
def test_where_enough_others_spoke_no_source_weighs_more_than_its_share(world):
    grades, bound, _, _ = world
    found = cap(grades, bound, (0.0, 1.0))
    assert (found.weight <= grades.weight * (1 + 1e-9)).all()
    for arm in range(grades.shape[0]):
        mine = grades.arm == arm
        total = found.weight[mine].sum()
        spoke = np.unique(grades.source[mine & (grades.weight > 0)])
        enough = -1 in spoke or len(spoke) * bound >= 1 + 1e-9
        if total > 0 and enough:
            for source in spoke[spoke >= 0]:
                held = found.weight[mine & (grades.source == source)].sum()
                assert held <= total * bound * (1 + 1e-6)
            assert (found.reward[mine] == grades.reward[mine]).all()


def test_the_louder_of_two_loses_weight_until_both_weigh_alike():
    found = cap(graded([0] * 9 + [1], [1.0] * 9 + [0.0]), 0.5)
    assert found.weight[:9].sum() == pytest.approx(1.0)
    assert found.weight[9] == 1.0
    assert found.reward.tolist() == [1.0] * 9 + [0.0]


def test_what_nobody_in_particular_said_is_not_capped_and_counts_among_the_others():
    found = cap(graded([-1] * 9 + [0], [1.0] * 9 + [0.0]), 0.25)
    assert found.weight.tolist() == [1.0] * 10
    found = cap(graded([-1] + [0] * 9, [1.0] + [0.0] * 9), 0.25)
    assert found.weight.sum() == pytest.approx(4 / 3)


def test_a_lone_source_is_drawn_halfway_to_the_middle_and_arms_keep_their_order():
    grades = graded([0] * 4, [1.0, 1.0, 0.5, 0.0], [0, 0, 1, 1])
    found = cap(grades, 0.5, (0.0, 1.0))
    assert found.reward.tolist() == [0.75, 0.75, 0.5, 0.25]
    assert found.weight.tolist() == [1.0] * 4


def test_a_bound_of_one_changes_nothing():
    grades = graded([0, 0, 1], [5.0, 1.0, 0.0])
    found = cap(grades, 1.0)
    assert (found.reward == grades.reward).all()
    assert (found.weight == grades.weight).all()


def test_a_grade_outside_the_limits_reaches_no_further_than_they_do():
    found = cap(graded([0, 1], [100.0, 0.0]), 0.5, (0.0, 1.0))
    assert found.reward.tolist() == [1.0, 0.0]


def test_of_no_grades_none_are_left():
    assert len(cap(graded([], []), 0.5)) == 0


@pytest.mark.parametrize("bound", [0.0, -1.0, 1.5, float("nan")])
def test_a_bound_that_is_no_share_is_refused(bound: float):
    with pytest.raises(SpecError, match="above 0, at most 1"):
        cap(graded([0], [1.0]), bound)


def test_limits_the_wrong_way_round_are_refused():
    with pytest.raises(SpecError, match="the lower first"):
        cap(graded([0], [1.0]), 0.5, (1.0, 0.0))


def test_grades_of_sources_that_there_are_not_are_refused():
    one = np.zeros(1, dtype=np.int64)
    with pytest.raises(InteractionError, match="source ranges"):
        Grades((1, 0), one, one, np.ones(1), np.ones(1), np.ones(1))
    with pytest.raises(InteractionError, match="weight has shape"):
        Grades((1, 1), one, one, np.ones(1), np.ones(2), np.ones(1))
