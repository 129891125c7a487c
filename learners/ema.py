"""An exponential moving average of each arm's accuracy, cost and latency, an arm and domain.

The router of ORCH (Zhou & Chan 2026, arXiv:2602.01797): each interaction moves the averages of the
arm that served it, ``average += rate · (seen - average)``, and the best mix of the averages is
chosen. It forgets, so it follows arms that change. Beyond the paper:

* the first interactions count in full, instead of a start at 0 that takes long to forget;
* an arm's average in a domain is shrunk to its average everywhere, and that to the average of all,
  so few interactions decide little;
* the averages are of the reward's parts, mixed as late as the request asks for.

An arm is aged by its own interactions only: one that does not serve is not forgotten. Propensities
are not used: within a domain the log must not choose by anything else, or it flatters.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from learners import snapshot as files
from learners.contract import Params, Promise, Spec, carried, check
from learners.domains import DOMAIN, Domains, domains_of
from learners.errors import SpecError
from learners.interactions import Interactions
from learners.schedule import EXPLORATION_PARAMS, Moments, checked_params, explore
from learners.scorers.base import Scorer
from learners.scorers.linear import Linear
from learners.scorers.mixed import Mixed

NAME = "ema"
PARAMS: Params = {**EXPLORATION_PARAMS, "domain": DOMAIN, "half_life": 100.0, "prior": 4.0}
"""``domain``: the category whose values are the domains. ``half_life``: interactions of an arm
after which one counts for half. ``prior``: interactions that the wider average counts for."""

MAX_ENTRIES = 2**22
"""Arms × domains × parts: what still fits a snapshot of 32 MiB."""

PROMISES: frozenset[Promise] = frozenset({"batch"})

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """Faded sums: of the weight, of weight · reward, and of weight · each part.

    Attributes:
        cells: by arm and domain, shape ``(K, G, 2 + m)``.
        arms: by arm, each aged by all of the arm's interactions, shape ``(K, 1, 2 + m)``.
        whole: every interaction so far came with its parts.
    """

    spec: Spec
    params: dict[str, Any]
    domains: Domains
    cells: Floats
    arms: Floats
    moments: Moments
    whole: bool = True


def init(spec: Spec) -> State:
    """Nothing learnt yet.

    Raises:
        SpecError: A parameter is out of range, or there are too many arms, domains and parts.
    """
    params = checked_params(NAME, PARAMS, spec.params, {"half_life": 1e-9, "prior": 1e-9})
    domains = domains_of(spec.schema, str(params["domain"]))
    k, columns = len(spec.arms), 2 + len(spec.reading.names)
    if k * domains.groups * columns > MAX_ENTRIES:
        raise SpecError(
            f"{k} arms × {domains.groups} domains × {columns - 2} parts: ema takes at most "
            f"{MAX_ENTRIES} numbers; use fewer domains"
        )
    empty = np.zeros((k, domains.groups, columns))
    return State(spec, params, domains, empty, empty[:, :1], Moments())


def learn(state: State, interactions: Interactions) -> State:
    """Move the averages of the arms that served, row by row in the log's order."""
    check(state.spec, interactions)
    if not len(interactions):
        return state
    names = len(state.spec.reading.names)
    told = interactions.parts.shape[1] == names
    # Where only the reward is known, its parts are noughts that are never read (`whole`).
    parts = interactions.parts if told else np.zeros((len(interactions), names))
    seen = np.column_stack([np.ones(len(interactions)), interactions.reward, parts])
    half_life = float(state.params["half_life"])
    cell = interactions.action * state.domains.groups + state.domains.of(interactions.x)
    return replace(
        state,
        cells=_faded(state.cells, cell, seen, interactions.weight, half_life),
        arms=_faded(state.arms, interactions.action, seen, interactions.weight, half_life),
        moments=state.moments.add(interactions),
        whole=state.whole and told,
    )


def _faded(
    sums: Floats, cell: NDArray[np.int64], seen: Floats, weight: Floats, half_life: float
) -> Floats:
    """The sums ``(K, G, c)`` after these rows: each fades by the weight that follows it there."""
    size = sums.shape[0] * sums.shape[1]
    order = np.argsort(cell, kind="stable")
    ordered = weight[order].cumsum()
    last = np.cumsum(np.bincount(cell, minlength=size)) - 1
    after = np.empty(len(cell))
    after[order] = ordered[last[cell[order]]] - ordered
    row = weight * np.exp2(-np.maximum(after, 0.0) / half_life)
    total = np.bincount(cell, weight, size)
    found = sums.reshape(size, -1) * np.exp2(-total / half_life)[:, None]
    for column in range(seen.shape[1]):
        found[:, column] += np.bincount(cell, row * seen[:, column], size)
    return found.reshape(sums.shape)


def freeze(state: State) -> Scorer:
    """The averages of the parts, to be mixed; of the reward where its parts are not known."""
    values = averages(state)
    reading, exploration = state.spec.reading, explore(state.params, state.moments)
    dimension = state.spec.schema.dimension
    if len(reading.names) == 1 or not state.whole:
        weights = state.domains.weights(values[..., 0], dimension)
        return Linear(state.spec.arms, weights, exploration)
    weights = state.domains.weights(np.moveaxis(values[..., 1:], -1, 0), dimension)
    return Mixed(state.spec.arms, reading.names, weights, np.array(reading.mix), exploration)


def averages(state: State) -> Floats:
    """Of the reward and of each part, by arm and domain, shape ``(K, G, 1 + m)``."""
    prior = float(state.params["prior"])
    everything = state.arms.sum(axis=(0, 1))
    pool = everything[1:] / max(float(everything[0]), 1e-300)
    arms = _shrunk(state.arms, pool, prior)
    return arms if state.domains.size == 0 else _shrunk(state.cells, arms, prior)


def _shrunk(sums: Floats, usual: Floats, prior: float) -> Floats:
    found: Floats = (sums[..., 1:] + prior * usual) / (sums[..., :1] + prior)
    return found


def rearm(state: State, spec: Spec) -> State:
    """The state for other arms."""
    return replace(
        init(spec),
        cells=carried(state.cells, state.spec, spec),
        arms=carried(state.arms, state.spec, spec),
        moments=state.moments,
        whole=state.whole,
    )


def snapshot(state: State) -> bytes:
    """The state as bytes."""
    return files.pack(
        files.owner(NAME, state.spec, state.params),
        {"moments": state.moments.as_json(), "whole": state.whole},
        {"cells": state.cells, "arms": state.arms},
    )


def restore(spec: Spec, data: bytes) -> State:
    """The state that :func:`snapshot` wrote."""
    state = init(spec)
    numbers, tensors = files.unpack(files.owner(NAME, spec, state.params), data)
    return replace(
        state, moments=Moments(**numbers["moments"]), whole=bool(numbers["whole"]), **tensors
    )
