"""JSON lines in OpenAI's forms: batch requests, batch results, and requests with their responses.

* A batch's input: ``custom_id``, ``method``, ``url``, ``body``.
* A batch's output or error file: ``custom_id``, ``response`` of ``status_code`` and ``body``,
  ``error``. A result finds its request by its ``custom_id``, wherever that stands among the files.
* A pair: ``request`` and ``response``, each a body as the API takes and gives it. Beside them may
  stand what no such body holds: ``id``, ``created`` (seconds since 1970), ``latency_s``,
  ``cost_usd``, ``propensity``, ``session_id``, ``domain``, and ``feedback``: values by metric.

Bodies are those of chat completions, completions and responses, as of the API of 2026.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from feedback.imports.rows import (
    MISSING,
    UNREADABLE,
    Account,
    Entry,
    Row,
    amounts,
    messages_of,
    number_of,
    said_by_user,
    text_of,
    time_of,
)
from kernels.signals.text import read_messages

_BESIDE = frozenset(
    {
        "id", "custom_id", "method", "url", "body", "request", "response", "error", "created",
        "latency_s", "cost_usd", "propensity", "session_id", "domain", "feedback",
    }
)  # fmt: skip
_EMBEDDINGS = "embeddings"


@dataclass(frozen=True, slots=True)
class _Answer:
    """One result with the request that it answers, if that is there."""

    entry: Entry
    request: Mapping[str, Any] | None
    status: float | None
    body: Mapping[str, Any]


def read(entries: Iterable[Entry], account: Account) -> Iterator[Row]:
    """The rows of requests and their results."""
    asked: dict[str, list[Mapping[str, Any]]] = {}
    results: list[Entry] = []
    for entry in entries:
        account.read += 1
        account.lose_unknown(entry, _BESIDE)
        if isinstance(entry.get("response"), Mapping) or entry.get("error"):
            results.append(entry)
        elif isinstance(entry.get("body"), Mapping) and text_of(entry, "custom_id"):
            asked.setdefault(str(text_of(entry, "custom_id")), []).append(entry["body"])
        else:
            account.skip("response", "neither a request nor a result")
    answered: set[str] = set()
    for entry in results:
        answer = _answer(entry, asked, account)
        answered.add(str(text_of(entry, "custom_id")))
        row = _row(answer, account)
        if row is not None:
            yield row
    lonely = sum(len(bodies) for name, bodies in asked.items() if name not in answered)
    account.skip("response", "a request without a result", lonely)


def _answer(
    entry: Entry, asked: Mapping[str, list[Mapping[str, Any]]], account: Account
) -> _Answer:
    told = entry.get("response")
    told = told if isinstance(told, Mapping) else {}
    body = told.get("body", told) if "status_code" in told or "body" in told else told
    body = body if isinstance(body, Mapping) else {}
    request = entry.get("request")
    if not isinstance(request, Mapping):
        bodies = asked.get(str(text_of(entry, "custom_id")), [])
        fitting = [one for one in bodies if _same_model(one, body)] or bodies
        request = fitting[0] if len(fitting) == 1 else None
        if len(fitting) > 1:
            account.lose("custom_id", "stands for several requests: none of them is taken")
    elif isinstance(request.get("body"), Mapping):
        request = request["body"]
    status = number_of(told.get("status_code"))
    return _Answer(entry, request, status, body)


def _same_model(request: Mapping[str, Any], body: Mapping[str, Any]) -> bool:
    """Whether the answer's model is the one asked for, or a dated snapshot of it."""
    asked = text_of(request, "model")
    return asked is not None and (text_of(body, "model") or "").startswith(asked)


def _row(answer: _Answer, account: Account) -> Row | None:
    entry, request, body = answer.entry, answer.request or {}, answer.body
    models = [text_of(body, "model"), text_of(request, "model")]
    named = tuple(dict.fromkeys(name for name in models if name))
    query = text_of(entry, "custom_id") or text_of(entry, "id")
    if not named:
        account.skip("model", MISSING)
        return None
    if body.get("object") == "list" or _EMBEDDINGS in (text_of(entry, "url") or ""):
        account.skip("object", "is no completion")
        return None
    messages = messages_of(request)
    if messages is None:
        account.lose("request", "is not there: the context is without signals of a text")
    text = said_by_user(messages) if messages else None
    identity = text_of(body, "id") or (f"{query}|{named[0]}" if query else None)
    if identity is None:
        account.skip("id", MISSING)
        return None
    return Row(
        key=identity,
        at=_at(entry, body),
        models=named,
        context=_context(entry, messages),
        propensity=_propensity(entry, account),
        values=_values(answer, account),
        said=_said(entry, account),
        session_id=text_of(entry, "session_id"),
        response_id=text_of(body, "id"),
        query=query or text or identity,
        text=text,
        domain=text_of(entry, "domain"),
    )


def _context(entry: Entry, messages: Iterable[object] | None) -> dict[str, Any]:
    context: dict[str, Any] = dict(read_messages(list(messages))) if messages else {}
    domain = text_of(entry, "domain")
    return context if domain is None else {**context, "domain": domain}


def _at(entry: Entry, body: Mapping[str, Any]) -> datetime | None:
    for told in (entry.get("created"), body.get("created"), body.get("created_at")):
        found = time_of(told)
        if found is not None:
            return found
    return None


def _propensity(entry: Entry, account: Account) -> float | None:
    found = number_of(entry.get("propensity"))
    if found is not None and 0 < found <= 1:
        return found
    reason = "is not logged" if entry.get("propensity") is None else "is not in (0, 1]"
    account.lose("propensity", f"{reason}: these rows serve the direct method only")
    return None


def _values(answer: _Answer, account: Account) -> dict[str, float]:
    usage = answer.body.get("usage")
    usage = usage if isinstance(usage, Mapping) else {}
    entry = answer.entry
    failed = bool(entry.get("error")) or (answer.status or 0.0) >= 400
    wanted = {
        "latency_s": ("latency_s", entry.get("latency_s")),
        "cost_usd": ("cost_usd", entry.get("cost_usd")),
    }
    if not failed:
        for outcome, one, other in (
            ("input_tokens", "prompt_tokens", "input_tokens"),
            ("output_tokens", "completion_tokens", "output_tokens"),
        ):
            wanted[outcome] = (f"usage.{one}", usage.get(one, usage.get(other)))
    return {**amounts(account, wanted), "error": float(failed)}


def _said(entry: Entry, account: Account) -> dict[str, Any]:
    told = entry.get("feedback")
    if told is None:
        return {}
    if not isinstance(told, Mapping):
        account.lose("feedback", UNREADABLE)
        return {}
    return {str(name): value for name, value in told.items() if value is not None}
