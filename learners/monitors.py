"""Monitors: has what a policy lives on changed? One incremental, JSON-storable state for each.

A monitor takes decisions in their order. The first ``reference`` of those that it reads are what
it takes for usual; each ``window`` of further ones is compared with them (Shewhart's control
chart, with the reference's own error in the bound). One window out of bounds is a *warning*;
``patience`` in a row on the same side are an *alarm*, and so is at once what ``propensity`` finds
over all its windows. ``reward`` and ``arm_reward`` also watch every row, by the detectors of
:mod:`learners.drift`: ADWIN's word is an alarm, Page-Hinkley's a warning, as it errs once in some
80,000 rewards. After an alarm the monitor begins anew: what follows is usual from then on, and one
change is told once.

It makes no difference in which pieces decisions come.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from learners import drift
from learners.errors import SpecError
from learners.summaries import KINDS, LEAST, WITHOUT_REFERENCE
from learners.windows import Batch, Bounds, Mean, Reading

Severity = Literal["warning", "alarm"]
State = dict[str, Any]
NAMES = tuple(KINDS)

_DETECTORS: Mapping[str, tuple[str, ...]] = {
    "reward": ("page_hinkley", "adwin"),
    "arm_reward": ("page_hinkley",),
}
_TITLES = {"page_hinkley": "Page-Hinkley", "adwin": "ADWIN"}
_SEVERITY: Mapping[str, Severity] = {"page_hinkley": "warning", "adwin": "alarm"}


@dataclass(frozen=True, slots=True)
class Settings:
    """How a monitor looks.

    Attributes:
        reference: rows that it takes for usual.
        window: rows of each comparison.
        patience: windows in a row, out of bounds on the same side, that are an alarm.
        bounds: of one comparison.
        detectors: whether each row is watched too, where the monitor can.
    """

    reference: int = 2_000
    window: int = 500
    patience: int = 2
    bounds: Bounds = field(default_factory=Bounds)
    detectors: bool = True

    def __post_init__(self) -> None:
        """Refuse windows of nothing."""
        if min(self.reference, self.window) < LEAST or self.patience < 1:
            raise SpecError(
                f"reference {self.reference}, window {self.window}, patience {self.patience}: "
                f"give windows of at least {LEAST} rows, and 1 of them"
            )


@dataclass(frozen=True, slots=True)
class Finding:
    """What a monitor saw.

    Attributes:
        monitor: which one.
        metric: an arm, a feature, or what else it compared.
        value: what was found: standard errors or a divergence; of a detector, by how many of a
            reward's standard deviations the mean has moved.
        bound: what is borne; 0 for a detector, which has its own.
        severity: ``alarm`` is what a reaction is declared for.
        sentence: all of that, for people.
        side: 1 where what was found is above what is usual, -1 below.
    """

    monitor: str
    metric: str
    value: float
    bound: float
    severity: Severity
    sentence: str
    side: int = 0

    def as_json(self) -> dict[str, Any]:
        """Plain form."""
        return asdict(self)


def start() -> State:
    """The state of a monitor that has seen nothing."""
    return {"reference": None, "rows": 0, "window": {}, "streaks": {}, "detectors": {}}


def update(
    name: str, state: State, batch: Batch, settings: Settings
) -> tuple[State, list[Finding]]:
    """Take further decisions.

    Args:
        name: of :data:`NAMES`.
        state: of :func:`start`, or what the last call gave; it is not changed.
        batch: the next decisions.
        settings: the same at each call; others take effect with the next window.

    Returns:
        The new state, and what was found on the way, in its order.

    Raises:
        SpecError: There is no such monitor.
    """
    if name not in KINDS:
        raise SpecError(f"no monitor {name!r}: there are {', '.join(NAMES)}")
    rows = batch.rows(KINDS[name].relevant(batch))
    found: list[Finding] = []
    while len(rows):
        if state["reference"] is None and name not in WITHOUT_REFERENCE:
            state, taken = _settle(name, state, rows, settings)
        else:
            state, taken, seen = _watch(name, state, rows, settings)
            found += seen
        rows = rows.rows(slice(taken, None))
    return state, found


def _settle(name: str, state: State, rows: Batch, settings: Settings) -> tuple[State, int]:
    """Take rows for the reference; how many were taken."""
    taken = min(len(rows), max(settings.reference - state["rows"], 1))
    summary = KINDS[name].add(state["window"], rows.rows(slice(0, taken)))
    count = state["rows"] + taken
    if count < settings.reference:
        return {**state, "rows": count, "window": summary}, taken
    return {**start(), "reference": KINDS[name].close(summary)}, taken


def _watch(
    name: str, state: State, rows: Batch, settings: Settings
) -> tuple[State, int, list[Finding]]:
    """Take rows for the window, up to its end or to a detector's alarm."""
    taken = min(len(rows), max(settings.window - state["rows"], 1))
    part = rows.rows(slice(0, taken))
    found: list[Finding] = []
    if settings.detectors and name in _DETECTORS:
        state, read, found = _detect(name, state, part)
        if state["reference"] is None:
            return state, read, found
    summary, count = KINDS[name].add(state["window"], part), state["rows"] + taken
    state = {**state, "rows": count, "window": summary}
    if count < settings.window:
        return state, taken, found
    readings = KINDS[name].compare(state["reference"] or {}, summary, settings.bounds)
    streaks = _streaks(state["streaks"], readings)
    found += [_finding(name, one, streaks, settings) for one in readings if one.out]
    if any(one.severity == "alarm" for one in found):
        return start(), taken, found
    usual = KINDS[name].carry(state["reference"] or {}, summary)
    state = {**state, "reference": usual, "rows": 0, "window": {}, "streaks": streaks}
    return state, taken, found


