"""What all confidence sequences share: see :mod:`learners.sequences`."""

import math
from collections.abc import Mapping
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from learners.errors import EstimateError

Floats = NDArray[np.float64]


class Looks(Protocol):
    """What every confidence sequence can do."""

    def update(self, values: Floats) -> Self:
        """The state after these values too, shape ``(n,)``, in their order."""

    def bounds(self, level: float = 0.95) -> tuple[float, float]:
        """Lower and upper bound now; infinite, or the mean's range, where nothing is known."""

    def path(self, values: Floats, level: float = 0.95) -> tuple[Floats, Floats]:
        """Lower and upper bounds after each of these values, shape ``(n,)`` each."""

    def as_json(self) -> dict[str, Any]:
        """Plain numbers."""


def plain(kind: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """A state as JSON takes it: with its kind, None for an infinite number."""
    return {"kind": kind} | {name: _finite(value) for name, value in row.items()}


def _finite(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and math.isinf(value) else value


def ends(pair: Any) -> tuple[float, float]:
    """A range that :func:`plain` wrote."""
    low, high = pair
    return (-math.inf if low is None else float(low), math.inf if high is None else float(high))


def check(values: Floats, span: tuple[float, float] = (-math.inf, math.inf)) -> None:
    """Refuse values that no sequence can take.

    Raises:
        EstimateError: Not one-dimensional, not finite, or outside the span.
    """
    if values.ndim != 1:
        raise EstimateError(f"values have shape {values.shape}: give (n,)")
    good = np.isfinite(values) & (values >= span[0]) & (values <= span[1])
    if not good.all():
        row = int(np.argmin(good))
        raise EstimateError(f"row {row}: {values[row]} is not finite, or leaves the span {span}")


def checked_level(level: float) -> float:
    """The level.

    Raises:
        EstimateError: It is outside (0, 1).
    """
    if not 0.0 < level < 1.0:
        raise EstimateError(f"level {level} is outside (0, 1)")
    return level
