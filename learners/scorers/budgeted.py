"""The portable form of a policy that keeps each episode within its budget.

*When a budget is never exceeded.* Let an episode have the budget B, take at most ``max_turns``
turns, and let no call of an arm cost more than the arm's bound. If B is at least ``max_turns``
times the least bound, then the sum of its costs is at most B, whatever is drawn, provided that

* each context carries the true ``turn``, ``spent_usd`` and ``budget_usd``;
* an eligible arm of that least bound is there at every turn;
* what is drawn is what is served, once: a retry or a fallback costs beyond its bound.

Proof: after t turns at least ``(max_turns - t)`` times the least bound is left. It holds at the
start; an arm is let in only if its bound leaves the least bound for each turn after this one, and
the cheapest arm always does. With a smaller B the cheapest arm is all that is let in from some turn
on, and serves nevertheless: a routing policy cannot end an episode, its app can.

After BoPO (budget-constrained policy optimisation): the mask bounds every episode, not their mean.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from learners.errors import SpecError
from learners.exploration import Exploration
from learners.scorers.base import Floats, Scorer, Tensors, check_arms, check_finite, load

MAX_TURNS = 100_000
_CLIPPED = 10.0
"""Where a schema clips an encoded number: beyond it the true one is not known."""
_INNER = "inner."
_SLACK = 1e-9
"""Of the budget; more than rounding in encoding a number and undoing it."""


@dataclass(frozen=True, slots=True, eq=False)
class Budgeted(Scorer):
    """Another scorer, with the arms masked that an episode's budget may not bear.

    Attributes:
        arms: the inner scorer's K names.
        exploration: the inner scorer's.
        inner: scores the arms, and spreads over those that are let in.
        bounds: no call of the arm costs more, USD, shape ``(K,)``; infinity where nobody knows.
        reading: how ``turn``, ``spent_usd`` and ``budget_usd`` are read from an encoded context:
            rows of column, mean and scale, shape ``(3, 3)``.
        max_turns: no episode has more.
    """

    arms: tuple[str, ...]
    exploration: Exploration
    inner: Scorer
    bounds: Floats
    reading: Floats
    max_turns: int

    def __post_init__(self) -> None:
        """Refuse numbers that do not fit."""
        check_arms(self.arms)
        if self.inner.arms != self.arms or self.inner.exploration != self.exploration:
            raise SpecError("arms or exploration differ from the inner scorer's: give the same")
        if isinstance(self.inner, Budgeted):
            raise SpecError("a budgeted scorer within another: mask once")
        if self.bounds.shape != (len(self.arms),):
            raise SpecError(f"bounds {self.bounds.shape} do not fit {len(self.arms)} arms")
        if not (self.bounds >= 0).all():
            raise SpecError(f"bounds {self.bounds.tolist()}: give USD a call, each at least 0")
        if not 1 <= self.max_turns <= MAX_TURNS:
            raise SpecError(f"max_turns is {self.max_turns}: give 1 to {MAX_TURNS}")
        self._check_reading()

    def _check_reading(self) -> None:
        if self.reading.shape != (3, 3):
            raise SpecError(f"reading {self.reading.shape} is not (3, 3)")
        check_finite(reading=self.reading)
        columns = self.reading[:, 0]
        if not ((columns >= 1) & (columns < self.dimension) & (columns % 1 == 0)).all():
            raise SpecError(f"columns {columns.tolist()} are not among {self.dimension}")
        if not (self.reading[:, 2] > 0).all():
            raise SpecError("a scale is not above 0")

    @property
    def kind(self) -> str:
        """The form's name in a bundle."""
        return "budgeted"

    @property
    def dimension(self) -> int:
        """Columns of the contexts."""
        return self.inner.dimension

    def scores(self, x: Floats, mix: Floats | None = None) -> Floats:
        """The inner scores ``(n, K)``: the mask changes who may serve, not what is thought."""
        return self.inner.scores(x, mix)

    def distribution(
        self, x: Floats, eligible: NDArray[np.bool_], mix: Floats | None = None
    ) -> Floats:
        """The inner probabilities ``(n, K)`` over the arms that are let in."""
        return self.inner.distribution(x, self.allowed(x, eligible), mix)

    def allowed(self, x: Floats, eligible: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """The eligible arms that leave enough to finish; the cheapest if none does."""
        turn, left = self._state(x)
        least = np.where(eligible, self.bounds, np.inf).min(axis=1)
        later = np.maximum(self.max_turns - 1 - turn, 0.0)
        with np.errstate(invalid="ignore"):  # 0 · inf: after the last turn nothing is kept back
            reserve = np.where(later > 0, later * least, 0.0)
        fits = eligible & (self.bounds <= (left - reserve)[:, None])
        cheapest = eligible & (self.bounds == least[:, None])
        found: NDArray[np.bool_] = np.where(fits.any(axis=1, keepdims=True), fits, cheapest)
        return found

    def _state(self, x: Floats) -> tuple[Floats, Floats]:
        """The turn and what is left of the budget; what was clipped counts as nothing left."""
        encoded = x[:, self.reading[:, 0].astype(np.intp)]
        turn, spent, budget = (encoded * self.reading[:, 2] + self.reading[:, 1]).T
        # A turn that is clipped from above reads too early, so too much is kept back: safe.
        turn = np.where(encoded[:, 0] <= -_CLIPPED, 0.0, np.rint(turn))
        unsure = (encoded[:, 1] >= _CLIPPED) | (encoded[:, 2] <= -_CLIPPED)
        left = budget - spent - _SLACK * np.abs(budget)
        return turn, np.where(unsure, 0.0, left)

    def tensors(self) -> dict[str, NDArray[Any]]:
        """What a bundle stores as safetensors."""
        own = {"bounds": self.bounds, "reading": self.reading}
        return {
            **{name: np.ascontiguousarray(each, dtype=np.float64) for name, each in own.items()},
            **{f"{_INNER}{name}": each for name, each in self.inner.tensors().items()},
        }

    def form(self) -> dict[str, Any]:
        """The longest episode, and the inner scorer."""
        return {"max_turns": self.max_turns, "inner": self.inner.as_json()}

    @classmethod
    def read(cls, row: Mapping[str, Any], tensors: Tensors) -> Self:
        """The scorer that was written."""
        inner = row["inner"]
        if inner.get("kind") == "budgeted":  # before it is read: foreign bytes may nest deeply
            raise SpecError("a budgeted scorer within another: mask once")
        within = {k.removeprefix(_INNER): v for k, v in tensors.items() if k.startswith(_INNER)}
        return cls(
            arms=tuple(row["arms"]),
            exploration=Exploration.from_json(row["exploration"]),
            inner=load(inner, within),
            bounds=tensors["bounds"],
            reading=tensors["reading"],
            max_turns=int(row["max_turns"]),
        )

    def over(self, arms: Sequence[str]) -> Self:
        """The scorer over these arms; a new one has no bound, so no budget bears it yet."""
        if tuple(arms) == self.arms:
            return self
        known = dict(zip(self.arms, self.bounds.tolist(), strict=True))
        bounds = np.array([known.get(arm, math.inf) for arm in arms])
        inner = self.inner.over(arms)
        return replace(self, arms=inner.arms, inner=inner, bounds=bounds)

    def modest(self, known: Sequence[str]) -> Self:
        """Average scores for all but these arms; each keeps its bound, or none would be tried."""
        return self._around(self.inner.modest(known))

    def explored(self, exploration: Exploration) -> Self:
        """The same mask over the same scores, spread in another way."""
        return self._around(self.inner.explored(exploration))

    def greedy(self) -> Self:
        """The best choice that is known and fits."""
        return self._around(self.inner.greedy())

    def _around(self, inner: Scorer) -> Self:
        return replace(self, exploration=inner.exploration, inner=inner)
