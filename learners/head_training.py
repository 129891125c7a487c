"""From labelled rows to a head that may serve: its penalty, its fit and its calibration.

Rows come in the order of time. The penalty that fits held-out rows best is taken, from folds of
which each is predicted by a head that the others trained; the same predictions calibrate. The head
itself is trained on all rows.
"""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from learners.errors import HeadError
from learners.head_fitting import fit, scaled, scaling
from learners.head_measures import Measures, evaluate, gain, losses, measure
from learners.heads import HeadKind, HeadModel, chances
from learners.records import Estimate

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

PENALTIES = (10.0, 1.0, 0.1, 0.01)
"""From strong to weak: they are tried until one is worse than the one before it."""
FOLDS = 3
MOST_FOLDED = 5_000
"""Rows, the newest, by which a penalty and a calibration are chosen."""
UNKNOWN = -1
"""The label of what an ood head does not know."""


@dataclass(frozen=True, slots=True, eq=False)
class Labelled:
    """Rows with labels, in the order of time.

    Attributes:
        x: vectors, shape ``(n, d)``.
        labels: index into the head's classes, shape ``(n,)``; of an ood head's known classes, or
            :data:`UNKNOWN`.
        weight: shape ``(n,)``, above 0.
        clusters: which rows belong together, shape ``(n,)``; −1: a row of its own.
    """

    x: Floats
    labels: Ints
    weight: Floats
    clusters: Ints

    def __len__(self) -> int:
        """How many rows."""
        return len(self.labels)

    def part(self, which: slice | Ints) -> Self:
        """Some of the rows."""
        return replace(
            self,
            x=self.x[which],
            labels=self.labels[which],
            weight=self.weight[which],
            clusters=self.clusters[which],
        )

    def told(self, kind: HeadKind) -> Ints:
        """What a head of this kind should say: for ood 0 for known and 1 for unknown."""
        return (self.labels == UNKNOWN).astype(np.int64) if kind == "ood" else self.labels


@dataclass(frozen=True, slots=True)
class Comparison:
    """A challenger against what serves, on rows newer than both were trained on.

    Attributes:
        own: the challenger's measures.
        other: those of what it is compared with.
        over: how much less log-loss it has, in nats, paired by row.
    """

    own: Measures
    other: Measures
    over: Estimate


def train(
    rows: Labelled, *, kind: HeadKind, classes: tuple[str, ...], threshold: float = 0.5
) -> HeadModel:
    """A calibrated head of all rows.

    Args:
        rows: at least two.
        kind: softmax, binary or ood.
        classes: their names; of an ood head the known ones.
        threshold: from which chance of its second class on it says so.

    Raises:
        HeadError: There are too few rows, or they do not fit.
    """
    if len(rows) < FOLDS:
        raise HeadError(f"{len(rows)} labelled rows: give at least {FOLDS}")
    recent = rows.part(slice(-MOST_FOLDED, None))
    told = recent.told(kind)
    best, l2, slope, shift = np.inf, 1.0, 1.0, 0.0
    for each in PENALTIES if kind != "ood" else (1.0,):
        logits = _held_out(recent, kind, classes, each)
        found = scaling(logits, told, recent.weight)
        lost = float(recent.weight @ losses(chances(found[0] * logits + found[1]), told))
        if lost >= best:
            break
        best, l2, (slope, shift) = lost, each, found
    return scaled(_fit(rows, kind, classes, l2), slope, shift).with_threshold(threshold)


def compare(
    challenger: HeadModel, serving: HeadModel | None, rows: Labelled, prior: Floats, *, level: float
) -> Comparison:
    """A challenger against what serves; where nothing does, against how frequent the classes are.

    Args:
        challenger: over C classes.
        serving: over the same ones.
        rows: newer than what either was trained on.
        prior: chances of the classes, shape ``(C,)``, among the rows that trained the challenger.
        level: of the two-sided interval.

    Raises:
        HeadError: There are no rows, or they do not fit.
    """
    told = rows.told(challenger.kind)
    own = challenger.probabilities(rows.x)
    if serving is None:
        other = np.broadcast_to(prior, own.shape)
        before = measure(other, told, challenger.classes, sample_weight=rows.weight)
    else:
        other = serving.probabilities(rows.x)
        before = evaluate(serving, rows.x, told, sample_weight=rows.weight)
    return Comparison(
        evaluate(challenger, rows.x, told, sample_weight=rows.weight),
        before,
        gain(own, other, told, level=level, sample_weight=rows.weight, clusters=rows.clusters),
    )


def frequencies(rows: Labelled, kind: HeadKind, classes: int) -> Floats:
    """How frequent each class is, shape ``(classes,)``, with half a row more of each."""
    share = np.bincount(rows.told(kind), rows.weight, classes) + 0.5
    return np.asarray(share / share.sum(), dtype=np.float64)


def _fit(rows: Labelled, kind: HeadKind, classes: tuple[str, ...], l2: float) -> HeadModel:
    weight = rows.weight / rows.weight.mean()
    return fit(rows.x, rows.labels, kind=kind, classes=classes, l2=l2, sample_weight=weight)


def _held_out(rows: Labelled, kind: HeadKind, classes: tuple[str, ...], l2: float) -> Floats:
    """The logits of each row by a head that it did not train; folds span the whole time."""
    every = np.arange(len(rows))
    found: dict[int, Floats] = {}
    for first in range(FOLDS):
        mine = every % FOLDS == first
        found[first] = _fit(rows.part(every[~mine]), kind, classes, l2).logits(rows.x[mine])
    logits = np.zeros((len(rows), *found[0].shape[1:]))
    for first, own in found.items():
        logits[every % FOLDS == first] = own
    return logits
