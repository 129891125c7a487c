"""Training heads, at once and in batches, and calibrating them."""

import numpy as np
import pytest
from numpy.typing import NDArray

from learners import head_fitting
from learners.errors import HeadError
from learners.head_fitting import HeadState, begin, calibrate, fade, fit, learn
from learners.head_measures import auroc, evaluate
from learners.heads import HeadKind

Floats = NDArray[np.float64]
NAMES = ("a", "b", "c", "d")


def rows(
    n: int, *, seed: int, classes: int = 4, width: int = 12, noise: float = 2.0
) -> tuple[Floats, NDArray[np.int64]]:
    """Vectors around a mean for each class."""
    means = np.random.default_rng(99).normal(size=(classes, width))
    random = np.random.default_rng(seed)
    labels = random.integers(classes, size=n)
    return means[labels] + noise * random.normal(size=(n, width)), labels


@pytest.mark.parametrize("kind", ["softmax", "binary"])
def test_a_fit_is_where_the_penalised_likelihood_is_greatest(kind: HeadKind) -> None:
    classes = NAMES[:2] if kind == "binary" else NAMES
    x, labels = rows(300, seed=1, classes=len(classes))
    weight = np.random.default_rng(2).random(300)
    model = fit(x, labels, kind=kind, classes=classes, l2=0.5, sample_weight=weight)
    one = np.eye(len(classes))[labels]
    gap = (model.probabilities(x) - one) * weight[:, None]
    gap = gap[:, 1:] if kind == "binary" else gap
    slope = gap.T @ x + 0.5 * model.weights
    # Of 300 rows, so each weight is within some thousandths of where the slope is 0.
    assert np.abs(slope).max() < 0.05
    assert np.abs(gap.sum(axis=0) + head_fitting.BIAS_L2 * model.bias).max() < 0.05


def test_a_row_of_weight_two_is_two_rows() -> None:
    x, labels = rows(200, seed=3)
    weight = np.where(np.arange(200) < 50, 2.0, 1.0)
    heavy = fit(x, labels, kind="softmax", classes=NAMES, sample_weight=weight)
    twice = np.concatenate([np.arange(200), np.arange(50)])
    plain = fit(x[twice], labels[twice], kind="softmax", classes=NAMES)
    np.testing.assert_allclose(heavy.weights, plain.weights, atol=1e-3)


@pytest.mark.parametrize("kind", ["softmax", "binary"])
def test_batches_that_follow_each_other_come_close_to_learning_at_once(kind: HeadKind) -> None:
    classes = NAMES[:2] if kind == "binary" else NAMES
    x, labels = rows(2_000, seed=4, classes=len(classes))
    fresh, truth = rows(2_000, seed=5, classes=len(classes))
    whole = fit(x, labels, kind=kind, classes=classes)
    state = begin(12, kind=kind, classes=classes)
    for at in range(0, 2_000, 100):
        state = learn(state, x[at : at + 100], labels[at : at + 100])
    assert isinstance(state, HeadState)
    assert state.counts.sum() == 2_000
    at_once, online = (evaluate(one, fresh, truth).log_loss for one in (whole, state.model()))
    first = fit(x[:100], labels[:100], kind=kind, classes=classes)
    assert online < at_once + 0.1 * (evaluate(first, fresh, truth).log_loss - at_once)


def test_an_ood_head_learns_the_same_from_batches_in_any_order() -> None:
    x, labels = rows(300, seed=6)
    labels = np.where(labels == 3, -1, labels)
    whole = fit(x, labels, kind="ood", classes=NAMES[:3])
    state = begin(12, kind="ood", classes=NAMES[:3])
    for part in (slice(200, 300), slice(0, 50), slice(50, 200)):
        state = learn(state, x[part], labels[part])
    np.testing.assert_allclose(state.model().logits(x), whole.logits(x), rtol=1e-9)


def test_what_fades_is_moved_further_by_the_next_batch() -> None:
    x, labels = rows(400, seed=7, classes=2)
    state = begin(12, kind="binary", classes=NAMES[:2])
    old = learn(state, x, labels)
    assert isinstance(old, HeadState)
    turned = 1 - labels[:100]
    kept = learn(old, x[:100], turned)
    faded = learn(fade(old, 0.1), x[:100], turned)
    losses = [evaluate(one.model(), x[:100], turned).log_loss for one in (kept, faded)]
    assert losses[1] < losses[0]
    np.testing.assert_array_equal(fade(old, 1.0).precision, old.precision)


