"""Take in decisions, outcomes and feedback: durably, once, in any order."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from feedback.errors import FeedbackError, InvalidEventError, UnknownFeedbackError
from feedback.lines import MAX_LINES, read_decision, read_outcome, shadows_as_json, utc
from feedback.recording import Recording
from feedback.said import Receipt, Said
from storage import events, policies
from storage.feedback import retract_feedback


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
            event.split,
            event.variant,
            event.unit,
            shadows_as_json(event),
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
    connection: sa.Connection, project_id: UUID, said: Said, *, source: str, now: datetime
) -> Receipt:
    """Store one feedback: a batch of one.

    Raises:
        InvalidEventError: The metric is unknown, the value does not fit, or an id is no UUIDv7.
        KeyReusedError: The key was used with another body.
    """
    [answer] = record_feedback_batch(connection, project_id, [said], source=source, now=now)
    if isinstance(answer, FeedbackError):
        raise answer
    return answer


def record_feedback_batch(
    connection: sa.Connection, project_id: UUID, said: Sequence[Said], *, source: str, now: datetime
) -> list[Receipt | FeedbackError]:
    """Store feedback; each item is answered as if they had come one by one, a bad one by its error.

    Of what one source says of the same thing, the latest counts. The same key with the same body
    stores nothing and gives the first one's id. Without a key, what came before with the same
    time, or without a time and saying what the source's last word says already, is a duplicate.

    All locks are taken here, in an order that all keep to, and held until the commit: two
    transactions that record several batches each may wait for each other in a circle.

    Raises:
        InvalidEventError: There are too many items.
    """
    if len(said) > MAX_LINES:
        raise InvalidEventError("", f"the batch has {len(said)} items: give at most {MAX_LINES}")
    return Recording(connection, project_id, source, now).record(said)


def retract(connection: sa.Connection, project_id: UUID, feedback_id: UUID, now: datetime) -> None:
    """Take feedback back, with what it amended; the decisions that it spoke of are joined again.

    Raises:
        UnknownFeedbackError: The project has no such feedback.
    """
    if not retract_feedback(connection, project_id, feedback_id, now):
        raise UnknownFeedbackError(f"feedback {feedback_id} does not exist in this project")
