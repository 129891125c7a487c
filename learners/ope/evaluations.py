"""One policy on one log: its value, its interval, and its difference to another policy."""

from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from learners import intervals
from learners.errors import EstimateError
from learners.records import Estimate

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


IntervalKind = Literal["normal", "bootstrap", "empirical_bernstein"]
INTERVALS: tuple[IntervalKind, ...] = get_args(IntervalKind)


@dataclass(frozen=True, slots=True)
class Interval:
    """How an interval is made; see :mod:`learners.intervals`.

    Attributes:
        kind: of :data:`INTERVALS`.
        seed: of the bootstrap's resamples.
        reward_range: highest minus lowest reward that a row may have. Empirical-Bernstein intervals
            need the range of a contribution, which nobody declares: it is taken to be that of those
            seen, widened on both sides by this times the largest weight seen.
    """

    kind: IntervalKind = "normal"
    seed: int = 0
    reward_range: float = 0.0


NORMAL = Interval()


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """One policy on one log.

    Attributes:
        estimator: which one.
        value: the point estimate.
        influence: contributions whose mean is ``value``, shape ``(n,)``.
        weights: importance weights of the served actions, shape ``(n,)``; for the direct method
            the weights that its regression gives to the rows' rewards.
        clusters: which rows belong together, shape ``(n,)``; a negative one is alone. None where
            all rows are independent.
        parameter: the threshold or shrinkage that was chosen; None where there is none.
    """

    estimator: str
    value: float
    influence: Floats
    weights: Floats
    clusters: Ints | None = None
    parameter: float | None = None

    @property
    def effective_n(self) -> float:
        """Kish's effective sample size, ``(Σw)² / Σw²``, of clusters where there are any."""
        return kish(self.weights, self.clusters)


def estimate(
    evaluation: Evaluation, *, level: float = 0.95, interval: Interval = NORMAL
) -> Estimate:
    """The value with a two-sided interval, robust to clusters; by the CLT if not asked otherwise.

    Raises:
        EstimateError: The interval cannot be made at this level.
    """
    return _interval(evaluation, evaluation.influence, evaluation.effective_n, level, interval)


def difference(
    candidate: Evaluation,
    other: Evaluation,
    *,
    level: float = 0.95,
    reward_range: float = 0.0,
    interval: Interval = NORMAL,
) -> Estimate:
    """The candidate − the other, paired on the same log, with a two-sided interval.

    Two policies that agree on most of the traffic differ on few served rows. So ``effective_n`` is
    Kish's over the rows (or clusters) on which the candidate gains weight, not over all. And each
    bound is taken with one more row, as bad (or as good) as one row could be: ``reward_range``
    times the largest difference of weights. Without it a dozen rows that happen to agree would
    look certain.

    Args:
        candidate: a policy's evaluation.
        other: another policy's, on the same log.
        level: of the interval.
        reward_range: highest minus lowest reward that a row may have; 0 for the plain interval.
        interval: how it is made.

    Raises:
        EstimateError: They come from logs of other lengths, or of other clusters.
    """
    if candidate.influence.shape != other.influence.shape:
        raise EstimateError("the two evaluations are of different logs: evaluate both on one")
    if not _same(candidate.clusters, other.clusters):
        raise EstimateError("the two evaluations have different clusters: give both the same")
    gap = candidate.influence - other.influence
    shift = candidate.weights - other.weights
    effective = kish(np.maximum(shift, 0.0), candidate.clusters)
    shifted = replace(candidate, weights=shift)
    found = _interval(shifted, gap, effective, level, interval)
    worst = reward_range * float(np.abs(shift).max(initial=0.0))
    if worst == 0.0:
        return found
    clusters = candidate.clusters
    longer = replace(shifted, clusters=None if clusters is None else np.append(clusters, -1))
    low = _interval(longer, np.append(gap, -worst), effective, level, interval).low
    high = _interval(longer, np.append(gap, worst), effective, level, interval).high
    return replace(found, low=low, high=high)


def mean_weight(evaluation: Evaluation, *, level: float = 0.9999) -> Estimate:
    """The mean importance weight, which is 1 where the logged propensities are right."""
    found = _interval(evaluation, evaluation.weights, evaluation.effective_n, level)
    return replace(found, estimator="mean_weight")


def kish(weights: Floats, clusters: Ints | None = None) -> float:
    """``(Σw)² / Σw²``, of the clusters' sums where there are any; 0 where nothing has weight."""
    if clusters is not None and len(weights):
        weights = intervals.clustered(weights, clusters).sums
    squares = float(weights @ weights)
    return float(weights.sum()) ** 2 / squares if squares > 0 else 0.0


def _interval(
    of: Evaluation, values: Floats, effective: float, level: float, interval: Interval = NORMAL
) -> Estimate:
    clusters = of.clusters
    if interval.kind == "bootstrap":
        found = intervals.bootstrap(
            values, seed=interval.seed, level=level, clusters=clusters, effective_n=effective
        )
    elif interval.kind == "empirical_bernstein":
        room = interval.reward_range * float(np.abs(of.weights).max(initial=0.0))
        span = float(values.min(initial=0.0)) - room, float(values.max(initial=0.0)) + room
        found = intervals.empirical_bernstein(
            values, span, level=level, clusters=clusters, effective_n=effective
        )
    else:
        found = intervals.normal(values, level=level, clusters=clusters, effective_n=effective)
    return replace(found, estimator=of.estimator)


def _same(first: Ints | None, second: Ints | None) -> bool:
    if first is None or second is None:
        return first is second
    return first is second or np.array_equal(first, second)
