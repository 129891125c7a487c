"""Trains several learners side by side, tests them on each newer piece of the log, serves the best.

Every piece is first put before all members as they are, and then learnt by all, so that a member is
only ever judged on what it has not seen (:mod:`learners.trials`). The first member serves until
another is surely better: of many that are equal, the one that looks best is mostly the luckiest.
The baselines are members too, so a learner that does harm gives way to them; and until it is shown
to beat the best fixed arm, the first leaves that arm only for a gain that stands out.

It also watches each arm's residuals. Where an arm has changed (:mod:`learners.drift`), all members
start again from the newest rows, and of the changed arm from those since the change. So are
arms that have changed places by little each, which only their differences tell.

An arm that joins has the others' evidence against it. While it has served little, the draws of a
voting scorer are spread wider for it, so that an unlucky start does not keep it out.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from learners import catalogue, drift
from learners import snapshot as files
from learners.contract import Learner, Params, Promise, Spec, check, kept
from learners.errors import SpecError
from learners.interactions import COLUMNS, Interactions, joined
from learners.schedule import EXPLORATION_PARAMS, Moments, checked_params
from learners.scorers.base import Scorer
from learners.scorers.ensemble import Ensemble
from learners.trials import Trials, tried

NAME = "auto"
PARAMS: Params = {
    **EXPLORATION_PARAMS,
    "exploration": "own",
    "members": "hierarchical,linucb,per_domain,best_fixed",
    "sure": 2.0,
    "drift": "page_hinkley",
}
"""``members``: learners of the catalogue; the first serves until another is better by ``sure``
standard errors. ``exploration``: ``own`` is each member's own. ``drift``: how a changed arm is
noticed: ``none``, ``page_hinkley`` or ``adwin``."""

PROMISES: frozenset[Promise] = frozenset({"batch"})
MAX_MEMBERS = 8
LOOK = 64
"""Interactions between two looks at the arms."""
_PIECE_SHARE, _ROWS_AN_ARM = 0.05, 8
"""The members are tested, and learn, after this share of the log, or so many rows an arm."""
_FEW = 0.005
"""Share of the log that may be pending when a scorer is frozen without it."""
WARM_UP = 2 * LOOK
"""Interactions before any arm is watched."""
_ROWS_TO_TELL = 32
"""Interactions an arm before the arms' differences are watched."""
RECENT = 2_048
"""Newest rows that are kept, to start from when an arm has changed."""
NEWCOMER = 256
"""Interactions of an arm that joined until it is known as well as the others."""
WIDER = 3.0
"""How many times as wide the draws are of an arm that joined and has not served yet."""
OWN = "own"
BASELINE = "best_fixed"
_STATE = f"{NAME} 2"
"""Names the form of the state: a snapshot of another form is refused, and not half read."""
CAUTION = "caution"
"""The parameter of a member that can hold on to the best fixed arm."""


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """Where all members stand.

    Attributes:
        states: each member's state after ``seen`` interactions.
        scorers: what each member is frozen to then.
        pending: the interactions since, fewer than a piece.
        recent: the newest of those that were learnt.
        watched: the detectors, ``(K, s)``.
        unknown: interactions that each arm that joined is short of :data:`NEWCOMER`, ``(K,)``.
        contrast: whether the arms' differences have turned round.
        looked: how many of ``pending``, from the first on, the detectors have seen.
    """

    spec: Spec
    params: dict[str, Any]
    names: tuple[str, ...]
    states: tuple[Any, ...]
    scorers: tuple[Scorer, ...]
    trials: Trials
    pending: Interactions
    recent: Interactions
    watched: NDArray[np.float64]
    unknown: NDArray[np.int64]
    contrast: drift.Contrast
    moments: Moments
    seen: int = 0
    looked: int = 0
    changes: int = 0


