"""Versions, aliases, bundles, verdicts and rounds: what has been learned, judged and served."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import distinct_on, insert

from storage.tables import aliases, bundles, policies, rounds, verdicts, versions

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class StoredVersion:
    """An immutable trained policy; only ``state`` ever changes.

    ``data_from`` (exclusive) and ``data_to`` (inclusive) are positions of the policy's log;
    ``digest`` is that of the scorer's tensors and form.
    """

    policy_id: UUID
    number: int
    state: str
    learner: str
    config: Json
    seed: int
    parent: int | None
    data_from: int
    data_to: int
    data_digest: str
    digest: str
    scorer: Json
    tensors: bytes
    snapshot: bytes | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class StoredVerdict:
    """What a gate said of a version, number by number."""

    id: UUID
    policy_id: UUID
    version: int
    gate: str
    passed: bool
    summary: str
    numbers: Json
    checks: list[Json]
    created_at: datetime


@dataclass(frozen=True, slots=True)
class StoredBundle:
    """A signed bundle as published."""

    policy_id: UUID
    serial: int
    version: int
    digest: str
    body: bytes
    reason: str
    issued_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class StoredRound:
    """One pass of training and judging; ``look`` counts the judged rounds of the policy."""

    policy_id: UUID
    number: int
    position: int
    look: int
    summary: Json
    started_at: datetime
    finished_at: datetime


def lock_policy(connection: sa.Connection, policy_id: UUID) -> None:
    """Let nobody else number this policy's versions, bundles or positions until the commit."""
    connection.execute(
        sa.select(policies.c.id).where(policies.c.id == policy_id).with_for_update(key_share=True)
    ).one()


def add_version(connection: sa.Connection, version: StoredVersion) -> None:
    """Store a new version."""
    connection.execute(sa.insert(versions).values(**asdict(version)))


def next_version(connection: sa.Connection, policy_id: UUID) -> int:
    """The next free version number; hold :func:`lock_policy`."""
    newest = sa.func.coalesce(sa.func.max(versions.c.number), 0) + 1
    found: int = connection.scalars(
        sa.select(newest).where(versions.c.policy_id == policy_id)
    ).one()
    return found


def find_version(connection: sa.Connection, policy_id: UUID, number: int) -> StoredVersion | None:
    """One version, with its tensors."""
    row = (
        connection.execute(
            sa.select(versions).where(
                versions.c.policy_id == policy_id, versions.c.number == number
            )
        )
        .mappings()
        .one_or_none()
    )
    return StoredVersion(**row) if row else None


_LISTED = [column for column in versions.c if column.name not in {"tensors", "snapshot"}]


def list_versions(
    connection: sa.Connection, policy_id: UUID, *, limit: int = 50, before: int | None = None
) -> list[Json]:
    """Versions newest first, without their tensors."""
    query = sa.select(*_LISTED).where(versions.c.policy_id == policy_id)
    if before is not None:
        query = query.where(versions.c.number < before)
    query = query.order_by(versions.c.number.desc()).limit(limit)
    return [dict(row) for row in connection.execute(query).mappings()]


def learners_of(
    connection: sa.Connection, policy_id: UUID, numbers: Sequence[int]
) -> dict[int, str]:
    """The learner of each of these versions that still stands."""
    rows = connection.execute(
        sa.select(versions.c.number, versions.c.learner).where(
            versions.c.policy_id == policy_id, versions.c.number.in_(numbers)
        )
    )
    return {row.number: row.learner for row in rows}


def set_state(
    connection: sa.Connection, policy_id: UUID, numbers: Sequence[int], state: str
) -> None:
    """Move versions to another state of their life."""
    connection.execute(
        sa.update(versions)
        .where(versions.c.policy_id == policy_id, versions.c.number.in_(numbers))
        .values(state=state)
    )


_NOT_IN_USE = sa.text("""versions.number NOT IN (
  SELECT version FROM releases WHERE policy_id = :policy AND ended_at IS NULL
  UNION
  SELECT CAST(variant ->> 'version' AS bigint) FROM experiments,
    jsonb_array_elements(spec -> 'split' -> 'variants') AS variant
  WHERE policy_id = :policy AND ended_at IS NULL AND variant ->> 'version' IS NOT NULL
)""")


