"""A new version beside the champion on the decisions of a stage, number by number. Pure.

Every interval holds at all looks together, so a stage may be looked at each second: the normal
mixture for means, with units as clusters (:mod:`learners.contrasts`), the beta mixture for rates
and quantiles (:mod:`learners.rates`), bets for failures that surge (:mod:`learners.surges`).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from controlplane.release_config import Guardrail, HarmConfig
from learners import surges
from learners.contrasts import difference, sums
from learners.ope.evaluations import kish
from learners.rates import quantile_bounds, rate_bounds, worth
from learners.sequences import anytime

Floats = NDArray[np.float64]
Better = Literal["low", "high"]

ERROR = "error"
_P95 = 0.95
_OF_BEFORE = 0.1
"""Of the error, for the champion's rate of failures where it is of the time before."""


@dataclass(frozen=True, slots=True, eq=False)
class Side:
    """n decisions of one side.

    Attributes:
        unit: whose each is, any integers, shape ``(n,)``.
        at: when it was made, in seconds, the newest first, ``(n,)``.
        pending: young and without an outcome yet, ``(n,)``; retries never.
        values: by metric, NaN where it is not known, ``(n,)`` each; of failures also for a retry:
            what is asked is whether the version's own first choice fails a request.
        reward: NaN where there is none yet, ``(n,)``.
        segment: ``(n,)``, empty where there is none.
    """

    unit: NDArray[np.int64]
    at: Floats
    pending: NDArray[np.bool_]
    values: Mapping[str, Floats]
    reward: Floats
    segment: Sequence[str]

    def __len__(self) -> int:
        """Decisions."""
        return len(self.unit)

    @property
    def rewarded(self) -> int:
        """Decisions with a reward."""
        return int(np.isfinite(self.reward).sum())


@dataclass(frozen=True, slots=True)
class Excess:
    """How much more a figure of the new version is than the champion's and the margin allow.

    Above 0 is worse than allowed. ``canary`` and ``control`` are the figures themselves, ``rows``
    and ``control_rows`` how many they are of. Infinite bounds: nothing is known yet.
    """

    name: str
    canary: float
    control: float
    value: float
    low: float
    high: float
    rows: int
    control_rows: int
    level: float

    def as_json(self) -> dict[str, Any]:
        """Plain numbers; None for those that are not finite."""
        return _plain(asdict(self))


def excess(
    guardrail: Guardrail,
    canary: Side,
    control: Side,
    *,
    better: Better,
    level: float,
    planned_rows: float,
) -> Excess:
    """A guardrail's figure on both sides.

    Args:
        guardrail: says which, and what is allowed.
        canary: the new version's decisions.
        control: the champion's.
        better: which direction of the metric is.
        level: of the interval, all looks together.
        planned_rows: of both sides, at which a mean's interval is to be tightest.
    """
    if guardrail.kind == "rate":
        return _rates(guardrail, canary, control, better, level)
    sign = 1.0 if better == "low" else -1.0
    factor = 1.0 + sign * guardrail.margin if guardrail.relative else 1.0
    margin = 0.0 if guardrail.relative else guardrail.margin
    sides = [_known(side, guardrail.metric) for side in (canary, control)]
    (own, own_units), (other, other_units) = sides
    if not len(own) or not len(other):
        return _unknown(guardrail.name, len(own), len(other), level)
    if guardrail.kind == "p95":
        figures = [float(np.quantile(sign * values, _P95)) * sign for values, _ in sides]
        own_low, own_high = quantile_bounds(sign * own, _P95, _half(level), units=own_units)
        low, high = quantile_bounds(sign * factor * other, _P95, _half(level), units=other_units)
        bounds = (own_low - high, own_high - low)
        beyond = sign * (figures[0] - factor * figures[1])
    else:
        figures = [float(values.mean()) for values, _ in sides]
        gap = difference(
            sums(sign * factor * other, other_units), sums(sign * own, own_units)
        ).interval(planned_rows=planned_rows, level=level)
        bounds, beyond = (gap.low, gap.high), gap.value
    return Excess(
        guardrail.name,
        figures[0],
        figures[1],
        beyond - margin,
        bounds[0] - margin,
        bounds[1] - margin,
        len(own),
        len(other),
        level,
    )


def gain(
    canary: Side, control: Side, *, level: float, planned_rows: float, name: str = "reward"
) -> Excess:
    """The reward that the new version loses against the champion: above 0 it is worse."""
    (own, own_units), (other, other_units) = (_rewarded(side) for side in (canary, control))
    if not len(own) or not len(other):
        return _unknown(name, len(own), len(other), level)
    gap = difference(sums(own, own_units), sums(other, other_units)).interval(
        planned_rows=planned_rows, level=level
    )
    return Excess(
        name,
        float(own.mean()),
        float(other.mean()),
        gap.value,
        gap.low,
        gap.high,
        len(own),
        len(other),
        level,
    )


