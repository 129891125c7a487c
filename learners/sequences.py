"""Confidence sequences: intervals for a mean that hold at every look at once, however often.

Each is a frozen state: ``update(values)`` gives the next one, ``bounds(level)`` the interval now,
``path(values, level)`` the interval after each of some more values (:class:`learners.looks.Looks`).
A state is stored with ``as_json`` and continued with :func:`resume`. One value is one independent
unit, in the order in which they came: add the rows of a session up first. A bound that has been
seen may be kept: the running intersection holds as well.

* :class:`Asymptotic`: the normal mixture of Robbins with the running variance (Waudby-Smith,
  Arbour, Sinha, Kennedy & Ramdas 2024, arXiv:2103.06476): the tightest, for any values of finite
  variance. Asymptotic means that it needs enough values to know the variance: hence a least number,
  and one row more than there is where a row's worst is known. Importance-weighted values need that:
  without it the truth was outside at some look for up to 9 of 10 logs, with it for 1 of 25.
  :func:`anytime` is the same for a log that is evaluated anew at each look.
* :class:`learners.betting.Betting`: no asymptotics; bounded values, or for a lower bound values
  that are bounded below only, as importance-weighted ones are.
* :class:`learners.betting.PluginBernstein`: no asymptotics; bounded values, in closed form.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from learners.betting import betting, plugin_bernstein
from learners.errors import EstimateError
from learners.intervals import clustered
from learners.looks import Looks, check, checked_level, ends, plain
from learners.records import Estimate

Floats = NDArray[np.float64]
Side = Literal["both", "low", "high"]
SIDES: tuple[Side, ...] = get_args(Side)

FEWEST = 100
"""Values below which an asymptotic sequence says nothing."""


def boundary(n: Floats, tuned: float, level: float, side: Side = "both") -> Floats:
    """How many standard errors the normal mixture goes out, after n values: shape as ``n``.

    Args:
        n: above 0; values, or any measure of the sum's variance in a fixed unit.
        tuned: ``n·ρ²`` for n = 1 of :func:`tuning`.
        level: of the sequence.
        side: one or both bounds.
    """
    grown = n * tuned
    alpha = 1.0 - level
    inside = np.sqrt(grown + 1.0) / (alpha if side == "both" else 2.0 * alpha)
    height = np.log(inside) if side == "both" else np.log1p(inside)
    return np.asarray(np.sqrt(2.0 * (grown + 1.0) / grown * height))


def tuning(n: float, level: float, side: Side = "both") -> float:
    """The mixture's variance ρ² with which the two-sided bound is tightest after n values.

    For one side the two-sided one of twice the error is taken, which is close to the best.
    """
    alpha = (1.0 - level) * (1.0 if side == "both" else 2.0)
    error = min(alpha, 0.999)
    grown = 1.0  # −W₋₁(−α²/e) of arXiv:2103.06476, appendix B, by its fixed point
    for _ in range(200):
        grown = 1.0 - 2.0 * math.log(error) + math.log(grown)
    return (grown - 1.0) / n


def evidence(z: float, n: float, tuned: float) -> float:
    """The e-value against a mean of 0 of an estimate ``z`` standard errors away, after n values.

    The two-sided sequence excludes 0 at level 1 − α where it reaches 1/α; ``min(1, 1/e)`` is a
    p-value at any stopping time.
    """
    grown = n * tuned
    power = min(z * z * grown / (2.0 * (grown + 1.0)) - math.log1p(grown) / 2.0, 700.0)
    return math.exp(power)


@dataclass(frozen=True, slots=True)
class Asymptotic:
    """Mean and variance of the values so far.

    Attributes:
        tuned_for: number of values at which the interval is to be tightest.
        side: one bound or both; one is tighter.
        level: for which it is tuned; ``bounds`` takes any.
        fewest: values below which the bounds are ``span``.
        worst: lowest and highest value that one row could have. Each bound is taken with one more
            row of that value: a dozen rows that happen to agree look certain without it.
            Infinite: without such a row.
        span: range of the mean, to which the bounds are cut.
    """

    tuned_for: float
    side: Side = "both"
    level: float = 0.95
    fewest: int = FEWEST
    worst: tuple[float, float] = (-math.inf, math.inf)
    span: tuple[float, float] = (-math.inf, math.inf)
    n: int = 0
    mean: float = 0.0
    squares: float = 0.0
    """Sum of squared deviations from the mean."""

    def __post_init__(self) -> None:
        """Refuse what gives no sequence."""
        if self.side not in SIDES:
            raise EstimateError(f"side {self.side!r} is none of {', '.join(SIDES)}")
        if not (math.isfinite(self.tuned_for) and self.tuned_for >= 1):
            raise EstimateError(f"tuned_for {self.tuned_for} must be finite and at least 1")
        checked_level(self.level)

    def update(self, values: Floats) -> "Asymptotic":
        """The state after these values too, shape ``(n,)``."""
        if not len(values):
            return self
        _, mean, squares = (column[-1] for column in self._course(values))
        return replace(
            self, n=self.n + len(values), mean=float(mean), squares=max(float(squares), 0.0)
        )

    def bounds(self, level: float = 0.95) -> tuple[float, float]:
        """Lower and upper bound now."""
        n, mean, squares = np.array([[self.n], [self.mean], [self.squares]])
        low, high = self._bounds(n, mean, squares, checked_level(level))
        return float(low[0]), float(high[0])

    def path(self, values: Floats, level: float = 0.95) -> tuple[Floats, Floats]:
        """Lower and upper bounds after each of these values, shape ``(n,)`` each."""
        return self._bounds(*self._course(values), checked_level(level))

    def estimate(self, level: float = 0.95) -> Estimate:
        """The mean with its bounds now."""
        low, high = self.bounds(level)
        error = math.sqrt(self.squares / self.n) / math.sqrt(self.n) if self.n else math.inf
        return Estimate("asymptotic", self.mean, low, high, error, self.n, float(self.n), level)

    def as_json(self) -> dict[str, Any]:
        """Plain numbers; None for infinite ones."""
        return plain("asymptotic", asdict(self))

    def _course(self, values: Floats) -> tuple[Floats, Floats, Floats]:
        """Number, mean and squares after each value."""
        check(values)
        origin = self.mean if self.n else float(values[0]) if len(values) else 0.0
        away = values - origin
        n = self.n + np.arange(1.0, len(values) + 1.0)
        shift = away.cumsum() / n
        return n, origin + shift, self.squares + np.square(away).cumsum() - n * shift * shift

    def _bounds(
        self, n: Floats, mean: Floats, squares: Floats, level: float
    ) -> tuple[Floats, Floats]:
        known, n = n >= max(self.fewest, 2), np.maximum(n, 1.0)
        far = boundary(n, tuning(self.tuned_for, self.level, self.side), level, self.side)
        found = []
        for sign, worst, end in zip((-1.0, 1.0), self.worst, self.span, strict=True):
            if self.side == ("high" if sign < 0 else "low"):
                found.append(np.full(len(n), end))
                continue
            rows, middle, around = n, mean, squares
            if math.isfinite(worst):
                rows, middle = n + 1.0, mean + (worst - mean) / (n + 1.0)
                around = squares + np.square(worst - mean) * n / (n + 1.0)
            error = np.sqrt(np.maximum(around, 0.0)) / rows
            bound = np.where(known, middle + sign * far * error, sign * math.inf)
            found.append(np.clip(bound, *self.span))
        return found[0], found[1]


def anytime(
    values: Floats,
    *,
    tuned_for: float,
    level: float = 0.95,
    clusters: NDArray[np.int64] | None = None,
    worst: tuple[float, float] = (-math.inf, math.inf),
    side: Side = "both",
    effective_n: float | None = None,
) -> Estimate:
    """The asymptotic sequence's interval of a whole log, computed anew at each look.

    For values that are not fixed once they came (a reward model that is fitted again, a session
    that goes on), and for clusters of several rows: the mixture's clock is then rows times the
    design effect, which grows with each row.

    Args:
        values: all so far, shape ``(n,)``.
        tuned_for: rows at which it is to be tightest: the same at each look.
        level: of all looks together.
        clusters: as in :mod:`learners.intervals`.
        worst: as of :class:`Asymptotic`.
        side: one bound or both.
        effective_n: what the estimate reports; by default the number of clusters.

    Raises:
        EstimateError: The level is outside (0, 1), or the values are unusable.
    """
    groups = clustered(values, clusters)
    g, error = len(groups.sums), groups.standard_error
    bounds = [-math.inf, math.inf]
    if g >= FEWEST:
        of_row = float(values.var()) / groups.rows
        clock = groups.rows * (error**2 / of_row if of_row > 0 else 1.0)
        tuned = tuning(tuned_for, checked_level(level), side)
        far = float(boundary(np.array([clock]), tuned, level, side)[0])
        for i, sign in enumerate((-1.0, 1.0)):
            with_worst = groups.and_one(worst[i]) if math.isfinite(worst[i]) else groups
            if side != ("high", "low")[i]:
                bounds[i] = with_worst.mean + sign * far * with_worst.standard_error
    n = float(g) if effective_n is None else effective_n
    return Estimate("anytime", groups.mean, bounds[0], bounds[1], error, groups.rows, n, level)


def resume(row: Mapping[str, Any]) -> Looks:
    """The state that any sequence's ``as_json`` wrote.

    Raises:
        EstimateError: It is of no kind that is known.
    """
    kind = row.get("kind")
    if kind == "asymptotic":
        return asymptotic(row)
    if kind == "betting":
        return betting(row)
    if kind == "plugin_bernstein":
        return plugin_bernstein(row)
    raise EstimateError(f"{kind!r} is no confidence sequence")


def asymptotic(row: Mapping[str, Any]) -> Asymptotic:
    """The state that :meth:`Asymptotic.as_json` wrote."""
    fields = {name: value for name, value in row.items() if name != "kind"}
    return Asymptotic(**(fields | {name: ends(row[name]) for name in ("worst", "span")}))
