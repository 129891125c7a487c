"""Decisions, outcomes and feedback: staged by COPY, stored once, in any order.

Whatever arrives for a decision puts it (back) on ``pending_joins``, or locks its row there until
the commit; a join leaves locked rows alone. So an arrival either commits before the join reads,
or waits for that join and then puts the decision back: none is lost between the two. What speaks
of a decision that is not there yet queues it without a policy, which the decision then fills in.
An episode has no such row: its feedback and its decisions take turns by a lock of their own.
"""

import zlib
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
import sqlalchemy as sa

from storage.copying import stage
from storage.tables import idempotency_keys

GRACE_S = 2.0
"""A decision waits at least this long after its arrival, for events that were spooled with it."""

DECISION_COLUMNS = (
    "decision_id", "project_id", "policy_id", "version", "serial", "digest", "at", "context",
    "eligible", "distribution", "action", "propensity", "mode", "retry_of", "session_id",
    "episode_id", "edge_id", "received_at", "split", "variant", "unit", "shadows",
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
QUEUE = """
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
_QUEUE = sa.text(QUEUE)

# Fills in the policy of a decision that arrived, and was perhaps joined, while its row was waited
# for: so in a statement of its own, which sees what was committed meanwhile.
_KNOWN = sa.text("""
WITH known AS MATERIALIZED (
  SELECT d.decision_id, d.policy_id, d.at, i.decision_id IS NOT NULL AS joined
  FROM unnest(CAST(:ids AS uuid[])) AS u(id)
  CROSS JOIN LATERAL (
    SELECT decision_id, policy_id, at FROM decisions
    WHERE decision_id = u.id AND project_id = :project OFFSET 0
  ) d
  LEFT JOIN LATERAL (
    SELECT decision_id FROM interactions
    WHERE decision_id = d.decision_id AND policy_id = d.policy_id OFFSET 0
  ) i ON true
), filled AS (
  UPDATE pending_joins j SET policy_id = k.policy_id,
    due_at = greatest(k.at + make_interval(secs => p.wait_s), :now)
  FROM known k JOIN policies p ON p.id = k.policy_id
  WHERE j.decision_id = ANY(CAST(:ids AS uuid[])) AND j.project_id = :project
    AND j.policy_id IS NULL AND k.decision_id = j.decision_id
) SELECT decision_id, joined FROM known
""")

_LOCK = "SELECT pg_advisory_xact_lock(:space, u) FROM unnest(CAST(:locks AS int[])) AS u"
_LOCK_SHARED = _LOCK.replace("lock(", "lock_shared(", 1)

_EPISODES = sa.text(
    "SELECT decision_id FROM decisions "
    "WHERE project_id = :project AND episode_id = ANY(CAST(:episodes AS text[]))"
)

_RESPONSES = sa.text("""
SELECT u.id, o.decision_id FROM unnest(CAST(:ids AS text[])) AS u(id)
CROSS JOIN LATERAL (
  SELECT decision_id FROM outcomes WHERE project_id = :project AND response_id = u.id
  ORDER BY decision_id DESC LIMIT 1
) o
""")

_CLAIM = sa.text("""
INSERT INTO idempotency_keys (project_id, key, body_hash, response, created_at)
SELECT :project, u.key, '', NULL, :now FROM unnest(CAST(:keys AS text[])) AS u(key) ORDER BY u.key
ON CONFLICT (project_id, key) DO UPDATE SET created_at = idempotency_keys.created_at
RETURNING key, body_hash, response, xmax = 0 AS inserted
""")

_SETTLE = sa.text("""
UPDATE idempotency_keys k SET body_hash = u.body_hash, response = u.response
FROM unnest(CAST(:keys AS text[]), CAST(:hashes AS bytea[]),
            CAST(CAST(:responses AS text[]) AS jsonb[])) AS u(key, body_hash, response)
WHERE k.project_id = :project AND k.key = ANY(CAST(:keys AS text[])) AND k.key = u.key
""")

# What somebody holds is being spoken of again, or repeated: it is left for the next time.
_FORGET = """
DELETE FROM {table} WHERE ({key}, project_id) IN (
  SELECT {key}, project_id FROM {table} WHERE {old} FOR UPDATE SKIP LOCKED
)
"""
_FORGET_STRAYS = sa.text(
    _FORGET.format(
        table="pending_joins", key="decision_id", old="policy_id IS NULL AND due_at < :before"
    )
)
_FORGET_KEYS = sa.text(
    _FORGET.format(table="idempotency_keys", key="key", old="created_at < :before")
)


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


def episode_decisions(
    connection: sa.Connection, project_id: UUID, episodes: Collection[str]
) -> list[UUID]:
    """The decisions of these episodes; until the commit, no more can arrive."""
    if not episodes:
        return []
    _lock_episodes(connection, project_id, episodes, exclusive=True)
    given = {"project": project_id, "episodes": sorted(episodes)}
    return list(connection.scalars(_EPISODES, given))


def queue(
    connection: sa.Connection, project_id: UUID, decision_ids: Collection[UUID], now: datetime
) -> None:
    """Have these decisions joined once their wait is over, whether they have arrived or not."""
    if not decision_ids:
        return
    given = queueing(project_id, decision_ids, now)
    if None in connection.scalars(_QUEUE, given).all():
        known_decisions(connection, project_id, decision_ids, now)


def queueing(project_id: UUID, decision_ids: Collection[UUID], now: datetime) -> dict[str, Any]:
    """What QUEUE asks for; it takes each decision once."""
    return {"project": project_id, "ids": [str(i) for i in set(decision_ids)], "now": now}


def known_decisions(
    connection: sa.Connection, project_id: UUID, decision_ids: Collection[UUID], now: datetime
) -> dict[UUID, bool]:
    """Of queued decisions, those that have arrived: whether each has been joined already."""
    rows = connection.execute(_KNOWN, queueing(project_id, decision_ids, now))
    return {row.decision_id: row.joined for row in rows}


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
    return connection.execute(_FORGET_STRAYS, {"before": before}).rowcount


def decisions_of_responses(
    connection: sa.Connection, project_id: UUID, response_ids: Collection[str]
) -> dict[str, UUID]:
    """Of each of the provider's response ids: the newest decision whose outcome carried it."""
    given = {"project": project_id, "ids": sorted(response_ids)}
    return {row.id: row.decision_id for row in connection.execute(_RESPONSES, given)}


def claim_keys(
    connection: sa.Connection, project_id: UUID, keys: Collection[str], now: datetime
) -> dict[str, tuple[bytes, Any]]:
    """Claim idempotency keys for this transaction.

    Returns:
        Of the keys that are not new: the hash of the body each was used with, and its response.
        A request in flight with the same key is waited for; in an order that all keep to.
    """
    given = {"project": project_id, "keys": sorted(set(keys)), "now": now}
    return {
        row.key: (bytes(row.body_hash), row.response)
        for row in connection.execute(_CLAIM, given)
        if not row.inserted
    }


def release_keys(connection: sa.Connection, project_id: UUID, keys: Collection[str]) -> None:
    """Give back keys that this transaction has claimed, since nothing came of them."""
    connection.execute(
        sa.delete(idempotency_keys).where(
            idempotency_keys.c.project_id == project_id, idempotency_keys.c.key.in_(keys)
        )
    )


def settle_keys(
    connection: sa.Connection, project_id: UUID, settled: Mapping[str, tuple[bytes, Any]]
) -> None:
    """Keep each key's body hash and response for whoever repeats the request."""
    given = {
        "project": project_id,
        "keys": list(settled),
        "hashes": [body for body, _ in settled.values()],
        "responses": [msgspec.json.encode(said).decode() for _, said in settled.values()],
    }
    connection.execute(_SETTLE, given)


def forget_keys(connection: sa.Connection, before: datetime) -> int:
    """Delete idempotency keys that nobody can still be repeating."""
    return connection.execute(_FORGET_KEYS, {"before": before}).rowcount
