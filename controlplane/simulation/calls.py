"""The two calls of a simulated app: ask the edge, and tell the control plane how it went."""

import asyncio
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
import msgspec

MAX_ANSWER = 1024 * 1024
"""Bytes of an answer that are read."""
MAX_TRIES = 12
"""How often a grade is sent before it is given up."""
FIRST_PAUSE_S, MAX_PAUSE_S = 0.2, 5.0
TELL_TIMEOUT = aiohttp.ClientTimeout(total=10.0)
_DONE = b"[DONE]"


class BrokenAnswerError(Exception):
    """The edge's answer is no chat completion, or too long."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back from the edge; the ids are empty where it named none."""

    status: int
    text: str
    decision_id: str
    arm: str


async def ask(
    http: aiohttp.ClientSession, url: str, body: Mapping[str, Any], headers: Mapping[str, str]
) -> Reply:
    """Send a chat request, and read the answer to its end.

    Raises:
        aiohttp.ClientError: The edge is away, or went away.
        TimeoutError: It took too long.
        BrokenAnswerError: The answer can not be read.
    """
    async with http.post(url, data=msgspec.json.encode(body), headers=headers) as response:
        text = ""
        if response.status == 200:
            raw = await _read(response)
            streamed = response.content_type == "text/event-stream"
            text = _streamed_text(raw) if streamed else _content(_decode(raw), "message")
        return Reply(
            status=response.status,
            text=text,
            decision_id=response.headers.get("x-route-decision-id", ""),
            arm=response.headers.get("x-route-model", ""),
        )


async def _read(response: aiohttp.ClientResponse) -> bytes:
    raw = bytearray()
    async for piece in response.content.iter_any():
        raw += piece
        if len(raw) > MAX_ANSWER:
            raise BrokenAnswerError(f"the answer is longer than {MAX_ANSWER} bytes")
    return bytes(raw)


def _streamed_text(raw: bytes) -> str:
    events = [line[5:].strip() for line in raw.splitlines() if line.startswith(b"data:")]
    if _DONE not in events:
        raise BrokenAnswerError("the stream ends without [DONE]")
    return "".join(_content(_decode(event), "delta") for event in events if event != _DONE)


def _content(row: Any, part: str) -> str:
    """The text of the first choice of a completion or a chunk."""
    try:
        return "".join(choice[part].get("content") or "" for choice in row["choices"][:1])
    except (KeyError, TypeError, AttributeError) as error:
        raise BrokenAnswerError(f"no chat completion: {error!r}") from error


def _decode(raw: bytes) -> Any:
    try:
        return msgspec.json.decode(raw)
    except msgspec.DecodeError as error:
        raise BrokenAnswerError(f"not JSON: {error}") from error


async def tell(
    http: aiohttp.ClientSession,
    url: str,
    body: Mapping[str, Any],
    headers: Mapping[str, str],
    rng: random.Random,
) -> str:
    """Send a grade until it is taken or refused for good, a few times at most.

    Returns:
        The control plane's status word, ``http_<status>`` when it refuses, or ``lost``.
    """
    raw = msgspec.json.encode(body)
    for attempt in range(MAX_TRIES):
        ended = await _tell_once(http, url, raw, headers)
        if ended is not None:
            return ended
        if attempt < MAX_TRIES - 1:
            pause_s = min(MAX_PAUSE_S, FIRST_PAUSE_S * 2.0**attempt)
            await asyncio.sleep(pause_s * rng.uniform(0.5, 1.0))
    return "lost"


async def _tell_once(
    http: aiohttp.ClientSession, url: str, raw: bytes, headers: Mapping[str, str]
) -> str | None:
    """How a sending ended; None when it is worth another try."""
    try:
        async with http.post(url, data=raw, headers=headers, timeout=TELL_TIMEOUT) as response:
            if response.status == 429 or response.status >= 500:
                return None
            if response.status >= 300:
                return f"http_{response.status}"
            return _status(_decode(await _read(response)))
    except (aiohttp.ClientError, TimeoutError, BrokenAnswerError):
        return None


def _status(row: Any) -> str:
    status = row.get("status") if isinstance(row, dict) else None
    return status if isinstance(status, str) else "accepted"
