"""Score and cost predicted apart: a request's own preference chooses on the frontier of both.

A ridge regression an arm for each part of the reward (:mod:`learners.ridge`); the parts are mixed
when a request is decided, so a preference vector (Tryage: Hari & Thomson 2023, arXiv:2308.11601) or
a threshold between strong and weak (RouteLLM: Ong et al. 2024, arXiv:2406.18665) needs no training.
An arm's parts share one Gram matrix, so a part more costs a vector.

*Costs.* A part with a weight below 0 is a cost. What makes a request dear makes it dear on every
arm, each in proportion to its own price; so an arm's costs are regressed in units of that arm's own
size (root mean square), and it is this relative cost of which arms share a regression. The size is
shrunk to the pool's; where all cards give a price, in proportion to the card's, so a new arm costs
what its card lets expect.

Before any learning all arms are alike. Where the log does not tell the parts apart, the reward is
what is regressed, and no request can weigh it.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from learners import snapshot as files
from learners.contract import Params, Promise, Spec, check
from learners.fading import fade
from learners.interactions import Interactions
from learners.ridge import RIDGE_LIMITS, RIDGE_PARAMS, Floats, Pooled, Statistics, check_pooling
from learners.schedule import EXPLORATION_PARAMS, Moments, checked_params, explore
from learners.scorers.base import Scorer
from learners.scorers.linear import Linear
from learners.scorers.mixed import Mixed

NAME = "multi_objective"
PARAMS: Params = {**EXPLORATION_PARAMS, **RIDGE_PARAMS, "pooling": 0.1, "size_prior": 1.0}
"""``pooling``: penalty on the shared weights, as a part of the arms' own; 0 shares nothing.
``size_prior``: interactions that the usual size counts for in the size of an arm's costs."""

LIMITS = {"pooling": 0.0, "size_prior": 1e-9, **RIDGE_LIMITS}

PROMISES: frozenset[Promise] = frozenset({"batch", "order"})
"""``order`` while ``half_life`` is 0, as it is by default."""

_LEAST_SIZE = 1e-6
"""Of an arm's costs, as a part of the dearest's: a free arm's are still divided by something."""


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """What each arm's regressions are fitted from.

    Attributes:
        statistics: by arm; the targets are the reward, then each part.
        moments: of the rewards of all arms.
        whole: every interaction so far came with its parts.
    """

    spec: Spec
    params: dict[str, Any]
    statistics: Statistics
    moments: Moments
    whole: bool = True


def init(spec: Spec) -> State:
    """Nothing learnt yet.

    Raises:
        SpecError: A parameter is out of range, or the statistics would be too large.
    """
    params = checked_params(NAME, PARAMS, spec.params, LIMITS)
    check_pooling(NAME, params)
    return empty(spec, params)


def empty(spec: Spec, params: dict[str, Any]) -> State:
    """Nothing learnt yet, for a learner that checks the parameters itself."""
    targets = 1 + len(spec.reading.names)
    sums = Statistics.empty(len(spec.arms), spec.schema.dimension, targets)
    return State(spec, params, sums, Moments())


def learn(state: State, interactions: Interactions) -> State:
    """Add to each arm's statistics; where ``half_life`` is given, what was there fades."""
    check(state.spec, interactions)
    if not len(interactions):
        return state
    names = len(state.spec.reading.names)
    told = interactions.parts.shape[1] == names
    # Where only the reward is known, its parts are noughts that are never read (`whole`).
    parts = interactions.parts if told else np.zeros((len(interactions), names))
    targets = np.column_stack([interactions.reward, parts])
    weight, kept = fade(interactions.weight, float(state.params["half_life"]))
    return replace(
        state,
        statistics=state.statistics.faded(kept).add(
            interactions.x, interactions.action, weight, targets
        ),
        moments=state.moments.faded(kept).add(interactions, weight),
        whole=state.whole and (told or not (interactions.weight > 0).any()),
    )


def freeze(state: State) -> Scorer:
    """The parts' regressions, to be mixed; the reward's where its parts are not known."""
    spec, exploration = state.spec, explore(state.params, state.moments)
    weights = regressions(state)
    if not tells_apart(state):
        return Linear(spec.arms, weights[0], exploration)
    return Mixed(spec.arms, spec.reading.names, weights, np.array(spec.reading.mix), exploration)


