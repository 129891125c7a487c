"""A budget kept over time: :mod:`learners.multi_objective` with costs priced to spend it.

The reward's own weight of the cost stays; a multiplier is added to it that is 0 while the policy
spends less than the budget (:mod:`learners.pacing`). It is solved for at each freeze from the most
recent contexts, what their costs are predicted to be, corrected by what they really were, and the
debt so far. A request's preference weighs the priced cost: ``cost=0`` spends whatever it takes,
and later requests pay for it.

Every interaction counts as one request at its cost, whatever its weight: money spent is spent.
What is not yet in the log is taken to cost what was planned, so late feedback is no harm as long
as it is late by well under ``horizon``. Without a ``budget`` the policy is ``multi_objective``'s.
"""

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from learners import multi_objective
from learners import snapshot as files
from learners.contract import Params, Promise, Spec, check, kept
from learners.errors import InteractionError, SpecError
from learners.exploration import probabilities
from learners.interactions import Interactions
from learners.pacing import Floats, Pace, Price, price
from learners.ridge import check_pooling
from learners.schedule import checked_params
from learners.scorers.base import Scorer
from learners.scorers.mixed import Mixed

NAME = "paced"
PARAMS: Params = {
    **multi_objective.PARAMS,
    "budget": 0.0,
    "cost": "cost_usd",
    "horizon": 128.0,
    "window": 256,
}
"""``budget``: of a request, in the cost's unit; 0 for none. ``cost``: the part that is paced.
``horizon``: requests in which a debt is paid back. ``window``: recent requests that are looked
at."""

MAX_WINDOW = 4_096
CORRECTION = (0.1, 10.0)
"""Bounds of what predicted costs are multiplied by to be what was paid."""

PRIOR = 8.0
"""Requests that the correction of all arms counts for in an arm's."""

PROMISES: frozenset[Promise] = frozenset({"batch"})


@dataclass(frozen=True, slots=True, eq=False)
class Recent:
    """The w most recent requests by the time of their decision.

    Attributes:
        x: shape ``(w, d)``.
        eligible: shape ``(w, K)``.
        action: shape ``(w,)``; -1 where the arm has left.
        cost: what was paid, shape ``(w,)``.
        at: shape ``(w,)``, rising.
    """

    x: Floats
    eligible: NDArray[np.bool_]
    action: NDArray[np.int64]
    cost: Floats
    at: Floats

    @classmethod
    def empty(cls, columns: int, arms: int) -> Self:
        """No request yet."""
        none = np.zeros(0)
        return cls(
            np.zeros((0, columns)),
            np.zeros((0, arms), dtype=np.bool_),
            none.astype(np.int64),
            none,
            none,
        )

    def add(self, log: Interactions, cost: Floats, window: int) -> Self:
        """With these requests, without those that are no longer recent."""
        at = np.concatenate([self.at, log.at])
        last = np.sort(np.argsort(at, kind="stable")[-window:])
        last = last[np.argsort(at[last], kind="stable")]
        more = {"x": log.x, "eligible": log.eligible, "action": log.action, "cost": cost}
        columns = {
            name: np.concatenate([getattr(self, name), each])[last] for name, each in more.items()
        }
        return type(self)(**columns, at=at[last])

    def rearmed(self, old: Spec, new: Spec) -> Self:
        """For another spec's arms; a new arm could have served every request."""
        before, after = kept(old, new)
        eligible = np.ones((len(self.at), len(new.arms)), dtype=np.bool_)
        eligible[:, after] = self.eligible[:, before]
        number = np.full(len(old.arms) + 1, -1)
        number[before] = after
        return replace(self, eligible=eligible, action=number[self.action])

    def tensors(self) -> dict[str, NDArray[Any]]:
        """What a snapshot stores."""
        names = ("x", "eligible", "action", "cost", "at")
        return {f"recent.{name}": getattr(self, name) for name in names}


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """What was learnt, and what was spent.

    Attributes:
        inner: the regressions' state.
        recent: requests to solve for the price on.
        spent: cost of all interactions.
        requests: how many there were.
    """

    spec: Spec
    params: dict[str, Any]
    inner: multi_objective.State
    recent: Recent
    spent: float = 0.0
    requests: int = 0


def init(spec: Spec) -> State:
    """Nothing learnt or spent yet.

    Raises:
        SpecError: A parameter is out of range, or the reward has no such cost.
    """
    least = {**multi_objective.LIMITS, "budget": 0.0, "horizon": 1.0, "window": 1}
    params = checked_params(NAME, PARAMS, spec.params, least)
    check_pooling(NAME, params)
    if params["window"] > MAX_WINDOW:
        raise SpecError(f"{NAME}.window is {params['window']}: give at most {MAX_WINDOW}")
    names = spec.reading.names
    if params["budget"] > 0 and (len(names) == 1 or params["cost"] not in names):
        raise SpecError(
            f"{NAME}.cost is {params['cost']!r}, the reward's parts are {', '.join(names)}: give "
            "the reward another term with the cost that has a budget"
        )
    recent = Recent.empty(spec.schema.dimension, len(spec.arms))
    return State(spec, params, multi_objective.empty(spec, params), recent)


