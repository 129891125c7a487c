"""What each arm earned in each group of contexts, as sums: any order and any pieces of a log agree.

A policy that looks at the context shows an arm mostly where that arm is good, so each row of its
log counts ``1 / propensity``, capped. A probe asks every arm, whatever the context: it shows in the
log as a choice that was certain though there were others. Its rows need no such weight, and one of
them tells as much as one row of the log: so both kinds are summed apart, and their means joined by
the numbers of rows that they are worth. Weighted means are self-normalised (Swaminathan & Joachims
2015, "The self-normalized estimator for counterfactual learning").
"""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from learners.contract import Spec, carried
from learners.errors import SpecError
from learners.interactions import Interactions

MAX_CELLS = 2**19
"""Arms × groups: what still fits a snapshot of 32 MiB."""

_WEIGHT, _SQUARE, _REWARD, _ENERGY = range(4)
_TINY = 1e-150
"""Sums below this are all but forgotten; their squares are no numbers any more."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """What the sums say of each arm in each group; all of shape ``(K, G)``, zeros where nothing.

    Attributes:
        count: the equally weighted rows that the mean is worth (Kish's effective sample size).
        total: the rows' weights together, not above ``count`` where weights are equal and small.
        mean: of the reward, self-normalised.
        variance: of the reward about the mean, not corrected for the mean's own degree of freedom.
    """

    count: Floats
    total: Floats
    mean: Floats
    variance: Floats


@dataclass(frozen=True, slots=True, eq=False)
class ArmSums:
    """Σw, Σw², Σw·r and Σw·r² by arm, group and kind of row (log, probe): ``(K, G, 2, 4)``."""

    values: Floats

    @classmethod
    def empty(cls, arms: int, groups: int) -> Self:
        """Nothing learnt yet.

        Raises:
            SpecError: There would be too many cells.
        """
        if arms * groups > MAX_CELLS:
            raise SpecError(f"{arms} arms × {groups} domains: at most {MAX_CELLS} are allowed")
        return cls(np.zeros((arms, groups, 2, 4)))

    def add(
        self,
        interactions: Interactions,
        group: NDArray[np.int64],
        max_importance: float,
        half_life: float = 0.0,
        reward: Floats | None = None,
    ) -> Self:
        """The sums with these interactions too.

        Args:
            interactions: n rows.
            group: each row's, shape ``(n,)``.
            max_importance: cap on ``1 / propensity``; with 1 every row counts alike.
            half_life: the weight of rows that halves the weight of all that came before; 0: none.
            reward: in place of the interactions' own, shape ``(n,)``.
        """
        importance = np.minimum(1.0 / interactions.propensity, max_importance)
        weight = interactions.weight * importance
        kept = 1.0
        if half_life > 0 and len(interactions):
            # After itself: a row is not aged by its own weight.
            age = interactions.weight[::-1].cumsum()[::-1] - interactions.weight
            weight = weight * np.exp2(-age / half_life)
            kept = float(np.exp2(-interactions.weight.sum() / half_life))
        fade = np.array([kept, kept * kept, kept, kept])
        cell = (interactions.action * self.values.shape[1] + group) * 2 + _probed(interactions)
        reward = interactions.reward if reward is None else reward
        columns = (weight, weight * weight, weight * reward, weight * reward * reward)
        size = self.values.size // 4
        sums = np.stack([np.bincount(cell, column, size) for column in columns], axis=-1)
        return replace(self, values=self.values * fade + sums.reshape(self.values.shape))

    def rearmed(self, old: Spec, new: Spec) -> Self:
        """The sums for another spec's arms."""
        return replace(self, values=carried(self.values, old, new))

    def cells(self) -> Cells:
        """Each cell's mean, joined of log and probes."""
        total, square = self.values[..., _WEIGHT], self.values[..., _SQUARE]
        seen = total > _TINY
        safe = np.where(seen, total, 1.0)
        count = np.where(seen, safe * safe / np.where(seen, square, 1.0), 0.0)
        mean = np.where(seen, self.values[..., _REWARD] / safe, 0.0)
        spread = np.where(seen, self.values[..., _ENERGY] / safe - mean * mean, 0.0)
        return _joined(Cells(count, total, mean, np.maximum(spread, 0.0)))


def _joined(kinds: Cells) -> Cells:
    """Both kinds of row together: ``(K, G, 2)`` gives ``(K, G)``."""
    count = kinds.count.sum(axis=-1)
    share = kinds.count / np.where(count > 0, count, 1.0)[..., None]
    mean = (share * kinds.mean).sum(axis=-1)
    apart = np.square(kinds.mean - mean[..., None])
    variance = (share * (kinds.variance + apart)).sum(axis=-1)
    return Cells(count, kinds.total.sum(axis=-1), mean, variance)


def _probed(interactions: Interactions) -> NDArray[np.int64]:
    """1 for a row of a probe, 0 for one of the log; ``(n,)``."""
    others = interactions.eligible.sum(axis=1) > 1
    found: NDArray[np.int64] = ((interactions.propensity >= 1.0) & others).astype(np.int64)
    return found
