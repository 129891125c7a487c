"""What the monitors read: the log's next rows with their decisions and their first feedback."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from storage.policies import StoredPolicy

# Each decision and its feedback is looked up by its key; what an episode was told is told of each
# of its decisions.
_NEXT = """
SELECT i.position, d.at, d.version, d.serial, d.context, d.eligible, d.distribution, d.action,
       CASE WHEN i.reward_version = :reward_version THEN i.reward END AS reward, f.said_at
FROM (
  SELECT position, decision_id, policy_id, reward, reward_version FROM interactions
  WHERE policy_id = :policy AND position > :after AND position <= :upto
  ORDER BY position LIMIT :limit
) i CROSS JOIN LATERAL (
  SELECT at, project_id, version, serial, context, eligible, distribution, action, episode_id
  FROM decisions
  WHERE decision_id = i.decision_id AND policy_id = i.policy_id
    AND mode NOT IN ('imported', 'shadow') OFFSET 0
) d LEFT JOIN LATERAL (
  SELECT min(occurred_at) AS said_at FROM (
    SELECT occurred_at FROM feedback
    WHERE decision_id = i.decision_id AND project_id = d.project_id AND retracted_at IS NULL
    UNION ALL
    SELECT occurred_at FROM feedback
    WHERE d.episode_id IS NOT NULL AND episode_id = d.episode_id AND project_id = d.project_id
      AND retracted_at IS NULL
  ) said
) f ON true ORDER BY i.position
"""

_DUE = """
SELECT p.id FROM policies p LEFT JOIN watches w ON w.policy_id = p.id
WHERE p.log_position > coalesce(w.position, 0) AND coalesce(w.updated_at <= :before, true)
   OR EXISTS (
     SELECT 1 FROM jsonb_each(coalesce(w.overrides, '{}')) AS one(name, what)
     WHERE CAST(one.what ->> 'until' AS timestamptz) <= :now
   )
"""


@dataclass(frozen=True, slots=True)
class WatchedRow:
    """A joined decision; ``reward`` is by the reward in force, ``said_at`` its first feedback's."""

    position: int
    at: datetime
    version: int
    serial: int
    context: dict[str, Any]
    eligible: Sequence[str]
    distribution: Sequence[float]
    action: str
    reward: float | None
    said_at: datetime | None


def next_rows(
    connection: sa.Connection,
    policy: StoredPolicy,
    *,
    after: int,
    upto: int,
    limit: int,
    reward_version: int,
) -> list[WatchedRow]:
    """Joined decisions at positions in (after, upto], in order.

    Neither imported ones nor shadows' are among them, but they count towards the limit.
    """
    given = {
        "policy": policy.id,
        "after": after,
        "upto": upto,
        "limit": limit,
        "reward_version": reward_version,
    }
    return [WatchedRow(*row) for row in connection.execute(sa.text(_NEXT), given)]


def due_watches(connection: sa.Connection, now: datetime, before: datetime) -> list[UUID]:
    """Policies whose log has grown and was last looked at ``before``, or with an override over."""
    return list(connection.scalars(sa.text(_DUE), {"now": now, "before": before}))
