"""Who may ask, how many at once, and how slowly."""

import asyncio
import hashlib
import hmac
from collections.abc import Awaitable, Callable, Sequence

from aiohttp import web

from edge.errors import Handler, ProblemError
from edge.metrics import Metrics

Take = Callable[[web.Request], Awaitable[object]]
OPEN_PATHS = frozenset({"/healthz", "/readyz", "/metrics"})
"""For probes and scrapers, which hold no key; they tell nothing of requests or prompts."""


class ClientKeys:
    """Lets in who holds one of the keys; without keys, everyone."""

    def __init__(self, keys: Sequence[str]) -> None:
        """Keys are compared by digest, so neither content nor length shows in the time."""
        self._digests = [_digest(key) for key in keys]

    @web.middleware
    async def check(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse a request without a key (401)."""
        if self._digests and request.path not in OPEN_PATHS and not self._holds(request):
            raise ProblemError(
                401,
                "unauthorized",
                "this edge needs a client key",
                field="Authorization",
                remedy="send Authorization: Bearer <key>, one of POINTSMAN_EDGE_CLIENT_KEYS",
            )
        return await handler(request)

    def _holds(self, request: web.Request) -> bool:
        scheme, _, key = request.headers.get("Authorization", "").partition(" ")
        found = _digest(key.strip())
        matches = [hmac.compare_digest(found, digest) for digest in self._digests]
        return scheme.lower() == "bearer" and any(matches)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


class Bodies:
    """Reads a request's body before its handler asks: slow senders hold a place for so long."""

    def __init__(self, within_s: float, take: Take = web.Request.read) -> None:
        """``within_s`` is for the whole body, which ``take`` reads and keeps."""
        self._within_s = within_s
        self._take = take

    @web.middleware
    async def read(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse a body that does not arrive in time (408)."""
        if request.can_read_body and request.path not in OPEN_PATHS:
            try:
                async with asyncio.timeout(self._within_s):
                    await self._take(request)
            except TimeoutError as error:
                raise ProblemError(
                    408,
                    "body_timeout",
                    f"the body did not arrive within {self._within_s:g} s",
                    remedy="send it faster, or raise POINTSMAN_EDGE_BODY_TIMEOUT_S",
                ) from error
        return await handler(request)


class Gate:
    """Bounds the requests being served at once; probes always pass."""

    def __init__(self, limit: int, metrics: Metrics) -> None:
        """``limit`` requests at most."""
        self._limit = limit
        self._metrics = metrics
        self._serving = 0

    @web.middleware
    async def count(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse what is past the limit (503)."""
        if request.path in OPEN_PATHS:
            return await handler(request)
        if self._serving >= self._limit:
            raise ProblemError(
                503,
                "overloaded",
                f"{self._limit} requests are being served",
                retry_after_s=1,
                remedy="try again, add edges, or raise POINTSMAN_EDGE_MAX_REQUESTS",
            )
        self._serving += 1
        self._metrics.requests.set(self._serving)
        try:
            return await handler(request)
        finally:
            self._serving -= 1
            self._metrics.requests.set(self._serving)
