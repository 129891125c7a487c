"""One LinUCB for all arms over context × card: a new arm is served from its card at once.

As Symphony-Coord chooses agents (Guan et al. 2026, arXiv:2602.00966), one ridge regression over
features of the request and of the arm together::

    score(x, a) = zᵀ W c_a + own_a,     z = Rᵀ x,   c_a = (1, the card's columns)

``own_a`` is what an arm is worth beyond its card, shrunk to 0 (LinUCB's hybrid model, Li et al.
2010, arXiv:1003.0146, algorithm 2); cards that are alike, or empty, tell nothing apart, and the
arms are then told apart by this alone. An arm without data is worth what its card promises.

* The card's columns are :func:`learners.cards.columns` in their ``card_columns`` main directions
  over the pool; all of them where there are no more.
* R keeps every column of the context but vectors', which are projected at random (by the seed) so
  that no more than ``columns`` remain. So W stays small, whatever the schema.

The statistics are kept by arm, so cards may change and arms come and go without learning again:
``gram = Σ_a gram_a ⊗ c_a c_aᵀ``. Arms that have left go on teaching what their cards are worth, the
last :data:`MAX_GONE` of them. ``own_a`` is eliminated exactly, and the scorer is exact too.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from learners import cards, ridge_state
from learners import snapshot as files
from learners.contract import Params, Promise, Spec, kept
from learners.errors import SpecError
from learners.features import Schema
from learners.interactions import Interactions
from learners.records import Card
from learners.ridge import MAX_ENTRIES, RIDGE_LIMITS, RIDGE_PARAMS, Fit, Pooled, Statistics
from learners.schedule import EXPLORATION_PARAMS, Moments, checked_params, explore
from learners.scorers.linear import Linear

NAME = "shared_linucb"
PARAMS: Params = {
    **EXPLORATION_PARAMS,
    **RIDGE_PARAMS,
    "exploration": "greedy",
    "alpha": 0.5,
    "ridge_own": 4.0,
    "columns": 32,
    "card_columns": 8,
}
"""``alpha``: the bonus, in standard deviations of reward. ``ridge_own``: interactions that an arm's
card counts for beside its own. ``columns``: of the context that meet the card's, at most.
``card_columns``: of the card, at most, beside the constant."""

PROMISES: frozenset[Promise] = frozenset({"batch", "order"})
"""``order`` while ``half_life`` is 0, as it is by default."""

MAX_PRODUCT = 640
"""Columns × card columns: what is decomposed in some hundred milliseconds."""
MAX_GONE = 16

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """What each arm's rows add up to, of arms that have left too.

    Attributes:
        sums: of the K arms, then of those in ``gone``, over the projected context.
        gone: the cards of arms that have left, the oldest first.
        projection: R, shape ``(d, p)``.
    """

    sums: ridge_state.State
    gone: tuple[Card, ...]
    projection: Floats


def init(spec: Spec) -> State:
    """Nothing learnt yet.

    Raises:
        SpecError: A parameter is out of range, or the regression or scorer would be too large.
    """
    least = {"alpha": 0.0, "ridge_own": 1e-9, "columns": 1, "card_columns": 0, **RIDGE_LIMITS}
    params = checked_params(NAME, PARAMS, spec.params, least)
    k, d = len(spec.arms), spec.schema.dimension
    if k * d * d > MAX_ENTRIES:
        raise SpecError(
            f"{k} arms of {d}² entries: shared_linucb takes at most {MAX_ENTRIES} in all; "
            "use fewer columns, or the learner vw or river"
        )
    projection = _projection(spec.schema, int(params["columns"]), spec.seed)
    product = projection.shape[1] * (1 + int(params["card_columns"]))
    if product > MAX_PRODUCT:
        raise SpecError(
            f"{projection.shape[1]} columns × {1 + int(params['card_columns'])} of the card: "
            f"shared_linucb takes at most {MAX_PRODUCT}; give fewer columns or card_columns"
        )
    sums = Statistics.empty(k, projection.shape[1])
    return State(ridge_state.State(spec, params, sums, Moments()), (), projection)


def _projection(schema: Schema, columns: int, seed: int) -> Floats:
    """R: the identity, or with fewer columns for the schema's vectors; lengths stay on average.

    Where what is no vector fills the columns by itself, it is projected too.
    """
    d = schema.dimension
    if d <= columns:
        return np.eye(d)
    kinds = ["constant"] + [f.kind for f in schema.features for _ in range(f.width)]
    vector = np.array([kind == "vector" for kind in kinds])
    if (~vector).sum() >= columns:  # a category of many values: then all but the constant
        vector[1:] = True
    plain, long = np.flatnonzero(~vector), np.flatnonzero(vector)
    left = columns - len(plain)
    if left < 1:
        raise SpecError(f"shared_linucb.columns is {columns}: give at least 2")
    random = np.random.default_rng(seed % 2**63)
    directions = np.linalg.qr(random.standard_normal((len(long), left)))[0]
    found = np.zeros((d, columns))
    found[plain, np.arange(len(plain))] = 1.0
    found[long, len(plain) :] = directions * np.sqrt(len(long) / left)
    return found


def learn(state: State, interactions: Interactions) -> State:
    """Add to each arm's statistics."""
    return replace(state, sums=ridge_state.learn(state.sums, interactions, state.projection))


