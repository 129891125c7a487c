"""Confidence sequences without asymptotics, for bounded values or values bounded below.

:class:`Betting`: for each possible mean one gambler bets before each value that it will be above
it, another that it will be below; if it is the mean, neither is expected to gain, so that a capital
of 1/α has a chance of at most α ever to be reached (Ville). The means at which it has not been
reached are the interval (hedged capital, Waudby-Smith & Ramdas 2024, arXiv:2010.09686, section 4).

Its lower bound needs no upper end of the values: a single value cannot ruin who bets that values
are high. So with ``span = (low, inf)`` it holds for importance-weighted values, whose largest
weight need not be known (Waudby-Smith, Wu, Ramdas, Karampatziakis & Mineiro 2022,
arXiv:2210.10768). For an upper bound of a policy's value, bound its losses from below:
``weight · (highest reward − reward)``. For a difference of two policies, ``low`` is minus the
other's largest weight times the highest reward.

:class:`PluginBernstein`: the empirical-Bernstein sequence with predictable plug-in bets (theorem 2
there): wider, but six numbers of state and no grid.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from learners.errors import EstimateError
from learners.looks import check, checked_level, ends, plain
from learners.records import Estimate

Floats = NDArray[np.float64]

POINTS = 501
MOST_POINTS = 10_001
MOST_BET = 0.5
"""Of what a gambler has, at the worst value there can be."""
_CELLS = 200_000
"""Log-capitals held at a time: as many as a core's cache takes."""


