"""Several policies put to the test on each new piece of a log, before any of them learns it.

A piece is predicted before it is learnt: progressive validation (Blum, Kalai & Langford 1999). Each
policy is compared with the first, request by request, by doubly robust estimation (Dudík et al.
2011, arXiv:1103.4601) with the first's own predictions. What was measured longer ago counts
less, as the policies were worse then.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from learners import probes
from learners.interactions import Interactions
from learners.scorers.base import Scorer

MAX_WEIGHT = 20.0
"""Cap on an importance weight; a little bias for much less variance."""
MIN_REQUESTS = 50.0

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Trials:
    """Of M policies: requests seen, and the sums of their gains over the first and of the squares.

    Attributes:
        count: requests, those of long ago as less than one.
        gain: shape ``(M,)``.
        square: shape ``(M,)``.
    """

    count: float
    gain: Floats
    square: Floats

    @classmethod
    def empty(cls, policies: int) -> "Trials":
        """Nothing seen yet."""
        return cls(0.0, np.zeros(policies), np.zeros(policies))

    def winner(self, sure: float) -> int:
        """The policy that is surest to be better than the first; the first where none is.

        Args:
            sure: by how many standard errors its gain must be above 0.
        """
        if self.count < MIN_REQUESTS:
            return 0
        mean = self.gain / self.count
        variance = np.maximum(self.square / self.count - mean**2, 0.0)
        low = mean - sure * np.sqrt(variance / self.count)
        best = int(low.argmax())
        return best if low[best] > 0 else 0

    def lead(self, policy: int) -> float:
        """By how many standard errors the first is better than another; 0 while little is seen."""
        if self.count < MIN_REQUESTS:
            return 0.0
        mean = self.gain[policy] / self.count
        variance = max(self.square[policy] / self.count - mean**2, 0.0)
        return float(-mean / math.sqrt(variance / self.count)) if variance > 0 else 0.0


def tried(before: Trials, log: Interactions, policies: Sequence[Scorer], kept: float) -> Trials:
    """The trials with these rows too.

    Args:
        before: what was measured so far.
        log: rows that none of the policies has learnt.
        policies: M of them, as they are before these rows.
        kept: the share that what was measured before still counts.
    """
    greedy = [policy.greedy() for policy in policies]
    spreads = np.stack([each.distribution(log.x, log.eligible) for each in greedy])
    predicted = np.where(log.eligible, greedy[0].scores(log.x), 0.0)
    gains, weight = _gains(log, spreads - spreads[0], predicted)
    return Trials(
        before.count * kept + float(weight.sum()),
        before.gain * kept + gains @ weight,
        before.square * kept + np.square(gains) @ weight,
    )


def _gains(log: Interactions, shift: Floats, predicted: Floats) -> tuple[Floats, Floats]:
    """Each request's gain of each policy over the first ``(M, requests)``, and what it weighs."""
    rows = probes.find(log)
    single = log.weight > 0
    single[rows.ravel()] = False
    index = np.flatnonzero(single)
    action = log.action[index]
    importance = np.minimum(1.0 / log.propensity[index], MAX_WEIGHT)
    surprise = log.reward[index] - predicted[index, action]
    gains = (shift[:, index] * predicted[index]).sum(axis=2)
    gains += shift[:, index, action] * (importance * surprise)
    trust = np.minimum(log.weight, 1.0)  # what is doubted says less, but no row is two requests
    weight = trust[index]
    if not len(rows):
        return np.asarray(gains), weight
    whole = (shift[:, rows[:, 0]] * log.reward[rows]).sum(axis=2)
    return (
        np.concatenate([gains, whole], axis=1),
        np.concatenate([weight, trust[rows[:, 0]]]),
    )
