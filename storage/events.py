"""Decisions, outcomes and feedback: staged by COPY, stored once, in any order.

Whatever arrives for a decision puts it (back) on ``pending_joins``, or locks its row there until
the commit; a join leaves locked rows alone. So an arrival either commits before the join reads,
or waits for that join and then puts the decision back: none is lost between the two. What speaks
of a decision that is not there yet queues it without a policy, which the decision then fills in.
An episode has no such row: its feedback and its decisions take turns by a lock of their own.
"""

import zlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from storage.copying import stage
from storage.tables import feedback, idempotency_keys, pending_joins

GRACE_S = 2.0
"""A decision waits at least this long after its arrival, for events that were spooled with it."""

DECISION_COLUMNS = (
    "decision_id", "project_id", "policy_id", "version", "serial", "digest", "at", "context",
    "eligible", "distribution", "action", "propensity", "mode", "retry_of", "session_id",
    "episode_id", "edge_id", "received_at",
)  # fmt: skip
OUTCOME_COLUMNS = ("decision_id", "project_id", "at", "values", "response_id", "received_at")

_EPISODE_SPACE = 0x65706973  # "epis": keeps these locks apart from anyone else's
_EPISODE_LOCKS = 64

_NEW_DECISIONS = f"""
WITH added AS (
  INSERT INTO decisions SELECT * FROM stage_decisions ORDER BY decision_id ON CONFLICT DO NOTHING
  RETURNING decision_id, project_id, policy_id, at, received_at
), queued AS (
  INSERT INTO pending_joins (decision_id, project_id, policy_id, due_at)
  SELECT a.decision_id, a.project_id, a.policy_id,
         greatest(a.at + make_interval(secs => p.wait_s),
                  a.received_at + make_interval(secs => {GRACE_S}))
  FROM added a JOIN policies p ON p.id = a.policy_id
  ORDER BY a.decision_id
  ON CONFLICT (decision_id, project_id)
  DO UPDATE SET policy_id = excluded.policy_id, due_at = excluded.due_at
) SELECT count(*) FROM added
"""  # noqa: S608 -- a constant of ours

_NEW_OUTCOMES = """
INSERT INTO outcomes SELECT * FROM stage_outcomes ORDER BY decision_id ON CONFLICT DO NOTHING
RETURNING decision_id
"""

# Where the row stands, it is only locked. LATERAL … OFFSET 0 has each decision looked up by its
# key: fresh tables without statistics would be read whole instead.
_QUEUE = """
INSERT INTO pending_joins (decision_id, project_id, policy_id, due_at)
SELECT u.id, :project, d.policy_id, greatest(d.at + make_interval(secs => p.wait_s), :now)
FROM unnest(CAST(:ids AS uuid[])) AS u(id)
LEFT JOIN LATERAL (
  SELECT policy_id, at FROM decisions WHERE decision_id = u.id AND project_id = :project OFFSET 0
) d ON true
LEFT JOIN policies p ON p.id = d.policy_id
ORDER BY u.id
ON CONFLICT (decision_id, project_id) DO UPDATE SET due_at = excluded.due_at WHERE false
RETURNING policy_id
"""

_FILL_IN = """
UPDATE pending_joins j SET policy_id = d.policy_id,
  due_at = greatest(d.at + make_interval(secs => p.wait_s), :now)
FROM decisions d JOIN policies p ON p.id = d.policy_id
WHERE j.decision_id = ANY(CAST(:ids AS uuid[])) AND j.project_id = :project
  AND j.policy_id IS NULL
  AND d.decision_id = j.decision_id AND d.project_id = j.project_id
"""

_LOCK = "SELECT pg_advisory_xact_lock(:space, u) FROM unnest(CAST(:locks AS int[])) AS u"
_LOCK_SHARED = _LOCK.replace("lock(", "lock_shared(", 1)

