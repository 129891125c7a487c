"""Heads at work: trained on older labels, judged on newer ones, published when they are better.

A head learns on when its labels have grown (:mod:`controlplane.head_learning`). The newest part of
them judges: nothing that trained the version, or what serves, is among it. What was judged is
stored with its numbers, passed or not. Labels are read and heads trained without a lock; what
follows is written in one transaction under the policy's lock, and only if nobody has moved the head
meanwhile. What has passed while something holds heads (:mod:`controlplane.head_entry`) waits, and
is not trained over, until it may serve.
"""

import hashlib
import math
from datetime import datetime, timedelta
from uuid import UUID

import sqlalchemy as sa
import structlog

from controlplane import (
    head_entry,
    head_labels,
    head_learning,
    head_looks,
    head_memory,
    publishing,
    served_heads,
)
from controlplane.config import PolicyConfig, read_config
from controlplane.errors import GateError, NotFoundError
from controlplane.head_learning import Attempt, Ground, Part
from controlplane.heads_config import HeadConfig
from controlplane.publishing import Publisher
from storage import heads, policies, versions
from storage.heads import CANDIDATE, NONE, REFUSED, RETIRED, REVERTED, SERVING, StoredHead
from storage.versions import StoredBundle

EVERY = timedelta(seconds=60)
"""Between two looks for labels."""
MOST_AWAITED = 1_000
"""New labels for which a head waits, however many it has, where it learns on from its version."""

log = structlog.get_logger(__name__)


def step(
    engine: sa.Engine, publisher: Publisher, policy_id: UUID, *, now: datetime
) -> list[StoredHead]:
    """Train and judge the heads of a policy that have labels enough; publish those that passed.

    Returns:
        The versions that were judged.
    """
    with engine.connect() as connection:
        config = read_config(policies.get_policy(connection, policy_id).config)
    made = []
    for head in config.heads:
        if _waits(engine, publisher, policy_id, head, now):
            continue
        found = _attempt(engine, policy_id, config, head, now)
        if found is not None:
            with engine.begin() as connection:
                stored = _settle(connection, publisher, *found, now)
            made += [stored] if stored is not None else []
    return made


def publish(
    connection: sa.Connection,
    publisher: Publisher,
    policy_id: UUID,
    name: str,
    number: int,
    *,
    now: datetime,
) -> StoredBundle | None:
    """Have a version serve that has passed, under the policy's next serial.

    Returns:
        The bundle; None where the policy has no champion to publish it with.

    Raises:
        NotFoundError: There is no such head or version.
        GateError: It has not passed, or is one of another declaration.
        ConflictError: The policy is frozen, or a release or an experiment is under way.
    """
    versions.lock_policy(connection, policy_id)
    head = declared(connection, policy_id, name)
    version = heads.find_head(connection, policy_id, name, number)
    if version is None:
        raise NotFoundError(f"head {name!r} has no version {number}")
    if not version.passed or not served_heads.stands(version, head):
        failed = [check for check in version.checks if not check["passed"]]
        anew = "the head was declared anew since it was trained"
        why = anew if version.passed else version.summary
        raise GateError(f"version {number} of head {name!r} may not serve: {why}", failed)
    head_entry.refuse_held(connection, policy_id, now)
    return _serve(connection, publisher, version, _reason(version), now)


def rollback(
    connection: sa.Connection, publisher: Publisher, policy_id: UUID, name: str, *, now: datetime
) -> StoredBundle | None:
    """Have the version serve that the serving one displaced; without one the head serves no more.

    It holds: no version of the head is published by itself until its declaration says so again.
    Nothing stands in its way, as what may do harm must not wait for a comparison's end.

    Returns:
        The bundle; None where the policy has no champion to publish it with.

    Raises:
        NotFoundError: There is no such head, or no version of it serves.
    """
    versions.lock_policy(connection, policy_id)
    head = declared(connection, policy_id, name)
    serving = heads.serving_head(connection, policy_id, name)
    if serving is None or serving.served_at is None:
        raise NotFoundError(f"no version of head {name!r} serves: there is nothing to roll back")
    _hold(connection, policy_id, name, now)
    heads.set_state(connection, policy_id, name, [serving.number], REVERTED)
    earlier = heads.displaced_head(connection, policy_id, name, serving.served_at)
    reason = f"head {name}: rollback from version {serving.number}"
    if earlier is not None and served_heads.stands(earlier, head):
        return _serve(connection, publisher, earlier, reason, now)
    return publishing.republish(connection, publisher, policy_id, reason=reason, now=now)


def declared(connection: sa.Connection, policy_id: UUID, name: str) -> HeadConfig:
    """A head as its policy declares it.

    Raises:
        NotFoundError: It does not.
    """
    policy = policies.get_policy(connection, policy_id)
    for head in read_config(policy.config).heads:
        if head.name == name:
            return head
    raise NotFoundError(f"policy {policy.name!r} declares no head {name!r}")


def _attempt(
    engine: sa.Engine, policy_id: UUID, config: PolicyConfig, head: HeadConfig, now: datetime
) -> tuple[Ground, Attempt] | None:
    """Read and train, if the labels have grown; no lock is held."""
    with engine.connect() as connection:
        ground = _ground(connection, policy_id, config, head)
        needed, after = _due(ground)
        found = head_labels.tally(connection, policy_id, config, head, after=after)
    with engine.begin() as connection:
        head_looks.note(connection, policy_id, head, found, needed=needed, after=after, now=now)
    # Labels of which it can make nothing would have it train on the same ones for ever.
    if found.usable < needed:
        return None
    with engine.connect() as connection:
        labels = head_labels.read(connection, policy_id, config, head)
        if not labels.told:
            return None  # taken back meanwhile
        learnt = heads.find_learnt(connection, policy_id, head.name, ground.number)
        plan = head_learning.plan(ground, labels, learnt)
        vectors = head_labels.vectors(connection, policy_id, head, plan.ids)
    plan = plan.without(set(plan.ids) - vectors.keys())
    return ground, head_learning.learn(ground, plan, vectors)