def tells_apart(state: State) -> bool:
    """Whether there are several parts, and all that was learnt came with them."""
    return state.whole and len(state.spec.reading.names) > 1


def regressions(state: State) -> Floats:
    """Each part's prediction ``(m, K, d)``; the reward's ``(1, K, d)`` where parts are unknown."""
    pooled = Pooled.of(state.params)
    whole = pooled.decomposed(state.statistics)
    apart = tells_apart(state)
    targets = range(1, 1 + len(state.spec.reading.names)) if apart else range(1)
    found = []
    for target in targets:
        costs = apart and state.spec.reading.mix[target - 1] < 0
        size = sizes(state, target) if costs else np.ones(len(state.spec.arms))
        statistics = _in_units(state.statistics, size, target)
        mean, scale = _moments(statistics, target)
        weights = pooled.fit(statistics, mean, scale, target=target, whole=whole).weights.copy()
        weights[:, 0] += mean
        found.append(weights * size[:, None])
    return np.stack(found)


def sizes(state: State, target: int) -> Floats:
    """The size of each arm's costs ``(K,)``: 1 for all where there are none.

    Sizes are factors, so an arm's is shrunk by its logarithm.
    """
    energy, count = state.statistics.energy[:, target], state.statistics.count
    found = np.sqrt(energy / np.maximum(count, 1e-300))
    if not energy.sum() > 0:
        return np.ones(len(count))
    prices = np.log(_prices(state.spec))
    # Over what its card says; an arm that is free or has no data is as far off as may be.
    over = np.log(np.maximum(found, _LEAST_SIZE * float(found.max()))) - prices
    usual = float(count @ over) / float(count.sum())
    share = count / (count + float(state.params["size_prior"]))
    return np.asarray(np.exp(prices + usual + share * (over - usual)))


def _prices(spec: Spec) -> Floats:
    """Each arm's price by its card, input and output alike; 1 for all where one has none."""
    prices = np.array([card.usd_per_mtok_in + card.usd_per_mtok_out for card in spec.cards])
    return prices if (prices > 0).all() else np.ones(len(prices))


def _in_units(statistics: Statistics, size: Floats, target: int) -> Statistics:
    """The statistics with one target divided by each arm's size."""
    moment, energy = statistics.moment.copy(), statistics.energy.copy()
    moment[:, :, target] /= size[:, None]
    energy[:, target] /= np.square(size)
    return replace(statistics, moment=moment, energy=energy)


def _moments(statistics: Statistics, target: int) -> tuple[float, float]:
    """A target's mean and standard deviation over all arms."""
    count = float(statistics.count.sum())
    if count <= 0:
        return 0.0, 1.0
    mean = float(statistics.moment[:, 0, target].sum()) / count
    squares = float(statistics.energy[:, target].sum()) / count - mean * mean
    return mean, float(np.sqrt(max(squares, 0.0))) or 1.0


def rearm(state: State, spec: Spec) -> State:
    """The state for other arms."""
    return rearmed(state, init(spec))


def rearmed(state: State, new: State) -> State:
    """The state for other arms; ``new`` is the empty state of theirs."""
    return replace(
        new,
        statistics=state.statistics.rearmed(state.spec, new.spec),
        moments=state.moments,
        whole=state.whole,
    )


def snapshot(state: State) -> bytes:
    """The state as bytes."""
    numbers, tensors = plain(state)
    return files.pack(files.owner(NAME, state.spec, state.params), numbers, tensors)


def restore(spec: Spec, data: bytes) -> State:
    """The state that :func:`snapshot` wrote."""
    state = init(spec)
    return filled(state, *files.unpack(files.owner(NAME, spec, state.params), data))


def plain(state: State) -> tuple[dict[str, Any], dict[str, Floats]]:
    """A state's numbers and tensors, for a snapshot."""
    numbers = {"moments": state.moments.as_json(), "whole": state.whole}
    return numbers, state.statistics.tensors()


def filled(new: State, numbers: dict[str, Any], tensors: dict[str, Floats]) -> State:
    """The state that :func:`plain` told; ``new`` is the empty state of its spec."""
    return replace(
        new,
        statistics=Statistics(**tensors),
        moments=Moments(**numbers["moments"]),
        whole=bool(numbers["whole"]),
    )
