"""How many decisions until a difference can be seen: asked before an experiment or a canary.

Three ways to see it: ``fixed``, an interval that is looked at once (CLT); ``anytime``, the
asymptotic confidence sequence of :mod:`learners.sequences`, looked at always; ``ab``, the latter
on a split of the traffic (:mod:`learners.experiments`). The first two judge a policy on the log of
another: what a decision tells then depends on how much the log explores.

The answer is when the lower bound of a true difference of x is above the margin with the asked
power. For ``anytime`` that is the power at the last look alone, so it is reached somewhat earlier.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from learners.errors import EstimateError
from learners.intervals import clustered, student_quantile
from learners.sequences import FEWEST, boundary, tuning

Method = Literal["fixed", "anytime", "ab"]
_NAMES: dict[Method, str] = {
    "fixed": "on a log, looked at once",
    "anytime": "on a log, looked at any time",
    "ab": "by an A/B split, looked at any time",
}
MOST_DECISIONS = 10**15


@dataclass(frozen=True, slots=True)
class Spread:
    """What one decision tells of the difference.

    Attributes:
        deviation: standard deviation of its influence value.
        worst: largest distance that one row's influence value could have from 0: each bound is
            taken with one more such row. 0 for none.
        effective: what a decision adds to the effective sample size where the two differ.
        effective_deviation: standard deviation of that.
        degrees: of freedom that a decision adds to the interval that is looked at once.
        rows: of the log that the spread was read from: it is not known better than these tell.
    """

    deviation: float
    worst: float = 0.0
    effective: float = 1.0
    effective_deviation: float = 0.0
    degrees: float = 1.0
    rows: float = math.inf

    def __post_init__(self) -> None:
        """Refuse what no log can have."""
        if not (0.0 < self.degrees <= 1.0 and self.rows >= 1):
            raise EstimateError(
                f"degrees {self.degrees} of {self.rows} rows: give above 0 to 1, of 1 row or more"
            )
        if not (0.0 < self.effective <= 1.0 and 0.0 <= self.effective_deviation < math.inf):
            raise EstimateError(
                f"effective {self.effective} and its deviation {self.effective_deviation}: a "
                "decision adds more than 0 and at most 1 to the effective sample size"
            )
        if not (math.isfinite(self.deviation) and self.deviation > 0):
            raise EstimateError(f"deviation {self.deviation} must be finite and above 0")
        if not (math.isfinite(self.worst) and self.worst >= 0):
            raise EstimateError(f"worst {self.worst} must be finite and at least 0")


@dataclass(frozen=True, slots=True)
class Question:
    """What is to be seen.

    Attributes:
        difference: true one, in the reward's unit, beyond the margin.
        requests_per_day: of this policy; all of them are decisions.
        power: chance to see it.
        level: of the two-sided interval.
        design_effect: by how much rows of one session or user tell less than independent ones.
        min_effective_n: below which a gate lets nothing through, whatever the interval says.
    """

    difference: float
    requests_per_day: float
    power: float = 0.8
    level: float = 0.95
    design_effect: float = 1.0
    min_effective_n: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what has no answer."""
        if not 0.0 <= self.min_effective_n < math.inf:
            raise EstimateError(f"min_effective_n {self.min_effective_n} must be at least 0")
        if not (math.isfinite(self.difference) and self.difference > 0):
            raise EstimateError(f"difference {self.difference} must be finite and above 0")
        if not (math.isfinite(self.requests_per_day) and self.requests_per_day > 0):
            raise EstimateError(f"requests_per_day {self.requests_per_day} must be above 0")
        if not (0.0 < self.power < 1.0 and 0.0 < self.level < 1.0):
            raise EstimateError(f"power {self.power} and level {self.level} must be in (0, 1)")
        if not (math.isfinite(self.design_effect) and self.design_effect > 0):
            raise EstimateError(f"design_effect {self.design_effect} must be above 0")


@dataclass(frozen=True, slots=True)
class Plan:
    """The answer.

    Attributes:
        method: how the difference is looked for.
        question: what was asked.
        spread: what one decision tells.
        decisions: until the difference is seen with the asked power.
        typical: until it is seen in half of the cases.
        days: ``decisions`` at this traffic.
        sentence: for people.
    """

    method: Method
    question: Question
    spread: Spread
    decisions: int
    typical: int
    days: float
    sentence: str

    def as_json(self) -> dict[str, Any]:
        """Plain numbers."""
        return {
            "method": self.method,
            "difference": self.question.difference,
            "level": self.question.level,
            "power": self.question.power,
            "requests_per_day": self.question.requests_per_day,
            "design_effect": self.question.design_effect,
            "deviation": self.spread.deviation,
            "worst": self.spread.worst,
            "decisions": self.decisions,
            "typical": self.typical,
            "days": self.days,
            "sentence": self.sentence,
        }


