"""Heads: their versions, which serves, and the labels that the log holds for them."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from storage.tables import decisions, head_looks, heads, policies

Json = dict[str, Any]

CANDIDATE, SERVING, RETIRED, REFUSED = "candidate", "serving", "retired", "refused"
REVERTED = "reverted"
BATCH = 1_000
_PLAIN = [column for column in heads.c if column.name != "learnt"]
NONE = UUID(int=0)
"""Before every decision."""

# The newest decisions, and of those the labelled ones: each label is looked up by its key, and a
# context is opened only where there is one, which is why the vector's length asks for the label.
_SAID = """
SELECT d.decision_id, d.session_id, d.episode_id, f.said, v.size FROM (
  SELECT decision_id, project_id, session_id, episode_id, context FROM decisions
  WHERE policy_id = :policy AND mode <> 'shadow' AND decision_id > :after
  ORDER BY decision_id DESC LIMIT :window
) d CROSS JOIN LATERAL (
  SELECT jsonb_object_agg(source, value) AS said FROM (
    SELECT DISTINCT ON (source) source, value FROM feedback
    WHERE decision_id = d.decision_id AND project_id = d.project_id AND metric = :metric
      AND retracted_at IS NULL ORDER BY source, occurred_at DESC, feedback_id DESC
  ) newest
) f CROSS JOIN LATERAL (
  SELECT CASE WHEN f.said IS NOT NULL AND jsonb_typeof(d.context -> :feature) = 'array'
    THEN jsonb_array_length(d.context -> :feature) END AS size
) v
WHERE f.said IS NOT NULL AND (v.size = :size OR NOT :fitting)
ORDER BY d.decision_id DESC LIMIT :limit
"""

# Fallbacks and retries were not drawn from all arms, so their propensities are of another kind.
_EARNED = """
SELECT d.decision_id, d.session_id, d.episode_id, d.propensity, i.reward, i.said, v.size FROM (
  SELECT decision_id, policy_id, session_id, episode_id, propensity, context FROM decisions
  WHERE policy_id = :policy AND mode = 'policy' AND action = :arm AND propensity <= 1
    AND decision_id > :after
  ORDER BY decision_id DESC LIMIT :window
) d CROSS JOIN LATERAL (
  SELECT reward, said FROM interactions
  WHERE decision_id = d.decision_id AND policy_id = d.policy_id AND reward IS NOT NULL
    AND reward_version = :reward_version OFFSET 0
) i CROSS JOIN LATERAL (
  SELECT CASE WHEN i.reward IS NOT NULL AND jsonb_typeof(d.context -> :feature) = 'array'
    THEN jsonb_array_length(d.context -> :feature) END AS size
) v
WHERE v.size = :size OR NOT :fitting
ORDER BY d.decision_id DESC LIMIT :limit
"""


@dataclass(frozen=True, slots=True)
class StoredHead:
    """An immutable trained head with what its gate said; only ``state`` and ``served_at`` change.

    ``trained_to`` and ``judged_to`` are the newest decisions that trained and that judged;
    ``labels`` is how many both were. ``learnt`` is what the next version learns on from; only the
    newest one keeps it, and it is read by :func:`find_learnt` alone.
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
    learnt: bytes | None = None


@dataclass(frozen=True, slots=True)
class SaidRow:
    """A decision that somebody has labelled: the newest value of each source, by its name.

    ``size`` is the length of its vector; None where it has none.
    """

    decision_id: UUID
    session_id: str | None
    episode_id: str | None
    said: dict[str, Any]
    size: int | None


@dataclass(frozen=True, slots=True)
class EarnedRow:
    """A decision that an arm served, with its reward, and what sources said of it by metric."""

    decision_id: UUID
    session_id: str | None
    episode_id: str | None
    propensity: float
    reward: float
    said: dict[str, dict[str, float]] | None
    size: int | None


@dataclass(frozen=True, slots=True)
class Span:
    """Which labelled decisions: those after one, the newest.

    Attributes:
        feature: name of the vector.
        size: its length.
        limit: labelled decisions at most.
        window: of how many of the newest decisions labels are looked up.
        after: a decision's id.
        fitting: only those that have the vector in that length.
    """

    feature: str
    size: int
    limit: int
    window: int = 100_000
    after: UUID = NONE
    fitting: bool = True


@dataclass(frozen=True, slots=True)
class HeadLook:
    """What a head's labels were worth when somebody looked for them."""

    labels: Json
    looked_at: datetime


def said(
    connection: sa.Connection, policy_id: UUID, span: Span, *, metric: str
) -> Iterator[SaidRow]:
    """Decisions that somebody has labelled, newest first; the connection is busy until the last."""
    for row in _streamed(connection, _SAID, _given(policy_id, span, metric=metric)):
        yield SaidRow(*row)


def oldest_said(connection: sa.Connection, policy_id: UUID, span: Span) -> UUID | None:
    """The oldest decision in the window of :func:`said`; None where the window is not full."""
    return _oldest(connection, policy_id, span, decisions.c.mode != "shadow")


def oldest_earned(
    connection: sa.Connection, policy_id: UUID, span: Span, *, arm: str
) -> UUID | None:
    """The oldest decision in the window of :func:`earned`, likewise."""
    mode, served = decisions.c.mode == "policy", decisions.c.action == arm
    return _oldest(connection, policy_id, span, mode & served & (decisions.c.propensity <= 1))


