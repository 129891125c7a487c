"""Narrow a chat's tools to those that suit the last user turn; all others stay out of its body.

Kept are the best by :meth:`kernels.tools_file.ToolsFile.best`, and beside them whatever must be
there: tools that the file does not know, those that ``tool_choice`` names, and those that the
conversation has called. They keep their order and their bytes. Where tools cannot be ranked all of
them are passed on, and headers and metrics say why: ranking them is never a reason to fail.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import msgspec
import numpy as np

from edge.chat import Chat
from edge.errors import invalid
from edge.metrics import Metrics
from edge.settings import MAX_TOOLS
from edge.toolbox import Toolbox, Tools

HEADER = "x-route-tools"
REMEDY = f"give how many tools to keep, from 1 to {MAX_TOOLS}, or 0 to pass on all"
Result = Literal["narrowed", "few", "many", "no_file", "no_models", "no_embedding"]
"""``few``: no more than were asked for, or all must stay; ``many``: more than are ranked."""
_UNREADABLE = (msgspec.DecodeError, RecursionError, UnicodeDecodeError)


class _Named(msgspec.Struct):
    name: str = ""


class _Tool(msgspec.Struct):
    function: _Named | None = None
    custom: _Named | None = None


_tool = msgspec.json.Decoder(_Tool)
_list = msgspec.json.Decoder(list[msgspec.Raw])


@dataclass(frozen=True, slots=True)
class Asked:
    """Tools that are to be narrowed; ``settled`` says why nothing needs to be ranked for that.

    ``names`` are in the order of ``sent``, empty where a tool has none that can be read; ``rows``
    are those of the tools that the file knows.
    """

    keep: int
    sent: Sequence[msgspec.Raw]
    settled: Result | None = None
    tools: Tools | None = None
    names: Sequence[str] = ()
    rows: Sequence[int] = ()


class Narrower:
    """Narrows requests' tools."""

    def __init__(self, toolbox: Toolbox, metrics: Metrics, *, kept: int, has_models: bool) -> None:
        """``kept`` is how many tools a request keeps that does not say; 0: all."""
        self._toolbox = toolbox
        self._metrics = metrics
        self._kept = kept
        self._has_models = has_models

    def ask(self, chat: Chat, headers: Mapping[str, str]) -> Asked | None:
        """What is to be narrowed; None where nothing is asked for, or there are no tools.

        Raises:
            ProblemError: The header is no such number (422).
        """
        keep = _keep(headers.get(HEADER), self._kept)
        sent = _sent(chat) if keep else ()
        if not sent:
            return None
        tools = self._toolbox.tools
        if tools is None:
            return Asked(keep, sent, "no_file")
        if not self._has_models:
            return Asked(keep, sent, "no_models")
        if len(sent) > MAX_TOOLS:
            return Asked(keep, sent, "many")
        names = [_name(tool) for tool in sent]
        rows = [tools.index[name] for name in dict.fromkeys(names) if name in tools.index]
        settled: Result | None = "few" if len(rows) <= keep else None
        return Asked(keep, sent, settled, tools, names, rows)

    def narrow(
        self, chat: Chat, asked: Asked, policy: str, embedding: Sequence[float] | None
    ) -> tuple[Chat, dict[str, str]]:
        """The chat as it is passed on, and the header of its answer that says what was kept.

        Args:
            chat: as it came.
            asked: what :meth:`ask` made of it.
            policy: for the metrics.
            embedding: of the last user turn, where it was read.
        """
        result, kept = asked.settled, asked.sent
        if result is None:
            result, kept = _narrowed(chat, asked, embedding)
        if result == "narrowed":
            fields = {**chat.fields, "tools": msgspec.Raw(msgspec.json.encode(kept))}
            chat = replace(chat, fields=fields)
            self._metrics.tools_left_out.labels(policy).inc(len(asked.sent) - len(kept))
        self._metrics.tools_asked.labels(policy, result).inc()
        return chat, {HEADER: f"{len(kept)}/{len(asked.sent)};{result}"}


def _narrowed(
    chat: Chat, asked: Asked, embedding: Sequence[float] | None
) -> tuple[Result, Sequence[msgspec.Raw]]:
    """Which tools stay, in the order in which they were sent."""
    tools = asked.tools
    if tools is None or embedding is None or len(embedding) != tools.file.size:
        return "no_embedding", asked.sent
    rows = np.array(asked.rows, dtype=np.int64)
    best = tools.file.best(np.array(embedding, dtype=np.float32), rows, asked.keep)
    stay = {tools.file.names[row] for row in best.tolist()}
    stay.update(_forced(chat), _called(chat.messages))
    kept = [
        tool
        for tool, name in zip(asked.sent, asked.names, strict=True)
        if name in stay or name not in tools.index
    ]
    return ("few" if len(kept) == len(asked.sent) else "narrowed"), kept


def _keep(header: str | None, usual: int) -> int:
    if header is None or not header.strip():
        return usual
    text = header.strip()
    if not (text.isascii() and text.isdecimal() and len(text) <= len(str(MAX_TOOLS))):
        raise invalid(HEADER, header[:200], REMEDY)
    if int(text) > MAX_TOOLS:
        raise invalid(HEADER, header[:200], REMEDY)
    return int(text)


def _sent(chat: Chat) -> Sequence[msgspec.Raw]:
    """The tools byte for byte; of what is no list, none: that is for the arm to judge."""
    try:
        return _list.decode(chat.fields.get("tools", b"[]"))
    except _UNREADABLE:
        return ()


def _name(tool: msgspec.Raw) -> str:
    try:
        found = _tool.decode(tool)
    except _UNREADABLE:
        return ""
    named = found.function or found.custom
    return named.name if named is not None else ""


def _forced(chat: Chat) -> Iterator[str]:
    """Tools that ``tool_choice`` names, one or those that it allows."""
    try:
        choice = msgspec.json.decode(chat.fields.get("tool_choice", b"null"))
    except _UNREADABLE:
        return
    if not isinstance(choice, Mapping):
        return
    allowed = choice.get("allowed_tools")
    listed = allowed.get("tools") if isinstance(allowed, Mapping) else None
    for one in [choice, *(listed if isinstance(listed, list) else [])]:
        yield from _names_in(one)


def _called(messages: Sequence[object]) -> Iterator[str]:
    """Tools that the conversation has called, or holds answers of."""
    for message in messages:
        if not isinstance(message, Mapping):
            continue
        calls = message.get("tool_calls")
        for call in calls if isinstance(calls, list) else []:
            yield from _names_in(call)
        yield from _names_in({"function": message.get("function_call")})
        if message.get("role") in ("tool", "function"):
            yield from _names_in({"function": message})


def _names_in(one: Any) -> Iterator[str]:
    """The name in what stands for a tool: ``{"function": {"name": …}}``, or ``custom``."""
    if not isinstance(one, Mapping):
        return
    for kind in ("function", "custom"):
        inner = one.get(kind)
        name = inner.get("name") if isinstance(inner, Mapping) else None
        if isinstance(name, str):
            yield name
