"""Off-policy evaluation: what a policy would have earned on a log that another policy served.

Estimators work on the per-interaction contributions ("influence values"), so that an interval of a
difference of two policies on the same log is paired, which is much tighter than two intervals.
IPS: Horvitz & Thompson 1952. SNIPS: Swaminathan & Joachims 2015. DR: Dudík, Langford & Li 2011,
with the reward model cross-fitted. A log must be newer than the training cut-off of every policy
that is judged on it: that is the caller's to see to.
"""

import math
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from learners.errors import EstimateError
from learners.interactions import Interactions
from learners.records import Estimate

Estimator = Literal["ips", "snips", "dr"]
ESTIMATORS: tuple[Estimator, ...] = ("ips", "snips", "dr")
FOLDS = 5
_RIDGE = 1.0
_SUM_TOLERANCE = 1e-6


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """One policy on one log.

    Attributes:
        value: the point estimate.
        influence: contributions whose mean is ``value``, shape ``(n,)``.
        weights: importance weights of the served actions, shape ``(n,)``.
    """

    estimator: Estimator
    value: float
    influence: NDArray[np.float64]
    weights: NDArray[np.float64]

    @property
    def effective_n(self) -> float:
        """Kish's effective sample size, ``(Σw)² / Σw²``."""
        return _kish(self.weights)


def evaluate(
    log: Interactions,
    distribution: NDArray[np.float64],
    estimator: Estimator = "dr",
    *,
    predicted: NDArray[np.float64] | None = None,
) -> Evaluation:
    """Evaluate a policy on a log.

    Args:
        log: n interactions over K arms, served by any policy with known propensities.
        distribution: the judged policy's probabilities for each row, shape ``(n, K)``.
        estimator: ips, snips or dr.
        predicted: for dr: predicted rewards ``(n, K)`` of :func:`reward_model`, made once per log
            so that all policies are compared with the same one.

    Raises:
        EstimateError: The log is empty, the shapes do not fit, or the distribution is none.
    """
    n = len(log)
    if n == 0:
        raise EstimateError("the log is empty: there is nothing to evaluate on")
    if distribution.shape != log.eligible.shape:
        raise EstimateError(f"distribution {distribution.shape} is not {log.eligible.shape}")
    _check(log, distribution)
    rows = np.arange(n)
    weights = distribution[rows, log.action] / log.propensity
    if estimator == "ips":
        influence = weights * log.reward
        return Evaluation(estimator, float(influence.mean()), influence, weights)
    if estimator == "snips":
        return _snips(log, weights)
    if predicted is None:
        predicted = reward_model(log)
    if predicted.shape != log.eligible.shape:
        raise EstimateError(f"predicted {predicted.shape} is not {log.eligible.shape}")
    direct = (distribution * predicted).sum(axis=1)
    influence = direct + weights * (log.reward - predicted[rows, log.action])
    return Evaluation(estimator, float(influence.mean()), influence, weights)


def _check(log: Interactions, distribution: NDArray[np.float64]) -> None:
    """Refuse what is no distribution over each row's eligible arms."""
    total = distribution.sum(axis=1)
    good = (distribution >= 0).all(axis=1) & (np.abs(total - 1.0) <= _SUM_TOLERANCE)
    good &= ((distribution == 0) | log.eligible).all(axis=1)
    if not good.all():
        row = int(np.argmin(good))
        raise EstimateError(
            f"row {row}: {distribution[row].round(4).tolist()} is no distribution over the "
            "eligible arms"
        )


def _snips(log: Interactions, weights: NDArray[np.float64]) -> Evaluation:
    total = float(weights.mean())
    if total <= 0:
        raise EstimateError("the judged policy never chooses what was served: no overlap")
    value = float((weights * log.reward).mean()) / total
    # Delta method: the linearised contribution of each row to the ratio.
    influence = value + weights * (log.reward - value) / total
    return Evaluation("snips", value, influence, weights)


