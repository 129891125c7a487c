"""Decisions, outcomes and feedback: staged by COPY, stored once, in any order.

Whatever arrives for a decision puts it (back) on ``pending_joins``. The insert does nothing where
the row stands; where a join is just taking it away, it waits for that join and then puts it back,
so a late arrival is never lost between the two.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from psycopg.types.json import Jsonb
from sqlalchemy.dialects.postgresql import insert

from storage.tables import feedback, idempotency_keys

GRACE_S = 2.0
"""A decision waits at least this long after its arrival, for events that were spooled with it."""

DECISION_COLUMNS = (
    "decision_id", "project_id", "policy_id", "version", "serial", "digest", "at", "context",
    "eligible", "distribution", "action", "propensity", "mode", "retry_of", "session_id",
    "episode_id", "edge_id", "received_at",
)  # fmt: skip
OUTCOME_COLUMNS = ("decision_id", "project_id", "at", "values", "response_id", "received_at")

_NEW_DECISIONS = f"""
WITH added AS (
  INSERT INTO decisions SELECT * FROM stage_decisions ON CONFLICT DO NOTHING
  RETURNING decision_id, policy_id, at, received_at
), queued AS (
  INSERT INTO pending_joins (decision_id, policy_id, due_at)
  SELECT a.decision_id, a.policy_id,
         greatest(a.at + make_interval(secs => p.wait_s),
                  a.received_at + make_interval(secs => {GRACE_S}))
  FROM added a JOIN policies p ON p.id = a.policy_id
  ORDER BY a.decision_id
  ON CONFLICT DO NOTHING
) SELECT count(*) FROM added
"""  # noqa: S608 — a constant of ours

_NEW_OUTCOMES = """
WITH added AS (
  INSERT INTO outcomes SELECT * FROM stage_outcomes ON CONFLICT DO NOTHING RETURNING decision_id
), queued AS (
  INSERT INTO pending_joins (decision_id, policy_id, due_at)
  SELECT d.decision_id, d.policy_id, greatest(d.at + make_interval(secs => p.wait_s), now())
  FROM added a JOIN decisions d ON d.decision_id = a.decision_id
  JOIN policies p ON p.id = d.policy_id
  ORDER BY d.decision_id
  ON CONFLICT DO NOTHING
) SELECT count(*) FROM added
"""

_REQUEUE = """
INSERT INTO pending_joins (decision_id, policy_id, due_at)
SELECT d.decision_id, d.policy_id, greatest(d.at + make_interval(secs => p.wait_s), now())
FROM decisions d JOIN policies p ON p.id = d.policy_id
WHERE d.project_id = :project AND (
  d.decision_id = ANY(CAST(:decisions AS uuid[]))
  OR (d.episode_id IS NOT NULL AND d.episode_id = ANY(CAST(:episodes AS text[]))))
