"""The portable form of a policy that predicts the reward's parts apart and mixes them late."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from learners.errors import SpecError
from learners.exploration import Exploration
from learners.scorers.base import Floats, Scorer, Tensors, check_arms, check_finite, matched


@dataclass(frozen=True, slots=True, eq=False)
class Mixed(Scorer):
    """Predicts m parts of the reward for each arm; the score is their mix.

    A request may bring weights of its own, which move it along the frontier (of quality and cost,
    say) without any training.

    Attributes:
        arms: K names; the order of all arrays.
        parts: m names of the parts, which are the reward's metrics.
        weights: shape ``(m, K, d)``: each part's linear prediction.
        mix: the reward's own weights of the parts, shape ``(m,)``.
    """

    arms: tuple[str, ...]
    parts: tuple[str, ...]
    weights: Floats
    mix: Floats
    exploration: Exploration

    def __post_init__(self) -> None:
        """Refuse shapes that do not fit and numbers that are not finite."""
        check_arms(self.arms)
        m, k = len(self.parts), len(self.arms)
        shape = self.weights.shape
        if len(shape) != 3 or m == 0 or shape[:2] != (m, k):
            raise SpecError(f"weights {shape} do not fit {m} parts of {k} arms")
        if self.mix.shape != (m,):
            raise SpecError(f"mix {self.mix.shape} does not fit {m} parts")
        check_finite(weights=self.weights, mix=self.mix)

    @property
    def kind(self) -> str:
        """The form's name in a bundle."""
        return "mixed"

    @property
    def dimension(self) -> int:
        """Columns of the contexts."""
        return int(self.weights.shape[2])

    def scores(self, x: Floats, mix: Floats | None = None) -> Floats:
        """The mixed predictions ``(n, K)``; ``mix`` ``(n, m)`` stands in for the reward's own."""
        if mix is None:
            found: Floats = x @ np.tensordot(self.mix, self.weights, axes=1).T
            return found
        mixed: Floats = np.einsum("nm,nmk->nk", mix, self.predicted(x))
        return mixed

    def predicted(self, x: Floats) -> Floats:
        """Each part's prediction, shape ``(n, m, K)``."""
        m, k, d = self.weights.shape
        found: Floats = (x @ self.weights.reshape(m * k, d).T).reshape(len(x), m, k)
        return found

    def tensors(self) -> dict[str, Floats]:
        """What a bundle stores as safetensors."""
        return {
            "weights": np.ascontiguousarray(self.weights, dtype=np.float64),
            "mix": np.ascontiguousarray(self.mix, dtype=np.float64),
        }

    def form(self) -> dict[str, Any]:
        """The parts' names."""
        return {"parts": list(self.parts)}

    @classmethod
    def read(cls, row: Mapping[str, Any], tensors: Tensors) -> Self:
        """The scorer that was written."""
        return cls(
            arms=tuple(row["arms"]),
            parts=tuple(row["parts"]),
            weights=tensors["weights"],
            mix=tensors["mix"],
            exploration=Exploration.from_json(row["exploration"]),
        )

    def over(self, arms: Sequence[str]) -> Self:
        """The scorer over these arms."""
        if tuple(arms) == self.arms:
            return self
        weights = matched(self.arms, arms, self.weights, axis=1)
        return replace(self, arms=tuple(arms), weights=weights)

    def explored(self, exploration: Exploration) -> Self:
        """The same scores, spread in another way."""
        return replace(self, exploration=exploration)
