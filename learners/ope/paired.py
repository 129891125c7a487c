"""Rows of which two arms are known calibrate the reward model of the doubly robust estimators.

A log shows one arm's reward a request, so how far a model's *difference* between two arms is off
drowns in what requests differ by. Where another arm has answered the same request too, that part
cancels. So the model's error of differences is regressed on those rows, and taken off everywhere.

Doubly robust estimates are right on average with any model that has not seen the row that it is
held against; a better one varies less, and errs less where propensities are wrong. So the rows of
a fold are corrected by the pairs of the other folds only, and nothing is corrected unless that
predicts pairs better that it has not seen.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from learners.ope.logs import Bools, Floats, Ints, Log
from learners.ope.models import FOLDS, fold_of, penalty
from learners.pairs import Pair, paired_residuals

LEAST = 30
"""Pairs from which on a model is corrected."""
MOST = 2_000
"""Pairs that are read: with more the regression costs more than it adds."""
_CAUTION = 10.0
"""Times the reward model's own ridge: pairs are few beside the columns."""

Kind = Literal["none", "shifts", "contexts"]


@dataclass(frozen=True, slots=True)
class Calibration:
    """How far a model's differences of arms were off, in units of reward.

    Attributes:
        pairs: how many requests of the log two arms have answered.
        kind: what was taken off: nothing, a constant an arm, or a function of the context.
        mean: of the observed differences beyond the predicted ones.
        standard_error: of that mean.
        correlation: of the predicted with the observed differences; None where either is constant.
        error_before: the mean square of what the model left over.
        error_after: of what is left over once it is corrected, by pairs that the correction has
            not seen.
    """

    pairs: int
    kind: Kind
    mean: float
    standard_error: float
    correlation: float | None
    error_before: float
    error_after: float

    def as_json(self) -> dict[str, Any]:
        """Plain numbers."""
        return asdict(self)


@dataclass(frozen=True, slots=True, eq=False)
class _Differences:
    """m pairs: contexts ``(m, d)``, both arms ``(m,)``, what the model left over, each a fold."""

    x: Floats
    served: Ints
    shadow: Ints
    left: Floats
    fold: Ints

    def only(self, rows: Bools) -> "_Differences":
        """Some of them."""
        return _Differences(
            *(getattr(self, name)[rows] for name in ("x", "served", "shadow", "left", "fold"))
        )

    def predicted(self, weights: Floats) -> Floats:
        """The differences by weights of shape ``(K, d)``."""
        return np.asarray(((weights[self.shadow] - weights[self.served]) * self.x).sum(axis=1))


def calibrated(
    log: Log,
    ids: Sequence[str],
    predicted: Floats,
    pairs: Sequence[Pair],
    *,
    clusters: Ints | None = None,
) -> tuple[Floats, Calibration | None]:
    """A cross-fitted model's predictions, corrected by the pairs among the log's rows.

    Args:
        log: n rows.
        ids: each row's decision.
        predicted: of :func:`learners.ope.models.reward_model`, with the same ``clusters``, shape
            ``(n, K)``.
        pairs: requests that two arms have answered; those of no row, and those whose second arm
            is none that the row might have been served by, are left out.
        clusters: rows that belong together, shape ``(n,)``, share a fold; negative ones are alone.

    Returns:
        The predictions, the very same where there are fewer than :data:`LEAST` pairs, and then
        None.
    """
    place = {name: row for row, name in enumerate(ids)}
    column = {name: at for at, name in enumerate(log.arms)}
    kept = [pair for pair in pairs if _belongs(pair, log, place, column)][-MOST:]
    if len(kept) < LEAST:
        return predicted, None
    rows = np.array([place[pair.served.decision_id] for pair in kept])
    found = paired_residuals(kept, predicted[rows], log.arms)
    fold = fold_of(len(log), FOLDS, clusters)
    whole = _Differences(
        log.x[rows],
        log.action[rows],
        np.array([column[pair.shadow.action] for pair in kept]),
        found.difference,
        fold[rows],
    )
    before = float(np.square(whole.left).mean())
    kind, after = _best(whole, len(log.arms), before)
    said = Calibration(
        pairs=len(kept),
        kind=kind,
        mean=found.mean,
        standard_error=found.standard_error,
        correlation=None if np.isnan(found.correlation) else found.correlation,
        error_before=before,
        error_after=after,
    )
    if kind == "none":
        return predicted, said
    corrected = predicted.copy()
    for number in range(FOLDS):
        weights = _fitted(whole.only(whole.fold != number), kind, len(log.arms))
        held = fold == number
        corrected[held] += log.x[held] @ weights.T
    return corrected, said


def _belongs(pair: Pair, log: Log, place: dict[str, int], column: dict[str, int]) -> bool:
    """Whether a pair says something of the log's row: an arm that was revised since does not."""
    row, arm = place.get(pair.served.decision_id), column.get(pair.shadow.action)
    if row is None or arm is None or not log.eligible[row, arm]:
        return False
    return column.get(pair.served.action) == int(log.action[row]) != arm


def _best(whole: _Differences, k: int, before: float) -> tuple[Kind, float]:
    """What predicts the pairs of each fold best by those of the others, and its mean square."""
    best: tuple[Kind, float] = ("none", before)
    kinds: tuple[Kind, ...] = ("shifts", "contexts")
    for kind in kinds:
        left = np.empty(len(whole.left))
        for number in range(FOLDS):
            held = whole.fold == number
            weights = _fitted(whole.only(~held), kind, k)
            left[held] = whole.left[held] - whole.only(held).predicted(weights)
        error = float(np.square(left).mean())
        if error < best[1]:
            best = kind, error
    return best


def _fitted(pairs: _Differences, kind: Kind, k: int) -> Floats:
    """Ridge weights ``(K, d)`` whose differences are nearest to those left over.

    Solved by the pairs, which are fewer than the K·d columns.
    """
    m, d = pairs.x.shape
    inverse = 1.0 / np.diag(penalty(d))
    inverse[1:] /= _CAUTION
    if kind == "shifts":
        inverse[1:] = 0.0
    sign = np.zeros((m, k))
    sign[np.arange(m), pairs.shadow] = 1.0
    sign[np.arange(m), pairs.served] = -1.0
    gram = (pairs.x * inverse) @ pairs.x.T * (sign @ sign.T)
    factors = np.linalg.solve(gram + np.eye(m), pairs.left)
    return np.asarray((sign * factors[:, None]).T @ (pairs.x * inverse))
