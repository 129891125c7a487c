"""Imported rows into the tables: decisions of the mode ``imported``, their outcomes and feedback.

An edge can send no decision without a propensity, and neither can anyone else by the API. A row of
a log that has none is stored with NaN, which no learner and no judge ever reads
(:func:`storage.log.stream` passes it over): it serves the direct method only. Of the others the
log tells the served arm's probability and no more, so an imported decision has no distribution.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
import sqlalchemy as sa

from feedback.errors import FeedbackError, InvalidEventError
from feedback.imports.rows import Account, Row
from feedback.ingest import record_feedback_batch, record_outcomes
from feedback.lines import MAX_FEATURES, MAX_LINES, MAX_TEXT, Feature, Text, check_text, check_time
from feedback.metrics import Metric
from feedback.said import Said
from learners.ids import ENTROPY_BYTES, uuid7
from learners.records import Arm
from storage import events

MODE = "imported"
UNKNOWN = float("nan")
BATCH = 2_000
"""Rows of one transaction."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where rows go.

    Attributes:
        kind: the format, which names the source of the feedback.
        arms: the policy's arms in service: what was eligible, as far as one can tell.
        names: a foreign model's name → the arm.
        metrics: what is declared, by the name that the project has for it.
        renamed: a foreign metric's name → the project's.
        at: when rows without a time of their own were decided; None: they stay behind.
    """

    project_id: UUID
    policy_id: UUID
    kind: str
    arms: tuple[str, ...]
    names: Mapping[str, str]
    metrics: Mapping[str, Metric]
    renamed: Mapping[str, str] = field(default_factory=dict)
    at: datetime | None = None

    @property
    def source(self) -> str:
        """Who is taken to have said the feedback."""
        return f"import:{self.kind}"


@dataclass(frozen=True, slots=True)
class Brought:
    """What is new in the tables, and how much of the rest was there already."""

    decisions: int = 0
    without_propensity: int = 0
    known: int = 0
    outcomes: int = 0
    feedback: int = 0

    def __add__(self, other: "Brought") -> "Brought":
        """Both together."""
        return Brought(*(getattr(self, name) + getattr(other, name) for name in Brought.__slots__))


@dataclass(frozen=True, slots=True)
class _Placed:
    """A row that has its decision."""

    decision_id: UUID
    at: datetime
    arm: str
    context: dict[str, Any]
    row: Row


def arm_names(arms: Sequence[Arm], given: Mapping[str, str]) -> dict[str, str]:
    """A foreign name → the arm: by what was given, else by an arm's own name, else by its model.

    A model that several arms have names none of them.
    """
    by_model: dict[str, set[str]] = {}
    for arm in arms:
        by_model.setdefault(arm.model, set()).add(arm.name)
    plain = {model: min(names) for model, names in by_model.items() if len(names) == 1}
    return {**plain, **{arm.name: arm.name for arm in arms}, **given}


def bring(
    connection: sa.Connection, target: Target, rows: Sequence[Row], account: Account, now: datetime
) -> Brought:
    """Store rows, at most :data:`BATCH`; what was brought before is stored once.

    What cannot be stored is put on the account.
    """
    placed = [one for row in rows if (one := place(target, row, account, now)) is not None]
    if not placed:
        return Brought()
    decisions = [_decision(target, one, now) for one in placed]
    added = events.add_decisions(connection, target.project_id, decisions)
    lines = [_outcome(one, account) for one in placed if one.row.values]
    outcomes = record_outcomes(connection, target.project_id, lines, now)
    for refused in outcomes.rejected:
        account.lose(refused.field or "outcome", "was refused as an outcome")
    return Brought(
        decisions=added,
        without_propensity=sum(one.row.propensity is None for one in placed),
        known=len(placed) - added,
        outcomes=outcomes.accepted,
        feedback=_feedback(connection, target, placed, account, now),
    )


def place(target: Target, row: Row, account: Account, now: datetime) -> _Placed | None:
    """The row with its arm, its time and its id; None where one of them cannot be."""
    arm = next((target.names[name] for name in row.models if name in target.names), None)
    if arm is None or arm not in target.arms:
        account.skip("model", f"{row.models[0][:80]!r} is no arm of the policy's pool")
        return None
    at = row.at or target.at
    if at is None:
        account.skip("at", "the row has no time: give --at")
        return None
    try:
        check_time("at", at, now)
    except InvalidEventError:
        account.skip("at", "is before 1970 or in the future")
        return None
    told = "\x1f".join((target.kind, str(target.policy_id), row.key)).encode(errors="replace")
    entropy = hashlib.sha256(told).digest()[:ENTROPY_BYTES]
    return _Placed(uuid7(at, entropy), at, arm, _context(row, account), row)


def _context(row: Row, account: Account) -> dict[str, Any]:
    """The features that a decision may hold."""
    kept = {}
    for name, value in row.context.items():
        try:
            check_text("context", msgspec.convert(name, Text))
            kept[name] = msgspec.convert(value, Feature)
            if isinstance(value, str):
                check_text("context", value, len(value))
        except (msgspec.ValidationError, InvalidEventError):
            kept.pop(name, None)
            account.lose("context", "a feature is too long, or of no kind that a context takes")
    if len(kept) > MAX_FEATURES:
        account.lose("context", f"more than {MAX_FEATURES} features: the first were taken")
    return dict(list(kept.items())[:MAX_FEATURES])


def _decision(target: Target, one: _Placed, now: datetime) -> tuple[Any, ...]:
    row = one.row
    session = row.session_id if _fits(row.session_id) else None
    told: dict[str, Any] = {
        "decision_id": one.decision_id,
        "project_id": target.project_id,
        "policy_id": target.policy_id,
        "version": 0,
        "serial": 0,
        "digest": "",
        "at": one.at,
        "context": one.context,
        "eligible": list(target.arms),
        "distribution": [],
        "action": one.arm,
        "propensity": UNKNOWN if row.propensity is None else row.propensity,
        "mode": MODE,
        "session_id": session,
        "received_at": now,
    }
    return tuple(told.get(name) for name in events.DECISION_COLUMNS)


def _fits(text: str | None) -> bool:
    return text is not None and len(text) <= MAX_TEXT and text.isprintable()


def _outcome(one: _Placed, account: Account) -> bytes:
    response = one.row.response_id
    if response is not None and not _fits(response):
        account.lose("response_id", "is too long, or not printable")
        response = None
    line = {
        "decision_id": str(one.decision_id),
        "at": one.at.isoformat(),
        "values": dict(one.row.values),
        "response_id": response,
    }
    return msgspec.json.encode(line)


def _feedback(
    connection: sa.Connection,
    target: Target,
    placed: Sequence[_Placed],
    account: Account,
    now: datetime,
) -> int:
    said = list(_said(target, placed, account))
    new = 0
    for start in range(0, len(said), MAX_LINES):
        answers = record_feedback_batch(
            connection,
            target.project_id,
            said[start : start + MAX_LINES],
            source=target.source,
            now=now,
        )
        for one, answer in zip(said[start:], answers, strict=False):
            if isinstance(answer, FeedbackError):
                account.lose(one.metric, "a value does not fit the metric as it is declared")
            else:
                new += answer.status != "duplicate"
    return new


def _said(target: Target, placed: Sequence[_Placed], account: Account) -> Iterator[Said]:
    for one in placed:
        for told, value in one.row.said.items():
            name = target.renamed.get(told, told)
            metric = target.metrics.get(name)
            if metric is None:
                account.lose_metric(told[:MAX_TEXT], name[:MAX_TEXT])
                continue
            yield Said(
                about="decision_id",
                identifier=str(one.decision_id),
                metric=name,
                value=_fitting(metric, value),
                occurred_at=one.at,
            )


def _fitting(metric: Metric, value: Any) -> Any:
    """Yes and no in the metric's own form; anything else as it is."""
    if metric.type == "boolean" and value in (0, 1):
        return bool(value)
    if metric.type == "float" and isinstance(value, bool):
        return float(value)
    return value
