"""Projects and their API keys."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from storage.tables import api_keys, projects


@dataclass(frozen=True, slots=True)
class StoredKey:
    """An API key as stored: the hash of its secret, never the secret."""

    id: UUID
    project_id: UUID
    name: str
    prefix: str
    secret_hash: bytes
    scopes: tuple[str, ...]
    created_at: datetime
    revoked_at: datetime | None


def ensure_project(connection: sa.Connection, project_id: UUID, name: str, now: datetime) -> UUID:
    """The project of that name, made under ``project_id`` when it does not exist."""
    connection.execute(
        insert(projects)
        .values(id=project_id, name=name, created_at=now)
        .on_conflict_do_nothing(index_elements=["name"])
    )
    found: UUID = connection.scalars(sa.select(projects.c.id).where(projects.c.name == name)).one()
    return found


def find_project(connection: sa.Connection, name: str) -> UUID | None:
    """The project of that name."""
    return connection.scalars(sa.select(projects.c.id).where(projects.c.name == name)).one_or_none()


def add_key(connection: sa.Connection, key: StoredKey) -> None:
    """Store a new key."""
    connection.execute(
        sa.insert(api_keys).values(
            id=key.id,
            project_id=key.project_id,
            name=key.name,
            prefix=key.prefix,
            secret_hash=key.secret_hash,
            scopes=list(key.scopes),
            created_at=key.created_at,
            revoked_at=key.revoked_at,
        )
    )


def find_key(connection: sa.Connection, prefix: str) -> StoredKey | None:
    """The key with that public prefix."""
    row = connection.execute(sa.select(api_keys).where(api_keys.c.prefix == prefix)).one_or_none()
    return _key(row) if row else None


def list_keys(connection: sa.Connection, project_id: UUID, limit: int = 100) -> list[StoredKey]:
    """The project's keys, oldest first; beyond the limit, the oldest revoked ones are left out."""
    shown = (
        sa.select(api_keys.c.id)
        .where(api_keys.c.project_id == project_id)
        .order_by(api_keys.c.revoked_at.is_not(None), api_keys.c.id.desc())
        .limit(limit)
    )
    rows = connection.execute(
        sa.select(api_keys).where(api_keys.c.id.in_(shown)).order_by(api_keys.c.id)
    )
    return [_key(row) for row in rows]


def count_standing(connection: sa.Connection, project_id: UUID, *, scope: str | None = None) -> int:
    """How many of the project's keys are not revoked; with a scope, of those that have it."""
    query = sa.select(sa.func.count()).where(
        api_keys.c.project_id == project_id, api_keys.c.revoked_at.is_(None)
    )
    if scope is not None:
        query = query.where(api_keys.c.scopes.contains([scope]))
    found: int = connection.scalars(query).one()
    return found


def revoke_key(connection: sa.Connection, project_id: UUID, key_id: UUID, now: datetime) -> bool:
    """Revoke a key; False where the project has no such key."""
    changed = connection.execute(
        sa.update(api_keys)
        .where(api_keys.c.project_id == project_id, api_keys.c.id == key_id)
        .values(revoked_at=sa.func.coalesce(api_keys.c.revoked_at, now))
    )
    return changed.rowcount > 0


def _key(row: sa.Row[tuple[object, ...]]) -> StoredKey:
    return StoredKey(
        row.id,
        row.project_id,
        row.name,
        row.prefix,
        bytes(row.secret_hash),
        tuple(row.scopes),
        row.created_at,
        row.revoked_at,
    )
