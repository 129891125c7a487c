"""How a learner's exploration narrows as evidence grows, whatever the reward's unit and offset."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from learners.contract import Params, resolve_params
from learners.errors import SpecError
from learners.exploration import KINDS, Exploration, ExplorationKind
from learners.interactions import Interactions

EXPLORATION_PARAMS: Params = {
    "exploration": "squarecb",
    "floor": 0.05,
    "floor_exponent": 0.0,
    "floor_least": 0.01,
    "gamma": 10.0,
    "gamma_exponent": 0.5,
    "temperature": 0.1,
}
"""What every learner takes; ``gamma`` and ``temperature`` are in standard deviations of reward."""

_LEAST_SCALE = 1e-9
"""A spread below this part of the mean is rounding, not variation."""


@dataclass(frozen=True, slots=True)
class Moments:
    """The rewards so far: their number (weighted), mean and sum of squared deviations."""

    count: float = 0.0
    mean: float = 0.0
    squares: float = 0.0

    @property
    def scale(self) -> float:
        """Standard deviation of the rewards; 1 while nothing is known, or where all are alike."""
        return _scale(self.count, self.mean, self.squares)

    def add(
        self, interactions: Interactions, weight: NDArray[np.float64] | None = None
    ) -> "Moments":
        """The moments with these rewards too; ``weight`` in place of the rows' own."""
        weight = interactions.weight if weight is None else weight
        total = float(weight.sum())
        if total <= 0:
            return self
        mean = float(weight @ interactions.reward) / total
        squares = float(weight @ np.square(interactions.reward - mean))
        return self.merge(Moments(total, mean, squares))

    def faded(self, share: float) -> "Moments":
        """The moments with this share left of every reward's weight."""
        return Moments(self.count * share, self.mean, self.squares * share)

    def merge(self, other: "Moments") -> "Moments":
        """Both together (Chan, Golub & LeVeque 1979)."""
        count = self.count + other.count
        if count <= 0:
            return self
        gap = other.mean - self.mean
        share = other.count / count
        return Moments(
            count=count,
            mean=self.mean + gap * share,
            squares=self.squares + other.squares + gap * gap * self.count * share,
        )

    def since(self, earlier: "Moments") -> "Moments":
        """What came after ``earlier``: merged with it, it gives these moments."""
        count = self.count - earlier.count
        if count <= 0:
            return Moments()
        mean = (self.count * self.mean - earlier.count * earlier.mean) / count
        between = (mean - earlier.mean) ** 2 * earlier.count * count / self.count
        return Moments(count, mean, max(self.squares - earlier.squares - between, 0.0))

    def as_json(self) -> dict[str, float]:
        """Plain form for a snapshot."""
        return {"count": self.count, "mean": self.mean, "squares": self.squares}


def standardise(
    moments: Moments, interactions: Interactions
) -> tuple[NDArray[np.float64], Moments]:
    """Each reward in standard deviations from the mean of all rewards up to and with it.

    A learner that steps by gradients is then as fast with rewards in cents as in dollars, and its
    untrained arms start at the average instead of at 0. Batches do not matter: the result is the
    same one by one.

    Returns:
        Shape ``(n,)``, and the moments after the last.
    """
    found = np.zeros(len(interactions))
    rows = zip(interactions.reward.tolist(), interactions.weight.tolist(), strict=True)
    count, mean, squares = moments.count, moments.mean, moments.squares
    # Moments.merge, without an object a row: a learner's step takes little longer than one.
    for i, (reward, weight) in enumerate(rows):
        if weight > 0:
            gap, share = reward - mean, weight / (count + weight)
            mean += gap * share
            squares += gap * gap * count * share
            count += weight
        found[i] = (reward - mean) / _scale(count, mean, squares)
    return found, Moments(count, mean, squares)


def _scale(count: float, mean: float, squares: float) -> float:
    if count <= 0:
        return 1.0
    found = math.sqrt(max(squares, 0.0) / count)
    return found if found > _LEAST_SCALE * max(1.0, abs(mean)) else 1.0


def explore(params: Mapping[str, Any], moments: Moments) -> Exploration:
    """The exploration after what ``moments`` has seen.

    SquareCB's γ grows as ``count ** gamma_exponent`` (Foster & Rakhlin, arXiv:2002.04926,
    theorem 1 has the exponent 1/2), and is divided by the rewards' standard deviation. The floor
    falls as ``count ** -floor_exponent``, but not below ``floor_least``, so that every arm goes on
    being judged; ε-greedy's is 1 (Auer, Cesa-Bianchi & Fischer 2002, theorem 3).

    Raises:
        SpecError: A parameter is out of range.
    """
    for name in ("gamma_exponent", "floor_exponent", "floor_least"):
        if not 0.0 <= float(params[name]) <= 1.0:
            raise SpecError(f"{name} is {float(params[name])}: give a number between 0 and 1")
    seen, floor = max(moments.count, 1.0), float(params["floor"])
    growth = seen ** float(params["gamma_exponent"])
    fallen = floor * seen ** -float(params["floor_exponent"])
    return Exploration(
        kind=cast("ExplorationKind", params["exploration"]),
        floor=max(fallen, min(floor, float(params["floor_least"]))),
        gamma=float(params["gamma"]) * growth / moments.scale,
        temperature=float(params["temperature"]) * moments.scale,
    )


def checked_params(
    learner: str, defaults: Params, given: Params, limits: Mapping[str, float]
) -> dict[str, Any]:
    """The defaults with the given values over them, each of its type and within its range.

    Args:
        learner: its name, for the message.
        defaults: what it takes, :data:`EXPLORATION_PARAMS` included.
        given: what a policy asks for.
        limits: the least value of each parameter of its own.

    Raises:
        SpecError: A name is unknown, a value has the wrong type or is out of range, or a learner
            whose members do not vote is to explore by votes.
    """
    params = resolve_params(learner, defaults, given)
    if params["exploration"] == "votes" and defaults["exploration"] != "votes":
        raise SpecError(
            f"{learner}.exploration is 'votes', which needs an ensemble whose members vote: give "
            f"{', '.join(kind for kind in KINDS if kind != 'votes')}"
        )
    at_least(learner, params, limits)
    explore(params, Moments())
    return params


def at_least(learner: str, params: Mapping[str, Any], limits: Mapping[str, float]) -> None:
    """Refuse parameters that are not finite or below their limit.

    Raises:
        SpecError: One is.
    """
    for name, limit in limits.items():
        value = float(params[name])
        if not (math.isfinite(value) and value >= limit):
            raise SpecError(
                f"{learner}.{name} is {value}: give a finite number of at least {limit:g}"
            )