_EPISODE = """
SELECT decision_id FROM decisions WHERE project_id = :project AND episode_id = :episode
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


def add_decisions(
    connection: sa.Connection, project_id: UUID, rows: Sequence[tuple[Any, ...]]
) -> int:
    """Store decisions (tuples in the order of DECISION_COLUMNS); returns how many were new."""
    episode = DECISION_COLUMNS.index("episode_id")
    stage(connection, "decisions", DECISION_COLUMNS, rows)
    episodes = {row[episode] for row in rows if row[episode] is not None}
    _lock_episodes(connection, project_id, episodes, exclusive=False)
    added: int = connection.execute(sa.text(_NEW_DECISIONS)).scalar_one()
    return added


def add_outcomes(
    connection: sa.Connection, project_id: UUID, rows: Sequence[tuple[Any, ...]], now: datetime
) -> int:
    """Store outcomes (tuples in the order of OUTCOME_COLUMNS); returns how many were new."""
    stage(connection, "outcomes", OUTCOME_COLUMNS, rows)
    added = list(connection.scalars(sa.text(_NEW_OUTCOMES)))
    queue(connection, project_id, added, now)
    return len(added)


def add_feedback(connection: sa.Connection, row: StoredFeedback) -> None:
    """Store feedback, and have the decisions that it speaks of joined (again)."""
    connection.execute(
        sa.insert(feedback), {name: getattr(row, name) for name in StoredFeedback.__slots__}
    )
    _queue_target(connection, row.project_id, row.decision_id, row.episode_id, row.received_at)


def _queue_target(
    connection: sa.Connection,
    project_id: UUID,
    decision_id: UUID | None,
    episode_id: str | None,
    now: datetime,
) -> None:
    if decision_id is not None:
        queue(connection, project_id, [decision_id], now)
    if episode_id is not None:
        _lock_episodes(connection, project_id, {episode_id}, exclusive=True)
        spoken_of = connection.scalars(
            sa.text(_EPISODE), {"project": project_id, "episode": episode_id}
        )
        queue(connection, project_id, list(spoken_of), now)


def queue(
    connection: sa.Connection, project_id: UUID, decision_ids: Sequence[UUID], now: datetime
) -> None:
    """Have these decisions joined once their wait is over, whether they have arrived or not."""
    if not decision_ids:
        return
    given = {"project": project_id, "ids": [str(i) for i in decision_ids], "now": now}
    queued = connection.scalars(sa.text(_QUEUE), given).all()
    if None in queued:  # it may have arrived, and been joined, while the row was waited for
        connection.execute(sa.text(_FILL_IN), given)


def _lock_episodes(
    connection: sa.Connection, project_id: UUID, episodes: Collection[str], *, exclusive: bool
) -> None:
    """Until the commit; few locks for many episodes, since a server has room for few."""
    if not episodes:
        return
    seed = zlib.crc32(project_id.bytes)
    locks = sorted({zlib.crc32(e.encode(), seed) % _EPISODE_LOCKS for e in episodes})
    connection.execute(
        sa.text(_LOCK if exclusive else _LOCK_SHARED), {"space": _EPISODE_SPACE, "locks": locks}
    )


def forget_strays(connection: sa.Connection, before: datetime) -> int:
    """Stop waiting for decisions that were spoken of before then and never came."""
    gone = connection.execute(
        sa.delete(pending_joins).where(
            pending_joins.c.policy_id.is_(None), pending_joins.c.due_at < before
        )
    )
    return gone.rowcount


def standing_feedback(connection: sa.Connection, row: StoredFeedback) -> tuple[UUID, Any] | None:
    """What the same source last said of the same decision or episode, unless it took it back."""
    query = (
        sa.select(feedback.c.feedback_id, feedback.c.value)
        .where(*_same_speech(row), feedback.c.retracted_at.is_(None))
        .order_by(feedback.c.occurred_at.desc(), feedback.c.feedback_id.desc())
        .limit(1)
    )
    found = connection.execute(query).one_or_none()
    return (found.feedback_id, found.value) if found else None


def same_feedback(connection: sa.Connection, row: StoredFeedback) -> UUID | None:
    """This very feedback, if it came before: also if it has been taken back since."""
    query = (
        sa.select(feedback.c.feedback_id)
        .where(
            *_same_speech(row),
            feedback.c.occurred_at == row.occurred_at,
            feedback.c.value == sa.literal(row.value, feedback.c.value.type),
        )
        .order_by(feedback.c.feedback_id)
        .limit(1)
    )
    found: UUID | None = connection.scalars(query).one_or_none()
    return found


def _same_speech(row: StoredFeedback) -> list[sa.ColumnElement[bool]]:
    about = (
        feedback.c.decision_id == row.decision_id
        if row.decision_id
        else feedback.c.episode_id == row.episode_id
    )
    return [
        feedback.c.project_id == row.project_id,
        feedback.c.metric == row.metric,
        feedback.c.source == row.source,
        about,
    ]


def retract_feedback(
    connection: sa.Connection, project_id: UUID, feedback_id: UUID, now: datetime
) -> bool:
    """Retract feedback with what it amended, and have its decisions joined again.

    Returns:
        False where there is no such feedback.
    """
    found = (
        connection.execute(
            sa.select(*(feedback.c[name] for name in StoredFeedback.__slots__)).where(
                feedback.c.project_id == project_id, feedback.c.feedback_id == feedback_id
            )
        )
        .mappings()
        .one_or_none()
    )
    if found is None:
        return False
    row = StoredFeedback(**found)
    connection.execute(
        sa.update(feedback)
        .where(
            *_same_speech(row),
            sa.tuple_(feedback.c.occurred_at, feedback.c.feedback_id)
            <= sa.tuple_(row.occurred_at, row.feedback_id),
            feedback.c.retracted_at.is_(None),
        )
        .values(retracted_at=now)
    )
    _queue_target(connection, project_id, row.decision_id, row.episode_id, now)
    return True


def known_decisions(
    connection: sa.Connection, project_id: UUID, decision_ids: Sequence[UUID]
) -> dict[UUID, bool]:
    """Of these decisions, those that have arrived: whether each has been joined already."""
    rows = connection.execute(
        sa.text(
            "SELECT d.decision_id, i.decision_id IS NOT NULL AS joined FROM decisions d "
            "LEFT JOIN interactions i "
            "ON i.decision_id = d.decision_id AND i.policy_id = d.policy_id "
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
    claimed = insert(idempotency_keys).values(
        project_id=project_id, key=key, body_hash=body_hash, response=None, created_at=now
    )
    row = connection.execute(
        claimed.on_conflict_do_update(
            index_elements=["project_id", "key"],
            set_={"created_at": idempotency_keys.c.created_at},
        ).returning(
            idempotency_keys.c.body_hash,
            idempotency_keys.c.response,
            sa.literal_column("xmax = 0").label("inserted"),
        )
    ).one()
    return None if row.inserted else (bytes(row.body_hash), row.response)


def release_key(connection: sa.Connection, project_id: UUID, key: str) -> None:
    """Give back a key that this transaction has claimed, since nothing came of it."""
    connection.execute(
        sa.delete(idempotency_keys).where(
            idempotency_keys.c.project_id == project_id, idempotency_keys.c.key == key
        )
    )


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
