"""How older interactions fade as newer ones arrive, the same in pieces as at once."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def fade(weight: Floats, half_life: float) -> tuple[Floats, float]:
    """What each row of a batch still weighs at its end, and what is left of all before it.

    A row fades by the weight of the rows after it, of whatever arm: by half for each
    ``half_life``. What has no weight ages nothing.

    Args:
        weight: of the rows in the log's order, shape ``(n,)``.
        half_life: above 0; or 0, with which nothing fades.
    """
    if half_life <= 0 or not len(weight):
        return weight, 1.0
    after = np.maximum(weight[::-1].cumsum()[::-1] - weight, 0.0)
    return weight * np.exp2(-after / half_life), float(np.exp2(-weight.sum() / half_life))
