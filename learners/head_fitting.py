"""Training heads: at once or batch by batch, and calibrating them on rows held back.

Softmax and binary heads are logistic regressions with a Gaussian prior on their weights. A batch is
learnt by the maximum of its likelihood times the prior; the prior of the next batch is that maximum
with the curvature that the batch has added, of which the diagonal is kept (Chapelle & Li 2011,
"An empirical evaluation of Thompson sampling", algorithm 3). So learning at once is learning one
batch, and batches that follow cost no more than their own rows.

An ood head's state is sums, so any batches in any order give the same.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from learners.errors import HeadError
from learners.heads import IN, OUT, HeadKind, HeadModel, check_classes

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

L2 = 1.0
"""Precision of the prior of a weight, by default."""
BIAS_L2 = 1e-3
"""Of a constant: as good as free."""
KNOWN_SHARE = 0.95
"""Of known vectors: how many an ood head lets pass where nobody has labelled any unknown ones."""
_MEMORY = 10
_STEPS = 300
_TOLERANCE = 1e-6
_LEAST_GAIN = 1e-6
_LEAST = 1e-12


@dataclass(frozen=True, slots=True, eq=False)
class HeadState:
    """What a softmax or binary head has learnt.

    Attributes:
        kind: softmax or binary.
        classes: C names.
        theta: weights and, last, the bias of each logit, ``(C, d + 1)``; ``(1, d + 1)`` for binary.
        precision: how firmly each is believed, the same shape.
        counts: weight of the labels seen of each class, ``(C,)``.
    """

    kind: HeadKind
    classes: tuple[str, ...]
    theta: Floats
    precision: Floats
    counts: Floats

    def model(self) -> HeadModel:
        """The head as it would serve, not calibrated."""
        return HeadModel(self.kind, self.classes, self.theta[:, :-1], self.theta[:, -1])


@dataclass(frozen=True, slots=True, eq=False)
class KnownState:
    """What an ood head has learnt: sums over the known vectors.

    Attributes:
        known: names of the m classes that the known vectors are of.
        counts: weight of each, ``(m,)``.
        sums: of the vectors, ``(m, d)``.
        gram: of their outer products, ``(d, d)``.
    """

    known: tuple[str, ...]
    counts: Floats
    sums: Floats
    gram: Floats

    def model(self) -> HeadModel:
        """The head, not calibrated.

        Raises:
            HeadError: It has seen nothing.
        """
        there = self.counts > 0
        if not there.any():
            raise HeadError("no known vector: an ood head needs some of what is in its domain")
        counts, sums = self.counts[there], self.sums[there]
        means = sums / counts[:, None]
        covariance = (self.gram - means.T @ sums) / counts.sum()
        spread = _whitening(covariance, float(counts.sum()))
        white = means @ spread.T
        return HeadModel(
            "ood", (IN, OUT), -2.0 * white @ spread, np.square(white).sum(axis=1), spread=spread
        )


State = HeadState | KnownState


def fit(
    x: Floats,
    labels: Ints,
    *,
    kind: HeadKind,
    classes: tuple[str, ...],
    l2: float = L2,
    sample_weight: Floats | None = None,
) -> HeadModel:
    """Train a head at once; it is not calibrated.

    Args:
        x: shape ``(n, d)``.
        labels: index into ``classes`` of each row, shape ``(n,)``; for ood −1 marks what is
            unknown, from which nothing is learnt.
        kind: softmax, binary or ood.
        classes: names; those of what is known for an ood head, at least one.
        l2: precision of the weights' prior, above 0; 1 is scikit-learn's ``C=1``.
        sample_weight: of each row, at least 0, shape ``(n,)``; 1 if not given.

    Raises:
        HeadError: The rows do not fit each other or the classes.
    """
    begun = begin(x.shape[-1], kind=kind, classes=classes, l2=l2)
    return learn(begun, x, labels, sample_weight=sample_weight).model()


def begin(dimension: int, *, kind: HeadKind, classes: tuple[str, ...], l2: float = L2) -> State:
    """A state that has seen nothing.

    Raises:
        HeadError: The classes do not fit the kind, or ``l2`` is not above 0.
    """
    if not 0 < l2 < np.inf:
        raise HeadError(f"l2 is {l2}: give a finite number above 0")
    if kind == "ood":
        if not classes:
            raise HeadError("an ood head knows no class: name at least one")
        m = len(classes)
        sums = np.zeros((m, dimension))
        return KnownState(classes, np.zeros(m), sums, np.zeros((dimension, dimension)))
    check_classes(kind, classes)
    shape = (1 if kind == "binary" else len(classes), dimension + 1)
    precision = np.full(shape, l2)
    precision[:, -1] = BIAS_L2
    return HeadState(kind, classes, np.zeros(shape), precision, np.zeros(len(classes)))


def learn(state: State, x: Floats, labels: Ints, *, sample_weight: Floats | None = None) -> State:
    """The state after one more batch; arguments as in :func:`fit`.

    Raises:
        HeadError: The rows do not fit each other or the state.
    """
    known = isinstance(state, KnownState)
    classes = state.known if isinstance(state, KnownState) else state.classes
    weight = _checked(x, labels, sample_weight, len(classes), least=-1 if known else 0)
    width = state.sums.shape[1] if isinstance(state, KnownState) else state.theta.shape[1] - 1
    if x.shape[1] != width:
        raise HeadError(f"vectors of {x.shape[1]} numbers: this head takes {width}")
    kept = weight > 0 if not known else (weight > 0) & (labels >= 0)
    x, labels, weight = x[kept], labels[kept], weight[kept]
    if not len(x):
        return state
    if isinstance(state, KnownState):
        return _known(state, x, labels, weight)
    padded = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    rows = _Rows(padded, labels, weight, state.theta, state.precision)
    start = state.theta if state.counts.any() else rows.prior_odds()
    theta = minimise(rows.loss, start, 1.0 / (state.precision + rows.curvature(start)))
    counts = state.counts + np.bincount(labels, weight, len(classes))
    precision = state.precision + rows.curvature(theta)
    return replace(state, theta=theta, precision=precision, counts=counts)


def fade(state: HeadState, keep: float, l2: float = L2) -> HeadState:
    """The state with what was learnt believed less: ``keep`` of its precision beyond the prior's.

    Raises:
        HeadError: ``keep`` is not 0 to 1.
    """
    if not 0 <= keep <= 1:
        raise HeadError(f"keep is {keep}: give 0 to 1")
    prior = np.full(state.precision.shape, l2)
    prior[:, -1] = BIAS_L2
    precision = prior + keep * np.maximum(state.precision - prior, 0.0)
    return replace(state, precision=precision)


def calibrate(
    model: HeadModel, x: Floats, labels: Ints, *, sample_weight: Floats | None = None
) -> HeadModel:
    """The head with chances that fit rows which it has not learnt from.

    A softmax head gets one temperature (Guo et al. 2017, arXiv:1706.04599), a binary one a slope
    and an intercept, both with Platt's (1999) targets, so that few rows make nothing certain. An
    ood head gets the same as a binary one where unknown rows are labelled too; else it is set to
    call 1 − :data:`KNOWN_SHARE` of the known rows unknown, and its chances are no frequencies.

    Args:
        model: trained on other rows.
        x: shape ``(n, d)``, at least one row.
        labels: index into ``model.classes`` of each row, shape ``(n,)``.
        sample_weight: of each row, at least 0, shape ``(n,)``; 1 if not given.

    Raises:
        HeadError: The rows do not fit each other or the head, or weigh nothing.
    """
    weight = _checked(x, labels, sample_weight, len(model.classes))
    if not weight.sum() > 0:
        raise HeadError("no rows to calibrate on: hold some back from training")
    plain = replace(model, temperature=1.0)
    return scaled(plain, *scaling(plain.logits(x), labels, weight))


def scaling(logits: Floats, labels: Ints, weight: Floats) -> tuple[float, float]:
    """What makes held-out logits into calibrated ones: a slope above 0 or 0, and an intercept.

    Args:
        logits: ``(n, C)`` of a softmax head, for which there is no intercept; ``(n,)`` of the
            second class of another.
        labels: shape ``(n,)``; where the logits are ``(n,)`` and no label is 1, the slope and
            intercept set :data:`KNOWN_SHARE`.
        weight: shape ``(n,)``, of which some is above 0.
    """
    if logits.ndim == 2:
        return 1.0 / _temperature(logits, labels, weight), 0.0
    if not (weight @ labels) > 0:
        known = logits[weight > 0]
        slope = 1.0 / max(float(known.std()), _LEAST)
        return slope, -slope * float(np.quantile(known, KNOWN_SHARE))
    slope, shift = _platt(logits, labels, weight)
    if slope > _LEAST:
        return slope, shift
    # The vectors tell nothing: what is left is how often it is so.
    good, n = float(weight @ labels), float(weight.sum())
    return 0.0, float(np.log((good + 1) / (n - good + 1)))


def scaled(model: HeadModel, slope: float, shift: float) -> HeadModel:
    """The head of temperature 1 with other logits: ``slope`` times its own, plus ``shift``."""
    if slope > 0:
        return replace(model, bias=model.bias + shift / slope, temperature=1.0 / slope)
    spread = None if model.spread is None else np.zeros_like(model.spread)
    bias = np.full(model.bias.shape, shift)
    return replace(model, weights=np.zeros_like(model.weights), bias=bias, spread=spread)


def minimise(
    lost: Callable[[Floats], tuple[float, Floats]], start: Floats, scale: Floats
) -> Floats:
    """Where a convex function is least, by L-BFGS (Nocedal & Wright 2006, algorithm 7.4).

    Args:
        lost: point → value and gradient, of the point's shape.
        start: where to begin.
        scale: about the inverse curvature of each coordinate, above 0.
    """
    at = start
    value, slope = lost(at)
    pairs: list[tuple[Floats, Floats, float]] = []
    for _ in range(_STEPS):
        if float(np.abs(slope).max()) <= _TOLERANCE * max(1.0, abs(value)):
            break
        way = _direction(slope, pairs, scale)
        drop, step = float((way * slope).sum()), 1.0
        while True:
            after, bent = lost(at + step * way)
            if after <= value + 1e-4 * step * drop or step < 1e-10:
                break
            step /= 2
        if not value - after > _LEAST_GAIN * abs(value):
            break
        moved, turned = step * way, bent - slope
        curved = float((moved * turned).sum())
        if curved > _LEAST:
            pairs = [*pairs[-_MEMORY + 1 :], (moved, turned, curved)]
        at, value, slope = at + moved, after, bent
    return at


def _direction(slope: Floats, pairs: list[tuple[Floats, Floats, float]], scale: Floats) -> Floats:
    q, kept = slope, []
    for moved, turned, curved in reversed(pairs):
        share = float((moved * q).sum()) / curved
        kept.append(share)
        q = q - share * turned
    r = scale * q
    for (moved, turned, curved), share in zip(pairs, reversed(kept), strict=True):
        r = r + (share - float((turned * r).sum()) / curved) * moved
    return -r


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    """A batch before the prior; the last column of ``x`` is 1."""

    x: Floats
    labels: Ints
    weight: Floats
    centre: Floats
    precision: Floats

    @property
    def binary(self) -> bool:
        return len(self.centre) == 1

    def chances(self, theta: Floats) -> tuple[Floats, Floats]:
        """Of each logit's class, and the log of the label's, ``(n, C)`` and ``(n,)``."""
        z = self.x @ theta.T
        if self.binary:
            sign = np.where(self.labels == 1, 1.0, -1.0)
            return 0.5 * (1.0 + np.tanh(z / 2.0)), -np.logaddexp(0.0, -sign * z[:, 0])
        z = z - z.max(axis=1, keepdims=True)
        raised = np.exp(z)
        total = raised.sum(axis=1)
        own = z[np.arange(len(z)), self.labels] - np.log(total)
        return raised / total[:, None], own

    def loss(self, theta: Floats) -> tuple[float, Floats]:
        chance, own = self.chances(theta)
        if self.binary:
            chance = chance - self.labels[:, None]
        else:
            chance[np.arange(len(chance)), self.labels] -= 1.0
        apart = theta - self.centre
        value = -float(self.weight @ own) + float((self.precision * apart * apart).sum()) / 2
        slope = (chance * self.weight[:, None]).T @ self.x + self.precision * apart
        return value, slope

    def curvature(self, theta: Floats) -> Floats:
        """Diagonal of the expected information, of theta's shape."""
        chance, _ = self.chances(theta)
        return (chance * (1 - chance) * self.weight[:, None]).T @ np.square(self.x)

    def prior_odds(self) -> Floats:
        """A start that knows how frequent the classes are and nothing else."""
        size = 2 if self.binary else len(self.centre)
        share = np.bincount(self.labels, self.weight, size) + 0.5
        odds = np.log(share / share.sum())
        start = self.centre.copy()
        start[:, -1] = odds[1] - odds[0] if self.binary else odds
        return start


