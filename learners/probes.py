"""Probes in a log: requests of which every arm's reward is known, side by side."""

import numpy as np
from numpy.typing import NDArray

from learners.interactions import Interactions


def find(log: Interactions) -> NDArray[np.int64]:
    """The rows of each whole probe, shape ``(p, K)``, by arm.

    A probe is K rows in a run, of one context, each with probability 1 and another arm, all arms
    eligible. What is incomplete is none.
    """
    n, k = log.eligible.shape
    none = np.empty((0, k), dtype=np.int64)
    if k < 2 or n < k:
        return none
    certain = (log.propensity >= 1.0) & log.eligible.all(axis=1) & (log.weight > 0)
    if not certain.any():
        return none
    same = np.zeros(n, dtype=np.bool_)
    same[1:] = certain[1:] & certain[:-1] & (log.x[1:] == log.x[:-1]).all(axis=1)
    same[1:] &= log.weight[1:] == log.weight[:-1]
    found, start = [], 0
    for stop in [*np.flatnonzero(~same[1:]) + 1, n]:
        found += _whole(log, start, int(stop))
        start = int(stop)
    return np.array(found, dtype=np.int64).reshape(-1, k)


def _whole(log: Interactions, start: int, stop: int) -> list[NDArray[np.int64]]:
    """The whole probes in a run of alike rows: two requests may have the same context."""
    k = len(log.arms)
    found = []
    while stop - start >= k:
        actions = log.action[start : start + k]
        order = np.argsort(actions, kind="stable")
        if (actions[order] != np.arange(k)).any():
            start += 1
            continue
        found.append(start + order)
        start += k
    return found
