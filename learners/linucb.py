"""LinUCB: a ridge regression an arm, with an upper-confidence bonus (Li et al., arXiv:1003.0146).

The state is each arm's sufficient statistics, so learning is one matrix product and any order of
the log gives the same state; incremental equals batch up to rounding. Beyond the paper:

* rewards are centred on their mean, so an arm without data is average and not worth 0;
* arms share a common regression, and each arm's own is shrunk to that (``pooling``), so that what
  all arms find hard is learnt once;
* the ridge penalty is the one of the largest marginal likelihood (``ridge=0``), as a short log
  needs a strong penalty and a long one a weak.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from learners import snapshot as files
from learners.contract import Params, Spec, check
from learners.errors import SpecError
from learners.interactions import Interactions
from learners.schedule import EXPLORATION_PARAMS, Moments, checked_params, explore
from learners.scorer import Scorer

NAME = "linucb"
PARAMS: Params = {
    **EXPLORATION_PARAMS,
    "exploration": "greedy",
    "alpha": 0.5,
    "ridge": 0.0,
    "ridge_constant": 1.0,
    "pooling": 0.1,
}
"""``alpha``: the bonus, in standard deviations of reward; 0 leaves a plain linear scorer.
``ridge``: penalty on an arm's own weights, 0 to choose it; ``ridge_constant``: on its constant.
``pooling``: penalty on the shared weights, as a part of those; 0 shares nothing."""

PENALTIES = (3.0, 10.0, 30.0, 100.0, 300.0)
"""What ``ridge=0`` chooses from."""
MAX_ENTRIES = 6 * 2**20
"""Arms × columns²: what still fits a bundle of 64 MiB."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """Per arm: Σ w x xᵀ ``(K, d, d)``, Σ w r x ``(K, d)`` and Σ w r² ``(K,)``."""

    spec: Spec
    params: dict[str, Any]
    gram: Floats
    moment: Floats
    energy: Floats
    moments: Moments


def init(spec: Spec) -> State:
    """Nothing learnt yet.

    Raises:
        SpecError: A parameter is out of range, or the statistics would be too large.
    """
    least = {"alpha": 0.0, "ridge": 0.0, "ridge_constant": 1e-9, "pooling": 0.0}
    params = checked_params(NAME, PARAMS, spec.params, least)
    k, d = len(spec.arms), spec.schema.dimension
    if k * d * d > MAX_ENTRIES:
        raise SpecError(
            f"{k} arms of {d}² entries: linucb takes at most {MAX_ENTRIES} in all; "
            "use fewer columns, or the learner vw or river"
        )
    return State(spec, params, np.zeros((k, d, d)), np.zeros((k, d)), np.zeros(k), Moments())


def learn(state: State, interactions: Interactions) -> State:
    """Add to each arm's statistics."""
    check(state.spec, interactions)
    gram, moment, energy = state.gram.copy(), state.moment.copy(), state.energy.copy()
    for arm in np.unique(interactions.action).tolist():
        chosen = interactions.action == arm
        x, reward = interactions.x[chosen], interactions.reward[chosen]
        weighted = x * interactions.weight[chosen, None]
        gram[arm] += weighted.T @ x
        moment[arm] += weighted.T @ reward
        energy[arm] += interactions.weight[chosen] @ np.square(reward)
    moments = state.moments.add(interactions)
    return replace(state, gram=gram, moment=moment, energy=energy, moments=moments)


def freeze(state: State) -> Scorer:
    """The regression's weights, with the bonus' inverse matrices where ``alpha`` is above 0."""
    ridge = float(state.params["ridge"])
    fits = [_fit(state, penalty) for penalty in (PENALTIES if ridge == 0.0 else (ridge,))]
    best = max(fits, key=lambda fit: fit.evidence)
    weights = best.weights.copy()
    weights[:, 0] += state.moments.mean
    alpha = float(state.params["alpha"]) * state.moments.scale
    return Scorer(
        arms=state.spec.arms,
        weights=weights,
        exploration=explore(state.params, state.moments),
        inverse=best.inverse if alpha > 0 else None,
        alpha=alpha,
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Fit:
    evidence: float
    weights: Floats
    inverse: Floats


def _fit(state: State, ridge: float) -> _Fit:
    """One penalty's regressions on centred rewards, and their log marginal likelihood."""
    k, d = state.moment.shape
    mean = state.moments.mean
    counts = state.gram[:, 0, 0]
    moment = state.moment - mean * state.gram[:, :, 0]
    energy = state.energy - 2 * mean * state.moment[:, 0] + mean * mean * counts
    penalty = np.full(d, ridge)
    penalty[0] = float(state.params["ridge_constant"])
    regular = state.gram + np.diag(penalty)
    inverse: Floats = np.linalg.inv(regular).astype(np.float64, copy=False)
    shared = _shared(state, moment, inverse, penalty)
    # What the shared regression leaves is each arm's own.
    rest = moment - state.gram @ shared
    energy = energy - 2 * moment @ shared + state.gram @ shared @ shared
    own = np.einsum("kde,ke->kd", inverse, rest)
    residual = float((energy - (rest * own).sum(axis=1)).sum())
    n = max(float(counts.sum()), 1.0)
    evidence = (
        -n * np.log(max(residual / n, 1e-12 * state.moments.scale**2))
        - np.linalg.slogdet(regular)[1].sum()
        + k * np.log(penalty).sum()
    ) / 2
    return _Fit(float(evidence), shared + own, inverse)


def _shared(state: State, moment: Floats, inverse: Floats, penalty: Floats) -> Floats:
    """The regression that the arms' own deviate from, solved jointly with them."""
    pooling = float(state.params["pooling"])
    if pooling == 0.0:
        return np.zeros(len(penalty))
    # With own = inverse (moment - gram · shared) put in, only the shared weights are unknown.
    explained = state.gram @ inverse
    left = (state.gram - explained @ state.gram).sum(axis=0) + pooling * np.diag(penalty)
    right = (moment - np.einsum("kde,ke->kd", explained, moment)).sum(axis=0)
    return np.asarray(np.linalg.solve(left, right), dtype=np.float64)


def snapshot(state: State) -> bytes:
    """The state as bytes."""
    return files.pack(
        files.owner(NAME, state.spec, state.params),
        state.moments.as_json(),
        {"gram": state.gram, "moment": state.moment, "energy": state.energy},
    )


def restore(spec: Spec, data: bytes) -> State:
    """The state that :func:`snapshot` wrote."""
    state = init(spec)
    numbers, tensors = files.unpack(files.owner(NAME, spec, state.params), data)
    return replace(state, moments=Moments(**numbers), **tensors)
