"""What the policy linter counts: a policy's newest decisions whose wait is over."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from storage.policies import StoredPolicy

_NEWEST = """
WITH newest AS MATERIALIZED (
  SELECT decision_id, project_id, episode_id, context, eligible FROM decisions
  WHERE policy_id = :policy AND mode NOT IN ('imported', 'shadow') AND at <= :before
  ORDER BY decision_id DESC LIMIT :limit
), said AS MATERIALIZED (
  SELECT n.decision_id, f.metric, f.source FROM newest n CROSS JOIN LATERAL (
    SELECT metric, source FROM feedback
    WHERE decision_id = n.decision_id AND project_id = n.project_id AND retracted_at IS NULL
    UNION
    SELECT metric, source FROM feedback
    WHERE n.episode_id IS NOT NULL AND episode_id = n.episode_id AND project_id = n.project_id
      AND retracted_at IS NULL
  ) f
)
"""

_ROWS = "SELECT context, eligible FROM newest"

_COUNTS = """
SELECT 'value' AS what, metric AS name, count(DISTINCT decision_id) AS n FROM said GROUP BY metric
UNION ALL
SELECT 'source', source, count(DISTINCT decision_id) FROM said GROUP BY source
UNION ALL
SELECT 'value', v.name, count(*) FROM newest n
JOIN outcomes o ON o.decision_id = n.decision_id AND o.project_id = n.project_id
CROSS JOIN LATERAL jsonb_object_keys(o."values") AS v(name) GROUP BY v.name
"""


@dataclass(frozen=True, slots=True)
class Newest:
    """Contexts and eligible arms of each decision; how many have a value, and whose."""

    contexts: list[dict[str, Any]]
    eligible: list[list[str]]
    values: dict[str, int]
    sources: dict[str, int]


def newest(connection: sa.Connection, policy: StoredPolicy, now: datetime, *, limit: int) -> Newest:
    """What is known of the newest decisions, shadows' and imported ones left out."""
    given = {
        "policy": policy.id,
        "before": now - timedelta(seconds=policy.wait_s),
        "limit": limit,
    }
    rows = connection.execute(sa.text(_NEWEST + _ROWS), given).all()
    counts = connection.execute(sa.text(_NEWEST + _COUNTS), given).all()
    return Newest(
        [row.context for row in rows],
        [row.eligible for row in rows],
        {row.name: row.n for row in counts if row.what == "value"},
        {row.name: row.n for row in counts if row.what == "source"},
    )
