"""Pheromone trails: each arm's trail in each domain, laid by good feedback, evaporating (AMRO-S).

An arm is chosen with probability ∝ ``trail^alpha · heuristic^beta`` (Dorigo, Maniezzo & Colorni
1996), exactly: the frozen policy scores an arm by that product's logarithm, over that of a fresh
trail, and its exploration is a softmax of temperature 1. AMRO-S keeps such trails for each kind of
task and lets only feedback of good quality lay them.

*A trail* moves from what it is to the deposit by the part ``1 − (1 − evaporation)^(w / p)``, with
the row's weight w and served propensity p: so it moves as fast as if every arm were asked each
time, and little where feedback is of little weight (:mod:`learners.quality_gate` sets that). Only
the chosen arm's trail evaporates (as in Ant Colony System, Dorigo & Gambardella 1997): on a log, an
arm that was not asked has not become worse.

*The deposit* is between 0 and 1: the logistic of the reward in standard deviations from the mean
of all rewards until then, so that its unit does not matter and an average reward lays ½.

*Back-off.* As much as is left of a domain's fresh trail counts as the arm's trail everywhere.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from learners import snapshot as files
from learners.arm_sums import MAX_CELLS
from learners.contract import Params, Promise, Spec, carried, check
from learners.domains import DOMAIN, Domains, domains_of
from learners.errors import SpecError
from learners.interactions import Interactions
from learners.schedule import (
    EXPLORATION_PARAMS,
    Moments,
    checked_params,
    explore,
    standardise,
)
from learners.scorers.linear import Linear

NAME = "pheromone"
PARAMS: Params = {
    **EXPLORATION_PARAMS,
    "exploration": "softmax",
    "temperature": 1.0,
    "domain": DOMAIN,
    "evaporation": 0.005,
    "alpha": 4.0,
    "beta": 0.0,
    "max_importance": 5.0,
}
"""``domain``: the category whose values are the domains. ``evaporation``: part of a trail that an
interaction replaces. ``alpha``: the trails' power; ``beta``: that of the heuristic, a lower price.
``max_importance``: cap on ``1 / propensity``. ``gamma`` and ``temperature`` are not in standard
deviations of the reward but in logits."""

PROMISES: frozenset[Promise] = frozenset({"batch"})

FRESH = 0.5
"""A trail before any deposit: the one of an arm that is average."""
LEAST = 1e-3
"""No trail counts for less, so that no arm is lost for ever (MAX–MIN, Stützle & Hoos 2000)."""
_STEEP = 1.702
"""Makes a logistic of standard deviations about the normal distribution's share below."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """The trails.

    Attributes:
        trails: what was laid and has not evaporated, in each domain and, last, everywhere, and what
            is left of the fresh trail, shape ``(K, G + 1, 2)``.
        moments: of the rewards so far.
    """

    spec: Spec
    params: dict[str, Any]
    domains: Domains
    trails: Floats
    moments: Moments


def init(spec: Spec) -> State:
    """Fresh trails.

    Raises:
        SpecError: A parameter is out of range, or there are too many arms and domains.
    """
    least = {"evaporation": 1e-6, "alpha": 0.0, "beta": 0.0, "max_importance": 1.0}
    params = checked_params(NAME, PARAMS, spec.params, least)
    if params["evaporation"] >= 1:
        raise SpecError(f"{NAME}.evaporation is {params['evaporation']}: give less than 1")
    domains = domains_of(spec.schema, str(params["domain"]))
    k, places = len(spec.arms), domains.groups + 1
    if k * places > MAX_CELLS:
        raise SpecError(f"{k} arms × {places} domains: at most {MAX_CELLS} are allowed")
    trails = np.zeros((k, places, 2))
    trails[..., 1] = 1.0
    return State(spec, params, domains, trails, Moments())


def learn(state: State, interactions: Interactions) -> State:
    """Lay and evaporate, in the log's order."""
    check(state.spec, interactions)
    reward, moments = standardise(state.moments, interactions)
    deposit = _logistic(_STEEP * reward)
    importance = np.minimum(1.0 / interactions.propensity, float(state.params["max_importance"]))
    stays = interactions.weight * importance * np.log1p(-float(state.params["evaporation"]))
    group = state.domains.of(interactions.x)
    everywhere = np.full(len(group), state.domains.groups)
    trails = state.trails
    for place in (group, everywhere):
        trails = _laid(trails, interactions.action, place, stays, deposit)
    return replace(state, trails=trails, moments=moments)


def _laid(
    trails: Floats,
    action: NDArray[np.int64],
    place: NDArray[np.int64],
    stays: Floats,
    deposit: Floats,
) -> Floats:
    """The trails after n deposits; ``stays`` is the logarithm of what each one leaves."""
    k, places, _ = trails.shape
    cell = action * places + place
    order = np.argsort(cell, kind="stable")
    total = np.bincount(cell, stays, k * places)
    # What evaporates of a deposit is due to the later ones of its own trail.
    passed = np.empty(len(cell))
    passed[order] = stays[order].cumsum()
    later = np.concatenate([[0.0], total.cumsum()])[cell + 1] - passed
    laid = np.bincount(cell, -np.expm1(stays) * np.exp(later) * deposit, k * places)
    found: Floats = trails * np.exp(total).reshape(k, places, 1)
    found[..., 0] += laid.reshape(k, places)
    return found


def freeze(state: State) -> Linear:
    """The logarithm of each arm's product in each domain, over that of a fresh trail."""
    trails = np.maximum(levels(state), LEAST) / FRESH
    heuristic = np.log(heuristics(state.spec))[:, None]
    params = state.params
    values = float(params["alpha"]) * np.log(trails) + float(params["beta"]) * heuristic
    weights = state.domains.weights(values, state.spec.schema.dimension)
    # Logits have no unit, so the rewards' spread is no scale of theirs.
    return Linear(state.spec.arms, weights, explore(params, Moments(state.moments.count)))


def levels(state: State) -> Floats:
    """Each arm's trail in each domain, shape ``(K, G)``."""
    laid, left = state.trails[..., 0], state.trails[..., 1]
    everywhere = laid[:, -1:] + left[:, -1:] * FRESH
    found: Floats = laid[:, :-1] + left[:, :-1] * everywhere
    return found


def heuristics(spec: Spec) -> Floats:
    """How desirable each arm is by its card: 1 for a free one, ½ at the mean price, ``(K,)``."""
    price = np.array([card.usd_per_mtok_in + card.usd_per_mtok_out for card in spec.cards])
    mean = float(price.mean())
    found: Floats = 1.0 / (1.0 + (price / mean if mean > 0 else price))
    return found


def rearm(state: State, spec: Spec) -> State:
    """The state for other arms; a new one's trails are fresh."""
    laid = carried(state.trails[..., 0], state.spec, spec)
    left = carried(state.trails[..., 1], state.spec, spec, usual=1.0)
    return replace(init(spec), trails=np.stack([laid, left], axis=-1), moments=state.moments)


def snapshot(state: State) -> bytes:
    """The state as bytes."""
    return files.pack(
        files.owner(NAME, state.spec, state.params),
        state.moments.as_json(),
        {"trails": state.trails},
    )


def restore(spec: Spec, data: bytes) -> State:
    """The state that :func:`snapshot` wrote."""
    state = init(spec)
    numbers, tensors = files.unpack(files.owner(NAME, spec, state.params), data)
    return replace(state, moments=Moments(**numbers), trails=tensors["trails"])


def _logistic(logit: Floats) -> Floats:
    return np.asarray(0.5 * (1.0 + np.tanh(logit / 2.0)), dtype=np.float64)
