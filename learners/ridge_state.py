"""The state of a learner that fits its arms' ridge regressions: learn, merge, rearm, store."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from learners import ridge
from learners import snapshot as files
from learners.contract import Spec, check
from learners.errors import SpecError
from learners.fading import fade
from learners.interactions import Interactions
from learners.ridge import Floats, Statistics
from learners.schedule import Moments


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """What each arm's regression is fitted from.

    Attributes:
        statistics: by arm; the one target is the reward.
        moments: of the rewards of all arms.
        rows: interactions that had a weight.
    """

    spec: Spec
    params: dict[str, Any]
    statistics: Statistics
    moments: Moments
    rows: int = 0


def empty(spec: Spec, params: dict[str, Any]) -> State:
    """Nothing learnt yet.

    Raises:
        SpecError: The statistics would be too large.
    """
    sums = Statistics.empty(len(spec.arms), spec.schema.dimension)
    return State(spec, params, sums, Moments())


def learn(state: State, interactions: Interactions, projection: Floats | None = None) -> State:
    """Add to each arm's statistics; where ``half_life`` is given, what was there fades.

    Args:
        state: is left as it is.
        interactions: n rows of d columns.
        projection: of the columns, shape ``(d, p)``; None for none.
    """
    check(state.spec, interactions)
    x = interactions.x if projection is None else interactions.x @ projection
    weight, kept = fade(interactions.weight, float(state.params["half_life"]))
    sums = state.statistics.faded(kept)
    return replace(
        state,
        statistics=sums.add(x, interactions.action, weight, interactions.reward[:, None]),
        moments=state.moments.faded(kept).add(interactions, weight),
        rows=state.rows + int((interactions.weight > 0).sum()),
    )


def merge(base: State, states: Sequence[State]) -> State:
    """One state of several that learnt on from ``base``, each from its own part of the log.

    In whatever order they are given, the bytes are the same.

    Raises:
        SpecError: They are of other specs, or none, or they fade: what fades has an order, which
            several states do not tell.
    """
    if not states or any(each.spec != base.spec for each in states):
        raise SpecError(f"{len(states)} states to merge: give at least one, all of the base's spec")
    if float(base.params["half_life"]) > 0:
        raise SpecError(
            f"half_life is {base.params['half_life']}: merge needs 0, or learn the parts in turn"
        )
    added = [each.moments.since(base.moments) for each in states]
    moments = base.moments
    for one in sorted(added, key=lambda part: (part.count, part.mean, part.squares)):
        moments = moments.merge(one)
    return replace(
        base,
        statistics=ridge.merge(base.statistics, [each.statistics for each in states]),
        moments=moments,
        rows=base.rows + sum(each.rows - base.rows for each in states),
    )


def rearm(state: State, new: State) -> State:
    """The state for other arms; ``new`` is the empty state of theirs."""
    return replace(
        new,
        statistics=state.statistics.rearmed(state.spec, new.spec),
        moments=state.moments,
        rows=state.rows,
    )


def snapshot(name: str, state: State, **more: object) -> bytes:
    """The state as bytes, with what a learner keeps beside it."""
    return files.pack(
        files.owner(name, state.spec, state.params),
        {"moments": state.moments.as_json(), "rows": state.rows, **more},
        state.statistics.tensors(),
    )


def restore(name: str, new: State, data: bytes) -> State:
    """The state that :func:`snapshot` wrote; ``new`` is the empty state of its spec."""
    numbers, tensors = files.unpack(files.owner(name, new.spec, new.params), data)
    return replace(
        new,
        statistics=Statistics(**tensors),
        moments=Moments(**numbers["moments"]),
        rows=int(numbers["rows"]),
    )
