"""The best arm of each domain, as far as the domains differ: a baseline that knows one feature.

Each arm's mean in a domain is shrunk to what the arm does everywhere and the domain does to every
arm. How far is estimated from the log (empirical Bayes, :mod:`learners.two_way`): where domains do
not differ this is ``best_fixed``, and where they do it is the best arm of each. Means are weighted
by the propensity as in ``best_fixed``.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from learners import snapshot as files
from learners.arm_sums import ArmSums
from learners.contract import Params, Promise, Spec, check
from learners.domains import DOMAIN, Domains, domains_of
from learners.interactions import Interactions
from learners.schedule import EXPLORATION_PARAMS, Moments, checked_params, explore
from learners.scorers.linear import Linear
from learners.two_way import Floats, fit

NAME = "per_domain"
PARAMS: Params = {**EXPLORATION_PARAMS, "domain": DOMAIN, "prior": 4.0, "max_importance": 5.0}
"""``domain``: the category whose values are the domains. ``prior``: effective interactions that the
mean of all counts for in each arm's and each domain's effect. ``max_importance``: cap on
``1 / propensity``."""

PROMISES: frozenset[Promise] = frozenset({"batch", "order"})


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """What each arm earned in each domain."""

    spec: Spec
    params: dict[str, Any]
    domains: Domains
    sums: ArmSums
    moments: Moments


def init(spec: Spec) -> State:
    """Nothing learnt yet.

    Raises:
        SpecError: A parameter is out of range, or there are too many arms and domains.
    """
    params = checked_params(NAME, PARAMS, spec.params, {"prior": 1e-9, "max_importance": 1.0})
    domains = domains_of(spec.schema, str(params["domain"]))
    return State(spec, params, domains, ArmSums.empty(len(spec.arms), domains.groups), Moments())


def learn(state: State, interactions: Interactions) -> State:
    """Add to each arm's sums."""
    check(state.spec, interactions)
    group = state.domains.of(interactions.x)
    cap = float(state.params["max_importance"])
    return replace(
        state,
        sums=state.sums.add(interactions, group, cap),
        moments=state.moments.add(interactions),
    )


def freeze(state: State) -> Linear:
    """A constant an arm and domain."""
    weights = state.domains.weights(values(state), state.spec.schema.dimension)
    return Linear(state.spec.arms, weights, explore(state.params, state.moments))


def values(state: State) -> Floats:
    """What each arm is worth in each domain, shape ``(K, G)``."""
    cells, usual = state.sums.cells(), state.moments.mean
    seen = cells.count > 0
    # One row of the spread of all rewards beside the cells' own: a few alike are not noiseless.
    squares = float((cells.count * cells.variance).sum()) + state.moments.scale**2
    noise = squares / (float(np.maximum(cells.count - 1.0, 0.0).sum()) + 1.0)
    centred = np.where(seen, cells.mean - usual, 0.0)
    found = fit(centred, cells.count, noise, float(state.params["prior"]))
    signal = found.between * cells.count
    own = signal / (signal + noise) * (centred - found.effects)
    return usual + found.effects + own


def rearm(state: State, spec: Spec) -> State:
    """The state for other arms."""
    return replace(init(spec), sums=state.sums.rearmed(state.spec, spec), moments=state.moments)


def snapshot(state: State) -> bytes:
    """The state as bytes."""
    return files.pack(
        files.owner(NAME, state.spec, state.params),
        state.moments.as_json(),
        {"sums": state.sums.values},
    )


def restore(spec: Spec, data: bytes) -> State:
    """The state that :func:`snapshot` wrote."""
    state = init(spec)
    numbers, tensors = files.unpack(files.owner(NAME, spec, state.params), data)
    return replace(state, moments=Moments(**numbers), sums=ArmSums(tensors["sums"]))
