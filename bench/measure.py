"""What a benchmark reports: a value beside its reference, measured in the same run.

A benchmark is one command, ``python -m bench.<name> [--quick] [--json]``: it prints a table, or
with ``--json`` a list of ``{measure, value, unit, reference, ratio, goal, holds}``. ``--curves
FILE`` keeps what there is to draw.
"""

import argparse
import gc
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter

from bench.curves import Curve, write

Work = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Measure:
    """One figure.

    ``reference`` says what ``value`` is divided by for ``ratio``, with its own value; ``holds``
    says whether ``goal`` is reached. What has no reference or no goal has None there.
    """

    measure: str
    value: float
    unit: str
    reference: str | None = None
    ratio: float | None = None
    goal: str | None = None
    holds: bool | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """All that a benchmark found."""

    measures: tuple[Measure, ...]
    curves: tuple[Curve, ...] = ()


Run = Callable[[bool], list[Measure]] | Callable[[bool], Report]


def report(found: Report | Sequence[Measure]) -> Report:
    """What a benchmark found, with curves or without."""
    return found if isinstance(found, Report) else Report(tuple(found))


def at_most(
    measure: str, value: float, unit: str, *, reference: tuple[str, float], limit: float
) -> Measure:
    """A value whose goal is to stay at or below ``limit``, with its reference's name and value."""
    name, base = reference
    return Measure(
        measure=measure,
        value=_rounded(value),
        unit=unit,
        reference=f"{name}: {_rounded(base):g} {unit}",
        ratio=_rounded(value / base),
        goal=f"<= {_rounded(limit):g} {unit}",
        holds=value <= limit,
    )


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def seconds_each(works: Sequence[Work], *, rounds: int, calls: int) -> list[float]:
    """Median seconds of one call of each work, taken in turns, so all meet the same machine."""
    found: list[list[float]] = [[] for _ in works]
    for work in works:
        work()
    gc.collect()
    for _ in range(rounds):
        for work, times in zip(works, found, strict=True):
            started = perf_counter()
            for _ in range(calls):
                work()
            times.append((perf_counter() - started) / calls)
    return [statistics.median(times) for times in found]


def main(run: Run, argv: Sequence[str] | None = None) -> int:
    """Run a benchmark from its command line; 1 when a goal is missed."""
    parser = argparse.ArgumentParser(description=sys.modules[run.__module__].__doc__)
    parser.add_argument("--quick", action="store_true", help="a few seconds, coarser figures")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--curves", type=Path, metavar="FILE", help="keep what is drawn as JSON")
    options = parser.parse_args(argv)
    found = report(run(options.quick))
    if options.curves is not None:
        write(found.curves, options.curves)
    print(as_json(found.measures) if options.json else as_table(found.measures))
    return 0 if all(one.holds is not False for one in found.measures) else 1


def as_json(measures: Sequence[Measure]) -> str:
    """A JSON list."""
    return json.dumps([asdict(one) for one in measures], indent=2, ensure_ascii=False)


def as_table(measures: Sequence[Measure]) -> str:
    """Lines for a person."""
    return "\n".join(_line(one) for one in measures)


def _line(one: Measure) -> str:
    parts = [f"{one.measure}: {one.value:g} {one.unit}"]
    if one.ratio is not None:
        parts.append(f"{one.ratio:g} × {one.reference}")
    if one.goal is not None:
        parts.append(f"goal {one.goal}: {'holds' if one.holds else 'MISSED'}")
    return "; ".join(parts)