def retire_candidates(connection: sa.Connection, policy_id: UUID, *, keep: int) -> None:
    """Retire waiting candidates, and forget the oldest that never served beyond ``keep``.

    What an experiment or a release that runs names stays: no bundle could be published without it.
    Those that are kept lose what only further learning would need; they can still be served.

    Raises:
        ValueError: ``keep`` is below 1: the newest must stay, or its number would come again.
    """
    if keep < 1:
        raise ValueError(f"keep is {keep}: give at least 1, so that no number comes twice")
    connection.execute(
        sa.update(versions)
        .where(versions.c.policy_id == policy_id, versions.c.state == "candidate")
        .values(state="retired")
    )
    served = sa.select(bundles.c.version).where(bundles.c.policy_id == policy_id)
    named = sa.select(aliases.c.version).where(aliases.c.policy_id == policy_id)
    never_served = (
        (versions.c.policy_id == policy_id)
        & (versions.c.state == "retired")
        & versions.c.number.not_in(served)
        & versions.c.number.not_in(named)
        & _NOT_IN_USE.bindparams(policy=policy_id)
    )
    newest_first = (
        sa.select(versions.c.number).where(never_served).order_by(versions.c.number.desc())
    )
    connection.execute(
        sa.delete(versions).where(
            versions.c.policy_id == policy_id, versions.c.number.in_(newest_first.offset(keep))
        )
    )
    connection.execute(
        sa.update(versions)
        .where(never_served, versions.c.snapshot.is_not(None))
        .values(snapshot=None)
    )


def find_alias(connection: sa.Connection, policy_id: UUID, alias: str) -> tuple[int, int] | None:
    """An alias: the version it names, and how often it has been moved."""
    row = connection.execute(
        sa.select(aliases.c.version, aliases.c.revision).where(
            aliases.c.policy_id == policy_id, aliases.c.alias == alias
        )
    ).one_or_none()
    return (row.version, row.revision) if row else None


def list_aliases(connection: sa.Connection, policy_id: UUID) -> dict[str, int]:
    """All aliases of a policy: the version that each names."""
    rows = connection.execute(
        sa.select(aliases.c.alias, aliases.c.version).where(aliases.c.policy_id == policy_id)
    )
    return {row.alias: row.version for row in rows}


def put_alias(
    connection: sa.Connection,
    policy_id: UUID,
    alias: str,
    version: int,
    now: datetime,
    *,
    first: int = 1,
) -> int:
    """Point an alias at a version; returns the alias's new revision, ``first`` if it is new."""
    statement = insert(aliases).values(
        policy_id=policy_id, alias=alias, version=version, revision=first, updated_at=now
    )
    revision: int = connection.scalars(
        statement.on_conflict_do_update(
            index_elements=["policy_id", "alias"],
            set_={"version": version, "revision": aliases.c.revision + 1, "updated_at": now},
        ).returning(aliases.c.revision)
    ).one()
    return revision


def drop_alias(connection: sa.Connection, policy_id: UUID, alias: str) -> bool:
    """Take an alias away; False where there is none."""
    dropped = connection.execute(
        sa.delete(aliases).where(aliases.c.policy_id == policy_id, aliases.c.alias == alias)
    )
    return dropped.rowcount > 0


def add_bundle(connection: sa.Connection, bundle: StoredBundle) -> None:
    """Store a published bundle."""
    connection.execute(sa.insert(bundles).values(**asdict(bundle)))


def forget_bodies(connection: sa.Connection, *, keep: int) -> None:
    """Drop the bytes of each policy's bundles but the newest ``keep``.

    The rows stay, as the history of what served.

    Raises:
        ValueError: ``keep`` is below 1: edges pull the newest.
    """
    if keep < 1:
        raise ValueError(f"keep is {keep}: give at least 1, as edges pull the newest")
    newest = (
        sa.select(bundles.c.policy_id, sa.func.max(bundles.c.serial).label("serial"))
        .group_by(bundles.c.policy_id)
        .subquery()
    )
    connection.execute(
        sa.update(bundles)
        .where(
            bundles.c.policy_id == newest.c.policy_id,
            bundles.c.serial <= newest.c.serial - keep,
            bundles.c.body.is_not(None),
        )
        .values(body=None)
    )


def next_serial(connection: sa.Connection, policy_id: UUID) -> int:
    """The next serial, always rising; hold :func:`lock_policy`."""
    newest = sa.func.coalesce(sa.func.max(bundles.c.serial), 0) + 1
    found: int = connection.scalars(sa.select(newest).where(bundles.c.policy_id == policy_id)).one()
    return found


def newest_bundle(connection: sa.Connection, policy_id: UUID) -> StoredBundle | None:
    """The bundle that edges pull now."""
    row = (
        connection.execute(
            sa.select(bundles)
            .where(bundles.c.policy_id == policy_id)
            .order_by(bundles.c.serial.desc())
            .limit(1)
        )
        .mappings()
        .one_or_none()
    )
    return StoredBundle(**row) if row else None


def newest_serials(connection: sa.Connection) -> dict[UUID, tuple[int, str]]:
    """Of every policy: the newest bundle's serial and digest."""
    rows = connection.execute(_newest_of_each(bundles.c.serial, bundles.c.digest))
    return {row.policy_id: (row.serial, row.digest) for row in rows}


def _newest_of_each(*columns: sa.ColumnElement[Any]) -> sa.Select[Any]:
    """Of every policy's newest bundle: one look at the key a policy, however many there are."""
    newest = (
        sa.select(*columns)
        .where(bundles.c.policy_id == policies.c.id)
        .order_by(bundles.c.serial.desc())
        .limit(1)
        .lateral()
    )
    every = policies.join(newest, sa.true())
    return sa.select(policies.c.id.label("policy_id"), *newest.c).select_from(every)


