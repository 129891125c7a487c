"""What the monitors read: decisions as they arrive, and the log's next rows with their rewards."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from learners.ids import ENTROPY_BYTES, uuid7
from storage.policies import StoredPolicy

FIRST_ID, LAST_ID = UUID(int=0), UUID(int=2**128 - 1)

# Each decision is looked up by its key.
_JOINED = """
SELECT i.position, d.at, d.version, d.serial, d.context, d.eligible, d.distribution, d.action,
       CASE WHEN i.reward_version = :reward_version THEN i.reward END AS reward, NULL AS said_at
FROM (
  SELECT position, decision_id, policy_id, reward, reward_version FROM interactions
  WHERE policy_id = :policy AND position > :after AND position <= :upto
  ORDER BY position LIMIT :limit
) i CROSS JOIN LATERAL (
  SELECT at, version, serial, context, eligible, distribution, action FROM decisions
  WHERE decision_id = i.decision_id AND policy_id = i.policy_id
    AND mode NOT IN ('imported', 'shadow') OFFSET 0
) d ORDER BY i.position
"""

# The bound on the arrival alone is what its index knows. Only keys are sorted: contexts are wide.
_ARRIVED = """
SELECT n.received_at, d.decision_id, d.at, d.version, d.serial, d.context, d.eligible,
       d.distribution, d.action, NULL AS reward, {said_at} AS said_at
FROM (
  SELECT received_at, decision_id FROM decisions
  WHERE policy_id = :policy AND received_at >= :after AND received_at <= :upto
    AND (received_at, decision_id) > (:after, CAST(:after_id AS uuid))
    AND mode NOT IN ('imported', 'shadow')
  ORDER BY received_at, decision_id LIMIT :limit
) n CROSS JOIN LATERAL (
  SELECT decision_id, project_id, episode_id, at, version, serial, context, eligible,
         distribution, action
  FROM decisions WHERE decision_id = n.decision_id AND policy_id = :policy OFFSET 0
) d {feedback} ORDER BY n.received_at, n.decision_id
"""

# What an episode was told is told of each of its decisions.
_SAID = """LEFT JOIN LATERAL (
  SELECT min(occurred_at) AS said_at FROM (
    SELECT occurred_at FROM feedback
    WHERE decision_id = d.decision_id AND project_id = d.project_id AND retracted_at IS NULL
    UNION ALL
    SELECT occurred_at FROM feedback
    WHERE d.episode_id IS NOT NULL AND episode_id = d.episode_id AND project_id = d.project_id
      AND retracted_at IS NULL
  ) said WHERE occurred_at <= d.at + make_interval(secs => :within_s)
) f ON true"""

_NEWEST = """
SELECT received_at FROM decisions
WHERE policy_id = :policy AND decision_id <= CAST(:last AS uuid)
ORDER BY decision_id DESC OFFSET :skip LIMIT 1
"""

# The newest decision by its id stands for the newest arrival: what comes late is read with it.
_DUE = """
SELECT p.id FROM policies p LEFT JOIN watches w ON w.policy_id = p.id
LEFT JOIN LATERAL (
  SELECT received_at FROM decisions
  WHERE policy_id = p.id ORDER BY decision_id DESC LIMIT 1
) newest ON true
WHERE (p.log_position > coalesce(w.position, 0)
    OR newest.received_at > coalesce(
         least(CAST(w.state #>> '{seen,arrived,at}' AS timestamptz),
               CAST(w.state #>> '{seen,answered,at}' AS timestamptz)), '-infinity'))
   AND coalesce(w.updated_at <= :before, true)
   OR EXISTS (
     SELECT 1 FROM jsonb_each(coalesce(w.overrides, '{}')) AS one(name, what)
     WHERE CAST(one.what ->> 'until' AS timestamptz) <= :now
   )
"""


@dataclass(frozen=True, slots=True)
class Mark:
    """Up to where arrivals have been read: all up to a time, and at that very time up to an id."""

    at: datetime
    decision_id: UUID = LAST_ID


@dataclass(frozen=True, slots=True)
class WatchedRow:
    """A decision; ``reward`` is by the reward in force, ``said_at`` its first feedback's."""

    at: datetime
    version: int
    serial: int
    context: dict[str, Any]
    eligible: Sequence[str]
    distribution: Sequence[float]
    action: str
    reward: float | None = None
    said_at: datetime | None = None


def joined(
    connection: sa.Connection,
    policy: StoredPolicy,
    *,
    after: int,
    upto: int,
    limit: int,
    reward_version: int,
) -> list[WatchedRow]:
    """Joined decisions at positions in (after, upto], in order, with their rewards.

    Neither imported ones nor shadows' are among them, but they count towards the limit.
    """
    given = {
        "policy": policy.id,
        "after": after,
        "upto": upto,
        "limit": limit,
        "reward_version": reward_version,
    }
    return [WatchedRow(*row[1:]) for row in connection.execute(sa.text(_JOINED), given)]


def arrived(
    connection: sa.Connection,
    policy: StoredPolicy,
    *,
    after: Mark,
    upto: datetime,
    limit: int,
    within_s: float | None = None,
) -> tuple[list[WatchedRow], Mark]:
    """Decisions in the order of their arrival, neither imported ones nor shadows'.

    Args:
        connection: to the database.
        policy: whose.
        after: up to where they have been read.
        upto: the last arrival that is read.
        limit: of the rows.
        within_s: seconds after a decision within which its first feedback counts; None: no
            feedback is read.

    Returns:
        The rows, and up to where they have been read now.
    """
    asked = within_s is not None
    statement = _ARRIVED.format(
        said_at="f.said_at" if asked else "NULL", feedback=_SAID if asked else ""
    )
    given = {
        "policy": policy.id,
        "after": after.at,
        "after_id": after.decision_id,
        "upto": upto,
        "limit": limit,
        **({"within_s": within_s} if asked else {}),
    }
    found = connection.execute(sa.text(statement), given).all()
    rows = [WatchedRow(*row[2:]) for row in found]
    if len(found) < limit:
        return rows, Mark(upto) if upto > after.at else after
    return rows, Mark(found[-1].received_at, found[-1].decision_id)


def arrival_of(
    connection: sa.Connection, policy_id: UUID, *, upto: datetime, skip: int
) -> datetime | None:
    """When a decision arrived, counted back from a time; None where there are not so many."""
    last = uuid7(upto, bytes(ENTROPY_BYTES))
    found: datetime | None = connection.scalar(
        sa.text(_NEWEST), {"policy": policy_id, "last": last, "skip": skip}
    )
    return found


def due_watches(connection: sa.Connection, now: datetime, before: datetime) -> list[UUID]:
    """Policies of which there is more to read and that were last looked at ``before``.

    Those of which an override is over are due at once.
    """
    return list(connection.scalars(sa.text(_DUE), {"now": now, "before": before}))
