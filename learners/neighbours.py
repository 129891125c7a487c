"""Nearest neighbours: an arm is worth what it earned in the most similar contexts, calibrated.

Similar is what points the same way (cosine) in the columns named by ``feature``: an embedding, the
hashed words. Each arm's mean over its nearest points is shrunk to its mean everywhere, which is
weighted by the propensity as in ``best_fixed``; among neighbours no such weight is needed, as a
policy chooses by the context and they share theirs. After vLLM-SR's knn selector and JiSi's
retrieval of similar queries, which keep every arm's score of each query; a log has one arm's.

*Bounded.* Each arm keeps a seeded sample of what it earned: ``points`` in all, each arm as many,
as a rare arm needs its points most. What a row says, hashed with the seed, decides whether it
stays, so any order and any pieces of a log keep the same (Efraimidis & Spirakis 2006; with
``half_life_s`` the chance to stay halves with that age).

*Calibrated.* When frozen, the newest fifth of the sample is predicted from the rest, and what was
earned at each prediction learnt (:mod:`learners.calibration`), over all arms together: the scores
are then what an arm is expected to earn, and of a reward of 0 and 1 the chance of success.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from learners import snapshot as files
from learners.arm_sums import ArmSums
from learners.calibration import Curve, isotonic, platt
from learners.contract import Params, Promise, Spec, check, kept
from learners.errors import SpecError
from learners.features import Schema
from learners.interactions import Interactions
from learners.reservoir import hashed
from learners.schedule import EXPLORATION_PARAMS, Moments, checked_params, explore
from learners.scorers.neighbours import Neighbours, unit

NAME = "neighbours"
PARAMS: Params = {
    **EXPLORATION_PARAMS,
    "feature": "",
    "points": 4096,
    "nearest": 64,
    "prior": 8.0,
    "half_life_s": 0.0,
    "max_importance": 5.0,
    "calibration": "platt",
}
"""``feature``: names of the features that are compared, with commas between; empty: all.
``points``: interactions kept, of all arms together; ``nearest``: of an arm's points, how many
count. ``prior``: points that an arm's mean counts for in each estimate, and interactions that the
mean of all arms counts for in an arm's. ``half_life_s``: age that halves an interaction's chance
to be kept; 0: none. ``max_importance``: cap on ``1 / propensity`` in an arm's mean.
``calibration``: ``platt``, ``isotonic`` or ``none``."""

PROMISES: frozenset[Promise] = frozenset({"batch", "order"})

CALIBRATIONS = ("platt", "isotonic", "none")
MAX_ENTRIES = 2**22
"""Points × columns: 16 MiB of a bundle."""
MIN_HELD = 50
"""Held-out points below which nothing is calibrated."""
MAX_HELD = 192
"""Held-out points that are predicted: enough for two numbers, and freezing stays quick."""

_TRUST = 4.0
"""Of the estimates before calibration: the slope's prior deviation is a half."""
_LEAST = {
    "points": 1.0,
    "nearest": 1.0,
    "prior": 1e-9,
    "half_life_s": 0.0,
    "max_importance": 1.0,
}

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Points:
    """r interactions by arm and key; those of an arm's smallest keys stay.

    Attributes:
        key: shape ``(r,)``.
        arm: shape ``(r,)``.
        x: the columns that are compared, shape ``(r, c)``.
        reward: shape ``(r,)``.
        weight: shape ``(r,)``, above 0.
        at: seconds since 1970, shape ``(r,)``.
    """

    key: Floats
    arm: NDArray[np.int64]
    x: NDArray[np.float32]
    reward: Floats
    weight: Floats
    at: Floats

    def __len__(self) -> int:
        """How many."""
        return len(self.key)

    def columns(self) -> dict[str, NDArray[Any]]:
        """The arrays by name."""
        return {name: getattr(self, name) for name in _POINT}

    def rows(self, index: NDArray[np.int64] | NDArray[np.bool_]) -> "Points":
        """The points at the given rows."""
        return Points(**{name: each[index] for name, each in self.columns().items()})

    def least(self, quota: int) -> "Points":
        """Each arm's points of the smallest keys, at most ``quota``, by arm and key."""
        order = np.lexsort((self.key, self.arm))
        arm = self.arm[order]
        rank = np.arange(len(arm)) - np.searchsorted(arm, arm, side="left")
        return self.rows(order[rank < quota])

    def joined(self, other: "Points") -> "Points":
        """Both together."""
        own, more = self.columns(), other.columns()
        return Points(**{name: np.concatenate([own[name], more[name]]) for name in _POINT})


