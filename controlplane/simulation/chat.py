"""OpenAI's chat completions on the wire: what is asked, what is answered, and how it is refused."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

import msgspec

from controlplane.simulation.contract import Answer
from controlplane.simulation.grading import CHARACTERS_PER_TOKEN, quality_mark

MAX_BODY = 4 * 1024 * 1024
MAX_MESSAGES = 2_048
MAX_PIECES = 32
"""Chunks that the text of a streamed answer comes in, at most."""

Json = dict[str, Any]
_BAD = "invalid_request_error"
_FAILURES: Mapping[int, tuple[str, str]] = {
    429: ("rate_limit_exceeded", "Rate limit reached for this model: try again later."),
    500: ("server_error", "The model had an error while it answered."),
    503: ("overloaded", "The model is overloaded: try again later."),
}
_SENTENCES = (
    "The points are set before the train arrives.",
    "A signal tells the driver which track is free.",
    "Every junction keeps a book of what has passed.",
    "Freight goes the slow way and the express the fast one.",
)


class ApiError(Exception):
    """A request is refused, in OpenAI's form."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param

    def as_json(self) -> Json:
        """The body of the refusal."""
        kind = _BAD if self.status < 500 and self.status != 429 else self.code or "server_error"
        error = {"message": str(self), "type": kind, "param": self.param, "code": self.code}
        return {"error": error}


@dataclass(frozen=True, slots=True)
class Ask:
    """A chat request, as far as a simulated model reads it.

    Attributes:
        prompt: the texts of all messages, a line each.
    """

    model: str
    prompt: str
    stream: bool
    include_usage: bool
    max_tokens: int | None


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer on its way; ``id`` and ``created`` are those of every chunk of it."""

    id: str
    created: int
    model: str
    text: str
    answer: Answer

    @property
    def finish_reason(self) -> str:
        """Why the text ends."""
        return "length" if self.answer.cut else "stop"


def read(body: bytes) -> Ask:
    """Read a request's body.

    Raises:
        ApiError: 400, naming the parameter that is wrong.
    """
    try:
        row = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ApiError(400, f"The body is not JSON: {error}.") from error
    if not isinstance(row, dict):
        raise ApiError(400, "The body is not a JSON object: give model and messages.")
    model = row.get("model")
    if not isinstance(model, str) or not model:
        raise ApiError(
            400, "model is missing or not a text: name one of GET /v1/models.", param="model"
        )
    if row.get("n") not in (None, 1):
        raise ApiError(400, "n is not 1: a simulated model gives one choice.", param="n")
    options = row.get("stream_options") or {}
    if not isinstance(options, dict):
        raise ApiError(400, "stream_options is not an object.", param="stream_options")
    return Ask(
        model=model,
        prompt=_prompt(row.get("messages")),
        stream=_flag(row, "stream"),
        include_usage=_flag(options, "include_usage"),
        max_tokens=_max_tokens(row),
    )


def _flag(row: Mapping[str, Any], name: str) -> bool:
    value = row.get(name)
    if value is not None and not isinstance(value, bool):
        raise ApiError(400, f"{name} is {value!r:.100}: give true or false.", param=name)
    return bool(value)


def _max_tokens(row: Mapping[str, Any]) -> int | None:
    for name in ("max_completion_tokens", "max_tokens"):
        value = row.get(name)
        if value is not None:
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                text = f"{name} is {value!r:.100}: give a whole number of at least 1."
                raise ApiError(400, text, param=name)
            return value
    return None


def _prompt(messages: object) -> str:
    if not isinstance(messages, list) or not 1 <= len(messages) <= MAX_MESSAGES:
        text = f"messages must be a list of 1 to {MAX_MESSAGES} messages."
        raise ApiError(400, text, param="messages")
    return "\n".join(text for i, message in enumerate(messages) for text in _texts(message, i))


def _texts(message: object, i: int) -> Iterator[str]:
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise ApiError(400, f"messages[{i}] has no role: give role and content.", param="messages")
    content = message.get("content")
    if isinstance(content, str):
        yield content
    elif isinstance(content, list):
        parts = (part.get("text") for part in content if isinstance(part, dict))
        yield from (text for text in parts if isinstance(text, str))
    elif content is not None:
        text = f"messages[{i}].content is neither a text nor a list of parts."
        raise ApiError(400, text, param="messages")


def failure(status: int) -> ApiError:
    """How a model that fails says so."""
    code, message = _FAILURES[status]
    return ApiError(status, message, code=code)


def text_of(arm: str, answer: Answer) -> str:
    """A text of about the answer's length, which ends in the mark of its quality."""
    wanted = answer.output_tokens * CHARACTERS_PER_TOKEN
    head, mark = f"Answer of {arm}.", quality_mark(answer.score)
    count = max(0, wanted - len(head) - len(mark)) // len(_SENTENCES[0])
    return " ".join((head, *islice(cycle(_SENTENCES), count), mark))


def usage_of(answer: Answer) -> Json:
    """The tokens that are charged for."""
    return {
        "prompt_tokens": answer.input_tokens,
        "completion_tokens": answer.output_tokens,
        "total_tokens": answer.input_tokens + answer.output_tokens,
    }


def completion(reply: Reply) -> Json:
    """The body of an answer that is not streamed."""
    message = {"role": "assistant", "content": reply.text, "refusal": None}
    choice = {
        "index": 0,
        "message": message,
        "logprobs": None,
        "finish_reason": reply.finish_reason,
    }
    return {
        "id": reply.id,
        "object": "chat.completion",
        "created": reply.created,
        "model": reply.model,
        "choices": [choice],
        "usage": usage_of(reply.answer),
    }


def chunks(reply: Reply, *, include_usage: bool) -> Iterator[Json]:
    """The events of a streamed answer: the role, the text in pieces, its end, and its usage."""
    head = {
        "id": reply.id,
        "object": "chat.completion.chunk",
        "created": reply.created,
        "model": reply.model,
    }
    usage: Json = {"usage": None} if include_usage else {}

    def chunk(delta: Json, finish_reason: str | None = None) -> Json:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return {**head, "choices": [choice], **usage}

    yield chunk({"role": "assistant", "content": ""})
    for piece in pieces(reply.text, reply.answer.output_tokens):
        yield chunk({"content": piece})
    yield chunk({}, reply.finish_reason)
    if include_usage:
        yield {**head, "choices": [], "usage": usage_of(reply.answer)}


def pieces(text: str, tokens: int) -> list[str]:
    """The text cut into equal parts, one a token, but never more than :data:`MAX_PIECES`."""
    size = -(-len(text) // max(1, min(MAX_PIECES, tokens)))
    return [text[at : at + size] for at in range(0, len(text), size)]
