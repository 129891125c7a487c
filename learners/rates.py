"""A rate from its counts alone, with bounds that hold at every look, at any number of rows.

A beta mixture of the likelihood ratios of all other rates is a martingale under the true one, so
it has a chance of at most α ever to reach 1/α (Ville; Robbins 1970; Howard, Ramdas, McAuliffe &
Sekhon 2021, arXiv:1810.08240, section 3.2). The rates at which it has not are the interval. No
asymptotics: nine failures in thirty rows say something.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from learners.errors import EstimateError
from learners.looks import checked_level

Floats = NDArray[np.float64]

PRIOR = 0.5
"""Both parameters of the beta mixture: it spends little on rates in the middle."""
_STEPS = 60


def rate_bounds(hits: float, rows: float, level: float = 0.95) -> tuple[float, float]:
    """Lower and upper bound of a rate, of all looks together at the level.

    Args:
        hits: rows that were hit, at most ``rows``; fractions where rows are worth less than one.
        rows: independent rows.
        level: of both bounds together.

    Raises:
        EstimateError: The counts are none, or the level is outside (0, 1).
    """
    if not 0 <= hits <= rows < math.inf:
        raise EstimateError(f"{hits} hits of {rows} rows: give 0 to rows")
    if rows == 0:
        return 0.0, 1.0
    goal = -math.log(1.0 - checked_level(level))
    misses, evidence = rows - hits, _evidence(hits, rows - hits)
    middle = hits / rows

    def out(rate: float) -> bool:
        log = (hits * math.log(rate) if hits else 0.0) + (
            misses * math.log1p(-rate) if misses else 0.0
        )
        return evidence - log >= goal

    low = 0.0 if hits == 0 else _edge(0.0, middle, out)
    high = 1.0 if misses == 0 else _edge(1.0, middle, out)
    return low, high


def _evidence(hits: float, misses: float) -> float:
    """Log-likelihood of the counts under the mixture."""
    return _log_beta(hits + PRIOR, misses + PRIOR) - _log_beta(PRIOR, PRIOR)


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def _edge(end: float, middle: float, out: Callable[[float], bool]) -> float:
    """Between an end, which is out, and the observed rate, which is in: where it changes."""
    outside, inside = end, middle
    for _ in range(_STEPS):
        between = (outside + inside) / 2
        if between in {outside, inside}:
            break
        if out(between):
            outside = between
        else:
            inside = between
    return outside


def worth(hit: NDArray[np.bool_], units: NDArray[np.int64]) -> float:
    """What a row is worth where a unit's rows resemble each other: 1 / design effect, at most 1.

    Of few units it is corrected for their own mean; hits of a single unit count as one.

    Args:
        hit: shape ``(n,)``.
        units: whose each row is, shape ``(n,)``, any integers.
    """
    n, hits = len(hit), int(hit.sum())
    if n < 2 or not hits:
        return 1.0
    _, index = np.unique(units, return_inverse=True)
    count = int(index.max()) + 1
    if count == 1 or hits == n:
        return count / n
    rate = hits / n
    of_rows = n * rate * (1.0 - rate) * n / (n - 1)
    of_units = float(np.square(np.bincount(index, weights=hit - rate)).sum()) * count / (count - 1)
    return min(1.0, of_rows / of_units) if of_units > 0 else 1.0


def quantile_bounds(
    values: Floats, q: float, level: float = 0.95, *, units: NDArray[np.int64] | None = None
) -> tuple[float, float]:
    """Bounds of a quantile, of all looks together at the level; infinite while there are few rows.

    By the rate of values above it, which is ``1 - q`` at the quantile itself (Howard & Ramdas 2022,
    arXiv:1906.09712).

    Args:
        values: shape ``(n,)``.
        q: in (0, 1).
        level: of both bounds together.
        units: whose each value is, shape ``(n,)``; None where all are independent.
    """
    if not 0.0 < q < 1.0:
        raise EstimateError(f"q {q} is outside (0, 1)")
    n, above, part = len(values), 1.0 - q, 1.0
    if units is not None and n:
        part = worth(values > np.quantile(values, q), units)
    falling = np.sort(values)[::-1]
    # So many values lie above the quantile, at least and at most: both bounds rise with the hits.
    most = _last(n, lambda hits: rate_bounds(part * hits, part * n, level)[0] <= above)
    least = _last(n, lambda hits: rate_bounds(part * hits, part * n, level)[1] < above) + 1
    low = -math.inf if most >= n else float(falling[most])
    high = math.inf if least == 0 else float(falling[least - 1])
    return low, high


def _last(n: int, kept: Callable[[int], bool]) -> int:
    """The largest of 0 … n that is kept, where all below it are; −1 where none is."""
    good, bad = -1, n + 1
    while bad - good > 1:
        middle = (good + bad) // 2
        if kept(middle):
            good = middle
        else:
            bad = middle
    return good
