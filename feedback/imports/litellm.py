"""Spend logs of LiteLLM's proxy: its table ``LiteLLM_SpendLogs``.

As JSON (an array, as ``GET /spend/logs`` gives it, or one row a line) or as CSV exported from
Postgres; the columns are those of the schema in 2026, and each may be absent. Times without a zone
are UTC. The log holds no probability and no grade; prompts only where the proxy stores them
(``store_prompts_in_spend_logs``).
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime

from feedback.imports.rows import (
    MISSING,
    UNREADABLE,
    Account,
    Entry,
    Row,
    amounts,
    flag_of,
    messages_of,
    parsed,
    said_by_user,
    text_of,
    time_of,
)
from kernels.signals.text import read_messages

CALLS = frozenset(
    {
        "completion", "acompletion", "text_completion", "atext_completion", "responses",
        "aresponses", "anthropic_messages",
    }
)  # fmt: skip
"""Calls that a model's answer to a prompt came from."""

_WHO = "says who asked, which is no feature of a request"
_LOST: Mapping[str, str] = {
    "response": "answers are not kept",
    "request_tags": "has no declared feature: the context holds signals of the prompt only",
    "metadata": "is free text of the proxy",
    **dict.fromkeys(("api_key", "team_id", "organization_id", "end_user", "user"), _WHO),
}
_SILENT = frozenset(
    {
        "request_id", "call_type", "spend", "total_tokens", "prompt_tokens",
        "completion_tokens", "startTime", "endTime", "completionStartTime", "model", "model_id",
        "model_group", "custom_llm_provider", "api_base", "cache_hit", "cache_key", "messages",
        "proxy_server_request", "session_id", "status", "requester_ip_address", "agent_id",
        "mcp_namespaced_tool_name", "request_duration_ms",
    }
)  # fmt: skip


def read(entries: Iterable[Entry], account: Account) -> Iterator[Row]:
    """The rows of a spend log."""
    for entry in entries:
        account.read += 1
        refused = _refused(entry)
        if refused is not None:
            account.skip(*refused)
            continue
        yield _row(entry, account)


def _refused(entry: Entry) -> tuple[str, str] | None:
    """The field that keeps a row from being a decision, and why."""
    call = text_of(entry, "call_type")
    if call is not None and call not in CALLS:
        return "call_type", f"{call[:64]!r} is no completion"
    if flag_of(entry.get("cache_hit")):
        return "cache_hit", "a cache answered: no model was chosen"
    for name in ("request_id", "model"):
        if text_of(entry, name) is None:
            return name, MISSING
    return None


def _row(entry: Entry, account: Account) -> Row:
    account.lose("propensity", "is not logged: these rows serve the direct method only")
    account.lose_known(entry, _LOST)
    account.lose_unknown(entry, _SILENT | _LOST.keys())
    at, key = time_of(entry.get("startTime")), text_of(entry, "request_id") or ""
    messages = _messages(entry)
    if messages is None:
        account.lose("messages", "was not stored: the context is without signals of a text")
    text = said_by_user(messages) if messages else None
    return Row(
        key=key,
        at=at,
        models=_models(entry),
        context=read_messages(messages) if messages else {},
        values=_values(entry, at, account),
        session_id=text_of(entry, "session_id"),
        response_id=key,
        query=text or key,
        text=text,
    )


def _models(entry: Entry) -> tuple[str, ...]:
    """The deployment's names, then that of its group: what the client asked for."""
    model, provider = text_of(entry, "model") or "", text_of(entry, "custom_llm_provider")
    names = [model]
    if provider:
        names += [f"{provider}/{model}", model.removeprefix(f"{provider}/")]
    names += [text_of(entry, "model_id") or "", text_of(entry, "model_group") or ""]
    return tuple(dict.fromkeys(name for name in names if name))


def _messages(entry: Entry) -> list[object] | None:
    for name in ("messages", "proxy_server_request"):
        body = parsed(entry.get(name))
        if isinstance(body, str) and body.strip():
            body = {"prompt": body}
        found = messages_of(body)
        if found is not None:
            return list(found)
    return None


def _values(entry: Entry, at: datetime | None, account: Account) -> dict[str, float]:
    found = amounts(
        account,
        {
            "input_tokens": ("prompt_tokens", entry.get("prompt_tokens")),
            "output_tokens": ("completion_tokens", entry.get("completion_tokens")),
            "cost_usd": ("spend", entry.get("spend")),
        },
    )
    end, first = time_of(entry.get("endTime")), time_of(entry.get("completionStartTime"))
    if at is None or end is None or end < at:
        account.lose("endTime", MISSING if end is None else UNREADABLE)
    else:
        found["latency_s"] = (end - at).total_seconds()
        if first is not None and at <= first < end:  # a call that does not stream starts at its end
            found["ttft_s"] = (first - at).total_seconds()
    status = text_of(entry, "status")
    if status is None:
        account.lose("status", "is not in this log: whether calls failed is not known")
    else:
        found["error"] = float(status.lower() != "success")
    if found.get("error"):  # what a failed call did not answer was no answer of that length
        found.pop("output_tokens", None)
    return found
