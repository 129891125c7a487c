"""What failures cost: a request is charged all that was spent on it, and a failure a penalty too.

TwinRouterBench (Yang et al., arXiv:2605.18859) never lets a cheap failure pass for a saving. Its
dynamic track adds a constant to the bill of an unresolved case: 0.60 USD there, what a perfect
solver would cost. Its static track credits a passed trajectory with the always-strongest cost minus
what was spent, and a failed one with minus what was spent: the same as a penalty of the strongest
arm's cost of that request. So one penalty serves both. Source: its published code,
github.com/CommonstackAI/TwinRouterBench, ``swerouter/leaderboard/score.py`` (commit 2a705b2) and
``main/eval/section11.py`` (commit 7b35f7f).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from learners.errors import FrontierError

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Attempts:
    """m attempts at n requests, each request's in the order of time: retries and escalations.

    Attributes:
        request: which request, ``0 … n − 1``, shape ``(m,)``.
        cost: what the attempt spent, failed or not, shape ``(m,)``.
        score: of its answer, shape ``(m,)``; not read where it failed.
        failed: whether it gave no answer that could be served, shape ``(m,)``.
    """

    request: NDArray[np.int64]
    cost: Floats
    score: Floats
    failed: NDArray[np.bool_]

    def __post_init__(self) -> None:
        """Refuse columns of other lengths and requests that nobody attempted."""
        check_alike(self.request, self.cost, self.score, self.failed)
        if self.request.ndim != 1 or not len(self.request) or self.request.min() < 0:
            raise FrontierError("request: give one number from 0 an attempt, and at least one")
        if not (np.isfinite(self.cost) & (self.cost >= 0.0)).all():
            raise FrontierError("a cost is negative or not finite: give numbers of at least 0")
        if not np.isfinite(self.score[~self.failed]).all():
            raise FrontierError(
                "score of an attempt that did not fail is not finite: give a number"
            )
        missing = np.flatnonzero(np.bincount(self.request) == 0)
        if len(missing):
            raise FrontierError(f"request {missing[0]} has no attempt: number them without gaps")


def charge(attempts: Attempts, penalty: ArrayLike = 0.0) -> tuple[Floats, Floats]:
    """What each request cost and scored, failures charged.

    A request costs all its attempts together, so an escalation pays for the arm that failed and for
    the one that answered. It scores what the last attempt that did not fail scored. Where all
    failed it scores 0 and the penalty is added.

    Returns:
        Costs and scores of the n requests, shapes ``(n,)``.
    """
    spent = np.bincount(attempts.request, attempts.cost).astype(np.float64)
    answered = np.flatnonzero(~attempts.failed)
    scores, solved = np.zeros(len(spent)), np.zeros(len(spent), np.bool_)
    # Of a repeated index numpy keeps the value that comes last: the later attempt.
    scores[attempts.request[answered]] = attempts.score[answered]
    solved[attempts.request[answered]] = True
    return bill(spent, solved, penalty), scores


def bill(costs: Floats, solved: NDArray[np.bool_], penalty: ArrayLike = 0.0) -> Floats:
    """Costs with failures charged: what was spent, and a penalty where nothing was solved.

    Args:
        costs: what was spent, shape ``(n,)`` or, for every arm, ``(n, K)``.
        solved: the same shape.
        penalty: at least 0: one number, or an array that broadcasts, such as the strongest arm's
            cost ``(n, 1)``.

    Raises:
        FrontierError: The shapes do not fit, or a cost or penalty is negative or not finite.
    """
    check_alike(costs, solved)
    extra = np.asarray(penalty, np.float64)
    try:
        extra = np.broadcast_to(extra, costs.shape)
    except ValueError as error:
        raise FrontierError(f"penalty {extra.shape} does not broadcast to {costs.shape}") from error
    for name, value in (("cost", costs), ("penalty", extra)):
        if not (np.isfinite(value) & (value >= 0.0)).all():
            raise FrontierError(f"a {name} is negative or not finite: give numbers of at least 0")
    return costs + np.where(solved, 0.0, extra)


def check_alike(*columns: NDArray[Any]) -> None:
    """Refuse arrays of different shapes.

    Raises:
        FrontierError: They differ.
    """
    shapes = [column.shape for column in columns]
    if len(set(shapes)) > 1:
        raise FrontierError(f"shapes {shapes} differ: give arrays of one shape")
