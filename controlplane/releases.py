"""A version's way from candidate to champion, step by step, and back: one release at a time.

A look reads and judges without a lock; what follows from it is done in one transaction under the
policy's lock, and only if the release still stands where it was read.
"""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
import structlog

from controlplane import alarms, overrides, publishing, watching
from controlplane.candidates import FAILURES
from controlplane.config import PolicyConfig, read_config
from controlplane.errors import (
    ConflictError,
    InvalidError,
    NotFoundError,
    StaleError,
)
from controlplane.findings import plain
from controlplane.gates import Check
from controlplane.publishing import CHAMPION, Publisher
from controlplane.release_config import read_rules
from controlplane.release_entry import COMPLETED, ROUND
from controlplane.release_plan import plan_of
from controlplane.release_steps import (
    HELD,
    RUNNING,
    STOPPED,
    WAITING,
    WATCHING,
    Means,
    advance,
    arms_digest,
    end,
    enter,
    repeat,
    send_back,
    stage_name,
)
from controlplane.stage_gates import (
    Facts,
    Ruling,
    judge_canary,
    judge_shadow,
    judge_watch,
)
from controlplane.watching import Ground
from learners.ids import ENTROPY_BYTES, uuid7
from storage import policies, versions
from storage import releases as stored
from storage.policies import StoredPolicy
from storage.releases import StoredRelease
from storage.versions import StoredBundle, StoredVerdict

LOOK_S = 1.0
COST_FACTOR = 5.0
"""A look costs at most this part of the time until the next one."""
MOST_FAILED = 5
"""Looks in a row that may fail; then nobody can say that the version does no harm."""
BROKEN = (*FAILURES, TypeError, LookupError)

log = structlog.get_logger(__name__)

Json = dict[str, Any]


def start(
    connection: sa.Connection,
    publisher: Publisher,
    policy_id: UUID,
    number: int,
    *,
    by: str,
    now: datetime,
    revision: int | None = None,
    rollout: float | None = None,
    noted: Mapping[str, Any] | None = None,
) -> StoredRelease:
    """Begin a version's way to the champion's place, at the first stage or at a share.

    Args:
        connection: holds the transaction.
        publisher: publishes the bundle that brings the version along.
        policy_id: whose.
        number: of the version; its gate has been passed.
        by: who or what begins it.
        now: the time.
        revision: of the champion's alias, as it was read.
        rollout: share of the units to begin with; the stages above it follow.
        noted: kept in the plan.

    Raises:
        NotFoundError: The policy has no champion.
        StaleError: The champion was moved.
        ConflictError: Another release is under way, or experiments hold every request.
        InvalidError: The version is the champion, there is no stage to begin with, a guardrail's
            metric is not measured, or no reward can come in a stage's time.
    """
    versions.lock_policy(connection, policy_id)
    policy = policies.get_policy(connection, policy_id)
    champion = _replaced(connection, policy, number, revision)
    release = StoredRelease(
        policy_id=policy_id,
        number=stored.next_release(connection, policy_id),
        version=number,
        champion=champion,
        plan={**(noted or {}), **plan_of(connection, policy, rollout), "by": by},
        stage=0,
        status=RUNNING,
        state={},
        reason=f"begun by {by}",
        started_at=now,
        stage_at=now,
        ended_at=None,
    )
    stored.add_release(connection, release)
    log.info("release.begun", policy=policy.name, release=release.number, version=number, by=by)
    return enter(Means(connection, publisher, now), release, 0)


def _replaced(
    connection: sa.Connection, policy: StoredPolicy, number: int, revision: int | None
) -> int:
    """Whom a release of a version is to replace, where one may begin."""
    standing = versions.find_alias(connection, policy.id, CHAMPION)
    if standing is None:
        raise NotFoundError(f"policy {policy.name!r} has no champion")
    if revision is not None and standing[1] != revision:
        raise StaleError(
            f"the champion was moved meanwhile: its revision is {standing[1]}, not {revision}"
        )
    if standing[0] == number:
        raise InvalidError("version", f"version {number} is the champion already")
    running = stored.running_release(connection, policy.id)
    if running is not None:
        raise ConflictError(
            f"release {running.number} of version {running.version} is under way: revert it first"
        )
    return standing[0]


