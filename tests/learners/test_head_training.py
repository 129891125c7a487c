"""From labelled rows to a calibrated head, and the comparison with what serves."""

from dataclasses import replace

import numpy as np
import pytest

from learners.errors import HeadError
from learners.head_measures import evaluate
from learners.head_training import UNKNOWN, Labelled, compare, frequencies, train
from learners.heads import HeadKind

NAMES = ("a", "b", "c")


def rows(n: int, *, seed: int, noise: float = 2.0, classes: int = 3) -> Labelled:
    means = np.random.default_rng(99).normal(size=(3, 10))
    random = np.random.default_rng(seed)
    labels = random.integers(classes, size=n)
    x = means[labels] + noise * random.normal(size=(n, 10))
    return Labelled(x, labels, np.ones(n), np.full(n, -1))


@pytest.mark.parametrize("kind", ["softmax", "binary", "ood"])
def test_a_trained_head_beats_the_frequencies_and_is_calibrated(kind: HeadKind) -> None:
    classes = {"softmax": NAMES, "binary": NAMES[:2], "ood": ("known",)}[kind]
    old, new = (rows(n, seed=n, classes=2 if kind != "softmax" else 3) for n in (1_000, 3_000))
    if kind == "ood":
        old, new = (
            replace(each, x=each.x + 2 * (each.labels == 1)[:, None], labels=-each.labels)
            for each in (old, new)
        )
        assert UNKNOWN in old.labels
    model = train(old, kind=kind, classes=classes, threshold=0.7)
    assert model.threshold == 0.7
    prior = frequencies(old, kind, len(model.classes))
    found = compare(model, None, new, prior, level=0.99)
    assert found.over.low > 0.03
    assert found.own.ece < 0.05
    assert found.own.log_loss < found.other.log_loss
    assert found.over.value == pytest.approx(found.other.log_loss - found.own.log_loss)


def test_the_penalty_follows_the_rows() -> None:
    """Few noisy rows ask for a strong penalty: a fit with the weakest would be far too sure."""
    few, fresh = rows(40, seed=1, noise=4.0), rows(3_000, seed=2, noise=4.0)
    model = train(few, kind="softmax", classes=NAMES)
    # Not much worse than knowing nothing, on 40 rows of 10 columns.
    assert evaluate(model, fresh.x, fresh.labels).log_loss < np.log(3) + 0.05


def test_the_same_rows_give_the_same_head() -> None:
    one, other = (train(rows(300, seed=3), kind="softmax", classes=NAMES) for _ in "ab")
    np.testing.assert_array_equal(one.weights, other.weights)
    assert one.temperature == other.temperature


def test_a_head_of_wrong_labels_loses_against_what_serves() -> None:
    good, fresh = rows(600, seed=4), rows(600, seed=5)
    shuffled = replace(good, labels=np.random.default_rng(6).permutation(good.labels))
    serving = train(good, kind="softmax", classes=NAMES)
    worse = train(shuffled, kind="softmax", classes=NAMES)
    found = compare(worse, serving, fresh, frequencies(good, "softmax", 3), level=0.99)
    assert found.over.high < 0


def test_rows_of_a_cluster_count_as_one() -> None:
    old, fresh = rows(300, seed=7), rows(100, seed=8)
    model = train(old, kind="softmax", classes=NAMES)
    again = np.repeat(np.arange(100), 10)
    repeated = replace(fresh.part(again), clusters=again)
    prior = frequencies(old, "softmax", 3)
    once, copies = (compare(model, None, each, prior, level=0.9).over for each in (fresh, repeated))
    assert copies.standard_error == pytest.approx(once.standard_error, rel=0.01)


def test_too_few_rows_train_nothing() -> None:
    with pytest.raises(HeadError, match="give at least 3"):
        train(rows(2, seed=9), kind="softmax", classes=NAMES)
