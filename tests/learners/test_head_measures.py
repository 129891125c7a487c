"""How good a head is, and whether it beats another."""

import numpy as np
import pytest

from learners.errors import HeadError
from learners.head_measures import auroc, average_precision, gain, losses, measure, miscalibration

ONES = np.ones(4)


def test_the_area_under_the_curve_counts_pairs_and_ties_half() -> None:
    score = np.array([0.1, 0.4, 0.4, 0.8])
    assert auroc(score, np.array([0.0, 0.0, 1.0, 1.0]), ONES) == pytest.approx(3.5 / 4)
    # The row that ties weighs three times as much.
    weight = np.array([1.0, 1.0, 3.0, 1.0])
    assert auroc(score, np.array([0.0, 0.0, 1.0, 1.0]), weight) == pytest.approx(6.5 / 8)
    assert auroc(score, np.zeros(4), ONES) is None


def test_average_precision_is_that_of_the_ranking() -> None:
    score = np.array([0.9, 0.8, 0.7, 0.1])
    found = average_precision(score, np.array([1.0, 0.0, 1.0, 0.0]), ONES)
    assert found == pytest.approx((1 / 1 + 2 / 3) / 2)


def test_measures_of_chances_that_are_known() -> None:
    chances = np.array([[0.8, 0.2], [0.6, 0.4], [0.3, 0.7], [0.9, 0.1]])
    labels = np.array([0, 1, 1, 0])
    found = measure(chances, labels, ("no", "yes"))
    own = np.array([0.8, 0.4, 0.7, 0.9])
    assert found.log_loss == pytest.approx(-np.log(own).mean())
    assert found.brier == pytest.approx(2 * np.square(1 - own).mean())
    assert (found.accuracy, found.auroc, found.aupr) == (0.75, 1.0, 1.0)
    assert found.counts == {"no": 2.0, "yes": 2.0}


def test_no_single_row_costs_without_bound() -> None:
    assert losses(np.array([[1.0, 0.0]]), np.array([1]))[0] == pytest.approx(-np.log(1e-3))


def test_an_equal_challenger_seldom_seems_better() -> None:
    """At a two-sided 90 % one of 20 may; of 600, more than 50 come once in 10,000 times."""
    random, passed = np.random.default_rng(0), 0
    for _ in range(600):
        truth = random.random(300)
        labels = (random.random(300) < truth).astype(np.int64)
        near, other = (np.clip(truth + random.normal(size=300) / 5, 0.02, 0.98) for _ in "ab")
        weight = 1 / random.uniform(0.1, 1.0, size=300)
        own, rival = (np.stack([1 - one, one], axis=1) for one in (near, other))
        passed += gain(own, rival, labels, level=0.9, sample_weight=weight).low > 0
    assert passed <= 50


def test_a_better_challenger_is_seen_to_be_better() -> None:
    random = np.random.default_rng(1)
    truth = random.random(500)
    labels = (random.random(500) < truth).astype(np.int64)
    right = np.stack([1 - truth, truth], axis=1)
    found = gain(right, np.full((500, 2), 0.5), labels, level=0.99)
    assert 0 < found.low < found.value < np.log(2)
    assert found.effective_n == 500
    together = gain(
        right, np.full((500, 2), 0.5), labels, level=0.99, clusters=np.repeat(np.arange(50), 10)
    )
    assert together.value == pytest.approx(found.value)


def test_chance_alone_is_no_miscalibration_and_a_head_too_sure_is() -> None:
    """The error that is left of 200 calibrated heads is below 0.01 for nine in ten of them."""
    random, left, sure = np.random.default_rng(2), [], []
    for _ in range(200):
        chance = random.uniform(0.5, 1.0, size=80)
        right = (random.random(80) < chance).astype(np.float64)
        left.append(miscalibration(chance, right, np.ones(80)))
        sure.append(
            miscalibration(
                np.full(400, 0.95), (random.random(400) < 0.7).astype(np.float64), np.ones(400)
            )
        )
    assert np.mean(np.array(left) < 0.01) > 0.9
    assert min(sure) > 0.05
    assert miscalibration(np.array([1.0]), np.array([1.0]), np.ones(1)) == 0.0


def test_rows_that_do_not_fit_are_refused() -> None:
    with pytest.raises(HeadError, match="labels from 0 to 2"):
        measure(np.full((2, 2), 0.5), np.array([0, 2]), ("a", "b"))
    with pytest.raises(HeadError, match="weighs anything"):
        measure(np.full((1, 2), 0.5), np.array([0]), ("a", "b"), sample_weight=np.zeros(1))
