"""From labelled rows to a head that may serve: its penalty, its fit and its calibration.

Rows come in the order of time. :func:`begin` takes the penalty that fits held-out rows best, from
folds of which each is predicted by a head that the others trained; the same predictions calibrate.
The head itself is trained on all rows. :func:`follow` goes on from there with rows that came since:
it costs no more than those rows, whatever came before. They are predicted before they are learnt,
so they calibrate too. An ood head is sums and one inversion, which are done anew each time.
"""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from learners import head_fitting
from learners.errors import HeadError
from learners.head_fitting import HeadState, State, fade, fit, scaled, scaling
from learners.head_measures import Measures, evaluate, gain, losses, measure
from learners.heads import HeadKind, HeadModel, chances
from learners.records import Estimate

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

PENALTIES = (10.0, 1.0, 0.1, 0.01)
"""From strong to weak: they are tried until one is worse than the one before it."""
FOLDS = 3
MOST_HELD = 2_000
"""Rows, the newest, by which a penalty and a calibration are chosen."""
MOST_HELD_CELLS = 200_000
"""Logits of those that are kept to calibrate by: fewer rows where there are many classes."""
CHUNK = 5_000
"""Rows that one fit takes in; further ones follow it, so that no step grows with the log."""
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


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """Rows that were predicted before they were learnt, oldest first.

    Attributes:
        logits: ``(n, C)`` of a softmax head, ``(n,)`` of a binary one.
        labels: shape ``(n,)``.
        weight: shape ``(n,)``, above 0.
    """

    logits: Floats
    labels: Ints
    weight: Floats

    def then(self, logits: Floats, rows: Labelled) -> Self:
        """With further ones, of which the newest stay."""
        logits = np.concatenate([self.logits, logits])
        kept = min(MOST_HELD, MOST_HELD_CELLS // (logits.size // max(1, len(logits)) or 1))
        return replace(
            self,
            logits=logits[-kept:],
            labels=np.concatenate([self.labels, rows.labels])[-kept:],
            weight=np.concatenate([self.weight, rows.weight])[-kept:],
        )


@dataclass(frozen=True, slots=True, eq=False)
class Learnt:
    """What a softmax or binary head knows, and what it needs to learn on.

    Attributes:
        state: the weights, and how firmly each is believed.
        l2: the precision of their prior.
        unit: what rows' weights are divided by, above 0.
        seen: rows that the state stands for; fewer than it has learnt where it has forgotten.
        begun: rows that it had when it began.
        held: what calibrates it.
    """

    state: HeadState
    l2: float
    unit: float
    seen: float
    begun: int
    held: Held

    def model(self, threshold: float = 0.5) -> HeadModel:
        """The head, calibrated, with a threshold."""
        held = self.held
        slope, shift = scaling(held.logits, held.labels, held.weight)
        return scaled(self.state.model(), slope, shift).with_threshold(threshold)


def begin(rows: Labelled, *, kind: HeadKind, classes: tuple[str, ...]) -> Learnt:
    """What a softmax or binary head learns from rows alone.

    Args:
        rows: at least three.
        kind: softmax or binary.
        classes: their names.

    Raises:
        HeadError: There are too few rows, or they do not fit.
    """
    l2, logits = _chosen(rows, kind, classes)
    recent = rows.part(slice(len(rows) - len(logits), None))
    first = rows.part(slice(None, CHUNK))
    unit = float(rows.weight.mean())
    empty = head_fitting.begin(rows.x.shape[1], kind=kind, classes=classes, l2=l2)
    state = _further(empty, first, unit)
    none = Held(logits[:0], rows.labels[:0], rows.weight[:0])
    found = Learnt(state, l2, unit, float(len(first)), len(rows), none)
    for at in range(CHUNK, len(rows), CHUNK):
        found = follow(found, rows.part(slice(at, at + CHUNK)), most=len(rows))
    return replace(found, held=none.then(logits, recent))


def follow(learnt: Learnt, rows: Labelled, *, most: int) -> Learnt:
    """What it knows after rows that it has not seen.

    Args:
        learnt: so far.
        rows: of the same length, labelled with the same classes.
        most: rows that it stands for, at most; it believes what is older less, as if that many
            were left.

    Raises:
        HeadError: The rows do not fit.
    """
    if not len(rows):
        return learnt
    logits = learnt.state.model().logits(rows.x)
    room = float(max(0, most - len(rows)))
    state, seen = learnt.state, learnt.seen
    if seen > room:
        state, seen = fade(state, room / seen, learnt.l2), room
    after = _further(state, rows, learnt.unit)
    return replace(learnt, state=after, seen=seen + len(rows), held=learnt.held.then(logits, rows))


def train(
    rows: Labelled, *, kind: HeadKind, classes: tuple[str, ...], threshold: float = 0.5
) -> HeadModel:
    """A calibrated head of rows alone.

    Args:
        rows: at least three.
        kind: softmax, binary or ood.
        classes: their names; of an ood head the known ones.
        threshold: from which chance of its second class on it says so.

    Raises:
        HeadError: There are too few rows, or they do not fit.
    """
    if kind != "ood":
        return begin(rows, kind=kind, classes=classes).model(threshold)
    _, logits = _chosen(rows, kind, classes)
    recent = rows.part(slice(len(rows) - len(logits), None))
    slope, shift = scaling(logits, recent.told(kind), recent.weight)
    return scaled(_fit(rows, kind, classes, 1.0), slope, shift).with_threshold(threshold)


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


def _chosen(rows: Labelled, kind: HeadKind, classes: tuple[str, ...]) -> tuple[float, Floats]:
    """The penalty that fits best, and by it the newest rows' logits before they are learnt."""
    if len(rows) < FOLDS:
        raise HeadError(f"{len(rows)} labelled rows: give at least {FOLDS}")
    recent = rows.part(slice(-MOST_HELD, None))
    told = recent.told(kind)
    best, l2, kept = np.inf, 1.0, np.zeros(0)
    for each in PENALTIES if kind != "ood" else (1.0,):
        logits = _held_out(recent, kind, classes, each)
        slope, shift = scaling(logits, told, recent.weight)
        lost = float(recent.weight @ losses(chances(slope * logits + shift), told))
        if lost >= best:
            break
        best, l2, kept = lost, each, logits
    return l2, kept


def _fit(rows: Labelled, kind: HeadKind, classes: tuple[str, ...], l2: float) -> HeadModel:
    weight = rows.weight / rows.weight.mean()
    return fit(rows.x, rows.labels, kind=kind, classes=classes, l2=l2, sample_weight=weight)


def _further(state: State, rows: Labelled, unit: float) -> HeadState:
    found = head_fitting.learn(state, rows.x, rows.labels, sample_weight=rows.weight / unit)
    if not isinstance(found, HeadState):
        raise HeadError("an ood head learns anew each time: give kind softmax or binary")
    return found


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
