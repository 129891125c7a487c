"""Charts as numbers for an SVG: drawn on the server, so that a page needs no script."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from controlplane.api.answers import RewardPoint

WIDTH, HEIGHT = 640.0, 180.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 52.0, 8.0, 16.0, 24.0
_LEAST_SPAN = 1e-9
_LABEL = 34.0
"""Room that a version's number takes."""

Change = tuple[datetime, int, int]


@dataclass(frozen=True, slots=True)
class Tick:
    """A labelled line across the chart."""

    at: float
    label: str


@dataclass(frozen=True, slots=True)
class Dot:
    """A point with what it stands for."""

    x: float
    y: float
    title: str


@dataclass(frozen=True, slots=True)
class Line:
    """Reward over time: the line, its points, and where another version became champion."""

    path: str
    dots: tuple[Dot, ...]
    ticks: tuple[Tick, ...]
    changes: tuple[Tick, ...]
    first: datetime
    last: datetime


@dataclass(frozen=True, slots=True)
class Span:
    """An interval around its value, and where zero lies; all in percent of the width."""

    low: float
    value: float
    high: float
    zero: float


def line(points: Sequence[RewardPoint], champions: Sequence[Change] = ()) -> Line | None:
    """The chart of the reward over time; None below two points.

    Args:
        points: in the order of time.
        champions: when another version became champion, which one, and which one before; what lies
            outside the points is left out.
    """
    if len(points) < 2:
        return None
    rewards = [point.reward for point in points]
    low, high = min(rewards), max(rewards)
    margin = max((high - low) * 0.1, abs(high) * 0.01, _LEAST_SPAN)
    low, high = low - margin, high + margin
    first, last = points[0].at, points[-1].at
    span_s = max((last - first).total_seconds(), _LEAST_SPAN)

    def x(at: datetime) -> float:
        share = (at - first).total_seconds() / span_s
        return round(_LEFT + share * (WIDTH - _LEFT - _RIGHT), 1)

    def y(reward: float) -> float:
        share = (high - reward) / (high - low)
        return round(_TOP + share * (HEIGHT - _TOP - _BOTTOM), 1)

    dots = tuple(
        Dot(
            x(point.at),
            y(point.reward),
            f"{point.at:%H:%M:%S}: reward {point.reward:.4f} over {point.n}",
        )
        for point in points
    )
    changes = _marks(
        [(x(at), version, before) for at, version, before in champions if first <= at <= last]
    )
    values = [low + (high - low) * share for share in (0.1, 0.5, 0.9)]
    ticks = tuple(Tick(y(value), f"{value:.3g}") for value in values)
    path = "M" + " L".join(f"{dot.x} {dot.y}" for dot in dots)
    return Line(path, dots, ticks, changes, first, last)


def _marks(changes: Sequence[tuple[float, int, int]]) -> tuple[Tick, ...]:
    """Marks with labels that do not overlap: of several in one place the newest has its own."""
    found, free = [], WIDTH + _LABEL
    for at, version, before in reversed(changes):
        label = f"v{version}" if version > before else f"back to v{version}"
        room = _LABEL if version > before else 2 * _LABEL
        found.append(Tick(at, label if at <= free - room else ""))
        free = at if found[-1].label else free
    return tuple(reversed(found))


def span(estimate: Mapping[str, Any] | None, others: Sequence[Mapping[str, Any]]) -> Span | None:
    """An estimate's interval on the scale that it shares with the others and with zero."""
    if estimate is None or estimate.get("low") is None or estimate.get("high") is None:
        return None
    ends = [0.0]
    for one in others:
        ends += [end for end in (one.get("low"), one.get("high")) if end is not None]
    low, high = min(ends), max(ends)
    width = max(high - low, _LEAST_SPAN)

    def percent(value: float) -> float:
        return round(2 + 96 * (value - low) / width, 2)

    return Span(
        percent(estimate["low"]), percent(estimate["value"]), percent(estimate["high"]),
        percent(0.0),
    )  # fmt: skip
