"""Router-replay records of vLLM's semantic router.

One record a line, a JSON array, or the ``data`` of its management API's list; the fields are those
of the records in its Postgres store (``src/semantic-router/pkg/routerreplay/store`` in 2026), and
each may be absent. No record holds the probability of the choice, so no row has a propensity.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from feedback.imports.rows import (
    MISSING,
    UNREADABLE,
    Account,
    Entry,
    Row,
    amounts,
    flag_of,
    messages_of,
    number_of,
    parsed,
    said_by_user,
    text_of,
    time_of,
)
from kernels.signals.text import read_messages

VERDICT = "verdict"
"""The metric that an outcome's verdict is said of."""

_BEYOND = "describes the router's own reckoning: no feature, outcome or feedback of ours"
_LOST: Mapping[str, str] = {
    "response_body": "answers are not kept",
    "reasoning_mode": "was chosen with the model: arms are told apart by their model alone",
    "tool_definitions": "prompts are not kept, and no signal reads tools",
    "request_body_truncated": "the signals are of the part that was captured",
    **dict.fromkeys(
        (
            "confidence_score",
            "selection_method",
            "projections",
            "projection_scores",
            "projection_trace",
            "signal_confidences",
            "signal_values",
            "tool_trace",
            "learning",
            "baseline_cost",
            "cost_savings",
            "decision_tier",
            "decision_priority",
            "jailbreak_confidence",
            "pii_entities",
            "rag_similarity_score",
            "hallucination_detected",
        ),
        _BEYOND,
    ),
}
_SILENT = frozenset(
    {
        "id", "timestamp", "request_id", "decision", "category", "original_model",
        "selected_model", "signals", "request_body", "prompt", "prompt_truncated",
        "response_status", "from_cache", "streaming", "response_body_truncated",
        "guardrails_enabled", "jailbreak_enabled", "pii_enabled", "jailbreak_detected",
        "jailbreak_type", "pii_detected", "pii_blocked", "rag_enabled", "rag_backend",
        "rag_context_length", "hallucination_enabled", "hallucination_confidence",
        "hallucination_spans", "prompt_tokens", "completion_tokens", "total_tokens",
        "actual_cost", "currency", "baseline_model", "session_id", "turn_index",
        "previous_response_id", "conversation_id", "tool_definitions_truncated", "outcomes",
        "duration_ms", "recipe",
    }
)  # fmt: skip
"""What is read, or says nothing of its own."""


def read(entries: Iterable[Entry], account: Account) -> Iterator[Row]:
    """The rows of a replay's records."""
    for entry in entries:
        account.read += 1
        row = _row(entry, account)
        if row is not None:
            yield row


def _row(entry: Entry, account: Account) -> Row | None:
    model, key, at = (
        text_of(entry, "selected_model"),
        text_of(entry, "id") or text_of(entry, "request_id"),
        time_of(entry.get("timestamp")),
    )
    refused = _refused(entry, model, key)
    if refused is not None:
        account.skip(*refused)
        return None
    assert model is not None  # noqa: S101 -- _refused has looked
    account.lose("propensity", "is not logged: these rows serve the direct method only")
    account.lose_known(entry, _LOST)
    account.lose_unknown(entry, _SILENT | _LOST.keys())
    context, text = _context(entry, account)
    return Row(
        key=str(key),
        at=at,
        models=(model,),
        context=context,
        values=_values(entry, account),
        said=_said(entry, account),
        session_id=text_of(entry, "session_id") or text_of(entry, "conversation_id"),
        query=text or str(key),
        text=text,
        domain=text_of(entry, "category"),
    )


def _refused(entry: Entry, model: str | None, key: str | None) -> tuple[str, str] | None:
    """The field that keeps a record from being a decision, and why."""
    if flag_of(entry.get("from_cache")):
        return "from_cache", "a cache answered: no model was chosen"
    if flag_of(entry.get("pii_blocked")) or flag_of(entry.get("jailbreak_detected")):
        return "response_status", "a guard answered: no model was chosen"
    if model is None:
        return "selected_model", MISSING
    return ("id", MISSING) if key is None else None


def _context(entry: Entry, account: Account) -> tuple[dict[str, Any], str | None]:
    """Features, and the prompt if it was captured."""
    context: dict[str, Any] = {}
    for name, of in (("domain", "category"), ("decision", "decision")):
        if (value := text_of(entry, of)) is not None:
            context[name] = value
    signals = parsed(entry.get("signals"))
    if isinstance(signals, Mapping):
        for name, matched in signals.items():
            if isinstance(matched, list) and matched:
                context[f"signal_{name}"] = ",".join(sorted(map(str, matched)))[:1_024]
    told = text_of(entry, "prompt")
    body = parsed(entry.get("request_body"))
    messages = [{"role": "user", "content": told}] if told else messages_of(body)
    if messages is None:
        account.lose("request_body", "was not captured: the context is without signals of a text")
        return context, None
    context.update(read_messages(messages))
    return context, said_by_user(messages)


def _values(entry: Entry, account: Account) -> dict[str, float]:
    wanted: dict[str, tuple[str, object]] = {
        "input_tokens": ("prompt_tokens", entry.get("prompt_tokens")),
        "output_tokens": ("completion_tokens", entry.get("completion_tokens")),
    }
    currency = text_of(entry, "currency") or "USD"
    if currency == "USD":
        wanted["cost_usd"] = ("actual_cost", entry.get("actual_cost"))
    else:
        account.lose("actual_cost", f"is in {currency[:8]}, not USD")
    found = amounts(account, wanted)
    duration = number_of(entry.get("duration_ms"))
    if duration is None:
        account.lose("latency_s", "is not logged")
    elif duration >= 0:
        found["latency_s"] = duration / 1_000
    status = number_of(entry.get("response_status"))
    if status:
        found["error"] = float(status >= 400)
    else:
        account.lose("response_status", MISSING)
    return found


def _said(entry: Entry, account: Account) -> dict[str, Any]:
    """The newest verdict among a record's outcomes."""
    outcomes = parsed(entry.get("outcomes"))
    if not isinstance(outcomes, list) or not outcomes:
        return {}
    verdicts = [
        verdict
        for one in outcomes
        if isinstance(one, Mapping) and (verdict := text_of(one, "verdict")) is not None
    ]
    if not verdicts:
        account.lose("outcomes", UNREADABLE)
        return {}
    account.lose("outcomes", "only the last verdict of a record counts", int(len(verdicts) > 1))
    return {VERDICT: verdicts[-1]}
