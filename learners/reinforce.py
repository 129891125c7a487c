"""REINFORCE with a leave-one-out baseline, for a softmax policy that is linear in the context.

Each step moves its arm's probability by what the episode still earned less what the *other*
episodes earned from the same step of the same domain on (Kool, van Hoof & Welling 2019; Ahmadian
et al. 2024, arXiv:2402.14740). The log was served by another policy, so a step counts for
``min(π / propensity, clip)`` times the product of ``min(1, π / propensity)`` over the later steps:
exact for the policy that served, and cut where it would be noise (Espeholt et al. 2018,
arXiv:1802.01561). ``trace`` is that product's power: 0 takes what followed as it was served.

Regularised by the temperature τ: with n interactions at hand and N behind, the policy maximises

    n · E[reward / σ] + τ · (n · entropy − N · KL(π ‖ the policy before)),

so its logits are the average of the advantages in units of τ, old and new; N is at most ``memory``.
The gradient is preconditioned by the columns' second moments, so units do not matter, and takes a
fixed number of steps, or one pass over a long log. The exported scores are the logits times what 1
of a logit is worth in returns, and softmax with that temperature is the policy itself.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from learners import snapshot as files
from learners.budgets import BUDGET_PARAMS, LEAST, UNSEEN, check_budget, dearest, masked
from learners.contract import Params, Promise, Spec, carried, check
from learners.episodes import (
    Steps,
    added,
    check_discount,
    columns_of,
    outcome_parts,
    unroll,
)
from learners.errors import SpecError
from learners.interactions import Interactions
from learners.schedule import EXPLORATION_PARAMS, Moments, checked_params, explore
from learners.scorers.base import Scorer
from learners.scorers.linear import Linear

NAME = "reinforce"
PARAMS: Params = {
    **EXPLORATION_PARAMS,
    **BUDGET_PARAMS,
    "exploration": "softmax",
    "temperature": 0.05,
    "discount": 1.0,
    "steps": 200,
    "rate": 4.0,
    "ridge": 1.0,
    "clip": 5.0,
    "trace": 0.5,
    "memory": 5_000,
    "domain": "domain",
    "terminal": "",
}
"""``temperature``: τ, the regulariser's, so the policy's own. ``steps``: of the gradient, at the
least. ``rate``: their size. ``ridge``: penalty on the weights. ``clip``: cap on an importance.
``trace``: see above. ``memory``: most interactions that the policy before counts for.
``domain``: the feature that tells episodes that are compared. ``terminal``: the parts of the reward
that are the episode's outcome."""

MAX_ENTRIES = 2**22
"""Arms × columns: what still fits a bundle."""
CHUNK = 4_096
"""Steps of one gradient, rounded up to whole episodes."""
MAX_STEPS = 10_000
"""Of the gradient; as a step takes milliseconds, a round would else wait for one learner."""
_MOST = 10.0
"""Advantages beyond, in standard deviations, are cut: one outlier would be the whole gradient."""
_LEAST = 1e-12
PROMISES: frozenset[Promise] = frozenset()

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """The policy.

    Attributes:
        weights: of its logits, shape ``(K, d)``.
        dearest: each arm's dearest call, USD, shape ``(K,)``.
        moments: of the returns to go.
        unit: what 1 of a logit is worth, in standard deviations of return.
    """

    spec: Spec
    params: dict[str, Any]
    weights: Floats
    dearest: Floats
    moments: Moments = field(default_factory=Moments)
    unit: float = 1.0


def init(spec: Spec) -> State:
    """The even policy.

    Raises:
        SpecError: A parameter is out of range, or the weights would be too many.
    """
    least = {"steps": 1.0, "rate": 1e-9, "ridge": 0.0, "clip": 1.0, "trace": 0.0, "memory": 0.0}
    params = checked_params(NAME, PARAMS, spec.params, {**LEAST, **least})
    if params["steps"] > MAX_STEPS:
        raise SpecError(f"{NAME}.steps is {params['steps']}: give at most {MAX_STEPS}")
    check_discount(NAME, params)
    check_budget(NAME, spec, params)
    outcome_parts(spec, params["terminal"])
    k, d = len(spec.arms), spec.schema.dimension
    if k * d > MAX_ENTRIES:
        raise SpecError(
            f"{k} arms of {d} columns: reinforce takes at most {MAX_ENTRIES} weights; "
            "use fewer columns"
        )
    return State(spec, params, np.zeros((k, d)), np.full(k, UNSEEN))


