"""The cheapest arm that is good enough for sure: calibrated chances of success against a target.

Success and cost are regressed apart (:mod:`learners.multi_objective`). The newest rows are held
back from that: on them each arm's predictions are calibrated (:mod:`learners.calibration`), as a
prediction flatters itself on the rows that it was fitted to. Of the arms whose lower bound reaches
the target the cheapest is taken; where none does, the likeliest to succeed. The family is AVR's,
Hybrid LLM's (Ding et al. 2024, arXiv:2404.14618) and, but for its cascade of answers, FrugalGPT's
(Chen et al. 2023, arXiv:2305.05176).

Success is read relative to its range, so 0 is its least value and 1 its greatest; of an outcome
that is yes or no this is a chance. An arm with few held rows is never sure: only exploration asks
it. Bounds hold for one arm and value at a time, not for the cheapest of many.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from learners import calibration, multi_objective
from learners import snapshot as files
from learners.calibration import Curve
from learners.contract import Params, Promise, Spec, check, kept
from learners.errors import SpecError
from learners.held import Held
from learners.interactions import Interactions
from learners.ridge import RIDGE_PARAMS, Floats, check_pooling
from learners.schedule import EXPLORATION_PARAMS, Moments, checked_params, explore
from learners.scorers.threshold import Threshold

NAME = "cheapest"
PARAMS: Params = {
    **EXPLORATION_PARAMS,
    **RIDGE_PARAMS,
    "exploration": "greedy",
    "pooling": 0.1,
    "size_prior": 1.0,
    "success": "",
    "cost": "cost_usd",
    "target": 0.7,
    "level": 0.9,
    "calibration": "platt",
    "held": 0.25,
    "points": 2048,
    "low": 0.0,
    "high": 0.0,
}
"""``success``: the part that is to be reached, "" for the first that is no cost. ``cost``: the part
that is to be low; without ``cost_usd`` the cards' prices. ``target``: of the success' range.
``level``: chance that a bound is below the truth. ``held``: share of the rows that calibrate, at
most ``points``. ``low`` and ``high``: the range; alike, that which was seen."""

COST = "cost_usd"
METHODS = ("platt", "isotonic")
LEAST = 20
"""Held rows that an arm needs before anything is sure of it."""
TRUST = 4.0
"""How firmly a regression's prediction is believed to be a chance already."""
KNOTS = 65
"""A sigmoid's curve needs no more; what has up to :data:`MOST_KNOTS` keeps all."""
MOST_KNOTS = 200
MAX_POINTS = 20_000

PROMISES: frozenset[Promise] = frozenset({"batch"})


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """What was learnt from the older rows, and the newest rows themselves.

    Attributes:
        older: of all rows that are not held.
        held: the newest rows.
        low: least reward and parts so far, shape ``(1 + m,)``.
        high: greatest, likewise.
        whole: every interaction so far came with its parts.
    """

    spec: Spec
    params: dict[str, Any]
    older: multi_objective.State
    held: Held
    low: Floats
    high: Floats
    whole: bool = True


def init(spec: Spec) -> State:
    """Nothing learnt yet.

    Raises:
        SpecError: A parameter is out of range or names no part, or there are too many columns.
    """
    least = {**multi_objective.LIMITS, "points": 1}
    params = checked_params(NAME, PARAMS, spec.params, least)
    check_pooling(NAME, params)
    _check(params)
    _success(spec, params)
    _cost(spec, params)
    targets = 1 + len(spec.reading.names)
    return State(
        spec=spec,
        params=params,
        older=multi_objective.empty(spec, params),
        held=Held.empty(spec.schema.dimension, targets),
        low=np.full(targets, np.inf),
        high=np.full(targets, -np.inf),
    )


def _check(params: dict[str, Any]) -> None:
    ranges = {"target": (0.0, 1.0), "level": (0.5, 0.999), "held": (0.01, 0.9)}
    for name, (low, high) in ranges.items():
        if not low <= params[name] <= high:
            raise SpecError(f"{NAME}.{name} is {params[name]}: give a number from {low} to {high}")
    if params["points"] > MAX_POINTS:
        raise SpecError(f"{NAME}.points is {params['points']}: give at most {MAX_POINTS}")
    if params["calibration"] not in METHODS:
        raise SpecError(
            f"{NAME}.calibration is {params['calibration']!r}: give {' or '.join(METHODS)}"
        )
    if not -np.inf < params["low"] <= params["high"] < np.inf:
        raise SpecError(
            f"{NAME}.low is {params['low']}, high {params['high']}: give two finite numbers, the "
            "lower first, or the same for the range that is seen"
        )


def _success(spec: Spec, params: dict[str, Any]) -> int:
    """The place of the part that is to be reached."""
    names, name = spec.reading.names, str(params["success"])
    if name in names:
        return names.index(name)
    gains = [i for i, weight in enumerate(spec.reading.mix) if weight >= 0]
    if name or not gains:
        raise SpecError(
            f"{NAME}.success is {name!r}: name a part of the reward: {', '.join(names)}"
        )
    return gains[0]


def _cost(spec: Spec, params: dict[str, Any]) -> int | None:
    """The place of the part that is to be low, None for the cards' prices."""
    names, name = spec.reading.names, str(params["cost"])
    if name in names and len(names) > 1:
        return names.index(name)
    if name != COST:
        raise SpecError(f"{NAME}.cost is {name!r}: name a part of the reward: {', '.join(names)}")
    return None