def plan(question: Question, spread: Spread, method: Method = "anytime") -> Plan:
    """The answer for one method.

    Args:
        question: what is to be seen.
        spread: of :func:`of_influence` or :func:`of_exploration` for a log, of :func:`of_split`
            for ``ab``.
        method: how it is looked for.

    Raises:
        EstimateError: It would take more than 10¹⁵ decisions.
    """
    decisions = _first(lambda n: _seen(n, n, question, spread, method) >= question.power)
    typical = _first(lambda n: _seen(n, decisions, question, spread, method) >= 0.5)
    typical = min(typical, decisions)
    days = decisions / question.requests_per_day
    sentence = (
        f"A difference of {question.difference:.4g} is seen {_NAMES[method]}, with "
        f"{question.power:.0%} chance within {decisions:,} decisions ({_time(days)} at "
        f"{question.requests_per_day:,.0f} a day), in half of the cases within {typical:,}."
    )
    return Plan(method, question, spread, decisions, typical, days, sentence)


_NODES = ((-math.sqrt(3.0), 1.0 / 6.0), (0.0, 2.0 / 3.0), (math.sqrt(3.0), 1.0 / 6.0))
"""Gauss–Hermite: where a normal variable is looked at, in deviations, and what each counts."""


def _seen(n: float, tuned_for: float, question: Question, spread: Spread, method: Method) -> float:
    """Chance that after n decisions the lower bound is above 0, and the effective size enough.

    Both are taken as independent: the one is about what the rows earned, the other how many count.
    The spread itself is an estimate, off by a share of 1/√(2ν) with the log's ν degrees of freedom:
    the chance is the mean over what it may be.
    """
    unsure = 1.0 / math.sqrt(2.0 * max(spread.rows * spread.degrees, 1.0))
    chance = sum(
        share * _above(n, tuned_for, question, _scaled(spread, math.exp(at * unsure)), method)
        for at, share in (_NODES if unsure > 0.0 else ((0.0, 1.0),))
    )
    return chance * _enough(n / question.design_effect, question, spread)


def _scaled(spread: Spread, factor: float) -> Spread:
    return spread if factor == 1.0 else replace(spread, deviation=spread.deviation * factor)


def _above(n: float, tuned_for: float, question: Question, spread: Spread, method: Method) -> float:
    """Chance that the lower bound is above 0."""
    if method == "fixed":
        far = _student(0.5 + question.level / 2, n * spread.degrees)
    else:
        far = float(boundary(np.array([n]), tuning(tuned_for, question.level), question.level)[0])
    independent = n / question.design_effect
    reach, square, rows = question.difference, spread.deviation**2, n
    if spread.worst > 0:
        fall = spread.worst + question.difference
        reach, rows = reach - fall / (n + 1), n + 1
        square += fall * fall / rows
    noise = spread.deviation / math.sqrt(independent)
    half = far * math.sqrt(square / independent)
    return NormalDist().cdf((reach - half) / noise)


def _student(p: float, degrees: float) -> float:
    """Student's quantile; from 30 degrees on by its expansion about the normal's (Fisher 1926)."""
    if degrees < 30.0:
        return student_quantile(p, max(int(degrees), 1))
    z = NormalDist().inv_cdf(p)
    first, second = (z**3 + z) / 4.0, (5.0 * z**5 + 16.0 * z**3 + 3.0 * z) / 96.0
    return z + first / degrees + second / degrees**2


def _enough(independent: float, question: Question, spread: Spread) -> float:
    """Chance that the effective sample size has reached its floor, as far as the log can say."""
    if question.min_effective_n == 0.0:
        return 1.0
    over = independent * spread.effective - question.min_effective_n
    noise = spread.effective_deviation * math.sqrt(independent * (1.0 + independent / spread.rows))
    return NormalDist().cdf(over / noise) if noise > 0.0 else float(over >= 0.0)


def _first(enough: Callable[[float], bool]) -> int:
    """The smallest number of decisions, at least those below which nothing is said."""
    low, high = FEWEST - 1, FEWEST
    while not enough(high):
        low, high = high, 2 * high
        if high > MOST_DECISIONS:
            raise EstimateError(
                f"more than {MOST_DECISIONS:,} decisions: explore more, ask for a larger "
                "difference, or plan from a longer log, as a short one leaves the spread open"
            )
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def of_influence(
    gap: NDArray[np.float64],
    *,
    worst: float = 0.0,
    clusters: NDArray[np.int64] | None = None,
    shift: NDArray[np.float64] | None = None,
) -> Spread:
    """From a log: the paired influence values of candidate − champion.

    Args:
        gap: shape ``(n,)``.
        worst: as of :class:`Spread`.
        clusters: as in :mod:`learners.intervals`; the spread then holds their design effect.
        shift: the candidate's weights less the champion's, shape ``(n,)``: says what a decision
            adds to the effective sample size where the candidate gains. None: it is not asked.

    Raises:
        EstimateError: Fewer than two clusters, all alike, or no row with a shift above 0.
    """
    groups = clustered(gap, clusters)
    error = groups.standard_error
    if not math.isfinite(error):
        raise EstimateError("one influence value, or one cluster: give two or more")
    effective = (1.0, 0.0) if shift is None else _of_shift(np.maximum(shift, 0.0), clusters)
    rows, degrees = len(gap), groups.degrees / len(gap)
    return Spread(error * math.sqrt(rows), worst, *effective, degrees=degrees, rows=rows)


