"""Means by arm and group as what the arm does, what the group does, and what is left of both.

A hard domain lowers every arm, which says nothing about whom to choose there. So a cell's mean is
taken apart::

    mean[a, g] = arm[a] + group[g] + own[a, g] + noise,   own ~ N(0, between)

and only ``own``, what an arm does in one group beyond that, is shrunk by the variance between the
groups, which is estimated by the method of moments (DerSimonian & Laird 1986; for a weighted
regression Thompson & Sharp 1999).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_RANK = 1e-8
"""A ridge, as a part of the largest weight, that only picks one of several equal solutions."""


@dataclass(frozen=True, slots=True, eq=False)
class TwoWay:
    """The fit.

    Attributes:
        effects: what arm and group do, shape ``(K, G)``, for cells without data too.
        between: variance of what is an arm's own in a group; 0 where the groups do not differ.
    """

    effects: Floats
    between: float


def fit(mean: Floats, count: Floats, noise: float, prior: float) -> TwoWay:
    """Take the cells' means apart.

    Args:
        mean: shape ``(K, G)``; where to shrink to is 0.
        count: the rows behind each, shape ``(K, G)``.
        noise: variance of one row, above 0.
        prior: rows that 0 counts for, in the effect of each arm and each group.
    """
    between = between_variance(mean, count, noise)
    weight = np.where(count > 0, count / (between * count + noise), 0.0)
    effects, _ = _regress(mean, weight, prior / noise)
    return TwoWay(effects, between)


def between_variance(mean: Floats, count: Floats, noise: float) -> float:
    """Variance of the cells about the effects of arm and group, beyond what noise explains."""
    if mean.shape[1] == 1 or not count.any():
        return 0.0
    weight = count / noise
    effects, inverse = _regress(mean, weight, _RANK * float(weight.max()))
    distance = float((weight * np.square(mean - effects)).sum())
    # Of what noise alone would give, and of what each unit of variance between the groups adds.
    free = np.count_nonzero(count) - float((inverse * _normal(weight)).sum())
    slope = float(weight.sum() - (inverse * _normal(weight * weight)).sum())
    if free < 0.5 or slope <= _RANK * float(weight.sum()):
        return 0.0
    return max(0.0, (distance - free) / slope)


def _regress(mean: Floats, weight: Floats, penalty: float) -> tuple[Floats, Floats]:
    """The effects ``(K, G)`` that fit best, and the inverse of the penalised normal matrix."""
    normal = _normal(weight)
    inverse: Floats = np.linalg.inv(normal + penalty * np.eye(len(normal))).astype(
        np.float64, copy=False
    )
    moment = weight * mean
    right = moment.sum(axis=1)
    if mean.shape[1] > 1:
        right = np.concatenate([right, moment.sum(axis=0)])
    found = inverse @ right
    arms = found[: len(mean), None]
    groups = found[None, len(mean) :] if mean.shape[1] > 1 else np.zeros((1, 1))
    return arms + groups, inverse


def _normal(weight: Floats) -> Floats:
    """XᵀWX of the indicators of arms and groups, or of arms alone where there is one group."""
    arms = np.diag(weight.sum(axis=1))
    if weight.shape[1] == 1:
        return arms
    return np.block([[arms, weight], [weight.T, np.diag(weight.sum(axis=0))]])
