"""What an answer cost: tokens, first token and id, read from a body that is never changed.

A stream tells its usage only when the client asked for it (``stream_options.include_usage``):
asking on the client's behalf would put chunks into its stream that it did not want. Where a
stream holds no usage, the output tokens are the chunks that carried text (one token each with the
usual servers) and the input tokens a quarter of the messages' characters: estimates, and counted
as such in ``pointsman_edge_estimated_total``.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec

from learners.records import Card

CHARS_PER_TOKEN = 4
MAX_EVENT_BYTES = 1024 * 1024
_MAX_ID = 256


# Whole numbers beyond 2**53 are no floats, and no answer has as many tokens.
Tokens = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class Usage(msgspec.Struct, frozen=True):
    """``usage`` of an answer."""

    prompt_tokens: Tokens = 0
    completion_tokens: Tokens = 0


class Delta(msgspec.Struct, frozen=True):
    """What a chunk adds: any of these is output."""

    content: Any = None
    reasoning_content: Any = None
    reasoning: Any = None
    refusal: Any = None
    tool_calls: Any = None

    def __bool__(self) -> bool:
        """Whether there is any output."""
        return bool(
            self.content
            or self.tool_calls
            or self.reasoning_content
            or self.reasoning
            or self.refusal
        )


class Choice(msgspec.Struct, frozen=True):
    """One of ``choices``."""

    delta: Delta | None = None


class Part(msgspec.Struct, frozen=True):
    """An answer, or one chunk of a streamed one."""

    id: str | None = None
    usage: Usage | None = None
    choices: list[Choice] = []
    error: Any = None


_part = msgspec.json.Decoder(Part)


class Meter:
    """Measures one attempt of one arm; ``started`` and all times are of one monotonic clock."""

    def __init__(self, started: float) -> None:
        """Nothing is known yet."""
        self._started = started
        self._rest = b""
        self._readable = True
        self._chunks = 0
        self._usage: Usage | None = None
        self._first_token: float | None = None
        self.response_id: str | None = None
        self.error: int | None = None
        self.told_error = False
        """Whether the answer, whatever its status, says that it is an error."""

    def read_whole(self, body: bytes) -> None:
        """Read the body of an answer that is not streamed."""
        self._read(body)

    def feed(self, chunk: bytes, now: float) -> None:
        """Read a part of a stream of server-sent events; it may end anywhere."""
        if not self._readable:
            return
        lines = (self._rest + chunk).split(b"\n")
        self._rest = lines.pop()
        if len(self._rest) > MAX_EVENT_BYTES:
            self._readable, self._rest = False, b""
        for line in lines:
            data = line.removeprefix(b"data:")
            if len(data) < len(line) and self._read(data.strip()):
                self._chunks += 1
                if self._first_token is None:
                    self._first_token = now

    def _read(self, data: bytes) -> bool:
        """Take what an answer or a chunk says; True when it carries streamed output."""
        if data == b"[DONE]":
            return False
        try:
            part = _part.decode(data)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            return False  # not ours to judge: the client gets it as it came
        if part.id and len(part.id) <= _MAX_ID and part.id.isprintable():
            self.response_id = part.id
        if part.usage is not None:
            self._usage = part.usage
        if part.error:
            self.told_error = True
        return any(choice.delta for choice in part.choices)

    def end(self, status: int) -> None:
        """The answer has come to its end."""
        self.error = int(status >= 400 or self.told_error)

    @property
    def estimated(self) -> bool:
        """Whether the tokens are counted here rather than told."""
        return self._usage is None and self._chunks > 0

    def values(self, now: float, card: Card, input_chars: int) -> dict[str, float]:
        """What is known of the attempt that ends now, by the names of the outcome's metrics."""
        found: dict[str, float] = {"latency_s": now - self._started}
        if self._first_token is not None:
            found["ttft_s"] = self._first_token - self._started
        usage = self._usage
        if self.estimated:
            usage = Usage(-(-input_chars // CHARS_PER_TOKEN), self._chunks)
        if usage is not None:
            found["input_tokens"] = usage.prompt_tokens
            found["output_tokens"] = usage.completion_tokens
            cost = cost_usd(usage, card)
            if math.isfinite(cost):
                found["cost_usd"] = cost
            energy = energy_j(usage, card)
            if energy is not None and math.isfinite(energy):
                found["energy_j"] = energy
        if self.error is not None:
            found["error"] = self.error
        return found


def cost_usd(usage: Usage, card: Card) -> float:
    """What the arm's card charges."""
    dollars_per_million = (
        usage.prompt_tokens * card.usd_per_mtok_in + usage.completion_tokens * card.usd_per_mtok_out
    )
    return dollars_per_million / 1e6


def energy_j(usage: Usage, card: Card) -> float | None:
    """What the arm's card says that the tokens took, in joules; None where it says nothing."""
    if card.joules_per_token_in is None and card.joules_per_token_out is None:
        return None
    into = usage.prompt_tokens * (card.joules_per_token_in or 0.0)
    return into + usage.completion_tokens * (card.joules_per_token_out or 0.0)


def count_chars(messages: Sequence[object]) -> int:
    """Characters of text in a chat's messages; images and the like count nothing."""
    return sum(_chars(m.get("content")) for m in messages if isinstance(m, Mapping))


def _chars(content: object) -> int:
    if isinstance(content, str):
        return len(content)
    if not isinstance(content, list):
        return 0
    texts = [part.get("text") for part in content if isinstance(part, Mapping)]
    return sum(len(text) for text in texts if isinstance(text, str))
