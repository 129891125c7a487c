"""Re-asking: a user who says the same again was most likely not helped."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
THRESHOLD = 0.8
"""Cosine from which two turns ask the same."""
TURNS = 3
"""How many earlier turns are compared."""


def nearest(current: Floats, earlier: Sequence[Floats]) -> float:
    """The largest cosine to an earlier turn, 0 where there is none.

    Args:
        current: the last turn, ``(d,)`` of Euclidean length 1.
        earlier: those before it, each the same.
    """
    if not earlier:
        return 0.0
    return max(0.0, float((np.stack(earlier) @ current).max()))
