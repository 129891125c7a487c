"""The events that edges send, line by line: what is a valid decision, and a valid outcome."""

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from msgspec import Meta

from feedback.errors import InvalidEventError
from feedback.metrics import OUTCOMES
from learners.ids import IdError, parse, time_of

MAX_LINES = 5_000
MAX_LINE_BYTES = 2**20
MAX_ARMS = 1_024
MAX_FEATURES = 512
MAX_TEXT = 256
MAX_FEATURE_TEXT = 1_024
MAX_COUNT = 2**63 - 1
MAX_SHADOWS = 8
TOLERANCE = 1e-6
AHEAD = timedelta(hours=1)
"""How far a sender's clock may run ahead of ours."""
EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)

Text = Annotated[str, Meta(max_length=MAX_TEXT)]
Count = Annotated[int, Meta(ge=0, le=MAX_COUNT)]
Whole = Annotated[int, Meta(ge=-MAX_COUNT, le=MAX_COUNT)]
Feature = Whole | float | bool | Annotated[str, Meta(max_length=MAX_FEATURE_TEXT)] | list[float]
Amount = Annotated[float, Meta(ge=0)]
Probability = Annotated[float, Meta(ge=0, le=1 + TOLERANCE)]
Time = Annotated[datetime, Meta(tz=True)]


class ShadowLine(msgspec.Struct, frozen=True, kw_only=True):
    """What a version would have chosen that watches: its own draw, and its view of what served.

    ``served`` is the probability that it gives to the arm that was served.
    """

    version: Count
    action: Text
    propensity: Probability
    served: Probability


class DecisionLine(msgspec.Struct, frozen=True, kw_only=True):
    """One line of ``POST /v1/decisions:batch``."""

    decision_id: Text
    policy: Text
    version: Count
    serial: Count
    digest: Text
    at: Time
    context: Annotated[dict[Text, Feature], Meta(max_length=MAX_FEATURES)]
    eligible: Annotated[list[Text], Meta(min_length=1, max_length=MAX_ARMS)]
    distribution: list[Probability]
    action: Text
    propensity: float
    mode: Literal["policy", "fallback", "retry", "shadow"] = "policy"
    retry_of: Text | None = None
    session_id: Text | None = None
    episode_id: Text | None = None
    edge_id: Text | None = None
    split: Text | None = None
    variant: Text | None = None
    unit: Text | None = None
    shadows: Annotated[list[ShadowLine], Meta(max_length=MAX_SHADOWS)] = []


class OutcomeLine(msgspec.Struct, frozen=True, kw_only=True):
    """One line of ``POST /v1/outcomes:batch``."""

    decision_id: Text
    at: Time
    values: Annotated[dict[str, Amount], Meta(max_length=len(OUTCOMES))]
    response_id: Text | None = None


_DECISION = msgspec.json.Decoder(DecisionLine)
_OUTCOME = msgspec.json.Decoder(OutcomeLine)
_TEXT = f"a text of at most {MAX_TEXT} characters"
_COUNT = "a whole number from 0 to 2^63 - 1"
_REMEDY: Mapping[str, str] = {
    "": "a JSON object",
    "decision_id": "a UUIDv7",
    "retry_of": "the UUIDv7 of the decision that failed, or that a shadow watched, or null",
    "version": _COUNT,
    "serial": _COUNT,
    "at": "an RFC 3339 time with its zone, such as 2026-01-31T12:00:00Z",
    "context": f"at most {MAX_FEATURES} features, each a finite number within 64 bits, true or "
    f"false, a text of at most {MAX_FEATURE_TEXT} characters, or a list of numbers",
    "eligible": f"1 to {MAX_ARMS} arms, each {_TEXT}",
    "distribution": "the probability of each eligible arm, from 0 to 1",
    "propensity": "the served probability of the action",
    "mode": "policy, fallback, retry or shadow",
    "shadows": f"at most {MAX_SHADOWS} objects with version, action, propensity and served",
    "values": f"numbers of at least 0, named as in {list(OUTCOMES)}",
}
_HELD: Mapping[str, Any] = {"context": Feature, "values": Amount}
_PATH = re.compile(r"\$\.(\w+)")
_MISSING = re.compile(r"missing required field `(\w+)`")


def read_decision(line: bytes, now: datetime) -> tuple[UUID, DecisionLine]:
    """A valid decision with its id.

    Raises:
        InvalidEventError: Naming the field, the value and the remedy.
    """
    row: DecisionLine = _decode(_DECISION, line)
    found = read_id("decision_id", row.decision_id, now)
    if row.retry_of is not None:
        read_id("retry_of", row.retry_of, now)
    elif row.mode == "shadow":
        raise InvalidEventError(
            "retry_of", "retry_of is missing: a decision of mode shadow names the one that served"
        )
    check_time("at", row.at, now)
    _check_distribution(row)
    return found, row


def read_outcome(line: bytes, now: datetime) -> tuple[UUID, OutcomeLine]:
    """A valid outcome with its decision's id.

    Raises:
        InvalidEventError: Naming the field, the value and the remedy.
    """
    row: OutcomeLine = _decode(_OUTCOME, line)
    found = read_id("decision_id", row.decision_id, now)
    check_time("at", row.at, now)
    for name in row.values:
        if name not in OUTCOMES:
            raise InvalidEventError(
                "values", f"values.{name[:MAX_TEXT]} is not measured: give only {list(OUTCOMES)}"
            )
    return found, row


