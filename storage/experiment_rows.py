"""What experiments read: who else is in their layer, what the log says of each variant, traffic.

Every metric is added up by unit inside Postgres, so a look fetches a few sums however long the log
is. A look reads an experiment's first ``limit`` decisions: a fixed part of them, so that what holds
at every look still does when there are more.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal
from uuid import UUID

import sqlalchemy as sa

from learners.contrasts import Sums
from learners.ids import ENTROPY_BYTES, uuid7
from storage.policies import StoredPolicy
from storage.releases import StoredExperiment
from storage.stages import SKEW
from storage.tables import experiments, policies

Source = Literal["reward", "outcome", "feedback"]

_OWN = """own AS MATERIALIZED (
  SELECT decision_id, project_id, policy_id, version, variant, unit, at,
         context ->> CAST(:segment AS text) AS segment,
         CASE WHEN jsonb_typeof(context -> CAST(:feature AS text)) = 'number'
              THEN CAST(context ->> CAST(:feature AS text) AS float8) END AS feature
  FROM decisions
  WHERE policy_id = :policy AND decision_id >= :first AND split = :split
    AND mode IN ('policy', 'retry') AND unit IS NOT NULL
  ORDER BY decision_id LIMIT :limit
)"""

_COUNTS = """
WITH {own}
SELECT variant, version, count(*) AS decisions, count(DISTINCT unit) AS units
FROM own GROUP BY GROUPING SETS ((variant), (variant, version))
"""

_SUMS = """
WITH {own}{known},
valued AS (SELECT d.variant, d.segment, d.unit, {value} AS v FROM own d {joins}),
units AS (
  SELECT variant, {segment} AS segment, unit, CAST(count(*) AS float8) AS r, sum(v) AS t,
         sum(v * v) AS q
  FROM valued WHERE v IS NOT NULL GROUP BY 1, 2, 3
),
covered AS (SELECT u.*, {covariate} AS c FROM units u {covered})
SELECT variant, segment, count(*) AS units, CAST(sum(r) AS bigint) AS rows, sum(t) AS total,
       sum(q) AS row_squares, sum(t * t) AS tt, sum(t * r) AS tr, sum(r * r) AS rr,
       sum(c) AS c, sum(c * c) AS cc, sum(c * t) AS ct, sum(c * r) AS cr
FROM covered GROUP BY 1, 2
"""

# A session or user may be known already; of a unit's own rows only the first can not have been
# changed by its variant.
_KNOWN_CONTEXT = """,
known AS (
  SELECT unit, (array_agg(feature ORDER BY decision_id) FILTER (WHERE feature IS NOT NULL))[1] AS c
  FROM own GROUP BY unit
)"""

_KNOWN_BEFORE = """,
earlier AS (
  SELECT decision_id, project_id, policy_id, at, {unit} AS unit FROM decisions
  WHERE policy_id = :policy AND decision_id >= :before AND decision_id < :started
    AND at < :started_at AND mode IN ('policy', 'retry') AND {which}
),
known AS (SELECT d.unit, avg({value}) AS c FROM earlier d {joins} GROUP BY d.unit)"""

# As learners.lineup.Split hashes a unit.
_HASHED_SESSION = (
    "left(encode(sha256(convert_to('unit' || chr(31) || CAST(:salt AS text) || chr(31) || "
    "session_id, 'UTF8')), 'hex'), 16)"
)

_RECENT = """
WITH own AS MATERIALIZED (
  SELECT decision_id, project_id, policy_id, at, session_id FROM decisions
  WHERE policy_id = :policy AND decision_id >= :first AND mode IN ('policy', 'retry')
  ORDER BY decision_id DESC LIMIT :limit
)
SELECT coalesce(d.session_id, CAST(d.decision_id AS text)) AS unit, {value} AS v
FROM own d {joins} WHERE {value} IS NOT NULL
"""

_TRAFFIC = """
SELECT count(*) AS decisions, min(at) AS since FROM decisions
WHERE policy_id = :policy AND decision_id >= :first AND mode = 'policy'
"""

_EXPLORATION = """
SELECT avg(cardinality(distribution) * (SELECT min(p) FROM unnest(distribution) p)) FROM (
  SELECT distribution FROM decisions
  WHERE policy_id = :policy AND decision_id >= :first AND mode = 'policy'
    AND cardinality(distribution) > 1
  ORDER BY decision_id DESC LIMIT :limit
) newest
"""


@dataclass(frozen=True, slots=True)
class Measure:
    """A number of each decision.

    Attributes:
        name: the metric's.
        source: the joined reward, what the edge measures, or what feedback says.
        reward_version: whose rewards are read.
        aggregation: how several sources' words on a decision become one number.
        wait_s: after which ``default`` stands for what nobody said.
        default: None: then the decision has no number.
    """

    name: str
    source: Source
    reward_version: int = 0
    aggregation: str = "mean"
    wait_s: float = 0.0
    default: float | None = None


@dataclass(frozen=True, slots=True)
class Before:
    """A metric of the unit before the experiment began: its mean over ``days``.

    ``splits`` are earlier experiments by users with the same salt, which is how a user is known
    again; sessions are known by their id.
    """

    measure: Measure
    days: float
    splits: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Scope:
    """Which decisions are read: the first ``limit`` of a policy's split since it began."""

    policy: StoredPolicy
    split: str
    salt: str
    unit: str
    started_at: datetime
    now: datetime
    limit: int
    segment: str | None = None


