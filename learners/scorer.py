"""The portable form of a trained policy: dense numbers that need no learning library."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from learners.errors import SpecError
from learners.exploration import Exploration, probabilities

ScorerKind = Literal["linear", "linear_ucb"]

ROWS_AT_ONCE = 1_024
"""The bonus needs K vectors a row, so long logs are scored in pieces."""


@dataclass(frozen=True, slots=True, eq=False)
class Scorer:
    """Scores arms linearly, with an upper-confidence bonus where ``inverse`` is there.

    ``linear``: ``score[a] = weights[a] · x``. ``linear_ucb`` adds
    ``alpha · sqrt(xᵀ inverse[a] x)`` (Li et al. 2010, arXiv:1003.0146, algorithm 1).

    Attributes:
        arms: K names; the order of all arrays.
        weights: shape ``(K, d)``.
        inverse: shape ``(K, d, d)`` or None.
    """

    arms: tuple[str, ...]
    weights: NDArray[np.float64]
    exploration: Exploration
    inverse: NDArray[np.float64] | None = None
    alpha: float = 0.0

    def __post_init__(self) -> None:
        """Refuse shapes that do not fit and numbers that are not finite."""
        k = len(self.arms)
        if len(set(self.arms)) != k:
            raise SpecError(f"arms {list(self.arms)} repeat: name each once")
        if self.weights.ndim != 2 or self.weights.shape[0] != k or k == 0:
            raise SpecError(f"weights {self.weights.shape} do not fit {k} arms")
        d = self.weights.shape[1]
        if self.inverse is not None and self.inverse.shape != (k, d, d):
            raise SpecError(f"inverse {self.inverse.shape} is not {(k, d, d)}")
        numbers = (self.weights,) if self.inverse is None else (self.weights, self.inverse)
        if not all(np.isfinite(part).all() for part in numbers):
            raise SpecError("weights hold NaN or infinity: the training data are poisoned")
        if not (math.isfinite(self.alpha) and self.alpha >= 0):
            raise SpecError(f"alpha is {self.alpha}: give a finite number of at least 0")

    @property
    def kind(self) -> ScorerKind:
        """Which of the two forms this is."""
        return "linear" if self.inverse is None else "linear_ucb"

    def scores(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Scores of shape ``(n, K)`` for encoded contexts ``(n, d)``."""
        scores: NDArray[np.float64] = x @ self.weights.T
        if self.inverse is not None and self.alpha > 0:
            for start in range(0, len(x), ROWS_AT_ONCE):
                rows = slice(start, start + ROWS_AT_ONCE)
                scores[rows] += self.alpha * _deviations(self.inverse, x[rows])
        return scores

    def distribution(
        self, x: NDArray[np.float64], eligible: NDArray[np.bool_]
    ) -> NDArray[np.float64]:
        """Probabilities ``(n, K)`` for contexts ``(n, d)`` and eligible arms ``(n, K)``."""
        return probabilities(self.scores(x), eligible, self.exploration)

    def tensors(self) -> dict[str, NDArray[np.float64]]:
        """What a bundle stores as safetensors."""
        found = {"weights": np.ascontiguousarray(self.weights, dtype=np.float64)}
        if self.inverse is not None:
            found["inverse"] = np.ascontiguousarray(self.inverse, dtype=np.float64)
        return found

    def as_json(self) -> dict[str, Any]:
        """What a bundle's manifest says beside the tensors."""
        return {
            "kind": self.kind,
            "arms": list(self.arms),
            "alpha": self.alpha,
            "exploration": self.exploration.as_json(),
        }

    @classmethod
    def load(cls, row: Mapping[str, Any], tensors: Mapping[str, NDArray[np.float64]]) -> "Scorer":
        """The scorer that :meth:`as_json` and :meth:`tensors` wrote."""
        if "weights" not in tensors or (row["kind"] == "linear_ucb" and "inverse" not in tensors):
            raise SpecError(f"tensors {sorted(tensors)} do not make a {row['kind']!r} scorer")
        return cls(
            arms=tuple(row["arms"]),
            weights=tensors["weights"],
            exploration=Exploration.from_json(row["exploration"]),
            inverse=tensors["inverse"] if row["kind"] == "linear_ucb" else None,
            alpha=float(row.get("alpha", 0.0)),
        )


def _deviations(inverse: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64]:
    """``sqrt(xᵀ A⁻¹ x)`` for all arms ``(n, K)``: one matrix product per arm."""
    quadratic = np.einsum("knd,nd->nk", x[None] @ inverse, x)
    found: NDArray[np.float64] = np.sqrt(np.maximum(quadratic, 0.0))
    return found


def constant(values: Mapping[str, float], dimension: int, exploration: Exploration) -> Scorer:
    """A scorer that ignores the context: each arm's score stands in the constant's column."""
    weights = np.zeros((len(values), dimension))
    weights[:, 0] = list(values.values())
    return Scorer(tuple(values), weights, exploration)