def _of_shift(
    gained: NDArray[np.float64], clusters: NDArray[np.int64] | None
) -> tuple[float, float]:
    """What a row adds to Kish's ``(Σw)² / Σw²``, and the standard deviation of that.

    The deviation is that of the ratio's linearised rows: with a = Σw / Σw², a row's part moves it
    by 2·a·w − a²·w².
    """
    rows, total = len(gained), clustered(gained, clusters).sums
    square = float(np.square(total).sum())
    if square == 0.0:
        raise EstimateError(
            "no logged decision served what the candidate would rather choose: explore more"
        )
    scale = float(total.sum()) / square
    linear = 2.0 * scale * total - scale**2 * np.square(total)
    return min(scale * float(total.sum()) / rows, 1.0), float(linear.std()) * math.sqrt(
        len(total) / rows
    )


def of_exploration(
    arms: int,
    exploration: float,
    reward_deviation: float,
    differ: float,
    *,
    worst_row: bool = True,
    floor: float | None = None,
) -> Spread:
    """Without a log: two policies that explore alike, and choose otherwise on a share of requests.

    Both give each of the K arms exploration/K and their favourite the rest. On a request on which
    they differ the weights are ±(1 − ε) over the logged probability, of two arms; elsewhere the
    two are alike and the request tells nothing. The log is the champion's, the reward model of
    the doubly robust estimate is taken to be right on average.

    Args:
        arms: K, at least 2.
        exploration: ε in (0, 1), of the log; 1 with a ``floor``.
        reward_deviation: standard deviation of what the reward model leaves unexplained.
        differ: share of requests on which their favourites differ, in (0, 1].
        worst_row: whether bounds are taken with one more row, as bad as one could be; a reward's
            range is taken as twice the deviation, as of a fair coin.
        floor: ε in [0, 1) of the two policies, where the log explored otherwise: a first log that
            chose evenly has exploration 1.

    Raises:
        EstimateError: A number is out of range.
    """
    own = exploration if floor is None else floor
    if arms < 2 or not (0.0 < exploration <= 1.0 and 0.0 <= own < 1.0 and 0.0 < differ <= 1.0):
        raise EstimateError(
            f"arms {arms}, exploration {exploration}, floor {own}, differ {differ}: give at least "
            "2, in (0, 1], in [0, 1), in (0, 1]: without exploration no log shows what another "
            "choice would have earned"
        )
    rare = exploration / arms
    moved = 1.0 - own
    square = (
        differ * moved**2 * (1.0 / rare + 1.0 / (1.0 - exploration + rare)) * reward_deviation**2
    )
    worst = 2.0 * reward_deviation * moved / rare if worst_row else 0.0
    # Only rows that served the candidate's favourite by exploring count, all with one weight.
    gained = differ * rare
    often = 1.0 - exploration + rare
    fourth = differ * moved**4 * (rare**-3 + often**-3) * reward_deviation**4
    return Spread(
        math.sqrt(square),
        worst,
        gained,
        math.sqrt(gained * (1.0 - gained)),
        degrees=1.0 / max(fourth / square**2 - 2.0, 1.0),
    )


def of_split(reward_deviation: float, share: float = 0.5, *, explained: float = 0.0) -> Spread:
    """Of an A/B split: per decision of both sides together.

    Args:
        reward_deviation: standard deviation of a request's reward.
        share: of the traffic that the new variant gets.
        explained: share of the variance that a covariate takes out (CUPED).

    Raises:
        EstimateError: A share is out of range.
    """
    if not 0.0 < share < 1.0 or not 0.0 <= explained < 1.0:
        raise EstimateError(f"share {share} must be in (0, 1), explained {explained} in [0, 1)")
    return Spread(reward_deviation * math.sqrt((1.0 - explained) / (share * (1.0 - share))))


def _time(days: float) -> str:
    if days < 2 / 24:
        return f"{days * 24 * 60:.0f} minutes"
    return f"{days * 24:.0f} hours" if days < 2 else f"{days:,.0f} days"
