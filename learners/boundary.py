"""The two ends of the frontier of cost: always the cheapest arm, always the dearest.

References, no policies: they read costs and never a reward. An agent's policy that earns no more
than both has learnt nothing; one that serves as ``always_small`` does where the large arm pays has
collapsed. An arm's cost is its mean part ``cost_usd`` in the log; before there is one, its card's
prices; arms of the same or no known cost are alike.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from learners import snapshot as files
from learners.contract import Params, Promise, Spec, carried, check
from learners.interactions import Interactions
from learners.schedule import EXPLORATION_PARAMS, Moments, checked_params, explore
from learners.scorers.linear import Linear, constant

SMALL, LARGE = "always_small", "always_large"
PARAMS: Params = {**EXPLORATION_PARAMS, "exploration": "greedy"}
PROMISES: frozenset[Promise] = frozenset({"batch", "order", "blind"})
_COST = "cost_usd"


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """Per arm, shape ``(K,)``: the sums of weights and of weight · cost."""

    name: str
    spec: Spec
    params: dict[str, Any]
    weights: NDArray[np.float64]
    costs: NDArray[np.float64]


def init(name: str, spec: Spec) -> State:
    """Nothing known but the cards.

    Raises:
        SpecError: A parameter is out of range.
    """
    params = checked_params(name, PARAMS, spec.params, {})
    empty = np.zeros(len(spec.arms))
    return State(name, spec, params, empty, empty)


def learn(state: State, interactions: Interactions) -> State:
    """Add to each arm's costs, if the reward tells them."""
    check(state.spec, interactions)
    names = state.spec.reading.names
    if _COST not in names or interactions.parts.shape[1] != len(names) or len(names) == 1:
        return state
    cost = interactions.parts[:, names.index(_COST)]
    k, action, weight = len(state.spec.arms), interactions.action, interactions.weight
    return replace(
        state,
        weights=state.weights + np.bincount(action, weight, k),
        costs=state.costs + np.bincount(action, weight * cost, k),
    )


def freeze(state: State) -> Linear:
    """The cheapest arm's score, or the dearest's, is 1, and all others' are 0."""
    costs = _costs(state)
    known = np.isfinite(costs)
    ends = {SMALL: np.min, LARGE: np.max}
    best = costs == ends[state.name](costs[known]) if known.any() else ~known
    return constant(
        dict(zip(state.spec.arms, best.astype(np.float64).tolist(), strict=True)),
        state.spec.schema.dimension,
        explore(state.params, Moments()),
    )


def _costs(state: State) -> NDArray[np.float64]:
    """Each arm's cost, by log or else by card; NaN where it is not known, as the others' are."""
    if (state.weights > 0).any():
        seen = state.weights > 0
        return np.where(seen, state.costs / np.where(seen, state.weights, 1.0), np.nan)
    prices = [card.usd_per_mtok_in + card.usd_per_mtok_out for card in state.spec.cards]
    return np.array(prices)


def rearm(state: State, spec: Spec) -> State:
    """The state for other arms."""
    return replace(
        init(state.name, spec),
        weights=carried(state.weights, state.spec, spec),
        costs=carried(state.costs, state.spec, spec),
    )


def snapshot(state: State) -> bytes:
    """The state as bytes."""
    owner = files.owner(state.name, state.spec, state.params)
    return files.pack(owner, {}, {"weights": state.weights, "costs": state.costs})


def restore(name: str, spec: Spec, data: bytes) -> State:
    """The state that :func:`snapshot` wrote."""
    state = init(name, spec)
    _, tensors = files.unpack(files.owner(name, spec, state.params), data)
    return replace(state, **tensors)
