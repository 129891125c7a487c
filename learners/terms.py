"""What a reward is made of: terms that are added up, and gates that come before them."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from learners.errors import RewardError

ERROR = "error"
"""The outcome that says whether the arm failed: 1, or 0."""

Normaliser = Literal["none", "minmax", "log1p", "std"]


@dataclass(frozen=True, slots=True)
class Statistic:
    """How a metric was spread over ``n`` values of a log, after its term's caps and ``log1p``."""

    n: int
    mean: float
    std: float

    def __post_init__(self) -> None:
        """Refuse a spread that nothing can be divided by."""
        if not (math.isfinite(self.mean) and math.isfinite(self.std) and self.std > 0):
            raise RewardError(
                f"n={self.n}, mean={self.mean}, std={self.std}: give values that are finite and "
                "not all alike"
            )


@dataclass(frozen=True, slots=True)
class Term:
    """``weight · normalised(metric) / scale``; ``default`` stands in for a value that never came.

    Without a default a missing value leaves the decision unrewarded: it teaches nothing. A decision
    whose arm failed (``error`` is 1) has no answer that anyone could grade: there ``on_error``
    stands in, or else an arm that always fails would cost nothing.

    Attributes:
        cap_low: lowest value, in the metric's own unit; what is below counts as this.
        cap_high: highest value, as ``cap_low``.
        normaliser: ``minmax``: from ``range`` to 0..1, not cut (the caps do that);
            ``log1p``: sign(v) · log(1 + abs(v)); ``std``: in standard deviations, not centred.
        range: for ``minmax``: the values that become 0 and 1.
        align: another term of the reward. In place of a fixed scale this one's standard deviation
            over that one's: the two spread alike before their weights, so that a weight means the
            same whatever the unit is (BudgetMem's alignment of a cost with the task's reward).
    """

    metric: str
    weight: float = 1.0
    scale: float = 1.0
    default: float | None = None
    on_error: float | None = None
    cap_low: float | None = None
    cap_high: float | None = None
    normaliser: Normaliser = "none"
    range: tuple[float, float] | None = None
    align: str | None = None

    def __post_init__(self) -> None:
        """Refuse numbers that are not finite, a scale of 0, and what contradicts itself."""
        names = ("weight", "scale", "default", "on_error", "cap_low", "cap_high")
        _check_finite(f"term {self.metric!r}", {name: getattr(self, name) for name in names})
        if self.scale == 0:
            raise self._refused("scale is 0: give the metric's typical size")
        if self.cap_low is not None and self.cap_high is not None and self.cap_low > self.cap_high:
            raise self._refused(f"cap_low {self.cap_low} is above cap_high {self.cap_high}")
        if self.normaliser not in get_args(Normaliser):
            known = ", ".join(get_args(Normaliser))
            raise self._refused(f"normaliser {self.normaliser!r}: give one of {known}")
        if (self.normaliser == "minmax") != (self.range is not None):
            raise self._refused("range and the normaliser minmax go together: give both or neither")
        if self.range is not None and not (
            all(map(math.isfinite, self.range)) and self.range[0] < self.range[1]
        ):
            raise self._refused(f"range {list(self.range)}: give two finite numbers, lowest first")
        if self.align is not None and self.scale != 1:
            raise self._refused(f"scale {self.scale} beside align: give one of them")

    def value(self, values: Mapping[str, float]) -> float | None:
        """The metric's value among these, or what stands in for it."""
        return _value(self, values)

    def shaped(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Values within the caps, and their logarithm where that is asked for."""
        if self.cap_low is not None:
            values = np.maximum(values, self.cap_low)
        if self.cap_high is not None:
            values = np.minimum(values, self.cap_high)
        if self.normaliser == "log1p":
            values = np.sign(values) * np.log1p(np.abs(values))
        return values

    @property
    def zero(self) -> float:
        """The shaped value that counts as 0."""
        return 0.0 if self.range is None else self.range[0]

    def span(self, statistics: Mapping[str, Statistic]) -> float:
        """What the normaliser divides by."""
        if self.range is not None:
            return self.range[1] - self.range[0]
        return statistic(statistics, self.metric).std if self.normaliser == "std" else 1.0

    def as_json(self) -> dict[str, Any]:
        """Plain form. What came later than the first five fields stands there only if given."""
        row = asdict(self)
        for field in fields(self)[5:]:
            if row[field.name] == field.default:
                del row[field.name]
        return {name: list(v) if isinstance(v, tuple) else v for name, v in row.items()}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> "Term":
        """The term that :meth:`as_json` wrote."""
        given = dict(row)
        if given.get("range") is not None:
            low, high = given["range"]
            given["range"] = (float(low), float(high))
        return cls(**given)

    def _refused(self, why: str) -> RewardError:
        return RewardError(f"term {self.metric!r}: {why}")


@dataclass(frozen=True, slots=True)
class RewardGate:
    """Below ``at_least`` the reward is ``reward``, and nothing else counts.

    So an answer in the wrong format earns the same whatever it cost and whoever liked it
    (Router-R1, the hierarchy of its reward). ``default`` and ``on_error`` are as a term's.
    """

    metric: str
    at_least: float
    reward: float
    default: float | None = None
    on_error: float | None = None

    def __post_init__(self) -> None:
        """Refuse numbers that are not finite."""
        names = [field.name for field in fields(self) if field.name != "metric"]
        _check_finite(f"gate {self.metric!r}", {name: getattr(self, name) for name in names})

    def value(self, values: Mapping[str, float]) -> float | None:
        """The metric's value among these, or what stands in for it."""
        return _value(self, values)

    def as_json(self) -> dict[str, Any]:
        """Plain form."""
        return asdict(self)


def statistic(statistics: Mapping[str, Statistic], metric: str) -> Statistic:
    """The metric's spread.

    Raises:
        RewardError: It was not measured.
    """
    if metric not in statistics:
        raise RewardError(f"the spread of {metric!r} is not known yet: align the reward to a log")
    return statistics[metric]


def _value(of: Term | RewardGate, values: Mapping[str, float]) -> float | None:
    if of.metric in values:
        return values[of.metric]
    if values.get(ERROR, 0.0) >= 1.0 and of.on_error is not None:
        return of.on_error
    return of.default


def _check_finite(of: str, numbers: Mapping[str, float | None]) -> None:
    for name, number in numbers.items():
        if number is not None and not math.isfinite(number):
            raise RewardError(f"{of}: {name} is {number}: give a finite number")