def merge(base: State, states: Sequence[State]) -> State:
    """One state of several that learnt on from ``base``, in any order: the same bytes.

    Raises:
        SpecError: They are of other specs, or none, or they fade, or other arms have left them.
    """
    if any(each.gone != base.gone for each in states):
        raise SpecError("states of other arms that left can not be merged: rearm after merging")
    return replace(base, sums=ridge_state.merge(base.sums, [each.sums for each in states]))


def freeze(state: State) -> Linear:
    """The regression in each arm's own columns, exactly."""
    spec, params, moments = state.sums.spec, state.sums.params, state.sums.moments
    card = _cards(spec.cards, state.gone, int(params["card_columns"]))
    best, alone = _fit(state, card)
    k, r = len(spec.arms), state.projection
    shape = r.shape[1], card.shape[1]
    inner = card[:k] @ best.weights[0].reshape(shape).T
    rest = state.sums.statistics.moment[:k, 0, 0] - moments.mean * alone.count[:k]
    own = alone.shrink[:k] * rest - (alone.centre[:k] * inner).sum(axis=1)
    weights = inner @ r.T
    weights[:, 0] += moments.mean + own
    # Before any reward no card is more worth a try than another.
    alpha = float(params["alpha"]) * moments.scale if moments.count > 0 else 0.0
    inverse = None
    if alpha > 0:
        inverse = _inverse(best.factor.root[0].reshape(*shape, -1), card[:k], alone, r)
    return Linear(spec.arms, weights, explore(params, moments), inverse, alpha)


@dataclass(frozen=True, slots=True, eq=False)
class _Alone:
    """What each arm's own worth explains by itself, by arm.

    Attributes:
        count: Σ w.
        shrink: 1 / (Σ w + its penalty).
        centre: Σ w z · shrink, shape ``(arms, p)``.
        statistics: those of all arms once each one's own worth is eliminated.
    """

    count: Floats
    shrink: Floats
    centre: Floats
    statistics: Statistics

    @classmethod
    def of(cls, sums: Statistics, penalty: float) -> "_Alone":
        gram, moment, energy = sums.gram, sums.moment[..., 0], sums.energy[:, 0]
        shrink = 1.0 / (sums.count + penalty)
        first = gram[:, :, 0]
        centre = first * shrink[:, None]
        rest = Statistics(
            gram - first[:, :, None] * centre[:, None, :],
            (moment - centre * moment[:, :1])[..., None],
            (energy - shrink * np.square(moment[:, 0]))[:, None],
            sums.count,
        )
        return cls(sums.count, shrink, centre, rest)


