"""Both arms observed: what a model of the rewards says of requests that two arms have answered.

A doubly robust estimate leans on a model where the log has not looked. A log never shows what
another arm would have earned on the same request; a pair does, so it shows how far the model's
*difference* between two arms is off, with the request's own difficulty cancelled.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from learners.errors import InteractionError
from learners.records import Context

_MIN_PAIRS = 2


@dataclass(frozen=True, slots=True)
class Observed:
    """One arm's part of a pair.

    ``propensity`` is, for the arm that served, its served probability; for the shadow's, the
    probability with which its version chose it among the arms that did not serve.
    """

    decision_id: str
    version: int
    action: str
    propensity: float
    reward: float


@dataclass(frozen=True, slots=True)
class Pair:
    """A request that two arms have answered; ``eligible`` are the arms that might have served."""

    at: datetime
    context: Context
    eligible: tuple[str, ...]
    served: Observed
    shadow: Observed


@dataclass(frozen=True, slots=True)
class Residuals:
    """What a model's predictions leave over, in units of reward; arrays of shape ``(n,)``.

    Attributes:
        served: reward minus prediction of the arm that served.
        shadow: the same of the shadow's arm.
        difference: ``shadow - served``: the error of the predicted difference of the two arms.
        mean: of the differences; 0 for a model that is right on average.
        standard_error: of that mean; infinite below two pairs.
        correlation: of the predicted with the observed differences; NaN where either is constant.
    """

    served: NDArray[np.float64]
    shadow: NDArray[np.float64]
    difference: NDArray[np.float64]
    mean: float
    standard_error: float
    correlation: float


def paired_residuals(
    pairs: Sequence[Pair], predicted: NDArray[np.float64], arms: Sequence[str]
) -> Residuals:
    """Hold a model's predictions against pairs.

    Args:
        pairs: n pairs, none of which the model was trained on.
        predicted: expected reward of each arm on each pair's request, shape ``(n, K)``.
        arms: the K arms, in the order of the columns.

    Raises:
        InteractionError: The shapes do not fit, or a pair's arm is none of the arms.
    """
    n = len(pairs)
    if predicted.shape != (n, len(arms)):
        raise InteractionError(f"predictions have shape {predicted.shape}: give ({n}, {len(arms)})")
    column = {name: at for at, name in enumerate(arms)}
    try:
        served = np.array([column[pair.served.action] for pair in pairs], dtype=np.int64)
        shadow = np.array([column[pair.shadow.action] for pair in pairs], dtype=np.int64)
    except KeyError as error:
        raise InteractionError(f"no arm {error}: there are {list(arms)}") from error
    rows = np.arange(n)
    told = predicted[rows, shadow] - predicted[rows, served]
    earned = np.array([(pair.served.reward, pair.shadow.reward) for pair in pairs]).reshape(n, 2)
    left = earned - np.stack([predicted[rows, served], predicted[rows, shadow]], axis=1)
    difference = left[:, 1] - left[:, 0]
    return Residuals(
        served=left[:, 0],
        shadow=left[:, 1],
        difference=difference,
        mean=float(difference.mean()) if n else math.nan,
        standard_error=_standard_error(difference),
        correlation=_correlation(told, earned[:, 1] - earned[:, 0]),
    )


def _standard_error(values: NDArray[np.float64]) -> float:
    if len(values) < _MIN_PAIRS:
        return math.inf
    return float(values.std(ddof=1) / math.sqrt(len(values)))


def _correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    if len(a) < _MIN_PAIRS or not a.std() > 0 or not b.std() > 0:
        return math.nan
    return float(np.corrcoef(a, b)[0, 1])
