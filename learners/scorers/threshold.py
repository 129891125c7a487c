"""The portable form of a policy that takes the cheapest arm that is good enough for sure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from learners.errors import SpecError
from learners.exploration import Exploration
from learners.scorers.base import Floats, Scorer, Tensors, check_arms, check_finite, matched

TILT = 1e-6
"""How much the chance of success adds: of arms that cost the same the better one is taken."""
ROWS_AT_ONCE = 256
"""Each row meets every knot, so long logs are scored in pieces that fit a cache."""

_TENSORS = ("success", "raw", "value", "low", "cost")


@dataclass(frozen=True, slots=True, eq=False)
class Threshold(Scorer):
    """The cheapest arm whose lower bound reaches the target; if none does, the likeliest.

    A linear prediction of success is calibrated by each arm's own curve: linear between b knots,
    level beyond the first and the last. With the calibrated chance v of success, its lower bound l
    and the predicted cost c (at least 0) an arm scores::

        1 + unit / (unit + c) + TILT · v   where l ≥ target
        v                                  elsewhere

    so that any arm that reaches the target is above any that does not, and among those that do
    only the cost decides. How an arm scores does not depend on the others, so neither do its
    probabilities on arms that are not eligible.

    Attributes:
        arms: K names; the order of all arrays.
        success: the prediction's weights, shape ``(K, d)``.
        raw: the knots' predictions, not falling; the last is repeated where an arm has fewer than
            b, shape ``(K, b)``.
        value: chance of success at each knot, 0 to 1, shape ``(K, b)``.
        low: its lower bound, 0 to 1, shape ``(K, b)``.
        cost: the cost's weights, shape ``(K, d)``.
        target: the chance of success that is enough, 0 to 1.
        unit: a usual cost, above 0.
    """

    arms: tuple[str, ...]
    exploration: Exploration
    success: Floats
    raw: Floats
    value: Floats
    low: Floats
    cost: Floats
    target: float
    unit: float

    def __post_init__(self) -> None:
        """Refuse shapes that do not fit and numbers that are out of range."""
        check_arms(self.arms)
        k = len(self.arms)
        if (
            self.success.ndim != 2
            or len(self.success) != k
            or self.cost.shape != self.success.shape
        ):
            raise SpecError(
                f"success {self.success.shape} and cost {self.cost.shape}: give ({k}, d) twice"
            )
        shapes = {self.raw.shape, self.value.shape, self.low.shape}
        if len(shapes) != 1 or self.raw.ndim != 2 or len(self.raw) != k or not self.raw.shape[1]:
            raise SpecError(f"knots of shapes {sorted(shapes)}: give ({k}, b) thrice")
        check_finite(**{name: getattr(self, name) for name in _TENSORS})
        if (np.diff(self.raw, axis=1) < 0).any():
            raise SpecError("raw falls: give each arm's knots in order")
        for name in ("value", "low"):
            if not ((getattr(self, name) >= 0) & (getattr(self, name) <= 1)).all():
                raise SpecError(f"{name} is outside [0, 1]: give chances")
        if not 0.0 <= self.target <= 1.0:
            raise SpecError(f"target is {self.target}: give a chance from 0 to 1")
        if not 0.0 < self.unit < np.inf:
            raise SpecError(f"unit is {self.unit}: give a finite cost above 0")

    @property
    def kind(self) -> str:
        """The form's name in a bundle."""
        return "threshold"

    @property
    def dimension(self) -> int:
        """Columns of the contexts."""
        return int(self.success.shape[1])

    def scores(self, x: Floats, mix: Floats | None = None) -> Floats:  # noqa: ARG002 -- no parts
        """Scores ``(n, K)``: above 1 where the target is reached, by cost; else the chance."""
        value, low = self.chances(x)
        cost = np.maximum(x @ self.cost.T, 0.0)
        enough = 1.0 + self.unit / (self.unit + cost) + TILT * value
        return np.asarray(np.where(low >= self.target, enough, value))

    def chances(self, x: Floats) -> tuple[Floats, Floats]:
        """Each arm's chance of success and its lower bound, shapes ``(n, K)``."""
        value, low = np.empty((2, len(x), len(self.arms)))
        for start in range(0, len(x), ROWS_AT_ONCE):
            rows = slice(start, start + ROWS_AT_ONCE)
            left, right, share = self._between(x[rows] @ self.success.T)
            for found, knots in ((value, self.value), (low, self.low)):
                below = knots.take(left)
                found[rows] = below + share * (knots.take(right) - below)
        return value, low

    def _between(self, raw: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
        """The flat places of the knots on both sides of predictions ``(n, K)``, and how far."""
        k, b = self.raw.shape
        after = (raw[:, :, None] >= self.raw).sum(axis=2, dtype=np.int32)
        first = b * np.arange(k)
        left = first + np.maximum(after - 1, 0)
        right = first + np.minimum(after, b - 1)
        below = self.raw.take(left)
        gap = self.raw.take(right) - below
        share = np.zeros(raw.shape)  # stays 0 beyond the first knot and the last
        np.divide(raw - below, gap, out=share, where=(gap > 0) & (left < right))
        return left, right, share

    def tensors(self) -> dict[str, NDArray[Any]]:
        """What a bundle stores as safetensors."""
        return {
            name: np.ascontiguousarray(getattr(self, name), dtype=np.float64) for name in _TENSORS
        }

    def form(self) -> dict[str, Any]:
        """The target, and the unit of costs."""
        return {"target": self.target, "unit": self.unit}

    @classmethod
    def read(cls, row: Mapping[str, Any], tensors: Tensors) -> Self:
        """The scorer that was written."""
        return cls(
            arms=tuple(row["arms"]),
            exploration=Exploration.from_json(row["exploration"]),
            target=float(row["target"]),
            unit=float(row["unit"]),
            **{name: tensors[name] for name in _TENSORS},
        )

    def over(self, arms: Sequence[str]) -> Self:
        """The scorer over these arms; nothing is sure of a new one, so it reaches no target."""
        if tuple(arms) == self.arms:
            return self
        tensors: dict[str, Any] = {
            name: matched(self.arms, arms, getattr(self, name)) for name in _TENSORS
        }
        tensors["low"][[arm not in self.arms for arm in arms]] = 0.0
        return replace(self, arms=tuple(arms), **tensors)

    def explored(self, exploration: Exploration) -> Self:
        """The same scores, spread in another way."""
        return replace(self, exploration=exploration)
