"""Take in decisions, outcomes and feedback: durably, once, in any order."""

import hashlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any, Literal
from uuid import UUID

import sqlalchemy as sa

from feedback.errors import InvalidEventError, KeyReusedError, MetricError, UnknownFeedbackError
from feedback.lines import (
    MAX_LINES,
    MAX_TEXT,
    check_text,
    check_time,
    read_decision,
    read_id,
    read_outcome,
    utc,
)
from feedback.metrics import MAX_COMMENT, Metric
from learners.features import canonical_json
from learners.ids import ENTROPY_BYTES, uuid7
from storage import events, policies
from storage.events import StoredFeedback

Status = Literal["accepted", "duplicate", "pending_join", "late"]
MAX_TAGS = 32
MAX_NUMBER = sys.float_info.max


@dataclass(frozen=True, slots=True)
class Rejected:
    """A line that was not taken, and never will be as it stands; lines count from 1."""

    line: int
    field: str
    detail: str


@dataclass(frozen=True, slots=True)
class Batch:
    """What became of a batch of lines."""

    accepted: int
    duplicates: int
    rejected: tuple[Rejected, ...]


@dataclass(frozen=True, slots=True)
class Said:
    """Feedback as an app sends it; ``about`` is one of decision_id, episode_id, response_id."""

    about: Literal["decision_id", "episode_id", "response_id"]
    identifier: str
    metric: str
    value: Any
    occurred_at: datetime | None = None
    tags: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of one feedback."""

    feedback_id: UUID
    status: Status


def record_decisions(
    connection: sa.Connection, project_id: UUID, lines: Sequence[bytes], now: datetime
) -> Batch:
    """Store the valid lines; a decision that is known already is a duplicate.

    Raises:
        InvalidEventError: The batch has too many lines.
    """
    known = policies.policy_ids(connection, project_id)

    def row(line: bytes) -> tuple[Any, ...]:
        decision_id, event = read_decision(line, now)
        if event.policy not in known:
            raise InvalidEventError(
                "policy", f"policy {event.policy!r} does not exist: create it first"
            )
        return (
            decision_id,
            project_id,
            known[event.policy],
            event.version,
            event.serial,
            event.digest,
            utc(event.at),
            event.context,
            event.eligible,
            event.distribution,
            event.action,
            event.propensity,
            event.mode,
            event.retry_of,
            event.session_id,
            event.episode_id,
            event.edge_id,
            now,
        )

    return _record(lines, row, partial(events.add_decisions, connection, project_id))


def record_outcomes(
    connection: sa.Connection, project_id: UUID, lines: Sequence[bytes], now: datetime
) -> Batch:
    """Store the valid lines; the first outcome of a decision counts, in whichever order they come.

    Raises:
        InvalidEventError: The batch has too many lines.
    """

    def row(line: bytes) -> tuple[Any, ...]:
        decision_id, event = read_outcome(line, now)
        values = dict(event.values)
        return (decision_id, project_id, utc(event.at), values, event.response_id, now)

    return _record(lines, row, partial(events.add_outcomes, connection, project_id, now=now))


def _record(
    lines: Sequence[bytes],
    read: Callable[[bytes], tuple[Any, ...]],
    store: Callable[[Sequence[tuple[Any, ...]]], int],
) -> Batch:
    if len(lines) > MAX_LINES:
        raise InvalidEventError("", f"the batch has {len(lines)} lines: give at most {MAX_LINES}")
    rows, rejected = [], []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(read(line))
        except InvalidEventError as error:
            rejected.append(Rejected(number, error.field, str(error)))
    added = store(rows) if rows else 0
    return Batch(added, len(rows) - added, tuple(rejected))


def record_feedback(
    connection: sa.Connection,
    project_id: UUID,
    said: Said,
    *,
    source: str,
    now: datetime,
    key: str | None = None,
) -> Receipt:
    """Store one feedback. Of what one source says of the same thing, the latest counts.

    The same key with the same body stores nothing and gives the first one's id. Without a key,
    what came before with the same time, or without a time and saying what the source's last word
    says already, is a duplicate.

    Two of these that wait for each other would fail: give each a transaction of its own.

    Raises:
        InvalidEventError: The metric is unknown, the value does not fit, or an id is no UUIDv7.
        KeyReusedError: The key was used with another body.
    """
    _check(said, now)
    if key is None:
        return _store(connection, project_id, said, source, now)
    check_text("Idempotency-Key", key)
    kept = f"{source}\x1f{key}"
    body = hashlib.sha256(canonical_json(_plain(said))).digest()
    earlier = events.claim_key(connection, project_id, kept, body, now)
    if earlier is None:
        try:
            receipt = _store(connection, project_id, said, source, now)
        except InvalidEventError:
            events.release_key(connection, project_id, kept)
            raise
        response = {"feedback_id": str(receipt.feedback_id), "status": receipt.status}
        events.settle_key(connection, project_id, kept, response)
        return receipt
    if earlier[0] != body:
        raise KeyReusedError(
            f"idempotency key {key!r} was used with another body: give each event its own key"
        )
    return Receipt(UUID(earlier[1]["feedback_id"]), "duplicate")


def retract(connection: sa.Connection, project_id: UUID, feedback_id: UUID, now: datetime) -> None:
    """Take feedback back, with what it amended; the decisions that it spoke of are joined again.

    Raises:
        UnknownFeedbackError: The project has no such feedback.
    """
    if not events.retract_feedback(connection, project_id, feedback_id, now):
        raise UnknownFeedbackError(f"feedback {feedback_id} does not exist in this project")


def _check(said: Said, now: datetime) -> None:
    """Refuse what no database could hold, before anything is hashed or asked."""
    if not said.identifier:
        raise InvalidEventError(
            said.about, f"{said.about} is empty: give 1 to {MAX_TEXT} characters"
        )
    check_text(said.about, said.identifier)
    check_text("metric", said.metric)
    if isinstance(said.value, str):
        check_text("value", said.value, MAX_COMMENT)
    elif not isinstance(said.value, (int, float)) or not abs(said.value) <= MAX_NUMBER:
        raise InvalidEventError(
            "value",
            f"value is {repr(said.value)[:80]}: give a finite number, true, false or a text",
        )
    if said.occurred_at is not None:
        check_time("occurred_at", said.occurred_at, now)
    if len(said.tags) > MAX_TAGS:
        raise InvalidEventError("tags", f"{len(said.tags)} tags: give at most {MAX_TAGS}")
    for name, value in said.tags.items():
        _check_tag(name, value)


def _check_tag(name: str, value: Any) -> None:
    check_text("tags", name)
    if isinstance(value, str):
        check_text("tags", value)
    elif value is not None and not (isinstance(value, (int, float)) and abs(value) <= MAX_NUMBER):
        raise InvalidEventError(
            "tags",
            f"tags.{name} is {repr(value)[:80]}: give a text of at most {MAX_TEXT} characters, "
            "a finite number, true, false or null",
        )


def _store(
    connection: sa.Connection, project_id: UUID, said: Said, source: str, now: datetime
) -> Receipt:
    row = StoredFeedback(
        feedback_id=uuid7(now, os.urandom(ENTROPY_BYTES)),
        project_id=project_id,
        decision_id=_decision(connection, project_id, said, now),
        episode_id=said.identifier if said.about == "episode_id" else None,
        metric=said.metric,
        value=said.value,
        number=_number(connection, project_id, said),
        source=source,
        occurred_at=utc(said.occurred_at) if said.occurred_at else now,
        tags=dict(said.tags),
        received_at=now,
    )
    earlier = _earlier(connection, row, timed=said.occurred_at is not None)
    if earlier is not None:
        return Receipt(earlier, "duplicate")
    events.add_feedback(connection, row)
    return Receipt(row.feedback_id, _status(connection, project_id, row))


def _earlier(connection: sa.Connection, row: StoredFeedback, *, timed: bool) -> UUID | None:
    if timed:
        return events.same_feedback(connection, row)
    standing = events.standing_feedback(connection, row)
    return standing[0] if standing is not None and standing[1] == row.value else None


def _number(connection: sa.Connection, project_id: UUID, said: Said) -> float | None:
    spec = policies.find_metric(connection, project_id, said.metric)
    if spec is None:
        declared = list(policies.list_metrics(connection, project_id))
        raise InvalidEventError(
            "metric",
            f"metric {said.metric!r} is not declared: declare it by PUT /v1/metrics/{said.metric}, "
            f"or give one of {declared}",
        )
    metric = Metric.from_json(said.metric, spec)
    if metric.level == "episode" and said.about != "episode_id":
        raise InvalidEventError(
            said.about,
            f"{said.about} is {said.identifier!r}, and metric {metric.name!r} is of level episode: "
            "give episode_id",
        )
    try:
        return metric.number(said.value)
    except MetricError as error:
        raise InvalidEventError("value", str(error)) from error


def _decision(
    connection: sa.Connection, project_id: UUID, said: Said, now: datetime
) -> UUID | None:
    if said.about == "episode_id":
        return None
    if said.about == "decision_id":
        return read_id("decision_id", said.identifier, now)
    found = events.decision_of_response(connection, project_id, said.identifier)
    if found is None:
        raise InvalidEventError(
            "response_id",
            f"response {said.identifier!r} is not known yet: its outcome arrives a few seconds "
            "after the answer; try again, or give x-route-decision-id as decision_id",
        )
    return found


def _status(connection: sa.Connection, project_id: UUID, row: StoredFeedback) -> Status:
    if row.decision_id is None:
        return "accepted"
    joined = events.known_decisions(connection, project_id, [row.decision_id])
    if row.decision_id not in joined:
        return "pending_join"
    return "late" if joined[row.decision_id] else "accepted"


def _plain(said: Said) -> dict[str, Any]:
    return {
        "about": said.about,
        "identifier": said.identifier,
        "metric": said.metric,
        "value": said.value,
        "occurred_at": utc(said.occurred_at).isoformat() if said.occurred_at else None,
        "tags": dict(said.tags),
    }
