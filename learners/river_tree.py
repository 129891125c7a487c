"""River's Hoeffding tree, one an arm, over the most recent interactions.

For rewards that jump with the context, where a line does not fit: a leaf splits when enough rows
say which split is best (Domingos & Hulten 2000; for regression Ikonomovska et al. 2011). A tree of
River's can not be saved but by pickle, which is not safe to load, so what is learnt is the window:
the last interactions, in order. ``freeze`` grows from it the trees that River would have grown row
by row (:mod:`learners.hoeffding`), and exports their nodes. So what has left the window is
forgotten, which is how the trees adapt, and the same log gives the same trees in pieces as at once.

Because a window is short, a tree splits on less evidence than River's own defaults ask for.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from learners import hoeffding
from learners import snapshot as files
from learners.contract import Params, Promise, Spec, check, kept
from learners.errors import SpecError
from learners.hoeffding import Growth, Node
from learners.interactions import Interactions
from learners.schedule import EXPLORATION_PARAMS, Moments, checked_params, explore
from learners.scorers.trees import Trees

NAME = "river_tree"
PARAMS: Params = {
    **EXPLORATION_PARAMS,
    "window": 1_000,
    "depth": 4,
    "grace": 25,
    "confidence": 0.05,
    "tie": 0.1,
}
"""``window``: interactions of all arms together. ``depth``: of a tree. ``grace``: rows in a leaf
between tries to split it. ``confidence`` and ``tie``: River's delta and tau."""

PROMISES: frozenset[Promise] = frozenset({"batch"})
MAX_WINDOW = 10_000
MAX_DEPTH = 10
MAX_ENTRIES = 2**22
"""Window × columns."""

Floats = NDArray[np.float64]
_ROWS = ("x", "action", "reward", "weight")


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """The window: contexts ``(w, d)`` in single precision, and of each row arm, reward, weight."""

    spec: Spec
    params: dict[str, Any]
    x: NDArray[np.float32]
    action: NDArray[np.int64]
    reward: Floats
    weight: Floats
    moments: Moments


def init(spec: Spec) -> State:
    """Nothing learnt yet.

    Raises:
        SpecError: A parameter is out of range, or the window would be too large.
    """
    least = {"window": 1, "depth": 1, "grace": 1, "confidence": 1e-9, "tie": 0.0}
    params = checked_params(NAME, PARAMS, spec.params, least)
    most = {"window": MAX_WINDOW, "depth": MAX_DEPTH, "confidence": 1.0}
    for name, limit in most.items():
        if params[name] > limit:
            raise SpecError(f"{NAME}.{name} is {params[name]}: give at most {limit}")
    d = spec.schema.dimension
    if params["window"] * d > MAX_ENTRIES:
        raise SpecError(
            f"{params['window']} rows of {d} columns: {NAME} takes at most {MAX_ENTRIES} entries; "
            "give a shorter window or fewer columns"
        )
    empty = np.zeros(0)
    action = np.zeros(0, dtype=np.int64)
    return State(spec, params, np.zeros((0, d), np.float32), action, empty, empty, Moments())


def learn(state: State, interactions: Interactions) -> State:
    """Add to the window, and drop what is too old for it."""
    check(state.spec, interactions)
    log = interactions.rows(interactions.weight > 0)
    size = int(state.params["window"])
    new = {**{name: getattr(log, name) for name in _ROWS}, "x": log.x.astype(np.float32)}
    rows: dict[str, Any] = {
        name: np.concatenate([getattr(state, name), new[name]])[-size:] for name in _ROWS
    }
    return replace(state, moments=_added(state.moments, log), **rows)


def _added(moments: Moments, log: Interactions) -> Moments:
    """Row by row, so that no split of a tree depends on how the log was cut."""
    for reward, weight in zip(log.reward.tolist(), log.weight.tolist(), strict=True):
        moments = moments.merge(Moments(weight, reward))
    return moments


def freeze(state: State) -> Trees:
    """The trees, grown from the window."""
    nodes: list[Node] = []
    roots = []
    for arm in range(len(state.spec.arms)):
        roots.append(len(nodes))
        nodes += grown(state, arm, len(nodes))
    feature, threshold, left, right, value = np.array(nodes).T
    return Trees(
        arms=state.spec.arms,
        columns=state.spec.schema.dimension,
        roots=np.array(roots, dtype=np.int64),
        feature=feature.astype(np.int64),
        threshold=threshold,
        left=left.astype(np.int64),
        right=right.astype(np.int64),
        value=state.moments.mean + state.moments.scale * value,
        exploration=explore(state.params, state.moments),
    )


def grown(state: State, arm: int, start: int = 0) -> list[Node]:
    """An arm's tree, which predicts standard deviations from the mean; ``start`` is its root."""
    chosen = state.action == arm
    x = state.x[chosen].astype(np.float64)
    # What does not vary in the window can not split it.
    columns = np.flatnonzero(np.ptp(x, axis=0) > 0) if len(x) else np.zeros(0, dtype=np.int64)
    targets = (state.reward[chosen] - state.moments.mean) / state.moments.scale
    rows = hoeffding.Rows.of(x[:, columns], targets, state.weight[chosen])
    growth = Growth(
        depth=int(state.params["depth"]),
        grace=float(state.params["grace"]),
        confidence=float(state.params["confidence"]),
        tie=float(state.params["tie"]),
    )
    return [
        (float(columns[int(column)]) if left > here else 0.0, threshold, left, right, value)
        for here, (column, threshold, left, right, value) in enumerate(
            hoeffding.grown(rows, growth, start), start
        )
    ]


def rearm(state: State, spec: Spec) -> State:
    """The state for other arms: rows of those that stay."""
    before, after = kept(state.spec, spec)
    place = np.full(len(state.spec.arms), -1, dtype=np.int64)
    place[before] = after
    stay = place[state.action] >= 0
    rows: dict[str, Any] = {name: getattr(state, name)[stay] for name in _ROWS}
    rows["action"] = place[rows["action"]]
    return replace(init(spec), moments=state.moments, **rows)


def snapshot(state: State) -> bytes:
    """The state as bytes."""
    return files.pack(
        files.owner(NAME, state.spec, state.params),
        state.moments.as_json(),
        {name: getattr(state, name) for name in _ROWS},
    )


def restore(spec: Spec, data: bytes) -> State:
    """The state that :func:`snapshot` wrote."""
    state = init(spec)
    numbers, tensors = files.unpack(files.owner(NAME, spec, state.params), data)
    return replace(state, moments=Moments(**numbers), **tensors)
