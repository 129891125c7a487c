"""What compression costs a reader of domains: the strongest reference counts, pair by pair."""

import numpy as np
import pytest

from kernels.signals import grams

module = pytest.importorskip("bench.kernels_domains")  # which opens models, an extra


def test_the_reference_is_the_reading_that_is_right_more_often():
    full = {
        "static vector 0": [True, False, False],
        "static vector 1": [True, True, False],
        "embedding vector 0": [True, True, True],
    }
    assert module._best("static vector", full) == [True, True, False]
    assert module._best("embedding vector", full) == [True, True, True]


def test_what_is_lost_is_the_difference_of_both_accuracies():
    full, short = [True] * 98 + [False] * 2, [True] * 95 + [False] * 5
    found = module._lost("a head", full, short)
    assert found.value == pytest.approx(3.0)
    assert found.holds is False
    assert found.reference == "accuracy of the full text: 0.98"
    # Of 100 pairs 3 differ: the deviation of a difference is 17 points.
    assert "(±3.3)" in found.measure


def test_what_is_gained_is_no_loss():
    assert module._lost("a head", [False, True], [True, True]).holds is True


def test_a_vector_that_is_not_for_subjects_has_no_goal():
    found = module._lost("joint vector, a table", [True, True], [False, True])
    assert found.value == pytest.approx(50.0)
    assert found.goal is None
    assert found.holds is None


def test_the_ridge_tells_the_texts_it_has_learnt():
    said = ["the river and the lake", "the court and the judge"]
    weights = module.fit(said, np.eye(2))
    assert [int(np.argmax(grams.read(one) @ weights)) for one in said] == [0, 1]