def _streaks(before: Mapping[str, int], readings: list[Reading]) -> dict[str, int]:
    """Windows in a row out of bounds, by metric; below 0 on the lower side."""
    found = dict(before)  # an arm that was not compared keeps its streak
    for one in readings:
        last = found.pop(one.metric, 0)
        if one.out:
            found[one.metric] = last + one.side if last * one.side > 0 else one.side
    return found


def _finding(
    name: str, reading: Reading, streaks: Mapping[str, int], settings: Settings
) -> Finding:
    windows = abs(streaks[reading.metric])
    alarm = reading.sure or windows >= settings.patience
    severity: Severity = "alarm" if alarm else "warning"
    told = f" ({windows} windows in a row)" if windows > 1 else ""
    return Finding(
        name,
        reading.metric,
        reading.value,
        reading.bound,
        severity,
        reading.sentence + told,
        reading.side,
    )


def _detect(name: str, state: State, part: Batch) -> tuple[State, int, list[Finding]]:
    """Watch each row, up to an alarm, after which the state is that of the start."""
    usual = {metric: Mean.of(told) for metric, told in state["reference"].items()}
    live: dict[str, dict[str, drift.Detector]] = {}
    found: list[Finding] = []
    for row, (action, reward) in enumerate(
        zip(part.action.tolist(), part.reward.tolist(), strict=True)
    ):
        metric = "reward" if name == "reward" else part.arms[action]
        before = usual.get(metric)
        if before is None or before.n < LEAST or before.variance <= 0:
            continue
        if metric not in live:
            live[metric] = _resumed(name, state["detectors"].get(metric, {}))
        residual = (reward - before.mean) / math.sqrt(before.variance)
        for kind in [kind for kind, one in live[metric].items() if one.update(residual)]:
            seen = KINDS[name].add(state["window"], part.rows(slice(0, row + 1)))
            found.append(_changed(name, metric, kind, before, Mean.of(seen[metric])))
        if found and found[-1].severity == "alarm":
            return start(), row + 1, found
    kept = {
        metric: {kind: _stored(one) for kind, one in kinds.items()}
        for metric, kinds in live.items()
    }
    return {**state, "detectors": {**state["detectors"], **kept}}, len(part), found


def _resumed(name: str, stored: Mapping[str, list[float | None]]) -> dict[str, drift.Detector]:
    found = {}
    for kind in _DETECTORS[name]:
        told = stored.get(kind)
        numbers = drift.start(kind, 1)[0]
        if told is not None:
            numbers = np.array([math.inf if one is None else one for one in told])
        detector = drift.resumed(kind, numbers)
        if detector is not None:
            found[kind] = detector
    return found


def _stored(detector: drift.Detector) -> list[float | None]:
    """Its numbers without trailing zeros' worth of room; JSON knows no infinity."""
    numbers = detector.numbers()
    if isinstance(detector, drift.Adwin):
        numbers = numbers[: 1 + int(numbers[0])]
    return [one if math.isfinite(one) else None for one in numbers.tolist()]


def _changed(name: str, metric: str, kind: str, before: Mean, now: Mean) -> Finding:
    of = "the reward" if name == "reward" else f"the reward of {metric}"
    return Finding(
        name,
        f"{metric} by {kind}",
        abs(now.mean - before.mean) / math.sqrt(before.variance),
        0.0,
        _SEVERITY[kind],
        f"{of} has changed, by {_TITLES[kind]} over every decision: its mean was "
        f"{before.mean:.4g} and is {now.mean:.4g} in the last {now.n:,.0f} decisions",
        1 if now.mean > before.mean else -1,
    )