def init(spec: Spec) -> State:
    """Nothing learnt yet.

    Raises:
        SpecError: A parameter is out of range, or a member cannot be made.
    """
    given = dict(spec.params)
    own = given.get("exploration", OWN) == OWN
    if own:
        given.pop("exploration", None)
    defaults = {**PARAMS, "exploration": EXPLORATION_PARAMS["exploration"]}
    params = checked_params(NAME, defaults, given, {"sure": 0.0})
    if params["exploration"] == "votes":
        raise SpecError(f"{NAME}.exploration is 'votes', which not every member has: give {OWN!r}")
    params["exploration"] = OWN if own else params["exploration"]
    drift.checked(NAME, str(params["drift"]))
    names = _names(str(params["members"]))
    states = tuple(_module(name).init(_spec(name, spec, params)) for name in names)
    none = _no_rows(spec)
    return State(
        spec,
        params,
        names,
        states,
        _frozen(names, states),
        Trials.empty(len(names)),
        pending=none,
        recent=none,
        watched=drift.start(str(params["drift"]), len(spec.arms)),
        unknown=np.zeros(len(spec.arms), dtype=np.int64),
        contrast=drift.Contrast(np.zeros(len(spec.arms))),
        moments=Moments(),
    )


def _names(members: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in members.split(",") if name.strip())
    if not 1 <= len(names) <= MAX_MEMBERS or len(set(names)) != len(names) or NAME in names:
        raise SpecError(
            f"{NAME}.members is {members!r}: give 1 to {MAX_MEMBERS} learners, each once, "
            f"with commas between, and not {NAME} itself"
        )
    return names


def _module(name: str) -> Learner:
    return catalogue.load(name)


def _spec(name: str, spec: Spec, params: Params) -> Spec:
    """A member's: its own defaults, and what was asked for of the exploration."""
    told = {key: params[key] for key in EXPLORATION_PARAMS if key in spec.params}
    if params["exploration"] == OWN:
        told.pop("exploration", None)
    known = _module(name).PARAMS
    own = {CAUTION: 0.0} if CAUTION in known else {}
    kept_params = {key: value for key, value in told.items() if key in known}
    return replace(spec, params={**kept_params, **own})


def _no_rows(spec: Spec) -> Interactions:
    k = len(spec.arms)
    return Interactions(
        arms=spec.arms,
        x=np.zeros((0, spec.schema.dimension)),
        eligible=np.zeros((0, k), dtype=np.bool_),
        action=np.zeros(0, dtype=np.int64),
        propensity=np.zeros(0),
        reward=np.zeros(0),
        weight=np.zeros(0),
    )


def _frozen(names: Sequence[str], states: Sequence[Any]) -> tuple[Scorer, ...]:
    return tuple(_module(name).freeze(state) for name, state in zip(names, states, strict=True))


def learn(state: State, interactions: Interactions) -> State:
    """Watch the arms every few rows; test and teach the members a piece at a time."""
    check(state.spec, interactions)
    told = interactions.weight > 0
    if not told.any():
        return state
    rows = joined([state.pending, interactions if told.all() else interactions.rows(told)])
    start, looked = 0, state.looked
    while start + looked + LOOK <= len(rows):
        now = rows.rows(slice(start + looked, start + looked + LOOK))
        state, alarms = _watched(state, now)
        looked += LOOK
        changed = bool(((alarms >= 0) | state.contrast.changed).any())
        if not changed and looked < _piece(state):
            continue
        piece = rows.rows(slice(start, start + looked))
        state = _restarted(_tested(state, piece), alarms) if changed else _taught(state, piece)
        start, looked = start + looked, 0
    return replace(state, pending=rows.rows(slice(start, len(rows))), looked=looked)


