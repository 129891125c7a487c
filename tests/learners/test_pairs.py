"""A model's predictions against requests that two arms have answered."""

import math
from datetime import UTC, datetime

import numpy as np
import pytest

from learners.errors import InteractionError
from learners.pairs import Observed, Pair, paired_residuals

AT = datetime(2026, 1, 5, tzinfo=UTC)
ARMS = ("a", "b", "c")


def pair(served: str, shadow: str, rewards: tuple[float, float]) -> Pair:
    first = Observed("s", 1, served, 0.5, rewards[0])
    return Pair(AT, {}, ARMS, first, Observed("w", 2, shadow, 0.5, rewards[1]))


def test_the_error_of_the_predicted_difference_is_what_remains():
    given = [pair("a", "b", (1.0, 0.25)), pair("c", "a", (0.0, 1.0))]
    predicted = np.array([[0.5, 0.5, 0.9], [0.75, 0.1, 0.25]])
    found = paired_residuals(given, predicted, ARMS)
    assert found.served.tolist() == [0.5, -0.25]
    assert found.shadow.tolist() == [-0.25, 0.25]
    assert found.difference.tolist() == [-0.75, 0.5]
    assert found.mean == pytest.approx(-0.125)
    assert found.standard_error == pytest.approx(0.625)
    assert found.correlation == pytest.approx(1.0)


def test_a_models_bias_shows_and_the_requests_own_difficulty_does_not():
    """With 2,000 pairs a bias of 0.1 lies 20 standard errors from 0; 5 are asked for."""
    rng = np.random.default_rng(0)
    hard = rng.normal(scale=3.0, size=2_000)
    noise = rng.normal(scale=0.15, size=(2_000, 2))
    truth = np.array([0.2, 0.5, 0.4])
    given = [
        pair("a", "b", (truth[0] + h + e[0], truth[1] + h + e[1]))
        for h, e in zip(hard, noise, strict=True)
    ]
    right = paired_residuals(given, np.tile(truth, (2_000, 1)), ARMS)
    wrong = paired_residuals(given, np.tile(truth + np.array([0.0, 0.1, 0.0]), (2_000, 1)), ARMS)
    assert abs(right.mean) < 5 * right.standard_error
    assert wrong.mean < -5 * wrong.standard_error
    assert right.served.std() > 10 * right.difference.std()


def test_few_pairs_prove_nothing():
    none = paired_residuals([], np.zeros((0, 3)), ARMS)
    assert math.isnan(none.mean)
    one = paired_residuals([pair("a", "b", (1.0, 0.0))], np.zeros((1, 3)), ARMS)
    assert one.standard_error == math.inf


def test_what_does_not_fit_is_refused():
    with pytest.raises(InteractionError, match=r"give \(1, 3\)"):
        paired_residuals([pair("a", "b", (1.0, 0.0))], np.zeros((2, 3)), ARMS)
    with pytest.raises(InteractionError, match="no arm 'd'"):
        paired_residuals([pair("a", "d", (1.0, 0.0))], np.zeros((1, 3)), ARMS)
