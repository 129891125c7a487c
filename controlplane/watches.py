"""Monitors at work: what is new of a policy's log, what they find in it, and what is done then.

The log is read and judged without a lock; states, findings and reactions are written in one
transaction under the policy's lock, and only if nobody has looked meanwhile.

``action_mix`` and ``reward`` watch what the champion serves, and begin anew with whatever we change
ourselves: the champion, its exploration, the arms, the reward. ``arm_reward`` begins anew with the
reward and with another model behind an arm.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import numpy as np
import sqlalchemy as sa
import structlog

from controlplane import monitors, overrides, publishing, release_steps
from controlplane.candidates import FAILURES
from controlplane.config import PolicyConfig, read_config
from controlplane.errors import ControlPlaneError
from controlplane.monitors import Found, MonitorsConfig
from controlplane.overrides import FLOOR, FROZEN
from controlplane.publishing import CHAMPION, Publisher
from learners.features import Feature
from learners.ids import ENTROPY_BYTES, uuid7
from learners.windows import Batch
from storage import policies, versions, watching_rows
from storage import releases as stored
from storage.policies import StoredPolicy
from storage.releases import StoredFinding, StoredWatch
from storage.watching_rows import WatchedRow

EVERY = timedelta(seconds=10)
"""Between two looks at a log that grows."""
MAX_ROWS = 5_000
"""Of one look."""
BACKLOG = 50_000
"""What is further behind is never looked at: a log that was there before its monitors."""
OF_CHAMPION = ("reward", "action_mix")
OF_REWARDS = ("reward", "arm_reward")

log = structlog.get_logger(__name__)

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


@dataclass(frozen=True, slots=True)
class Seen:
    """What a look found, and up to where it has read."""

    position: int
    states: Json
    found: list[Found]

    def more(self, ground: Ground) -> bool:
        """Whether the log goes on."""
        return self.position < ground.policy.log_position


def step(
    engine: sa.Engine, publisher: Publisher, policy_id: UUID, *, now: datetime
) -> tuple[list[StoredFinding], bool]:
    """Look once at what is new of a policy's log, and do what follows.

    Returns:
        What was found, and whether the log goes on beyond what was read.
    """
    with engine.connect() as connection:
        ground = _ground(connection, policy_id, now)
        seen = _look(connection, ground)
    with engine.begin() as connection:
        versions.lock_policy(connection, policy_id)
        standing = stored.find_watch(connection, policy_id)
        if standing is not None and standing.position != ground.watch.position:
            return [], True  # somebody was faster
        before = standing.overrides if standing is not None else {}
        known = {
            "own": ground.own,
            "arms": ground.arms,
            "since": ground.since,
            "monitors": seen.states,
        }
        kept = overrides.standing(before, now)
        watch = StoredWatch(policy_id, seen.position, known, kept, now)
        stored.put_watch(connection, watch)
        means = release_steps.Means(connection, publisher, now)
        if FLOOR in before and FLOOR not in kept:
            reason = "explores as before: the time of its monitor is over"
            publishing.republish(connection, publisher, policy_id, reason=reason, now=now)
        return _react(means, ground, watch, seen.found), seen.more(ground)


def unfreeze(
    connection: sa.Connection, policy_id: UUID, *, by: str, now: datetime
) -> StoredFinding | None:
    """Let versions begin to serve again; None where nothing was frozen."""
    versions.lock_policy(connection, policy_id)
    watch = stored.find_watch(connection, policy_id)
    if watch is None or FROZEN not in overrides.standing(watch.overrides, now):
        return None
    kept = {name: one for name, one in watch.overrides.items() if name != FROZEN}
    stored.put_watch(connection, replace(watch, overrides=kept))
    why = watch.overrides[FROZEN]["why"]
    finding = StoredFinding(
        id=uuid7(now, os.urandom(ENTROPY_BYTES)),
        policy_id=policy_id,
        monitor="freeze",
        severity="note",
        reaction="unfreeze",
        summary=f"unfrozen by {by}; it was frozen since {why}",
        numbers={},
        created_at=now,
    )
    stored.add_finding(connection, finding)
    log.warning("policy.unfrozen", policy_id=str(policy_id), by=by)
    return finding


def _ground(connection: sa.Connection, policy_id: UUID, now: datetime) -> Ground:
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


def _look(connection: sa.Connection, ground: Ground) -> Seen:
    """Read what is new, and have the monitors take it."""
    end, settings = ground.policy.log_position, ground.config.monitors
    if not any(one.enabled for one in settings.each.values()):
        return Seen(end, {}, [])
    after = max(ground.watch.position, end - BACKLOG)
    upto = min(end, after + MAX_ROWS)
    rows = watching_rows.next_rows(
        connection,
        ground.policy,
        after=after,
        upto=upto,
        limit=MAX_ROWS,
        reward_version=ground.arms["reward"],
    )
    features = ground.config.schema.features
    served = [r for r in rows if r.version == ground.champion and r.serial >= ground.since]
    state = ground.state
    states: Json = {}
    found: list[Found] = []
    for which, names in ((served, OF_CHAMPION), (rows, _others())):
        part = {name: state[name] for name in names if name in state}
        kept, told = monitors.look(_only(settings, names), batch(which, features), part)
        states |= kept
        found += told
    return Seen(upto, states, found)


def _others() -> tuple[str, ...]:
    return tuple(name for name in MonitorsConfig().each if name not in OF_CHAMPION)


def _only(settings: MonitorsConfig, names: Sequence[str]) -> MonitorsConfig:
    """The settings with all other monitors switched off."""
    off: Json = {
        name: replace(one, enabled=False)
        for name, one in settings.each.items()
        if name not in names
    }
    return replace(settings, **off)


def batch(rows: Sequence[WatchedRow], features: Sequence[Feature]) -> Batch:
    """Joined decisions as monitors take them: the wait of each is over."""
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


def _react(
    means: release_steps.Means, ground: Ground, watch: StoredWatch, found: Sequence[Found]
) -> list[StoredFinding]:
    """Store what was found, and do once what each alarm asks for."""
    told = []
    done: dict[str, str] = {}
    for one in found:
        reaction, said = _reaction(one), ""
        if reaction != "none":
            if reaction not in done:
                done[reaction] = _do(means, ground, watch.policy_id, reaction, one)
            said = f"; {done[reaction]}"
        finding = StoredFinding(
            id=uuid7(means.now, os.urandom(ENTROPY_BYTES)),
            policy_id=watch.policy_id,
            monitor=one.finding.monitor,
            severity=one.finding.severity,
            reaction=reaction,
            summary=one.finding.sentence + said,
            numbers=release_steps.plain(_numbers_of(one)),
            created_at=means.now,
        )
        stored.add_finding(means.connection, finding)
        log.warning(
            "monitor.finding",
            policy=ground.policy.name,
            monitor=finding.monitor,
            severity=finding.severity,
            reaction=reaction,
            summary=finding.summary,
        )
        told.append(finding)
    return told


def _numbers_of(found: Found) -> Json:
    plain = asdict(found.finding)
    return {name: plain[name] for name in ("metric", "value", "bound", "side")}


def _reaction(found: Found) -> str:
    """What is to be done: nobody goes back since rewards have risen."""
    risen = found.finding.monitor in OF_REWARDS and found.finding.side > 0
    return "none" if found.reaction == "revert" and risen else found.reaction


def _do(
    means: release_steps.Means, ground: Ground, policy_id: UUID, reaction: str, found: Found
) -> str:
    """Carry out a reaction; what it had written by the time that it fails is undone."""
    why = f"monitor {found.finding.monitor}: {found.finding.sentence}"
    try:
        with means.connection.begin_nested():
            if reaction == "revert":
                return _revert(means, policy_id, why)
            hold = ground.config.monitors.hold_s
            values: Mapping[str, Any] = {}
            if reaction == "widen":
                values = {"value": ground.config.monitors.widen_to}
            made = overrides.made(hold, why, means.now, **values)
            _put(means, policy_id, FLOOR if reaction == "widen" else FROZEN, made)
            if reaction == "freeze":
                return f"frozen until {made['until']}"
            reason = f"explores {100 * made['value']:g} % until {made['until']}: {why}"
            publishing.republish(
                means.connection, means.publisher, policy_id, reason=reason, now=means.now
            )
            return f"explores {100 * made['value']:g} % until {made['until']}"
    except (ControlPlaneError, *FAILURES) as error:
        log.exception("monitor.reaction_failed", policy=ground.policy.name, reaction=reaction)
        return f"{reaction} could not be done: {str(error) or repr(error)}"


def _put(means: release_steps.Means, policy_id: UUID, name: str, made: Json) -> None:
    watch = stored.find_watch(means.connection, policy_id)
    if watch is None:
        raise LookupError(policy_id)
    stored.put_watch(means.connection, replace(watch, overrides={**watch.overrides, name: made}))


def _revert(means: release_steps.Means, policy_id: UUID, why: str) -> str:
    """Have the champion before serve again; a release that is under way is sent back."""
    release = stored.running_release(means.connection, policy_id)
    said = []
    if release is not None:
        policies.stop_promoting(means.connection, policy_id, means.now)
        release_steps.send_back(means, release, why)
        said.append(f"release {release.number} sent back")
    going = release is None or release.status != release_steps.WATCHING
    earlier = publishing.predecessor(versions.service_history(means.connection, policy_id))
    if going and (earlier is not None or not said):
        bundle = publishing.rollback(
            means.connection, means.publisher, policy_id, now=means.now, why=why
        )
        said.append(f"version {bundle.version} serves again, by serial {bundle.serial}")
    return ", ".join(said)
