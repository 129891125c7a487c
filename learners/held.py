"""The newest rows of a log, held back from training so that predictions can be checked on them."""

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from learners.interactions import Interactions

Floats = NDArray[np.float64]

_COLUMNS = ("x", "action", "weight", "targets")


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """h rows in the log's order.

    Attributes:
        x: shape ``(h, d)``.
        action: shape ``(h,)``.
        weight: shape ``(h,)``, above 0.
        targets: the reward, then its parts, shape ``(h, 1 + m)``.
        rows: how many rows have ever been added.
    """

    x: Floats
    action: NDArray[np.int64]
    weight: Floats
    targets: Floats
    rows: int = 0

    @classmethod
    def empty(cls, columns: int, targets: int) -> Self:
        """No rows yet."""
        none = np.zeros(0)
        return cls(np.zeros((0, columns)), none.astype(np.int64), none, np.zeros((0, targets)))

    def __len__(self) -> int:
        """How many are held."""
        return len(self.action)

    def add(self, log: Interactions, share: float, most: int) -> tuple[Self, Self]:
        """The rows that are held after these, and those that are no longer.

        Of n rows the newest ``min(most, share · n)`` are held. That number never falls and rises
        by one row at most, so a log in pieces ends as it does at once.

        Args:
            log: rows with a weight, with as many parts as the targets have.
            share: of all rows, below 1.
            most: rows to hold.
        """
        told = {
            "x": log.x,
            "action": log.action,
            "weight": log.weight,
            "targets": np.column_stack([log.reward, log.parts]),
        }
        rows = self.rows + len(log)
        every = replace(
            self,
            rows=rows,
            **{name: np.concatenate([getattr(self, name), told[name]]) for name in _COLUMNS},
        )
        out = max(len(every) - min(most, int(share * rows)), 0)
        return every.of(slice(out, None)), every.of(slice(0, out))

    def of(self, index: slice | NDArray[np.bool_]) -> Self:
        """Some of the rows."""
        return replace(self, **{name: getattr(self, name)[index] for name in _COLUMNS})

    def rearmed(self, before: list[int], after: list[int]) -> Self:
        """The rows of the arms that stay, under their new numbers."""
        stay = np.isin(self.action, before)
        number = dict(zip(before, after, strict=True))
        renumbered = [number[arm] for arm in self.action[stay].tolist()]
        return replace(self.of(stay), action=np.array(renumbered, dtype=np.int64))

    def log(self, arms: tuple[str, ...]) -> Interactions:
        """The rows as interactions; who else was eligible, and how likely it was, is forgotten."""
        return Interactions(
            arms=arms,
            x=self.x,
            eligible=np.ones((len(self), len(arms)), dtype=np.bool_),
            action=self.action,
            propensity=np.ones(len(self)),
            reward=self.targets[:, 0],
            weight=self.weight,
            parts=self.targets[:, 1:],
        )

    def tensors(self) -> dict[str, NDArray[np.generic]]:
        """What a snapshot stores."""
        return {f"held.{name}": getattr(self, name) for name in _COLUMNS}

    @classmethod
    def read(cls, tensors: dict[str, Any], rows: int) -> Self:
        """What :meth:`tensors` told."""
        return cls(**{name: tensors[f"held.{name}"] for name in _COLUMNS}, rows=rows)
