"""Several of VW's regressions that vote: a bag, or online cover, and exact propensities of both.

VW's own `--bag` and `--cover` do not learn on from a saved model as from one in memory, and the
probabilities of `--bag` come from draws. Here each member is a group of blocks of one VW model,
taught by VW's plain steps, and each votes for its best arm, so an arm's probability is its share
of the votes, known exactly.

* ``bag``: each member sees each interaction a Poisson(1) number of times (the online bootstrap;
  Oza & Russell 2001), so members differ by as much as the log leaves open. The draws come from
  the seed and the interaction's number: the same log gives the same bag, in pieces or at once.
* ``cover``: online cover (Agarwal et al. 2014, arXiv:1402.0555, section 6). The first member
  learns the doubly robust cost of every eligible arm; each later one the same, less a bonus for
  arms that the members before it do not vote for, ``psi · μ / ((1 - nμ) share + μ)`` with
  ``μ = min(1/n, 1/√(n t))``, so it covers what they leave out. Costs are in standard deviations.
"""

import math
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
from learners.scorers.ensemble import Ensemble
from learners.vw_model import Model, Shape

NAME = "vw_ensemble"
PARAMS: Params = {
    **EXPLORATION_PARAMS,
    "exploration": "votes",
    "method": "bag",
    "members": 8,
    "rate": 0.2,
    "psi": 1.0,
    "max_importance": 10.0,
}
"""``members``: how many vote. ``psi``: for ``cover``, the bonus of an arm without votes.
``max_importance``: for ``cover``, cap on 1 / propensity."""

METHODS = ("bag", "cover")
MAX_MEMBERS = 64
PROMISES: frozenset[Promise] = frozenset({"batch"})

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """The saved model: a group a member, and for ``cover`` one more, which predicts."""

    spec: Spec
    params: dict[str, Any]
    model: bytes
    moments: Moments
    shown: int = 0


def init(spec: Spec) -> State:
    """Nothing learnt yet.

    Raises:
        SpecError: A parameter is out of range, or there are too many weights.
    """
    least = {"members": 1, "rate": 1e-9, "psi": 0.0, "max_importance": 1.0}
    params = checked_params(NAME, PARAMS, spec.params, least)
    if params["members"] > MAX_MEMBERS:
        raise SpecError(f"{NAME}.members is {params['members']}: give at most {MAX_MEMBERS}")
    if params["method"] not in METHODS:
        raise SpecError(f"{NAME}.method is {params['method']!r}: give {', '.join(METHODS)}")
    shape = vw_model.checked(NAME, _shape(spec, params))
    return State(spec, params, vw_model.make(shape, float(params["rate"])), Moments())


def _shape(spec: Spec, params: Params) -> Shape:
    groups = int(params["members"]) + (1 if params["method"] == "cover" else 0)
    return Shape(groups, len(spec.arms), spec.schema.dimension)


def learn(state: State, interactions: Interactions) -> State:
    """Show each member each interaction, in order."""
    check(state.spec, interactions)
    if not len(interactions):
        return state
    workspace = vw_model.load(state.model)
    rewards, moments = standardise(state.moments, interactions)
    taught = np.flatnonzero(interactions.weight > 0)
    show = _bag if state.params["method"] == "bag" else _cover
    show(state, workspace, interactions.rows(taught), -rewards[taught])
    shown = state.shown + len(taught)
    return replace(state, model=workspace.serialize(), moments=moments, shown=shown)


def _bag(state: State, workspace: Model, log: Interactions, costs: Floats) -> None:
    k, d = len(state.spec.arms), log.x.shape[1]
    times = counts(state.spec.seed, state.shown, len(log), int(state.params["members"]))
    weights = (times * log.weight[:, None]).tolist()
    rows = vw_model.rows(log.x, log.action)
    for (places, values), cost, row_weights in zip(rows, costs.tolist(), weights, strict=True):
        for member, weight in enumerate(row_weights):
            if weight > 0:
                row = (places + np.uint64(member * k * d), values)
                vw_model.step(workspace, row, cost, weight)