def earned(
    connection: sa.Connection, policy_id: UUID, span: Span, *, arm: str, reward_version: int
) -> Iterator[EarnedRow]:
    """Rewarded decisions that an arm served, likewise; the window counts that arm's only."""
    given = _given(policy_id, span, arm=arm, reward_version=reward_version)
    for row in _streamed(connection, _EARNED, given):
        yield EarnedRow(*row)


def vectors(
    connection: sa.Connection, policy_id: UUID, feature: str, ids: Sequence[UUID]
) -> Iterator[tuple[UUID, Any]]:
    """The vectors that these decisions' contexts hold, as JSON has them, in no order."""
    query = sa.text(
        "SELECT decision_id, context -> :feature FROM decisions "
        "WHERE policy_id = :policy AND decision_id = ANY(:ids)"
    )
    for at in range(0, len(ids), BATCH):
        given = {"policy": policy_id, "feature": feature, "ids": list(ids[at : at + BATCH])}
        for row in connection.execute(query, given):
            yield row[0], row[1]


def _oldest(
    connection: sa.Connection, policy_id: UUID, span: Span, among: sa.ColumnElement[bool]
) -> UUID | None:
    of_policy = (decisions.c.policy_id == policy_id) & (decisions.c.decision_id > span.after)
    query = sa.select(decisions.c.decision_id).where(of_policy & among)
    query = query.order_by(decisions.c.decision_id.desc()).offset(span.window - 1).limit(1)
    return connection.scalars(query).one_or_none()


def _given(policy_id: UUID, span: Span, **more: Any) -> Json:
    return {"policy": policy_id, **asdict(span), **more}


def _streamed(connection: sa.Connection, query: str, given: Json) -> Iterator[Any]:
    few = {"yield_per": BATCH}
    yield from connection.execute(sa.text(query), given, execution_options=few)


def add_head(connection: sa.Connection, head: StoredHead) -> None:
    """Store a new version; those before it forget what they would have learnt on from."""
    of_head = _of(head.policy_id, head.name)
    connection.execute(
        sa.update(heads).where(of_head & heads.c.learnt.is_not(None)).values(learnt=None)
    )
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


def find_learnt(connection: sa.Connection, policy_id: UUID, name: str, number: int) -> bytes | None:
    """What the version after this one learns on from; None where it begins anew."""
    query = sa.select(heads.c.learnt).where(_of(policy_id, name) & (heads.c.number == number))
    return connection.scalars(query).one_or_none()


def serving_head(connection: sa.Connection, policy_id: UUID, name: str) -> StoredHead | None:
    """The version that serves."""
    return _one(connection, _of(policy_id, name) & (heads.c.state == SERVING))


def displaced_head(
    connection: sa.Connection, policy_id: UUID, name: str, served_at: datetime
) -> StoredHead | None:
    """Whom a version displaced that serves since ``served_at``: the last that served before it."""
    before = (heads.c.state == RETIRED) & (heads.c.served_at < served_at)
    query = sa.select(*_PLAIN).where(_of(policy_id, name) & before)
    query = query.order_by(heads.c.served_at.desc(), heads.c.number.desc()).limit(1)
    row = connection.execute(query).mappings().one_or_none()
    return StoredHead(**row) if row else None


def serving_heads(connection: sa.Connection, policy_id: UUID) -> list[StoredHead]:
    """The versions of a policy's heads that serve, by name."""
    query = sa.select(*_PLAIN).where(heads.c.policy_id == policy_id, heads.c.state == SERVING)
    rows = connection.execute(query.order_by(heads.c.name)).mappings()
    return [StoredHead(**row) for row in rows]


_LISTED = [column for column in _PLAIN if column.name != "tensors"]


def list_heads(
    connection: sa.Connection,
    policy_id: UUID,
    name: str,
    *,
    limit: int = 50,
    before: int | None = None,
) -> list[Json]:
    """A head's versions newest first, without their tensors and what they learnt."""
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


def put_look(connection: sa.Connection, policy_id: UUID, name: str, look: HeadLook) -> None:
    """Keep what the newest look at a head's labels found."""
    statement = insert(head_looks).values(policy_id=policy_id, name=name, **asdict(look))
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=["policy_id", "name"],
            set_={"labels": statement.excluded.labels, "looked_at": statement.excluded.looked_at},
        )
    )


def find_look(connection: sa.Connection, policy_id: UUID, name: str) -> HeadLook | None:
    """What that was; None before anybody has looked."""
    at = (head_looks.c.policy_id == policy_id) & (head_looks.c.name == name)
    query = sa.select(head_looks.c.labels, head_looks.c.looked_at).where(at)
    row = connection.execute(query).one_or_none()
    return HeadLook(*row) if row else None


def _of(policy_id: UUID, name: str) -> sa.ColumnElement[bool]:
    return (heads.c.policy_id == policy_id) & (heads.c.name == name)


def _one(connection: sa.Connection, where: sa.ColumnElement[bool]) -> StoredHead | None:
    query = sa.select(*_PLAIN).where(where).order_by(heads.c.number.desc()).limit(1)
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