def learn(state: State, interactions: Interactions) -> State:
    """Hold the newest rows, and learn from those that they push out."""
    check(state.spec, interactions)
    log = interactions.rows(interactions.weight > 0)
    if not len(log):
        return state
    names = len(state.spec.reading.names)
    told = log.parts.shape[1] == names
    if not told:
        log = replace(log, parts=np.zeros((len(log), names)))
    held, out = state.held.add(log, float(state.params["held"]), int(state.params["points"]))
    targets = np.column_stack([log.reward, log.parts])
    return replace(
        state,
        older=multi_objective.learn(state.older, out.log(state.spec.arms)),
        held=held,
        low=np.minimum(state.low, targets.min(axis=0)),
        high=np.maximum(state.high, targets.max(axis=0)),
        whole=state.whole and told,
    )


def freeze(state: State) -> Threshold:
    """Success and cost from the older rows, each arm's curve from the newest."""
    spec, params = state.spec, state.params
    older = replace(state.older, whole=state.whole)
    weights = multi_objective.regressions(older)
    apart = multi_objective.tells_apart(older)
    part = _success(spec, params) if apart else 0
    curves = _curves(state, weights[part], part + apart)
    place = _cost(spec, params) if apart else None
    cost = _by_card(spec) if place is None else weights[place]
    seen = Moments(float(state.held.rows), 0.0, float(state.held.rows))
    knots = [_padded([each[i] for each in curves]) for i in range(3)]
    return Threshold(
        arms=spec.arms,
        exploration=explore(params, seen),
        success=weights[part],
        raw=knots[0],
        value=knots[1],
        low=knots[2],
        cost=cost,
        target=float(params["target"]),
        unit=_usual(cost),
    )


def _curves(state: State, weights: Floats, target: int) -> list[tuple[Floats, Floats, Floats]]:
    """Each arm's knots: predictions, chances of success and their lower bounds.

    An arm with few rows is taken to be calibrated as all are, and nothing is sure of it.
    """
    held, (low, high) = state.held, _range(state, target)
    predicted = np.einsum("nd,nd->n", held.x, weights[held.action])
    outcome = np.clip(held.targets[:, target], low, high)
    if not len(held) or not high > low:
        none = np.zeros(1)
        return [(none, none, none)] * len(weights)

    def fitted(rows: Any) -> tuple[Floats, Floats, Floats]:
        curve = _calibrated(state, predicted[rows], outcome[rows], held.weight[rows], (low, high))
        raw, value, bound = _thinned(curve)
        value, bound = ((each - low) / (high - low) for each in (value, bound))
        return raw, np.clip(value, 0.0, 1.0), np.clip(bound, 0.0, 1.0)

    usual = fitted(slice(None))
    unsure = usual[0], usual[1], np.zeros(len(usual[0]))
    found = []
    for arm in range(len(weights)):
        own = held.action == arm
        found.append(fitted(own) if own.sum() >= LEAST else unsure)
    return found


def _range(state: State, target: int) -> tuple[float, float]:
    low, high = float(state.params["low"]), float(state.params["high"])
    return (low, high) if low < high else (float(state.low[target]), float(state.high[target]))


def _calibrated(
    state: State, raw: Floats, outcome: Floats, weight: Floats, span: tuple[float, float]
) -> Curve:
    level = float(state.params["level"])
    if state.params["calibration"] == "isotonic":
        return calibration.isotonic(raw, outcome, weight, level=level, span=span)
    return calibration.platt(raw, outcome, weight, level=level, span=span, trust=TRUST)


def _thinned(curve: Curve) -> tuple[Floats, Floats, Floats]:
    most = KNOTS if len(curve.raw) > MOST_KNOTS else len(curve.raw)
    kept_knots = np.unique(np.linspace(0, len(curve.raw) - 1, most).round().astype(np.int64))
    return curve.raw[kept_knots], curve.value[kept_knots], curve.low[kept_knots]


def _padded(rows: list[Floats]) -> Floats:
    """Rows of unequal length as one array, the last number of each repeated."""
    most = max(map(len, rows))
    return np.stack([np.pad(row, (0, most - len(row)), mode="edge") for row in rows])


def _by_card(spec: Spec) -> Floats:
    """The cards' prices as a cost: USD per million tokens, input and output together."""
    cost = np.zeros((len(spec.arms), spec.schema.dimension))
    cost[:, 0] = [card.usd_per_mtok_in + card.usd_per_mtok_out for card in spec.cards]
    return cost


def _usual(cost: Floats) -> float:
    """A cost to compare with: the mean of the arms' constants, 1 where all are free."""
    found = float(np.abs(cost[:, 0]).mean())
    return found if found > 0 else 1.0


def rearm(state: State, spec: Spec) -> State:
    """The state for other arms."""
    new = init(spec)
    return replace(
        new,
        older=multi_objective.rearmed(state.older, new.older),
        held=state.held.rearmed(*kept(state.spec, spec)),
        low=state.low,
        high=state.high,
        whole=state.whole,
    )


def snapshot(state: State) -> bytes:
    """The state as bytes."""
    numbers, tensors = multi_objective.plain(state.older)
    return files.pack(
        files.owner(NAME, state.spec, state.params),
        {"older": numbers, "rows": state.held.rows, "whole": state.whole},
        {**tensors, **state.held.tensors(), "low": state.low, "high": state.high},
    )


def restore(spec: Spec, data: bytes) -> State:
    """The state that :func:`snapshot` wrote."""
    state = init(spec)
    numbers, tensors = files.unpack(files.owner(NAME, spec, state.params), data)
    low, high = tensors.pop("low"), tensors.pop("high")
    sums = {name: tensors[name] for name in tensors if not name.startswith("held.")}
    return replace(
        state,
        older=multi_objective.filled(state.older, numbers["older"], sums),
        held=Held.read(tensors, int(numbers["rows"])),
        low=low,
        high=high,
        whole=bool(numbers["whole"]),
    )
