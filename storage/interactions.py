"""The join's reads and writes: what is due, what is known of it, and the log that results."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from learners.ids import time_of
from learners.records import Interaction
from storage import log
from storage.partitions import first_id
from storage.policies import StoredPolicy

# The wait is that of now: a reward with a longer one holds back what was queued before it.
# LATERAL … OFFSET 0 and ARRAY have each row looked up by its key, whatever statistics there are.
_TAKE_DUE = """
WITH picked AS MATERIALIZED (
  SELECT decision_id FROM pending_joins WHERE policy_id = :policy AND due_at <= :now
  ORDER BY due_at LIMIT :limit FOR UPDATE SKIP LOCKED
), checked AS MATERIALIZED (
  SELECT p.decision_id, d.at + make_interval(secs => :wait_s) AS due_at, d.mode
  FROM picked p CROSS JOIN LATERAL (
    SELECT at, mode FROM decisions
    WHERE decision_id = p.decision_id AND project_id = :project OFFSET 0) d
), postponed AS (
  UPDATE pending_joins j SET due_at = c.due_at FROM checked c
  WHERE c.due_at > :now AND j.decision_id = c.decision_id AND j.project_id = :project
    AND j.decision_id = ANY(ARRAY(SELECT decision_id FROM checked WHERE due_at > :now))
), taken AS (
  DELETE FROM pending_joins WHERE project_id = :project
    AND decision_id = ANY(ARRAY(SELECT decision_id FROM checked WHERE due_at <= :now))
  RETURNING decision_id
) SELECT decision_id, mode = 'shadow' AS shadow FROM taken JOIN checked USING (decision_id)
"""

_OUTCOMES = """
SELECT decision_id, "values" FROM outcomes
WHERE decision_id = ANY(CAST(:ids AS uuid[])) AND project_id = :project
"""

# What each source said last, by its own clock; an amendment replaces what it said before.
_FEEDBACK = """
WITH asked AS MATERIALIZED (
  SELECT decision_id, episode_id FROM decisions
  WHERE decision_id = ANY(CAST(:ids AS uuid[])) AND project_id = :project
    AND episode_id IS NOT NULL
), said AS (
  SELECT decision_id, metric, source, number, occurred_at, feedback_id FROM feedback
  WHERE decision_id = ANY(CAST(:ids AS uuid[])) AND project_id = :project
    AND retracted_at IS NULL AND number IS NOT NULL
  UNION ALL
  SELECT a.decision_id, f.metric, f.source, f.number, f.occurred_at, f.feedback_id
  FROM feedback f JOIN asked a ON a.episode_id = f.episode_id
  WHERE f.project_id = :project
    AND f.episode_id = ANY(ARRAY(SELECT DISTINCT episode_id FROM asked))
    AND f.retracted_at IS NULL AND f.number IS NOT NULL
) SELECT DISTINCT ON (decision_id, metric, source) decision_id, metric, source, number FROM said
ORDER BY decision_id, metric, source, occurred_at DESC, feedback_id DESC
"""

_WRITE = """
INSERT INTO interactions
  (decision_id, policy_id, position, reward, reward_version, "values", said, revision, joined_at)
SELECT u.decision_id, :policy, u.position, u.reward, :reward_version,
       CAST(u.vals AS jsonb), CAST(u.said AS jsonb), 1, :now
FROM unnest(CAST(:ids AS uuid[]), CAST(:positions AS bigint[]), CAST(:rewards AS float8[]),
            CAST(:vals AS text[]), CAST(:said AS text[]))
  AS u(decision_id, position, reward, vals, said)
ON CONFLICT (decision_id, policy_id) DO UPDATE SET
  reward = excluded.reward, reward_version = excluded.reward_version, "values" = excluded."values",
  said = excluded.said, revision = interactions.revision + 1, joined_at = excluded.joined_at
WHERE (interactions.reward, interactions."values", interactions.said, interactions.reward_version)
  IS DISTINCT FROM (excluded.reward, excluded."values", excluded.said, excluded.reward_version)
"""

# A decision that waits may have been joined before: feedback came late, or the reward is new.
_COUNTS = sa.text("""
SELECT p.log_position + q.fresh AS decisions, q.pending, p.log_position AS joined,
  (SELECT count(*) FROM interactions
   WHERE policy_id = :policy AND position > 0 AND reward IS NULL) AS unrewarded
