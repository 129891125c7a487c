"""Intervals for the mean of influence values, for logs that are looked at once.

All take the contributions of :mod:`learners.ope`, shape ``(n,)``, and optionally which of them
belong together: ``clusters`` (sessions, users), shape ``(n,)``, any integers; a negative one marks
a row that is a cluster of its own, as in ``Interactions.episode``. Clusters are independent, rows
within one need not be. The mean is over rows, so a larger cluster counts more.

* :func:`normal`: central limit theorem, Student's t with as many degrees of freedom as clusters
  that carry the variance (after Carter, Schnepel & Steigerwald 2017, "Asymptotic behavior of a
  t-test robust to cluster heterogeneity").
* :func:`bootstrap`: studentised (Efron & Tibshirani 1993, ch. 12.5): follows the skew of
  importance-weighted values.
* :func:`empirical_bernstein`: Maurer & Pontil 2009, arXiv:0907.3740, for independent clusters,
  alike or not: holds for any n, given a range.

For what is looked at more than once: :mod:`learners.sequences`.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from learners.errors import EstimateError
from learners.records import Estimate

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

RESAMPLES = 1_999
MOST_GROUPS = 4_096
"""The bootstrap draws from at most so many groups. A sum over a group of clusters has their summed
variance and third moment, so the interval's shape to the second order is that of all clusters."""
_CELLS = 4_000_000
"""Counts held at a time: 32 MB."""


@dataclass(frozen=True, slots=True, eq=False)
class Clustered:
    """Rows added up by cluster: sums ``(g,)``, sizes ``(g,)``."""

    sums: Floats
    sizes: Floats

    @property
    def mean(self) -> float:
        """Over rows."""
        return float(self.sums.sum() / self.sizes.sum())

    @property
    def rows(self) -> int:
        """How many rows."""
        return int(self.sizes.sum())

    @property
    def standard_error(self) -> float:
        """Of the mean, by linearising the ratio of sums to sizes; inf for one cluster."""
        g = len(self.sums)
        if g < 2:
            return math.inf
        residual = self._residual
        return math.sqrt(g / (g - 1) * float(residual @ residual)) / float(self.sizes.sum())

    @property
    def degrees(self) -> int:
        """Of freedom of the standard error: ``g / (κ − 2)`` with the residuals' kurtosis κ.

        That is g for normal values (κ = 3), and ``(Σr²)² / Σr⁴``, the number of clusters that carry
        the variance, where a few outweigh the others, as of importance-weighted rewards: with g − 1
        degrees, 95 % intervals covered 92 to 93 % there.
        """
        g, square = len(self.sums), np.square(self._residual)
        total = float(square.sum())
        # Exactly representable sums of a constant leave nothing to divide by.
        kurtosis = g * float(square @ square) / total**2 if total > 0.0 else 3.0
        return int(min(max(g / max(kurtosis - 2.0, 1.0), 1.0), g - 1))

    @property
    def _residual(self) -> Floats:
        return self.sums - self.mean * self.sizes

    def and_one(self, value: float) -> "Clustered":
        """These and one more cluster, of one row."""
        return Clustered(np.append(self.sums, value), np.append(self.sizes, 1.0))


def clustered(values: Floats, clusters: Ints | None = None) -> Clustered:
    """Add rows up by cluster.

    Raises:
        EstimateError: There are no values, one is not finite, or the shapes differ.
    """
    if values.ndim != 1 or not len(values):
        raise EstimateError(f"values have shape {values.shape}: give (n,), at least one")
    if not np.isfinite(values).all():
        row = int(np.argmin(np.isfinite(values)))
        raise EstimateError(f"row {row}: {values[row]} is not finite")
    if clusters is None:
        return Clustered(values, np.ones(len(values)))
    if clusters.shape != values.shape:
        raise EstimateError(f"clusters {clusters.shape} are not {values.shape}")
    alone = clusters < 0
    index = clusters[~alone]
    if index.max(initial=0) > 4 * len(values):  # numbers with few gaps need no sorting
        index = np.unique(index, return_inverse=True)[1]
    sizes = np.bincount(index).astype(np.float64)
    there = sizes > 0
    sums = np.bincount(index, weights=values[~alone])[there]
    alone_sizes = np.ones(int(alone.sum()))
    return Clustered(
        np.concatenate([sums, values[alone]]), np.concatenate([sizes[there], alone_sizes])
    )


