import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learners.episodes import episode_schema
from learners.errors import SpecError
from learners.exploration import Exploration
from learners.scorers.base import load
from learners.scorers.budgeted import Budgeted
from learners.scorers.linear import Linear

ARMS = ("small", "middle", "large")
TURN, SPENT, BUDGET = 1, 3, 4


def schema_of(turns: int = 6, budget: float = 1.0):
    return episode_schema(ARMS, ("code",), max_turns=turns, budget_usd=budget)


def scorer_of(usd, turns: int = 6, scale: float = 1.0, **changed) -> Budgeted:
    schema = schema_of(turns, scale)
    weights = np.random.default_rng(0).normal(size=(len(ARMS), schema.dimension))
    inner = Linear(ARMS, weights, Exploration("softmax", floor=0.1))
    given = {
        "arms": ARMS,
        "exploration": inner.exploration,
        "inner": inner,
        "bounds": np.array(usd, dtype=float),
        "reading": np.array([[TURN, 0.0, turns], [SPENT, 0.0, scale], [BUDGET, 0.0, scale]]),
        "max_turns": turns,
    }
    return Budgeted(**{**given, **changed})


def x_of(turn, spent, budget, turns: int = 6, scale: float = 1.0):
    context = {"turn": turn, "spent_usd": spent, "budget_usd": budget}
    return schema_of(turns, scale).encode_all([context])


def everyone(x):
    return np.ones((len(x), len(ARMS)), dtype=bool)


@settings(max_examples=200, deadline=None)
@given(
    turns=st.integers(1, 12),
    bounds=st.lists(st.floats(1e-6, 5.0), min_size=3, max_size=3),
    room=st.floats(1.0, 20.0),
    seed=st.integers(0, 2**32 - 1),
)
def test_no_episode_exceeds_a_budget_that_bears_the_cheapest_arm_to_the_end(
    turns, bounds, room, seed
):
    random = np.random.default_rng(seed)
    budget = turns * min(bounds) * room
    scorer = scorer_of(bounds, turns, budget)
    spent = 0.0
    for turn in range(turns):
        x = x_of(turn, spent, budget, turns, budget)
        eligible = random.random((1, 3)) > 0.3
        eligible[0, int(np.argmin(bounds))] = True
        (spread,) = scorer.distribution(x, eligible)
        # The dearest arm that may be drawn, at its bound: nothing dearer can happen.
        spent += max(np.array(bounds)[spread > 0])
    assert spent <= budget * (1 + 1e-9)


def test_an_arm_is_let_in_while_the_cheapest_can_still_finish():
    scorer = scorer_of([0.1, 0.2, 0.5])
    for left, let_in in (
        (1.01, [True, True, True]),  # 0.5 now, and 5 turns of 0.1
        (0.99, [True, True, False]),
        (0.69, [True, False, False]),
        (0.05, [True, False, False]),  # nothing fits: the cheapest is all that is left
    ):
        x = x_of(0, 2.0 - left, 2.0)
        assert scorer.allowed(x, everyone(x))[0].tolist() == let_in
    last = x_of(5, 1.49, 2.0)
    assert scorer.allowed(last, everyone(last))[0].tolist() == [True, True, True]


def test_the_cheapest_that_is_eligible_stands_in_for_the_cheapest():
    scorer = scorer_of([0.1, 0.2, 0.5])
    x = x_of(0, 0.0, 1.1)
    eligible = np.array([[False, True, True]])
    assert scorer.allowed(x, eligible)[0].tolist() == [False, True, False]


def test_the_floor_is_spread_over_the_arms_that_are_let_in_only():
    scorer = scorer_of([0.1, 0.2, 0.5])
    x = x_of(0, 0.0, 0.75)
    (spread,) = scorer.distribution(x, everyone(x))
    assert spread[2] == 0
    assert (spread[:2] >= 0.05).all()
    assert spread.sum() == pytest.approx(1)


def test_means_and_scales_of_the_schema_are_undone():
    shifted = np.array([[TURN, 3.0, 2.0], [SPENT, 0.5, 0.25], [BUDGET, 2.0, 0.5]])
    scorer = scorer_of([0.1, 0.2, 0.5], reading=shifted)
    x = np.zeros((1, scorer.dimension))
    x[0, [TURN, SPENT, BUDGET]] = (4 - 3) / 2, (1.0 - 0.5) / 0.25, (1.45 - 2.0) / 0.5
    # Turn 4 of 6 with 0.45 left: 0.1 is kept back for the last one.
    assert scorer.allowed(x, everyone(x))[0].tolist() == [True, True, False]


