"""Fitted Q iteration over an agent's steps, linear in the context for each arm, and cautious.

Q(x, a) is what an episode still earns when ``a`` serves now and the best arms serve later. Each
iteration is a ridge regression an arm on ``reward + discount · max Q(next)`` (Ernst, Geurts &
Wehenkel 2005), as many as the longest episode has steps. Last steps have a known target: their
statistics are exact and need no rows. Of the others a bounded sample is kept
(:mod:`learners.reservoir`), counted up to the number that was seen.

*Caution.* A maximum seeks out what is over-estimated, which is what the log seldom tried. So Q is
fitted with the penalty of conservative Q-learning against the even choice (Kumar et al. 2020,
arXiv:2006.04779, equation 2), which is linear in the weights and so has a closed form: an arm's Q
falls by ``conservatism / sqrt(n)`` standard deviations times how much more often the even choice
takes it there than the log did, less one; by at most ``conservatism``. It falls with ``1/sqrt(n)``
as the error that it guards against does. Targets stay within the returns that were ever seen.

Learning in pieces equals learning at once where no episode is cut by them.
"""

from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from learners import snapshot as files
from learners.budgets import BUDGET_PARAMS, LEAST, UNSEEN, check_budget, dearest, masked
from learners.contract import Params, Promise, Spec, carried, check
from learners.episodes import added, check_discount, outcome_parts, unroll
from learners.errors import SpecError
from learners.interactions import Interactions
from learners.reservoir import Transitions
from learners.schedule import EXPLORATION_PARAMS, Moments, checked_params, explore
from learners.scorers.base import Scorer
from learners.scorers.linear import Linear

NAME = "fqi"
PARAMS: Params = {
    **EXPLORATION_PARAMS,
    **BUDGET_PARAMS,
    "discount": 1.0,
    "horizon": 32,
    "ridge": 1.0,
    "conservatism": 1.0,
    "capacity": 20_000,
    "terminal": "",
}
"""``horizon``: most iterations. ``ridge``: penalty on the weights. ``capacity``: steps that are
kept, fewer where that times the columns exceeds :data:`MAX_ENTRIES`. ``terminal``: the parts of the
reward that are the episode's outcome."""

MAX_ENTRIES = 6 * 2**20
"""Arms × columns², and kept steps × columns: what the state may hold."""

_SUMS = ("gram", "moment", "even", "taken")
PROMISES: frozenset[Promise] = frozenset({"batch", "order"})

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """Statistics of all steps, and a sample of those that another followed.

    Attributes:
        gram: Σ w x xᵀ of each arm's last steps, shape ``(K, d, d)``.
        moment: Σ w reward x of each arm's last steps, shape ``(K, d)``.
        even: Σ w x / (number of eligible arms) where the arm is eligible, all steps, ``(K, d)``.
        taken: Σ w x of each arm's steps, shape ``(K, d)``.
        dearest: the dearest call, USD, shape ``(K,)``.
        sample: steps that another followed.
        followed: how many the sample stands for.
        longest: steps of the longest episode.
        low: the least return to go.
        high: the largest.
        moments: of the returns to go.
    """

    spec: Spec
    params: dict[str, Any]
    gram: Floats
    moment: Floats
    even: Floats
    taken: Floats
    dearest: Floats
    sample: Transitions
    followed: float = 0.0
    longest: int = 0
    low: float = 0.0
    high: float = 0.0
    moments: Moments = field(default_factory=Moments)


def init(spec: Spec) -> State:
    """Nothing learnt yet.

    Raises:
        SpecError: A parameter is out of range, or the state would be too large.
    """
    least = {**LEAST, "horizon": 1.0, "ridge": 1e-9, "conservatism": 0.0, "capacity": 1.0}
    params = checked_params(NAME, PARAMS, spec.params, least)
    check_discount(NAME, params)
    check_budget(NAME, spec, params)
    outcome_parts(spec, params["terminal"])
    k, d = len(spec.arms), spec.schema.dimension
    if k * d * d > MAX_ENTRIES:
        raise SpecError(
            f"{k} arms of {d}² entries: fqi takes at most {MAX_ENTRIES} in all; "
            "use fewer columns, or the learner reinforce"
        )
    sums: dict[str, Any] = {name: np.zeros((k, d)) for name in _SUMS[1:]}
    return State(
        spec,
        params,
        gram=np.zeros((k, d, d)),
        dearest=np.full(k, UNSEEN),
        sample=Transitions.empty(spec),
        **sums,
    )


