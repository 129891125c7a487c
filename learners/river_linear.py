"""River's linear regression, one an arm, trained by FTRL-Proximal (McMahan et al. 2013).

FTRL keeps a weight small until there is evidence for it, which a short log needs. The reward is
learnt in standard deviations from its running mean. The state holds plain arrays: River's objects
are made for a `learn` and read out after it, so nothing of River's is ever pickled or shared.
Incremental equals batch exactly. With ``drift`` an arm whose residuals say that it has changed
starts anew.

Of `river.bandit` nothing is used: its Exp3 divides by the probability of the last pull, which is
wrong when rewards come late.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from river import linear_model, optim, utils

from learners import drift
from learners import snapshot as files
from learners.contract import Params, Promise, Spec, carried, check, kept
from learners.errors import SpecError
from learners.interactions import Interactions
from learners.schedule import EXPLORATION_PARAMS, Moments, checked_params, explore, standardise
from learners.scorers.linear import Linear

NAME = "river"
PARAMS: Params = {
    **EXPLORATION_PARAMS,
    "rate": 0.1,
    "l2": 5.0,
    "importance": 0.0,
    "max_importance": 10.0,
    "drift": "none",
}
"""``rate`` and ``l2``: FTRL's alpha and l2. ``importance``: the power of the importance weight
``1 / (arms · propensity)``, which is capped by ``max_importance``; 0 for a plain regression, as
each arm's own regression is not biased by how often the arm was chosen. ``drift``: what detects
that an arm has changed, one of :data:`learners.drift.KINDS`."""

MAX_WEIGHTS = 2**22
"""Arms × columns."""

Floats = NDArray[np.float64]


_PARTS = ("weights", "z", "n")
PROMISES: frozenset[Promise] = frozenset({"batch"})


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """Each arm's weights and FTRL's two sums, shape ``(K, d)``, and its detector's, ``(K, s)``."""

    spec: Spec
    params: dict[str, Any]
    weights: Floats
    z: Floats
    n: Floats
    watch: Floats
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
    watch = drift.start(drift.checked(NAME, params["drift"]), k)
    return State(spec, params, empty, empty, empty, watch, Moments())


def learn(state: State, interactions: Interactions) -> State:
    """Show each arm's regression its interactions, in order."""
    check(state.spec, interactions)
    rewards, moments = standardise(state.moments, interactions)
    importance = _importance(state, interactions)
    parts = {name: getattr(state, name).copy() for name in (*_PARTS, "watch")}
    taught = interactions.weight > 0
    for arm in np.unique(interactions.action[taught]).tolist():
        chosen = np.flatnonzero(taught & (interactions.action == arm))
        rows = zip(
            interactions.x[chosen],
            rewards[chosen].tolist(),
            importance[chosen].tolist(),
            strict=True,
        )
        model, detector = _taught(state, arm, rows)
        for name, values in zip(
            _PARTS, (model.weights, model.optimizer.z, model.optimizer.n), strict=True
        ):
            parts[name][arm] = 0.0
            _write(parts[name][arm], values)
        if detector is not None:
            parts["watch"][arm] = detector.numbers()
    return replace(state, moments=moments, **parts)


def _taught(
    state: State, arm: int, rows: Iterable[tuple[Floats, float, float]]
) -> tuple[Any, drift.Detector | None]:
    """An arm's regression and detector after its rows of context, reward and importance."""
    model = _model(state, state.weights[arm], state.z[arm], state.n[arm])
    detector = drift.resumed(state.params["drift"], state.watch[arm])
    for x, reward, importance in rows:
        features = _features(x)
        if detector is not None and detector.update(reward - model.predict_one(features)):
            nothing = np.zeros(len(x))
            model = _model(state, nothing, nothing, nothing)
        model.learn_one(features, reward, importance)
    return model, detector


def _importance(state: State, interactions: Interactions) -> Floats:
    arms = interactions.eligible.sum(axis=1)
    power = float(state.params["importance"])
    inverse: Floats = np.power(arms * interactions.propensity, -power)
    capped: Floats = np.minimum(inverse, float(state.params["max_importance"]))
    return interactions.weight * capped


def _model(state: State, weights: Floats, z: Floats, n: Floats) -> Any:
    """River's regression with these numbers; the constant is a column, so no intercept."""
    rate, l2 = float(state.params["rate"]), float(state.params["l2"])
    optimizer = optim.FTRLProximal(alpha=rate, l2=l2)
    optimizer.z.update(_features(z))
    optimizer.n.update(_features(n))
    model = linear_model.LinearRegression(optimizer, intercept_lr=0.0)
    # River has no public way to start from given weights.
    model._weights = utils.VectorDict(_features(weights))  # noqa: SLF001
    return model


def _features(x: Floats) -> dict[Any, float]:
    columns = np.flatnonzero(x)
    return dict(zip(columns.tolist(), x[columns].tolist(), strict=True))


def _write(row: Floats, values: dict[Any, float]) -> None:
    for column, value in values.items():
        row[column] = value


def freeze(state: State) -> Linear:
    """River's weights, in the reward's own unit."""
    weights = state.weights * state.moments.scale
    weights[:, 0] += state.moments.mean
    return Linear(state.spec.arms, weights, explore(state.params, state.moments))


def rearm(state: State, spec: Spec) -> State:
    """The state for other arms."""
    parts: dict[str, Any] = {
        name: carried(getattr(state, name), state.spec, spec) for name in _PARTS
    }
    fresh = init(spec)
    before, after = kept(state.spec, spec)
    watch = fresh.watch.copy()
    watch[after] = state.watch[before]
    return replace(fresh, moments=state.moments, watch=watch, **parts)


def snapshot(state: State) -> bytes:
    """The state as bytes."""
    return files.pack(
        files.owner(NAME, state.spec, state.params),
        state.moments.as_json(),
        {name: getattr(state, name) for name in (*_PARTS, "watch")},
    )


def restore(spec: Spec, data: bytes) -> State:
    """The state that :func:`snapshot` wrote."""
    state = init(spec)
    numbers, tensors = files.unpack(files.owner(NAME, spec, state.params), data)
    return replace(state, moments=Moments(**numbers), **tensors)
