"""The work to do and its leases: in Postgres, so that no queue has to be believed.

A lease is two things at once. The row says who works and until when, for people to read. The
session's advisory lock is what excludes others: Postgres drops it the moment the worker's
connection dies, so the next tick takes over at once; a worker that hangs is ended by its task's
time limit, which equals the lease.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from time import monotonic
from typing import Any
from uuid import UUID, uuid5

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from storage.tables import work

JOIN, ROUND, REFRESH, RELEASE = "join", "round", "refresh", "release"
EXPERIMENT = "experiment"
WATCH, REVISE = "watch", "revise"
HEADS = "heads"
LEASE_S = 300.0
_LOCK_SPACE = 0x706F696E  # "poin": keeps these locks apart from anyone else's
_MAX_BACKOFF_S = 300.0


@dataclass(frozen=True, slots=True)
class Due:
    """Something to do for a policy."""

    policy_id: UUID
    kind: str


def ask(connection: sa.Connection, policy_id: UUID, kind: str, due_at: datetime) -> None:
    """Have this done at ``due_at``: also once more after a run that is under way."""
    statement = insert(work).values(
        policy_id=policy_id, kind=kind, due_at=due_at, attempts=0, asks=1
    )
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=["policy_id", "kind"],
            set_={"due_at": due_at, "done_at": None, "asks": work.c.asks + 1},
        )
    )


def notice(connection: sa.Connection, policy_id: UUID, kind: str, now: datetime) -> None:
    """Have this done now, unless it stands there already, waiting, under way or backing off."""
    statement = insert(work).values(policy_id=policy_id, kind=kind, due_at=now, attempts=0, asks=1)
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=["policy_id", "kind"],
            set_={"due_at": now, "done_at": None, "asks": work.c.asks + 1},
            where=work.c.done_at.is_not(None),
        )
    )


def find_due(connection: sa.Connection, now: datetime, *, limit: int = 1_000) -> list[Due]:
    """What is due and nobody is at work on, longest due first."""
    rows = connection.execute(
        sa.text(
            "SELECT w.policy_id, w.kind FROM work w WHERE w.done_at IS NULL AND w.due_at <= :now "
            "ORDER BY w.due_at LIMIT :limit"
        ),
        {"now": now, "limit": limit},
    ).all()
    held = set(
        connection.scalars(
            sa.text(
                "SELECT objid::bigint FROM pg_locks WHERE locktype = 'advisory' "
                "AND classid = :space AND objsubid = 2 AND granted "
                "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
            ),
            {"space": _LOCK_SPACE},
        )
    )
    found = [Due(row.policy_id, row.kind) for row in rows]
    return [due for due in found if _lock_key(due) & 0xFFFFFFFF not in held]


@contextmanager
def lease(engine: sa.Engine, due: Due, owner: str, now: datetime) -> Iterator[bool]:
    """Hold the work exclusively while the block runs.

    Yields False where another holds it, or has done it since it was found, or it backs off.

    What the block raises is kept in the row with a later ``due_at`` (1, 2, 4 … 300 s after the
    failure), and raised on. Otherwise the work is done, unless somebody asked for it meanwhile.
    """
    begun_at = monotonic()
    with engine.connect() as connection:
        key = {"space": _LOCK_SPACE, "key": _lock_key(due)}
        taken = connection.scalar(sa.text("SELECT pg_try_advisory_lock(:space, :key)"), key)
        connection.commit()
        if not taken:
            yield False
            return
        try:
            begun = _begin(connection, due, owner, now)
            if begun is None:
                yield False
                return
            try:
                yield True
            except Exception as error:
                ended = now + timedelta(seconds=monotonic() - begun_at)
                _fail(connection, due, ended, begun, _shown(error))
                raise
            _finish(connection, due, now + timedelta(seconds=monotonic() - begun_at), begun)
        finally:
            connection.rollback()
            connection.execute(sa.text("SELECT pg_advisory_unlock(:space, :key)"), key)
            connection.commit()


@dataclass(frozen=True, slots=True)
class _Begun:
    attempts: int
    asks: int


def _begin(connection: sa.Connection, due: Due, owner: str, now: datetime) -> _Begun | None:
    held = {"lease_owner": owner, "lease_until": now + timedelta(seconds=LEASE_S)}
    statement = insert(work).values(
        policy_id=due.policy_id, kind=due.kind, due_at=now, attempts=1, asks=1, **held
    )
    # Whoever dies at its first attempt leaves the work due; what kills each worker backs off too.
    delay = sa.func.least(
        _MAX_BACKOFF_S, sa.func.power(2.0, sa.func.least(work.c.attempts - 1, 10))
    )
    later = now + sa.func.make_interval(0, 0, 0, 0, 0, 0, delay)
    retry_at = sa.case((work.c.attempts == 0, work.c.due_at), else_=later)
    row = connection.execute(
        statement.on_conflict_do_update(
            index_elements=["policy_id", "kind"],
            set_={**held, "attempts": work.c.attempts + 1, "due_at": retry_at},
            where=work.c.done_at.is_(None) & (work.c.due_at <= now),
        ).returning(work.c.attempts, work.c.asks)
    ).one_or_none()
    connection.commit()
    return _Begun(row.attempts, row.asks) if row else None


def _finish(connection: sa.Connection, due: Due, now: datetime, begun: _Begun) -> None:
    connection.execute(
        sa.update(work)
        .where(work.c.policy_id == due.policy_id, work.c.kind == due.kind)
        .values(
            lease_owner=None,
            lease_until=None,
            attempts=0,
            last_error=None,
            done_at=sa.case((work.c.asks == begun.asks, now), else_=None),
        )
    )
    connection.commit()


def _fail(connection: sa.Connection, due: Due, now: datetime, begun: _Begun, error: str) -> None:
    delay = min(_MAX_BACKOFF_S, 2.0 ** min(begun.attempts - 1, 10))
    connection.execute(
        sa.update(work)
        .where(work.c.policy_id == due.policy_id, work.c.kind == due.kind)
        .values(
            lease_owner=None,
            lease_until=None,
            last_error=error,
            due_at=now + timedelta(seconds=delay),
        )
    )
    connection.commit()


def _shown(error: Exception) -> str:
    """What a text column can hold of it."""
    return repr(error)[:2_000].replace("\x00", "").encode(errors="replace").decode()


def last_done(connection: sa.Connection, kind: str) -> dict[UUID, datetime | None]:
    """When each policy's work of a kind was done last; None for what stands to be done."""
    query = sa.select(work.c.policy_id, work.c.done_at).where(work.c.kind == kind)
    rows = connection.execute(query)
    return {row.policy_id: row.done_at for row in rows}


def list_work(connection: sa.Connection, policy_id: UUID) -> list[dict[str, Any]]:
    """What stands to be done for a policy, who is at it, and what failed last."""
    query = sa.select(work).where(work.c.policy_id == policy_id).order_by(work.c.kind)
    return [dict(row) for row in connection.execute(query).mappings()]


def _lock_key(due: Due) -> int:
    """A signed 32-bit name of the work: what Postgres takes beside the lock space."""
    digest = uuid5(due.policy_id, due.kind).int & 0xFFFFFFFF
    return digest - 2**32 if digest >= 2**31 else digest
