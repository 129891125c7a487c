"""The portable form of a linear policy, with or without a confidence bonus."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from learners.errors import SpecError
from learners.exploration import Exploration
from learners.scorers.base import Floats, Scorer, Tensors, check_arms, check_finite, matched

ROWS_AT_ONCE = 1_024
"""The bonus needs K vectors a row, so long logs are scored in pieces."""


@dataclass(frozen=True, slots=True, eq=False)
class Linear(Scorer):
    """Scores arms linearly, with an upper-confidence bonus where ``inverse`` is there.

    ``linear``: ``score[a] = weights[a] · x``. ``linear_ucb`` adds
    ``alpha · sqrt(xᵀ inverse[a] x)`` (Li et al. 2010, arXiv:1003.0146, algorithm 1).

    Attributes:
        arms: K names; the order of all arrays.
        weights: shape ``(K, d)``.
        inverse: shape ``(K, d, d)`` or None.
    """

    arms: tuple[str, ...]
    weights: Floats
    exploration: Exploration
    inverse: Floats | None = None
    alpha: float = 0.0

    def __post_init__(self) -> None:
        """Refuse shapes that do not fit and numbers that are not finite."""
        check_arms(self.arms)
        k = len(self.arms)
        if self.weights.ndim != 2 or self.weights.shape[0] != k:
            raise SpecError(f"weights {self.weights.shape} do not fit {k} arms")
        d = self.weights.shape[1]
        check_finite(weights=self.weights)
        if self.inverse is not None:
            if self.inverse.shape != (k, d, d):
                raise SpecError(f"inverse {self.inverse.shape} is not {(k, d, d)}")
            check_finite(inverse=self.inverse)
        if not (math.isfinite(self.alpha) and self.alpha >= 0):
            raise SpecError(f"alpha is {self.alpha}: give a finite number of at least 0")

    @property
    def kind(self) -> str:
        """Which of the two forms this is."""
        return "linear" if self.inverse is None else "linear_ucb"

    @property
    def dimension(self) -> int:
        """Columns of the contexts."""
        return int(self.weights.shape[1])

    def scores(self, x: Floats, mix: Floats | None = None) -> Floats:  # noqa: ARG002 -- no parts
        """Scores of shape ``(n, K)`` for encoded contexts ``(n, d)``."""
        scores: Floats = x @ self.weights.T
        if self.inverse is not None and self.alpha > 0:
            for start in range(0, len(x), ROWS_AT_ONCE):
                rows = slice(start, start + ROWS_AT_ONCE)
                scores[rows] += self.alpha * _deviations(self.inverse, x[rows])
        return scores

    def tensors(self) -> dict[str, Floats]:
        """What a bundle stores as safetensors."""
        found = {"weights": np.ascontiguousarray(self.weights, dtype=np.float64)}
        if self.inverse is not None:
            found["inverse"] = np.ascontiguousarray(self.inverse, dtype=np.float64)
        return found

    def form(self) -> dict[str, Any]:
        """The bonus' width."""
        return {"alpha": self.alpha}

    @classmethod
    def read(cls, row: Mapping[str, Any], tensors: Tensors) -> Self:
        """The scorer that was written."""
        return cls(
            arms=tuple(row["arms"]),
            weights=tensors["weights"],
            exploration=Exploration.from_json(row["exploration"]),
            inverse=tensors["inverse"] if row["kind"] == "linear_ucb" else None,
            alpha=float(row.get("alpha", 0.0)),
        )

    def over(self, arms: Sequence[str]) -> Self:
        """The scorer over these arms.

        With the widest bound a new arm would take most of the traffic, unjudged; it gets the
        usual one.
        """
        if tuple(arms) == self.arms:
            return self
        inverse = self.inverse
        if inverse is not None and set(arms).isdisjoint(self.arms):
            inverse = np.stack([np.eye(self.dimension)] * len(arms))
        elif inverse is not None:
            inverse = matched(self.arms, arms, inverse)
        weights = matched(self.arms, arms, self.weights)
        return replace(self, arms=tuple(arms), weights=weights, inverse=inverse)

    def explored(self, exploration: Exploration) -> Self:
        """The same scores, spread in another way."""
        return replace(self, exploration=exploration)

    def greedy(self) -> Self:
        """The best prediction, without the bonus."""
        return replace(self, exploration=Exploration("greedy"), inverse=None, alpha=0.0)


def _deviations(inverse: Floats, x: Floats) -> Floats:
    """``sqrt(xᵀ A⁻¹ x)`` for all arms ``(n, K)``: one matrix product per arm."""
    quadratic = np.einsum("knd,nd->nk", x[None] @ inverse, x)
    found: Floats = np.sqrt(np.maximum(quadratic, 0.0))
    return found


def constant(values: Mapping[str, float], dimension: int, exploration: Exploration) -> Linear:
    """A scorer that ignores the context: each arm's score stands in the constant's column."""
    weights = np.zeros((len(values), dimension))
    weights[:, 0] = list(values.values())
    return Linear(tuple(values), weights, exploration)
