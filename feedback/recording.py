"""Feedback, a batch at a time: a few statements for all, answered as if it had come one by one."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from feedback.errors import FeedbackError, InvalidEventError, KeyReusedError, MetricError
from feedback.lines import read_id, utc
from feedback.metrics import Metric
from feedback.said import Receipt, Said, Status, check, fingerprint
from learners.ids import ENTROPY_BYTES, uuid7
from storage import events, policies
from storage import feedback as stored
from storage.feedback import Earlier, StoredFeedback

Items = Mapping[int, Said]
"""Items by their place in the batch."""

Answer = Receipt | FeedbackError


@dataclass(frozen=True, slots=True)
class Recording:
    """What one source says in one transaction."""

    connection: sa.Connection
    project_id: UUID
    source: str
    now: datetime

    def record(self, said: Sequence[Said]) -> list[Answer]:
        """Store what is new, and answer each item."""
        answers = self._refused(said)
        items = {n: one for n, one in enumerate(said) if n not in answers}
        keys = self._claim(items)
        rows = self._rows({n: one for n, one in items.items() if not keys.hold(one)})
        words = Words(self._earlier(rows, items))
        for n, one in items.items():
            answers[n] = keys.answer(one) or words.answer(rows[n], timed=bool(one.occurred_at))
            keys.use(one, n, answers[n])
        self._store(words.new, answers)
        self._settle(keys, answers)
        return [answers[n] for n in range(len(said))]

    def _refused(self, said: Sequence[Said]) -> dict[int, Answer]:
        refused: dict[int, Answer] = {}
        for n, one in enumerate(said):
            try:
                check(one, self.now)
            except InvalidEventError as error:
                refused[n] = error
        return refused

    def _claim(self, items: Items) -> "Keys":
        keys = {one.key for one in items.values() if one.key is not None}
        if not keys:
            return Keys(keys, {})
        names = [self._name(key) for key in keys]
        before = events.claim_keys(self.connection, self.project_id, names, self.now)
        start = len(self._name(""))
        used = {
            name[start:]: (body, UUID(told["feedback_id"])) for name, (body, told) in before.items()
        }
        return Keys(keys - set(used), used)

    def _name(self, key: str) -> str:
        return f"{self.source}\x1f{key}"

    def _rows(self, items: Items) -> dict[int, StoredFeedback | InvalidEventError]:
        if not items:
            return {}
        responses = {one.identifier for one in items.values() if one.about == "response_id"}
        found = (
            events.decisions_of_responses(self.connection, self.project_id, responses)
            if responses
            else {}
        )
        metrics = self._metrics({one.metric for one in items.values()})
        # Ids that rise: of what is said at one moment, the last counts.
        ids = sorted(uuid7(self.now, os.urandom(ENTROPY_BYTES)) for _ in items)
        rows: dict[int, StoredFeedback | InvalidEventError] = {}
        for feedback_id, (n, one) in zip(ids, items.items(), strict=True):
            try:
                decision_id = _decision(one, found, self.now)
                rows[n] = self._row(feedback_id, one, decision_id, metrics.number(one))
            except InvalidEventError as error:
                rows[n] = error
        return rows

    def _row(
        self, feedback_id: UUID, one: Said, decision_id: UUID | None, number: float | None
    ) -> StoredFeedback:
        return StoredFeedback(
            feedback_id=feedback_id,
            project_id=self.project_id,
            decision_id=decision_id,
            episode_id=one.identifier if one.about == "episode_id" else None,
            metric=one.metric,
            value=one.value,
            number=number,
            source=self.source,
            occurred_at=utc(one.occurred_at) if one.occurred_at else self.now,
            tags=dict(one.tags),
            received_at=self.now,
        )

    def _metrics(self, names: set[str]) -> "Metrics":
        specs = policies.find_metrics(self.connection, self.project_id, names)
        declared = list(specs)
        if len(specs) < len(names):
            declared = list(policies.list_metrics(self.connection, self.project_id))
        return Metrics({n: Metric.from_json(n, spec) for n, spec in specs.items()}, declared)

    def _earlier(
        self, rows: Mapping[int, StoredFeedback | InvalidEventError], items: Items
    ) -> dict[UUID, Earlier]:
        asked = {n: row for n, row in rows.items() if isinstance(row, StoredFeedback)}
        if not asked:
            return {}
        timed = {row.feedback_id for n, row in asked.items() if items[n].occurred_at}
        return stored.earlier_feedback(self.connection, list(asked.values()), timed)

    def _store(self, new: Mapping[UUID, StoredFeedback], answers: dict[int, Answer]) -> None:
        if not new:
            return
        joined = stored.add_feedback(self.connection, list(new.values()))
        for n, answer in answers.items():
            if isinstance(answer, Receipt) and answer.status != "duplicate":
                status = _status(new[answer.feedback_id], joined)
                answers[n] = Receipt(answer.feedback_id, status)

    def _settle(self, keys: "Keys", answers: Mapping[int, Answer]) -> None:
        settled: dict[str, tuple[bytes, Any]] = {}
        for key, n in keys.places.items():
            answer = answers[n]
            if isinstance(answer, Receipt):
                told = {"feedback_id": str(answer.feedback_id), "status": answer.status}
                settled[self._name(key)] = (keys.used[key][0], told)
        if settled:
            events.settle_keys(self.connection, self.project_id, settled)
        idle = [self._name(key) for key in keys.claimed - set(keys.places)]
        if idle:
            events.release_keys(self.connection, self.project_id, idle)


@dataclass(frozen=True, slots=True)
class Keys:
    """The idempotency keys of a batch.

    Attributes:
        claimed: those that are new.
        used: the others, and in time the new ones: the body's fingerprint and the feedback's id.
        places: for each new one, the item that came to use it.
    """

    claimed: set[str]
    used: dict[str, tuple[bytes, UUID]]
    places: dict[str, int] = field(default_factory=dict)

    def hold(self, one: Said) -> bool:
        """Whether the item's key was used before."""
        return one.key in self.used

    def answer(self, one: Said) -> Answer | None:
        """What an item is told whose key was used; None for any other."""
        if one.key is None or one.key not in self.used:
            return None
        body, feedback_id = self.used[one.key]
        if body == fingerprint(one):
            return Receipt(feedback_id, "duplicate")
        return KeyReusedError(
            f"idempotency key {one.key!r} was used with another body: give each event its own key"
        )

    def use(self, one: Said, place: int, answer: Answer) -> None:
        """Have the item's key stand for its receipt; the key of one that failed stays free."""
        if one.key is None or one.key in self.used or not isinstance(answer, Receipt):
            return
        self.used[one.key] = (fingerprint(one), answer.feedback_id)
        self.places[one.key] = place


