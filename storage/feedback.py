"""Feedback: what was said before, what is new, and what is taken back.

What speaks of decisions has them joined (again): see ``storage.events`` for the locks.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
import sqlalchemy as sa

from storage import events
from storage.tables import feedback


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


@dataclass(frozen=True, slots=True)
class Earlier:
    """What one source said before of the same metric of the same decision or episode."""

    feedback_id: UUID
    value: Any
    occurred_at: datetime


_NAMES = ", ".join(StoredFeedback.__slots__)

# For each of the asked: what stands (where no time is given), or the very same (where one is).
# The limits have each looked up by its key, whatever statistics there are.
_EARLIER = """
SELECT u.n, f.feedback_id, f.value, f.occurred_at
FROM json_to_recordset(CAST(:asked AS json))
  AS u(n int, decision_id uuid, episode_id text, metric text, at timestamptz, value jsonb)
CROSS JOIN LATERAL (
  (SELECT feedback_id, value, occurred_at FROM feedback
   WHERE {about} = u.{about} AND project_id = :project AND metric = u.metric
     AND source = :source AND u.at IS NULL AND retracted_at IS NULL
   ORDER BY occurred_at DESC, feedback_id DESC LIMIT 1)
  UNION ALL
  (SELECT feedback_id, value, occurred_at FROM feedback
   WHERE {about} = u.{about} AND project_id = :project AND metric = u.metric
     AND source = :source AND occurred_at = u.at AND value = u.value
   ORDER BY feedback_id LIMIT 1)
) f
"""
_EARLIER_OF = {
    about: sa.text(_EARLIER.format(about=about)) for about in ("decision_id", "episode_id")
}

_ADD = sa.text(f"""
WITH added AS (
  INSERT INTO feedback ({_NAMES}) SELECT {_NAMES}
  FROM json_populate_recordset(CAST(NULL AS feedback), CAST(:rows AS json))
) {events.QUEUE}
""")  # noqa: S608 -- names of ours


def earlier_feedback(
    connection: sa.Connection, rows: Sequence[StoredFeedback], timed: Collection[UUID]
) -> dict[UUID, Earlier]:
    """What stands in the way of new rows of one project and source, by the new rows' ids.

    Of a ``timed`` row: this very feedback, if it came before, also if it has been taken back
    since. Of another: what its source last said of the same, unless it took that back.
    """
    found: dict[UUID, Earlier] = {}
    for about, query in _EARLIER_OF.items():
        asked = [
            _asked(n, row, timed=row.feedback_id in timed)
            for n, row in enumerate(rows)
            if getattr(row, about) is not None
        ]
        if not asked:
            continue
        given = {
            "project": rows[0].project_id,
            "source": rows[0].source,
            "asked": msgspec.json.encode(asked).decode(),
        }
        for n, *columns in connection.execute(query, given):
            found[rows[n].feedback_id] = Earlier(*columns)
    return found


def _asked(n: int, row: StoredFeedback, *, timed: bool) -> dict[str, Any]:
    asked = {
        "n": n,
        "decision_id": row.decision_id,
        "episode_id": row.episode_id,
        "metric": row.metric,
    }
    return asked | {"at": row.occurred_at, "value": row.value} if timed else asked


def add_feedback(connection: sa.Connection, rows: Sequence[StoredFeedback]) -> dict[UUID, bool]:
    """Store feedback of one project, and have the decisions that it speaks of joined (again).

    Returns:
        Of those decisions, the ones that have arrived: whether each has been joined already.
    """
    project_id, now = rows[0].project_id, rows[0].received_at
    ids = {row.decision_id for row in rows if row.decision_id is not None}
    episodes = {row.episode_id for row in rows if row.episode_id is not None}
    ids |= set(events.episode_decisions(connection, project_id, episodes))
    given = events.queueing(project_id, ids, now)
    connection.execute(_ADD, {**given, "rows": msgspec.json.encode(rows).decode()})
    return events.known_decisions(connection, project_id, ids, now) if ids else {}


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
    about = "decision_id" if row.decision_id else "episode_id"
    connection.execute(
        sa.update(feedback)
        .where(
            feedback.c.project_id == project_id,
            feedback.c.metric == row.metric,
            feedback.c.source == row.source,
            feedback.c[about] == getattr(row, about),
            sa.tuple_(feedback.c.occurred_at, feedback.c.feedback_id)
            <= sa.tuple_(row.occurred_at, row.feedback_id),
            feedback.c.retracted_at.is_(None),
        )
        .values(retracted_at=now)
    )
    ids = [row.decision_id] if row.decision_id is not None else []
    if row.episode_id is not None:
        ids += events.episode_decisions(connection, project_id, [row.episode_id])
    events.queue(connection, project_id, ids, now)
    return True
