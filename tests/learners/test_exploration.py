import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learners.errors import SpecError
from learners.exploration import Exploration, draw, probabilities, unit_interval

explorations = st.builds(
    Exploration,
    kind=st.sampled_from(["greedy", "squarecb", "softmax", "uniform"]),
    floor=st.floats(0, 1),
    gamma=st.floats(0, 1e9),
    temperature=st.floats(1e-6, 1e6),
)
scores = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=12)


@st.composite
def scored_arms(draw_value):
    found = np.array(draw_value(scores))
    eligible = np.array(
        draw_value(st.lists(st.booleans(), min_size=len(found), max_size=len(found)))
    )
    eligible[draw_value(st.integers(0, len(found) - 1))] = True
    return found, eligible


@given(scored_arms(), explorations)
def test_probabilities_sum_to_1_keep_the_floor_and_are_0_where_not_eligible(arms, exploration):
    found, eligible = arms
    (spread,) = probabilities(found[None], eligible[None], exploration)
    assert np.isclose(spread.sum(), 1.0, atol=1e-9)
    assert (spread[~eligible] == 0).all()
    assert (spread[eligible] >= exploration.floor / eligible.sum() - 1e-12).all()


@given(scored_arms(), explorations)
def test_a_better_score_is_never_less_likely(arms, exploration):
    found, eligible = arms
    (spread,) = probabilities(found[None], eligible[None], exploration)
    order = np.argsort(found[eligible], kind="stable")
    ranked, chances = found[eligible][order], spread[eligible][order]
    rises = np.diff(ranked) > 1e-9
    assert (np.diff(chances)[rises] >= -1e-12).all()


@given(scored_arms(), explorations, st.floats(0, 1, exclude_max=True))
def test_a_draw_is_never_an_arm_of_probability_0(arms, exploration, u):
    found, eligible = arms
    (spread,) = probabilities(found[None], eligible[None], exploration)
    assert spread[draw(spread, u)] > 0


@given(scored_arms(), explorations, st.lists(st.floats(0, 1, exclude_max=True), min_size=2))
def test_draws_do_not_fall_as_u_rises(arms, exploration, units):
    found, eligible = arms
    (spread,) = probabilities(found[None], eligible[None], exploration)
    drawn = [draw(spread, u) for u in sorted(units)]
    assert drawn == sorted(drawn)


def test_a_draw_falls_where_the_cumulative_sum_says():
    spread = np.array([0.0, 0.25, 0.0, 0.75])
    assert [draw(spread, u) for u in (0.0, 0.2499, 0.25, 0.9999)] == [1, 1, 3, 3]


def test_squarecb_is_inverse_gap_weighting():
    found = np.array([[0.9, 0.4, 0.7]])
    (spread,) = probabilities(found, np.ones((1, 3), dtype=bool), Exploration("squarecb", 0, 10.0))
    assert np.allclose(spread[1:], [1 / (3 + 5), 1 / (3 + 2)])
    assert np.isclose(spread[0], 1 - 1 / 8 - 1 / 5)


def test_ties_are_split_evenly_by_greedy():
    (spread,) = probabilities(
        np.array([[1.0, 1.0, 0.0]]), np.ones((1, 3), dtype=bool), Exploration("greedy")
    )
    assert spread.tolist() == [0.5, 0.5, 0.0]


def test_a_row_without_an_eligible_arm_is_refused():
    with pytest.raises(SpecError, match="no arm is eligible"):
        probabilities(np.zeros((1, 2)), np.zeros((1, 2), dtype=bool), Exploration())


@pytest.mark.parametrize("score", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", ["greedy", "squarecb", "softmax", "uniform"])
def test_a_score_that_is_not_finite_is_refused_and_not_logged(kind, score):
    with pytest.raises(SpecError, match="NaN or infinite"):
        probabilities(np.array([[0.0, score]]), np.ones((1, 2), dtype=bool), Exploration(kind))


@given(st.lists(st.text(), max_size=4))
def test_the_same_parts_give_the_same_number_below_1(parts):
    assert 0.0 <= unit_interval(*parts) < 1.0
    assert unit_interval(*parts) == unit_interval(*parts)


def test_the_largest_hash_stays_below_1(monkeypatch):
    class Largest:
        def digest(self):
            return b"\xff" * 32

    monkeypatch.setattr("learners.exploration.hashlib.sha256", lambda _: Largest())
    assert unit_interval("any") < 1.0


@pytest.mark.parametrize(
    "values",
    [
        {"floor": -0.1},
        {"floor": float("nan")},
        {"gamma": float("inf")},
        {"temperature": 0.0},
        {"kind": "sideways"},
    ],
)
def test_an_exploration_that_gives_no_distribution_is_refused(values):
    with pytest.raises(SpecError, match="exploration"):
        Exploration(**values)


@given(explorations)
def test_an_exploration_survives_json(exploration):
    assert Exploration.from_json(exploration.as_json()) == exploration