def step(
    engine: sa.Engine, publisher: Publisher, policy_id: UUID, *, now: datetime
) -> Ruling | None:
    """Look at a policy's running release once, and do what follows.

    Returns:
        The ruling; None where no release runs, or nobody had to be judged.
    """
    began = time.monotonic()
    with engine.connect() as connection:
        ground = _ground(connection, policy_id, now)
        if ground is None:
            return None
        overtaken = _overtaken(connection, ground)
        arms = arms_digest(connection, ground.policy)
        looked = broken = None
        if overtaken is None and arms == ground.release.state["arms"]:
            try:
                looked = _look(connection, ground)
            except BROKEN as error:
                broken = repr(error)
                log.exception("release.look_failed", release=ground.release.number)
    pause = max(LOOK_S, COST_FACTOR * (time.monotonic() - began))
    with engine.begin() as connection:
        versions.lock_policy(connection, policy_id)
        release = stored.running_release(connection, policy_id)
        if release is None or release != ground.release:
            return None  # somebody was faster
        if overtaken is not None:
            end(Means(connection, publisher, now), release, STOPPED, overtaken)
            return None
        if broken is not None:
            _failed(Means(connection, publisher, now), release, broken)
            return None
        if looked is None:
            repeat(Means(connection, publisher, now), release)
            return None
        look_at = (now + timedelta(seconds=pause)).isoformat()
        state = {
            **release.state,
            "look_at": look_at,
            "failed": 0,
            "late": looked.ruling.late and looked.ruling.action == "revert",
            "numbers": plain(looked.numbers),
            "checks": plain([check.as_json() for check in looked.ruling.verdict.checks]),
        }
        halted = ROUND in release.plan and not ground.config.auto_promote
        stands = replace(release, state=state)
        _follow(Means(connection, publisher, now), stands, looked, halted=halted)
        return looked.ruling


def approve(
    connection: sa.Connection,
    publisher: Publisher,
    policy_id: UUID,
    number: int,
    *,
    by: str,
    now: datetime,
) -> StoredRelease:
    """Let a release that waits for a person take its next step.

    Raises:
        NotFoundError: There is no such release.
        ConflictError: It does not wait for anybody, or the policy is frozen.
    """
    release = _running(connection, policy_id, number)
    if release.status != WAITING:
        raise ConflictError(f"release {number} is {release.status}: it waits for nobody")
    overrides.refuse_frozen(connection, policy_id, now)
    return advance(Means(connection, publisher, now), release, f"approved by {by}")


def revert(
    connection: sa.Connection,
    publisher: Publisher,
    policy_id: UUID,
    number: int,
    *,
    by: str,
    now: datetime,
) -> StoredRelease:
    """Send a release back that is under way; the champion before decides everything again.

    Raises:
        NotFoundError: There is no such release.
        ConflictError: It has ended.
    """
    release = _running(connection, policy_id, number)
    return send_back(Means(connection, publisher, now), release, f"sent back by {by}")


def rollback(
    connection: sa.Connection, publisher: Publisher, policy_id: UUID, *, now: datetime
) -> StoredBundle:
    """Undo what was published last: the release that is under way, or else the champion.

    Either way the policy stops promoting by itself.

    Raises:
        NotFoundError: No release is under way, and no other version has served.
    """
    versions.lock_policy(connection, policy_id)
    release = stored.running_release(connection, policy_id)
    if release is None:
        return publishing.rollback(connection, publisher, policy_id, now=now)
    policies.stop_promoting(connection, policy_id, now)
    send_back(Means(connection, publisher, now), release, "rolled back")
    bundle = versions.newest_bundle(connection, policy_id)
    if bundle is None:
        raise NotFoundError("nothing has been published")
    return bundle


def give_way(
    connection: sa.Connection, policy_id: UUID, number: int, *, by: str, now: datetime
) -> None:
    """End a running release, as a person makes some version the champion now."""
    release = stored.running_release(connection, policy_id)
    if release is None:
        return
    if release.version == number:
        status, reason = COMPLETED, f"made champion by {by} before its stages were over"
    else:
        status, reason = STOPPED, f"{by} made version {number} the champion"
        versions.set_state(connection, policy_id, [release.version], "retired")
    stored.put_release(connection, replace(release, status=status, reason=reason, ended_at=now))


def _failed(means: Means, release: StoredRelease, error: str) -> None:
    """Count a look that failed, and look again; a version that nobody can watch goes back."""
    failed = int(release.state.get("failed", 0)) + 1
    if failed >= MOST_FAILED:
        why = f"{failed} looks in a row have failed: {error[:500]}"
        alarm = Check("looks", False, failed, MOST_FAILED, why)
        alarms.of_release(means.connection, release, stage_name(release), [alarm], means.now)
        send_back(means, release, why)
        return
    look_at = (means.now + timedelta(seconds=2.0**failed)).isoformat()
    state = {**release.state, "failed": failed, "look_at": look_at}
    stored.put_release(means.connection, replace(release, state=state))


@dataclass(frozen=True, slots=True)
class _Looked:
    ruling: Ruling
    numbers: Json
    known: Facts


def _look(connection: sa.Connection, ground: Ground) -> _Looked:
    """Read a stage's numbers, and judge them."""
    known = watching.facts(connection, ground)
    if ground.release.status == WAITING:  # a person's time is not the stage's
        known = replace(known, elapsed_s=min(known.elapsed_s, ground.rules.max_seconds - 1))
    numbers, ruling = _judged(connection, ground, known)
    numbers |= {
        "champion_version": ground.release.champion,
        "release": ground.release.number,
        "stage": stage_name(ground.release),
        "elapsed_s": known.elapsed_s,
        "edges": known.edges,
    }
    return _Looked(ruling, numbers, known)


