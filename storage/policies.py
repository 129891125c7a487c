"""Pools and their arms, policies, metrics, rewards."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from storage.tables import arms, metrics, policies, pools, rewards

Json = dict[str, Any]
BEHIND = ("model", "endpoint")
"""What of an arm's spec makes it another arm under the same name."""


@dataclass(frozen=True, slots=True)
class StoredPolicy:
    """A policy's row; ``config`` is read by ``controlplane.registry``."""

    id: UUID
    project_id: UUID
    pool_id: UUID
    pool: str
    name: str
    config: Json
    wait_s: float
    log_position: int
    created_at: datetime
    updated_at: datetime


def ensure_pool(
    connection: sa.Connection, project_id: UUID, pool_id: UUID, name: str, now: datetime
) -> UUID:
    """The pool of that name, made when it does not exist."""
    connection.execute(
        insert(pools)
        .values(id=pool_id, project_id=project_id, name=name, created_at=now)
        .on_conflict_do_nothing(index_elements=["project_id", "name"])
    )
    found = find_pool(connection, project_id, name)
    if found is None:
        raise LookupError(name)
    return found


def find_pool(connection: sa.Connection, project_id: UUID, name: str) -> UUID | None:
    """The pool's id."""
    query = sa.select(pools.c.id).where(pools.c.project_id == project_id, pools.c.name == name)
    found: UUID | None = connection.scalars(query).one_or_none()
    return found


def put_arm(connection: sa.Connection, pool_id: UUID, name: str, spec: Json, now: datetime) -> None:
    """Add an arm, change it, or bring a retired one back; another model or endpoint revises it."""
    added = insert(arms).values(
        pool_id=pool_id, name=name, spec=spec, created_at=now, retired_at=None
    )
    behind = [
        sa.tuple_(*(of.spec[key].astext for key in BEHIND)) for of in (arms.c, added.excluded)
    ]
    revised = sa.case((behind[0].is_distinct_from(behind[1]), now), else_=arms.c.revised_at)
    connection.execute(
        added.on_conflict_do_update(
            index_elements=["pool_id", "name"],
            set_={"spec": spec, "retired_at": None, "revised_at": revised},
        )
    )


def revised_arms(connection: sa.Connection, pool_id: UUID) -> dict[str, datetime]:
    """Since when the model behind each arm in service stands there, of those that had another."""
    rows = connection.execute(
        sa.select(arms.c.name, arms.c.revised_at)
        .where(
            arms.c.pool_id == pool_id, arms.c.retired_at.is_(None), arms.c.revised_at.is_not(None)
        )
        .order_by(arms.c.name)
    )
    return {row.name: row.revised_at for row in rows}


def retire_arm(connection: sa.Connection, pool_id: UUID, name: str, now: datetime) -> bool:
    """Retire an arm; False where there is none of that name in service."""
    changed = connection.execute(
        sa.update(arms)
        .where(arms.c.pool_id == pool_id, arms.c.name == name, arms.c.retired_at.is_(None))
        .values(retired_at=now)
    )
    return changed.rowcount > 0


def list_arms(connection: sa.Connection, pool_id: UUID) -> list[Json]:
    """The arms in service, by name: each one's spec with its ``name``."""
    rows = connection.execute(
        sa.select(arms.c.name, arms.c.spec)
        .where(arms.c.pool_id == pool_id, arms.c.retired_at.is_(None))
        .order_by(arms.c.name)
    )
    return [{**row.spec, "name": row.name} for row in rows]


def put_policy(
    connection: sa.Connection,
    *,
    policy_id: UUID,
    project_id: UUID,
    pool_id: UUID,
    name: str,
    config: Json,
    now: datetime,
) -> None:
    """Add a policy, or change its pool and config."""
    connection.execute(
        insert(policies)
        .values(
            id=policy_id,
            project_id=project_id,
            pool_id=pool_id,
            name=name,
            config=config,
            wait_s=0.0,
            log_position=0,
            created_at=now,
            updated_at=now,
        )
        .on_conflict_do_update(
            index_elements=["project_id", "name"],
            set_={"config": config, "pool_id": pool_id, "updated_at": now},
        )
    )


_POLICIES = sa.select(policies, pools.c.name.label("pool")).join(
    pools, pools.c.id == policies.c.pool_id
)


def find_policy(connection: sa.Connection, project_id: UUID, name: str) -> StoredPolicy | None:
    """The project's policy of that name."""
    query = _POLICIES.where(policies.c.project_id == project_id, policies.c.name == name)
    row = connection.execute(query).mappings().one_or_none()
    return StoredPolicy(**row) if row else None


def get_policy(connection: sa.Connection, policy_id: UUID) -> StoredPolicy:
    """The policy with that id."""
    row = connection.execute(_POLICIES.where(policies.c.id == policy_id)).mappings().one()
    return StoredPolicy(**row)


def list_policies(
    connection: sa.Connection, project_id: UUID | None = None, *, limit: int = 100, after: str = ""
) -> list[StoredPolicy]:
    """Policies by name, of one project or of all."""
    query = _POLICIES.where(policies.c.name > after).order_by(policies.c.name).limit(limit)
    if project_id is not None:
        query = query.where(policies.c.project_id == project_id)
    return [StoredPolicy(**row) for row in connection.execute(query).mappings()]


