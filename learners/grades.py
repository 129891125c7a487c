"""Who said what of which arm: the columns that trust and influence are reckoned on."""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from learners.errors import InteractionError

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Limits = tuple[float, float]
"""The least and the greatest reward that a row may have."""


@dataclass(frozen=True, slots=True, eq=False)
class Grades:
    """n grades of K arms by S sources; a decision that two sources graded has two.

    Attributes:
        shape: K and S.
        arm: index of the arm that was graded, shape ``(n,)``.
        source: who graded it, shape ``(n,)``; -1 for nobody in particular: what the edge measured,
            what a default stands for, what a trusted source said.
        reward: by that grade, shape ``(n,)``.
        weight: shape ``(n,)``, at least 0.
        trusted: the reward of the same decision by a trusted source, shape ``(n,)``; NaN where
            none spoke.
    """

    shape: tuple[int, int]
    arm: NDArray[np.int64]
    source: NDArray[np.int64]
    reward: Floats
    weight: Floats
    trusted: Floats

    def __post_init__(self) -> None:
        """Refuse columns of different lengths, and arms and sources that there are not."""
        n = len(self.arm)
        for name in ("source", "reward", "weight", "trusted"):
            if getattr(self, name).shape != (n,):
                found = getattr(self, name).shape
                raise InteractionError(f"{name} has shape {found}, arm has {n} rows")
        for name, least, count in (("arm", 0, self.shape[0]), ("source", -1, self.shape[1])):
            column = getattr(self, name)
            if n and not (column.min() >= least and column.max() < count):
                raise InteractionError(
                    f"{name} ranges from {column.min()} to {column.max()}: "
                    f"give {least} to {count - 1}"
                )

    def __len__(self) -> int:
        """How many grades."""
        return len(self.arm)

    @property
    def named(self) -> Mask:
        """Which grades somebody in particular gave, shape ``(n,)``."""
        return np.asarray(self.source >= 0)

    @property
    def paired(self) -> Mask:
        """Which of those a trusted source spoke of too, shape ``(n,)``."""
        return self.named & np.isfinite(self.trusted)

    @property
    def limits(self) -> Limits:
        """The least and the greatest reward that anybody gave; zeros where nobody did."""
        told = np.concatenate([self.reward, self.trusted[np.isfinite(self.trusted)]])
        return (float(told.min()), float(told.max())) if len(told) else (0.0, 0.0)

    def totals(self, value: Floats, rows: Mask) -> Floats:
        """Sums of a column over the named rows of a mask, by arm and source: ``(K, S)``."""
        rows = rows & self.named
        k, s = self.shape
        cell = self.arm[rows] * s + self.source[rows]
        return sums(cell, value[rows], k * s).reshape(k, s)

    def each(self, values: Floats, usual: float) -> Floats:
        """Each row's entry of an array ``(K, S)``; ``usual`` where nobody in particular spoke."""
        found = np.full(len(self), usual)
        rows = self.named
        found[rows] = values[self.arm[rows], self.source[rows]]
        return found

    def only(self, rows: Mask) -> Self:
        """The grades of a mask."""
        names = ("arm", "source", "reward", "weight", "trusted")
        return replace(self, **{name: getattr(self, name)[rows] for name in names})

    def with_trusted(self) -> Self:
        """The grades with a trusted source's word in place of each that it spoke of."""
        told = np.isfinite(self.trusted)
        return replace(
            self,
            reward=np.where(told, self.trusted, self.reward),
            source=np.where(told, -1, self.source),
        )


def sums(group: NDArray[np.int64], value: Floats, count: int) -> Floats:
    """The sum of the values of each group, shape ``(count,)``."""
    found: Floats = np.bincount(group, value, count).astype(np.float64, copy=False)
    return found