_POINT = ("key", "arm", "x", "reward", "weight", "at")


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """The points kept, and what each arm earned everywhere."""

    spec: Spec
    params: dict[str, Any]
    compared: NDArray[np.int64]
    points: Points
    sums: ArmSums
    moments: Moments


def init(spec: Spec) -> State:
    """Nothing learnt yet.

    Raises:
        SpecError: A parameter is out of range, or a feature is not there.
    """
    params = checked_params(NAME, PARAMS, spec.params, _LEAST)
    if params["calibration"] not in CALIBRATIONS:
        raise SpecError(
            f"{NAME}.calibration is {params['calibration']!r}: give one of {list(CALIBRATIONS)}"
        )
    compared = columns_of(spec.schema, str(params["feature"]))
    if params["points"] * len(compared) > MAX_ENTRIES:
        raise SpecError(
            f"{NAME}.points {params['points']} of {len(compared)} columns: give at most "
            f"{MAX_ENTRIES // len(compared)}, or compare fewer columns"
        )
    nothing = Points(
        key=np.zeros(0),
        arm=np.zeros(0, np.int64),
        x=np.zeros((0, len(compared)), np.float32),
        reward=np.zeros(0),
        weight=np.zeros(0),
        at=np.zeros(0),
    )
    return State(spec, params, compared, nothing, ArmSums.empty(len(spec.arms), 1), Moments())


def columns_of(schema: Schema, names: str) -> NDArray[np.int64]:
    """The columns of these features; all but the constant where none is named.

    Raises:
        SpecError: A feature that was asked for is not there.
    """
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    known = [feature.name for feature in schema.features]
    missing = [name for name in wanted if name not in known]
    if missing:
        raise SpecError(f"feature {missing[0]!r} is not there: name some of {known}, or none")
    ends = np.cumsum([1, *(feature.width for feature in schema.features)])
    found = [
        np.arange(ends[i], ends[i + 1])
        for i, name in enumerate(known)
        if not wanted or name in wanted
    ]
    columns = np.concatenate(found) if found else np.zeros(0, np.int64)
    return columns if len(columns) else np.zeros(1, np.int64)  # the constant: all are alike


def learn(state: State, interactions: Interactions) -> State:
    """Add to the sample and to each arm's sums; rows without weight to neither."""
    check(state.spec, interactions)
    everywhere = np.zeros(len(interactions), dtype=np.int64)
    cap = float(state.params["max_importance"])
    keys = _keys(state, interactions)
    quota = _quota(state.spec, state.params)
    rows = np.flatnonzero(interactions.weight > 0)
    # Most of a long log is left out: only what may stay is copied.
    order = rows[np.lexsort((keys[rows], interactions.action[rows]))]
    arm = interactions.action[order]
    order = order[np.arange(len(arm)) - np.searchsorted(arm, arm, side="left") < quota]
    new = Points(
        key=keys[order],
        arm=interactions.action[order],
        x=interactions.x[np.ix_(order, state.compared)].astype(np.float32),
        reward=interactions.reward[order],
        weight=interactions.weight[order],
        at=interactions.at[order],
    )
    return replace(
        state,
        points=state.points.joined(new).least(quota),
        sums=state.sums.add(interactions, everywhere, cap),
        moments=state.moments.add(interactions),
    )


