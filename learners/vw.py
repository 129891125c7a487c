"""Vowpal Wabbit's contextual bandit (`--cb_adf`, multi-task regression), and nothing else of it.

Each (arm, column) has its own index, without constant or interactions, so the weights read as a
dense matrix that scores as VW does, and the edge needs no VW. VW learns the reward in standard
deviations from its running mean.

Why these flags: plain SGD's learning survives saving and loading exactly, weight by weight, with
`--preserve_performance_counters` (the contract suite checks it); `bag`, `cover`, `rnd` and
`automl` do not, and `--l2` is not saved at all. VW copies no workspace, so the state *is* the
saved model: each `learn` loads it, and the incumbent's bytes stay as they are. VW loads damaged
bytes without a word and dies of an index out of range: bytes are checked by digest before, and
indices are made here, never taken from outside.

Incremental equals batch in every weight; VW's own loss counters may differ in the last bits.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from vowpal_wabbit_next import CBLabel, Example, Workspace

from learners import snapshot as files
from learners.contract import Params, Spec, check
from learners.errors import SpecError
from learners.interactions import Interactions
from learners.schedule import EXPLORATION_PARAMS, Moments, checked_params, explore, standardise
from learners.scorer import Scorer

NAME = "vw"
PARAMS: Params = {**EXPLORATION_PARAMS, "rate": 0.2, "importance": 0.0}
"""``rate``: VW's learning rate. ``importance``: the power of the importance weight, 1 for mtr as
published and 0 for a plain regression, which has less variance where the log is narrow."""

MAX_WEIGHTS = 2**22
"""Arms × columns."""
_MIN_BITS = 4


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """The saved model."""

    spec: Spec
    params: dict[str, Any]
    model: bytes
    moments: Moments


def init(spec: Spec) -> State:
    """Nothing learnt yet.

    Raises:
        SpecError: A parameter is out of range, or there are too many weights.
    """
    params = checked_params(NAME, PARAMS, spec.params, {"rate": 1e-9, "importance": 0.0})
    if float(params["importance"]) > 1.0:
        raise SpecError(f"vw.importance is {params['importance']}: give 0 to 1")
    weights = len(spec.arms) * spec.schema.dimension
    if weights > MAX_WEIGHTS:
        raise SpecError(f"{weights} weights: vw takes at most {MAX_WEIGHTS}; use fewer columns")
    bits = max(_MIN_BITS, (weights - 1).bit_length())
    flags = ["--cb_adf", "--cb_type", "mtr", "--noconstant", "--preserve_performance_counters"]
    sizes = ["-b", str(bits), "-l", repr(float(params["rate"]))]
    model = Workspace([*flags, *sizes, "--quiet"]).serialize()
    return State(spec, params, model, Moments())


def learn(state: State, interactions: Interactions) -> State:
    """Show VW each interaction, in order."""
    check(state.spec, interactions)
    if not len(interactions):
        return state
    workspace = load(state)
    rewards, moments = standardise(state.moments, interactions)
    for examples in _labelled(interactions, rewards, float(state.params["importance"])):
        workspace.learn_one(examples)
    return replace(state, model=workspace.serialize(), moments=moments)


def load(state: State) -> Workspace[Any]:
    """A workspace of its own, with the state's weights."""
    return Workspace(["--quiet"], model_data=state.model)


def _labelled(
    interactions: Interactions, rewards: NDArray[np.float64], importance: float
) -> Iterator[list[Example]]:
    """VW's examples; what has no weight teaches nothing and is left out."""
    for i in np.flatnonzero(interactions.weight > 0).tolist():
        arms = np.flatnonzero(interactions.eligible[i])
        examples = build(interactions.x[i], arms)
        # mtr weighs by 1 / (number of arms · probability).
        probability = float((interactions.propensity[i] * len(arms)) ** importance / len(arms))
        weight = float(interactions.weight[i])
        for arm, example in zip(arms.tolist(), examples, strict=True):
            chosen = arm == interactions.action[i]
            label = (float(-rewards[i]), min(1.0, probability)) if chosen else None
            example.set_label(CBLabel(label=label, weight=weight))
        yield examples


def build(x: NDArray[np.float64], arms: NDArray[np.int64]) -> list[Example]:
    """One example an arm, for an encoded context ``(d,)``."""
    columns = np.flatnonzero(x)
    values: Any = x[columns].astype(np.float32)  # the library's stub means an array of them
    examples = []
    for arm in arms.tolist():
        example = Example()
        indices = (arm * len(x) + columns).astype(np.uint64)
        example["a"].push_many_features(indices, values)
        example.set_label(CBLabel())
        examples.append(example)
    return examples


def freeze(state: State) -> Scorer:
    """VW's weights as a dense matrix; VW predicts standardised costs, so the sign turns."""
    k, d = len(state.spec.arms), state.spec.schema.dimension
    costs = load(state).weights()[: k * d, 0, 0].reshape(k, d).astype(np.float64)
    weights = -costs * state.moments.scale
    weights[:, 0] += state.moments.mean
    return Scorer(state.spec.arms, weights, explore(state.params, state.moments))


def snapshot(state: State) -> bytes:
    """The state as bytes."""
    return files.pack(
        files.owner(NAME, state.spec, state.params),
        state.moments.as_json(),
        {"model": np.frombuffer(state.model, dtype=np.uint8)},
    )


def restore(spec: Spec, data: bytes) -> State:
    """The state that :func:`snapshot` wrote."""
    state = init(spec)
    numbers, tensors = files.unpack(files.owner(NAME, spec, state.params), data)
    return replace(state, model=tensors["model"].tobytes(), moments=Moments(**numbers))
