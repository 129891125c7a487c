"""From labelled rows to a calibrated head, and the comparison with what serves."""

from dataclasses import replace

import numpy as np
import pytest

from learners.errors import HeadError
from learners.head_measures import evaluate
from learners.head_training import (
    CHUNK,
    MOST_HELD,
    MOST_HELD_CELLS,
    UNKNOWN,
    Held,
    Labelled,
    begin,
    compare,
    follow,
    frequencies,
    train,
)
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


def test_a_head_that_learns_on_comes_close_to_one_that_begins_anew() -> None:
    old, fresh = rows(1_000, seed=10), rows(4_000, seed=11)
    learnt = begin(old.part(slice(None, 500)), kind="softmax", classes=NAMES)
    for at in range(500, 1_000, 50):
        learnt = follow(learnt, old.part(slice(at, at + 50)), most=10_000)
    assert (learnt.seen, learnt.begun) == (1_000, 500)
    anew = begin(old, kind="softmax", classes=NAMES)
    on, all_at_once, half = (
        evaluate(one, fresh.x, fresh.labels)
        for one in (
            learnt.model(),
            anew.model(),
            begin(old.part(slice(None, 500)), kind="softmax", classes=NAMES).model(),
        )
    )
    assert on.accuracy > all_at_once.accuracy - 0.01
    assert on.log_loss < half.log_loss
    assert on.ece < 0.05


def test_more_rows_than_one_fit_takes_in_are_learnt_by_parts() -> None:
    old, fresh = rows(2 * CHUNK + 7, seed=12), rows(4_000, seed=13)
    learnt = begin(old, kind="softmax", classes=NAMES)
    assert learnt.seen == len(old)
    assert learnt.state.counts.sum() == pytest.approx(len(old))
    assert len(learnt.held.labels) == MOST_HELD
    whole = evaluate(learnt.model(), fresh.x, fresh.labels)
    first = begin(old.part(slice(None, 300)), kind="softmax", classes=NAMES).model()
    assert whole.log_loss < evaluate(first, fresh.x, fresh.labels).log_loss
    assert whole.ece < 0.03


def test_a_head_that_stands_for_few_rows_follows_what_has_changed() -> None:
    old, new = rows(2_000, seed=14), rows(300, seed=15)
    turned = replace(new, labels=(new.labels + 1) % 3)
    fresh = rows(2_000, seed=16)
    learnt = begin(old, kind="softmax", classes=NAMES)
    kept, forgets = (follow(learnt, turned, most=most) for most in (100_000, 400))
    assert (kept.seen, forgets.seen) == (2_300, 400)
    slow, fast = (
        evaluate(one.model(), fresh.x, (fresh.labels + 1) % 3).accuracy for one in (kept, forgets)
    )
    assert fast > slow + 0.1


def test_what_is_held_to_calibrate_by_has_a_limit_whatever_the_classes() -> None:
    few = rows(30, seed=17)
    none = Held(np.zeros((0, 256)), few.labels[:0], few.weight[:0])
    many = Labelled(
        np.zeros((3_000, 1)), np.zeros(3_000, np.int64), np.ones(3_000), -np.ones(3_000, np.int64)
    )
    wide = none.then(np.zeros((3_000, 256)), many)
    assert wide.logits.size <= MOST_HELD_CELLS
    assert len(wide.labels) == len(wide.logits) == len(wide.weight)
    narrow = Held(np.zeros(0), few.labels[:0], few.weight[:0]).then(np.zeros(3_000), many)
    assert len(narrow.labels) == MOST_HELD


def test_nothing_new_changes_nothing_and_an_ood_head_does_not_learn_on() -> None:
    old = rows(200, seed=18)
    learnt = begin(old, kind="softmax", classes=NAMES)
    assert follow(learnt, old.part(slice(0, 0)), most=1_000) is learnt
    with pytest.raises(HeadError, match="learns anew each time"):
        begin(old, kind="ood", classes=NAMES)


def test_too_few_rows_train_nothing() -> None:
    with pytest.raises(HeadError, match="give at least 3"):
        train(rows(2, seed=9), kind="softmax", classes=NAMES)