def service_history(
    connection: sa.Connection, policy_id: UUID, *, limit: int = 10_000
) -> list[tuple[int, str]]:
    """The versions in the order in which they were published, each with why; oldest first."""
    newest = (
        sa.select(bundles.c.version, bundles.c.reason)
        .where(bundles.c.policy_id == policy_id)
        .order_by(bundles.c.serial.desc())
        .limit(limit)
    )
    return [(row.version, row.reason) for row in connection.execute(newest)][::-1]


def champions_since(
    connection: sa.Connection, policy_id: UUID, since: datetime, *, limit: int = 50
) -> list[tuple[datetime, int, int]]:
    """When another version began to serve, which one, and which one before; the newest, in order.

    The first version of all replaced nobody and is none of them.
    """
    before = sa.func.lag(bundles.c.version).over(order_by=bundles.c.serial)
    every = (
        sa.select(bundles.c.issued_at, bundles.c.version, bundles.c.serial, before.label("before"))
        .where(bundles.c.policy_id == policy_id)
        .subquery()
    )
    query = (
        sa.select(every.c.issued_at, every.c.version, every.c.before)
        .where(every.c.version != every.c.before, every.c.issued_at >= since)
        .order_by(every.c.serial.desc())
        .limit(limit)
    )
    return [(row.issued_at, row.version, row.before) for row in connection.execute(query)][::-1]


def past_half_life(connection: sa.Connection, now: datetime) -> list[UUID]:
    """Policies whose newest bundle has lived more than half of its time."""
    newest = _newest_of_each(bundles.c.issued_at, bundles.c.expires_at).subquery()
    lived, left = now - newest.c.issued_at, newest.c.expires_at - now
    return list(connection.scalars(sa.select(newest.c.policy_id).where(lived >= left)))


def list_bundles(connection: sa.Connection, policy_id: UUID, *, limit: int = 50) -> list[Json]:
    """What was published, newest first, without the bytes."""
    columns = [column for column in bundles.c if column.name not in {"body", "policy_id"}]
    query = (
        sa.select(*columns)
        .where(bundles.c.policy_id == policy_id)
        .order_by(bundles.c.serial.desc())
        .limit(limit)
    )
    return [dict(row) for row in connection.execute(query).mappings()]


def add_verdict(connection: sa.Connection, verdict: StoredVerdict) -> None:
    """Store a verdict."""
    connection.execute(sa.insert(verdicts).values(**asdict(verdict)))


def list_verdicts(
    connection: sa.Connection, policy_id: UUID, *, version: int | None = None, limit: int = 50
) -> list[StoredVerdict]:
    """Verdicts newest first, of one version or of all."""
    query = sa.select(verdicts).where(verdicts.c.policy_id == policy_id)
    if version is not None:
        query = query.where(verdicts.c.version == version)
    newest = (verdicts.c.created_at.desc(), verdicts.c.version.desc(), verdicts.c.id.desc())
    query = query.order_by(*newest).limit(limit)
    return [StoredVerdict(**row) for row in connection.execute(query).mappings()]


def has_verdict(connection: sa.Connection, policy_id: UUID, number: int, identifier: UUID) -> bool:
    """Whether a verdict is of this version."""
    query = sa.select(verdicts.c.version).where(
        verdicts.c.policy_id == policy_id, verdicts.c.id == identifier
    )
    return connection.scalars(query).one_or_none() == number


def add_round(connection: sa.Connection, done: StoredRound) -> None:
    """Store a finished round."""
    connection.execute(sa.insert(rounds).values(**asdict(done)))


def newest_round(connection: sa.Connection, policy_id: UUID) -> StoredRound | None:
    """The policy's last finished round."""
    row = (
        connection.execute(
            sa.select(rounds)
            .where(rounds.c.policy_id == policy_id)
            .order_by(rounds.c.number.desc())
            .limit(1)
        )
        .mappings()
        .one_or_none()
    )
    return StoredRound(**row) if row else None


def looks(
    connection: sa.Connection, policy_id: UUID, *, champions: Sequence[int], reward_version: int
) -> int:
    """How often a champion has been challenged under a reward, whatever served in between.

    ``champions`` are the version and those that it revises: they share one error.
    """
    found: int = connection.scalars(
        sa.select(sa.func.coalesce(sa.func.max(rounds.c.look), 0)).where(
            rounds.c.policy_id == policy_id,
            rounds.c.summary["champion"].as_integer().in_(champions),
            rounds.c.summary["reward_version"].as_integer() == reward_version,
        )
    ).one()
    return found


def newest_rounds(connection: sa.Connection) -> dict[UUID, StoredRound]:
    """Of every policy: its last finished round."""
    query = (
        sa.select(rounds)
        .ext(distinct_on(rounds.c.policy_id))
        .order_by(rounds.c.policy_id, rounds.c.number.desc())
    )
    return {row["policy_id"]: StoredRound(**row) for row in connection.execute(query).mappings()}
