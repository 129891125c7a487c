"""``Idempotency-Key`` on writes: the same key and body act once and are answered alike."""

import hashlib
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any

import sqlalchemy as sa
from fastapi import Header

from controlplane.api.auth import Caller
from feedback.errors import KeyReusedError
from learners.features import canonical_json
from storage import events

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=200,
        pattern=r"^[\x21-\x7e]+$",
        description="The same key with the same body acts once; with another body: 409.",
    ),
]

Json = dict[str, Any]


def once(
    connection: sa.Connection,
    caller: Caller,
    key: str | None,
    request: Json,
    act: Callable[[], Json],
    *,
    now: datetime,
) -> tuple[Json, bool]:
    """What ``act`` answers, or answered when the request came first; and whether it was repeated.

    ``request`` names the route and holds the body. What fails leaves its key free.

    Raises:
        KeyReusedError: The key was used with another request.
    """
    if key is None:
        return act(), False
    name = f"{caller.key.id}\x1f{key}"
    body = hashlib.sha256(canonical_json(request)).digest()
    used = events.claim_keys(connection, caller.project_id, [name], now)
    if name not in used:
        answer = act()
        events.settle_keys(connection, caller.project_id, {name: (body, answer)})
        return answer, False
    earlier, told = used[name]
    if earlier != body:
        raise KeyReusedError(
            f"idempotency key {key!r} was used with another request: give each its own key"
        )
    return told, True
