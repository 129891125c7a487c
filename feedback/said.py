"""What an app says of a decision or an episode, and what of it no table could hold."""

import hashlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from feedback.errors import InvalidEventError
from feedback.lines import MAX_TEXT, check_text, check_time, utc
from feedback.metrics import MAX_COMMENT
from learners.features import canonical_json

Status = Literal["accepted", "duplicate", "pending_join", "late"]
MAX_TAGS = 32
MAX_NUMBER = sys.float_info.max


@dataclass(frozen=True, slots=True)
class Said:
    """Feedback as an app sends it.

    Attributes:
        about: what ``identifier`` names.
        key: the idempotency key: the same one with the same body stores nothing.
    """

    about: Literal["decision_id", "episode_id", "response_id"]
    identifier: str
    metric: str
    value: Any
    occurred_at: datetime | None = None
    tags: Mapping[str, Any] = field(default_factory=dict)
    key: str | None = None


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of one feedback."""

    feedback_id: UUID
    status: Status


def check(said: Said, now: datetime) -> None:
    """Refuse what no database could hold, before anything is hashed or asked.

    Raises:
        InvalidEventError: Naming the field, the value and the remedy.
    """
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
    if said.key is not None:
        check_text("Idempotency-Key", said.key)


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


def fingerprint(said: Said) -> bytes:
    """Equal for equal bodies, whatever their keys."""
    body = {
        "about": said.about,
        "identifier": said.identifier,
        "metric": said.metric,
        "value": said.value,
        "occurred_at": utc(said.occurred_at).isoformat() if said.occurred_at else None,
        "tags": dict(said.tags),
    }
    return hashlib.sha256(canonical_json(body)).digest()
