"""How far two counted distributions are apart, and how far they are by chance alone.

The population stability index (a symmetrised Kullback-Leibler divergence, in nats) and the
Jensen-Shannon divergence (Lin 1991; in bits, 0 to 1). Where both samples come from one distribution
of B cells, the first is about ``(1/n + 1/m) · χ²(B - 1)`` and the second, by the same expansion,
that over ``8 ln 2`` (Yurdakul & Naranjo 2020 for the first).
"""

import math
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

PRIOR = 0.5
"""Added to each cell's count: an empty cell is no proof that it can never be hit."""


def psi(first: Floats, second: Floats) -> float:
    """Population stability index of two rows of counts ``(B,)``; 0 where one has none."""
    if not first.sum() or not second.sum():
        return 0.0
    p, q = _shares(first), _shares(second)
    return float(((p - q) * np.log(p / q)).sum())


def jensen_shannon(first: Floats, second: Floats) -> float:
    """Jensen-Shannon divergence in bits, 0 to 1, of two rows of counts ``(B,)``."""
    if not first.sum() or not second.sum():
        return 0.0
    p, q = _shares(first), _shares(second)
    middle = (p + q) / 2
    both = (p * np.log2(p / middle)).sum() + (q * np.log2(q / middle)).sum()
    return max(0.0, float(both) / 2)


def psi_by_chance(first: Floats, second: Floats, chance: float) -> float:
    """What the index of two samples of one distribution exceeds with this chance only."""
    n, m = float(first.sum()), float(second.sum())
    cells = int(((first + second) > 0).sum())
    if cells < 2 or not n or not m:
        return 0.0
    return (1.0 / n + 1.0 / m) * chi_square(cells - 1, chance)


def js_by_chance(first: Floats, second: Floats, chance: float) -> float:
    """The same for the Jensen-Shannon divergence."""
    return psi_by_chance(first, second, chance) / (8.0 * math.log(2.0))


def chi_square(freedom: int, chance: float) -> float:
    """The upper quantile, by Wilson & Hilferty's (1931) cube."""
    z = -NormalDist().inv_cdf(chance)
    part = 2.0 / (9.0 * freedom)
    return float(freedom * max(1.0 - part + z * math.sqrt(part), 0.0) ** 3)


def _shares(counts: Floats) -> Floats:
    smooth = counts + PRIOR
    return np.asarray(smooth / smooth.sum())