def shadows_as_json(event: DecisionLine) -> dict[str, Any] | None:
    """What a decision's shadows would have done, by their versions; None without any."""
    return {
        str(one.version): {
            "action": one.action,
            "propensity": one.propensity,
            "served": one.served,
        }
        for one in event.shadows
    } or None


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
            f"{field} {text} carries the time {_shown_time(found)}, which is ahead of ours "
            f"({now.isoformat()}): set the sender's clock",
        )
    return found


def check_time(field: str, at: datetime, now: datetime) -> None:
    """Refuse a time that has no zone, or that a sender with a working clock does not send.

    Raises:
        InvalidEventError: Naming the field, the value and the remedy.
    """
    if at.tzinfo is None:
        raise InvalidEventError(field, f"{field} {at.isoformat()} has no zone: add Z or an offset")
    if not EARLIEST <= at <= now + AHEAD:
        raise InvalidEventError(
            field,
            f"{field} {at.isoformat()} is before 1970 or ahead of our time "
            f"({now.isoformat()}): set the sender's clock",
        )


def check_text(field: str, text: str, limit: int = MAX_TEXT) -> None:
    """Refuse a text that is too long, or that a database cannot hold.

    Raises:
        InvalidEventError: Naming the field, the value and the remedy.
    """
    if len(text) > limit:
        raise InvalidEventError(field, f"{field} has {len(text)} characters: give at most {limit}")
    if "\x00" in text or not _encodes(text):
        raise InvalidEventError(
            field, f"{field} is {text[:80]!r}: give characters of Unicode without NUL"
        )


def utc(at: datetime) -> datetime:
    """The same moment in UTC."""
    return at.astimezone(UTC)


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can spell
        return False
    return True


def _shown_time(identifier: UUID) -> str:
    try:
        return time_of(identifier).isoformat()
    except IdError:
        return "past the year 9999"


def _decode(decoder: msgspec.json.Decoder[Any], line: bytes) -> Any:
    if len(line) > MAX_LINE_BYTES:
        raise InvalidEventError(
            "", f"the line has {len(line)} bytes: give at most {MAX_LINE_BYTES}"
        )
    try:
        row = decoder.decode(line)
    except msgspec.ValidationError as error:
        raise _refused(line, str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidEventError("", f"the line is not JSON in UTF-8: {error}") from error
    if b"\\u0000" in line:  # the one way to spell it in JSON
        for name in decoder.type.__struct_fields__:
            _refuse_nul(name, getattr(row, name))
    return row


def _refused(line: bytes, message: str) -> InvalidEventError:
    if missing := _MISSING.search(message):
        field = missing[1]
        return InvalidEventError(field, f"{field} is missing: give {_REMEDY.get(field, _TEXT)}")
    path = _PATH.search(message)
    field = path[1] if path else ""
    expected = message.partition(" - at ")[0]
    return InvalidEventError(
        field, f"{_value(line, field)}: give {_REMEDY.get(field, _TEXT)} ({expected})"
    )


def _value(line: bytes, field: str) -> str:
    """What is refused and what it holds, as far as that can be read, shortened."""
    name = field or "the line"
    try:
        row = msgspec.json.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return f"{name} is out of range"
    value = row.get(field) if field and isinstance(row, dict) else row
    if field in _HELD and isinstance(value, dict):
        for key, held in value.items():
            if not _fits(held, _HELD[field]):
                name, value = f"{field}.{key[:MAX_TEXT]}", held
                break
    shown = repr(value)
    return f"{name} is {shown if len(shown) <= 80 else shown[:80] + '…'}"


def _fits(value: Any, kind: Any) -> bool:
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError:
        return False
    return True


def _refuse_nul(field: str, value: Any) -> None:
    if isinstance(value, str):
        check_text(field, value, MAX_LINE_BYTES)
    elif isinstance(value, Mapping):
        for name, held in value.items():
            _refuse_nul(field, name)
            _refuse_nul(f"{field}.{name}", held)
    elif isinstance(value, list):
        for held in value:
            _refuse_nul(field, held)


def _check_distribution(row: DecisionLine) -> None:
    if len(set(row.eligible)) != len(row.eligible):
        raise InvalidEventError("eligible", f"eligible is {row.eligible[:8]}: give each arm once")
    if len(row.distribution) != len(row.eligible):
        raise InvalidEventError(
            "distribution",
            f"distribution has {len(row.distribution)} numbers for {len(row.eligible)} arms: give "
            "one for each, in their order",
        )
    total = math.fsum(row.distribution)
    if not abs(total - 1) <= TOLERANCE:
        raise InvalidEventError(
            "distribution", f"distribution sums to {total}: give probabilities that sum to 1"
        )
    if row.action not in row.eligible:
        raise InvalidEventError(
            "action", f"action {row.action!r} is not eligible: give one of {row.eligible[:8]}"
        )
    served = row.distribution[row.eligible.index(row.action)]
    if not 0 < row.propensity <= 1 or abs(served - row.propensity) > TOLERANCE:
        raise InvalidEventError(
            "propensity",
            f"propensity {row.propensity} is not the {served} that distribution gives "
            f"{row.action!r}: log the served probability, above 0",
        )
