from dataclasses import replace

import numpy as np
import pytest

from learners.errors import SpecError
from learners.exploration import Exploration
from learners.scorers import base
from learners.scorers.trees import Trees

SCORER = Trees(
    # Arm a: x[1] <= 0.5 ? 1 : (x[2] <= -1 ? 2 : 3), of mean 2. Arm b: 5 everywhere.
    arms=("a", "b"),
    columns=3,
    roots=np.array([0, 5]),
    feature=np.array([1, 0, 2, 0, 0, 0]),
    threshold=np.array([0.5, 0.0, -1.0, 0.0, 0.0, 0.0]),
    left=np.array([1, 1, 3, 3, 4, 5]),
    right=np.array([2, 1, 4, 3, 4, 5]),
    value=np.array([2.0, 1.0, 2.5, 2.0, 3.0, 5.0]),
    exploration=Exploration("greedy", 0.1),
)
X = np.array([[1.0, 0.5, 9.0], [1.0, 0.6, -1.0], [1.0, 0.6, 0.0]])


def test_a_context_falls_into_its_leaf():
    assert SCORER.scores(X).tolist() == [[1.0, 5.0], [2.0, 5.0], [3.0, 5.0]]
    assert SCORER.depth == 2


def test_it_reads_back_what_it_wrote():
    again = base.load(SCORER.as_json(), SCORER.tensors())
    assert isinstance(again, Trees)
    assert np.array_equal(again.scores(X), SCORER.scores(X))
    assert again.as_json() == SCORER.as_json()
    assert again.dimension == 3


def test_a_new_arm_is_as_the_known_ones_are_on_average():
    other = SCORER.over(("new", "a", "b"))
    assert other.scores(X).tolist() == [[3.5, 1.0, 5.0], [3.5, 2.0, 5.0], [3.5, 3.0, 5.0]]
    assert SCORER.over(("x",)).scores(X).tolist() == [[0.0]] * 3
    assert SCORER.over(SCORER.arms) is SCORER


def test_many_rows_score_as_each_alone():
    x = np.random.default_rng(0).normal(size=(5_000, 3))
    alone = np.concatenate([SCORER.scores(row[None]) for row in x[4_090:4_100]])
    assert np.array_equal(SCORER.scores(x)[4_090:4_100], alone)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"left": np.array([1, 0, 3, 3, 4, 5])}, "leads back"),
        ({"left": np.array([1, 1, 3, 3, 4, 6])}, "left lies outside 0 to 5"),
        ({"roots": np.array([0, -1])}, "roots lies outside"),
        ({"roots": np.array([0])}, "do not fit 2 arms"),
        ({"feature": np.array([1, 0, 3, 0, 0, 0])}, "feature lies outside 0 to 2"),
        ({"feature": np.zeros(6)}, "whole numbers"),
        ({"value": np.array([np.nan, 1, 2, 3, 4, 5])}, "value holds NaN"),
        ({"threshold": np.zeros(5)}, "give one length"),
        ({"arms": ("a", "a")}, "repeat"),
    ],
)
def test_nodes_that_do_not_fit_are_refused(change, message):
    with pytest.raises(SpecError, match=message):
        replace(SCORER, **change)


def test_a_tree_that_is_too_deep_is_refused():
    n = 131
    here = np.arange(n)
    inner = here % 2 == 0
    inner[-1] = False
    with pytest.raises(SpecError, match="is 65 deep"):
        Trees(
            arms=("a",),
            columns=1,
            roots=np.zeros(1, dtype=np.int64),
            feature=np.zeros(n, dtype=np.int64),
            threshold=np.zeros(n),
            left=np.where(inner, here + 1, here),
            right=np.where(inner, here + 2, here),
            value=np.zeros(n),
            exploration=Exploration(),
        )


@pytest.mark.parametrize("dtype", [np.uint64, np.bool_, np.complex64])
def test_numbers_of_a_type_that_no_form_writes_are_refused(dtype):
    for name, values in SCORER.tensors().items():
        tensors = {**SCORER.tensors(), name: np.zeros(values.shape, dtype)}
        with pytest.raises(SpecError, match=f"tensor '{name}' is of"):
            base.load(SCORER.as_json(), tensors)
