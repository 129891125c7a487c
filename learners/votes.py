"""Votes between two arms: which of two answers to a prompt a user or a judge preferred."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from learners.errors import PreferenceError

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Votes:
    """m votes over K arms.

    Attributes:
        arms: K names.
        winner: number of the preferred arm, shape ``(m,)``; of a tie, either side.
        loser: the other arm, shape ``(m,)``.
        tied: whether neither was preferred, shape ``(m,)``.
        weight: how many votes a row stands for, at least 0, shape ``(m,)``: a trust below 1, or a
            count. A judge's probability p is two rows, of p and of 1 − p the other way round.
        prompt: number of the prompt that was voted on, at least 0, shape ``(m,)``; None where that
            is not known and every row counts as independent.
    """

    arms: tuple[str, ...]
    winner: Integers
    loser: Integers
    tied: NDArray[np.bool_]
    weight: Floats
    prompt: Integers | None = None

    def __post_init__(self) -> None:
        """Refuse columns of other lengths, unknown arms, an arm against itself and bad weights."""
        if not self.arms or len(set(self.arms)) != len(self.arms):
            raise PreferenceError(f"arms {list(self.arms)[:5]} …: give at least one, each once")
        shape = (len(self.winner),)
        for name in ("winner", "loser", "tied", "weight", "prompt"):
            column = getattr(self, name)
            if column is not None and column.shape != shape:
                raise PreferenceError(f"{name} has shape {column.shape}: give {shape}")
        for name in ("winner", "loser"):
            _within(name, getattr(self, name), len(self.arms))
        if self.prompt is not None:
            _within("prompt", self.prompt, None)
        if (self.winner == self.loser).any():
            row = int(np.argmax(self.winner == self.loser))
            raise PreferenceError(f"row {row}: an arm is compared with itself: leave the row out")
        if not (np.isfinite(self.weight) & (self.weight >= 0.0)).all():
            raise PreferenceError("weight: one is negative or not finite: give numbers from 0")

    @classmethod
    def named(
        cls,
        winner: Sequence[str],
        loser: Sequence[str],
        *,
        tied: Sequence[bool] | None = None,
        weight: Sequence[float] | None = None,
        prompt: Sequence[str] | None = None,
    ) -> "Votes":
        """Votes of names; the arms come sorted.

        Raises:
            PreferenceError: A column has another length, or holds what :class:`Votes` refuses.
        """
        m = len(winner)
        if len(loser) != m:
            raise PreferenceError(f"{m} winners, {len(loser)} losers: give one of each a vote")
        arms = tuple(sorted({*winner, *loser}))
        number = {arm: i for i, arm in enumerate(arms)}
        prompts = None if prompt is None else np.unique(np.array(prompt), return_inverse=True)[1]
        return cls(
            arms=arms,
            winner=np.array([number[arm] for arm in winner], np.int64),
            loser=np.array([number[arm] for arm in loser], np.int64),
            tied=np.zeros(m, np.bool_) if tied is None else np.array(tied, np.bool_),
            weight=np.ones(m) if weight is None else np.array(weight, np.float64),
            prompt=None if prompts is None else prompts.astype(np.int64),
        )

    def wins(self, times: NDArray[np.int64] | None = None) -> Floats:
        """Weight of row's wins over column, ``(K, K)``; a tie is half a win for each.

        This is all that the strengths depend on, and tables of two logs over the same arms add up
        to the table of both.

        Args:
            times: how often each vote counts, shape ``(m,)``; once when None.
        """
        k = len(self.arms)
        weight = self.weight if times is None else self.weight * times
        won = np.where(self.tied, weight / 2.0, weight)
        table = np.bincount(self.winner * k + self.loser, won, k * k)
        table = table + np.bincount(self.loser * k + self.winner, weight - won, k * k)
        return np.asarray(table, np.float64).reshape(k, k)

    def clusters(self) -> Integers:
        """Number of each vote's prompt, without gaps; each vote its own where none is known."""
        if self.prompt is None:
            return np.arange(len(self.winner))
        return np.asarray(np.unique(self.prompt, return_inverse=True)[1], np.int64)


def _within(name: str, column: Integers, limit: int | None) -> None:
    """Refuse numbers that are no integers, below 0, or not below the limit."""
    if not np.issubdtype(column.dtype, np.integer):
        raise PreferenceError(f"{name} is of {column.dtype}: give integers")
    top = np.inf if limit is None else limit
    bad = (column < 0) | (column >= top)
    if bad.any():
        row = int(np.argmax(bad))
        raise PreferenceError(f"row {row}: {name}={column[row]}: give a number from 0 below {top}")
