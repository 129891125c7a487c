"""Heads at work: trained on older labels, judged on newer ones, published when they are better.

A head is trained when its labels have grown. The newest part of them judges: nothing that trained
the version, or what serves, is among it. What was judged is stored with its numbers, passed or not.
Labels are read and heads trained without a lock; what follows is written in one transaction under
the policy's lock, and only if nobody has moved the head meanwhile. What has passed while something
holds heads (:mod:`controlplane.head_entry`) waits, and is not trained over, until it may serve.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import sqlalchemy as sa
import structlog

from controlplane import head_entry, head_gate, head_labels, publishing, served_heads
from controlplane.candidates import FAILURES
from controlplane.config import PolicyConfig, read_config
from controlplane.errors import GateError, NotFoundError
from controlplane.gates import Verdict
from controlplane.head_gate import HeadEvidence
from controlplane.head_labels import HeadLog
from controlplane.heads_config import HeadConfig
from controlplane.publishing import Publisher
from learners.head_bank import single
from learners.head_training import Comparison, Labelled, compare, frequencies, train
from learners.heads import HeadModel
from storage import heads, policies, versions
from storage.heads import CANDIDATE, NONE, REFUSED, RETIRED, REVERTED, SERVING, StoredHead
from storage.versions import StoredBundle

EVERY = timedelta(seconds=60)
"""Between two looks for labels."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Ground:
    """What a training stands on, as it was when the work began."""

    policy_id: UUID
    head: HeadConfig
    newest: StoredHead | None
    serving: StoredHead | None
    look: int

    @property
    def number(self) -> int:
        """Of the newest version; 0 where there is none."""
        return self.newest.number if self.newest else 0


@dataclass(frozen=True, slots=True)
class Attempt:
    """What came of a training."""

    model: HeadModel | None
    verdict: Verdict
    evidence: HeadEvidence
    log: HeadLog
    cut: int


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
        found = _attempt(engine, policy_id, config, head)
        if found is not None:
            with engine.begin() as connection:
                stored = _settle(connection, publisher, *found, now)
            made += [stored] if stored is not None else []
    return made


def learn(ground: Ground, found: HeadLog) -> Attempt:
    """Train on the older part of the labels, and judge on the newer one.

    A training that fails is an attempt too: it is shown, and not tried again on the same labels.
    """
    head, serving = ground.head, ground.serving
    cut = round(len(found.rows) * (1 - head.share))
    older, newer = found.rows.part(slice(None, cut)), found.rows.part(slice(cut, None))
    if serving is not None:
        newer = _after(found, cut, serving.trained_to)
    evidence = HeadEvidence(
        trained=head_gate.counts(older, head),
        judged=head_gate.counts(newer, head),
        compared=None,
        serving=serving.number if serving else None,
        look=ground.look,
    )
    if not all(check.passed for check in head_gate.enough(evidence, head)):
        return Attempt(None, head_gate.judge(evidence, head), evidence, found, cut)
    try:
        model, compared = _trained(ground, older, newer)
    except FAILURES as error:
        why = str(error) or repr(error)
        log.warning("head.not_trained", head=head.name, policy=str(ground.policy_id), detail=why)
        checks = tuple(head_gate.enough(evidence, head))
        failed = Verdict(False, f"not served: training failed: {why}", checks)
        return Attempt(None, failed, evidence, found, cut)
    evidence = HeadEvidence(
        evidence.trained, evidence.judged, compared, evidence.serving, evidence.look
    )
    return Attempt(model, head_gate.judge(evidence, head), evidence, found, cut)


def _trained(ground: Ground, older: Labelled, newer: Labelled) -> tuple[HeadModel, Comparison]:
    head, serving = ground.head, ground.serving
    # An edge computes in single precision, so that is what is judged.
    model = single(train(older, kind=head.kind, classes=head.names, threshold=head.threshold))
    compared = compare(
        model,
        served_heads.load(serving) if serving else None,
        newer,
        frequencies(older, head.kind, len(model.classes)),
        level=head_gate.level_of(head, ground.look),
    )
    return model, compared


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
    engine: sa.Engine, policy_id: UUID, config: PolicyConfig, head: HeadConfig
) -> tuple[Ground, Attempt] | None:
    """Read and train, if the labels have grown; no lock is held."""
    with engine.connect() as connection:
        ground = _ground(connection, policy_id, head)
        needed, after = _due(ground)
        there = head_labels.count(connection, policy_id, head, after=after, limit=needed)
        if there < needed:
            return None
        # Labels of which it can make nothing would have it train on the same ones for ever.
        usable = head_labels.usable(connection, policy_id, config, head, after=after)
        if usable < needed:
            noted = {"head": head.name, "policy": str(policy_id), "usable": usable}
            log.warning("head.labels_do_not_fit", labels=there, needed=needed, **noted)
            return None
        found = head_labels.read(connection, policy_id, config, head)
    return (ground, learn(ground, found)) if len(found.rows) else None


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


def _ground(connection: sa.Connection, policy_id: UUID, head: HeadConfig) -> Ground:
    newest = heads.newest_head(connection, policy_id, head.name)
    serving = heads.serving_head(connection, policy_id, head.name)
    serving = serving if served_heads.stands(serving, head) else None
    since = serving.number if serving else 0
    look = heads.looks(connection, policy_id, head.name, since) + 1
    return Ground(policy_id, head, newest, serving, look)


def _due(ground: Ground) -> tuple[int, UUID]:
    """How many labels a training waits for, and after which decision."""
    head, newest = ground.head, ground.newest
    if newest is None or not served_heads.stands(newest, head):
        classes = 1 if head.kind == "ood" else len(head.names)
        return math.ceil(classes * head.min_labels / (1 - head.share)), NONE
    return max(1, math.ceil(newest.labels * (head.growth - 1))), newest.judged_to


def _after(found: HeadLog, cut: int, trained_to: UUID) -> Labelled:
    """The judging part without what has trained the serving version."""
    first = next((at for at, one in enumerate(found.ids) if one > trained_to), len(found.ids))
    return found.rows.part(slice(max(cut, first), None))


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
    ids = made.log.ids
    return StoredHead(
        policy_id=ground.policy_id,
        name=ground.head.name,
        number=number,
        state=CANDIDATE if made.verdict.passed else REFUSED,
        declaration=ground.head.identity,
        model=form,
        tensors=tensors,
        digest=digest,
        labels=len(ids),
        trained_to=ids[made.cut - 1] if made.cut else NONE,
        judged_to=ids[-1],
        data_digest=_digest(ids, made.log.rows.labels.tolist()),
        passed=made.verdict.passed,
        summary=made.verdict.summary,
        numbers=made.evidence.as_json(),
        checks=[check.as_json() for check in made.verdict.checks],
        created_at=now,
    )


def _digest(ids: Sequence[UUID], labels: Sequence[int]) -> str:
    """SHA-256 of which decisions were labelled, and how."""
    found = hashlib.sha256()
    for one, label in zip(ids, labels, strict=True):
        found.update(one.bytes + label.to_bytes(4, "big", signed=True))
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
