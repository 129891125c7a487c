"""What was imported into a policy's log: rows that may lack a propensity, for the direct method."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import sqlalchemy as sa

from learners.records import Context

_ROWS = sa.text("""
SELECT d.context, d.eligible, d.action, d.propensity, i.reward
FROM interactions i CROSS JOIN LATERAL (
  SELECT context, eligible, action, propensity, mode FROM decisions
  WHERE decision_id = i.decision_id AND policy_id = i.policy_id OFFSET 0
) d
WHERE i.policy_id = :policy AND i.reward IS NOT NULL AND d.mode = 'imported'
  AND i.reward_version = :reward_version AND i.position > :after
ORDER BY i.position DESC LIMIT :limit
""")


@dataclass(frozen=True, slots=True)
class ImportedRow:
    """A rewarded row; ``propensity`` is None where its log had none."""

    context: Context
    eligible: tuple[str, ...]
    action: str
    propensity: float | None
    reward: float


def read(
    connection: sa.Connection,
    policy_id: UUID,
    *,
    reward_version: int,
    limit: int,
    after: int = 0,
) -> Sequence[ImportedRow]:
    """The newest imported rows that a reward has judged, in the log's order, beyond a position."""
    given = {
        "policy": policy_id,
        "reward_version": reward_version,
        "limit": limit,
        "after": after,
    }
    rows = [
        ImportedRow(
            row.context,
            tuple(row.eligible),
            row.action,
            row.propensity if row.propensity <= 1 else None,
            row.reward,
        )
        for row in connection.execute(_ROWS, given)
    ]
    return rows[::-1]
