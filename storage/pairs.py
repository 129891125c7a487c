"""Requests that two arms have answered: the one that served, and one that a shadow chose."""

from datetime import datetime
from uuid import UUID

import sqlalchemy as sa

from learners.pairs import Observed, Pair

_PAIRS = sa.text("""
SELECT w.decision_id AS shadow_id, s.decision_id AS served_id, w.at, s.context, s.eligible,
       s.action AS served_action, s.propensity AS served_propensity, i.reward AS served_reward,
       w.action AS shadow_action, w.propensity AS shadow_propensity, j.reward AS shadow_reward,
       s.version AS served_version, w.version AS shadow_version
FROM (
  SELECT decision_id, reward FROM interactions
  WHERE policy_id = :policy AND position = 0 AND reward IS NOT NULL
    AND reward_version = :reward_version AND decision_id >= CAST(:first AS uuid)
  ORDER BY decision_id DESC LIMIT :limit
) j CROSS JOIN LATERAL (
  SELECT decision_id, at, action, propensity, version, retry_of FROM decisions
  WHERE decision_id = j.decision_id AND policy_id = :policy OFFSET 0
) w CROSS JOIN LATERAL (
  SELECT decision_id, context, eligible, action, propensity, version FROM decisions
  WHERE decision_id = w.retry_of AND policy_id = :policy OFFSET 0
) s CROSS JOIN LATERAL (
  SELECT reward FROM interactions
  WHERE decision_id = s.decision_id AND policy_id = :policy AND position > 0
    AND reward IS NOT NULL AND reward_version = :reward_version OFFSET 0
) i ORDER BY w.decision_id
""")
_FIRST = 80
"""Bits of a UUIDv7 below its time in milliseconds."""


def read_pairs(
    connection: sa.Connection,
    policy_id: UUID,
    *,
    reward_version: int,
    since: datetime,
    limit: int,
) -> list[Pair]:
    """The newest pairs whose two rewards are known, in order; at most ``limit``.

    Both rewards are of one version of the reward. ``since`` is of the shadow's decision.
    """
    given = {
        "policy": policy_id,
        "reward_version": reward_version,
        "first": str(UUID(int=max(0, int(since.timestamp() * 1000)) << _FIRST)),
        "limit": limit,
    }
    return [
        Pair(
            at=row.at,
            context=row.context,
            eligible=tuple(row.eligible),
            served=Observed(
                str(row.served_id),
                row.served_version,
                row.served_action,
                row.served_propensity,
                row.served_reward,
            ),
            shadow=Observed(
                str(row.shadow_id),
                row.shadow_version,
                row.shadow_action,
                row.shadow_propensity,
                row.shadow_reward,
            ),
        )
        for row in connection.execute(_PAIRS, given)
    ]
