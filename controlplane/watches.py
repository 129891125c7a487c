"""Monitors at work: what they find in a policy's new decisions, and what is done then.

Decisions are read and judged without a lock (:mod:`controlplane.watch_reading`); states, findings
and reactions are written in one transaction under the policy's lock, and only if nobody has looked
meanwhile.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
import structlog

from controlplane import findings, overrides, publishing, release_steps
from controlplane.candidates import FAILURES
from controlplane.errors import ControlPlaneError
from controlplane.monitors import Found
from controlplane.overrides import FLOOR, FROZEN
from controlplane.publishing import Publisher
from controlplane.watch_reading import OF_REWARDS, Ground, ground_of, look
from storage import policies, versions
from storage import releases as stored
from storage.releases import StoredFinding, StoredWatch

EVERY = timedelta(seconds=10)
"""Between two looks while there is something new."""

log = structlog.get_logger(__name__)

Json = dict[str, Any]


def step(
    engine: sa.Engine, publisher: Publisher, policy_id: UUID, *, now: datetime
) -> tuple[list[StoredFinding], bool]:
    """Look once at what is new of a policy's decisions, and do what follows.

    Returns:
        What was found, and whether there is more to read at once.
    """
    with engine.connect() as connection:
        ground = ground_of(connection, policy_id, now)
        seen = look(connection, ground, now)
    with engine.begin() as connection:
        versions.lock_policy(connection, policy_id)
        standing = stored.find_watch(connection, policy_id)
        if standing is not None and _looked(standing) != _looked(ground.watch):
            return [], True  # somebody was faster
        before = standing.overrides if standing is not None else {}
        known = {
            "own": ground.own,
            "arms": ground.arms,
            "since": ground.since,
            "seen": seen.as_json(),
            "monitors": seen.states,
        }
        kept = overrides.standing(before, now)
        watch = StoredWatch(policy_id, seen.position, known, kept, now)
        stored.put_watch(connection, watch)
        means = release_steps.Means(connection, publisher, now)
        told = _narrow(means, policy_id) if FLOOR in before and FLOOR not in kept else []
        return [*told, *_react(means, ground, watch, seen.found)], seen.more


def _narrow(means: release_steps.Means, policy_id: UUID) -> list[StoredFinding]:
    """Explore as before; where that cannot be published the monitors look on, and it is said."""
    reason = "explores as before: the time of its monitor is over"
    try:
        with means.connection.begin_nested():
            publishing.republish(
                means.connection, means.publisher, policy_id, reason=reason, now=means.now
            )
    except (ControlPlaneError, *FAILURES) as error:
        log.exception("monitor.not_narrowed", policy=str(policy_id))
        summary = (
            "the time of widened exploration is over, and no bundle without it could be "
            f"published: {str(error) or repr(error)}. The next bundle explores as before"
        )
        return [
            findings.note(
                means.connection,
                policy_id,
                monitor="widen",
                severity=findings.WARNING,
                reaction="none",
                summary=summary,
                numbers={},
                now=means.now,
            )
        ]
    return []


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
    return findings.note(
        connection,
        policy_id,
        monitor="freeze",
        severity=findings.NOTE,
        reaction="unfreeze",
        summary=f"unfrozen by {by}; it was frozen since {why}",
        numbers={},
        now=now,
    )


def _looked(watch: StoredWatch) -> tuple[int, Json]:
    """Up to where somebody has read."""
    return watch.position, watch.state.get("seen", {})


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
        finding = findings.note(
            means.connection,
            watch.policy_id,
            monitor=one.finding.monitor,
            severity=one.finding.severity,
            reaction=reaction,
            summary=one.finding.sentence + said,
            numbers=_numbers_of(one),
            now=means.now,
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
