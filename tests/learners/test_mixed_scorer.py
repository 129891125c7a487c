import numpy as np
import pytest

from learners.errors import SpecError
from learners.exploration import Exploration
from learners.scorers.base import load
from learners.scorers.mixed import Mixed

ARMS = ("small", "middle", "large")
PARTS = ("score", "cost_usd")
GREEDY = Exploration("greedy")


def scorer_of(**changed) -> Mixed:
    random = np.random.default_rng(0)
    given = {
        "arms": ARMS,
        "parts": PARTS,
        "weights": random.normal(size=(2, 3, 4)),
        "mix": np.array([1.0, -0.5]),
        "exploration": Exploration("softmax", floor=0.1),
    }
    return Mixed(**{**given, **changed})


def x_of(n: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(n, 4))


def test_what_is_written_is_read_back():
    scorer, x = scorer_of(), x_of(20)
    again = load(scorer.as_json(), scorer.tensors())
    assert isinstance(again, Mixed)
    assert again.parts == PARTS
    assert again.exploration == scorer.exploration
    assert np.array_equal(again.scores(x), scorer.scores(x))


def test_scores_are_the_parts_mixed_each_row_by_its_own_weights():
    scorer, x = scorer_of(), x_of(20)
    predicted = scorer.predicted(x)
    for part in range(2):
        assert np.allclose(predicted[:, part], x @ scorer.weights[part].T)
    own = np.random.default_rng(2).normal(size=(20, 2))
    want = own[:, :1] * predicted[:, 0] + own[:, 1:] * predicted[:, 1]
    assert np.allclose(scorer.scores(x, own), want)
    usual = np.tile(scorer.mix, (20, 1))
    assert np.allclose(scorer.scores(x), scorer.scores(x, usual))


def test_over_other_arms_the_known_keep_their_numbers_and_a_new_one_is_average():
    scorer, x = scorer_of(), x_of(10)
    other = scorer.over(("large", "new", "small"))
    before, after = scorer.predicted(x), other.predicted(x)
    assert np.allclose(after[:, :, [0, 2]], before[:, :, [2, 0]])
    assert np.allclose(after[:, :, 1], before[:, :, [0, 2]].mean(axis=2))
    assert scorer.over(ARMS) is scorer


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"weights": np.zeros((2, 2, 4))}, "do not fit 2 parts of 3 arms"),
        ({"weights": np.zeros((3, 4))}, "do not fit"),
        ({"weights": np.full((2, 3, 4), np.nan)}, "NaN"),
        ({"mix": np.zeros(3)}, "mix"),
        ({"mix": np.array([1.0, np.inf])}, "infinity"),
        ({"parts": (), "weights": np.zeros((0, 3, 4)), "mix": np.zeros(0)}, "0 parts"),
        ({"arms": ("small", "small", "large")}, "repeat"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(changed, words):
    with pytest.raises(SpecError, match=words):
        scorer_of(**changed)


def test_a_tensor_that_is_missing_is_named():
    scorer = scorer_of()
    with pytest.raises(SpecError, match="mix"):
        load(scorer.as_json(), {"weights": scorer.weights})