def learn(state: State, interactions: Interactions) -> State:
    """Learn what arms are worth, and add up what was spent.

    Raises:
        InteractionError: There is a budget, and the interactions do not tell their costs.
    """
    check(state.spec, interactions)
    inner = multi_objective.learn(state.inner, interactions)
    if not state.params["budget"] or not len(interactions):
        return replace(state, inner=inner)
    names = state.spec.reading.names
    if interactions.parts.shape[1] != len(names):
        raise InteractionError(
            f"interactions without the reward's parts: a budget needs {state.params['cost']!r} of "
            "each; let it be measured, or give it a default in the reward"
        )
    cost = interactions.parts[:, names.index(str(state.params["cost"]))]
    return replace(
        state,
        inner=inner,
        recent=state.recent.add(interactions, cost, int(state.params["window"])),
        spent=state.spent + float(cost.sum()),
        requests=state.requests + len(interactions),
    )


def freeze(state: State) -> Scorer:
    """The regressions' scorer, its costs brought up to date, with the price on them."""
    scorer = multi_objective.freeze(state.inner)
    if not isinstance(scorer, Mixed) or not _spends(state):
        return scorer
    scorer = _updated(state, scorer)
    mix = scorer.mix.copy()
    mix[_place(state)] -= _price(state, scorer).multiplier
    return replace(scorer, mix=mix)


def standing(state: State) -> Price | None:
    """What money costs now, and whether the budget can be kept; None while there is nothing yet."""
    scorer = multi_objective.freeze(state.inner)
    if not isinstance(scorer, Mixed) or not _spends(state):
        return None
    return _price(state, _updated(state, scorer))


def _spends(state: State) -> bool:
    return bool(state.params["budget"]) and len(state.recent.at) > 0


def _price(state: State, scorer: Mixed) -> Price:
    recent = state.recent
    pace = Pace(float(state.params["budget"]), float(state.params["horizon"]))
    return price(
        scorer.scores(recent.x),
        scorer.predicted(recent.x)[:, _place(state)],
        pace.rate(state.spent, state.requests),
        lambda scores: probabilities(scores, recent.eligible, scorer.exploration),
    )


def _updated(state: State, scorer: Mixed) -> Mixed:
    """The scorer with each arm's costs multiplied by what was paid over what was predicted.

    The regressions look at the whole log, so prices that have changed since bias them. An arm's
    factor is shrunk to that of all.
    """
    recent, place = state.recent, _place(state)
    k = len(scorer.arms)
    predicted = scorer.predicted(recent.x)[:, place]
    known = np.flatnonzero(recent.action >= 0)
    action = recent.action[known]
    paid = np.bincount(action, recent.cost[known], k)
    expected = np.bincount(action, predicted[known, action], k)
    usual = _factor(paid.sum(), expected.sum())
    prior = PRIOR * np.maximum(predicted.mean(axis=0), 0.0)
    factors = [
        _factor(one + usual * more, other + more)
        for one, other, more in zip(paid.tolist(), expected.tolist(), prior.tolist(), strict=True)
    ]
    weights = scorer.weights.copy()
    weights[place] *= np.array(factors)[:, None]
    return replace(scorer, weights=weights)


def _factor(paid: float, expected: float) -> float:
    return float(np.clip(paid / expected, *CORRECTION)) if expected > 0 else 1.0


def _place(state: State) -> int:
    return state.spec.reading.names.index(str(state.params["cost"]))


def rearm(state: State, spec: Spec) -> State:
    """The state for other arms; what was spent stays spent."""
    new = init(spec)
    return replace(
        new,
        inner=multi_objective.rearmed(state.inner, new.inner),
        recent=state.recent.rearmed(state.spec, spec),
        spent=state.spent,
        requests=state.requests,
    )


def snapshot(state: State) -> bytes:
    """The state as bytes."""
    numbers, tensors = multi_objective.plain(state.inner)
    return files.pack(
        files.owner(NAME, state.spec, state.params),
        {"inner": numbers, "spent": state.spent, "requests": state.requests},
        {**tensors, **state.recent.tensors()},
    )


def restore(spec: Spec, data: bytes) -> State:
    """The state that :func:`snapshot` wrote."""
    state = init(spec)
    numbers, tensors = files.unpack(files.owner(NAME, spec, state.params), data)
    recent = {
        name.removeprefix("recent."): tensors.pop(name)
        for name in list(tensors)
        if name.startswith("recent.")
    }
    return replace(
        state,
        inner=multi_objective.filled(state.inner, numbers["inner"], tensors),
        recent=Recent(**recent),
        spent=float(numbers["spent"]),
        requests=int(numbers["requests"]),
    )
