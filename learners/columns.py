"""Many contexts at once, a feature after the other: what is plain needs no walk over each value."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_PLAIN = {bool, float, int, type(None)}


def plain_numbers(values: Sequence[Any]) -> Floats | None:
    """Numbers, NaN where there is None, shape ``(n,)``; None if any is no plain finite number."""
    if not _PLAIN.issuperset(map(type, values)):
        return None
    try:
        found = np.array(values, dtype=np.float64)
    except OverflowError:  # a whole number that no float can hold
        return None
    finite = int(np.count_nonzero(np.isfinite(found)))
    return found if finite == len(values) - values.count(None) else None


def plain_vectors(values: Sequence[Any], size: int) -> tuple[NDArray[np.int64], Floats] | None:
    """Which values are there, and those, shape ``(m, size)``; None if any is no plain vector."""
    if not {list, type(None)}.issuperset(map(type, values)):
        return None
    there = np.array([i for i, value in enumerate(values) if value is not None], dtype=np.int64)
    try:
        found = np.array([values[i] for i in there.tolist()], dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        return None
    if len(there) and (found.shape != (len(there), size) or not np.isfinite(found).all()):
        return None
    return there, found.reshape(len(there), size)