def test_a_spending_that_is_clipped_leaves_nothing():
    scorer = scorer_of([0.1, 0.2, 0.5])
    x = x_of(0, 50.0, 9.0)  # clipped at 10 from above
    assert scorer.allowed(x, everyone(x))[0].tolist() == [True, False, False]
    low = x_of(0, 0.0, 9.0)
    low[0, BUDGET] = -10.0
    assert scorer.allowed(low, everyone(low))[0].tolist() == [True, False, False]


def test_without_a_budget_in_the_context_only_the_cheapest_serves():
    schema = schema_of()
    x = schema.encode_all([{}])
    assert scorer_of([0.1, 0.2, 0.5]).allowed(x, everyone(x))[0].tolist() == [True, False, False]


def test_it_is_read_back_as_it_was_written():
    scorer = scorer_of([0.1, np.inf, 0.5])
    again = load(scorer.as_json(), scorer.tensors())
    x = np.vstack([x_of(t, t / 10, 1.0) for t in range(6)])
    assert again.as_json() == scorer.as_json()
    assert np.array_equal(again.distribution(x, everyone(x)), scorer.distribution(x, everyone(x)))


def test_a_new_arm_waits_until_its_bound_is_known():
    scorer = scorer_of([0.1, 0.2, 0.5]).over(("large", "new", "small"))
    assert scorer.arms == ("large", "new", "small")
    assert scorer.bounds.tolist() == [0.5, np.inf, 0.1]
    x = x_of(5, 0.0, 9.0)
    assert scorer.allowed(x, everyone(x))[0].tolist() == [True, False, True]
    strangers = scorer_of([0.1, 0.2, 0.5]).over(("a", "b"))
    assert strangers.allowed(x, np.ones((1, 2), bool)).all()


def test_another_exploration_keeps_the_mask():
    scorer = scorer_of([0.1, 0.2, 0.5])
    x = x_of(0, 0.0, 0.75)
    for changed in (scorer.greedy(), scorer.floored(0.5), scorer.explored(Exploration("uniform"))):
        assert changed.distribution(x, everyone(x))[0, 2] == 0


@pytest.mark.parametrize(
    "changed",
    [
        {"bounds": np.array([0.1, 0.2])},
        {"bounds": np.array([0.1, -0.2, 1.0])},
        {"bounds": np.array([0.1, np.nan, 1.0])},
        {"max_turns": 0},
        {"reading": np.zeros((2, 3))},
        {"reading": np.array([[0, 0.0, 1.0], [3, 0, 1], [4, 0, 1]])},
        {"reading": np.array([[1, 0.0, 1.0], [3, 0, 1], [99, 0, 1]])},
        {"reading": np.array([[1, 0.0, 1.0], [3.5, 0, 1], [4, 0, 1]])},
        {"reading": np.array([[1, 0.0, 0.0], [3, 0, 1], [4, 0, 1]])},
        {"reading": np.array([[1, np.nan, 1.0], [3, 0, 1], [4, 0, 1]])},
        {"arms": ("small", "large", "middle")},
        {"exploration": Exploration("greedy")},
        {"inner": scorer_of([1, 1, 1])},
    ],
)
def test_numbers_that_do_not_fit_are_refused(changed):
    with pytest.raises(SpecError):
        scorer_of([0.1, 0.2, 0.5], **changed)


def test_foreign_bytes_do_not_nest():
    scorer = scorer_of([0.1, 0.2, 0.5])
    row = {**scorer.as_json(), "inner": scorer.as_json()}
    with pytest.raises(SpecError, match="mask once"):
        load(row, scorer.tensors())


def test_an_arm_that_is_made_an_average_one_keeps_its_bound():
    scorer = scorer_of([0.1, 0.2, 0.5])
    modest = scorer.modest(("small", "middle"))
    assert modest.arms == ARMS
    assert modest.bounds.tolist() == [0.1, 0.2, 0.5]
    x = x_of(0, 0.0, 10.0)
    scores = modest.scores(x)[0]
    assert np.allclose(scores[:2], scorer.scores(x)[0, :2])
    assert np.isclose(scores[2], scores[:2].mean())
    assert (modest.distribution(x, everyone(x)) >= 0.1 / 3).all()
