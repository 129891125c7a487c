"""The baseline that every other learner must beat: the one arm with the best mean reward.

On traffic that does not change it is hard to beat. The mean is importance-weighted, as a log of a
policy that looks at the context shows an arm mostly where that arm is good; probes, which ask every
arm, count in full (:mod:`learners.arm_sums`). Incremental learning equals batch learning up to
rounding.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from learners import snapshot as files
from learners.arm_sums import ArmSums
from learners.contract import Params, Promise, Spec, check
from learners.interactions import Interactions
from learners.schedule import EXPLORATION_PARAMS, Moments, checked_params, explore
from learners.scorers.linear import Linear, constant

NAME = "best_fixed"
PARAMS: Params = {**EXPLORATION_PARAMS, "prior": 4.0, "max_importance": 5.0}
"""``prior``: effective interactions that the mean of all arms counts for in each arm's mean.
``max_importance``: cap on ``1 / propensity``; a little bias for much less variance."""


PROMISES: frozenset[Promise] = frozenset({"batch", "order"})


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """What each arm earned, in one group of contexts."""

    spec: Spec
    params: dict[str, Any]
    sums: ArmSums
    moments: Moments


def init(spec: Spec) -> State:
    """Nothing learnt yet."""
    least = {"prior": 1e-9, "max_importance": 1.0}
    params = checked_params(NAME, PARAMS, spec.params, least)
    return State(spec, params, ArmSums.empty(len(spec.arms), 1), Moments())


def learn(state: State, interactions: Interactions) -> State:
    """Add to each arm's sums."""
    check(state.spec, interactions)
    everywhere = np.zeros(len(interactions), dtype=np.int64)
    cap = float(state.params["max_importance"])
    return replace(
        state,
        sums=state.sums.add(interactions, everywhere, cap),
        moments=state.moments.add(interactions),
    )


def freeze(state: State) -> Linear:
    """Each arm's self-normalised mean, shrunk to the mean of all by its effective number."""
    cells, usual = state.sums.cells(), state.moments.mean
    count, mean = cells.count[:, 0], cells.mean[:, 0]
    share = count / (count + float(state.params["prior"]))
    values = usual + share * np.where(count > 0, mean - usual, 0.0)
    return constant(
        dict(zip(state.spec.arms, values.tolist(), strict=True)),
        state.spec.schema.dimension,
        explore(state.params, state.moments),
    )


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