def segments(
    canary: Side, control: Side, harm: HarmConfig, *, level: float, planned_rows: float
) -> tuple[Excess, ...]:
    """The same in each of the largest segments that both sides know well enough."""
    sides = [_of_segments(side) for side in (canary, control)]
    common = [
        (len(rows), name)
        for name, rows in sides[0].items()
        if name and min(len(rows), len(sides[1].get(name, ()))) >= harm.min_rows
    ]
    found = []
    for _, name in sorted(common, reverse=True)[: harm.segments]:
        own, other = (
            _part(side, rows[name]) for side, rows in zip((canary, control), sides, strict=True)
        )
        found.append(gain(own, other, level=level, planned_rows=planned_rows, name=name))
    return tuple(found)


SAMPLES = 4
"""Samples of the control that a stage may be compared with, as it grows: 16, 8, 4 and 2 units for
one. Each is other evidence and has its part of the level (a union bound)."""


@dataclass(frozen=True, slots=True)
class Sudden:
    """Whether the new version's failures surge beyond what the champion's and the margin allow.

    Attributes:
        evidence: logarithm; at ``needed`` the surge is sure at ``level``, all looks together.
        needed: for an alarm.
        canary: rate of failures since the likeliest beginning; NaN without a decision.
        control: the champion's beside it; NaN without a decision.
        rows: the new version's decisions since then.
        control_rows: the champion's beside them.
        level: of the evidence.
    """

    evidence: float
    needed: float
    canary: float
    control: float
    rows: int
    control_rows: int
    level: float

    @property
    def sure(self) -> bool:
        """Whether it is an alarm."""
        return self.evidence >= self.needed

    def as_json(self) -> dict[str, Any]:
        """Plain numbers; None for those that are not finite."""
        return _plain(asdict(self))


def lately(
    guardrail: Guardrail, canary: Side, control: Side, *, level: float, ratio: float | None
) -> Sudden:
    """Failures that surge at some time, also after a day that hides them in the mean.

    A failure is known at once and a success only when the answer is complete, so the new version's
    pending decisions count as successes, and the champion's as none.

    Args:
        guardrail: says how many more failures are allowed.
        canary: the new version's decisions.
        control: the champion's.
        level: of all looks at all times together.
        ratio: decisions of the champion at the same time for one of the new version's; None: its
            decisions are of the time before.
    """
    factor, margin = (
        (1.0 + guardrail.margin, 0.0) if guardrail.relative else (1.0, guardrail.margin)
    )
    alpha, allowed = 1.0 - level, surges.Allowed(margin, factor)
    own, other = _trail(canary, pending=True), _trail(control, pending=False)
    if ratio is not None:
        found = surges.beside(own, other, allowed, ratio=ratio)
        rate, beside, needed = found.other_rate, found.other_rows, math.log(SAMPLES / alpha)
    else:
        n, hits = len(other.hit), float(other.hit.sum())
        sure = 1.0 - _OF_BEFORE * alpha
        bound = rate_bounds(other.worth * hits, other.worth * n, sure)[1]
        found = surges.above(own, bound, allowed)
        rate, beside = (hits / n if n else math.nan), n
        needed = -math.log((1.0 - _OF_BEFORE) * alpha)
    return Sudden(found.log_e, needed, found.rate, rate, found.rows, beside, level)


def _trail(side: Side, *, pending: bool) -> surges.Trail:
    """A side's failures in the order of time; those pending as none, or left out."""
    failed = side.values[ERROR]
    known = np.isfinite(failed)
    kept = known | side.pending if pending else known
    hit, part = failed[kept] > 0, worth(failed[known] > 0, side.unit[known])
    order = np.argsort(side.at[kept], kind="stable")
    return surges.Trail(hit[order], side.at[kept][order], part)


@dataclass(frozen=True, slots=True, eq=False)
class Shadowed:
    """n decisions of the champion that a shadow watched.

    Attributes:
        unit: whose each is, any integers, ``(n,)``.
        agreed: whether it would have chosen the same, ``(n,)``.
        weight: its probability of the served arm over the served one, ``(n,)``.
        reward: NaN where there is none yet, ``(n,)``.
        cost: NaN where it is not known, ``(n,)``.
        silent: further decisions of which it said nothing.
    """

    unit: NDArray[np.int64]
    agreed: NDArray[np.bool_]
    weight: Floats
    reward: Floats
    cost: Floats
    silent: int


