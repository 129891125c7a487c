"""River's linear regression, one an arm, trained by FTRL-Proximal (McMahan et al. 2013).

FTRL keeps a weight small until there is evidence for it, which a short log needs. The reward is
learnt in standard deviations from its running mean. The state holds plain arrays: River's objects
are made for a `learn` and read out after it, so nothing of River's is ever pickled or shared.
Incremental equals batch exactly.

Of `river.bandit` nothing is used: its Exp3 divides by the probability of the last pull, which is
wrong when rewards come late.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from river import linear_model, optim, utils

from learners import snapshot as files
from learners.contract import Params, Spec, check
from learners.errors import SpecError
from learners.interactions import Interactions
from learners.schedule import EXPLORATION_PARAMS, Moments, checked_params, explore, standardise
from learners.scorer import Scorer

NAME = "river"
PARAMS: Params = {
    **EXPLORATION_PARAMS,
    "rate": 0.1,
    "l2": 5.0,
    "importance": 0.0,
    "max_importance": 10.0,
}
"""``rate`` and ``l2``: FTRL's alpha and l2. ``importance``: the power of the importance weight
``1 / (arms · propensity)``, which is capped by ``max_importance``; 0 for a plain regression, as
each arm's own regression is not biased by how often the arm was chosen."""

MAX_WEIGHTS = 2**22
"""Arms × columns."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """Each arm's weights and FTRL's two sums, shape ``(K, d)``."""

    spec: Spec
    params: dict[str, Any]
    weights: Floats
    z: Floats
    n: Floats
    moments: Moments


def init(spec: Spec) -> State:
    """Nothing learnt yet.

    Raises:
        SpecError: A parameter is out of range, or there are too many weights.
    """
    least = {"rate": 1e-9, "l2": 0.0, "importance": 0.0, "max_importance": 1e-9}
    params = checked_params(NAME, PARAMS, spec.params, least)
    if float(params["importance"]) > 1.0:
        raise SpecError(f"river.importance is {params['importance']}: give 0 to 1")
    k, d = len(spec.arms), spec.schema.dimension
    if k * d > MAX_WEIGHTS:
        raise SpecError(f"{k * d} weights: river takes at most {MAX_WEIGHTS}; use fewer columns")
    empty = np.zeros((k, d))
    return State(spec, params, empty, empty, empty, Moments())


def learn(state: State, interactions: Interactions) -> State:
    """Show each arm's regression its interactions, in order."""
    check(state.spec, interactions)
    rewards, moments = standardise(state.moments, interactions)
    importance = _importance(state, interactions)
    weights, z, n = state.weights.copy(), state.z.copy(), state.n.copy()
    taught = interactions.weight > 0
    for arm in np.unique(interactions.action[taught]).tolist():
        model = _model(state, arm)
        for i in np.flatnonzero(taught & (interactions.action == arm)).tolist():
            model.learn_one(_features(interactions.x[i]), rewards[i].item(), importance[i].item())
        _write(weights[arm], model.weights)
        _write(z[arm], model.optimizer.z)
        _write(n[arm], model.optimizer.n)
    return replace(state, weights=weights, z=z, n=n, moments=moments)


def _importance(state: State, interactions: Interactions) -> Floats:
    arms = interactions.eligible.sum(axis=1)
    power = float(state.params["importance"])
    inverse: Floats = np.power(arms * interactions.propensity, -power)
    capped: Floats = np.minimum(inverse, float(state.params["max_importance"]))
    return interactions.weight * capped


def _model(state: State, arm: int) -> Any:
    """River's regression as the state has it; the constant is a column, so no intercept."""
    rate, l2 = float(state.params["rate"]), float(state.params["l2"])
    optimizer = optim.FTRLProximal(alpha=rate, l2=l2)
    optimizer.z.update(_features(state.z[arm]))
    optimizer.n.update(_features(state.n[arm]))
    model = linear_model.LinearRegression(optimizer, intercept_lr=0.0)
    # River has no public way to start from given weights.
    model._weights = utils.VectorDict(_features(state.weights[arm]))  # noqa: SLF001
    return model


def _features(x: Floats) -> dict[Any, float]:
    columns = np.flatnonzero(x)
    return dict(zip(columns.tolist(), x[columns].tolist(), strict=True))


def _write(row: Floats, values: dict[Any, float]) -> None:
    for column, value in values.items():
        row[column] = value


def freeze(state: State) -> Scorer:
    """River's weights, in the reward's own unit."""
    weights = state.weights * state.moments.scale
    weights[:, 0] += state.moments.mean
    return Scorer(state.spec.arms, weights, explore(state.params, state.moments))


def snapshot(state: State) -> bytes:
    """The state as bytes."""
    return files.pack(
        files.owner(NAME, state.spec, state.params),
        state.moments.as_json(),
        {"weights": state.weights, "z": state.z, "n": state.n},
    )


def restore(spec: Spec, data: bytes) -> State:
    """The state that :func:`snapshot` wrote."""
    state = init(spec)
    numbers, tensors = files.unpack(files.owner(NAME, spec, state.params), data)
    return replace(state, moments=Moments(**numbers), **tensors)
