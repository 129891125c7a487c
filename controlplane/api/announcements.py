"""Who waits for a policy's next bundle: one poll of the database serves them all."""

import asyncio
from collections.abc import Callable, Mapping
from uuid import UUID

import structlog
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool

Mark = tuple[int, str]
"""A bundle's serial and digest."""

INTERVAL_S = 0.5

log = structlog.get_logger(__name__)


class Announcements:
    """Wakes those who wait for a policy once its newest bundle is another than they have seen."""

    def __init__(
        self, newest: Callable[[], Mapping[UUID, Mark]], *, interval_s: float = INTERVAL_S
    ) -> None:
        """``newest`` reads every policy's newest bundle; it is called only while somebody waits."""
        self._newest = newest
        self._interval_s = interval_s
        self._waiting: dict[asyncio.Future[None], tuple[UUID, Mark | None]] = {}
        self._poll: asyncio.Task[None] | None = None
        self._closed = False

    async def wait(self, policy_id: UUID, seen: Mark | None, timeout_s: float) -> None:
        """Return once the policy's newest bundle is not ``seen``, or the time is over."""
        if self._closed or timeout_s <= 0:
            return
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[woken] = (policy_id, seen)
        if self._poll is None or self._poll.done():
            self._poll = asyncio.create_task(self._watch())
        try:
            async with asyncio.timeout(timeout_s):
                await woken
        except TimeoutError:
            return
        finally:
            self._waiting.pop(woken, None)

    def close(self) -> None:
        """Send everybody home: the process is stopping."""
        self._closed = True
        for woken in self._waiting:
            _wake(woken)

    async def finished(self) -> None:
        """Close, and let a look at the database that is under way give its connection back."""
        self.close()
        if self._poll is not None:
            await self._poll

    async def _watch(self) -> None:
        while self._waiting and not self._closed:
            await asyncio.sleep(self._interval_s)
            try:
                newest = await run_in_threadpool(self._newest)
            except SQLAlchemyError as error:
                log.warning("announcements.failed", error=str(error)[:500])
                continue
            for woken, (policy_id, seen) in self._waiting.items():
                if newest.get(policy_id) != seen:
                    _wake(woken)


def _wake(woken: asyncio.Future[None]) -> None:
    if not woken.done():
        woken.set_result(None)
