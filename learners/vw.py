"""Vowpal Wabbit's contextual bandit: multi-task regression, inverse propensity or doubly robust.

VW learns the reward in standard deviations from its running mean; its weights are exported as they
are. ``cb_type`` says what it regresses on:

* ``mtr``: the chosen arm's cost. VW learns from no other arm's example, so it is shown no other:
  the same weights, for a K-th of the time.
* ``ips``: every eligible arm's cost, the chosen one's over its propensity, the others' nothing;
  VW's own.
* ``dr``: every eligible arm's predicted cost, corrected by the chosen one's error over its
  propensity (Dudík et al. 2011, arXiv:1103.4601). VW's own does not learn on from a saved model
  as from one in memory (weights differ by 0.1 after 400 interactions), so here it is two
  regressions an arm, of VW's plain steps: what predicts, and what learns from the corrected.

Not offered, and why: `dm` is ``mtr`` with ``importance`` 0. `bag`, `cover`, `rnd`, `automl` and
`epsilon_decay` forget on saving; see ``vw_ensemble``. `--l2` is not saved at all.
`--large_action_space` picks spanning actions among many that share features; here no two arms
share one, so all of them span: at 200 arms it took 1.9 times as long (`bench/learning_vw.py`), and
a decision never asks VW.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from learners import snapshot as files
from learners import vw_model
from learners.contract import Params, Promise, Spec, check, kept
from learners.errors import SpecError
from learners.interactions import Interactions
from learners.schedule import EXPLORATION_PARAMS, Moments, checked_params, explore, standardise
from learners.scorers.linear import Linear
from learners.vw_model import Model, Shape

NAME = "vw"
PARAMS: Params = {
    **EXPLORATION_PARAMS,
    "cb_type": "mtr",
    "rate": 0.2,
    "importance": 0.0,
    "max_importance": 10.0,
}
"""``rate``: VW's learning rate. ``importance``: for ``mtr``, the power of the importance weight
``1 / (arms · propensity)``; 1 as published and 0 for a plain regression, which has less variance
where the log is narrow. ``max_importance``: for ``ips`` and ``dr``, cap on 1 / propensity."""

PROMISES: frozenset[Promise] = frozenset({"batch"})
CB_TYPES = ("mtr", "ips", "dr")


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """The saved model: a block an arm, and after them, for ``dr``, another that predicts."""

    spec: Spec
    params: dict[str, Any]
    model: bytes
    moments: Moments


def init(spec: Spec) -> State:
    """Nothing learnt yet.

    Raises:
        SpecError: A parameter is out of range, or there are too many weights.
    """
    least = {"rate": 1e-9, "importance": 0.0, "max_importance": 1.0}
    params = checked_params(NAME, PARAMS, spec.params, least)
    if float(params["importance"]) > 1.0:
        raise SpecError(f"vw.importance is {params['importance']}: give 0 to 1")
    if params["cb_type"] not in CB_TYPES:
        raise SpecError(f"vw.cb_type is {params['cb_type']!r}: give {', '.join(CB_TYPES)}")
    own = "ips" if params["cb_type"] == "ips" else "mtr"
    shape = vw_model.checked(NAME, _shape(spec, params))
    return State(spec, params, vw_model.make(shape, float(params["rate"]), own), Moments())


def _shape(spec: Spec, params: Params) -> Shape:
    groups = 2 if params["cb_type"] == "dr" else 1
    return Shape(groups, len(spec.arms), spec.schema.dimension)


def learn(state: State, interactions: Interactions) -> State:
    """Show VW each interaction, in order."""
    check(state.spec, interactions)
    if not len(interactions):
        return state
    workspace = load(state)
    rewards, moments = standardise(state.moments, interactions)
    # What has no weight teaches nothing and is left out.
    taught = np.flatnonzero(interactions.weight > 0)
    show = {"mtr": _mtr, "ips": _ips, "dr": _dr}[state.params["cb_type"]]
    show(state, workspace, interactions.rows(taught), -rewards[taught])
    return replace(state, model=workspace.serialize(), moments=moments)


def load(state: State) -> Model:
    """A workspace of its own, with the state's weights."""
    return vw_model.load(state.model)