def test_an_empty_batch_changes_nothing() -> None:
    state = begin(3, kind="softmax", classes=NAMES)
    assert learn(state, np.zeros((0, 3)), np.zeros(0, dtype=np.int64)) is state


def ranks(score: Floats, labels: NDArray[np.int64]) -> float | None:
    return (
        auroc(score, labels.astype(np.float64), np.ones(len(labels))) if score.ndim == 1 else None
    )


@pytest.mark.parametrize("kind", ["softmax", "binary", "ood"])
def test_calibrating_mends_chances_that_are_too_sure(kind: HeadKind) -> None:
    """Few rows and a weak prior make a head that is too sure; held-out rows say by how much."""
    classes = NAMES if kind == "softmax" else NAMES[:2]
    x, labels = rows(6_000, seed=8, classes=len(classes), width=30, noise=6.0)
    train, held, fresh = slice(0, 300), slice(300, 1_300), slice(1_300, 6_000)
    if kind == "ood":
        x[labels == 1] *= 1.3
    known = np.where(labels == 1, -1, labels) if kind == "ood" else labels
    names = ("known",) if kind == "ood" else classes
    model = fit(x[train], known[train], kind=kind, classes=names, l2=1e-3)
    better = calibrate(model, x[held], labels[held])
    before, after = (evaluate(one, x[fresh], labels[fresh]) for one in (model, better))
    assert after.log_loss < before.log_loss
    assert after.ece < before.ece
    assert after.ece < 0.05
    ranked = [ranks(one.logits(x[fresh]), labels[fresh]) for one in (model, better)]
    assert kind == "softmax" or ranked[0] == pytest.approx(ranked[1])


def test_an_ood_head_without_unknown_rows_lets_most_known_ones_pass() -> None:
    x, _ = rows(3_000, seed=9, classes=1)
    known = np.zeros(3_000, dtype=np.int64)
    model = fit(x[:1_000], known[:1_000], kind="ood", classes=("a",))
    set_up = calibrate(model, x[1_000:2_000], known[1_000:2_000])
    passed = 1 - set_up.says(x[2_000:]).mean()
    # 5 % are to be called unknown; both shares stand on 1,000 rows: 4 standard deviations.
    assert passed == pytest.approx(head_fitting.KNOWN_SHARE, abs=0.04)
    far = set_up.probabilities(x[2_000:] + 30.0)[:, 1]
    assert far.min() > 0.99


def test_a_head_that_tells_nothing_is_left_with_how_often_it_is_so() -> None:
    random = np.random.default_rng(10)
    x, labels = random.normal(size=(4_000, 5)), (random.random(4_000) < 0.2).astype(np.int64)
    upside_down = fit(
        x[:2_000], (x[:2_000, 0] > 0).astype(np.int64), kind="binary", classes=("n", "y")
    )
    truth = np.where(x[:, 0] > 0, 0, labels)
    model = calibrate(upside_down, x[2_000:], truth[2_000:])
    chance = model.probabilities(x)[:, 1]
    assert np.ptp(chance) < 1e-9
    assert chance[0] == pytest.approx(truth[2_000:].mean(), abs=0.005)


def test_rows_that_do_not_fit_are_refused_with_what_is_wrong() -> None:
    x, labels = rows(10, seed=11)
    with pytest.raises(HeadError, match=r"row 3 has label 7: labels are 0 to 3"):
        fit(x, np.where(np.arange(10) == 3, 7, labels), kind="softmax", classes=NAMES)
    with pytest.raises(HeadError, match="row 0 has a vector that is not finite"):
        fit(x * np.inf, labels, kind="softmax", classes=NAMES)
    with pytest.raises(HeadError, match="this head takes 12"):
        learn(begin(12, kind="softmax", classes=NAMES), x[:, :5], labels)
    with pytest.raises(HeadError, match="l2 is 0"):
        begin(12, kind="softmax", classes=NAMES, l2=0.0)
    model = fit(x, labels, kind="softmax", classes=NAMES)
    with pytest.raises(HeadError, match="no rows to calibrate on"):
        calibrate(model, x, labels, sample_weight=np.zeros(10))
    with pytest.raises(HeadError, match="no known vector"):
        fit(x, np.full(10, -1), kind="ood", classes=("a",))
