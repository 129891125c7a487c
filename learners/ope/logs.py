"""What can be evaluated on: interactions, or imported rows that may lack a propensity."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from learners.errors import EstimateError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


class Log(Protocol):
    """n rows over K arms; :class:`learners.interactions.Interactions` is one."""

    @property
    def arms(self) -> tuple[str, ...]:
        """K names."""

    @property
    def x(self) -> Floats:
        """Encoded contexts, shape ``(n, d)``; the first column is the intercept."""

    @property
    def eligible(self) -> Bools:
        """Shape ``(n, K)``."""

    @property
    def action(self) -> Ints:
        """Index of the served arm, shape ``(n,)``."""

    @property
    def propensity(self) -> Floats:
        """Served probability of the action in (0, 1], NaN where none was logged, ``(n,)``."""

    @property
    def reward(self) -> Floats:
        """Shape ``(n,)``."""

    def __len__(self) -> int:
        """The number of rows, n."""


@dataclass(frozen=True, slots=True, eq=False)
class Imported:
    """Rows of another system's log; its propensity is NaN where that system logged none.

    No learner takes these: what it would learn from a row of unknown probability is unknown too.
    The direct method can evaluate on all rows, every other estimator on :meth:`weighable` ones.

    Attributes:
        arms: K names.
        x: encoded contexts, shape ``(n, d)``; the first column is the intercept.
        eligible: shape ``(n, K)``.
        action: index of the served arm, shape ``(n,)``.
        propensity: in (0, 1], or NaN, shape ``(n,)``.
        reward: shape ``(n,)``.
    """

    arms: tuple[str, ...]
    x: Floats
    eligible: Bools
    action: Ints
    propensity: Floats
    reward: Floats

    def __post_init__(self) -> None:
        """Refuse what no estimator can use, naming the first row."""
        n, k = len(self.action), len(self.arms)
        if self.x.ndim != 2 or len(self.x) != n or self.eligible.shape != (n, k):
            raise EstimateError(
                f"x {self.x.shape} and eligible {self.eligible.shape} do not fit {n} rows, {k} arms"
            )
        served = self.propensity
        checks = {
            "x": np.isfinite(self.x).all(axis=1),
            "action": (self.action >= 0) & (self.action < k),
            "propensity": np.isnan(served) | ((served > 0) & (served <= 1)),
            "reward": np.isfinite(self.reward),
        }
        for name, good in checks.items():
            if good.shape != (n,):
                raise EstimateError(f"{name} has shape {good.shape}, action has {n} rows")
            if not good.all():
                row = int(np.argmin(good))
                raise EstimateError(f"row {row}: {name}={getattr(self, name)[row]}: out of range")
        if n and not self.eligible[np.arange(n), self.action].all():
            raise EstimateError("an action is not among its eligible arms")

    def __len__(self) -> int:
        """How many rows."""
        return len(self.action)

    @property
    def weighable(self) -> Bools:
        """Which rows have a propensity, shape ``(n,)``."""
        return ~np.isnan(self.propensity)

    def rows(self, index: slice | Ints | Bools) -> "Imported":
        """The given rows."""
        return Imported(
            self.arms,
            self.x[index],
            self.eligible[index],
            self.action[index],
            self.propensity[index],
            self.reward[index],
        )
