"""One Gaussian hierarchy over all arms: the learner for few data, many arms and many domains.

Each part of the reward (quality, cost) is a hierarchy of its own (:mod:`learners.hierarchy`), as a
cost is almost certain where a grade is a coin's toss. How much a group of columns (the domain, the
words, the other signals) may tell is chosen by the data, so that where there is nothing to tell the
best fixed arm is left. It explores by Thompson sampling (Thompson 1933): the scorer is an ensemble
of draws from the posterior, whose votes are exact propensities.

The state is sums, so any order and any pieces of a log give the same policy, as long as a probe's
rows stay together; a probe that is cut counts as single rows.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from learners import probes
from learners import snapshot as files
from learners.contract import Params, Promise, Spec, carried, check
from learners.errors import SpecError
from learners.features import Schema
from learners.hierarchy import Fit, Sums, fit
from learners.interactions import Interactions
from learners.schedule import EXPLORATION_PARAMS, Moments, checked_params, explore
from learners.scorers.base import Scorer
from learners.scorers.ensemble import Ensemble
from learners.scorers.linear import Linear
from learners.scorers.mixed import Mixed

NAME = "hierarchical"
PARAMS: Params = {
    **EXPLORATION_PARAMS,
    "exploration": "votes",
    "doubt": 0.5,
    "caution": 0.25,
    "members": 64,
    "rounds": 20,
}
"""``doubt``: how much evidence a group of columns needs before it counts. ``caution``: an arm other
than the best fixed one must promise more by so many posterior standard deviations. ``members``:
draws from the posterior, at most. ``rounds``: of the search for the variances, at most."""

PROMISES: frozenset[Promise] = frozenset({"batch", "order"})
MAX_ENTRIES = 6 * 2**20
"""Arms × columns²."""
MAX_MEMBERS = 1_024
_MAX_DRAWN = 2**20
"""Members × arms × columns, beyond which there are fewer members."""
_JITTER = 1e-9

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """The sums of m parts; those of contexts are the same for all.

    Attributes:
        probe_gram: ``(d, d)``.
        probe_moment: ``(m, d, K)``.
        probe_square: ``(m, K, K)``.
        gram: ``(K, d, d)``.
        moment: ``(m, K, d)``.
        energy: ``(m, K)``.
    """

    spec: Spec
    params: dict[str, Any]
    probe_gram: Floats
    probe_moment: Floats
    probe_square: Floats
    gram: Floats
    moment: Floats
    energy: Floats
    moments: Moments


_SUMS = ("probe_gram", "probe_moment", "probe_square", "gram", "moment", "energy")


def init(spec: Spec) -> State:
    """Nothing learnt yet.

    Raises:
        SpecError: A parameter is out of range, or the statistics would be too large.
    """
    least = {"doubt": 0.0, "caution": 0.0, "members": 2, "rounds": 1}
    given = {**spec.params}
    votes = given.get("exploration", "votes") == "votes"
    params = checked_params(NAME, PARAMS, given, least)
    if votes and int(params["members"]) > MAX_MEMBERS:
        raise SpecError(f"{NAME}.members is {params['members']}: give 2 to {MAX_MEMBERS}")
    k, d, m = len(spec.arms), spec.schema.dimension, len(spec.reading.names)
    if k * d * d > MAX_ENTRIES:
        raise SpecError(
            f"{k} arms of {d}² entries: {NAME} takes at most {MAX_ENTRIES} in all; "
            "use fewer columns, or the learner vw or river"
        )
    zeros = np.zeros
    return State(
        spec,
        params,
        probe_gram=zeros((d, d)),
        probe_moment=zeros((m, d, k)),
        probe_square=zeros((m, k, k)),
        gram=zeros((k, d, d)),
        moment=zeros((m, k, d)),
        energy=zeros((m, k)),
        moments=Moments(),
    )


def learn(state: State, interactions: Interactions) -> State:
    """Add to the sums: whole probes side by side, what each arm served by itself."""
    check(state.spec, interactions)
    if not len(interactions):
        return state
    parts = _targets(state.spec, interactions)
    rows = probes.find(interactions)
    single = np.ones(len(interactions), dtype=np.bool_)
    single[rows.ravel()] = False
    found = _with_probes(state, interactions, parts, rows)
    gram, moment, energy = found.gram.copy(), found.moment.copy(), found.energy.copy()
    for arm in np.unique(interactions.action[single]).tolist():
        chosen = np.flatnonzero(single & (interactions.action == arm))
        x, weight, told = interactions.x[chosen], interactions.weight[chosen], parts[chosen]
        weighted = x * weight[:, None]
        gram[arm] += weighted.T @ x
        moment[:, arm] += told.T @ weighted
        energy[:, arm] += weight @ np.square(told)
    moments = state.moments.add(interactions)
    return replace(found, gram=gram, moment=moment, energy=energy, moments=moments)


def _targets(spec: Spec, interactions: Interactions) -> Floats:
    """The parts ``(n, m)``; where they are not known apart, the reward stands in the first."""
    m = len(spec.reading.names)
    if interactions.parts.shape[1] == m > 1:
        return interactions.parts
    first = next((i for i, weight in enumerate(spec.reading.mix) if weight), None)
    parts = np.zeros((len(interactions), m))
    if first is not None:
        parts[:, first] = (interactions.reward - spec.reading.offset) / spec.reading.mix[first]
    return parts


def _with_probes(
    state: State, interactions: Interactions, parts: Floats, rows: NDArray[np.int64]
) -> State:
    if not len(rows):
        return state
    x, weight = interactions.x[rows[:, 0]], interactions.weight[rows[:, 0]]
    weighted, told = x * weight[:, None], parts[rows]
    return replace(
        state,
        probe_gram=state.probe_gram + weighted.T @ x,
        probe_moment=state.probe_moment + np.einsum("pd,pkm->mdk", weighted, told),
        probe_square=state.probe_square + np.einsum("pkm,p,plm->mkl", told, weight, told),
    )


def freeze(state: State) -> Scorer:
    """Draws from the posterior that vote; with another exploration, its means."""
    exploration = explore(state.params, state.moments)
    arms, mix = state.spec.arms, np.asarray(state.spec.reading.mix)
    k, d = state.moment.shape[1:]
    seen = state.probe_gram[0, 0] + state.gram[:, 0, 0]
    if not seen.any():
        zeros = np.zeros((2, k, d))
        return (
            Ensemble(arms, zeros, exploration)
            if exploration.kind == "votes"
            else Linear(arms, zeros[0], exploration)
        )
    groups = groups_of(state.spec.schema)
    doubt, rounds = float(state.params["doubt"]), int(state.params["rounds"])
    fits = [fit(_sums(state, i), groups, doubt=doubt, rounds=rounds) for i in range(len(mix))]
    weights = np.stack([one.weights for one in fits])
    covariance = np.einsum("m,mkde->kde", np.square(mix), np.stack([f.covariance for f in fits]))
    mixed = Fit(np.tensordot(mix, weights, axes=1), covariance)
    margin = _margin(state, mixed)
    if exploration.kind != "votes" and len(mix) > 1 and mix.any():
        first = int(np.flatnonzero(mix)[0])
        weights[first, :, 0] -= margin / mix[first]
        return Mixed(arms, state.spec.reading.names, weights, mix, exploration)
    cautious = mixed.weights.copy()
    cautious[:, 0] -= margin
    if exploration.kind != "votes":
        return Linear(arms, cautious, exploration)
    return Ensemble(arms, cautious + _draws(state, mixed), exploration)


def _sums(state: State, part: int) -> Sums:
    return Sums(
        state.probe_gram,
        state.probe_moment[part],
        state.probe_square[part],
        state.gram,
        state.moment[part],
        state.energy[part],
    )


def groups_of(schema: Schema) -> NDArray[np.int64]:
    """Which columns share a variance: those of one category or vector, and all other ones."""
    found, last = [0], 1
    for feature in schema.features:
        if feature.kind in {"category", "vector"}:
            last += 1
            found += [last] * feature.width
        else:
            found += [1] * feature.width
    groups = np.array(found, dtype=np.int64)
    return np.unique(groups, return_inverse=True)[1].astype(np.int64)


def _margin(state: State, found: Fit) -> Floats:
    """By how much each arm but the best fixed one must promise more, shape ``(K,)``."""
    gram = state.probe_gram + state.gram.sum(axis=0)
    n = gram[0, 0]
    variance = (found.covariance * (gram / n)).sum(axis=(1, 2))
    best = int((found.weights @ (gram[0] / n)).argmax())
    spread = np.maximum(variance + variance[best], 0.0)
    margin: Floats = float(state.params["caution"]) * np.sqrt(spread)
    margin[best] = 0.0
    return margin


def _draws(state: State, found: Fit) -> Floats:
    """Deviations from the means ``(M, K, d)``, each with its mirror image, so they average to 0."""
    k, d = found.weights.shape
    members = min(int(state.params["members"]), max(16, _MAX_DRAWN // (k * d)))
    half = max(1, members // 2)
    random = np.random.default_rng(state.spec.seed)
    normal = random.normal(size=(k, d, half))
    drawn = np.moveaxis(_roots(found.covariance) @ normal, 2, 0)
    return np.concatenate([drawn, -drawn])


def _roots(covariance: Floats) -> Floats:
    """Square roots ``(K, d, d)`` of covariances that rounding may have made a little indefinite."""
    d = covariance.shape[1]
    trace = np.einsum("kdd->k", covariance)
    loaded = covariance + (_JITTER * trace / d)[:, None, None] * np.eye(d)
    try:
        return np.asarray(np.linalg.cholesky(loaded), dtype=np.float64)
    except np.linalg.LinAlgError:
        values, vectors = np.linalg.eigh(covariance)
        return np.asarray(vectors * np.sqrt(np.maximum(values, 0.0))[:, None, :])


def rearm(state: State, spec: Spec) -> State:
    """The state for other arms; probes go on as what each arm served, as they are whole no more."""
    fresh = init(spec)
    same = spec.arms == state.spec.arms and spec.revisions == state.spec.revisions
    each = state if same else _unpaired(state)
    gram = carried(each.gram, state.spec, spec)
    moment = np.stack([carried(part, state.spec, spec) for part in each.moment])
    energy = np.stack([carried(part, state.spec, spec) for part in each.energy])
    kept = {name: getattr(each, name) for name in _SUMS if name.startswith("probe") and same}
    return replace(fresh, gram=gram, moment=moment, energy=energy, moments=state.moments, **kept)


def _unpaired(state: State) -> State:
    """The same knowledge with each probe as K single rows."""
    return replace(
        state,
        gram=state.gram + state.probe_gram,
        moment=state.moment + np.swapaxes(state.probe_moment, 1, 2),
        energy=state.energy + np.einsum("mkk->mk", state.probe_square),
    )


def snapshot(state: State) -> bytes:
    """The state as bytes."""
    return files.pack(
        files.owner(NAME, state.spec, state.params),
        state.moments.as_json(),
        {name: getattr(state, name) for name in _SUMS},
    )


def restore(spec: Spec, data: bytes) -> State:
    """The state that :func:`snapshot` wrote."""
    state = init(spec)
    numbers, tensors = files.unpack(files.owner(NAME, spec, state.params), data)
    return replace(state, moments=Moments(**numbers), **tensors)
