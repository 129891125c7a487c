"""Linear Thompson sampling: seeded draws from the posterior of each arm's regression.

A frozen policy holds ``members`` draws of all arms' weights (Agrawal & Goyal 2013,
arXiv:1209.3352); one of them, drawn evenly, decides. So an arm's probability is its share of the
members' votes, known exactly (Lu & Van Roy 2017, arXiv:1705.07347, for why some tens of members are
enough). The draws are new with each revision, and an arm keeps its own when others come or go.

The regressions are those of ``linucb``: pooled, centred, the penalty of the largest marginal
likelihood. The draws are from their joint posterior: first the shared weights, then each arm's own
around those. The noise's variance is estimated, with one more row of the rewards' own variance, as
few rewards that are alike do not prove that there is no noise. Before any reward there is nothing
to draw from: all arms tie and are as likely.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray

from learners import ridge_state
from learners.contract import Params, Promise, Spec
from learners.errors import SpecError
from learners.interactions import Interactions
from learners.ridge import MAX_ENTRIES, RIDGE_LIMITS, RIDGE_PARAMS, Fit, Pooled, check_pooling
from learners.ridge_state import State
from learners.schedule import EXPLORATION_PARAMS, checked_params, explore
from learners.scorers.ensemble import Ensemble

NAME = "lints"
PARAMS: Params = {
    **EXPLORATION_PARAMS,
    **RIDGE_PARAMS,
    "exploration": "votes",
    "members": 32,
    "pooling": 0.1,
}
"""``members``: draws in a frozen policy. ``pooling``: penalty on the shared weights, as a part of
the arms' own; 0 shares nothing."""

PROMISES: frozenset[Promise] = frozenset({"batch", "order"})
"""``order`` while ``half_life`` is 0, as it is by default."""

_SHARED = ""
"""No arm has this name."""

Floats = NDArray[np.float64]


def init(spec: Spec) -> State:
    """Nothing learnt yet.

    Raises:
        SpecError: A parameter is out of range, or the statistics or draws would be too large.
    """
    least = {"members": 2, "pooling": 0.0, **RIDGE_LIMITS}
    params = checked_params(NAME, PARAMS, spec.params, least)
    check_pooling(NAME, params)
    entries = params["members"] * len(spec.arms) * spec.schema.dimension
    if entries > MAX_ENTRIES:
        raise SpecError(
            f"{entries} weights of members × arms × columns: lints takes at most {MAX_ENTRIES}; "
            "give fewer members or columns"
        )
    return ridge_state.empty(spec, params)


def learn(state: State, interactions: Interactions) -> State:
    """Add to each arm's statistics."""
    return ridge_state.learn(state, interactions)


merge = ridge_state.merge


def freeze(state: State) -> Ensemble:
    """Draws from the posterior."""
    moments = state.moments
    best = Pooled.of(state.params).fit(state.statistics, moments.mean, moments.scale)
    weights = best.weights[None] + _deviations(state, best)
    weights[..., 0] += moments.mean
    return Ensemble(state.spec.arms, weights, explore(state.params, moments))


def _deviations(state: State, fit: Fit) -> Floats:
    """The members' draws around the posterior's mean, shape ``(M, K, d)``; 0 on average."""
    arms, members = state.spec.arms, int(state.params["members"])
    k, d = fit.weights.shape
    n = float(state.statistics.count.sum())
    if n <= 0:
        return np.zeros((members, k, d))
    normal = np.stack([_normal(state, arm, members) for arm in arms])
    drawn = fit.factor.root @ normal
    if fit.shared_root is not None:
        shared = fit.shared_root @ _normal(state, _SHARED, members)
        pulled = fit.factor.root.swapaxes(1, 2) @ (fit.penalty[:, None] * shared)
        drawn = drawn + fit.factor.root @ pulled
    noise = (n * fit.noise + state.moments.scale**2) / (n + 1.0)
    return np.asarray(np.sqrt(noise) * drawn.transpose(2, 0, 1))


def _normal(state: State, name: str, members: int) -> Floats:
    """Standard normal numbers of a name, shape ``(d, M)``.

    Their mean over the members is 0, as a greedy choice goes by the members' mean; each by itself
    is still normal with variance 1.
    """
    number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
    random = np.random.default_rng([state.spec.seed % 2**63, state.rows, number])
    found = random.standard_normal((state.spec.schema.dimension, members))
    found -= found.mean(axis=1, keepdims=True)
    return np.asarray(found / np.sqrt(1.0 - 1.0 / members))


def rearm(state: State, spec: Spec) -> State:
    """The state for other arms."""
    return ridge_state.rearm(state, init(spec))


def snapshot(state: State) -> bytes:
    """The state as bytes."""
    return ridge_state.snapshot(NAME, state)


def restore(spec: Spec, data: bytes) -> State:
    """The state that :func:`snapshot` wrote."""
    return ridge_state.restore(NAME, init(spec), data)
