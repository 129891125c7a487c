"""Heads: their versions, which serves, and the labels that the log holds for them."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from storage.tables import heads, policies

Json = dict[str, Any]

CANDIDATE, SERVING, RETIRED, REFUSED = "candidate", "serving", "retired", "refused"
REVERTED = "reverted"
BATCH = 1_000
NONE = UUID(int=0)
"""Before every decision."""

# The newest decisions, and of those the labelled ones: each label is looked up by its key, and a
# context is opened only where there is one.
_SAID = """
SELECT {columns} FROM (
  SELECT decision_id, project_id, session_id, episode_id, context FROM decisions
  WHERE policy_id = :policy AND mode <> 'shadow' AND decision_id > :after
  ORDER BY decision_id DESC LIMIT :window
) d CROSS JOIN LATERAL (
  SELECT jsonb_object_agg(source, value) AS said FROM (
    SELECT DISTINCT ON (source) source, value FROM feedback
    WHERE decision_id = d.decision_id AND project_id = d.project_id AND metric = :metric
      AND retracted_at IS NULL ORDER BY source, occurred_at DESC, feedback_id DESC
  ) newest
) f
WHERE f.said IS NOT NULL AND d.context ? :feature
ORDER BY d.decision_id DESC LIMIT :limit
"""

# Fallbacks and retries were not drawn from all arms, so their propensities are of another kind.
_EARNED = """
SELECT {columns} FROM (
  SELECT decision_id, policy_id, session_id, episode_id, propensity, context FROM decisions
  WHERE policy_id = :policy AND mode = 'policy' AND action = :arm AND propensity <= 1
    AND decision_id > :after
  ORDER BY decision_id DESC LIMIT :window
) d CROSS JOIN LATERAL (
  SELECT reward FROM interactions
  WHERE decision_id = d.decision_id AND policy_id = d.policy_id AND reward IS NOT NULL
    AND reward_version = :reward_version OFFSET 0
) i
WHERE d.context ? :feature
ORDER BY d.decision_id DESC LIMIT :limit
"""


@dataclass(frozen=True, slots=True)
class StoredHead:
    """An immutable trained head with what its gate said; only ``state`` and ``served_at`` change.

    ``trained_to`` and ``judged_to`` are the newest decisions that trained and that judged;
    ``labels`` is how many both were.
    """

    policy_id: UUID
    name: str
    number: int
    state: str
    declaration: Json
    model: Json
    tensors: bytes
    digest: str
    labels: int
    trained_to: UUID
    judged_to: UUID
    data_digest: str
    passed: bool
    summary: str
    numbers: Json
    checks: list[Json]
    created_at: datetime
    served_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class SaidRow:
    """A decision that somebody has labelled: the newest value of each source, by its name."""

    decision_id: UUID
    session_id: str | None
    episode_id: str | None
    said: dict[str, Any]
    vector: Any


@dataclass(frozen=True, slots=True)
class EarnedRow:
    """A decision that an arm served, with its reward."""

    decision_id: UUID
    session_id: str | None
    episode_id: str | None
    propensity: float
    reward: float
    vector: Any


@dataclass(frozen=True, slots=True)
class Span:
    """Which labelled decisions: those after one, whose context has a vector, the newest.

    Attributes:
        feature: name of the vector.
        limit: labelled decisions at most.
        window: of how many of the newest decisions labels are looked up.
        after: a decision's id.
    """

    feature: str
    limit: int
    window: int = 100_000
    after: UUID = NONE


def said(
    connection: sa.Connection, policy_id: UUID, span: Span, *, metric: str
) -> Iterator[SaidRow]:
    """Decisions that somebody has labelled, newest first; the connection is busy until the last."""
    columns = "d.decision_id, d.session_id, d.episode_id, f.said, d.context -> :feature AS vector"
    query = _SAID.format(columns=columns)
    for row in _streamed(connection, query, _given(policy_id, span, metric=metric)):
        yield SaidRow(*row)


def earned(
    connection: sa.Connection, policy_id: UUID, span: Span, *, arm: str, reward_version: int
) -> Iterator[EarnedRow]:
    """Rewarded decisions that an arm served, likewise; the window counts that arm's only."""
    columns = (
        "d.decision_id, d.session_id, d.episode_id, d.propensity, i.reward, "
        "d.context -> :feature AS vector"
    )
    given = _given(policy_id, span, arm=arm, reward_version=reward_version)
    for row in _streamed(connection, _EARNED.format(columns=columns), given):
        yield EarnedRow(*row)


def count_said(connection: sa.Connection, policy_id: UUID, span: Span, *, metric: str) -> int:
    """How many :func:`said` gives."""
    query = _SAID.format(columns="1 AS one")
    return _count(connection, query, _given(policy_id, span, metric=metric))


def count_earned(
    connection: sa.Connection, policy_id: UUID, span: Span, *, arm: str, reward_version: int
) -> int:
    """How many :func:`earned` gives."""
    given = _given(policy_id, span, arm=arm, reward_version=reward_version)
    return _count(connection, _EARNED.format(columns="1 AS one"), given)


