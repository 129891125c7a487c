"""How good a head is on rows that it has not seen, and whether it beats another one there."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from learners import intervals
from learners.calibration import calibration_error
from learners.errors import HeadError
from learners.heads import HeadModel
from learners.records import Estimate

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

LEAST_CHANCE = 1e-3
"""Of a label: what is less counts as this, so that one row costs at most 6.9 nats."""
_BINS = 10


@dataclass(frozen=True, slots=True)
class Measures:
    """A head's quality on n labelled rows.

    Attributes:
        n: rows.
        log_loss: mean of −log of the label's chance, in nats, see :data:`LEAST_CHANCE`.
        brier: mean squared distance of the chances to the label, summed over classes, 0 to 2.
        ece: expected calibration error of the likeliest class's chance, over ten equal bins.
        miscalibration: what of that remains when each bin's gap is two standard errors less: more
            than 0 is more than chance explains.
        accuracy: share of rows whose class is what the head says.
        auroc: chance that a row of a class ranks above another one; mean over the classes that
            have rows and lack some; of the second class for two classes. None where there is none.
        aupr: average precision, likewise.
        counts: weight of the rows of each class.
    """

    n: int
    log_loss: float
    brier: float
    ece: float
    miscalibration: float
    accuracy: float
    auroc: float | None
    aupr: float | None
    counts: Mapping[str, float]

    def as_json(self) -> dict[str, Any]:
        """Plain numbers."""
        return {
            "n": self.n,
            "log_loss": self.log_loss,
            "brier": self.brier,
            "ece": self.ece,
            "miscalibration": self.miscalibration,
            "accuracy": self.accuracy,
            "auroc": self.auroc,
            "aupr": self.aupr,
            "counts": dict(self.counts),
        }


def evaluate(
    model: HeadModel, x: Floats, labels: Ints, *, sample_weight: Floats | None = None
) -> Measures:
    """Measure a head.

    Args:
        model: over C classes.
        x: shape ``(n, d)``, at least one row.
        labels: index into ``model.classes``, shape ``(n,)``.
        sample_weight: of each row, at least 0, shape ``(n,)``; 1 if not given.

    Raises:
        HeadError: The rows do not fit the head, or weigh nothing.
    """
    chances = model.probabilities(x)
    return measure(chances, labels, model.classes, said=model.says(x), sample_weight=sample_weight)


def measure(
    chances: Floats,
    labels: Ints,
    classes: tuple[str, ...],
    *,
    said: Ints | None = None,
    sample_weight: Floats | None = None,
) -> Measures:
    """Measure chances of any origin, shape ``(n, C)``; ``said`` is the likeliest if not given.

    Raises:
        HeadError: The rows do not fit each other, or weigh nothing.
    """
    weight = np.ones(len(chances)) if sample_weight is None else sample_weight
    _check(chances, labels, weight, len(classes))
    said = chances.argmax(axis=1) if said is None else said
    total = float(weight.sum())
    one = np.zeros_like(chances)
    one[np.arange(len(one)), labels] = 1.0
    sure, right = chances.max(axis=1), (chances.argmax(axis=1) == labels).astype(np.float64)
    ranks = [
        (roc, average_precision(chances[:, c], one[:, c], weight))
        for c in ((1,) if len(classes) == 2 else range(len(classes)))
        if (roc := auroc(chances[:, c], one[:, c], weight)) is not None
    ]
    return Measures(
        n=len(labels),
        log_loss=float(weight @ losses(chances, labels)) / total,
        brier=float(weight @ np.square(chances - one).sum(axis=1)) / total,
        ece=calibration_error(sure, right, weight),
        miscalibration=miscalibration(sure, right, weight),
        accuracy=float(weight @ (said == labels)) / total,
        auroc=_mean([roc for roc, _ in ranks]),
        aupr=_mean([pr for _, pr in ranks]),
        counts=dict(zip(classes, np.bincount(labels, weight, len(classes)).tolist(), strict=True)),
    )


def miscalibration(chance: Floats, right: Floats, weight: Floats) -> float:
    """The calibration error that chance does not explain.

    The gap of each of ten equal-sized bins counts by how much it exceeds two standard errors, which
    a calibrated head's does one time in twenty.

    Args:
        chance: that a row is right, shape ``(n,)``.
        right: 0 or 1, shape ``(n,)``.
        weight: shape ``(n,)``.
    """
    order = np.argsort(chance, kind="stable")
    found = 0.0
    for part in np.array_split(order, min(_BINS, len(order))):
        w, p = weight[part], chance[part]
        gap = abs(float(w @ (p - right[part])))
        found += max(0.0, gap - 2.0 * math.sqrt(float(np.square(w) @ (p * (1.0 - p)))))
    return found / float(weight.sum())


def losses(chances: Floats, labels: Ints) -> Floats:
    """−log of the label's chance of each row, in nats, ``(n,)``, at most −log 0.001."""
    own = chances[np.arange(len(chances)), labels]
    found: Floats = -np.log(np.maximum(own, LEAST_CHANCE))
    return found


