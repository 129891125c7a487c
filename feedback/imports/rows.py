"""What a foreign log's row becomes, and the account of what could not be brought."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

from learners.records import Context

Entry = Mapping[str, Any]
"""One record of a file as it stands there, by field; a CSV's values are texts."""

MISSING = "is missing"
UNREADABLE = "cannot be read"


@dataclass(frozen=True, slots=True)
class Row:
    """One choice of another system, with what came of it.

    Attributes:
        key: names the row within its format for good: the same key is the same decision.
        at: when it was decided; None where the log does not say.
        models: what served, by each name that the log gives it, the most exact first.
        context: features, never the prompt.
        propensity: in (0, 1]; None where the log has none.
        values: outcomes, by the names of :data:`feedback.metrics.OUTCOMES`.
        said: feedback by metric.
        session_id: what the row belongs to.
        response_id: the provider's.
        query: what was asked: equal for rows that put the same to several models.
        text: the prompt, for a table that stays with whoever imports; it is not stored.
        domain: the kind of question.
    """

    key: str
    at: datetime | None
    models: tuple[str, ...]
    context: Context
    propensity: float | None = None
    values: Mapping[str, float] = field(default_factory=dict)
    said: Mapping[str, Any] = field(default_factory=dict)
    session_id: str | None = None
    response_id: str | None = None
    query: str = ""
    text: str | None = None
    domain: str | None = None


@dataclass(slots=True)
class Account:
    """How many rows and fields were left behind, by field and reason.

    ``undeclared``: feedback by the name that the log has for it and the metric that it would be.
    """

    read: int = 0
    skipped: Counter[tuple[str, str]] = field(default_factory=Counter)
    lost: Counter[tuple[str, str]] = field(default_factory=Counter)
    undeclared: Counter[tuple[str, str]] = field(default_factory=Counter)

    def skip(self, of: str, reason: str, rows: int = 1) -> None:
        """Whole rows stayed behind, because of this field."""
        if rows:
            self.skipped[of, reason] += rows

    def lose(self, of: str, reason: str, rows: int = 1) -> None:
        """Rows came without this field."""
        if rows:
            self.lost[of, reason] += rows

    def lose_metric(self, of: str, metric: str) -> None:
        """A row came without this feedback, as the project does not have such a metric."""
        self.lose(of, f"no metric {metric[:80]!r} is declared")
        self.undeclared[of, metric] += 1

    def lose_known(self, entry: Entry, reasons: Mapping[str, str]) -> None:
        """Fields that have no place here, where the record says anything in them."""
        for name, reason in reasons.items():
            if entry.get(name) not in _EMPTY:
                self.lose(name, reason)

    def lose_unknown(self, entry: Entry, known: Iterable[str]) -> None:
        """Fields of which the importer has never heard."""
        for name in entry.keys() - set(known):
            if entry[name] not in _EMPTY:
                self.lose(str(name)[:128], "unknown to this importer")

    def as_json(self) -> dict[str, Any]:
        """Plain form, the most frequent first."""
        return {
            "read": self.read,
            "skipped": _ranked(self.skipped),
            "lost": _ranked(self.lost),
        }


class Reader(Protocol):
    """What each format's module has."""

    def read(self, entries: Iterable[Entry], account: Account) -> Iterator[Row]:
        """The rows of a file's records; what cannot be brought is put on the account."""


_EMPTY: tuple[Any, ...] = (None, "", 0, False, [], {})


def _ranked(counts: Mapping[tuple[str, str], int]) -> list[dict[str, Any]]:
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [{"field": of, "reason": reason, "rows": rows} for (of, reason), rows in ranked]


def text_of(entry: Entry, name: str) -> str | None:
    """A field as a text; None where it is blank."""
    value = entry.get(name)
    if value is None or isinstance(value, (dict, list, bool)):
        return None
    return str(value).strip() or None


def time_of(value: object) -> datetime | None:
    """A time: RFC 3339, PostgreSQL's form, or seconds since 1970; without a zone it is UTC."""
    try:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return datetime.fromtimestamp(value, UTC)
        if not isinstance(value, str) or not value.strip():
            return None
        found = datetime.fromisoformat(value.strip())
    except (ValueError, OverflowError, OSError):
        return None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)


def number_of(value: object) -> float | None:
    """A finite number, also where it is spelled as a text."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def flag_of(value: object) -> bool:
    """Whether a field says yes, as JSON or as a text."""
    return value is True or str(value).strip().lower() in {"true", "t", "1", "yes"}


def parsed(value: object) -> object:
    """What JSON a field holds as a text, such as a captured body; else the field itself."""
    if not isinstance(value, str) or not value.lstrip().startswith(("{", "[")):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def amounts(
    account: Account, of: Mapping[str, tuple[str, object]], *, least: float = 0.0
) -> dict[str, float]:
    """Outcomes that are finite numbers of at least ``least``.

    Args:
        account: where those stand that are not.
        of: by outcome, the foreign field's name and its value; None is not there.
        least: lowest that is believed.
    """
    found = {}
    for outcome, (name, value) in of.items():
        amount = number_of(value)
        if amount is not None and amount >= least:
            found[outcome] = amount
        else:
            blank = value is None or value == ""
            account.lose(name, MISSING if blank else UNREADABLE)
    return found


def messages_of(body: object) -> Sequence[object] | None:
    """The messages of a chat request, or a completion's prompt as one; None without either."""
    if isinstance(body, list):
        return body or None
    if not isinstance(body, Mapping):
        return None
    for name in ("messages", "input"):
        told = body.get(name)
        if isinstance(told, list) and told:
            return told
    for name in ("input", "prompt"):
        told = body.get(name)
        if isinstance(told, str) and told:
            return [{"role": "user", "content": told}]
    return None


def said_by_user(messages: Sequence[object]) -> str:
    """The texts that the user's messages hold, as the signals read them."""
    turns = [m for m in messages if isinstance(m, Mapping)]
    users = [m for m in turns if m.get("role") == "user"] or turns
    return "\n".join(text for m in users for text in _texts(m.get("content")))


def _texts(content: object) -> list[str]:
    if isinstance(content, str):
        return [content]
    if not isinstance(content, list):
        return []
    parts = [part.get("text") if isinstance(part, Mapping) else part for part in content]
    return [part for part in parts if isinstance(part, str)]
