"""Budget pacing: the price of money at which a policy spends what it may, no more and no less.

With a budget of b per request the best policy maximises the mean reward under a mean cost of at
most b. Its Lagrangian prices the cost by a multiplier λ ≥ 0: each request gets the arm of the
greatest ``utility - λ · cost``, and λ is the least price at which that costs no more than the
budget: the minimiser of the dual function (Boyd & Vandenberghe 2004, ch. 5). Instead of a gradient
step on the dual at each request (Balseiro, Lu & Mirrokni 2020, arXiv:2002.10421), which needs a
step size for each table and overshoots where feedback is late, the dual of the most recent requests
is solved anew at each freeze (re-solving: Agrawal, Wang & Ye 2014, arXiv:0911.2974), with what was
over- or underspent put into the budget.

*How close.* Let the debt D be what was spent beyond b per request. The next requests may cost
``b - D / horizon``, so a debt shrinks by ``exp(-1)`` in ``horizon`` requests, and costs that are
misjudged by the share e leave a debt of ``e · b · horizon`` at most, however long the log: a share
of ``e · horizon / T`` of T requests' budget. Feedback that comes L requests late acts as a longer
horizon; where it is later than the horizon, spending swings.

*When it cannot hold.* A budget below what the cheapest eligible arm costs, and the exploration's
floor on top, is overspent whatever the price: :class:`Price` says so. A budget that is above what
the policy would spend anyway is left unspent: λ is 0.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from learners.errors import PacingError

Floats = NDArray[np.float64]

_FIRST = 1e-3
"""Of the price at which costs and utilities differ alike: where the search begins."""
_DEAREST = 1e12
"""Times the first price: only costs count there, whatever the request."""
_HALVINGS = 24
_ALIKE = 1e-12


@dataclass(frozen=True, slots=True)
class Pace:
    """A budget over time.

    Attributes:
        budget: cost per request, above 0.
        horizon: requests within which a debt is paid back, at least 1.
    """

    budget: float
    horizon: float

    def __post_init__(self) -> None:
        """Refuse a budget that is no cost and a horizon that is over at once."""
        if not 0.0 < self.budget < math.inf:
            raise PacingError(f"budget is {self.budget}: give a finite cost per request above 0")
        if not 1.0 <= self.horizon < math.inf:
            raise PacingError(f"horizon is {self.horizon}: give requests, at least 1")

    def rate(self, spent: float, requests: float) -> float:
        """What the next requests may cost each, after these have; at least 0."""
        return max(self.budget - (spent - self.budget * requests) / self.horizon, 0.0)


@dataclass(frozen=True, slots=True)
class Price:
    """What a unit of cost is to count for.

    Attributes:
        multiplier: λ, utility per unit of cost; at least 0.
        expected: what a request then costs.
        holds: whether that is within the rate.
    """

    multiplier: float
    expected: float
    holds: bool


def price(utility: Floats, cost: Floats, rate: float, spread: Callable[[Floats], Floats]) -> Price:
    """The least multiplier at which requests cost no more than a rate.

    What requests cost falls as the price rises, in steps where few differ: then no price spends
    the rate exactly, the one below it is taken, and the debt moves to and fro over the step.

    Args:
        utility: of each arm for recent requests, shape ``(n, K)``, costs as the policy weighs them.
        cost: predicted, shape ``(n, K)``.
        rate: cost per request.
        spread: the probabilities ``(n, K)`` with which scores ``(n, K)`` are served.
    """

    def spent(multiplier: float) -> float:
        served = spread(utility - multiplier * cost)
        return float((served * cost).sum()) / len(cost)

    free, unit = spent(0.0), _unit(utility, cost)
    if free <= rate or unit is None:
        return Price(0.0, free, holds=free <= rate)
    low, high = 0.0, unit
    while spent(high) > rate and high < unit * _DEAREST:
        low, high = high, 4.0 * high
    for _ in range(_HALVINGS):
        middle = (low + high) / 2.0
        low, high = (middle, high) if spent(middle) > rate else (low, middle)
    found = spent(high)
    return Price(high, found, holds=found <= rate)


def _unit(utility: Floats, cost: Floats) -> float | None:
    """A price to begin with: what differs in utility over what differs in cost, if it does."""
    apart = float(np.ptp(cost, axis=1).mean())
    if not apart > _ALIKE * float(np.abs(cost).mean()):
        return None
    return _FIRST * max(float(np.ptp(utility, axis=1).mean()), _ALIKE) / apart
