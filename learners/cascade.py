"""Cascades: which arm to ask first, when its answer is good enough, and which arm to ask then.

FrugalGPT (Chen, Zaharia & Zou 2023, arXiv:2305.05176) asks arms in an order and stops at the first
whose answer a judge finds good enough; order and thresholds are those of the least mean cost whose
mean quality reaches a target. Here they are found by trying all orders of up to three arms and, of
each but the last, thresholds at the quantiles of its signal.

A plan is made from rows that know of each arm what its answer was worth: probes, or calibrated
chances of success (:class:`learners.scorers.threshold.Threshold`). It is chosen by its mean on
these rows, so it flatters itself there: judge it on others (:func:`simulate`).

One decision of an edge is one step. :func:`scorer` makes a policy of a plan: it chooses the first
step's arm, and, asked again with that arm excluded, the second's. The app asks again where the
signal of the answer is below the step's ``stop_at``.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from learners.errors import CascadeError
from learners.exploration import Exploration
from learners.scorers.linear import Linear, constant

MAX_STEPS = 3
MAX_ARMS = 24
QUANTILES = 20
_SLACK = 1e-9
"""Relative rounding that must not keep a target from being reached."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Step:
    """An arm to ask, and the signal from which on its answer is taken; the last one's always is."""

    arm: str
    stop_at: float = -math.inf


@dataclass(frozen=True, slots=True)
class Plan:
    """The steps in their order, with the mean cost and quality that they had where they were made.

    ``reached``: whether that quality is the target; where no plan reaches it, the best one is made.
    """

    steps: tuple[Step, ...]
    cost: float
    quality: float
    reached: bool = True

    def __post_init__(self) -> None:
        """Refuse no steps, an arm that is asked twice, and a threshold that no signal meets."""
        names = [step.arm for step in self.steps]
        if not names or len(set(names)) != len(names):
            raise CascadeError(f"steps {names}: name at least one arm, each once")
        if any(math.isnan(step.stop_at) for step in self.steps):
            raise CascadeError("a stop_at is NaN: give a signal")
        if self.steps[-1].stop_at != -math.inf:
            raise CascadeError("the last step must stop always: give it no stop_at")

    def after(self, signals: Mapping[str, float]) -> str | None:
        """The arm to ask next, None to stop; ``signals`` are those of the arms asked so far."""
        for step in self.steps:
            if step.arm not in signals:
                return step.arm
            if signals[step.arm] >= step.stop_at:
                return None
        return None

    def as_json(self) -> dict[str, Any]:
        """Plain form; the last step has no ``stop_at``."""
        steps = [{"arm": step.arm, "stop_at": step.stop_at} for step in self.steps]
        del steps[-1]["stop_at"]
        return {
            "steps": steps,
            "cost": self.cost,
            "quality": self.quality,
            "reached": self.reached,
        }

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> "Plan":
        """The plan that :meth:`as_json` wrote."""
        try:
            steps = tuple(Step(**step) for step in row["steps"])
            return cls(steps, float(row["cost"]), float(row["quality"]), bool(row["reached"]))
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, CascadeError):
                raise
            raise CascadeError(
                f"a plan cannot be read ({error!r}): give steps of arm and stop_at, cost, quality "
                "and reached"
            ) from error


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """What is known of n requests, of each of K arms, each of shape ``(n, K)``.

    Attributes:
        quality: what the arm's answer is worth, or its calibrated chance of success.
        cost: what asking it costs, at least 0.
        signal: what a judge would say of its answer; higher is better, in any unit.
    """

    arms: tuple[str, ...]
    quality: Floats
    cost: Floats
    signal: Floats

    def __post_init__(self) -> None:
        """Refuse shapes that do not fit and numbers that are not finite."""
        shape = self.quality.shape
        if len(shape) != 2 or shape[1] != len(self.arms) or not shape[0]:
            raise CascadeError(f"quality {shape} for {len(self.arms)} arms: give (n, arms)")
        if len(self.arms) > MAX_ARMS:
            raise CascadeError(f"{len(self.arms)} arms: give at most {MAX_ARMS}, the likely ones")
        for name in ("quality", "cost", "signal"):
            values = getattr(self, name)
            if values.shape != shape or not np.isfinite(values).all():
                raise CascadeError(f"{name} {values.shape}: give finite numbers of shape {shape}")
        if (self.cost < 0).any():
            raise CascadeError("a cost is below 0")


def plan(rows: Rows, least_quality: float, max_steps: int = MAX_STEPS) -> Plan:
    """The cheapest cascade whose mean quality is at least this; of equals the shorter.

    Args:
        rows: requests to plan for.
        least_quality: the target, in the quality's unit.
        max_steps: arms asked at most, 1 to 3.

    Raises:
        CascadeError: ``max_steps`` or the target is out of range.
    """
    if not 1 <= max_steps <= MAX_STEPS:
        raise CascadeError(f"max_steps is {max_steps}: give 1 to {MAX_STEPS}")
    if not math.isfinite(least_quality):
        raise CascadeError(f"least_quality is {least_quality}: give a finite number")
    target = least_quality - _SLACK * abs(least_quality)
    best: Plan | None = None
    for found in _candidates(rows, max_steps):
        if best is None or _better(found, best, target):
            best = found
    assert best is not None  # noqa: S101 -- there is an arm, so there is a plan
    return Plan(best.steps, best.cost, best.quality, best.quality >= target)