@dataclass(frozen=True, slots=True)
class Words:
    """What was said before, in other transactions and in this one.

    Attributes:
        earlier: what the tables hold against each row, by the row's id.
        new: what this batch adds.
        last: of that, what counts of each subject.
        moments: of that, what was said of a subject at a time.
    """

    earlier: Mapping[UUID, Earlier]
    new: dict[UUID, StoredFeedback] = field(default_factory=dict)
    last: dict[Any, StoredFeedback] = field(default_factory=dict)
    moments: dict[Any, UUID] = field(default_factory=dict)

    def answer(self, row: StoredFeedback | InvalidEventError, *, timed: bool) -> Answer:
        """Whether the row is new; then it is remembered."""
        if isinstance(row, InvalidEventError):
            return row
        found = self._same(row) if timed else self._standing(row)
        if found is not None:
            return Receipt(found, "duplicate")
        self._remember(row)
        return Receipt(row.feedback_id, "accepted")

    def _same(self, row: StoredFeedback) -> UUID | None:
        earlier = self.earlier.get(row.feedback_id)
        return earlier.feedback_id if earlier else self.moments.get(_moment(row))

    def _standing(self, row: StoredFeedback) -> UUID | None:
        said = (self.earlier.get(row.feedback_id), self.last.get(_subject(row)))
        last = max((word for word in said if word is not None), key=_age, default=None)
        return last.feedback_id if last is not None and last.value == row.value else None

    def _remember(self, row: StoredFeedback) -> None:
        self.new[row.feedback_id] = row
        self.moments.setdefault(_moment(row), row.feedback_id)
        subject = _subject(row)
        self.last[subject] = max(self.last.get(subject, row), row, key=_age)


@dataclass(frozen=True, slots=True)
class Metrics:
    """The metrics that a batch names, and the names of all that it might."""

    known: Mapping[str, Metric]
    declared: Sequence[str]

    def number(self, said: Said) -> float | None:
        """The value as a number.

        Raises:
            InvalidEventError: The metric is not declared, or does not fit what was said.
        """
        metric = self.known.get(said.metric)
        if metric is None:
            raise InvalidEventError(
                "metric",
                f"metric {said.metric!r} is not declared: declare it by "
                f"PUT /v1/metrics/{said.metric}, or give one of {self.declared}",
            )
        if metric.level == "episode" and said.about != "episode_id":
            raise InvalidEventError(
                said.about,
                f"{said.about} is {said.identifier!r}, and metric {metric.name!r} is of level "
                "episode: give episode_id",
            )
        try:
            return metric.number(said.value)
        except MetricError as error:
            raise InvalidEventError("value", str(error)) from error


def _decision(said: Said, responses: Mapping[str, UUID], now: datetime) -> UUID | None:
    if said.about == "episode_id":
        return None
    if said.about == "decision_id":
        return read_id("decision_id", said.identifier, now)
    if said.identifier in responses:
        return responses[said.identifier]
    raise InvalidEventError(
        "response_id",
        f"response {said.identifier!r} is not known yet: its outcome arrives a few seconds "
        "after the answer; try again, or give x-route-decision-id as decision_id",
    )


def _status(row: StoredFeedback, joined: Mapping[UUID, bool]) -> Status:
    if row.decision_id is None:
        return "accepted"
    if row.decision_id not in joined:
        return "pending_join"
    return "late" if joined[row.decision_id] else "accepted"


def _subject(row: StoredFeedback) -> tuple[Any, ...]:
    return (row.decision_id, row.episode_id, row.metric)


def _moment(row: StoredFeedback) -> tuple[Any, ...]:
    return (*_subject(row), row.occurred_at, row.value)


def _age(said: Earlier | StoredFeedback) -> tuple[datetime, UUID]:
    return (said.occurred_at, said.feedback_id)