def _mtr(state: State, workspace: Model, log: Interactions, costs: NDArray[np.float64]) -> None:
    power = -float(state.params["importance"])
    weights = log.weight * np.power(log.eligible.sum(axis=1) * log.propensity, power)
    rows = vw_model.rows(log.x, log.action)
    for row, cost, weight in zip(rows, costs.tolist(), weights.tolist(), strict=True):
        vw_model.step(workspace, row, cost, weight)


def _ips(state: State, workspace: Model, log: Interactions, costs: NDArray[np.float64]) -> None:
    d = log.x.shape[1]
    served = np.maximum(log.propensity, 1.0 / float(state.params["max_importance"])).tolist()
    rows = vw_model.rows(log.x, np.zeros(len(log), dtype=np.int64))
    for i, (places, values) in enumerate(rows):
        chosen, weight = int(log.action[i]), float(log.weight[i])
        examples = []
        for arm in np.flatnonzero(log.eligible[i]).tolist():
            label = (float(costs[i]), served[i]) if arm == chosen else None
            row = (places + np.uint64(arm * d), values)
            examples.append(vw_model.example(row, label, weight))
        workspace.learn_one(examples)


def _dr(state: State, workspace: Model, log: Interactions, costs: NDArray[np.float64]) -> None:
    k, d = len(state.spec.arms), log.x.shape[1]
    predicting = vw_model.view(workspace, Shape(2, k, d))[1, ..., 0]
    least = 1.0 / float(state.params["max_importance"])
    rows = vw_model.rows(log.x, np.zeros(len(log), dtype=np.int64))
    for i, (places, values) in enumerate(rows):
        chosen, weight = int(log.action[i]), float(log.weight[i])
        # Predicted before it learns of this interaction, so that the correction is not biased.
        corrected = predicting[:, places] @ values
        error = float(costs[i]) - float(corrected[chosen])
        corrected[chosen] += error / max(float(log.propensity[i]), least)
        for arm in np.flatnonzero(log.eligible[i]).tolist():
            row = (places + np.uint64(arm * d), values)
            vw_model.step(workspace, row, float(corrected[arm]), weight)
        row = (places + np.uint64((k + chosen) * d), values)
        vw_model.step(workspace, row, float(costs[i]), weight)


def freeze(state: State) -> Linear:
    """VW's weights as a dense matrix; VW predicts standardised costs, so the sign turns."""
    costs = vw_model.view(load(state), _shape(state.spec, state.params))[0, ..., 0]
    weights = -costs.astype(np.float64) * state.moments.scale
    weights[:, 0] += state.moments.mean
    return Linear(state.spec.arms, weights, explore(state.params, state.moments))


def rearm(state: State, spec: Spec) -> State:
    """The state for other arms; see :func:`learners.vw_model.moved`."""
    pairs = kept(state.spec, spec)
    fresh = init(spec)
    shapes = [_shape(each.spec, each.params) for each in (state, fresh)]
    model = vw_model.moved(state.model, shapes[0], fresh.model, shapes[1], pairs)
    return replace(fresh, model=model, moments=state.moments)


def merge(base: State, states: Sequence[State]) -> State:
    """One state of several that learnt on from ``base``, each from its own part of the log.

    Raises:
        SpecError: They are of other specs, or none.
    """
    if not states or any(each.spec != base.spec for each in states):
        raise SpecError(f"{len(states)} states to merge: give at least one, all of the base's spec")
    shape = _shape(base.spec, base.params)
    model = vw_model.merged(base.model, [each.model for each in states], shape)
    moments = base.moments
    for each in states:
        moments = moments.merge(each.moments.since(base.moments))
    return replace(base, model=model, moments=moments)


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