def gain(
    challenger: Floats,
    other: Floats,
    labels: Ints,
    *,
    level: float,
    sample_weight: Floats | None = None,
    clusters: Ints | None = None,
) -> Estimate:
    """How much less log-loss the challenger has, row by row, in nats; above 0 it is better.

    A weighted mean is a ratio, so the interval is that of its linearised rows; the effective
    sample size is Kish's of the weights.

    Args:
        challenger: its chances, shape ``(n, C)``.
        other: those of what it is compared with, the same shape.
        labels: shape ``(n,)``.
        level: of the two-sided interval.
        sample_weight: shape ``(n,)``; 1 if not given.
        clusters: which rows belong together, shape ``(n,)``, as in :mod:`learners.intervals`.

    Raises:
        HeadError: The rows do not fit each other, or weigh nothing.
    """
    weight = np.ones(len(labels)) if sample_weight is None else sample_weight
    for chances in (challenger, other):
        _check(chances, labels, weight, challenger.shape[1])
    apart = losses(other, labels) - losses(challenger, labels)
    share = weight * (len(weight) / weight.sum())
    mean = float(share @ apart) / len(apart)
    effective = float(weight.sum() ** 2 / np.square(weight).sum())
    rows = mean + share * (apart - mean)
    return intervals.normal(rows, level=level, clusters=clusters, effective_n=effective)


def auroc(score: Floats, positive: Floats, weight: Floats) -> float | None:
    """Chance that a positive row scores above a negative one, ties counted half; None if undefined.

    All of shape ``(n,)``; ``positive`` is 0 or 1.
    """
    good, bad = weight * positive, weight * (1 - positive)
    if not (good.sum() > 0 and bad.sum() > 0):
        return None
    place = np.unique(score, return_inverse=True)[1]
    goods, bads = np.bincount(place, good), np.bincount(place, bad)
    below = np.cumsum(bads) - bads / 2
    return float(goods @ below / (good.sum() * bad.sum()))


def average_precision(score: Floats, positive: Floats, weight: Floats) -> float:
    """Area under precision over recall as a step function; shapes as for :func:`auroc`."""
    place = np.unique(-score, return_inverse=True)[1]
    goods, every = np.bincount(place, weight * positive), np.bincount(place, weight)
    total = np.cumsum(every)
    precision = np.divide(np.cumsum(goods), total, out=np.zeros(len(total)), where=total > 0)
    return float(precision @ goods / goods.sum()) if goods.sum() > 0 else math.nan


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _check(chances: Floats, labels: Ints, weight: Floats, classes: int) -> None:
    n = len(labels)
    if chances.shape != (n, classes) or weight.shape != (n,) or labels.shape != (n,):
        raise HeadError(
            f"chances {chances.shape}, labels {labels.shape}, weight {weight.shape}: give "
            f"(n, {classes}), (n,), (n,)"
        )
    if n and not (labels.min() >= 0 and labels.max() < classes):
        raise HeadError(f"labels from {labels.min()} to {labels.max()}: give 0 to {classes - 1}")
    if not weight.sum() > 0:
        raise HeadError("no labelled row that weighs anything: hold some back from training")