def _waits(
    engine: sa.Engine, publisher: Publisher, policy_id: UUID, head: HeadConfig, now: datetime
) -> bool:
    """Whether a version still waits; one that nothing holds any more begins to serve."""
    with engine.connect() as connection:
        if head_entry.waiting(connection, policy_id, head) is None:
            return False
        if head_entry.held(connection, policy_id, now) is not None:
            return True
    with engine.begin() as connection:
        versions.lock_policy(connection, policy_id)
        try:
            found = head_entry.waiting(
                connection, policy_id, declared(connection, policy_id, head.name)
            )
        except NotFoundError:
            return True  # it was taken out meanwhile: there is nothing to train either
        if found is None:
            return False
        if head_entry.held(connection, policy_id, now) is not None:
            return True
        _serve(connection, publisher, found, _reason(found), now)
        log.info("head.served", head=head.name, version=found.number)
    return False


def _reason(version: StoredHead) -> str:
    """Of a bundle that brings it."""
    return f"head {version.name} version {version.number}"


def _ground(
    connection: sa.Connection, policy_id: UUID, config: PolicyConfig, head: HeadConfig
) -> Ground:
    newest = heads.newest_head(connection, policy_id, head.name)
    serving = heads.serving_head(connection, policy_id, head.name)
    serving = serving if served_heads.stands(serving, head) else None
    since = serving.number if serving else 0
    look = heads.looks(connection, policy_id, head.name, since) + 1
    return Ground(policy_id, head, newest, serving, look, config.sources.max_influence)


def _due(ground: Ground) -> tuple[int, UUID]:
    """How many labels a training waits for, and after which decision."""
    head, newest = ground.head, ground.newest
    if newest is None or not newest.labels or not served_heads.stands(newest, head):
        return head.first_labels, NONE
    grown = math.ceil(newest.labels * (head.growth - 1))
    # A version without a model has learnt nothing to go on from, as no ood head ever has.
    goes_on = head.kind != "ood" and bool(newest.model)
    most = MOST_AWAITED if goes_on else head.max_labels
    return min(max(1, grown), most), newest.judged_to


def _settle(
    connection: sa.Connection, publisher: Publisher, ground: Ground, made: Attempt, now: datetime
) -> StoredHead | None:
    """Store what came of a training, and publish it if it passed and nothing holds it."""
    versions.lock_policy(connection, ground.policy_id)
    name = ground.head.name
    try:
        head = declared(connection, ground.policy_id, name)
    except NotFoundError:
        return None
    number = heads.next_number(connection, ground.policy_id, name)
    serving = heads.serving_head(connection, ground.policy_id, name)
    was = ground.serving.number if ground.serving else None
    now_serves = serving.number if served_heads.stands(serving, head) and serving else None
    if number != ground.number + 1 or now_serves != was or head.identity != ground.head.identity:
        return None  # somebody was faster
    stored = _stored(ground, made, number, now)
    heads.add_head(connection, stored)
    log.info("head.judged", head=name, version=number, passed=stored.passed, why=stored.summary)
    if stored.passed and head.auto_publish:
        held = head_entry.held(connection, ground.policy_id, now)
        if held is None:
            _serve(connection, publisher, stored, _reason(stored), now)
        else:
            log.info("head.waits", head=name, version=number, why=held)
    return stored


def _stored(ground: Ground, made: Attempt, number: int, now: datetime) -> StoredHead:
    form, tensors, digest = served_heads.dump(made.model) if made.model else ({}, b"", "")
    older, newer = made.plan.older, made.plan.newer
    return StoredHead(
        policy_id=ground.policy_id,
        name=ground.head.name,
        number=number,
        state=CANDIDATE if made.verdict.passed else REFUSED,
        declaration=ground.head.identity,
        model=form,
        tensors=tensors,
        digest=digest,
        labels=made.plan.labels,
        trained_to=older.told[-1].decision_id if older.told else NONE,
        judged_to=made.plan.read_to,
        data_digest=_digest(older, newer),
        passed=made.verdict.passed,
        summary=made.verdict.summary,
        numbers=made.evidence.as_json(),
        checks=[check.as_json() for check in made.verdict.checks],
        created_at=now,
        learnt=head_memory.dump(made.memory) if made.memory else None,
    )


def _digest(*parts: Part) -> str:
    """SHA-256 of which decisions were labelled, and how."""
    found = hashlib.sha256()
    for one in (one for part in parts for one in part.told):
        found.update(one.decision_id.bytes + one.vote.label.to_bytes(4, "big", signed=True))
    return found.hexdigest()


def _serve(
    connection: sa.Connection, publisher: Publisher, version: StoredHead, reason: str, now: datetime
) -> StoredBundle | None:
    policy_id, name = version.policy_id, version.name
    before = heads.serving_head(connection, policy_id, name)
    if before is not None:
        heads.set_state(connection, policy_id, name, [before.number], RETIRED)
    heads.set_state(connection, policy_id, name, [version.number], SERVING, served_at=now)
    return publishing.republish(connection, publisher, policy_id, reason=reason, now=now)


def _hold(connection: sa.Connection, policy_id: UUID, name: str, now: datetime) -> None:
    config = dict(policies.get_policy(connection, policy_id).config)
    rows = [
        {**row, "auto_publish": False} if row["name"] == name else row
        for row in config.get("heads", [])
    ]
    heads.put_declarations(connection, policy_id, rows, now)