def _given(policy_id: UUID, span: Span, **more: Any) -> Json:
    return {"policy": policy_id, **asdict(span), **more}


def _count(connection: sa.Connection, query: str, given: Json) -> int:
    counted = sa.text(f"SELECT count(*) FROM ({query}) labelled")  # noqa: S608 — a query of ours
    return int(connection.execute(counted, given).scalar_one())


def _streamed(connection: sa.Connection, query: str, given: Json) -> Iterator[Any]:
    """A vector is a long list once it is read, so few are held at a time."""
    few = {"yield_per": BATCH}
    yield from connection.execute(sa.text(query), given, execution_options=few)


def add_head(connection: sa.Connection, head: StoredHead) -> None:
    """Store a new version."""
    connection.execute(sa.insert(heads).values(**asdict(head)))


def next_number(connection: sa.Connection, policy_id: UUID, name: str) -> int:
    """The next free number of a head's versions; hold ``versions.lock_policy``."""
    query = sa.select(sa.func.coalesce(sa.func.max(heads.c.number), 0) + 1)
    found: int = connection.scalars(query.where(_of(policy_id, name))).one()
    return found


def find_head(
    connection: sa.Connection, policy_id: UUID, name: str, number: int
) -> StoredHead | None:
    """One version, with its tensors."""
    return _one(connection, _of(policy_id, name) & (heads.c.number == number))


def newest_head(connection: sa.Connection, policy_id: UUID, name: str) -> StoredHead | None:
    """The version that was trained last."""
    return _one(connection, _of(policy_id, name))


def serving_head(connection: sa.Connection, policy_id: UUID, name: str) -> StoredHead | None:
    """The version that serves."""
    return _one(connection, _of(policy_id, name) & (heads.c.state == SERVING))


def displaced_head(
    connection: sa.Connection, policy_id: UUID, name: str, served_at: datetime
) -> StoredHead | None:
    """Whom a version displaced that serves since ``served_at``: the last that served before it."""
    before = (heads.c.state == RETIRED) & (heads.c.served_at < served_at)
    query = sa.select(heads).where(_of(policy_id, name) & before)
    query = query.order_by(heads.c.served_at.desc(), heads.c.number.desc()).limit(1)
    row = connection.execute(query).mappings().one_or_none()
    return StoredHead(**row) if row else None


def serving_heads(connection: sa.Connection, policy_id: UUID) -> list[StoredHead]:
    """The versions of a policy's heads that serve, by name."""
    query = sa.select(heads).where(heads.c.policy_id == policy_id, heads.c.state == SERVING)
    rows = connection.execute(query.order_by(heads.c.name)).mappings()
    return [StoredHead(**row) for row in rows]


_LISTED = [column for column in heads.c if column.name != "tensors"]


def list_heads(
    connection: sa.Connection,
    policy_id: UUID,
    name: str,
    *,
    limit: int = 50,
    before: int | None = None,
) -> list[Json]:
    """A head's versions newest first, without their tensors."""
    query = sa.select(*_LISTED).where(_of(policy_id, name))
    if before is not None:
        query = query.where(heads.c.number < before)
    rows = connection.execute(query.order_by(heads.c.number.desc()).limit(limit)).mappings()
    return [dict(row) for row in rows]


def looks(connection: sa.Connection, policy_id: UUID, name: str, after: int) -> int:
    """How many versions have been judged since the one of number ``after`` was."""
    query = sa.select(sa.func.count()).where(_of(policy_id, name) & (heads.c.number > after))
    found: int = connection.scalars(query).one()
    return found


def set_state(
    connection: sa.Connection,
    policy_id: UUID,
    name: str,
    numbers: Sequence[int],
    state: str,
    *,
    served_at: datetime | None = None,
) -> None:
    """Move versions to a state; with ``served_at`` they serve since then."""
    changes: Json = {"state": state} | ({} if served_at is None else {"served_at": served_at})
    connection.execute(
        sa.update(heads).where(_of(policy_id, name) & heads.c.number.in_(numbers)).values(**changes)
    )


def _of(policy_id: UUID, name: str) -> sa.ColumnElement[bool]:
    return (heads.c.policy_id == policy_id) & (heads.c.name == name)


def _one(connection: sa.Connection, where: sa.ColumnElement[bool]) -> StoredHead | None:
    query = sa.select(heads).where(where).order_by(heads.c.number.desc()).limit(1)
    row = connection.execute(query).mappings().one_or_none()
    return StoredHead(**row) if row else None


def put_declarations(
    connection: sa.Connection, policy_id: UUID, rows: Sequence[Json], now: datetime
) -> None:
    """Put a policy's heads as its configuration declares them; the rest of it stays."""
    changed = sa.cast({"heads": list(rows)}, policies.c.config.type)
    connection.execute(
        sa.update(policies)
        .where(policies.c.id == policy_id)
        .values(config=policies.c.config.op("||")(changed), updated_at=now)
    )