def _fit(state: State, card: Floats) -> tuple[Fit, _Alone]:
    """W's regression, over z ⊗ c with c the faster index, so that the constants come first."""
    params, moments = state.sums.params, state.sums.moments
    alone = _Alone.of(state.sums.statistics, float(params["ridge_own"]))
    rest, (p, c) = alone.statistics, (state.projection.shape[1], card.shape[1])
    squares = (card[:, :, None] * card[:, None, :]).reshape(len(card), -1)
    gram = (rest.gram.reshape(len(card), -1).T @ squares).reshape(p, p, c, c)
    whole = Statistics(
        gram.transpose(0, 2, 1, 3).reshape(1, p * c, p * c),
        (rest.moment[..., 0].T @ card).reshape(1, p * c, 1),
        rest.energy.sum(axis=0, keepdims=True),
        rest.count.sum(keepdims=True),
    )
    pooled = Pooled(float(params["ridge"]), float(params["ridge_constant"]), pooling=0.0)
    return pooled.fit(whole, moments.mean, moments.scale, constants=c), alone


def _inverse(root: Floats, card: Floats, alone: _Alone, r: Floats) -> Floats:
    """Each arm's ``(K, d, d)`` whose quadratic form is the variance of its score.

    Args:
        root: of the regression's inverse, shape ``(p, c, D)``.
        card: shape ``(K, c)``.
        alone: of the arms.
        r: the projection.
    """
    k = len(card)
    flat = root.transpose(1, 0, 2).reshape(card.shape[1], -1)
    turned = (card @ flat).reshape(k, r.shape[1], -1)
    # An arm's own worth takes up its mean context: only what deviates from it is W's.
    turned[:, 0] -= np.einsum("kp,kpd->kd", alone.centre[:k], turned)
    small = turned @ turned.swapaxes(1, 2)
    small[:, 0, 0] += alone.shrink[:k]
    return np.asarray(r @ small @ r.T)


def _cards(pool: Sequence[Card], gone: Sequence[Card], most: int) -> Floats:
    """A constant, then the cards in the pool's main directions, shape ``(K + gone, 1 + q)``."""
    table = cards.columns([*pool, *gone], pool)
    _, sizes, directions = np.linalg.svd(table[: len(pool)], full_matrices=False)
    tell = directions[:most][sizes[:most] > 1e-9]
    return np.column_stack([np.ones(len(table)), table @ tell.T])


def rearm(state: State, spec: Spec) -> State:
    """The state for other arms: of one that has left what its card taught stays."""
    old, new = state.sums, init(spec)
    before, _ = kept(old.spec, spec)
    k = len(old.spec.arms)
    left = [i for i in range(k) if i not in before and old.statistics.count[i] > 0]
    places = [*range(k, k + len(state.gone)), *left][-MAX_GONE:]
    told = [*old.spec.cards, *state.gone]
    here = old.statistics.only(range(k)).rearmed(old.spec, spec)
    sums = replace(
        new.sums,
        statistics=here.beside(old.statistics.only(places)),
        moments=old.moments,
        rows=old.rows,
    )
    return State(sums, tuple(told[i] for i in places), state.projection)


def snapshot(state: State) -> bytes:
    """The state as bytes."""
    return ridge_state.snapshot(NAME, state.sums, gone=[asdict(card) for card in state.gone])


def restore(spec: Spec, data: bytes) -> State:
    """The state that :func:`snapshot` wrote."""
    new = init(spec)
    numbers, _ = files.unpack(files.owner(NAME, spec, new.sums.params), data)
    sums = ridge_state.restore(NAME, new.sums, data)
    return State(sums, tuple(_card(row) for row in numbers["gone"]), new.projection)


def _card(row: dict[str, Any]) -> Card:
    names = {"tags": tuple(row["tags"]), "capabilities": tuple(row["capabilities"])}
    return Card(**{**row, **names})
