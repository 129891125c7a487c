import numpy as np
import pytest

from learners.errors import SpecError
from learners.exploration import Exploration
from learners.scorers.base import load
from learners.scorers.threshold import ROWS_AT_ONCE, Threshold

ARMS = ("small", "middle", "large")


def scorer_of(**changed) -> Threshold:
    random = np.random.default_rng(0)
    value = np.sort(random.random((3, 5)), axis=1)
    given = {
        "arms": ARMS,
        "exploration": Exploration("greedy", floor=0.05),
        "success": random.normal(size=(3, 4)),
        "raw": np.array([[-1.0, 0.0, 1.0, 2.0, 2.0], [-3.0, 0, 0.5, 1, 3], [0.1] * 5]),
        "value": value,
        "low": value / 2,
        "cost": np.abs(random.normal(size=(3, 4))),
        "target": 0.2,
        "unit": 0.5,
    }
    return Threshold(**{**given, **changed})


def flat(chance, low, cost, **changed) -> Threshold:
    """Arms of the same chance, bound and cost whatever the context."""
    knots = {"raw": np.zeros((3, 1)), "value": np.array([chance]).T, "low": np.array([low]).T}
    price = np.zeros((3, 4))
    price[:, 0] = cost
    return scorer_of(**knots, cost=price, **changed)


def x_of(n: int, seed: int = 1) -> np.ndarray:
    x = np.random.default_rng(seed).normal(size=(n, 4))
    x[:, 0] = 1.0
    return x


def everyone(x):
    return np.ones((len(x), 3), bool)


def test_chances_are_the_curves_between_their_knots_and_level_beyond():
    scorer, x = scorer_of(), x_of(3 * ROWS_AT_ONCE + 5)
    value, low = scorer.chances(x)
    raw = x @ scorer.success.T
    for arm in range(3):
        ends = len(np.unique(scorer.raw[arm]))
        # Where knots repeat np.interp takes the last one's value, as is wanted.
        if ends > 1:
            knots = scorer.raw[arm]
            assert np.allclose(value[:, arm], np.interp(raw[:, arm], knots, scorer.value[arm]))
            assert np.allclose(low[:, arm], np.interp(raw[:, arm], knots, scorer.low[arm]))
    step = raw[:, 2] >= 0.1
    assert np.allclose(value[:, 2], np.where(step, scorer.value[2, -1], scorer.value[2, 0]))


@pytest.mark.parametrize(
    ("low", "served"),
    [
        ([0.6, 0.8, 0.9], 1),  # the middle one is the cheapest that reaches .7
        ([0.7, 0.8, 0.9], 0),  # reached is enough
        ([0.6, 0.6, 0.7], 2),
        ([0.1, 0.6, 0.1], 2),  # none: the likeliest, whatever its bound
    ],
)
def test_the_cheapest_sure_arm_is_served_or_else_the_likeliest(low, served):
    scorer = flat([0.8, 0.85, 0.95], low, [0.01, 0.1, 1.0], target=0.7)
    x = x_of(6)
    spread = scorer.greedy().distribution(x, everyone(x))
    assert np.array_equal(spread, np.tile(np.eye(3)[served], (6, 1)))


def test_of_arms_that_cost_the_same_the_likelier_is_served():
    scorer = flat([0.8, 0.9, 0.85], [0.75, 0.75, 0.75], [0.2, 0.2, 0.2], target=0.7)
    x = x_of(1)
    assert scorer.greedy().distribution(x, everyone(x))[0].tolist() == [0.0, 1.0, 0.0]


def test_exploration_is_spread_on_top_exactly():
    scorer = flat([0.8, 0.9, 0.95], [0.75, 0.8, 0.9], [0.1, 0.2, 0.3], target=0.7)
    x = x_of(1)
    spread = scorer.explored(Exploration("greedy", floor=0.3)).distribution(x, everyone(x))
    assert spread[0] == pytest.approx([0.8, 0.1, 0.1])
    eligible = np.array([[False, True, True]])
    left = scorer.explored(Exploration("greedy", floor=0.3)).distribution(x, eligible)
    assert left[0] == pytest.approx([0.0, 0.85, 0.15])


def test_what_is_written_is_read_back():
    scorer, x = scorer_of(), x_of(20)
    again = load(scorer.as_json(), scorer.tensors())
    assert again.kind == "threshold"
    assert again.exploration == scorer.exploration
    assert np.array_equal(again.scores(x), scorer.scores(x))


def test_over_other_arms_the_known_keep_their_scores_and_a_new_one_is_sure_of_nothing():
    scorer, x = scorer_of(target=0.0), x_of(50)
    other = scorer.over(("large", "new", "small"))
    assert np.array_equal(other.scores(x)[:, [0, 2]], scorer.scores(x)[:, [2, 0]])
    assert (other.low[1] == 0).all()
    assert scorer.over(ARMS) is scorer
    sure = flat([0.8, 0.8, 0.8], [0.75, 0.75, 0.75], [1.0, 2.0, 3.0], target=0.7)
    spread = sure.over(("new", "large")).greedy().distribution(x, np.ones((50, 2), bool))
    assert (spread[:, 1] == 1.0).all()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"success": np.zeros((2, 4))}, "success"),
        ({"cost": np.zeros((3, 5))}, "cost"),
        ({"raw": np.zeros((3, 4))}, "knots"),
        ({"raw": np.zeros((3, 0)), "value": np.zeros((3, 0)), "low": np.zeros((3, 0))}, "knots"),
        ({"raw": np.array([[1.0, 0, 2, 3, 4]] * 3)}, "raw falls"),
        ({"value": np.full((3, 5), 1.5)}, "value is outside"),
        ({"low": np.full((3, 5), -0.5)}, "low is outside"),
        ({"low": np.full((3, 5), np.nan)}, "NaN"),
        ({"cost": np.full((3, 4), np.inf)}, "infinity"),
        ({"target": 1.5}, "target"),
        ({"target": float("nan")}, "target"),
        ({"unit": 0.0}, "unit"),
        ({"unit": float("inf")}, "unit"),
        ({"arms": ("small", "small", "large")}, "repeat"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(changed, words):
    with pytest.raises(SpecError, match=words):
        scorer_of(**changed)


def test_a_tensor_that_is_missing_is_named():
    scorer = scorer_of()
    tensors = {name: each for name, each in scorer.tensors().items() if name != "low"}
    with pytest.raises(SpecError, match="low"):
        load(scorer.as_json(), tensors)
