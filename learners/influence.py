"""No single source moves what is believed of an arm beyond a stated bound.

With ``bound`` b, a source that changes all that it said, within the rewards' limits, moves an arm's
weighted mean by at most ``b · (high - low)``, however many grades it gave. Where others spoke of
the arm, its grades lose weight until they hold no more than the share b. Where too few did for that
(fewer than 1/b sources), its grades are drawn towards the middle of the limits, which nobody's word
moves, until the same bound holds: as if the rest of the arm's weight lay there.

What nobody in particular said (source -1) is not capped, and counts among the others.
The bound is one of weights: a learner that weighs by 1 / propensity besides keeps it as far as the
propensities of an arm's rows are alike.
"""

from dataclasses import replace

import numpy as np

from learners.errors import SpecError
from learners.grades import Floats, Grades, Limits, sums

_NEARLY = 1 + 1e-9
"""What differs by less is rounding."""


def cap(grades: Grades, bound: float, limits: Limits | None = None) -> Grades:
    """Grades of which each source's part in each arm is bounded.

    Args:
        grades: each of at most one source.
        bound: the share of an arm's weight that a source may hold, in (0, 1]; 1 changes nothing.
        limits: the rewards' own; those of the grades if not given.

    Raises:
        SpecError: The bound or the limits are out of range.
    """
    if not 0.0 < bound <= 1.0:
        raise SpecError(f"bound is {bound}: give a share above 0, at most 1")
    low, high = limits or grades.limits
    if not low <= high:
        raise SpecError(f"limits {low} to {high}: give the lower first")
    if bound == 1.0 or not len(grades) or not grades.shape[1]:
        return grades
    held, others = _held(grades)
    scale = np.ones(grades.shape)
    for arm in np.flatnonzero(held.any(axis=1)).tolist():
        scale[arm] = _scale(held[arm], float(others[arm]), bound)
    left = held * scale
    total = left.sum(axis=1) + others
    share = left / np.where(total > 0, total, 1.0)[:, None]
    # Rounding must not draw in what has been scaled to the bound itself.
    over = share > bound * _NEARLY
    drawn = grades.each(np.where(over, bound / np.where(over, share, 1.0), 1.0), 1.0)
    middle = (low + high) / 2
    inside = np.clip(grades.reward, low, high)
    # A grade outside the limits would reach further than the bound says.
    reward = np.where(grades.named, inside, grades.reward)
    reward = np.where(drawn < 1.0, middle + drawn * (reward - middle), reward)
    return replace(grades, reward=reward, weight=grades.weight * grades.each(scale, 1.0))


def _held(grades: Grades) -> tuple[Floats, Floats]:
    """What each source's grades of each arm weigh ``(K, S)``, and nobody's in particular (K,)."""
    everyone = np.ones(len(grades), dtype=np.bool_)
    rest = ~grades.named
    others = sums(grades.arm[rest], grades.weight[rest], grades.shape[0])
    return grades.totals(grades.weight, everyone), others


def _scale(held: Floats, others: float, bound: float) -> Floats:
    """By what each source's weight is multiplied so that none holds more than the bound.

    The weights are cut at the highest level c that is at most ``bound`` of what is left,
    ``c = bound · (others + Σ min(weight, c))``. Ones where there is no such level.

    Args:
        held: what each source's grades weigh, shape ``(S,)``.
        others: what nobody's in particular weigh.
        bound: in (0, 1).
    """
    one = np.ones(len(held))
    weights = np.sort(held[held > 0])
    if weights[-1] <= bound * (others + weights.sum()):
        return one
    below = np.concatenate([[0.0], weights.cumsum()])
    for kept in range(len(weights) - 1, -1, -1):
        rest = 1.0 - bound * (len(weights) - kept)
        if rest <= 0:
            break
        level = bound * (others + below[kept]) / rest
        least = weights[kept - 1] if kept else 0.0
        if level > 0 and least <= level * _NEARLY and level <= weights[kept] * _NEARLY:
            cut = np.minimum(one, level / np.where(held > 0, held, level))
            return np.asarray(cut, dtype=np.float64)
    return one
