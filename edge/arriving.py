"""Chat bodies while they arrive: the text of a large one is read for signals meanwhile.

Nothing else changes: all bytes are kept, and passed on as they came; what is too large is refused
as every other body is.
"""

import asyncio
from dataclasses import dataclass
from time import perf_counter

from aiohttp import web

from edge.chat import ROUTE
from edge.policies import Policies
from edge.reading import Reader
from kernels.intake import Early, Intake

CHAT_PATH = "/v1/chat/completions"
FIRST_BYTES = 65_536
"""A body is listened to from here on: a smaller one takes some ms when it is whole."""
PART_BYTES = 32_768
"""How much is gathered for one visit to a thread."""


@dataclass(frozen=True, slots=True)
class Heard:
    """What was read of a body's text while it came, and the bytes that were not read yet."""

    intake: Intake
    rest: bytes

    def finish(self) -> Early | None:
        """What the whole text tells, where it could be followed. Takes milliseconds, once."""
        self.intake.feed(self.rest)
        return self.intake.finish()


_BODY = web.RequestKey("body", bytes)
_HEARD = web.RequestKey("heard", Heard)
_ARRIVED = web.RequestKey("arrived", float)


class Arrivals:
    """Takes bodies off the network."""

    def __init__(self, policies: Policies, reader: Reader) -> None:
        """Only for policies whose requests ``reader`` reads whole."""
        self._policies = policies
        self._reader = reader

    async def take(self, request: web.Request) -> None:
        """Read all of a body, which :func:`body_of` then gives.

        Raises:
            HTTPRequestEntityTooLarge: It is longer than the application takes.
        """
        await self._take(request)
        request[_ARRIVED] = perf_counter()

    async def _take(self, request: web.Request) -> None:
        if request.path != CHAT_PATH or not self._wanted(None):
            await request.read()  # which the request keeps
            return
        body, fed = bytearray(), 0
        intake: Intake | None = Intake()
        while chunk := await request.content.readany():
            body.extend(chunk)
            if request.client_max_size and len(body) > request.client_max_size:
                raise web.HTTPRequestEntityTooLarge(request.client_max_size)
            if intake is None or len(body) - fed < (PART_BYTES if fed else FIRST_BYTES):
                continue
            part, fed = bytes(body[fed:]), len(body)
            await asyncio.to_thread(intake.feed, part)
            if intake.broken or not self._wanted(intake.model):
                intake = None
        request[_BODY] = bytes(body)
        if intake is not None and fed:
            request[_HEARD] = Heard(intake, bytes(body[fed:]))

    def _wanted(self, model: str | None) -> bool:
        """Whether signals may be asked of a chat with this model; None: it is not known yet."""
        active = self._policies.active
        if model is None:
            return any(self._reader.reads_whole(bundle) for bundle in active.values())
        if not model.startswith(ROUTE):
            return False
        bundle = active.get(model.removeprefix(ROUTE))
        return bundle is not None and self._reader.reads_whole(bundle)


async def body_of(request: web.Request) -> bytes:
    """The whole body, however it was taken."""
    body = request.get(_BODY)
    return await request.read() if body is None else body


def arrived_at(request: web.Request) -> float:
    """When all of its body was there, by ``perf_counter``: what it waits from then on is ours."""
    return request.get(_ARRIVED) or perf_counter()


def heard_of(request: web.Request) -> Heard | None:
    """What was read of its text meanwhile, if anything was."""
    return request.get(_HEARD)
