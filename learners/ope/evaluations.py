"""One policy on one log: its value, its interval, and its difference to another policy."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from learners import intervals
from learners.errors import EstimateError
from learners.records import Estimate

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


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


def estimate(evaluation: Evaluation, *, level: float = 0.95) -> Estimate:
    """The value with a two-sided interval (CLT, robust to clusters)."""
    return _interval(evaluation, evaluation.influence, evaluation.effective_n, level)


def difference(
    candidate: Evaluation, other: Evaluation, *, level: float = 0.95, reward_range: float = 0.0
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
    found = _interval(candidate, gap, effective, level)
    worst = reward_range * float(np.abs(shift).max(initial=0.0))
    if worst == 0.0:
        return found
    clusters = candidate.clusters
    longer = replace(candidate, clusters=None if clusters is None else np.append(clusters, -1))
    low = _interval(longer, np.append(gap, -worst), effective, level).low
    high = _interval(longer, np.append(gap, worst), effective, level).high
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


def _interval(of: Evaluation, values: Floats, effective: float, level: float) -> Estimate:
    found = intervals.normal(values, level=level, clusters=of.clusters, effective_n=effective)
    return replace(found, estimator=of.estimator)


def _same(first: Ints | None, second: Ints | None) -> bool:
    if first is None or second is None:
        return first is second
    return first is second or np.array_equal(first, second)
