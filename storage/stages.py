"""What the log says of a release's stage: who decided, what came of it, what its shadow chose.

Outcomes are read as they stand, seconds after the decision; a reward once it has been joined.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from learners.ids import ENTROPY_BYTES, uuid7
from storage.policies import StoredPolicy

SKEW = timedelta(minutes=10)
"""How far an edge's clock, which is in its decisions' ids, may be behind."""

_NEWEST = """
WITH newest AS MATERIALIZED (
  SELECT decision_id, project_id, policy_id, version, variant, coalesce(unit, session_id) AS unit,
         at, action, propensity, mode,
         shadows -> CAST(:shadow AS text) AS shadow, context ->> CAST(:segment AS text) AS segment
  FROM decisions
  WHERE policy_id = :policy AND decision_id >= :first AND serial >= :serial
    AND mode NOT IN ('fallback', 'shadow') AND {which}
  ORDER BY decision_id DESC LIMIT :limit
) SELECT n.decision_id, n.version, n.variant, n.unit, n.at, n.action, n.propensity, n.shadow,
         n.segment, o."values" AS outcome, i.reward, i."values" AS joined, {said} AS said,
         n.mode = 'retry' AS again
FROM newest n
LEFT JOIN LATERAL (
  SELECT "values" FROM outcomes
  WHERE decision_id = n.decision_id AND project_id = n.project_id OFFSET 0
) o ON true
LEFT JOIN LATERAL (
  SELECT reward, "values" FROM interactions
  WHERE decision_id = n.decision_id AND policy_id = n.policy_id
    AND reward_version = :reward_version OFFSET 0
) i ON true
"""

_SAID = """(
  SELECT jsonb_object_agg(g.metric, g.number) FROM (
    SELECT metric, avg(number) AS number FROM feedback
    WHERE decision_id = n.decision_id AND project_id = n.project_id AND retracted_at IS NULL
      AND number IS NOT NULL AND metric = ANY(CAST(:metrics AS text[]))
    GROUP BY metric
  ) g
)"""

_OF_VARIANT = "split = :split AND variant = :variant"
_OF_SHARE = _OF_VARIANT + " AND unit < :cut"
_LITERAL = ("split", "variant", "cut")
"""Given as they are, so that a plan may use the canary's partial index whatever it is kept for."""
_OF_VERSION = "version = :version"


@dataclass(frozen=True, slots=True)
class Span:
    """Which decisions: of bundles from ``serial`` on, no older than ``since``, the newest."""

    serial: int
    since: datetime
    limit: int


@dataclass(frozen=True, slots=True)
class StageRow:
    """A decision and what is known of it by now.

    ``outcome`` is None until the edge has told; ``reward`` until it was joined under the reward in
    force. ``unit`` is the split's, else the session. ``shadow`` is what the asked shadow would have
    done, None where it said nothing.
    """

    decision_id: UUID
    version: int
    variant: str | None
    unit: str | None
    at: datetime
    action: str
    propensity: float
    shadow: dict[str, Any] | None
    segment: str | None
    outcome: dict[str, float] | None
    reward: float | None
    joined: dict[str, float] | None
    said: dict[str, float] | None
    again: bool


@dataclass(frozen=True, slots=True)
class Asked:
    """What is read of each decision beside its outcomes.

    Attributes:
        reward_version: of the reward in force.
        segment: field of the context.
        metrics: declared metrics that feedback gave.
        shadow: the version whose choices are read.
    """

    reward_version: int
    segment: str | None = None
    metrics: Sequence[str] = ()
    shadow: int | None = None


def of_split(
    connection: sa.Connection,
    policy: StoredPolicy,
    span: Span,
    asked: Asked,
    *,
    split: str,
    variant: str,
    share: float = 1.0,
) -> list[StageRow]:
    """Decisions of ``share`` of a variant's units, newest first."""
    given = {"split": split, "variant": variant}
    if share >= 1:
        return _read(connection, policy, span, asked, (_OF_VARIANT, given))
    cut = f"{int(share * 2**64):016x}"
    return _read(connection, policy, span, asked, (_OF_SHARE, {**given, "cut": cut}))


def of_version(
    connection: sa.Connection, policy: StoredPolicy, span: Span, asked: Asked, *, version: int
) -> list[StageRow]:
    """Decisions that a version made, newest first."""
    return _read(connection, policy, span, asked, (_OF_VERSION, {"version": version}))


def _read(
    connection: sa.Connection,
    policy: StoredPolicy,
    span: Span,
    asked: Asked,
    which: tuple[str, dict[str, Any]],
) -> list[StageRow]:
    condition, given = which
    said = _SAID if asked.metrics else "NULL"
    literal: list[sa.BindParameter[str]] = [
        sa.bindparam(name, type_=sa.String, literal_execute=True)
        for name in _LITERAL
        if name in given
    ]
    statement = sa.text(_NEWEST.format(which=condition, said=said)).bindparams(*literal)
    rows = connection.execute(
        statement,
        {
            **given,
            "policy": policy.id,
            "first": uuid7(span.since - SKEW, bytes(ENTROPY_BYTES)),
            "serial": span.serial,
            "limit": span.limit,
            "reward_version": asked.reward_version,
            "segment": asked.segment,
            "shadow": None if asked.shadow is None else str(asked.shadow),
            **({"metrics": list(asked.metrics)} if asked.metrics else {}),
        },
    )
    found = [StageRow(*row) for row in rows]
    found.sort(key=lambda row: row.decision_id, reverse=True)  # no join has to keep the order
    return found


def due_releases(connection: sa.Connection, now: datetime) -> list[UUID]:
    """Policies whose running release is to be looked at."""
    return list(
        connection.scalars(
            sa.text(
                "SELECT policy_id FROM releases WHERE ended_at IS NULL "
                "AND coalesce(CAST(state ->> 'look_at' AS timestamptz), :now) <= :now"
            ),
            {"now": now},
        )
    )
