"""The baseline that every other learner must beat: the one arm with the best mean reward.

On traffic that does not change it is hard to beat. The mean is importance-weighted, as a log of a
policy that looks at the context shows an arm mostly where that arm is good. Incremental learning
equals batch learning up to rounding.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from learners import snapshot as files
from learners.contract import Params, Spec, check
from learners.interactions import Interactions
from learners.schedule import EXPLORATION_PARAMS, Moments, checked_params, explore
from learners.scorer import Scorer, constant

NAME = "best_fixed"
PARAMS: Params = {**EXPLORATION_PARAMS, "prior": 4.0, "max_importance": 5.0}
"""``prior``: effective interactions that the mean of all arms counts for in each arm's mean.
``max_importance``: cap on ``1 / propensity``; a little bias for much less variance."""


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """Per arm, shape ``(K,)``: the sums of w, of w² and of w · reward."""

    spec: Spec
    params: dict[str, Any]
    weights: NDArray[np.float64]
    squares: NDArray[np.float64]
    rewards: NDArray[np.float64]
    moments: Moments


def init(spec: Spec) -> State:
    """Nothing learnt yet."""
    least = {"prior": 1e-9, "max_importance": 1.0}
    params = checked_params(NAME, PARAMS, spec.params, least)
    empty = np.zeros(len(spec.arms))
    return State(spec, params, empty, empty, empty, Moments())


def learn(state: State, interactions: Interactions) -> State:
    """Add to each arm's sums."""
    check(state.spec, interactions)
    k, action = len(state.spec.arms), interactions.action
    cap = float(state.params["max_importance"])
    weight = interactions.weight * np.minimum(1.0 / interactions.propensity, cap)
    return replace(
        state,
        weights=state.weights + np.bincount(action, weight, k),
        squares=state.squares + np.bincount(action, weight * weight, k),
        rewards=state.rewards + np.bincount(action, weight * interactions.reward, k),
        moments=state.moments.add(interactions),
    )


def freeze(state: State) -> Scorer:
    """Each arm's self-normalised mean, shrunk to the mean of all by its effective number."""
    seen = state.weights > 0
    weights = np.where(seen, state.weights, 1.0)
    mean = np.where(seen, state.rewards / weights, state.moments.mean)
    effective = np.where(seen, weights * weights / np.where(seen, state.squares, 1.0), 0.0)
    share = effective / (effective + float(state.params["prior"]))
    values = state.moments.mean + share * (mean - state.moments.mean)
    return constant(
        dict(zip(state.spec.arms, values.tolist(), strict=True)),
        state.spec.schema.dimension,
        explore(state.params, state.moments),
    )


def snapshot(state: State) -> bytes:
    """The state as bytes."""
    return files.pack(
        files.owner(NAME, state.spec, state.params),
        state.moments.as_json(),
        {"weights": state.weights, "squares": state.squares, "rewards": state.rewards},
    )


def restore(spec: Spec, data: bytes) -> State:
    """The state that :func:`snapshot` wrote."""
    state = init(spec)
    numbers, tensors = files.unpack(files.owner(NAME, spec, state.params), data)
    return replace(state, moments=Moments(**numbers), **tensors)