@dataclass(frozen=True, slots=True, eq=False)
class Betting:
    """The log-capital of two gamblers at each possible mean.

    Means are tried on a grid, and a bound is moved out to the next point of it. Made by
    :func:`start`.

    Attributes:
        span: lowest and highest value; an infinite highest one gives a lower bound only.
        means: range of the mean, over which the grid is laid; narrower than ``span`` where more
            is known (importance-weighted values in [0, 100] of rewards in [0, 1]).
        level: for which the bets are made; ``bounds`` takes any.
        rising: log-capital of who bets on values above each mean, shape ``(points,)``.
        falling: of who bets on values below, ``(points,)``; unused without a highest value.
        n, total, squares: of the values so far, as :class:`Before`, scaled.
    """

    span: tuple[float, float]
    means: tuple[float, float]
    level: float
    rising: Floats
    falling: Floats
    n: int = 0
    total: float = 0.0
    squares: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what gives no sequence."""
        (low, high), (bottom, top) = self.span, self.means
        if not (math.isfinite(low) and low <= bottom < top <= high and math.isfinite(top)):
            raise EstimateError(f"span {self.span}, means {self.means}: means are finite, within")
        if not 2 <= len(self.rising) <= MOST_POINTS:
            raise EstimateError(f"{len(self.rising)} points: give 2 to {MOST_POINTS}")
        checked_level(self.level)

    def update(self, values: Floats) -> "Betting":
        """The state after these values too, shape ``(n,)``."""
        state = self
        for part in self._parts(values):
            up, down = state._gains(part)
            rising = state.rising + up.sum(axis=0)
            falling = None if down is None else state.falling + down.sum(axis=0)
            state = state._after(part, rising, falling)
        return state

    def bounds(self, level: float = 0.95) -> tuple[float, float]:
        """Lower and upper bound now; the means' range where nothing is known."""
        falling = self.falling[None] if self._two_sided else None
        low, high = self._bounds(self.rising[None], falling, checked_level(level))
        return float(low[0]), float(high[0])

    def path(self, values: Floats, level: float = 0.95) -> tuple[Floats, Floats]:
        """Lower and upper bounds after each of these values, shape ``(n,)`` each."""
        state, found = self, [(np.empty(0), np.empty(0))]
        for part in self._parts(values):
            up, down = state._gains(part)
            rising = _courses(state.rising, up)
            falling = None if down is None else _courses(state.falling, down)
            found.append(self._bounds(rising, falling, checked_level(level)))
            state = state._after(part, rising[-1], None if falling is None else falling[-1])
        return np.concatenate([low for low, _ in found]), np.concatenate([up for _, up in found])

    def estimate(self, level: float = 0.95) -> Estimate:
        """The mean with its bounds now; ``standard_error`` is only of the values' spread."""
        low, high = self.bounds(level)
        width = self._width
        mean = self.span[0] + width * self.total / self.n if self.n else math.nan
        error = width * math.sqrt(self.squares) / self.n if self.n else math.inf
        return Estimate("betting", mean, low, high, error, self.n, float(self.n), level)

    def as_json(self) -> dict[str, Any]:
        """Plain numbers."""
        return plain(
            "betting",
            {
                "span": self.span,
                "means": self.means,
                "level": self.level,
                "rising": self.rising.tolist(),
                "falling": self.falling.tolist() if self._two_sided else None,
                "n": self.n,
                "total": self.total,
                "squares": self.squares,
            },
        )

    @property
    def _two_sided(self) -> bool:
        return math.isfinite(self.span[1])

    @property
    def _width(self) -> float:
        """What counts as 1: the span, or the means' distance from its low end."""
        top = self.span[1] if math.isfinite(self.span[1]) else self.means[1]
        return top - self.span[0]

    @property
    def _grid(self) -> Floats:
        return np.linspace(*self.means, len(self.rising))

    def _parts(self, values: Floats) -> Iterator[Floats]:
        check(values, self.span)
        step = max(1, _CELLS // len(self.rising))
        return (values[start : start + step] for start in range(0, len(values), step))

    def _gains(self, values: Floats) -> tuple[Floats, Floats | None]:
        """Each value's gain in log-capital at each mean, shape ``(n, points)``."""
        x, m = (values - self.span[0]) / self._width, (self._grid - self.span[0]) / self._width
        odds = (2.0 if self._two_sided else 1.0) / (1.0 - self.level)
        bet = bets(x, Before(self.n, self.total, self.squares), odds).bet[:, None]
        surprise = x[:, None] - m
        with np.errstate(divide="ignore"):
            up, down = np.minimum(bet, MOST_BET / m), np.minimum(bet, MOST_BET / (1.0 - m))
        up *= surprise
        np.log1p(up, out=up)
        if not self._two_sided:
            return up, None
        down *= -surprise
        return up, np.log1p(down, out=down)

    def _after(self, values: Floats, rising: Floats, falling: Floats | None) -> "Betting":
        x = (values - self.span[0]) / self._width
        plan = bets(x, Before(self.n, self.total, self.squares), 2.0)
        return replace(
            self,
            rising=rising.copy(),
            falling=self.falling if falling is None else falling.copy(),
            n=self.n + len(values),
            total=float(plan.total[-1]),
            squares=float(plan.squares[-1]),
        )

    def _bounds(
        self, rising: Floats, falling: Floats | None, level: float
    ) -> tuple[Floats, Floats]:
        """From log-capitals ``(n, points)``; of two gamblers each has half of the stake.

        The capital of who bets on high values falls as the mean rises, so the goal is reached at
        the lowest means; the bound is the highest of those.
        """
        grid, k = self._grid, rising.shape[1]
        goal = -math.log(1.0 - level) + (0.0 if falling is None else math.log(2.0))
        lows = grid[np.maximum((rising >= goal).sum(axis=1) - 1, 0)]
        if falling is None:
            return lows, np.full(len(lows), self.means[1])
        first = np.minimum(k - (falling >= goal).sum(axis=1), k - 1)
        return lows, grid[first]


def _courses(before: Floats, gains: Floats) -> Floats:
    """Log-capitals after each value ``(n, points)``, in place of the gains."""
    gains[0] += before
    for row in range(1, len(gains)):  # numpy's cumsum over rows takes twice as long
        gains[row] += gains[row - 1]
    return gains


def start(
    span: tuple[float, float] = (0.0, 1.0),
    *,
    means: tuple[float, float] | None = None,
    level: float = 0.95,
    points: int = POINTS,
) -> Betting:
    """Nothing seen yet.

    Args:
        span: lowest and highest value; an infinite highest one gives a lower bound only.
        means: range of the mean, cut to the span; by default the span.
        level: of the sequence.
        points: of the grid over ``means``: the bounds are as coarse.

    Raises:
        EstimateError: Ranges, level or points make no sequence.
    """
    bottom, top = means or span
    within = (max(bottom, span[0]), min(top, span[1]))
    return Betting(span, within, level, np.zeros(points), np.zeros(points))


@dataclass(frozen=True, slots=True)
class PluginBernstein:
    """The empirical-Bernstein sequence with predictable plug-in bets.

    Attributes:
        span: lowest and highest value; values outside are refused.
        level: for which the bets are made; ``bounds`` takes any.
        n, total, squares: of the values so far, scaled to [0, 1].
        bets, won, spent: the sums of λ, λ·x and of v·ψ(λ) in theorem 2.
    """

    span: tuple[float, float]
    level: float = 0.95
    n: int = 0
    total: float = 0.0
    squares: float = 0.0
    bets: float = 0.0
    won: float = 0.0
    spent: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what gives no sequence."""
        low, high = self.span
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise EstimateError(f"span {self.span}: give two finite numbers, the lower first")
        checked_level(self.level)

    def update(self, values: Floats) -> "PluginBernstein":
        """The state after these values too, shape ``(n,)``."""
        if not len(values):
            return self
        total, squares, bets, won, spent = (float(each[-1]) for each in self._course(values))
        return replace(
            self,
            n=self.n + len(values),
            total=total,
            squares=squares,
            bets=bets,
            won=won,
            spent=spent,
        )

    def bounds(self, level: float = 0.95) -> tuple[float, float]:
        """Lower and upper bound now; the span before the first value."""
        bets_, won, spent = np.array([[self.bets], [self.won], [self.spent]])
        low, high = self._bounds(bets_, won, spent, checked_level(level))
        return float(low[0]), float(high[0])

    def path(self, values: Floats, level: float = 0.95) -> tuple[Floats, Floats]:
        """Lower and upper bounds after each of these values, shape ``(n,)`` each."""
        _, _, bets, won, spent = self._course(values)
        return self._bounds(bets, won, spent, checked_level(level))

    def as_json(self) -> dict[str, Any]:
        """Plain numbers."""
        return plain("plugin_bernstein", asdict(self))

    def _course(self, values: Floats) -> tuple[Floats, Floats, Floats, Floats, Floats]:
        check(values, self.span)
        x = (values - self.span[0]) / (self.span[1] - self.span[0])
        plan = bets(x, Before(self.n, self.total, self.squares), 2.0 / (1.0 - self.level))
        away = np.square(x - plan.expected)
        won = self.won + (plan.bet * x).cumsum()
        spent = self.spent + (away * (-np.log1p(-plan.bet) - plan.bet)).cumsum()
        return plan.total, plan.squares, self.bets + plan.bet.cumsum(), won, spent

    def _bounds(
        self, bets_: Floats, won: Floats, spent: Floats, level: float
    ) -> tuple[Floats, Floats]:
        low, high = self.span
        with np.errstate(divide="ignore", invalid="ignore"):
            middle, half = won / bets_, (math.log(2.0 / (1.0 - level)) + spent) / bets_
        lowest = np.nan_to_num(np.clip(middle - half, 0.0, 1.0), nan=0.0)
        highest = np.nan_to_num(np.clip(middle + half, 0.0, 1.0), nan=1.0)
        return low + (high - low) * lowest, low + (high - low) * highest


@dataclass(frozen=True, slots=True)
class Before:
    """Of the values before: number, sum, and squared distances from what was expected."""

    n: int
    total: float
    squares: float


@dataclass(frozen=True, slots=True, eq=False)
class Bets:
    """Before each value: the expected one and the bet; after each: sum and squares, ``(n,)``."""

    expected: Floats
    bet: Floats
    total: Floats
    squares: Floats


def bets(x: Floats, before: Before, odds: float) -> Bets:
    """Predictable plug-in bets (arXiv:2010.09686, section 3): each from the values before it only.

    Args:
        x: shape ``(n,)``, in [0, 1] (or above, where only their lower bound is known).
        before: what came before them.
        odds: 2/α for two bounds, 1/α for one.
    """
    seen = before.n + np.arange(1.0, len(x) + 1.0)
    total = before.total + x.cumsum()
    after = (0.5 + total) / (seen + 1.0)
    squares = before.squares + np.square(x - after).cumsum()
    first = (0.5 + before.total) / (before.n + 1.0)
    expected = np.concatenate([[first], after[:-1]])[: len(x)]
    earlier = np.concatenate([[before.squares], squares[:-1]])[: len(x)]
    variance = (0.25 + earlier) / seen
    bet = np.sqrt(2.0 * math.log(odds) / (variance * seen * np.log1p(seen)))
    return Bets(expected, np.minimum(bet, MOST_BET), total, squares)


def plugin_bernstein(row: Mapping[str, Any]) -> PluginBernstein:
    """The state that :meth:`PluginBernstein.as_json` wrote."""
    fields = {name: value for name, value in row.items() if name != "kind"}
    return PluginBernstein(**(fields | {"span": ends(row["span"])}))


def betting(row: Mapping[str, Any]) -> Betting:
    """The state that :meth:`Betting.as_json` wrote."""
    rising = np.array(row["rising"], dtype=np.float64)
    falling = np.zeros(len(rising)) if row["falling"] is None else np.array(row["falling"])
    return Betting(
        ends(row["span"]),
        ends(row["means"]),
        row["level"],
        rising,
        falling,
        row["n"],
        row["total"],
        row["squares"],
    )
