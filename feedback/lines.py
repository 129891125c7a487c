"""The events that edges send, line by line: what is a valid decision, and a valid outcome."""

import math
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from uuid import UUID

import msgspec

from feedback.errors import InvalidEventError
from feedback.metrics import OUTCOMES
from learners.ids import IdError, parse, time_of

MAX_LINES = 5_000
MAX_LINE_BYTES = 256 * 2**10
MAX_ARMS = 1_000
MAX_FEATURES = 512
MAX_TEXT = 256
MAX_VECTOR = 4_096
TOLERANCE = 1e-6
AHEAD = timedelta(hours=1)
"""How far a sender's clock may run ahead of ours."""


class DecisionLine(msgspec.Struct, frozen=True, kw_only=True):
    """One line of ``POST /v1/decisions:batch``."""

    decision_id: str
    policy: str
    version: int
    serial: int
    digest: str
    at: datetime
    context: dict[str, Any]
    eligible: list[str]
    distribution: list[float]
    action: str
    propensity: float
    mode: Literal["policy", "fallback", "retry"] = "policy"
    retry_of: str | None = None
    session_id: str | None = None
    episode_id: str | None = None
    edge_id: str | None = None


class OutcomeLine(msgspec.Struct, frozen=True, kw_only=True):
    """One line of ``POST /v1/outcomes:batch``."""

    decision_id: str
    at: datetime
    values: dict[str, float]
    response_id: str | None = None


_DECISION = msgspec.json.Decoder(DecisionLine)
_OUTCOME = msgspec.json.Decoder(OutcomeLine)


def read_decision(line: bytes, now: datetime) -> tuple[UUID, DecisionLine]:
    """A valid decision with its id.

    Raises:
        InvalidEventError: Naming the field, the value and the remedy.
    """
    row = _decode(_DECISION, line)
    found = read_id("decision_id", row.decision_id, now)
    if row.retry_of is not None:
        read_id("retry_of", row.retry_of, now)
    _aware(row.at)
    for name in ("policy", "digest", "session_id", "episode_id", "edge_id"):
        _short(name, getattr(row, name))
    _check_distribution(row)
    _check_context(row.context)
    return found, row


def read_outcome(line: bytes, now: datetime) -> tuple[UUID, OutcomeLine]:
    """A valid outcome with its decision's id.

    Raises:
        InvalidEventError: Naming the field, the value and the remedy.
    """
    row = _decode(_OUTCOME, line)
    found = read_id("decision_id", row.decision_id, now)
    _aware(row.at)
    _short("response_id", row.response_id)
    for name, value in row.values.items():
        if name not in OUTCOMES:
            raise InvalidEventError("values", f"values.{name}: give only {list(OUTCOMES)}")
        if not (math.isfinite(value) and value >= 0):
            raise InvalidEventError("values", f"values.{name} is {value}: give at least 0, finite")
    return found, row


def read_id(field: str, text: str, now: datetime) -> UUID:
    """A UUIDv7 whose time has come.

    Raises:
        InvalidEventError: It is no UUIDv7, or lies more than an hour ahead.
    """
    try:
        found = parse(text)
    except IdError as error:
        raise InvalidEventError(field, f"{field}: {error}") from error
    if (found.int >> 80) / 1000 > (now + AHEAD).timestamp():
        raise InvalidEventError(
            field,
            f"{field} {text} carries the time {_shown(found)}, which is ahead of ours "
            f"({now.isoformat()}): set the sender's clock",
        )
    return found


def _shown(identifier: UUID) -> str:
    try:
        return time_of(identifier).isoformat()
    except (OverflowError, ValueError):
        return "past the year 9999"


def _decode(decoder: msgspec.json.Decoder[Any], line: bytes) -> Any:
    if len(line) > MAX_LINE_BYTES:
        raise InvalidEventError("", f"the line has {len(line)} bytes: at most {MAX_LINE_BYTES}")
    try:
        return decoder.decode(line)
    except msgspec.ValidationError as error:
        message = str(error)
        field = message.rpartition("$.")[2].rstrip("`") if "$." in message else ""
        if "missing required field" in message:
            field = message.split("`")[1]
        raise InvalidEventError(field, message) from error
    except msgspec.DecodeError as error:
        raise InvalidEventError("", f"the line is not JSON: {error}") from error


def _aware(at: datetime) -> None:
    if at.tzinfo is None:
        raise InvalidEventError("at", f"at {at.isoformat()} has no zone: add Z or an offset")


def _short(name: str, text: str | None) -> None:
    if text is not None and (len(text) > MAX_TEXT or "\x00" in text):
        raise InvalidEventError(
            name, f"{name} has {len(text)} characters: at most {MAX_TEXT}, and no NUL"
        )


def _check_distribution(row: DecisionLine) -> None:
    if not 1 <= len(row.eligible) <= MAX_ARMS or len(set(row.eligible)) != len(row.eligible):
        raise InvalidEventError("eligible", f"eligible: give 1 to {MAX_ARMS} arms, each once")
    for arm in row.eligible:
        _short("eligible", arm)
    if len(row.distribution) != len(row.eligible):
        raise InvalidEventError(
            "distribution",
            f"distribution has {len(row.distribution)} numbers for {len(row.eligible)} arms",
        )
    total = math.fsum(row.distribution)
    if not (min(row.distribution) >= 0 and abs(total - 1) <= TOLERANCE):
        raise InvalidEventError(
            "distribution", f"distribution sums to {total}: give probabilities that sum to 1"
        )
    if row.action not in row.eligible:
        raise InvalidEventError("action", f"action {row.action!r} is not among the eligible arms")
    served = row.distribution[row.eligible.index(row.action)]
    if not 0 < row.propensity <= 1 or abs(served - row.propensity) > TOLERANCE:
        raise InvalidEventError(
            "propensity",
            f"propensity {row.propensity} is not the {served} that distribution gives "
            f"{row.action!r}: log the served probability",
        )


def _check_context(context: Mapping[str, Any]) -> None:
    if len(context) > MAX_FEATURES:
        raise InvalidEventError("context", f"context has {len(context)} features: at most 512")
    for name, value in context.items():
        if not _fits(value) or len(name) > MAX_TEXT or "\x00" in name:
            raise InvalidEventError(
                "context",
                f"context.{name[:MAX_TEXT]} is {repr(value)[:80]}: give a finite number, true or "
                f"false, a text of at most {MAX_TEXT} characters, or a list of numbers",
            )


def _fits(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) <= MAX_TEXT and "\x00" not in value
    if isinstance(value, (int, float)):
        return math.isfinite(value)
    if isinstance(value, list) and len(value) <= MAX_VECTOR:
        return all(isinstance(v, (int, float)) and math.isfinite(v) for v in value)
    return False


def utc(at: datetime) -> datetime:
    """The same moment in UTC."""
    return at.astimezone(UTC)
