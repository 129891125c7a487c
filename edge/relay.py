"""One attempt of one arm, relayed to the client untouched, and measured.

Neither side can hold a place for ever: an arm may be silent for so long, a client may take so long
to read what is written, and both together are bounded. A client that is too slow is cut off, which
says nothing of the arm, so ``error`` stays open.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from time import monotonic

import aiohttp
import structlog
from aiohttp import web

from edge.chat import Chat
from edge.errors import UpstreamError
from edge.headers import relayed
from edge.metrics import Metrics
from edge.upstream import Upstream, check_not_empty
from edge.usage import Meter
from learners.records import Arm

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Attempt:
    """A request on its way to one arm; ``headers`` are the edge's own, ``again`` marks a retry."""

    request: web.Request
    chat: Chat
    arm: Arm
    headers: Mapping[str, str]
    meter: Meter
    again: bool = False


class Relay:
    """Carries an arm's answer to the client."""

    def __init__(
        self, upstream: Upstream, metrics: Metrics, *, silence_s: float, request_s: float
    ) -> None:
        """``silence_s`` bounds each wait for the client, ``request_s`` the whole."""
        self._upstream = upstream
        self._metrics = metrics
        self._silence_s = silence_s
        self._request_s = request_s

    async def relay(self, attempt: Attempt) -> web.StreamResponse:
        """The arm's answer: of a stream sent to its end, else still to be sent.

        Raises:
            UpstreamError: The arm failed before the client had got a byte.
        """
        answer = None
        until = monotonic() + self._request_s
        try:
            answer = await self._upstream.open(
                attempt.arm,
                attempt.chat.body_for(attempt.arm.model),
                attempt.request.headers,
                again=attempt.again,
            )
            if attempt.chat.stream:
                return await self._stream(attempt, answer, until)
            return await self._whole(attempt, answer)
        except UpstreamError as error:
            self._count(attempt.arm, error, "upstream.failed")
            raise
        finally:
            if answer is not None:
                answer.close()  # which cancels what was not read to its end

    async def _whole(self, attempt: Attempt, answer: aiohttp.ClientResponse) -> web.Response:
        body = await self._upstream.read(answer, attempt.arm)
        attempt.meter.read_whole(body)
        attempt.meter.end(answer.status)
        return web.Response(status=answer.status, body=body, headers=_headers(attempt, answer))

    async def _stream(
        self, attempt: Attempt, answer: aiohttp.ClientResponse, until: float
    ) -> web.StreamResponse:
        chunk = await self._upstream.read_some(answer, attempt.arm)
        if not chunk:
            check_not_empty(answer, attempt.arm)
        response = web.StreamResponse(status=answer.status, headers=_headers(attempt, answer))
        await response.prepare(attempt.request)
        try:
            while chunk:
                attempt.meter.feed(chunk, monotonic())
                async with self._patience(until):
                    await response.write(chunk)
                chunk = await self._upstream.read_some(answer, attempt.arm)
            attempt.meter.end(answer.status)
            async with self._patience(until):
                await response.write_eof()
        except UpstreamError as error:
            # The head is out, so nothing can be retried: the client must see the break.
            attempt.meter.error = 1
            self._count(attempt.arm, error, "upstream.broke_off")
            if attempt.request.transport is not None:
                attempt.request.transport.close()
        except TimeoutError:
            _cut_off(attempt.request)
        except ConnectionResetError:
            pass  # the client has gone
        return response

    async def send(self, request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
        """Send what is not sent yet, here and not in the server: its place is not free before."""
        try:
            async with asyncio.timeout(self._request_s):
                await response.prepare(request)
                await response.write_eof()
        except TimeoutError:
            _cut_off(request)
        except ConnectionResetError:
            pass  # the client has gone
        return response

    def _patience(self, until: float) -> asyncio.Timeout:
        return asyncio.timeout(min(self._silence_s, until - monotonic()))

    def _count(self, arm: Arm, error: UpstreamError, event: str) -> None:
        self._metrics.upstream_errors.labels(arm.name, error.reason).inc()
        log.warning(event, arm=arm.name, reason=error.reason)


def _headers(attempt: Attempt, answer: aiohttp.ClientResponse) -> dict[str, str]:
    return {**relayed(answer.headers.items()), **attempt.headers}


def _cut_off(request: web.Request) -> None:
    log.warning("client.too_slow")
    if request.transport is not None:
        request.transport.abort()  # closing would wait for the client to read the rest
