"""What each monitor reads of a policy's decisions, and when.

What needs no reward is watched as it comes: ``context``, ``action_mix`` and ``propensity`` read
decisions in the order in which they arrive, and ``feedback`` those whose time to be answered is
over. ``reward`` and ``arm_reward`` read the log, where a decision's wait is over.

``action_mix`` and ``reward`` watch what the champion serves, and begin anew with whatever we change
ourselves: the champion, its exploration, the arms, the reward. ``arm_reward`` begins anew with the
reward and with another model behind an arm.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import numpy as np
import sqlalchemy as sa

from controlplane import monitors, overrides
from controlplane.config import PolicyConfig, read_config
from controlplane.monitors import Found, MonitorsConfig
from controlplane.publishing import CHAMPION
from learners.features import Feature
from learners.windows import Batch
from storage import policies, versions, watching_rows
from storage import releases as stored
from storage.policies import StoredPolicy
from storage.releases import StoredWatch
from storage.watching_rows import FIRST_ID, Mark, WatchedRow

MAX_ROWS = 5_000
"""Of one reading."""
BACKLOG = 50_000
"""What is further behind is never looked at: a log that was there before its monitors, or one that
went on while no worker ran."""
BEHIND = timedelta(minutes=2)
"""How old the last look may be for nobody to count what came since."""
UNDER_WAY = timedelta(seconds=5)
"""An arrival counts this much later: by then its transaction, and those before it, have ended."""
OF_CHAMPION = ("reward", "action_mix")
OF_REWARDS = ("reward", "arm_reward")
OF_ANSWERS = ("feedback",)
OF_ARRIVALS = ("context", "action_mix", "propensity")
_EVER = datetime(1970, 1, 1, tzinfo=UTC)

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Ground:
    """What a look stands on. ``own`` and ``arms`` change with what we change ourselves."""

    policy: StoredPolicy
    config: PolicyConfig
    watch: StoredWatch
    champion: int
    own: Json
    arms: Json
    since: int

    @property
    def state(self) -> Json:
        """What the monitors know; without what a change of ours explains."""
        kept = dict(self.watch.state.get("monitors", {}))
        dropped = {
            *(OF_CHAMPION if self.watch.state.get("own") != self.own else ()),
            *(("arm_reward",) if self.watch.state.get("arms") != self.arms else ()),
        }
        return {name: state for name, state in kept.items() if name not in dropped}

    @property
    def answered_s(self) -> float:
        """Seconds after a decision at which its feedback is counted: no later than its reward."""
        within, wait = self.config.monitors.feedback_within_s, self.policy.wait_s
        return min(within, wait) if wait > 0 else within

    def is_own(self, row: WatchedRow) -> bool:
        """Whether the champion decided, by a bundle since the last change of ours."""
        return row.version == self.champion and row.serial >= self.since


@dataclass(slots=True)
class Seen:
    """What a look found, and up to where it has read.

    Attributes:
        position: of the log.
        marks: of the arrivals: of those that are watched as they come (``arrived``), and of those
            that had their time to be answered (``answered``).
        more: whether there is more to read at once.
        states: of the monitors.
        found: by them.
    """

    position: int
    marks: dict[str, Mark] = field(default_factory=dict)
    more: bool = False
    states: Json = field(default_factory=dict)
    found: list[Found] = field(default_factory=list)

    def as_json(self) -> Json:
        """The marks, as a watch's state keeps them."""
        return {
            name: {"at": mark.at.isoformat(), "id": str(mark.decision_id)}
            for name, mark in self.marks.items()
        }


def ground_of(connection: sa.Connection, policy_id: UUID, now: datetime) -> Ground:
    """The policy as it stands, and where its monitors do."""
    policy = policies.get_policy(connection, policy_id)
    config = read_config(policy.config)
    watch = stored.find_watch(connection, policy_id)
    watch = watch or StoredWatch(policy_id, 0, {}, {}, now)
    champion = versions.find_alias(connection, policy_id, CHAMPION)
    reward = policies.newest_reward(connection, policy_id)
    revised = policies.revised_arms(connection, policy.pool_id)
    arms: Json = {
        "reward": reward[0] if reward else 0,
        "revised": {name: since.isoformat() for name, since in revised.items()},
    }
    own: Json = {
        **arms,
        "champion": champion[0] if champion else 0,
        "floor": overrides.explored(connection, policy_id, config, now).floor,
        "names": [row["name"] for row in policies.list_arms(connection, policy.pool_id)],
    }
    since = int(watch.state.get("since", 0))
    if watch.state and watch.state["own"] != own:
        newest = versions.newest_bundle(connection, policy_id)
        since = newest.serial if newest is not None else since
    return Ground(policy, config, watch, own["champion"], own, arms, since)


