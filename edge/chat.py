"""A chat request as it came: only what routing needs is read, and only ``model`` is rewritten."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from edge.errors import invalid, not_json
from edge.ledger import check_id
from edge.preference import HEADER, read_preference

ROUTE = "route/"
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
_MAX_MODEL = 256
MAX_TOKENS = 2**31


@dataclass(frozen=True, slots=True)
class Chat:
    """The parts of a request; ``fields`` are its values byte for byte."""

    model: str
    messages: list[Any]
    stream: bool
    fields: dict[str, msgspec.Raw]
    session_id: str | None
    episode_id: str | None
    preference: dict[str, float]
    user: str | None = None

    @property
    def policy(self) -> str | None:
        """The policy that routes it, or None when it names a model itself."""
        return self.model.removeprefix(ROUTE) if self.model.startswith(ROUTE) else None

    @property
    def most_tokens(self) -> int | None:
        """How long the answer may become, where the request says so."""
        for name in ("max_completion_tokens", "max_tokens"):
            try:
                found = msgspec.json.decode(self.fields.get(name, b"null"))
            except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
                return None
            if isinstance(found, int) and found > 0:
                return min(found, MAX_TOKENS)
        return None

    def body_for(self, model: str) -> bytes:
        """The request for an arm: the same values in the same order, with its model's name."""
        return msgspec.json.encode(
            {**self.fields, "model": msgspec.Raw(msgspec.json.encode(model))}
        )


def read_chat(body: bytes, headers: Mapping[str, str]) -> Chat:
    """The request that body and headers hold.

    Raises:
        ProblemError: It is no JSON object (400), or model, messages, an id or a preference is
            wrong (422). What ``user`` holds is looked at where the request is routed only.
    """
    try:
        fields = _fields.decode(body)
        model = msgspec.json.decode(fields.get("model", b"null"))
        messages = msgspec.json.decode(fields.get("messages", b"null"))
        stream = msgspec.json.decode(fields.get("stream", b"false"))
        user = msgspec.json.decode(fields.get("user", b"null"))
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise not_json(error) from error
    if not isinstance(model, str) or not 0 < len(model) <= _MAX_MODEL:
        raise invalid("model", model, "give route/<policy> or a model's name")
    if not isinstance(messages, list) or not messages:
        raise invalid("messages", messages, "give a list of messages")
    return Chat(
        model=model,
        messages=messages,
        stream=stream is True,
        fields=fields,
        session_id=check_id("x-route-session-id", headers.get("x-route-session-id")),
        episode_id=check_id("x-route-episode-id", headers.get("x-route-episode-id")),
        preference=read_preference(headers.get(HEADER)),
        user=_user(user) if model.startswith(ROUTE) else None,
    )


def _user(value: object) -> str | None:
    if value is not None and not isinstance(value, str):
        raise invalid("user", value, "give a text")
    return check_id("user", value)