def learn(state: State, interactions: Interactions) -> State:
    """Add the last steps to the statistics, and the others to the sample."""
    check(state.spec, interactions)
    if not interactions.weight.sum() > 0:
        return state
    params = state.params
    steps = unroll(interactions, state.spec, params["terminal"], float(params["discount"]))
    log, counts = steps.log, steps.log.weight > 0
    sums = {name: getattr(state, name).copy() for name in _SUMS}
    weighted = log.x * log.weight[:, None]
    sums["even"] += (log.eligible / log.eligible.sum(axis=1, keepdims=True)).T @ weighted
    for arm in np.unique(log.action).tolist():
        chosen = log.action == arm
        sums["taken"][arm] += weighted[chosen].sum(axis=0)
        ended = chosen & steps.last
        sums["gram"][arm] += weighted[ended].T @ log.x[ended]
        sums["moment"][arm] += weighted[ended].T @ steps.reward[ended]
    to_go = steps.to_go[counts]
    before = state.moments.count > 0
    capacity = min(int(params["capacity"]), MAX_ENTRIES // state.spec.schema.dimension)
    return replace(
        state,
        **sums,
        dearest=dearest(state.dearest, steps, state.spec, float(params["cost_unit_usd"])),
        sample=state.sample.with_steps(steps, state.spec.seed, capacity),
        followed=state.followed + int((counts & ~steps.last).sum()),
        longest=max(state.longest, int(steps.step[counts].max()) + 1),
        low=float(min(to_go.min(), state.low if before else np.inf)),
        high=float(max(to_go.max(), state.high if before else -np.inf)),
        moments=added(state.moments, steps.to_go, log.weight),
    )


def freeze(state: State) -> Scorer:
    """The regressions of the last iteration, within the budget where ``max_turns`` is given."""
    weights = _iterated(state)
    weights[:, 0] += state.moments.mean
    scorer = Linear(state.spec.arms, weights, explore(state.params, state.moments))
    return masked(scorer, state.spec, state.params, state.dearest)


def _iterated(state: State) -> Floats:
    """Weights ``(K, d)`` of Q less the mean return, after as many iterations as steps."""
    sample, mean = _by_arm(state.sample), state.moments.mean
    k = len(state.spec.arms)
    # What the sample lacks is like what it has: each of its rows stands for as many.
    share = sample.weight * (state.followed / max(len(sample), 1))
    edges = np.searchsorted(sample.action, np.arange(k + 1))
    rows = [slice(edges[arm], edges[arm + 1]) for arm in range(k)]
    x = sample.x.astype(np.float64)
    weighted = x * share[:, None]
    gram = state.gram + np.stack([weighted[each].T @ x[each] for each in rows])
    regular = gram + float(state.params["ridge"]) * np.eye(gram.shape[1])
    inverse: Floats = np.linalg.inv(regular).astype(np.float64, copy=False)
    known = state.moment + np.stack([weighted[each].T @ sample.reward[each] for each in rows])
    base = np.einsum("kde,ke->kd", inverse, known - mean * gram[:, :, 0]) - _caution(state, inverse)
    found = base
    discount = float(state.params["discount"])
    for _ in range(min(state.longest, int(state.params["horizon"])) - 1):
        later = discount * _best_later(found, state, sample)
        ahead = np.stack([later[each] @ weighted[each] for each in rows])
        found = base + np.einsum("kde,ke->kd", inverse, ahead)
    return np.array(found)


def _best_later(weights: Floats, state: State, sample: Transitions) -> Floats:
    """What each followed step's next one is worth with its best arm, shape ``(r,)``."""
    scores = sample.following @ weights.T.astype(np.float32)
    scores[~sample.eligible] = -np.inf
    best = scores.max(axis=1).astype(np.float64) + state.moments.mean
    found: Floats = np.clip(best, state.low, state.high)
    return found


def _caution(state: State, inverse: Floats) -> Floats:
    """What conservatism takes off the weights, shape ``(K, d)``."""
    rarer = np.einsum("kde,ke->kd", inverse, state.even - state.taken)
    n = max(float(state.taken[:, 0].sum()), 1.0)
    # Without data along a column the closed form has no bound but the ridge.
    limit = np.abs(rarer).max(axis=1, keepdims=True)
    scale = np.minimum(1 / np.sqrt(n), 1 / np.maximum(limit, 1e-12))
    found: Floats = float(state.params["conservatism"]) * state.moments.scale * scale * rarer
    return found


def _by_arm(sample: Transitions) -> Transitions:
    """The sample sorted by action."""
    order = np.argsort(sample.action, kind="stable")
    return replace(sample, **{name: each[order] for name, each in sample.tensors().items()})


def rearm(state: State, spec: Spec) -> State:
    """The state for other arms; the sample's share of all followed steps stays as it was."""
    init(spec)
    sums: dict[str, Any] = {name: carried(getattr(state, name), state.spec, spec) for name in _SUMS}
    sample = state.sample.over(state.spec, spec)
    return replace(
        state,
        spec=spec,
        **sums,
        dearest=carried(state.dearest, state.spec, spec, UNSEEN),
        sample=sample,
        followed=state.followed * len(sample) / max(len(state.sample), 1),
    )


_NUMBERS = ("followed", "longest", "low", "high")


def snapshot(state: State) -> bytes:
    """The state as bytes."""
    names = (*_SUMS, "dearest")
    return files.pack(
        files.owner(NAME, state.spec, state.params),
        {
            "moments": state.moments.as_json(),
            **{name: getattr(state, name) for name in _NUMBERS},
        },
        {
            **{name: getattr(state, name) for name in names},
            **{f"sample.{name}": each for name, each in state.sample.tensors().items()},
        },
    )


def restore(spec: Spec, data: bytes) -> State:
    """The state that :func:`snapshot` wrote."""
    state = init(spec)
    numbers, tensors = files.unpack(files.owner(NAME, spec, state.params), data)
    sample = Transitions(**{f.name: tensors.pop(f"sample.{f.name}") for f in fields(Transitions)})
    moments = Moments(**numbers.pop("moments"))
    return replace(state, **numbers, **tensors, sample=sample, moments=moments)