@dataclass(frozen=True, slots=True)
class Count:
    """Units and decisions of a variant; ``version`` None: by all versions."""

    variant: str
    version: int | None
    decisions: int
    units: int


def counts(connection: sa.Connection, scope: Scope) -> list[Count]:
    """Units as they were assigned, also those of which nothing has been heard yet."""
    rows = connection.execute(sa.text(_COUNTS.format(own=_OWN)), _given(scope, None))
    return [Count(**row) for row in rows.mappings()]


def sums(
    connection: sa.Connection,
    scope: Scope,
    measure: Measure,
    covariate: Before | str | None = None,
    *,
    by_segment: bool = False,
) -> dict[tuple[str, str], Sums]:
    """A metric's sums by variant and segment ("" unless ``by_segment``).

    ``covariate`` is a numeric field of the context, as a unit's first decision had it, or a metric
    from before. A unit of which it is not known has the mean of those of which it is.
    """
    value, joins = _valued(measure, "m")
    known, covariate_of, covered = "", "CAST(0 AS float8)", ""
    given = _given(scope, covariate if isinstance(covariate, str) else None)
    given |= _measured(measure, scope.now, "m")
    if isinstance(covariate, str):
        known = _KNOWN_CONTEXT
    elif covariate is not None:
        known, more = _before(scope, covariate)
        given |= more
    if known:
        covariate_of = "coalesce(k.c, avg(k.c) OVER (), 0.0)"
        covered = "LEFT JOIN known k USING (unit)"
    statement = _SUMS.format(
        own=_OWN,
        known=known,
        value=value,
        joins=joins,
        segment="coalesce(segment, '')" if by_segment else "''",
        covariate=covariate_of,
        covered=covered,
    )
    found = {}
    for row in connection.execute(sa.text(statement), given).mappings():
        numbers: dict[str, Any] = dict(row)
        place = numbers.pop("variant"), numbers.pop("segment")
        found[place] = Sums(**numbers)
    return found


def recent(
    connection: sa.Connection,
    policy: StoredPolicy,
    measure: Measure,
    *,
    since: datetime,
    now: datetime,
    limit: int,
) -> list[tuple[str, float]]:
    """The newest decisions' numbers, each with its session."""
    value, joins = _valued(measure, "m")
    given = {"policy": policy.id, "first": _first(since), "limit": limit}
    statement = sa.text(_RECENT.format(value=value, joins=joins))
    rows = connection.execute(statement, {**given, **_measured(measure, now, "m")})
    return [(row.unit, row.v) for row in rows]


def traffic(
    connection: sa.Connection, policy: StoredPolicy, since: datetime
) -> tuple[int, datetime | None]:
    """How many requests were decided since then, and when the first was."""
    row = connection.execute(sa.text(_TRAFFIC), {"policy": policy.id, "first": _first(since)}).one()
    return row.decisions, row.since


def exploration(
    connection: sa.Connection, policy: StoredPolicy, since: datetime, *, limit: int
) -> float | None:
    """Share of the traffic that was explored evenly, of the newest decisions; None without any."""
    found: float | None = connection.scalar(
        sa.text(_EXPLORATION), {"policy": policy.id, "first": _first(since), "limit": limit}
    )
    return found


def running_in_layer(
    connection: sa.Connection, project_id: UUID, layer: str
) -> list[StoredExperiment]:
    """The project's experiments that hold a part of a layer now."""
    query = (
        _of_project(project_id)
        .where(experiments.c.ended_at.is_(None))
        .where(experiments.c.spec["split"]["layer"].as_string() == layer)
    )
    return [StoredExperiment(**row) for row in connection.execute(query).mappings()]


def find_in_project(
    connection: sa.Connection, project_id: UUID, experiment_id: UUID
) -> StoredExperiment | None:
    """One experiment, if the project has it."""
    query = _of_project(project_id).where(experiments.c.id == experiment_id)
    row = connection.execute(query).mappings().one_or_none()
    return StoredExperiment(**row) if row else None


def find_named(connection: sa.Connection, policy_id: UUID, name: str) -> StoredExperiment | None:
    """A policy's experiment by name, ended ones too."""
    query = sa.select(experiments).where(
        experiments.c.policy_id == policy_id, experiments.c.name == name
    )
    row = connection.execute(query).mappings().one_or_none()
    return StoredExperiment(**row) if row else None


def of_salt(connection: sa.Connection, policy_id: UUID, salt: str) -> list[StoredExperiment]:
    """A policy's experiments that hashed their units with this salt."""
    query = sa.select(experiments).where(
        experiments.c.policy_id == policy_id,
        experiments.c.spec["split"]["salt"].as_string() == salt,
    )
    return [StoredExperiment(**row) for row in connection.execute(query).mappings()]


