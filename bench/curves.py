"""What a benchmark draws: points of one router in one panel of one figure, as plain data.

A benchmark that has any returns a :class:`bench.measure.Report` instead of a list of measures, and
``python -m bench`` draws them (:mod:`bench.plots`). Three figures are known:

* ``gain``: a panel a table, one point a router: ``x = (0,)``, ``y`` its mean reward less that of
  the best fixed arm of hindsight, ``error`` the standard error of that difference.
* ``frontier``: a panel a table, ``x`` USD per 1,000 requests, ``y`` score, a point a setting of the
  router, by rising cost. A single arm is a curve of one point.
* ``recovery``: a panel a stream, ``x`` requests since its change, ``y`` mean reward there,
  ``error`` its standard error over seeds; ``marks``: requests at which it changes again.
"""

import json
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

FIGURES = ("gain", "frontier", "recovery")
MAX_POINTS = 500


@dataclass(frozen=True, slots=True)
class Curve:
    """One router's points.

    Attributes:
        figure: of :data:`FIGURES`.
        panel: the table or the stream.
        name: the router, named alike in all figures.
        x: n numbers.
        y: n numbers.
        error: n standard errors of ``y``, or none.
        marks: places on ``x`` to be marked in the panel.
        reference: whether it knows more than a router may (all outcomes), or is a single arm.
    """

    figure: str
    panel: str
    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    error: tuple[float, ...] = ()
    marks: tuple[float, ...] = ()
    reference: bool = False

    def __post_init__(self) -> None:
        """Refuse what can not be drawn."""
        where = f"{self.figure}, {self.panel}, {self.name}"
        if self.figure not in FIGURES:
            raise ValueError(f"{where}: no such figure: there are {', '.join(FIGURES)}")
        if not 1 <= len(self.x) == len(self.y) <= MAX_POINTS:
            raise ValueError(
                f"{where}: {len(self.x)} x, {len(self.y)} y: give as many, 1 to {MAX_POINTS}"
            )
        if self.error and len(self.error) != len(self.y):
            raise ValueError(f"{where}: {len(self.error)} errors for {len(self.y)} points")
        if not all(map(math.isfinite, (*self.x, *self.y, *self.error, *self.marks))):
            raise ValueError(f"{where}: a number is not finite: leave its point out")


def recovery(
    stream: str, router: str, runs: Sequence[Sequence[float]], step: float, *, known: bool = False
) -> Curve:
    """What a router earned after a stream's change, as the mean over its seeds.

    Args:
        stream: the panel.
        router: the name.
        runs: a seed each, all of one length: at the change, and after each ``step`` requests.
        step: requests between two values.
        known: whether the router knows more than it may.
    """
    seeds, n = len(runs), len(runs[0])
    mean = [statistics.fmean(values) for values in zip(*runs, strict=True)]
    error: tuple[float, ...] = ()
    if seeds > 1:
        spread = [statistics.stdev(values) for values in zip(*runs, strict=True)]
        error = tuple(each / seeds**0.5 for each in spread)
    x = tuple(step * i for i in range(n))
    return Curve("recovery", stream, router, x, tuple(mean), error, reference=known)


def write(curves: Iterable[Curve], path: Path) -> None:
    """Keep curves as JSON."""
    path.write_text(json.dumps([asdict(one) for one in curves]), encoding="utf-8")


def read(path: Path) -> list[Curve]:
    """The curves that :func:`write` kept."""
    return [_curve(row) for row in json.loads(path.read_text(encoding="utf-8"))]


def _curve(row: dict[str, Any]) -> Curve:
    lists = {key: tuple(value) for key, value in row.items() if isinstance(value, list)}
    return Curve(**{**row, **lists})