def lock_project(connection: sa.Connection, project_id: UUID) -> None:
    """Let nobody else add to the project's policies until the commit."""
    connection.execute(
        sa.text("SELECT id FROM projects WHERE id = :project FOR NO KEY UPDATE"),
        {"project": project_id},
    )


def stop_promoting(connection: sa.Connection, policy_id: UUID, now: datetime) -> None:
    """Switch a policy's automatic promotion off."""
    off = sa.cast({"auto_promote": False}, policies.c.config.type)
    connection.execute(
        sa.update(policies)
        .where(policies.c.id == policy_id)
        .values(config=policies.c.config.op("||")(off), updated_at=now)
    )


def all_policies(connection: sa.Connection, *, limit: int = 10_000) -> list[StoredPolicy]:
    """The policies of all projects, oldest first."""
    query = _POLICIES.order_by(policies.c.id).limit(limit)
    return [StoredPolicy(**row) for row in connection.execute(query).mappings()]


def policy_ids(connection: sa.Connection, project_id: UUID) -> dict[str, UUID]:
    """The project's policies by name."""
    rows = connection.execute(
        sa.select(policies.c.name, policies.c.id).where(policies.c.project_id == project_id)
    )
    return {row.name: row.id for row in rows}


def policies_of_pool(connection: sa.Connection, pool_id: UUID) -> list[UUID]:
    """The policies that choose from a pool."""
    query = sa.select(policies.c.id).where(policies.c.pool_id == pool_id).order_by(policies.c.id)
    return list(connection.scalars(query))


def put_metric(
    connection: sa.Connection, project_id: UUID, name: str, spec: Json, now: datetime
) -> None:
    """Declare a metric, or change it."""
    connection.execute(
        insert(metrics)
        .values(project_id=project_id, name=name, spec=spec, updated_at=now)
        .on_conflict_do_update(
            index_elements=["project_id", "name"], set_={"spec": spec, "updated_at": now}
        )
    )


def find_metrics(
    connection: sa.Connection, project_id: UUID, names: Collection[str]
) -> dict[str, Json]:
    """What is declared of these metrics, by name; those that are not are left out."""
    query = sa.select(metrics.c.name, metrics.c.spec).where(
        metrics.c.project_id == project_id, metrics.c.name.in_(names)
    )
    return {row.name: row.spec for row in connection.execute(query)}


def list_metrics(connection: sa.Connection, project_id: UUID) -> dict[str, Json]:
    """The project's metrics by name."""
    rows = connection.execute(
        sa.select(metrics.c.name, metrics.c.spec)
        .where(metrics.c.project_id == project_id)
        .order_by(metrics.c.name)
    )
    return {row.name: row.spec for row in rows}


# What waits, waits anew; what was joined, is joined again. One statement, in the order in which
# arrivals lock these rows too, so that nobody waits in a circle.
_JOIN_ANEW = """
INSERT INTO pending_joins (decision_id, project_id, policy_id, due_at)
SELECT d.decision_id, d.project_id, d.policy_id,
       greatest(:now, d.at + make_interval(secs => :wait_s))
FROM (
  SELECT decision_id FROM interactions WHERE policy_id = :policy
  UNION SELECT decision_id FROM pending_joins WHERE policy_id = :policy
) i JOIN decisions d ON d.decision_id = i.decision_id AND d.policy_id = :policy
ORDER BY d.decision_id
ON CONFLICT (decision_id, project_id) DO UPDATE SET policy_id = excluded.policy_id,
  due_at = CASE WHEN pending_joins.policy_id IS NULL
    THEN greatest(pending_joins.due_at, excluded.due_at) ELSE excluded.due_at END
"""


def add_reward(
    connection: sa.Connection,
    policy_id: UUID,
    spec: Mapping[str, Any],
    wait_s: float,
    now: datetime,
) -> int:
    """Store the reward's next version, set the policy's wait, and have its log joined anew."""
    connection.execute(
        sa.update(policies).where(policies.c.id == policy_id).values(wait_s=wait_s, updated_at=now)
    )
    newest = sa.select(sa.func.coalesce(sa.func.max(rewards.c.version), 0) + 1).where(
        rewards.c.policy_id == policy_id
    )
    version: int = connection.scalars(newest).one()
    connection.execute(
        sa.insert(rewards).values(
            policy_id=policy_id, version=version, spec=dict(spec), created_at=now
        )
    )
    given = {"policy": policy_id, "wait_s": wait_s, "now": now}
    connection.execute(sa.text(_JOIN_ANEW), given)
    return version


def newest_reward(connection: sa.Connection, policy_id: UUID) -> tuple[int, Json] | None:
    """The reward's newest version and its spec."""
    row = connection.execute(
        sa.select(rewards.c.version, rewards.c.spec)
        .where(rewards.c.policy_id == policy_id)
        .order_by(rewards.c.version.desc())
        .limit(1)
    ).one_or_none()
    return (row.version, row.spec) if row else None


def list_rewards(connection: sa.Connection, policy_id: UUID, limit: int = 100) -> list[Json]:
    """All versions of a policy's reward, newest first."""
    rows = connection.execute(
        sa.select(rewards.c.version, rewards.c.spec, rewards.c.created_at)
        .where(rewards.c.policy_id == policy_id)
        .order_by(rewards.c.version.desc())
        .limit(limit)
    )
    return [{"version": r.version, "created_at": r.created_at, **r.spec} for r in rows]
