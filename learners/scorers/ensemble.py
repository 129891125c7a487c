"""The portable form of a policy that is a vote of many linear ones."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from learners.errors import SpecError
from learners.exploration import Exploration, floored, probabilities
from learners.scorers.base import Floats, Scorer, Tensors, check_arms, check_finite, matched

ROWS_AT_ONCE = 1_024
"""Each row needs M · K scores, so long logs are scored in pieces."""


@dataclass(frozen=True, slots=True, eq=False)
class Ensemble(Scorer):
    """M linear policies; with the exploration ``votes`` one of them, drawn evenly, decides.

    An arm's probability is then the share of the members that rank it first among the eligible,
    ties split, so it is known exactly, which a Thompson sampler that draws anew at each request
    can not say. With any other exploration the members' mean score is spread.

    Attributes:
        arms: K names; the order of all arrays.
        weights: shape ``(M, K, d)``.
    """

    arms: tuple[str, ...]
    weights: Floats
    exploration: Exploration

    def __post_init__(self) -> None:
        """Refuse shapes that do not fit and numbers that are not finite."""
        check_arms(self.arms)
        shape = self.weights.shape
        if len(shape) != 3 or shape[0] == 0 or shape[1] != len(self.arms):
            raise SpecError(f"weights {shape} do not fit members of {len(self.arms)} arms")
        check_finite(weights=self.weights)

    @property
    def kind(self) -> str:
        """The form's name in a bundle."""
        return "ensemble"

    @property
    def dimension(self) -> int:
        """Columns of the contexts."""
        return int(self.weights.shape[2])

    def scores(self, x: Floats, mix: Floats | None = None) -> Floats:  # noqa: ARG002 -- no parts
        """The members' mean scores ``(n, K)``."""
        found: Floats = x @ self.weights.mean(axis=0).T
        return found

    def distribution(
        self, x: Floats, eligible: NDArray[np.bool_], mix: Floats | None = None
    ) -> Floats:
        """Probabilities ``(n, K)``: the members' votes, or their mean score spread."""
        if self.exploration.kind != "votes":
            return probabilities(self.scores(x, mix), eligible, self.exploration)
        found = np.zeros(eligible.shape)
        for start in range(0, len(x), ROWS_AT_ONCE):
            rows = slice(start, start + ROWS_AT_ONCE)
            found[rows] = self._votes(x[rows], eligible[rows])
        return floored(found, eligible, self.exploration.floor)

    def _votes(self, x: Floats, eligible: NDArray[np.bool_]) -> Floats:
        greedy = Exploration("greedy")
        members, k, d = self.weights.shape
        scores = (x @ self.weights.reshape(members * k, d).T).reshape(len(x) * members, k)
        each = probabilities(scores, np.repeat(eligible, members, axis=0), greedy)
        found: Floats = each.reshape(len(x), members, k).mean(axis=1)
        return found

    def tensors(self) -> dict[str, Floats]:
        """What a bundle stores as safetensors."""
        return {"weights": np.ascontiguousarray(self.weights, dtype=np.float64)}

    def form(self) -> dict[str, Any]:
        """Nothing beside the tensors."""
        return {}

    @classmethod
    def read(cls, row: Mapping[str, Any], tensors: Tensors) -> Self:
        """The scorer that was written."""
        return cls(
            arms=tuple(row["arms"]),
            weights=tensors["weights"],
            exploration=Exploration.from_json(row["exploration"]),
        )

    def over(self, arms: Sequence[str]) -> Self:
        """The scorer over these arms."""
        if tuple(arms) == self.arms:
            return self
        weights = matched(self.arms, arms, self.weights, axis=1)
        return replace(self, arms=tuple(arms), weights=weights)

    def explored(self, exploration: Exploration) -> Self:
        """The same members, spread in another way."""
        return replace(self, exploration=exploration)
