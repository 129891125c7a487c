"""Every arm alike, whatever was learnt: a reference, and a candidate that can do no harm to a log.

What it serves is the best log there is to learn from and to judge others on.
"""

from dataclasses import dataclass, replace
from typing import Any

from learners import snapshot as files
from learners.contract import Params, Promise, Spec, check, kept
from learners.interactions import Interactions
from learners.schedule import EXPLORATION_PARAMS, Moments, checked_params, explore
from learners.scorers.linear import Linear, constant

NAME = "uniform"
PARAMS: Params = {**EXPLORATION_PARAMS, "exploration": "uniform"}
"""All arms score 0, so any other exploration spreads evenly too."""

PROMISES: frozenset[Promise] = frozenset({"batch", "order", "blind"})


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """Nothing but how many rewards there were, which the exploration's schedule goes by."""

    spec: Spec
    params: dict[str, Any]
    moments: Moments


def init(spec: Spec) -> State:
    """Nothing learnt yet, nor ever."""
    return State(spec, checked_params(NAME, PARAMS, spec.params, {}), Moments())


def learn(state: State, interactions: Interactions) -> State:
    """Count the rewards."""
    check(state.spec, interactions)
    return replace(state, moments=state.moments.add(interactions))


def freeze(state: State) -> Linear:
    """0 for every arm."""
    return constant(
        dict.fromkeys(state.spec.arms, 0.0),
        state.spec.schema.dimension,
        explore(state.params, state.moments),
    )


def rearm(state: State, spec: Spec) -> State:
    """The state for other arms."""
    kept(state.spec, spec)
    return replace(init(spec), moments=state.moments)


def snapshot(state: State) -> bytes:
    """The state as bytes."""
    return files.pack(files.owner(NAME, state.spec, state.params), state.moments.as_json(), {})


def restore(spec: Spec, data: bytes) -> State:
    """The state that :func:`snapshot` wrote."""
    state = init(spec)
    numbers, _ = files.unpack(files.owner(NAME, spec, state.params), data)
    return replace(state, moments=Moments(**numbers))