def look(connection: sa.Connection, ground: Ground, now: datetime) -> Seen:
    """Read what is new, and have the monitors take it."""
    end = ground.policy.log_position
    after = max(ground.watch.position, end - BACKLOG)
    seen = Seen(min(end, after + MAX_ROWS))
    seen.more = seen.position < end
    if _watched(ground, OF_REWARDS):
        rows = watching_rows.joined(
            connection,
            ground.policy,
            after=after,
            upto=seen.position,
            limit=MAX_ROWS,
            reward_version=ground.arms["reward"],
        )
        _take(ground, seen, rows, OF_REWARDS)
    else:
        seen.position, seen.more = end, False
    answered = timedelta(seconds=max(ground.answered_s, UNDER_WAY.total_seconds()))
    seen.marks = {"arrived": Mark(now), "answered": Mark(now)}  # where nobody watches them
    _read(connection, ground, seen, ("arrived", OF_ARRIVALS, now - UNDER_WAY))
    _read(connection, ground, seen, ("answered", OF_ANSWERS, now - answered))
    return seen


def _read(
    connection: sa.Connection,
    ground: Ground,
    seen: Seen,
    what: tuple[str, Sequence[str], datetime],
) -> None:
    """Read further arrivals, up to a time, for some monitors."""
    mark, names, upto = what
    if not _watched(ground, names):
        return
    after = _mark(connection, ground, mark, upto)
    rows, seen.marks[mark] = watching_rows.arrived(
        connection,
        ground.policy,
        after=after,
        upto=upto,
        limit=MAX_ROWS,
        within_s=ground.answered_s if mark == "answered" else None,
    )
    seen.more = seen.more or len(rows) == MAX_ROWS
    _take(ground, seen, rows, names)


def _mark(connection: sa.Connection, ground: Ground, name: str, upto: datetime) -> Mark:
    """Up to where arrivals have been read, or are never looked at, as too many came since."""
    told = ground.watch.state.get("seen", {}).get(name)
    mark = Mark(_EVER)
    if told is not None:
        mark = Mark(datetime.fromisoformat(told["at"]), UUID(told["id"]))
    elif ground.watch.state:  # of a release that watched at the wait only, up to its last look
        mark = Mark(ground.watch.updated_at)
    if upto - mark.at < BEHIND:
        return mark
    first = watching_rows.arrival_of(connection, ground.policy.id, upto=upto, skip=BACKLOG)
    return mark if first is None or first <= mark.at else Mark(min(first, upto), FIRST_ID)


def _take(ground: Ground, seen: Seen, rows: Sequence[WatchedRow], names: Sequence[str]) -> None:
    """Have some monitors take further rows; those of the champion only its own."""
    features, state = ground.config.schema.features, ground.state
    groups: Mapping[bool, Callable[[WatchedRow], bool]] = {
        True: ground.is_own,
        False: lambda _: True,
    }
    for own, counts in groups.items():
        asked = [name for name in names if (name in OF_CHAMPION) == own]
        part = {name: state[name] for name in asked if name in state}
        taken = batch([row for row in rows if counts(row)], features)
        kept, told = monitors.look(_only(ground.config.monitors, asked), taken, part)
        seen.states |= kept
        seen.found += told


def _watched(ground: Ground, names: Sequence[str]) -> bool:
    each = ground.config.monitors.each
    return any(each[name].enabled for name in names)


def _only(settings: MonitorsConfig, names: Sequence[str]) -> MonitorsConfig:
    """The settings with all other monitors switched off."""
    off: Json = {
        name: replace(one, enabled=False)
        for name, one in settings.each.items()
        if name not in names
    }
    return replace(settings, **off)


def batch(rows: Sequence[WatchedRow], features: Sequence[Feature]) -> Batch:
    """Decisions as monitors take them: whatever is read of each is known by now."""
    arms = sorted({arm for row in rows for arm in (*row.eligible, row.action)})
    place = {arm: at for at, arm in enumerate(arms)}
    distribution = np.zeros((len(rows), len(arms)))
    for at, row in enumerate(rows):
        distribution[at, [place[arm] for arm in row.eligible]] = row.distribution
    delay = [
        None if row.said_at is None else (row.said_at - row.at).total_seconds() for row in rows
    ]
    return Batch(
        arms=tuple(arms),
        action=np.array([place[row.action] for row in rows], dtype=np.int64),
        distribution=distribution,
        reward=_numbers([row.reward for row in rows]),
        waited=np.ones(len(rows), dtype=np.bool_),
        answered=np.array([row.said_at is not None for row in rows], dtype=np.bool_),
        delay_s=_numbers(delay),
        context={
            one.name: _column(one, [row.context.get(one.name) for row in rows])
            for one in features
            if one.kind != "vector"
        },
    )


def _column(feature: Feature, values: Sequence[Any]) -> np.ndarray[Any, np.dtype[Any]]:
    """A feature's values; what is no number of a number's feature counts as absent."""
    if feature.kind == "number":
        return _numbers([v if isinstance(v, int | float) else None for v in values])
    return np.array(["" if value is None else str(value) for value in values], dtype=np.str_)


def _numbers(values: Sequence[float | None]) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)
