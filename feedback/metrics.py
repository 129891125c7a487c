"""Metrics: what may be said of a decision, and how a value becomes a number."""

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean
from typing import Any, Literal, get_args

from feedback.errors import MetricError

MetricType = Literal["boolean", "float", "category", "comment"]
Level = Literal["decision", "episode"]
Aggregation = Literal["mean", "min", "max"]

OUTCOMES = (
    "latency_s",
    "ttft_s",
    "input_tokens",
    "output_tokens",
    "cost_usd",
    "energy_j",
    "error",
)
"""What the edge measures; a reward may name them, feedback may not."""

MAX_WAIT_S = 30 * 86_400.0
MAX_CATEGORIES = 64
MAX_COMMENT = 10_000
MAX_NAME = 128

_WORDS: Mapping[str, tuple[str, ...]] = {
    "type": get_args(MetricType),
    "level": get_args(Level),
    "optimize": ("max", "min"),
    "aggregation": get_args(Aggregation),
}
_AGGREGATE: Mapping[str, Callable[[Sequence[float]], float]] = {
    "mean": fmean,
    "min": min,
    "max": max,
}


@dataclass(frozen=True, slots=True)
class Metric:
    """A declared measurement.

    Attributes:
        range: lowest and highest value of a float.
        categories: for a category: each value's number, as a reward reads it.
        wait_s: how long after the decision a value is waited for.
        default: the number that stands for a value which never came; None: no reward then. A
            reward keeps the one of the day on which it was declared.
        aggregation: how the values of several sources become one.
    """

    name: str
    type: MetricType = "float"
    level: Level = "decision"
    optimize: Literal["max", "min"] = "max"
    unit: str = ""
    range: tuple[float, float] | None = None
    categories: Mapping[str, float] = field(default_factory=dict)
    wait_s: float = 600.0
    default: float | None = None
    aggregation: Aggregation = "mean"

    def __post_init__(self) -> None:
        """Refuse a declaration that no value could satisfy."""
        self._check_words()
        if not 0 <= self.wait_s <= MAX_WAIT_S:
            raise MetricError("wait_s", f"wait_s {self.wait_s}: give 0 to {MAX_WAIT_S:.0f} seconds")
        if self.type == "category":
            self._check_categories()
        if self.range is not None and not (
            self.range[0] < self.range[1] and all(map(math.isfinite, self.range))
        ):
            raise MetricError(
                "range", f"range {list(self.range)}: give two finite numbers, the lowest first"
            )
        if self.default is not None and not math.isfinite(self.default):
            raise MetricError("default", f"default {self.default}: give a finite number, or none")

    def _check_words(self) -> None:
        if not 1 <= len(self.name) <= MAX_NAME or not self.name.isprintable():
            raise MetricError(
                "name", f"name {self.name[:MAX_NAME]!r}: give 1 to {MAX_NAME} printable characters"
            )
        if self.name in OUTCOMES:
            raise MetricError(
                "name", f"metric {self.name!r} is measured by the edge: choose another name"
            )
        for field_name, allowed in _WORDS.items():
            given = getattr(self, field_name)
            if given not in allowed:
                raise MetricError(field_name, f"{field_name} {given!r}: give one of {allowed}")

    def _check_categories(self) -> None:
        if not 1 <= len(self.categories) <= MAX_CATEGORIES:
            raise MetricError(
                "categories",
                f"{len(self.categories)} categories: give 1 to {MAX_CATEGORIES}, "
                'each with its number, as {"good": 1, "bad": 0}',
            )
        for category, number in self.categories.items():
            if not math.isfinite(number):
                raise MetricError("categories", f"{category!r} is {number}: give a finite number")

    def number(self, value: Any) -> float | None:
        """The number that a reward reads; None for a comment.

        Raises:
            MetricError: The value has the wrong type or is out of range.
        """
        match self.type:
            case "boolean":
                return self._boolean(value)
            case "float":
                return self._float(value)
            case "category":
                return self._category(value)
            case _:
                self._comment(value)
                return None

    def worst(self, slope: float) -> float | None:
        """The value that is worst for a reward which changes by ``slope`` with it, if one is.

        None for a float without a range and for a comment.
        """
        match self.type:
            case "boolean":
                bounds: Sequence[float] = (0.0, 1.0)
            case "category":
                bounds = list(self.categories.values())
            case _:
                bounds = self.range or ()
        if not bounds:
            return None
        return float(min(bounds) if slope > 0 else max(bounds))

    def aggregate(self, values: Sequence[float]) -> float:
        """One number from those of several sources."""
        return float(_AGGREGATE[self.aggregation](values))

    def as_json(self) -> dict[str, Any]:
        """Plain form for a table or an API answer; the name is the key beside it."""
        found = asdict(self)
        del found["name"]
        found["range"] = list(self.range) if self.range else None
        return found

    @classmethod
    def from_json(cls, name: str, row: Mapping[str, Any]) -> "Metric":
        """The metric that :meth:`as_json` wrote."""
        fields = dict(row)
        if fields.get("range") is not None:
            low, high = fields["range"]
            fields["range"] = (float(low), float(high))
        return cls(name=name, **fields)

    def _boolean(self, value: Any) -> float:
        if isinstance(value, bool):
            return float(value)
        raise self._refused(value, "give true or false")

    def _float(self, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self._refused(value, "give a number")
        if not abs(value) <= sys.float_info.max:  # an integer may be too large for isfinite
            raise self._refused(value, "give a finite number")
        if self.range is not None and not self.range[0] <= value <= self.range[1]:
            raise self._refused(value, f"give a number from {self.range[0]:g} to {self.range[1]:g}")
        return float(value)

    def _category(self, value: Any) -> float:
        if isinstance(value, str) and value in self.categories:
            return float(self.categories[value])
        raise self._refused(value, f"give one of {sorted(self.categories)}")

    def _comment(self, value: Any) -> None:
        if not isinstance(value, str) or len(value) > MAX_COMMENT:
            raise self._refused(value, f"give a text of at most {MAX_COMMENT} characters")

    def _refused(self, value: Any, remedy: str) -> MetricError:
        shown = repr(value)[:80]
        return MetricError("value", f"value {shown} does not fit metric {self.name!r}: {remedy}")