def normal(
    values: Floats,
    *,
    level: float = 0.95,
    clusters: Ints | None = None,
    effective_n: float | None = None,
) -> Estimate:
    """Two-sided interval by the central limit theorem.

    Args:
        values: shape ``(n,)``.
        level: of the interval.
        clusters: shape ``(n,)``, or None where all rows are independent.
        effective_n: what the estimate reports; by default the number of clusters.

    Raises:
        EstimateError: The level is outside (0, 1), or the values are unusable.
    """
    groups = clustered(values, clusters)
    error, g = groups.standard_error, len(groups.sums)
    quantile = student_quantile(0.5 + _checked(level) / 2, groups.degrees) if g > 1 else math.inf
    half = quantile * error
    return _estimate("normal", groups, (half, half), level=level, effective_n=effective_n)


def bootstrap(
    values: Floats,
    *,
    seed: int,
    level: float = 0.95,
    clusters: Ints | None = None,
    effective_n: float | None = None,
    resamples: int = RESAMPLES,
) -> Estimate:
    """Two-sided interval of the studentised bootstrap over clusters.

    The same values, clusters and seed give the same interval. Memory is bounded.

    Args:
        values: shape ``(n,)``.
        seed: of the resamples.
        level: of the interval.
        clusters: shape ``(n,)``, or None where all rows are independent.
        effective_n: what the estimate reports; by default the number of clusters.
        resamples: how many; ``(resamples + 1)·(1 − level)/2`` should be whole.

    Raises:
        EstimateError: The level is outside (0, 1), the values are unusable, or resamples are too
            few for the level.
    """
    tail = (1 - _checked(level)) / 2
    if (resamples + 1) * tail < 1:
        raise EstimateError(f"{resamples} resamples are too few for level {level}")
    groups = clustered(values, clusters)
    error = groups.standard_error
    if error == 0.0 or len(groups.sums) < 2:
        return _estimate("bootstrap", groups, (error, error), level=level, effective_n=effective_n)
    random = np.random.default_rng(seed)
    t = np.sort(_studentised(_merged(groups, random), resamples, random))
    order = [(resamples + 1) * tail, (resamples + 1) * (1 - tail)]
    lowest, highest = (float(t[min(max(round(at), 1), resamples) - 1]) for at in order)
    halves = (highest * error, -lowest * error)
    return _estimate("bootstrap", groups, halves, level=level, effective_n=effective_n)


def _merged(groups: Clustered, random: np.random.Generator) -> Clustered:
    """At most :data:`MOST_GROUPS` groups, of clusters drawn without replacement."""
    g = len(groups.sums)
    if g <= MOST_GROUPS:
        return groups
    place = random.permutation(np.arange(g) % MOST_GROUPS)
    sums, sizes = (
        np.bincount(place, weights=column).astype(np.float64)
        for column in (groups.sums, groups.sizes)
    )
    return Clustered(sums, sizes)