def _known(state: KnownState, x: Floats, labels: Ints, weight: Floats) -> KnownState:
    one = np.zeros((len(x), len(state.known)))
    one[np.arange(len(x)), labels] = weight
    root = np.sqrt(weight)[:, None] * x
    return replace(
        state,
        counts=state.counts + one.sum(axis=0),
        sums=state.sums + one.T @ x,
        gram=state.gram + root.T @ root,
    )


def _whitening(covariance: Floats, n: float) -> Floats:
    """``V`` with ``VᵀV`` the inverse of the shrunk covariance, ``(d, d)``.

    Shrunk to a multiple of the identity by the oracle approximation, which needs no more than the
    covariance (Chen, Wiesel, Eldar & Hero 2010, "Shrinkage algorithms for MMSE covariance
    estimation", eq. 23).
    """
    d = len(covariance)
    trace, square = float(np.trace(covariance)), float(np.square(covariance).sum())
    apart = (n + 1 - 2 / d) * (square - trace * trace / d)
    whole = (1 - 2 / d) * square + trace * trace
    share = 1.0 if apart <= 0 else min(1.0, whole / apart)
    middle = max(trace / d, _LEAST)
    values, vectors = np.linalg.eigh(covariance)
    shrunk = (1 - share) * np.maximum(values, 0.0) + share * middle
    return np.asarray(vectors.T / np.sqrt(np.maximum(shrunk, _LEAST))[:, None], dtype=np.float64)


