"""API keys: ``pm_<prefix>_<secret>``. Only the secret's hash is stored; the key is shown once."""

import hashlib
import hmac
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa

from controlplane.errors import InvalidError, NotFoundError
from learners.ids import ENTROPY_BYTES, uuid7
from storage import projects
from storage.projects import StoredKey

SCOPES = ("ingest", "read", "publish", "edge", "admin")
"""admin stands for all of them."""

DEFAULT_PROJECT = "default"
MAX_KEYS = 100
_PARTS = 3


@dataclass(frozen=True, slots=True)
class Minted:
    """A new key: ``token`` is the only time that it is seen."""

    key: StoredKey
    token: str


def mint(
    connection: sa.Connection,
    project_id: UUID,
    *,
    name: str,
    scopes: Sequence[str],
    now: datetime,
) -> Minted:
    """Make and store a key.

    Raises:
        InvalidError: A scope is unknown, or the project has too many keys.
    """
    unknown = [scope for scope in scopes if scope not in SCOPES]
    if unknown or not scopes:
        raise InvalidError("scopes", f"scopes {list(scopes)}: give some of {list(SCOPES)}")
    if projects.count_standing(connection, project_id) >= MAX_KEYS:
        raise InvalidError("name", f"the project has {MAX_KEYS} keys: revoke one first")
    prefix, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
    key = StoredKey(
        id=uuid7(now, os.urandom(ENTROPY_BYTES)),
        project_id=project_id,
        name=name,
        prefix=prefix,
        secret_hash=_hash(secret),
        scopes=tuple(scopes),
        created_at=now,
        revoked_at=None,
    )
    projects.add_key(connection, key)
    return Minted(key, f"pm_{prefix}_{secret}")


def verify(connection: sa.Connection, token: str) -> StoredKey | None:
    """The key that the token is, unless it is unknown, wrong or revoked."""
    parts = token.split("_", 2)
    if len(parts) != _PARTS or parts[0] != "pm":
        return None
    found = projects.find_key(connection, parts[1])
    if found is None or found.revoked_at is not None:
        return None
    return found if hmac.compare_digest(found.secret_hash, _hash(parts[2])) else None


def allows(key: StoredKey, scope: str) -> bool:
    """Whether the key may do what the scope names."""
    return scope in key.scopes or "admin" in key.scopes


def revoke(connection: sa.Connection, project_id: UUID, key_id: UUID, now: datetime) -> None:
    """Revoke a key.

    Raises:
        NotFoundError: The project has no such key.
    """
    if not projects.revoke_key(connection, project_id, key_id, now):
        raise NotFoundError(f"key {key_id} does not exist in this project")


def first_admin(connection: sa.Connection, now: datetime) -> Minted | None:
    """The default project's first admin key; None where a key stands already."""
    project = projects.ensure_project(
        connection, uuid7(now, os.urandom(ENTROPY_BYTES)), DEFAULT_PROJECT, now
    )
    if projects.count_standing(connection, project, scope="admin"):
        return None
    return mint(connection, project, name="first admin", scopes=("admin",), now=now)


def _hash(secret: str) -> bytes:
    # The secret has 256 random bits, so one fast hash is as good as a slow one.
    return hashlib.sha256(secret.encode()).digest()