def _judged(connection: sa.Connection, ground: Ground, known: Facts) -> tuple[Json, Ruling]:
    rules = ground.rules
    if ground.share == 0:
        seen = watching.shadow(connection, ground)
        return seen.as_json(), judge_shadow(seen, rules, known)
    if ground.share < 1:
        beside = watching.canary(connection, ground)
        return beside.as_json(), judge_canary(beside, rules, known)
    after = watching.champion(connection, ground)
    return after.as_json(), judge_watch(after, rules, known)


def _follow(means: Means, release: StoredRelease, looked: _Looked, *, halted: bool) -> None:
    """Do what a ruling says; what a round began and is ``halted`` takes no step by itself."""
    verdict, name = looked.ruling.verdict, stage_name(release)
    action = looked.ruling.action
    if action == "revert":
        _note(means, release, publishing.LATE if looked.ruling.late else publishing.MONITOR, looked)
        alarms.of_release(means.connection, release, name, looked.ruling.alarms, means.now)
        send_back(means, release, f"{name}: {verdict.summary}")
    elif action == "pass" and release.status == WATCHING:
        _note(means, release, name, looked)
        done = replace(release, status=COMPLETED, reason=verdict.summary, ended_at=means.now)
        stored.put_release(means.connection, done)
        log.info("release.completed", release=release.number, version=release.version)
    elif action == "pass" and overrides.frozen(means.connection, release.policy_id, means.now):
        stored.put_release(means.connection, release)
    elif action == "pass" and release.status != WAITING:
        _note(means, release, name, looked)
        if halted or _waits(release):
            reason = f"{name} passed: waits for a person"
            stored.put_release(means.connection, replace(release, status=WAITING, reason=reason))
        else:
            advance(means, release, f"{name} passed")
    else:
        _stay(means, release, looked)


def _stay(means: Means, release: StoredRelease, looked: _Looked) -> None:
    """Stay in the stage; say where something begins to hold the release there, and no more does."""
    action, name = looked.ruling.action, stage_name(release)
    if action == "hold" and release.status == RUNNING:
        if looked.known.refusals and not looked.ruling.late:
            alarms.of_edges(means.connection, release, name, looked.known.refusals, means.now)
        why = f"{name}: {looked.ruling.verdict.summary}"
        release = replace(release, status=HELD, reason=why)
    elif action == "stay" and release.status == HELD:
        release = replace(release, status=RUNNING, reason=f"{name}: no longer held")
    stored.put_release(means.connection, release)


def _waits(release: StoredRelease) -> bool:
    """Whether the next step is a person's to take."""
    approval = read_rules(release.plan["rules"]).approval
    return approval == "stages" or (approval == "champion" and _next_share(release) == 1.0)


def _next_share(release: StoredRelease) -> float:
    return float(release.plan["stages"][release.stage + 1]["share"])


def _note(means: Means, release: StoredRelease, gate: str, looked: _Looked) -> None:
    """Store a verdict."""
    verdict = looked.ruling.verdict
    versions.add_verdict(
        means.connection,
        StoredVerdict(
            id=uuid7(means.now, os.urandom(ENTROPY_BYTES)),
            policy_id=release.policy_id,
            version=release.version,
            gate=gate,
            passed=verdict.passed,
            summary=f"{stage_name(release)}: {verdict.summary}",
            numbers=plain(looked.numbers),
            checks=plain([check.as_json() for check in verdict.checks]),
            created_at=means.now,
        ),
    )


def _overtaken(connection: sa.Connection, ground: Ground) -> str | None:
    """Why a release makes no sense any more, by what others have changed meanwhile."""
    release = ground.release
    standing = versions.find_alias(connection, ground.policy.id, CHAMPION)
    serving = release.version if release.status == WATCHING else release.champion
    if standing is None or standing[0] != serving:
        return "the champion has been moved meanwhile"
    reward = policies.newest_reward(connection, ground.policy.id)
    if (reward[0] if reward else 0) != release.plan["reward_version"]:
        return "the reward has changed meanwhile: the next round judges by the new one"
    return None


def _ground(connection: sa.Connection, policy_id: UUID, now: datetime) -> Ground | None:
    release = stored.running_release(connection, policy_id)
    if release is None:
        return None
    policy = policies.get_policy(connection, policy_id)
    config: PolicyConfig = read_config(policy.config)
    return Ground(policy, config, read_rules(release.plan["rules"]), release, now)


def _running(connection: sa.Connection, policy_id: UUID, number: int) -> StoredRelease:
    versions.lock_policy(connection, policy_id)
    release = stored.find_release(connection, policy_id, number)
    if release is None:
        raise NotFoundError(f"the policy has no release {number}")
    if release.ended_at is not None:
        raise ConflictError(f"release {number} has ended: it was {release.status}")
    return release
