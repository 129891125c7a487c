"""Upload the spool: in order, decisions before outcomes, and forget only what was taken."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Never

import msgspec
import structlog

from edge.backoff import Backoff
from edge.control_plane import ControlPlane
from edge.errors import ControlPlaneError
from edge.metrics import Metrics
from edge.spool import KINDS, MAX_LINE_BYTES, Batch, Kind, Spool

MAX_LINES = 2000
MAX_BYTES = 2 * MAX_LINE_BYTES
_MAX_LOGGED = 20
log = structlog.get_logger()


class _Timed(msgspec.Struct):
    at: datetime


class Reporter:
    """The one reader of the spool."""

    def __init__(
        self,
        spool: Spool,
        control_plane: ControlPlane,
        metrics: Metrics,
        *,
        interval_s: float,
        backoff: Backoff,
        now: Callable[[], datetime],
    ) -> None:
        """``interval_s`` is the pause when less than a full batch waits."""
        self._spool = spool
        self._control_plane = control_plane
        self._metrics = metrics
        self._interval_s = interval_s
        self._backoff = backoff
        self._now = now
        self._turn = asyncio.Lock()

    @property
    def depth(self) -> int:
        """Lines that wait."""
        return self._spool.depth

    def lag_s(self) -> float:
        """Age of the oldest line that waits, 0 when none does."""
        try:
            batch = self._spool.peek(max_lines=1, max_bytes=MAX_BYTES)
        except OSError:  # the upload meets it too, and says so; a probe goes on
            return 0.0
        if batch is None or not batch.lines:
            return 0.0
        try:
            at = msgspec.json.decode(batch.lines[0][1], type=_Timed).at
        except (msgspec.DecodeError, UnicodeDecodeError):  # damaged: the upload's refusal tells
            return 0.0
        return max(0.0, (self._now() - at).total_seconds())

    async def run(self) -> Never:
        """Upload for as long as the edge lives."""
        while True:
            try:
                await self.step()
            except ControlPlaneError as error:
                delay = max(self._backoff.next(), error.retry_after_s or 0.0)
                self._metrics.upload_failures.inc()
                log.warning("upload.failed", error=str(error), retry_in_s=round(delay, 2))
                await asyncio.sleep(delay)
                continue
            self._backoff.reset()
            # Full batches follow each other at once; a few lines wait until there are more.
            if self._spool.depth < MAX_LINES:
                await asyncio.sleep(self._interval_s)

    async def drain(self) -> None:
        """Upload all that waits, once; what cannot be sent now stays on disk."""
        try:
            while await self.step():
                pass
        except (ControlPlaneError, OSError) as error:
            log.warning("upload.left_on_disk", lines=self._spool.depth, error=str(error))

    async def step(self) -> bool:
        """Upload one batch; False when nothing waits.

        Raises:
            ControlPlaneError: It was not taken, and stays in the spool.
        """
        async with self._turn:
            batch = self._spool.peek(max_lines=MAX_LINES, max_bytes=MAX_BYTES)
            if batch is None:
                return False
            await self._upload(batch)
            self._spool.remove(batch)
            return True

    async def _upload(self, batch: Batch) -> None:
        if batch.damaged:
            self._drop("unknown", "damaged", batch.damaged)
        for kind in KINDS:
            lines = [line for one, line in batch.lines if one == kind]
            if lines:
                await self._send(kind, lines)

    async def _send(self, kind: Kind, lines: Sequence[bytes]) -> None:
        """Send; a batch that is refused whole is halved until its bad line stands alone."""
        try:
            receipt = await self._control_plane.upload(kind, lines)
        except ControlPlaneError as error:
            if not error.final:
                raise
            if len(lines) == 1:
                self._spool.set_aside(kind, lines[0])
                self._drop(kind, "refused", 1, detail=str(error))
                return
            middle = len(lines) // 2
            await self._send(kind, lines[:middle])
            await self._send(kind, lines[middle:])
            return
        self._metrics.uploaded.labels(kind).inc(len(lines) - len(receipt.rejected))
        if receipt.rejected:
            shown = [f"{r.field}: {r.detail}"[:200] for r in receipt.rejected[:_MAX_LOGGED]]
            self._drop(kind, "rejected", len(receipt.rejected), detail=shown)

    def _drop(self, kind: str, reason: str, count: int, *, detail: object = None) -> None:
        self._metrics.dropped.labels(kind, reason).inc(count)
        log.error("upload.dropped", kind=kind, reason=reason, lines=count, detail=detail)
