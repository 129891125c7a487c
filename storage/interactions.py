"""The join's reads and writes: what is due, what is known of it, and the log that results."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from learners.records import Interaction
from storage import log
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

    Those of shadows count until they are joined, and then no more.
    """
    return dict(
        connection.execute(
            sa.text(
                "SELECT (SELECT count(*) FROM decisions WHERE policy_id = :p) - "
                "count(*) FILTER (WHERE position = 0) AS decisions, "
                "(SELECT count(*) FROM pending_joins WHERE policy_id = :p) AS pending, "
                "count(*) FILTER (WHERE position > 0) AS joined, "
                "count(*) FILTER (WHERE reward IS NULL AND position > 0) AS unrewarded "
                "FROM interactions WHERE policy_id = :p"
            ),
            {"p": policy_id},
        )
        .mappings()
        .one()
    )


def reward_series(
    connection: sa.Connection, policy_id: UUID, *, buckets: int, since: datetime, last: int
) -> list[Mapping[str, Any]]:
    """Mean reward, cost and count over time, and by version, for a chart.

    Of the newest ``last`` interactions alone: the whole log takes seconds where it is long.
    """
    rows = connection.execute(
        sa.text(
            "WITH log AS (SELECT d.at, d.version, i.reward, (i.\"values\"->>'cost_usd')::float8 "
            "AS cost FROM (SELECT * FROM interactions WHERE policy_id = :p AND position > 0 "
            "ORDER BY position DESC LIMIT :last) i JOIN decisions d "
            "ON d.decision_id = i.decision_id AND d.policy_id = i.policy_id "
            "WHERE i.reward IS NOT NULL AND d.at >= :since), "
            "span AS (SELECT min(at) AS low, greatest(max(at), min(at) + interval '1 s') AS high "
            "FROM log) "
            "SELECT least(floor(extract(epoch FROM at - low) / extract(epoch FROM high - low) "
            "* :buckets), :buckets - 1) AS bucket, min(at) AS at, avg(reward) AS reward, "
            "avg(cost) AS cost_usd, count(*) AS n, max(version) AS version "
            "FROM log, span GROUP BY bucket ORDER BY bucket"
        ),
        {"p": policy_id, "buckets": buckets, "since": since, "last": last},
    )
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
