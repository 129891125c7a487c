"""How far one policy is from another, and the step towards it that is short enough."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def mean_total_variation(one: Floats, other: Floats) -> float:
    """The mean over rows of half the L1 distance of two distributions, shape ``(n, K)`` each.

    It is the share of the requests that a best coupling of both would serve by another arm, and
    bounds the change of any mean reward within [0, 1]. 0 without rows.
    """
    return float(0.5 * np.abs(one - other).sum(axis=1).mean()) if len(one) else 0.0


def longest_step(served: Floats, base: Floats, new: Floats, most: float) -> float:
    """The largest share λ with (1 − λ)·base + λ·new no further than ``most`` from what serves.

    As the distance is convex in λ, it is found by bisection; where base is what serves, it is
    ``most`` over the distance. 0 where base itself is too far.
    """
    if mean_total_variation(served, new) <= most:
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2.0
        mixture = (1.0 - middle) * base + middle * new
        low, high = (
            (middle, high) if mean_total_variation(served, mixture) <= most else (low, middle)
        )
    return low