def _temperature(z: Floats, labels: Ints, weight: Floats) -> float:
    """What divides the logits best, 0.05 to 20, by golden section over its logarithm.

    As in Platt's targets, a class of n rows is believed to have n + 1 right ones of n + 2: rows
    that are parted without an error do not make the next one certain.
    """
    classes = z.shape[1]
    doubt = 1.0 / (np.bincount(labels, weight, classes) + 2.0)[labels]
    own = z[np.arange(len(z)), labels]
    aim = (1.0 - doubt) * own + doubt * (z.sum(axis=1) - own) / (classes - 1)

    def lost(log_t: float) -> float:
        scaled = z / np.exp(log_t)
        top = scaled.max(axis=1)
        total = top + np.log(np.exp(scaled - top[:, None]).sum(axis=1))
        return float(weight @ (total - aim / np.exp(log_t)))

    low, high = -3.0, 3.0
    golden = (5.0**0.5 - 1) / 2
    for _ in range(50):
        a, b = high - golden * (high - low), low + golden * (high - low)
        low, high = (low, b) if lost(a) <= lost(b) else (a, high)
    return float(np.exp((low + high) / 2))


def _platt(z: Floats, labels: Ints, weight: Floats) -> tuple[float, float]:
    """Slope and intercept of the logits; the slope is drawn to 1 by a hundredth of a row."""
    good = float(weight @ labels)
    n = float(weight.sum())
    target = np.where(labels == 1, (good + 1) / (good + 2), 1 / (n - good + 2))
    unit = max(float(np.sqrt(weight @ np.square(z - weight @ z / n) / n)), _LEAST)
    centre = float(weight @ z) / n
    x = np.stack([(z - centre) / unit, np.ones(len(z))], axis=1)

    def lost(theta: Floats) -> tuple[float, Floats]:
        at = x @ theta
        value = float(weight @ (np.logaddexp(0.0, at) - target * at))
        gap = (0.5 * (1.0 + np.tanh(at / 2.0)) - target) * weight
        apart = np.array([theta[0] - unit, 0.0])
        return value + 0.005 * float(apart @ apart), gap @ x + 0.01 * apart

    start = np.array([0.0, np.log((good + 1) / (n - good + 1))])
    found = minimise(lost, start, np.full(2, 4.0 / n))
    slope = float(found[0]) / unit
    return slope, float(found[1]) - slope * centre


def _checked(
    x: Floats, labels: Ints, weight: Floats | None, classes: int, *, least: int = 0
) -> Floats:
    weight = np.ones(len(x)) if weight is None else weight
    if x.ndim != 2 or labels.shape != (len(x),) or weight.shape != (len(x),):
        raise HeadError(
            f"x {x.shape}, labels {labels.shape}, weight {weight.shape}: give (n, d), (n,), (n,)"
        )
    checks = {
        "x": np.isfinite(x).all(axis=1),
        "label": (labels >= least) & (labels < classes),
        "weight": (weight >= 0) & np.isfinite(weight),
    }
    for name, good in checks.items():
        if not good.all():
            row = int(np.argmin(good))
            shown = {"label": labels, "weight": weight}.get(name, labels)[row]
            what = "a vector that is not finite" if name == "x" else f"{name} {shown}"
            raise HeadError(f"row {row} has {what}: labels are {least} to {classes - 1}")
    return weight