ORDER BY d.decision_id
ON CONFLICT DO NOTHING
"""


@dataclass(frozen=True, slots=True)
class StoredFeedback:
    """One thing said of a decision or an episode."""

    feedback_id: UUID
    project_id: UUID
    decision_id: UUID | None
    episode_id: str | None
    metric: str
    value: Any
    number: float | None
    source: str
    occurred_at: datetime
    tags: dict[str, Any]
    received_at: datetime


def add_decisions(connection: sa.Connection, rows: Sequence[tuple[Any, ...]]) -> int:
    """Store decisions (tuples in the order of DECISION_COLUMNS); returns how many were new."""
    return _copy(connection, "decisions", DECISION_COLUMNS, rows, _NEW_DECISIONS)


def add_outcomes(connection: sa.Connection, rows: Sequence[tuple[Any, ...]]) -> int:
    """Store outcomes (tuples in the order of OUTCOME_COLUMNS); returns how many were new."""
    return _copy(connection, "outcomes", OUTCOME_COLUMNS, rows, _NEW_OUTCOMES)


def _copy(
    connection: sa.Connection,
    table: str,
    columns: Sequence[str],
    rows: Iterable[tuple[Any, ...]],
    store: str,
) -> int:
    connection.execute(
        sa.text(
            f"CREATE TEMP TABLE IF NOT EXISTS stage_{table} (LIKE {table}) ON COMMIT DELETE ROWS"
        )
    )
    driver = connection.connection.driver_connection
    if driver is None:
        raise RuntimeError("the connection is closed")
    names = ", ".join(f'"{column}"' for column in columns)
    with driver.cursor().copy(f"COPY stage_{table} ({names}) FROM STDIN") as copy:
        for row in rows:
            copy.write_row([Jsonb(v) if isinstance(v, dict) else v for v in row])
    added: int = connection.execute(sa.text(store)).scalar_one()
    connection.execute(sa.text(f"TRUNCATE stage_{table}"))
    return added


def add_feedback(connection: sa.Connection, rows: Sequence[StoredFeedback]) -> None:
    """Store feedback, and have the decisions that it speaks of joined (again)."""
    if not rows:
        return
    connection.execute(
        sa.insert(feedback),
        [{name: getattr(row, name) for name in StoredFeedback.__slots__} for row in rows],
    )
    requeue(
        connection,
        rows[0].project_id,
        [row.decision_id for row in rows if row.decision_id],
        [row.episode_id for row in rows if row.episode_id],
    )


def requeue(
    connection: sa.Connection,
    project_id: UUID,
    decision_ids: Sequence[UUID],
    episode_ids: Sequence[str],
) -> None:
    """Have these decisions joined, once their wait is over."""
    connection.execute(
        sa.text(_REQUEUE),
        {
            "project": project_id,
            "decisions": [str(i) for i in decision_ids],
            "episodes": list(episode_ids),
        },
    )


def current_feedback(
    connection: sa.Connection, project_id: UUID, row: StoredFeedback
) -> tuple[UUID, Any] | None:
    """The standing value of the same (decision or episode, metric, source), if any."""
    query = (
        sa.select(feedback.c.feedback_id, feedback.c.value)
        .where(
            feedback.c.project_id == project_id,
            feedback.c.metric == row.metric,
            feedback.c.source == row.source,
            feedback.c.retracted_at.is_(None),
            feedback.c.decision_id == row.decision_id
            if row.decision_id
            else feedback.c.episode_id == row.episode_id,
        )
        .order_by(feedback.c.feedback_id.desc())
        .limit(1)
    )
    found = connection.execute(query).one_or_none()
    return (found.feedback_id, found.value) if found else None


def retract_feedback(
    connection: sa.Connection, project_id: UUID, feedback_id: UUID, now: datetime
) -> bool:
    """Retract feedback and have its decisions joined again; False where there is none."""
    row = connection.execute(
        sa.update(feedback)
        .where(feedback.c.project_id == project_id, feedback.c.feedback_id == feedback_id)
        .values(retracted_at=sa.func.coalesce(feedback.c.retracted_at, now))
        .returning(feedback.c.decision_id, feedback.c.episode_id)
    ).one_or_none()
    if row is None:
        return False
    decisions = [row.decision_id] if row.decision_id else []
    requeue(connection, project_id, decisions, [row.episode_id] if row.episode_id else [])
    return True


def known_decisions(
    connection: sa.Connection, project_id: UUID, decision_ids: Sequence[UUID]
) -> dict[UUID, bool]:
    """Of these decisions, those that have arrived: whether each has been joined already."""
    rows = connection.execute(
        sa.text(
            "SELECT d.decision_id, i.decision_id IS NOT NULL AS joined FROM decisions d "
            "LEFT JOIN interactions i ON i.decision_id = d.decision_id "
            "WHERE d.project_id = :project AND d.decision_id = ANY(CAST(:ids AS uuid[]))"
        ),
        {"project": project_id, "ids": [str(i) for i in decision_ids]},
    )
    return {row.decision_id: row.joined for row in rows}


def decision_of_response(
    connection: sa.Connection, project_id: UUID, response_id: str
) -> UUID | None:
    """The decision whose outcome carried the provider's response id."""
    found: UUID | None = connection.scalars(
        sa.text(
            "SELECT decision_id FROM outcomes WHERE project_id = :project "
            "AND response_id = :response ORDER BY decision_id DESC LIMIT 1"
        ),
        {"project": project_id, "response": response_id},
    ).one_or_none()
    return found


def claim_key(
    connection: sa.Connection, project_id: UUID, key: str, body_hash: bytes, now: datetime
) -> tuple[bytes, Any] | None:
    """Claim an idempotency key for this transaction.

    Returns:
        None when the key is new; else the hash of the body it was used with, and its response.
        A request in flight with the same key is waited for.
    """
    claimed = connection.execute(
        insert(idempotency_keys)
        .values(project_id=project_id, key=key, body_hash=body_hash, response=None, created_at=now)
        .on_conflict_do_nothing()
        .returning(idempotency_keys.c.key)
    ).one_or_none()
    if claimed is not None:
        return None
    row = connection.execute(
        sa.select(idempotency_keys.c.body_hash, idempotency_keys.c.response).where(
            idempotency_keys.c.project_id == project_id, idempotency_keys.c.key == key
        )
    ).one()
    return bytes(row.body_hash), row.response


def settle_key(connection: sa.Connection, project_id: UUID, key: str, response: Any) -> None:
    """Keep the response for whoever repeats the request."""
    connection.execute(
        sa.update(idempotency_keys)
        .where(idempotency_keys.c.project_id == project_id, idempotency_keys.c.key == key)
        .values(response=response)
    )


def forget_keys(connection: sa.Connection, before: datetime) -> int:
    """Delete idempotency keys that nobody can still be repeating."""
    gone = connection.execute(
        sa.delete(idempotency_keys).where(idempotency_keys.c.created_at < before)
    )
    return gone.rowcount