def _quota(spec: Spec, params: dict[str, Any]) -> int:
    return max(int(params["points"]) // len(spec.arms), 1)


def _keys(state: State, log: Interactions) -> Floats:
    """Logarithms of exponential variates, shifted by age: the smallest stay, ``(n,)``."""
    if not len(log):
        return np.zeros(0)
    number = hashed(state.spec.seed, log.x, log.action, log.at, log.reward, log.propensity)
    even = ((number >> np.uint64(11)).astype(np.float64) + 0.5) / 2.0**53
    half_life = float(state.params["half_life_s"])
    youth = log.at * (math.log(2) / half_life) if half_life > 0 else 0.0
    return np.asarray(np.log(-np.log(even)) - youth, dtype=np.float64)


def freeze(state: State) -> Neighbours:
    """All points, calibrated by how well the older ones predict the newest."""
    scorer = _scorer(state, state.points, None)
    return replace(scorer, curve=_calibrated(state))


def _scorer(state: State, points: Points, curve: Curve | None) -> Neighbours:
    """The policy that knows these points."""
    k, c = len(state.spec.arms), len(state.compared)
    means = _means(state)
    first = np.searchsorted(points.arm, np.arange(k), side="left")
    place = (points.arm, np.arange(len(points)) - first[points.arm])
    most = int(place[1].max()) + 1 if len(points) else 1
    vectors = np.zeros((k, most, c), np.float32)
    vectors[place] = unit(points.x.astype(np.float64))
    residual, weight = np.zeros((k, most)), np.zeros((k, most))
    residual[place] = points.reward - means[points.arm]
    weight[place] = points.weight
    return Neighbours(
        arms=state.spec.arms,
        exploration=explore(state.params, state.moments),
        points=vectors,
        residual=residual,
        weight=weight,
        means=means,
        blend=np.eye(k),
        columns=state.compared,
        width=state.spec.schema.dimension,
        nearest=int(state.params["nearest"]),
        prior=float(state.params["prior"]),
        curve=curve,
    )


def _means(state: State) -> Floats:
    """Each arm's self-normalised mean, shrunk to the mean of all by its effective number."""
    cells, usual = state.sums.cells(), state.moments.mean
    count, mean = cells.count[:, 0], cells.mean[:, 0]
    share = count / (count + float(state.params["prior"]))
    found: Floats = usual + share * np.where(count > 0, mean - usual, 0.0)
    return found


def _calibrated(state: State) -> Curve | None:
    """What the newest fifth earned at each prediction from the rest; None where that is little."""
    method, points = state.params["calibration"], state.points
    order = np.lexsort((points.key, points.at))
    held = order[len(order) - len(order) // 5 :]
    if method == "none" or len(held) < MIN_HELD:
        return None
    older = np.ones(len(points), dtype=np.bool_)
    older[held] = False
    known = _scorer(state, points.rows(older), None)
    newest = points.rows(held[-MAX_HELD:])
    x = np.zeros((len(newest), state.spec.schema.dimension))
    x[:, state.compared] = newest.x
    raw = known.estimates(x)[np.arange(len(newest)), newest.arm]
    span = (float(newest.reward.min()), float(newest.reward.max()))
    if not span[0] < span[1]:
        return None
    if method == "isotonic":
        return isotonic(raw, newest.reward, newest.weight, span=span)
    return platt(raw, newest.reward, newest.weight, span=span, trust=_TRUST)


def rearm(state: State, spec: Spec) -> State:
    """The state for other arms; the points of those that left or changed are dropped."""
    before, after = kept(state.spec, spec)
    place = np.full(len(state.spec.arms), -1)
    place[before] = after
    arm = place[state.points.arm]
    stays = replace(state.points, arm=arm).rows(arm >= 0)
    return replace(
        init(spec),
        points=stays.least(_quota(spec, state.params)),
        sums=state.sums.rearmed(state.spec, spec),
        moments=state.moments,
    )


def snapshot(state: State) -> bytes:
    """The state as bytes."""
    return files.pack(
        files.owner(NAME, state.spec, state.params),
        state.moments.as_json(),
        {**state.points.columns(), "sums": state.sums.values},
    )


def restore(spec: Spec, data: bytes) -> State:
    """The state that :func:`snapshot` wrote."""
    state = init(spec)
    numbers, tensors = files.unpack(files.owner(NAME, spec, state.params), data)
    sums = ArmSums(tensors.pop("sums"))
    return replace(state, moments=Moments(**numbers), sums=sums, points=Points(**tensors))