def page(
    connection: sa.Connection, policy_id: UUID, *, limit: int, before: UUID | None = None
) -> list[StoredExperiment]:
    """A policy's experiments, newest first."""
    query = sa.select(experiments).where(experiments.c.policy_id == policy_id)
    if before is not None:
        query = query.where(experiments.c.id < before)
    rows = connection.execute(query.order_by(experiments.c.id.desc()).limit(limit)).mappings()
    return [StoredExperiment(**row) for row in rows]


def due_policies(connection: sa.Connection, now: datetime) -> list[UUID]:
    """Policies that have an experiment to be looked at."""
    return list(connection.scalars(sa.select(experiments.c.policy_id).distinct().where(_due(now))))


def due(connection: sa.Connection, policy_id: UUID, now: datetime) -> list[StoredExperiment]:
    """A policy's experiments that are to be looked at."""
    query = sa.select(experiments).where(experiments.c.policy_id == policy_id, _due(now))
    rows = connection.execute(query.order_by(experiments.c.id)).mappings()
    return [StoredExperiment(**row) for row in rows]


def _due(now: datetime) -> sa.ColumnElement[bool]:
    look_at = experiments.c.state["look_at"].as_string()
    return sa.cast(look_at, sa.TIMESTAMP(timezone=True)) <= now


def _of_project(project_id: UUID) -> sa.Select[Any]:
    return (
        sa.select(experiments)
        .join(policies, policies.c.id == experiments.c.policy_id)
        .where(policies.c.project_id == project_id)
    )


def _first(since: datetime) -> UUID:
    return uuid7(since - SKEW, bytes(ENTROPY_BYTES))


def _given(scope: Scope, feature: str | None) -> dict[str, Any]:
    return {
        "policy": scope.policy.id,
        "first": _first(scope.started_at),
        "split": scope.split,
        "limit": scope.limit,
        "segment": scope.segment,
        "feature": feature,
    }


# A source's later word on a decision amends its earlier one.
_SAID = """LEFT JOIN (
  SELECT decision_id, project_id, {aggregate}(number) AS number FROM (
    SELECT DISTINCT ON (decision_id, project_id, source) decision_id, project_id, number
    FROM feedback
    WHERE metric = {metric} AND decision_id >= {first} AND retracted_at IS NULL
      AND number IS NOT NULL
    ORDER BY decision_id, project_id, source, occurred_at DESC, feedback_id DESC
  ) newest GROUP BY decision_id, project_id
) f ON f.decision_id = d.decision_id AND f.project_id = d.project_id"""
_AGGREGATE: Mapping[str, str] = {"mean": "avg", "min": "min", "max": "max"}


def _valued(measure: Measure, lead: str, first: str = "first") -> tuple[str, str]:
    """The expression for a decision ``d``'s number, and the joins that it takes.

    ``lead`` begins the names of its parameters, ``first`` names that of the oldest id.
    """
    if measure.source == "reward":
        return "i.reward", (
            "JOIN interactions i ON i.decision_id = d.decision_id AND i.policy_id = d.policy_id "
            f"AND i.decision_id >= :{first} AND i.reward_version = :{lead}_reward"
        )
    if measure.source == "outcome":
        number = f'CAST(o."values" ->> CAST(:{lead}_name AS text) AS float8)'
        # An answer that was told and did not fail had no error.
        return f"coalesce({number}, 0.0)" if measure.name == "error" else number, (
            "JOIN outcomes o ON o.decision_id = d.decision_id AND o.project_id = d.project_id "
            f"AND o.decision_id >= :{first}"
        )
    default = f"CAST(:{lead}_default AS float8)"
    value = f"coalesce(f.number, CASE WHEN d.at < :{lead}_over THEN {default} END)"
    joins = _SAID.format(
        aggregate=_AGGREGATE[measure.aggregation], metric=f":{lead}_name", first=f":{first}"
    )
    return value, joins


def _measured(measure: Measure, now: datetime, lead: str) -> dict[str, Any]:
    if measure.source == "reward":
        return {f"{lead}_reward": measure.reward_version}
    if measure.source == "outcome":
        return {f"{lead}_name": measure.name}
    over = now - timedelta(seconds=measure.wait_s)
    return {
        f"{lead}_name": measure.name,
        f"{lead}_default": measure.default,
        f"{lead}_over": over,
    }


def _before(scope: Scope, before: Before) -> tuple[str, dict[str, Any]]:
    value, joins = _valued(before.measure, "b", "before")
    given: dict[str, Any] = {
        "before": _first(scope.started_at - timedelta(days=before.days)),
        "started": uuid7(scope.started_at + SKEW, bytes(ENTROPY_BYTES)),
        "started_at": scope.started_at,
    }
    if scope.unit == "user":
        unit, which = "unit", "split = ANY(CAST(:earlier AS text[])) AND unit IS NOT NULL"
        splits: Sequence[str] = before.splits
        given["earlier"] = list(splits)
    else:
        unit, which = _HASHED_SESSION, "session_id IS NOT NULL"
        given["salt"] = scope.salt
    known = _KNOWN_BEFORE.format(unit=unit, which=which, value=value, joins=joins)
    return known, given | _measured(before.measure, scope.now, "b")