@dataclass(frozen=True, slots=True)
class Watched:
    """What a shadow's decisions say, by importance weighting: shadow − champion.

    ``loss`` is of the reward, as :func:`gain`; ``cost`` is how much more it would cost.
    """

    decisions: int
    silent: int
    agreement: float
    effective_n: float
    loss: Excess
    cost: Excess

    def as_json(self) -> dict[str, Any]:
        """Plain numbers for a verdict."""
        return {
            "decisions": self.decisions,
            "silent": self.silent,
            "agreement": self.agreement if self.decisions else None,
            "effective_n": self.effective_n,
            "reward": self.loss.as_json(),
            "cost_usd": self.cost.as_json(),
        }


def watched(rows: Shadowed, *, level: float, planned_rows: float) -> Watched:
    """Agreement, and what would have changed, with intervals that hold at every look.

    Each row counts ``(weight − 1) · (value − mean)``: the mean takes out variance and no more, as
    the weights' own mean is 1 (a control variate). A unit's rows are added up.
    """
    n = len(rows.agreed)
    agreement = float(rows.agreed.mean()) if n else math.nan
    return Watched(
        n,
        rows.silent,
        agreement,
        kish(rows.weight, rows.unit),
        _reweighed("reward", rows, -rows.reward, level, planned_rows),
        _reweighed("cost_usd", rows, rows.cost, level, planned_rows),
    )


def _reweighed(
    name: str, rows: Shadowed, values: Floats, level: float, planned_rows: float
) -> Excess:
    known = np.isfinite(values)
    v, shift = values[known], rows.weight[known] - 1.0
    if not len(v):
        return _unknown(name, 0, 0, level)
    mean = float(v.mean())
    gaps = shift * (v - mean)
    worst = float(np.abs(gaps).max())
    found = anytime(
        gaps,
        tuned_for=planned_rows,
        level=level,
        clusters=rows.unit[known],
        worst=(-worst, worst),
    )
    sign = -1.0 if name == "reward" else 1.0
    return Excess(
        name,
        sign * (mean + found.value),
        sign * mean,
        found.value,
        found.low,
        found.high,
        len(v),
        len(v),
        level,
    )


def _rates(
    guardrail: Guardrail, canary: Side, control: Side, better: Better, level: float
) -> Excess:
    """By counts. A failure is known at once and a success only when the answer is complete.

    So for the lower bound, which sends a version back, its pending decisions count as successes.
    """
    factor = 1.0 + guardrail.margin if guardrail.relative else 1.0
    margin = 0.0 if guardrail.relative else guardrail.margin
    figures, bounds, counts = [], [], []
    for side in (canary, control):
        values, units = _known(side, guardrail.metric)
        hit = (values != 0) if better == "low" else (values == 0)
        part, hits = worth(hit, units), float(hit.sum())
        pending = int(side.pending.sum()) if guardrail.metric == ERROR else 0
        counts.append(len(hit))
        figures.append(hits / len(hit) if len(hit) else math.nan)
        high = rate_bounds(part * hits, part * len(hit), _half(level))[1]
        low = rate_bounds(part * hits, part * (len(hit) + pending), _half(level))[0]
        bounds.append((low, high))
    (own_low, own_high), (low, high) = bounds
    return Excess(
        guardrail.name,
        figures[0],
        figures[1],
        figures[0] - factor * figures[1] - margin,
        own_low - factor * high - margin if all(counts) else -math.inf,
        own_high - factor * low - margin if all(counts) else math.inf,
        counts[0],
        counts[1],
        level,
    )


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in values.items()
    }


def _half(level: float) -> float:
    """Of each of two bounds that are to hold together."""
    return 1.0 - (1.0 - level) / 2


def _known(side: Side, metric: str) -> tuple[Floats, NDArray[np.int64]]:
    values = side.values[metric]
    known = np.isfinite(values)
    return values[known], side.unit[known]


def _rewarded(side: Side) -> tuple[Floats, NDArray[np.int64]]:
    known = np.isfinite(side.reward)
    return side.reward[known], side.unit[known]


def _of_segments(side: Side) -> dict[str, list[int]]:
    """The rewarded rows of each segment."""
    found: dict[str, list[int]] = {}
    known = np.isfinite(side.reward).tolist()
    for row, (name, rewarded) in enumerate(zip(side.segment, known, strict=True)):
        if rewarded:
            found.setdefault(name, []).append(row)
    return found


def _part(side: Side, rows: list[int]) -> Side:
    at = np.array(rows, dtype=np.int64)
    values = {name: column[at] for name, column in side.values.items()}
    return Side(side.unit[at], side.at[at], side.pending[at], values, side.reward[at], ())


def _unknown(name: str, rows: int, control_rows: int, level: float) -> Excess:
    return Excess(
        name, math.nan, math.nan, math.nan, -math.inf, math.inf, rows, control_rows, level
    )