def estimate(evaluation: Evaluation, *, level: float = 0.95) -> Estimate:
    """The value with a two-sided normal interval (CLT)."""
    return _interval(evaluation.estimator, evaluation.influence, evaluation.effective_n, level)


def difference(
    candidate: Evaluation, other: Evaluation, *, level: float = 0.95, reward_range: float = 0.0
) -> Estimate:
    """The candidate − the other, paired on the same log, with a two-sided normal interval.

    Two policies that agree on most of the traffic differ on few served rows. So ``effective_n`` is
    Kish's over the rows on which the candidate gains weight, not over all; and each bound is taken
    with one more row, as bad (or as good) as one row could be: ``reward_range`` times the largest
    difference of weights. Without it a dozen rows that happen to agree would look certain.

    Args:
        candidate: a policy's evaluation.
        other: another policy's, on the same log.
        level: of the interval.
        reward_range: highest minus lowest reward that a row may have; 0 for the plain interval.

    Raises:
        EstimateError: They come from logs of other lengths.
    """
    if candidate.influence.shape != other.influence.shape:
        raise EstimateError("the two evaluations are of different logs: evaluate both on one")
    gap = candidate.influence - other.influence
    shift = candidate.weights - other.weights
    effective = _kish(shift[shift > 0])
    found = _interval(candidate.estimator, gap, effective, level)
    worst = reward_range * float(np.abs(shift).max(initial=0.0))
    if worst == 0.0:
        return found
    low = _interval(candidate.estimator, np.append(gap, -worst), effective, level).low
    high = _interval(candidate.estimator, np.append(gap, worst), effective, level).high
    return replace(found, low=low, high=high)


def mean_weight(evaluation: Evaluation, *, level: float = 0.9999) -> Estimate:
    """The mean importance weight, which is 1 where the logged propensities are right."""
    return _interval("mean_weight", evaluation.weights, evaluation.effective_n, level)


def _kish(weights: NDArray[np.float64]) -> float:
    squares = float(np.square(weights).sum())
    return float(weights.sum()) ** 2 / squares if squares > 0 else 0.0


def _interval(
    name: str, influence: NDArray[np.float64], effective: float, level: float
) -> Estimate:
    if not 0.0 < level < 1.0:
        raise EstimateError(f"level {level} is outside (0, 1)")
    n = len(influence)
    value = float(influence.mean())
    error = float(influence.std(ddof=1)) / math.sqrt(n) if n > 1 else math.inf
    half = NormalDist().inv_cdf(0.5 + level / 2) * error
    return Estimate(name, value, value - half, value + half, error, n, effective, level)


def reward_model(log: Interactions, *, folds: int = FOLDS) -> NDArray[np.float64]:
    """Cross-fitted ridge prediction of every arm's reward, shape ``(n, K)``.

    Each row is predicted from the folds that it is not in, so the model has never seen the reward
    that it is compared with. An arm without data is predicted by the mean reward.
    """
    n, k = log.eligible.shape
    predicted = np.empty((n, k))
    fold = np.arange(n) % max(2, folds)
    for number in range(max(2, folds)):
        held = fold == number
        if held.any():
            predicted[held] = log.x[held] @ _ridge(log, ~held).T
    return predicted


def _ridge(log: Interactions, rows: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Weights ``(K, d)`` of one ridge regression an arm, shrunk to the mean reward."""
    d = log.x.shape[1]
    mean = float(log.reward[rows].mean()) if rows.any() else 0.0
    weights = np.zeros((len(log.arms), d))
    penalty = np.eye(d) * _RIDGE
    for arm in range(len(log.arms)):
        chosen = rows & (log.action == arm)
        x = log.x[chosen]
        weights[arm] = np.linalg.solve(x.T @ x + penalty, x.T @ (log.reward[chosen] - mean))
        weights[arm, 0] += mean
    return weights
