"""Revisions among the versions: whom each goes back to, and what need not be kept of them."""

from uuid import UUID

import sqlalchemy as sa

_LINE = """
WITH RECURSIVE line (number, before) AS (
  SELECT number, CAST(config #>> '{revision,of}' AS bigint) FROM versions
  WHERE policy_id = :policy AND number = :number
  UNION ALL
  SELECT v.number, CAST(v.config #>> '{revision,of}' AS bigint)
  FROM line JOIN versions v ON v.policy_id = :policy AND v.number = line.before
) SELECT number FROM line
"""

_FORGET = """
UPDATE versions SET snapshot = NULL WHERE policy_id = :policy AND number IN (
  SELECT number FROM versions
  WHERE policy_id = :policy AND config ? 'revision' AND state = 'retired' AND snapshot IS NOT NULL
  ORDER BY number DESC OFFSET :keep
)
"""

_TRIED = """
SELECT d.action, count(*) AS n FROM (
  SELECT decision_id, policy_id FROM interactions
  WHERE policy_id = :policy AND position > :after AND position <= :upto AND reward IS NOT NULL
) i CROSS JOIN LATERAL (
  SELECT action FROM decisions
  WHERE decision_id = i.decision_id AND policy_id = i.policy_id AND mode <> 'shadow'
    AND propensity <= 1 OFFSET 0
) d GROUP BY d.action
"""


def line_of(connection: sa.Connection, policy_id: UUID, number: int) -> list[int]:
    """A version, and those that it is a revision of, back to the one that a round trained."""
    given = {"policy": policy_id, "number": number}
    return list(connection.scalars(sa.text(_LINE), given))


def forget_snapshots(connection: sa.Connection, policy_id: UUID, *, keep: int) -> None:
    """Drop what only further learning would need of all but the newest retired revisions."""
    connection.execute(sa.text(_FORGET), {"policy": policy_id, "keep": keep})


def tried(connection: sa.Connection, policy_id: UUID, *, after: int, upto: int) -> dict[str, int]:
    """How many rewarded interactions of a stretch of the log each arm served."""
    given = {"policy": policy_id, "after": after, "upto": upto}
    return {row.action: row.n for row in connection.execute(sa.text(_TRIED), given)}