def counts(seed: int, start: int, n: int, members: int) -> NDArray[np.int64]:
    """How often each member sees each of n interactions from number ``start`` on, ``(n, M)``."""
    bits = np.random.PCG64(seed)
    bits.advance(start * members)  # one number a member and interaction, whatever came before
    drawn = np.random.Generator(bits).random((n, members))
    found: NDArray[np.int64] = np.searchsorted(_POISSON, drawn, side="right")
    return found


_POISSON = np.cumsum([math.exp(-1.0) / math.factorial(times) for times in range(20)])


def _cover(state: State, workspace: Model, log: Interactions, costs: Floats) -> None:
    k, d = len(state.spec.arms), log.x.shape[1]
    weights = vw_model.view(workspace, _shape(state.spec, state.params))[..., 0]
    rows = vw_model.rows(log.x, np.zeros(len(log), dtype=np.int64))
    served = np.maximum(log.propensity, 1.0 / float(state.params["max_importance"]))
    for i, (places, values) in enumerate(rows):
        arms, chosen = np.flatnonzero(log.eligible[i]), int(log.action[i])
        predicted = np.asarray(weights[:, :, places] @ values, dtype=np.float64)
        target = predicted[-1].copy()
        target[chosen] += (costs[i] - target[chosen]) / served[i]
        votes = predicted[:-1, arms].argmin(axis=1)
        bonuses = covered(votes, len(arms), state.shown + i + 1) * float(state.params["psi"])
        for member, bonus in enumerate(bonuses):
            for arm, cost in zip(arms.tolist(), (target[arms] - bonus).tolist(), strict=True):
                row = (places + np.uint64((member * k + arm) * d), values)
                vw_model.step(workspace, row, cost, float(log.weight[i]))
        row = (places + np.uint64((len(bonuses) * k + chosen) * d), values)
        vw_model.step(workspace, row, float(costs[i]), float(log.weight[i]))


def covered(votes: NDArray[np.int64], n: int, t: int) -> Floats:
    """Each member's bonus for each of n arms ``(M, n)``: 0 of the first, at most 1 of the others.

    Args:
        votes: the arm that each member ranks first, shape ``(M,)``.
        n: how many arms are eligible.
        t: the interaction's number, from 1.
    """
    least = min(1.0 / n, 1.0 / np.sqrt(n * t))
    given = np.eye(n)[votes[:-1]].cumsum(axis=0) / np.arange(1, len(votes))[:, None]
    found = np.zeros((len(votes), n))
    found[1:] = least / ((1.0 - n * least) * given + least)
    return found


def freeze(state: State) -> Ensemble:
    """The members' weights; VW predicts standardised costs, so the sign turns."""
    found = vw_model.view(vw_model.load(state.model), _shape(state.spec, state.params))
    costs = found[: int(state.params["members"]), ..., 0].astype(np.float64)
    weights = -costs * state.moments.scale
    weights[..., 0] += state.moments.mean
    return Ensemble(state.spec.arms, weights, explore(state.params, state.moments))


def rearm(state: State, spec: Spec) -> State:
    """The state for other arms; see :func:`learners.vw_model.moved`."""
    pairs = kept(state.spec, spec)
    fresh = init(spec)
    shapes = [_shape(each.spec, each.params) for each in (state, fresh)]
    model = vw_model.moved(state.model, shapes[0], fresh.model, shapes[1], pairs)
    return replace(fresh, model=model, moments=state.moments, shown=state.shown)


def snapshot(state: State) -> bytes:
    """The state as bytes."""
    return files.pack(
        files.owner(NAME, state.spec, state.params),
        {**state.moments.as_json(), "shown": state.shown},
        {"model": np.frombuffer(state.model, dtype=np.uint8)},
    )


def restore(spec: Spec, data: bytes) -> State:
    """The state that :func:`snapshot` wrote."""
    state = init(spec)
    numbers, tensors = files.unpack(files.owner(NAME, spec, state.params), data)
    shown = int(numbers.pop("shown"))
    model = tensors["model"].tobytes()
    return replace(state, model=model, moments=Moments(**numbers), shown=shown)