FROM policies p CROSS JOIN (
  SELECT count(*) AS pending, count(*) FILTER (WHERE i.decision_id IS NULL) AS fresh
  FROM pending_joins j LEFT JOIN interactions i
    ON i.decision_id = j.decision_id AND i.policy_id = j.policy_id
  WHERE j.policy_id = :policy
) q WHERE p.id = :policy
""")

# Decisions are wide, so that looking up thousands of them takes longer than all the rest: their
# ids tell their times, and only the first and the last of each bucket are looked up.
_ENDS = sa.text("""
(SELECT decision_id FROM interactions WHERE policy_id = :policy AND position > :after
 ORDER BY position LIMIT :some)
UNION ALL
(SELECT decision_id FROM interactions WHERE policy_id = :policy AND position > :after
 ORDER BY position DESC LIMIT :some)
""")
_SERIES = sa.text("""
WITH buckets AS (
  SELECT width_bucket(decision_id, CAST(:bounds AS uuid[])) AS bucket, avg(reward) AS reward,
    avg(("values"->>'cost_usd')::float8) AS cost_usd, count(*) AS n,
    min(position) AS first, max(position) AS last
  FROM interactions
  WHERE policy_id = :policy AND position > :after AND reward IS NOT NULL AND decision_id >= :since
  GROUP BY 1
), ends AS (
  SELECT i.position, d.at, d.version
  FROM interactions i CROSS JOIN LATERAL (
    SELECT at, version FROM decisions
    WHERE decision_id = i.decision_id AND policy_id = :policy OFFSET 0
  ) d WHERE i.policy_id = :policy
    AND i.position = ANY(ARRAY(SELECT first FROM buckets UNION SELECT last FROM buckets))
)
SELECT b.bucket, f.at, b.reward, b.cost_usd, b.n, l.version
FROM buckets b JOIN ends f ON f.position = b.first JOIN ends l ON l.position = b.last
ORDER BY b.bucket
""")
_SOME = 50
_LEAST_SPAN = timedelta(seconds=1)


def take_due(
    connection: sa.Connection, policy: StoredPolicy, now: datetime, limit: int
) -> dict[UUID, bool]:
    """Take decisions whose wait is over off the queue, those that are due longest.

    Returns:
        By decision, in the order of the ids: whether it is of a shadow, which nobody was served.
    """
    given = {
        "policy": policy.id,
        "project": policy.project_id,
        "wait_s": policy.wait_s,
        "now": now,
        "limit": limit,
    }
    found = connection.execute(sa.text(_TAKE_DUE), given)
    return {row.decision_id: row.shadow for row in sorted(found)}


def outcome_values(
    connection: sa.Connection, project_id: UUID, ids: Sequence[UUID]
) -> dict[UUID, dict[str, float]]:
    """The measured values of each decision."""
    rows = connection.execute(
        sa.text(_OUTCOMES), {"ids": [str(i) for i in ids], "project": project_id}
    )
    return {row["decision_id"]: row["values"] for row in rows.mappings()}


def feedback_values(
    connection: sa.Connection, project_id: UUID, ids: Sequence[UUID]
) -> dict[UUID, dict[str, dict[str, float]]]:
    """For each decision and metric, the standing value of every source, by source name."""
    found: dict[UUID, dict[str, dict[str, float]]] = {}
    given = {"ids": [str(i) for i in ids], "project": project_id}
    for row in connection.execute(sa.text(_FEEDBACK), given):
        of_metric = found.setdefault(row.decision_id, {}).setdefault(row.metric, {})
        of_metric[row.source] = row.number
    return found


def write(
    connection: sa.Connection,
    policy_id: UUID,
    rows: Sequence[tuple[UUID, float | None, str, str]],
    *,
    reward_version: int,
    now: datetime,
    aside: Collection[UUID] = (),
) -> None:
    """Store new interactions at the log's end, and amend known ones.

    A row is (decision, reward, values as JSON, what each source said of each metric as JSON).
    Those ``aside`` take no place in the log: what a shadow's arm made of a request that another
    served is at position 0, where nobody reads who learns or judges (see :mod:`storage.pairs`).

    Positions become visible in their order, since the policy's row is locked until the commit.
    """
    known = set(
        connection.scalars(
            sa.text(
                "SELECT decision_id FROM interactions "
                "WHERE decision_id = ANY(CAST(:ids AS uuid[])) AND policy_id = :policy"
            ),
            {"ids": [str(row[0]) for row in rows], "policy": policy_id},
        )
    )
    known.update(aside)
    fresh = [row[0] for row in rows if row[0] not in known]
    end: int = connection.execute(
        sa.text(
            "UPDATE policies SET log_position = log_position + :n WHERE id = :policy "
            "RETURNING log_position"
        ),
        {"n": len(fresh), "policy": policy_id},
    ).scalar_one()
    position = {decision: end - len(fresh) + 1 + i for i, decision in enumerate(fresh)}
    connection.execute(
        sa.text(_WRITE),
        {
            "policy": policy_id,
            "reward_version": reward_version,
            "now": now,
            "ids": [str(row[0]) for row in rows],
            "positions": [position.get(row[0], 0) for row in rows],
            "rewards": [row[1] for row in rows],
            "vals": [row[2] for row in rows],
            "said": [row[3] for row in rows],
        },
    )


def read(
    connection: sa.Connection,
    policy_id: UUID,
    *,
    after: int,
    upto: int,
    limit: int,
    reward_version: int | None = None,
) -> list[Interaction]:
    """All of :func:`storage.log.stream` at once."""
    batches = log.stream(
        connection, policy_id, after=after, upto=upto, limit=limit, reward_version=reward_version
    )
    return [row for rows, _ in batches for row in rows]


def newest_ids(connection: sa.Connection, policy_id: UUID, limit: int) -> list[UUID]:
    """The decisions at the log's end, rewarded or not, the newest first."""
    return list(
        connection.scalars(
            sa.text(
                "SELECT decision_id FROM interactions "
                "WHERE policy_id = :policy AND position > 0 ORDER BY position DESC LIMIT :limit"
            ),
            {"policy": policy_id, "limit": limit},
        )
    )


