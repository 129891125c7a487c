"""Decisions in a piece, and what comparing two windows of them gives."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """n decisions in the order in which they were made.

    Attributes:
        arms: K names.
        action: index of the served arm, shape ``(n,)``.
        distribution: served probabilities, 0 where not eligible, shape ``(n, K)``; rows of NaN
            where they are not known.
        reward: shape ``(n,)``; NaN where there is none.
        waited: whether the wait for feedback is over, shape ``(n,)``.
        answered: whether feedback came, shape ``(n,)``.
        delay_s: seconds from the decision to its first feedback, shape ``(n,)``; NaN without.
        context: numbers (NaN where absent), flags or texts ("" where absent) by feature, each
            ``(n,)``.
    """

    arms: tuple[str, ...]
    action: NDArray[np.int64]
    distribution: Floats
    reward: Floats
    waited: Bools
    answered: Bools
    delay_s: Floats
    context: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse columns of other lengths."""
        n, k = len(self.action), len(self.arms)
        shapes = {name: getattr(self, name).shape for name in _COLUMNS}
        shapes.update({name: column.shape for name, column in self.context.items()})
        bad = [name for name, shape in shapes.items() if shape != (n,)]
        if bad or self.distribution.shape != (n, k):
            raise ValueError(
                f"columns {bad or ['distribution']} do not fit {n} decisions of {k} arms"
            )

    def __len__(self) -> int:
        """How many decisions."""
        return len(self.action)

    def rows(self, index: slice | Bools) -> "Batch":
        """Some of them."""
        columns = {name: getattr(self, name)[index] for name in (*_COLUMNS, "distribution")}
        context = {name: column[index] for name, column in self.context.items()}
        return Batch(arms=self.arms, context=context, **columns)


_ROUNDING = 1e-9
_COLUMNS = ("action", "reward", "waited", "answered", "delay_s")


@dataclass(frozen=True, slots=True)
class Bounds:
    """How unlikely a difference has to be, and how large.

    Attributes:
        sigmas: standard deviations, two-sided; many comparisons at once share the chance.
        divergence: of distributions, below which a difference is none, however sure.
    """

    sigmas: float = 3.0
    divergence: float = 0.1

    @property
    def chance(self) -> float:
        """That one comparison of two windows that are alike is out of bounds."""
        return 2.0 * NormalDist().cdf(-self.sigmas)

    def shared(self, comparisons: int) -> float:
        """Standard deviations for one of several comparisons."""
        return -NormalDist().inv_cdf(self.chance / 2.0 / max(comparisons, 1))


@dataclass(frozen=True, slots=True)
class Reading:
    """One comparison; it is out of bounds where ``value`` exceeds ``bound``.

    ``side`` is the direction, so that two windows can be out on the same one; ``sure`` ones need no
    second window, as their bound holds at all looks together.
    """

    metric: str
    value: float
    bound: float
    side: int
    sentence: str
    sure: bool = False

    @property
    def out(self) -> bool:
        """Whether it is."""
        return self.value > self.bound


def moments(values: Floats, before: Sequence[float] | None = None) -> list[float]:
    """Number, sum and sum of squares, with those before."""
    n, total, squares = before or (0.0, 0.0, 0.0)
    return [n + len(values), total + float(values.sum()), squares + float(values @ values)]


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean from its sums."""

    n: float
    mean: float
    variance: float

    @classmethod
    def of(cls, told: Sequence[float]) -> "Mean":
        """From :func:`moments`."""
        n, total, squares = told
        mean = total / n if n else 0.0
        spread = max(squares / n - mean * mean, 0.0) if n else 0.0
        return cls(n, mean, spread * n / (n - 1.0) if n > 1 else 0.0)

    def z(self, other: "Mean") -> float:
        """Standard errors by which this mean is above the other's."""
        gap = self.mean - other.mean
        error = math.sqrt(self.variance / max(self.n, 1) + other.variance / max(other.n, 1))
        if abs(gap) <= _ROUNDING * max(abs(self.mean), abs(other.mean)):
            return 0.0  # rewards that are all alike have means that rounding tells apart
        return gap / error if error > 0 else math.copysign(math.inf, gap)


def shifted(metric: str, now: Mean, before: Mean, bound: float, what: str) -> Reading:
    """Whether a mean has moved."""
    z = min(max(now.z(before), -1e6), 1e6)  # two windows without any spread: still a number
    text = (
        f"{what} is {now.mean:.4g} in the last {now.n:,.0f} decisions and was {before.mean:.4g} in "
        f"{before.n:,.0f} before: {abs(z):.1f} standard errors "
        f"{'higher' if z >= 0 else 'lower'}, {bound:.1f} are borne"
    )
    return Reading(metric, abs(z), bound, 1 if z >= 0 else -1, text)
