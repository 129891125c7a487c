"""Releases in steps, experiments, what monitors found: how a version comes to serve, and stays."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from storage.tables import experiments, findings, releases, watches

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class StoredRelease:
    """One version's way to the champion's place.

    ``champion`` is whom it is to replace; ``stage`` counts in ``plan["stages"]``; ``state`` is what
    its monitors have seen; it runs until ``ended_at``.
    """

    policy_id: UUID
    number: int
    version: int
    champion: int
    plan: Json
    stage: int
    status: str
    state: Json
    reason: str
    started_at: datetime
    stage_at: datetime
    ended_at: datetime | None


@dataclass(frozen=True, slots=True)
class StoredExperiment:
    """Traffic split between versions, to compare them."""

    id: UUID
    policy_id: UUID
    name: str
    spec: Json
    status: str
    state: Json
    result: Json | None
    started_at: datetime
    ended_at: datetime | None


@dataclass(frozen=True, slots=True)
class StoredFinding:
    """What a monitor saw, and what was done about it."""

    id: UUID
    policy_id: UUID
    monitor: str
    severity: str
    reaction: str
    summary: str
    numbers: Json
    created_at: datetime


@dataclass(frozen=True, slots=True)
class StoredWatch:
    """Where a policy's monitors stand, and the settings that their reactions put over its own."""

    policy_id: UUID
    position: int
    state: Json
    overrides: Json
    updated_at: datetime


def add_release(connection: sa.Connection, release: StoredRelease) -> None:
    """Store a new release; a policy has one at a time that runs."""
    connection.execute(sa.insert(releases).values(**asdict(release)))


def next_release(connection: sa.Connection, policy_id: UUID) -> int:
    """The next free number; hold the policy's lock."""
    newest = sa.func.coalesce(sa.func.max(releases.c.number), 0) + 1
    found: int = connection.scalars(
        sa.select(newest).where(releases.c.policy_id == policy_id)
    ).one()
    return found


def running_release(connection: sa.Connection, policy_id: UUID) -> StoredRelease | None:
    """The release that runs, if one does."""
    row = (
        connection.execute(
            sa.select(releases).where(
                releases.c.policy_id == policy_id, releases.c.ended_at.is_(None)
            )
        )
        .mappings()
        .one_or_none()
    )
    return StoredRelease(**row) if row else None


def find_release(connection: sa.Connection, policy_id: UUID, number: int) -> StoredRelease | None:
    """One release."""
    row = (
        connection.execute(
            sa.select(releases).where(
                releases.c.policy_id == policy_id, releases.c.number == number
            )
        )
        .mappings()
        .one_or_none()
    )
    return StoredRelease(**row) if row else None


def list_releases(
    connection: sa.Connection, policy_id: UUID, *, limit: int = 50, before: int | None = None
) -> list[StoredRelease]:
    """Releases, newest first."""
    query = sa.select(releases).where(releases.c.policy_id == policy_id)
    if before is not None:
        query = query.where(releases.c.number < before)
    query = query.order_by(releases.c.number.desc()).limit(limit)
    return [StoredRelease(**row) for row in connection.execute(query).mappings()]


def put_release(connection: sa.Connection, release: StoredRelease) -> None:
    """Store where a release stands now."""
    connection.execute(
        sa.update(releases)
        .where(releases.c.policy_id == release.policy_id, releases.c.number == release.number)
        .values(
            stage=release.stage,
            status=release.status,
            state=release.state,
            reason=release.reason,
            stage_at=release.stage_at,
            ended_at=release.ended_at,
        )
    )


def add_experiment(connection: sa.Connection, experiment: StoredExperiment) -> None:
    """Store a new experiment."""
    connection.execute(sa.insert(experiments).values(**asdict(experiment)))


def put_experiment(connection: sa.Connection, experiment: StoredExperiment) -> None:
    """Store where an experiment stands now."""
    connection.execute(
        sa.update(experiments)
        .where(experiments.c.id == experiment.id)
        .values(
            status=experiment.status,
            state=experiment.state,
            result=experiment.result,
            ended_at=experiment.ended_at,
        )
    )


def find_experiment(connection: sa.Connection, experiment_id: UUID) -> StoredExperiment | None:
    """One experiment."""
    row = (
        connection.execute(sa.select(experiments).where(experiments.c.id == experiment_id))
        .mappings()
        .one_or_none()
    )
    return StoredExperiment(**row) if row else None


def list_experiments(
    connection: sa.Connection, policy_id: UUID, *, running: bool = False, limit: int = 50
) -> list[StoredExperiment]:
    """A policy's experiments, newest first; with ``running`` those that run, oldest first."""
    query = sa.select(experiments).where(experiments.c.policy_id == policy_id)
    if running:
        query = query.where(experiments.c.ended_at.is_(None)).order_by(experiments.c.id)
    else:
        query = query.order_by(experiments.c.id.desc())
    rows = connection.execute(query.limit(limit)).mappings()
    return [StoredExperiment(**row) for row in rows]


def add_finding(connection: sa.Connection, finding: StoredFinding) -> None:
    """Store what a monitor saw."""
    connection.execute(sa.insert(findings).values(**asdict(finding)))


def list_findings(
    connection: sa.Connection, policy_id: UUID, *, limit: int = 50
) -> list[StoredFinding]:
    """What the monitors saw, newest first."""
    query = (
        sa.select(findings)
        .where(findings.c.policy_id == policy_id)
        .order_by(findings.c.id.desc())
        .limit(limit)
    )
    return [StoredFinding(**row) for row in connection.execute(query).mappings()]


def find_watch(connection: sa.Connection, policy_id: UUID) -> StoredWatch | None:
    """Where the policy's monitors stand."""
    row = (
        connection.execute(sa.select(watches).where(watches.c.policy_id == policy_id))
        .mappings()
        .one_or_none()
    )
    return StoredWatch(**row) if row else None


def put_watch(connection: sa.Connection, watch: StoredWatch) -> None:
    """Store where the policy's monitors stand."""
    values: Mapping[str, Any] = asdict(watch)
    kept = {name: value for name, value in values.items() if name != "policy_id"}
    connection.execute(
        insert(watches)
        .values(**values)
        .on_conflict_do_update(index_elements=["policy_id"], set_=kept)
    )