def due_policies(connection: sa.Connection, now: datetime) -> list[UUID]:
    """Policies with decisions whose wait is over."""
    return list(
        connection.scalars(
            sa.text(
                "SELECT p.id FROM policies p WHERE EXISTS (SELECT 1 FROM pending_joins j "
                "WHERE j.policy_id = p.id AND j.due_at <= :now) "
                "AND EXISTS (SELECT 1 FROM rewards r WHERE r.policy_id = p.id) ORDER BY p.id"
            ),
            {"now": now},
        )
    )


def counts(connection: sa.Connection, policy_id: UUID) -> Mapping[str, Any]:
    """How many decisions of a policy there are, waiting, joined, and joined without a reward.

    Those of shadows count until they are joined, and then no more. The log is not read for it:
    its positions have no gaps, and each decision is in the log, beside it or in the queue.
    """
    return dict(connection.execute(_COUNTS, {"policy": policy_id}).mappings().one())


def reward_series(
    connection: sa.Connection, policy: StoredPolicy, *, buckets: int, since: datetime, last: int
) -> list[Mapping[str, Any]]:
    """Mean reward, cost and count over time, for a chart; by the times that the ids carry.

    Of the newest ``last`` interactions alone: the whole log takes seconds where it is long. Each
    bucket's ``at`` is that of its first decision in the log, its ``version`` that of its last. The
    buckets span the times at both ends of the log; what lies outside of them is in the outermost.
    """
    given = {"policy": policy.id, "after": max(0, policy.log_position - last)}
    ends = list(connection.scalars(_ENDS, {**given, "some": _SOME}))
    if not ends:
        return []
    low, high = max(time_of(min(ends)), since), time_of(max(ends))
    width = max(high - low, _LEAST_SPAN) / buckets
    bounds = [str(first_id(low + width * number)) for number in range(1, buckets)]
    rows = connection.execute(_SERIES, {**given, "since": first_id(since), "bounds": bounds})
    return [dict(row) for row in rows.mappings()]


def arm_shares(connection: sa.Connection, policy_id: UUID, *, last: int) -> list[Mapping[str, Any]]:
    """How often each arm served in the newest ``last`` decisions, and its mean reward there."""
    rows = connection.execute(
        sa.text(
            "SELECT d.action AS arm, count(*) AS n, avg(i.reward) AS reward, "
            "avg((i.\"values\"->>'cost_usd')::float8) AS cost_usd FROM "
            "(SELECT decision_id, policy_id, action FROM decisions "
            "WHERE policy_id = :p AND mode <> 'shadow' "
            "ORDER BY decision_id DESC LIMIT :last) d LEFT JOIN interactions i "
            "ON i.decision_id = d.decision_id AND i.policy_id = d.policy_id "
            "GROUP BY d.action ORDER BY n DESC, arm"
        ),
        {"p": policy_id, "last": last},
    )
    return [dict(row) for row in rows.mappings()]
