"""How large an importance weight may be: SWITCH's threshold and DRos's shrinkage.

Both trade variance for bias by the smallest estimate of the mean squared error. Large weights are
rare, so their bias is hard to see, and each rule overstates it. An infinite threshold or shrinkage
is plain dr, and is always a choice.
"""

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

THRESHOLDS = 21
SHRINKAGES = 30


def threshold(weights: Floats, direct: Floats, residual: Floats, spread: float) -> float:
    """SWITCH's: above it a row counts by the direct method alone.

    Wang, Agarwal & Dudík 2017 (arXiv:1612.01205, section 3.2): the bias is at most the share of the
    judged policy's choices whose weights exceed the threshold, times the range of rewards. A log
    holds the served arm's probability only, so that share is itself weighted: ``mean(w·1(w > τ))``.

    Args:
        weights: shape ``(n,)``.
        direct: each row's predicted value under the judged policy, shape ``(n,)``.
        residual: reward minus prediction, shape ``(n,)``.
        spread: highest minus lowest reward.
    """
    n = len(weights)
    positive = weights[weights > 0]
    if n < 2 or not len(positive):
        return math.inf
    low, high = np.quantile(positive, (0.05, 0.95))
    tried = np.unique(np.append(np.geomspace(low, high, THRESHOLDS), positive.max()))
    order = np.argsort(weights)
    ends = np.searchsorted(weights[order], tried, side="right")
    corrections = (weights * residual)[order]

    def until(values: Floats) -> Floats:
        return np.concatenate([[0.0], values.cumsum()])[ends]

    mean = (float(direct.sum()) + until(corrections)) / n
    squares = float(direct @ direct) + until(corrections * (corrections + 2.0 * direct[order]))
    variance = np.maximum(squares - n * np.square(mean), 0.0) / (n - 1)
    mass = np.maximum(float(weights.sum()) - until(weights[order]), 0.0) / n
    best = int(np.argmin(variance / n + np.square(spread * mass)))
    return math.inf if best == len(tried) - 1 else float(tried[best])


def shrinkage(weights: Floats, direct: Floats, residual: Floats) -> float:
    """DRos's λ: a weight w becomes ``w·λ / (w² + λ)``, at most ``√λ / 2``.

    Su, Dimakopoulou, Krishnamurthy & Dudík 2020 (arXiv:1907.09623): the grid is theirs. The squared
    bias is estimated by that of the mean of ``(ŵ − w)·residual``, whose expectation is the squared
    bias and its own variance: a bound on average. One that holds with 95 % hardly ever shrank
    anything on simulated logs of 500 to 2,000 rows.

    Args:
        weights: shape ``(n,)``.
        direct: each row's predicted value under the judged policy, shape ``(n,)``.
        residual: reward minus prediction, shape ``(n,)``.
    """
    n = len(weights)
    positive = weights[weights > 0]
    if n < 2 or not len(positive):
        return math.inf
    low, high = np.square(np.quantile(positive, (0.05, 0.95)))
    best, least = math.inf, float((direct + weights * residual).var(ddof=1)) / n
    squares, full = np.square(weights), weights * residual
    for tried in np.geomspace(0.01 * low, 100.0 * high, SHRINKAGES).tolist():
        kept = full * (tried / (squares + tried))
        bias = float((kept - full).mean())
        error = float((direct + kept).var(ddof=1)) / n + bias * bias
        if error < least:
            best, least = tried, error
    return best


def shrunk(weights: Floats, parameter: float) -> Floats:
    """``w·λ / (w² + λ)``."""
    if math.isinf(parameter):
        return weights
    return np.asarray(weights * (parameter / (np.square(weights) + parameter)))