def _studentised(groups: Clustered, resamples: int, random: np.random.Generator) -> Floats:
    """``(mean* − mean) / error*`` of each resample, shape ``(resamples,)``; ±inf where error* 0."""
    g = len(groups.sums)
    s, m = groups.sums - groups.mean * groups.sizes, groups.sizes
    columns = np.column_stack([s, m, s * s, s * m, m * m])
    at_once = max(1, _CELLS // g)
    found = []
    for start in range(0, resamples, at_once):
        b = min(at_once, resamples - start)
        drawn = random.integers(g, size=(b, g)) + np.arange(b)[:, None] * g
        count = np.bincount(drawn.ravel(), minlength=b * g).reshape(b, g)
        sums, sizes, ss, sm, mm = (count @ columns).T
        shift = sums / sizes
        square = np.maximum(ss - 2 * shift * sm + shift * shift * mm, 0.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            found.append(sums / np.sqrt(g / (g - 1) * square))
    t = np.concatenate(found)
    return np.where(np.isnan(t), 0.0, t)


def empirical_bernstein(
    values: Floats,
    span: tuple[float, float],
    *,
    level: float = 0.95,
    clusters: Ints | None = None,
    effective_n: float | None = None,
) -> Estimate:
    """Two-sided interval that holds for any number of independent clusters of bounded rows.

    Sizes of clusters count as given: a cluster's share of the mean lies between 0 and the span
    times its size over the mean size, so one very large cluster makes the interval wide.

    Args:
        values: shape ``(n,)``.
        span: lowest and highest value that a row may have.
        level: of the interval.
        clusters: shape ``(n,)``, or None where all rows are independent.
        effective_n: what the estimate reports; by default the number of clusters.

    Raises:
        EstimateError: A value is outside the span, the span is none, the level is outside (0, 1),
            or the values are unusable.
    """
    low, high = span
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise EstimateError(f"span {span}: give two finite numbers, the lower first")
    groups = clustered(values, clusters)
    if values.min() < low or values.max() > high:
        raise EstimateError(f"values from {values.min()} to {values.max()} leave the span {span}")
    g, rest = len(groups.sums), math.log(4.0 / (1.0 - _checked(level)))
    half = high - low
    if g > 1:
        share = (groups.sums - low * groups.sizes) * g / groups.rows
        most = (high - low) * float(groups.sizes.max()) * g / groups.rows
        spread = math.sqrt(2.0 * float(share.var(ddof=1)) * rest / g)
        half = spread + 7.0 * most * rest / (3.0 * (g - 1))
    halves = (min(half, groups.mean - low), min(half, high - groups.mean))
    return _estimate("empirical_bernstein", groups, halves, level=level, effective_n=effective_n)


@lru_cache(maxsize=1024)
def student_quantile(p: float, degrees: int) -> float:
    """Student's t: where its distribution function is ``p``, 0 < p < 1, by bisection."""
    if p < 0.5:
        return -student_quantile(1.0 - p, degrees)
    if degrees > 100_000:
        return NormalDist().inv_cdf(p)
    low, high = 0.0, 1.0
    while _student_below(high, degrees) < p:
        low, high = high, 2.0 * high
    for _ in range(80):
        middle = (low + high) / 2
        if _student_below(middle, degrees) < p:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _student_below(t: float, degrees: int) -> float:
    """P(T ≤ t) for t ≥ 0, by the incomplete beta function's continued fraction (Lentz 1976)."""
    a, b, x = degrees / 2, 0.5, degrees / (degrees + t * t)
    if t == 0.0:
        return 0.5
    swap = x > (a + 1) / (a + b + 2)
    if swap:
        a, b, x = b, a, 1 - x
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    )
    c, d = 1.0, 1.0 / (1.0 - (a + b) * x / (a + 1.0))
    total = d
    for m in range(1, 1_000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1.0 / (1.0 + term * d)
            c = 1.0 + term / c
            total *= c * d
        if abs(c * d - 1.0) < 1e-15:
            break
    beta = front * total / a
    return 1.0 - (1.0 - beta if swap else beta) / 2


def _checked(level: float) -> float:
    if not 0.0 < level < 1.0:
        raise EstimateError(f"level {level} is outside (0, 1)")
    return level


def _estimate(
    name: str,
    groups: Clustered,
    halves: tuple[float, float],
    *,
    level: float,
    effective_n: float | None,
) -> Estimate:
    below, above = halves
    value, g = groups.mean, len(groups.sums)
    return Estimate(
        name,
        value,
        value - below,
        value + above,
        groups.standard_error,
        groups.rows,
        float(g) if effective_n is None else effective_n,
        level,
    )