def _better(one: Plan, other: Plan, target: float) -> bool:
    """Whether it is cheaper among those that reach the target, or better where none does."""
    if one.quality >= target and other.quality >= target:
        return one.cost < other.cost * (1 - _SLACK)
    if max(one.quality, other.quality) >= target:
        return one.quality >= target
    return one.quality > other.quality + _SLACK * abs(other.quality)


def _candidates(rows: Rows, max_steps: int) -> Iterator[Plan]:
    k = len(rows.arms)
    cost, quality = rows.cost.mean(axis=0).tolist(), rows.quality.mean(axis=0).tolist()
    for arm, name in enumerate(rows.arms):
        yield Plan((Step(name),), cost[arm], quality[arm])
    everyone = np.ones(len(rows.cost), dtype=np.bool_)
    if max_steps >= 2:
        for first, second in permutations(range(k), 2):
            yield from _ends(rows, (), (0.0, 0.0), everyone, (first, second))
    if max_steps < 3:
        return
    n = len(rows.cost)
    for first in range(k):
        for stop_at in _thresholds(rows.signal[:, first]):
            on = rows.signal[:, first] < stop_at
            spent = float(rows.cost[:, first].sum()) / n
            earned = float(rows.quality[~on, first].sum()) / n
            begun = (Step(rows.arms[first], stop_at),)
            for second, third in permutations([a for a in range(k) if a != first], 2):
                yield from _ends(rows, begun, (spent, earned), on, (second, third))


def _ends(
    rows: Rows,
    begun: tuple[Step, ...],
    so_far: tuple[float, float],
    on: NDArray[np.bool_],
    last: tuple[int, int],
) -> Iterator[Plan]:
    """Each threshold of the last two arms, for the requests that are still on: one sort for all."""
    first, second = last
    n = len(rows.cost)
    signal = rows.signal[on, first]
    stops = _thresholds(signal)
    if not stops:
        return
    order = np.argsort(signal, kind="stable")
    below = np.searchsorted(signal[order], stops, side="left")
    asked = _summed(rows.cost[on, second][order])[below]
    gained = _summed((rows.quality[on, second] - rows.quality[on, first])[order])[below]
    costs = so_far[0] + (float(rows.cost[on, first].sum()) + asked) / n
    qualities = so_far[1] + (float(rows.quality[on, first].sum()) + gained) / n
    end = Step(rows.arms[second])
    for stop_at, cost, quality in zip(stops, costs.tolist(), qualities.tolist(), strict=True):
        yield Plan((*begun, Step(rows.arms[first], stop_at), end), cost, quality)


def _summed(values: Floats) -> Floats:
    """The sums of the first 0, 1 … n values."""
    return np.concatenate([[0.0], np.cumsum(values)])


def _thresholds(signal: Floats) -> list[float]:
    """Signals at even quantiles, but for the least: with that nothing would go on."""
    if not len(signal):
        return []
    even = np.quantile(signal, np.linspace(0, 1, QUANTILES + 1)[1:], method="higher")
    found = np.unique(even)
    return [float(each) for each in found if each > signal.min()]


def simulate(one: Plan, rows: Rows) -> tuple[Floats, Floats]:
    """What each request costs and is worth under a plan: all that is asked is paid.

    Returns:
        Costs and qualities, shapes ``(n,)``.

    Raises:
        CascadeError: An arm of the plan is not among the rows' arms.
    """
    unknown = [step.arm for step in one.steps if step.arm not in rows.arms]
    if unknown:
        raise CascadeError(f"no arm {unknown[0]!r}: there are {list(rows.arms)}")
    n = len(rows.cost)
    cost, quality, on = np.zeros(n), np.zeros(n), np.ones(n, dtype=np.bool_)
    for step in one.steps:
        arm = rows.arms.index(step.arm)
        cost[on] += rows.cost[on, arm]
        quality[on] = rows.quality[on, arm]
        on &= rows.signal[:, arm] < step.stop_at
    return cost, quality


def scorer(one: Plan, arms: Sequence[str], dimension: int) -> Linear:
    """The plan as a policy: of the arms that are eligible, the plan's first is chosen.

    With the arms excluded that were asked already, that is the next step's. What the plan does not
    name comes last, all alike.

    Raises:
        CascadeError: An arm of the plan is not among ``arms``.
    """
    unknown = [step.arm for step in one.steps if step.arm not in arms]
    if unknown:
        raise CascadeError(f"no arm {unknown[0]!r}: there are {list(arms)}")
    rank = {step.arm: float(len(one.steps) - i) for i, step in enumerate(one.steps)}
    values = {arm: rank.get(arm, 0.0) for arm in arms}
    return constant(values, dimension, Exploration("greedy"))