def learn(state: State, interactions: Interactions) -> State:
    """Climb from the policy so far on these episodes."""
    check(state.spec, interactions)
    if not interactions.weight.sum() > 0:
        return state
    params = state.params
    steps = unroll(interactions, state.spec, params["terminal"], float(params["discount"]))
    moments = added(state.moments, steps.to_go, steps.log.weight)
    chunks = [_Chunk.of(state, steps, rows) for rows in _whole_episodes(steps)]
    weights = state.weights
    for i in range(max(int(params["steps"]), len(chunks))):
        weights = weights + _step(weights, state, chunks[i % len(chunks)], moments.scale)
    unit = _unit(weights, state, steps, moments)
    return replace(
        state,
        weights=weights,
        dearest=dearest(state.dearest, steps, state.spec, float(params["cost_unit_usd"])),
        moments=moments,
        unit=unit,
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Chunk:
    """Whole episodes, with what does not change while the policy does.

    ``group`` numbers the steps that are compared, ``end`` is each row's episode's last row,
    ``before`` the log-probabilities of the policy before, and ``metric`` the preconditioner.
    """

    steps: Steps
    group: NDArray[np.int64]
    end: NDArray[np.int64]
    before: Floats
    metric: Floats

    @classmethod
    def of(cls, state: State, steps: Steps, rows: slice) -> "_Chunk":
        some = Steps(
            log=steps.log.rows(rows),
            step=steps.step[rows],
            last=steps.last[rows],
            reward=steps.reward[rows],
            to_go=steps.to_go[rows],
        )
        x, weight = some.log.x, some.log.weight
        second = (x * weight[:, None]).T @ x / max(weight.sum(), _LEAST)
        # The penalty's own curvature too, at the step's size: else it would overshoot.
        penalty = float(state.params["ridge"]) * float(state.params["temperature"])
        ridge = float(state.params["rate"]) * (penalty + 1.0) / max(weight.sum(), 1.0)
        domain = x[:, columns_of(state.spec.schema, state.params["domain"])]
        kind = domain.argmax(axis=1) + domain.any(axis=1) if domain.shape[1] else np.zeros(len(x))
        _, group = np.unique(np.column_stack([kind, some.step]), axis=0, return_inverse=True)
        ends = np.flatnonzero(some.last)
        return cls(
            steps=some,
            group=group.reshape(-1),
            end=ends[np.searchsorted(ends, np.arange(len(x)))],
            before=np.log(np.maximum(_softmax(x @ state.weights.T, some.log.eligible), _LEAST)),
            metric=np.linalg.inv(second + ridge * np.eye(len(second))),
        )


def _whole_episodes(steps: Steps) -> Iterator[slice]:
    """Slices of about :data:`CHUNK` rows that cut no episode."""
    stops = np.flatnonzero(steps.last) + 1
    start = 0
    while start < len(steps.last):
        place = np.searchsorted(stops, min(start + CHUNK, len(steps.last)))
        yield slice(start, int(stops[place]))
        start = int(stops[place])


def _step(weights: Floats, state: State, chunk: _Chunk, scale: float) -> Floats:
    """One step of the gradient, shape ``(K, d)``."""
    params, log = state.params, chunk.steps.log
    policy = _softmax(log.x @ weights.T, log.eligible)
    rows = np.arange(len(log))
    ratio = policy[rows, log.action] / log.propensity
    followed = log.weight * _followed(ratio, chunk, float(params["trace"]))
    gain = np.clip(_advantage(followed, state, chunk) / scale, -_MOST, _MOST)
    gain *= followed * np.minimum(ratio, float(params["clip"]))
    n = max(float(log.weight.sum()), _LEAST)
    past = min(state.moments.count, float(params["memory"])) / n
    pull = -gain[:, None] * policy
    pull[rows, log.action] += gain
    # The gradient of n · entropy − N · KL: towards the even policy and the one before.
    drift = (1.0 + past) * np.log(np.maximum(policy, _LEAST)) - past * chunk.before
    drift -= (policy * drift).sum(axis=1, keepdims=True)
    temperature = float(params["temperature"])
    pull -= temperature * log.weight[:, None] * policy * drift
    gradient = pull.T @ log.x / n - float(params["ridge"]) * temperature * weights / n
    size = float(params["rate"]) / (1.0 + past)
    found: Floats = size * gradient @ chunk.metric
    return found


def _unit(weights: Floats, state: State, steps: Steps, moments: Moments) -> float:
    """What 1 of a logit is worth, in standard deviations of return: the slope of returns on them.

    The policy before counts as it does in the gradient. Where the log shows no slope, or a falling
    one, it is that of before.
    """
    log = steps.log
    logits = np.where(log.eligible, log.x @ weights.T, 0.0)
    centre = logits.sum(axis=1) / log.eligible.sum(axis=1)
    z = logits[np.arange(len(log)), log.action] - centre
    w = log.weight / log.weight.sum()
    z = z - w @ z
    spread = float(w @ (z * z))
    if spread <= _LEAST:
        return state.unit
    slope = float(w @ (z * (steps.to_go - w @ steps.to_go))) / spread / moments.scale
    if slope <= _LEAST:
        return state.unit
    past, n = min(state.moments.count, float(state.params["memory"])), float(log.weight.sum())
    return (n * slope + past * state.unit) / (n + past)


def _followed(ratio: Floats, chunk: _Chunk, trace: float) -> Floats:
    """How far the rest of the episode is what the policy would do, mean 1 in each group."""
    logs = np.log(np.clip(ratio, _LEAST, 1.0)).cumsum()
    found = np.exp(np.minimum(trace * (logs[chunk.end] - logs), 0.0))
    weight = chunk.steps.log.weight
    total = np.bincount(chunk.group, weight * found)
    mean = total / np.maximum(np.bincount(chunk.group, weight), _LEAST)
    return np.asarray(found / np.maximum(mean, _LEAST)[chunk.group])


def _advantage(weight: Floats, state: State, chunk: _Chunk) -> Floats:
    """Each step's return less the mean of the others of its group; the past counts as one more."""
    to_go = chunk.steps.to_go
    one = 1.0 if state.moments.count > 0 else 0.0
    others = np.bincount(chunk.group, weight)[chunk.group] - weight + one
    total = np.bincount(chunk.group, weight * to_go)[chunk.group] - weight * to_go
    total += one * state.moments.mean
    alone = others <= _LEAST * np.maximum(weight, 1.0)
    return np.where(alone, 0.0, to_go - total / np.where(alone, 1.0, others))


def _softmax(logits: Floats, eligible: NDArray[np.bool_]) -> Floats:
    masked_logits = np.where(eligible, logits, -np.inf)
    found = np.exp(masked_logits - masked_logits.max(axis=1, keepdims=True))
    return np.asarray(found / found.sum(axis=1, keepdims=True))


def freeze(state: State) -> Scorer:
    """The policy, within the budget where ``max_turns`` is given."""
    unit = state.unit * state.moments.scale
    spread = replace(explore(state.params, state.moments), temperature=unit)
    weights = state.weights * unit
    weights[:, 0] += state.moments.mean
    return masked(Linear(state.spec.arms, weights, spread), state.spec, state.params, state.dearest)


def rearm(state: State, spec: Spec) -> State:
    """The state for other arms; a new one is as the mean."""
    return replace(
        init(spec),
        weights=carried(state.weights, state.spec, spec),
        dearest=carried(state.dearest, state.spec, spec, UNSEEN),
        moments=state.moments,
        unit=state.unit,
    )


def snapshot(state: State) -> bytes:
    """The state as bytes."""
    return files.pack(
        files.owner(NAME, state.spec, state.params),
        {"moments": state.moments.as_json(), "unit": state.unit},
        {"weights": state.weights, "dearest": state.dearest},
    )


def restore(spec: Spec, data: bytes) -> State:
    """The state that :func:`snapshot` wrote."""
    state = init(spec)
    numbers, tensors = files.unpack(files.owner(NAME, spec, state.params), data)
    moments = Moments(**numbers["moments"])
    return replace(state, moments=moments, unit=numbers["unit"], **tensors)