def _piece(state: State) -> int:
    """Interactions between two tests."""
    asked = max(_PIECE_SHARE * state.seen, _ROWS_AN_ARM * len(state.spec.arms))
    return max(1, int(asked) // LOOK) * LOOK


def _tested(state: State, piece: Interactions) -> State:
    """The state after a whole piece, but for what the members learn of it."""
    seen = state.seen + len(piece)
    recent = joined([state.recent, piece])
    return replace(
        state,
        trials=tried(state.trials, piece, state.scorers, state.seen / seen),
        recent=recent.rows(slice(max(0, len(recent) - RECENT), len(recent))),
        moments=state.moments.add(piece),
        seen=seen,
    )


def _taught(state: State, piece: Interactions) -> State:
    states = tuple(
        _module(name).learn(one, piece) for name, one in zip(state.names, state.states, strict=True)
    )
    return replace(_tested(state, piece), states=states, scorers=_frozen(state.names, states))


def _watched(state: State, rows: Interactions) -> tuple[State, NDArray[np.int64]]:
    """The state with the detectors after some rows, and the row of each arm's alarm or -1."""
    served = np.bincount(rows.action, minlength=len(state.unknown))
    state = replace(state, unknown=np.maximum(state.unknown - served, 0))
    kind = str(state.params["drift"])
    if state.seen < WARM_UP or kind == "none":  # the first predictions are off by themselves
        return state, np.full(len(state.watched), -1, dtype=np.int64)
    predicted = state.scorers[0].greedy().scores(rows.x) / state.moments.scale
    promised = predicted[np.arange(len(rows)), rows.action]
    residual = rows.reward / state.moments.scale - promised
    watched, alarms = drift.alarms(kind, state.watched, rows.action, residual)
    state = replace(state, watched=watched)
    if state.seen >= _ROWS_TO_TELL * len(state.spec.arms):
        usual = np.where(rows.eligible, predicted, 0.0).sum(1) / rows.eligible.sum(1)
        contrast = state.contrast.after(rows.action, promised - usual, residual)
        state = replace(state, contrast=contrast)
    return state, alarms


def _restarted(state: State, alarms: NDArray[np.int64]) -> State:
    """All members anew from the recent rows, without those of a changed arm before its change.

    Args:
        state: its newest recent rows are those that gave the alarms.
        alarms: each arm's row among them, or -1. The other arms' detectors go on, as what changed
            one may have changed them too.
    """
    recent, turned = state.recent, state.contrast.changed
    index = np.arange(len(recent)) - (len(recent) - LOOK)
    alarm = alarms[recent.action]
    left = (alarm < 0) | (index >= _since(index, recent.action, alarm))
    left &= ~turned[recent.action] | (index >= LOOK - state.contrast.rows)
    fresh = recent.rows(left)
    anew = drift.start(str(state.params["drift"]), len(state.spec.arms))
    states = []
    for name in state.names:
        module = _module(name)
        states.append(module.learn(module.init(_spec(name, state.spec, state.params)), fresh))
    return replace(
        state,
        states=tuple(states),
        scorers=_frozen(state.names, states),
        trials=Trials.empty(len(state.names)),
        recent=fresh,
        watched=np.where(turned[:, None], anew, state.watched),
        contrast=drift.Contrast(np.zeros(len(turned))),
        changes=state.changes + 1,
    )


_DELAY = 30
"""Rows of an arm before its alarm that are taken to be of after the change."""


def _since(
    index: NDArray[np.int64], action: NDArray[np.int64], alarm: NDArray[np.int64]
) -> NDArray[np.int64]:
    """For each row the index from which its arm's rows are taken to be after the change."""
    found = np.full(len(index), -(2**40), dtype=np.int64)
    for arm in np.unique(action[alarm >= 0]).tolist():
        own = action == arm
        before = index[own & (index <= alarm[own][0])]
        found[own] = before[-min(_DELAY, len(before))] if len(before) else 0
    return found


def freeze(state: State) -> Scorer:
    """The scorer of the member that serves, with what is pending learnt too where it is not few."""
    chosen = state.trials.winner(float(state.params["sure"]))
    caution = _caution(state, chosen)
    few = len(state.pending) <= _FEW * state.seen
    if few and not caution:
        return _welcoming(state, state.scorers[chosen])
    module, one = _module(state.names[chosen]), state.states[chosen]
    if not few:
        one = module.learn(one, state.pending)
    if caution:
        one = replace(one, params={**one.params, CAUTION: caution})
    return _welcoming(state, module.freeze(one))


def _welcoming(state: State, scorer: Scorer) -> Scorer:
    """A voting scorer with wider draws, of the same mean, for each arm that joined lately."""
    if not isinstance(scorer, Ensemble) or not state.unknown.any():
        return scorer
    wider = 1.0 + (WIDER - 1.0) * state.unknown / NEWCOMER
    mean = scorer.weights.mean(axis=0)
    return replace(scorer, weights=mean + wider[:, None] * (scorer.weights - mean))


def _caution(state: State, chosen: int) -> float:
    """How cautious the first member is to be: the less, the surer it beats the best fixed arm.

    It is tested without caution, or else it would look no better than the baseline for ever.
    """
    if (
        chosen != 0
        or BASELINE not in state.names[1:]
        or CAUTION not in _module(state.names[0]).PARAMS
    ):
        return 0.0
    return min(max(1.0 - state.trials.lead(state.names.index(BASELINE)), 0.0), 1.0)


def serving(state: State) -> str:
    """The name of the member that serves."""
    return state.names[state.trials.winner(float(state.params["sure"]))]


def rearm(state: State, spec: Spec) -> State:
    """The state for other arms: every member's, and the rows of the arms that stay."""
    before, after = kept(state.spec, spec)
    fresh = init(spec)
    states = tuple(
        _module(name).rearm(one, _spec(name, spec, fresh.params))
        for name, one in zip(state.names, state.states, strict=True)
    )
    watched, unknown = fresh.watched.copy(), np.full(len(spec.arms), NEWCOMER, dtype=np.int64)
    watched[after], unknown[after] = state.watched[before], state.unknown[before]
    looked = state.pending.rows(slice(0, state.looked))
    return replace(
        state,
        spec=spec,
        states=states,
        scorers=_frozen(state.names, states),
        pending=_over(state.pending, spec, before, after),
        recent=_over(state.recent, spec, before, after),
        watched=watched,
        unknown=unknown,
        contrast=fresh.contrast,
        looked=len(_over(looked, spec, before, after)),
    )


def _over(log: Interactions, spec: Spec, before: list[int], after: list[int]) -> Interactions:
    """The rows of the arms that stay, over the new arms."""
    place = np.full(len(log.arms), -1, dtype=np.int64)
    place[before] = after
    rows = log.rows(place[log.action] >= 0)
    eligible = np.zeros((len(rows), len(spec.arms)), dtype=np.bool_)
    eligible[:, after] = rows.eligible[:, before]
    return replace(rows, arms=spec.arms, eligible=eligible, action=place[rows.action])


_ROWS = ("pending", "recent")


def snapshot(state: State) -> bytes:
    """The state as bytes."""
    tensors: dict[str, NDArray[Any]] = {
        f"member_{i}": np.frombuffer(_module(name).snapshot(one), dtype=np.uint8)
        for i, (name, one) in enumerate(zip(state.names, state.states, strict=True))
    }
    for rows in _ROWS:
        for column in COLUMNS:
            tensors[f"{rows}_{column}"] = getattr(getattr(state, rows), column)
    tensors |= {"watched": state.watched, "unknown": state.unknown}
    tensors["contrast"] = state.contrast.evidence
    tensors |= {"gain": state.trials.gain, "square": state.trials.square}
    numbers = {
        "moments": state.moments.as_json(),
        "count": state.trials.count,
        "contrast": state.contrast.rows,
        "seen": state.seen,
        "looked": state.looked,
        "changes": state.changes,
    }
    return files.pack(files.owner(_STATE, state.spec, state.params), numbers, tensors)


def restore(spec: Spec, data: bytes) -> State:
    """The state that :func:`snapshot` wrote."""
    empty = init(spec)
    numbers, tensors = files.unpack(files.owner(_STATE, spec, empty.params), data)
    states = tuple(
        _module(name).restore(_spec(name, spec, empty.params), tensors[f"member_{i}"].tobytes())
        for i, name in enumerate(empty.names)
    )
    rows: dict[str, Any] = {
        name: Interactions(
            arms=spec.arms, **{column: tensors[f"{name}_{column}"] for column in COLUMNS}
        )
        for name in _ROWS
    }
    return replace(
        empty,
        states=states,
        scorers=_frozen(empty.names, states),
        trials=Trials(float(numbers["count"]), tensors["gain"], tensors["square"]),
        watched=tensors["watched"],
        unknown=tensors["unknown"],
        moments=Moments(**numbers["moments"]),
        contrast=drift.Contrast(tensors["contrast"], int(numbers["contrast"])),
        seen=int(numbers["seen"]),
        looked=int(numbers["looked"]),
        changes=int(numbers["changes"]),
        **rows,
    )
