"""What was decided and measured, written down once: the way from a choice to the spool."""

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from time import monotonic
from typing import Never

import msgspec
import structlog

from edge.errors import ProblemError, invalid
from edge.metrics import Metrics
from edge.router import Decision
from edge.spool import Kind, RefusedError, Spool

MAX_RECENT = 20_000
MAX_RECENT_BYTES = 64 * 1024 * 1024
MAX_DEFERRED_BYTES = 64 * 1024 * 1024
DEFERRED_S = 3600.0
SYNC_INTERVAL_S = 0.1
LOG_EVERY_S = 10.0
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Answered:
    """What a decision id was asked and what it got, so that a replay gets the same."""

    asked: bytes
    answer: bytes


@dataclass(frozen=True, slots=True)
class Counted:
    """What of a decision is counted once it is served."""

    labels: tuple[str, str, str]
    variant: tuple[str, str, str] | None


@dataclass(frozen=True, slots=True)
class Held:
    """A deferred decision, ready to be spooled, and until when it may be."""

    until: float
    line: bytes
    counted: Counted


class Ledger:
    """Spools each decision once; holds deferred ones until they are activated, or an hour."""

    def __init__(self, spool: Spool, metrics: Metrics, edge_id: str) -> None:
        """``edge_id`` is written on every decision."""
        self._spool = spool
        self._metrics = metrics
        self._suffix = b',"edge_id":%b}' % msgspec.json.encode(edge_id)
        self._encoder = msgspec.json.Encoder()
        self._recent: OrderedDict[str, Answered] = OrderedDict()
        self._recent_bytes = 0
        self._deferred: OrderedDict[str, Held] = OrderedDict()
        self._held_bytes = 0
        self._quiet_until = 0.0

    def record(self, decision: Decision) -> None:
        """Spool a decision that is being served."""
        self._spool_decision(self._line(decision), _counted(decision))

    def observe(self, decision: Decision) -> None:
        """Spool a decision by which a shadow's arm is asked: nobody is served."""
        self._append("decision", self._line(decision))

    def _spool_decision(self, line: bytes, counted: Counted) -> None:
        self._metrics.decisions.labels(*counted.labels).inc()
        if counted.variant is not None:
            self._metrics.count_variant(*counted.variant)
        self._append("decision", line)

    def _line(self, decision: Decision) -> bytes:
        # The record is the wire's line but for the edge's own id, which is appended here.
        return self._encoder.encode(decision)[:-1] + self._suffix

    def outcome(
        self,
        decision_id: str,
        *,
        at: datetime,
        values: Mapping[str, float],
        response_id: str | None = None,
        shadow: bool = False,
    ) -> None:
        """Spool what was measured of a decision; nothing known is nothing written."""
        if not values:
            return
        error = values.get("error")
        if not shadow:
            self._metrics.outcomes.labels("unknown" if error is None else str(int(error))).inc()
        row = {"decision_id": decision_id, "at": at, "values": values, "response_id": response_id}
        self._append("outcome", self._encoder.encode(row))

    def _append(self, kind: Kind, line: bytes) -> None:
        try:
            self._spool.append(kind, line)
        except RefusedError as error:
            # Serving goes on: the applications' requests are worth more than their log.
            self._metrics.dropped.labels(kind, str(error)).inc()
            if monotonic() >= self._quiet_until:
                self._quiet_until = monotonic() + LOG_EVERY_S
                log.error("spool.refused", kind=kind, reason=str(error))  # noqa: TRY400

    def recall(self, decision_id: str, asked: bytes) -> bytes | None:
        """The answer that this id got before, if it is remembered.

        Raises:
            ProblemError: The id was used with another question (409).
        """
        found = self._recent.get(decision_id)
        if found is None:
            return None
        if found.asked != asked:
            raise ProblemError(
                409,
                "decision_id_reused",
                f"decision_id {decision_id} was used for another request",
                field="decision_id",
                value=decision_id,
                remedy="give each decision its own UUIDv7",
            )
        return found.answer

    def remember(self, decision_id: str, answered: Answered) -> None:
        """Keep an answer for replays, forgetting the oldest."""
        self._forget(decision_id)
        self._recent[decision_id] = answered
        self._recent_bytes += len(answered.answer)
        while len(self._recent) > MAX_RECENT or self._recent_bytes > MAX_RECENT_BYTES:
            self._forget(next(iter(self._recent)))

    def _forget(self, decision_id: str) -> None:
        answered = self._recent.pop(decision_id, None)
        if answered is not None:
            self._recent_bytes -= len(answered.answer)

    def defer(self, decision: Decision) -> None:
        """Hold a decision back until it is activated.

        Raises:
            ProblemError: Too many are held (503).
        """
        self._expire()
        line = self._line(decision)
        if self._held_bytes + len(line) > MAX_DEFERRED_BYTES:
            raise ProblemError(
                503,
                "too_many_deferred",
                f"{len(self._deferred)} deferred decisions wait for their activation",
                retry_after_s=10,
                remedy="activate those that were used, or wait until they expire",
            )
        self._release(decision.decision_id)
        self._deferred[decision.decision_id] = Held(
            monotonic() + DEFERRED_S, line, _counted(decision)
        )
        self._held_bytes += len(line)

    def activate(self, decision_id: str) -> None:
        """Log a deferred decision; a second activation changes nothing.

        Raises:
            ProblemError: No such decision is held (404).
        """
        self._expire()
        held = self._release(decision_id)
        if held is not None:
            self._spool_decision(held.line, held.counted)
        elif decision_id not in self._recent:
            raise ProblemError(
                404,
                "decision_not_found",
                f"no deferred decision {decision_id[:64]} is held here",
                field="decision_id",
                value=decision_id[:64],
                remedy=f"activate within {DEFERRED_S:.0f} s, at the edge that decided",
            )

    def _expire(self) -> None:
        now = monotonic()
        while self._deferred:
            decision_id, held = next(iter(self._deferred.items()))
            if held.until > now:
                return
            self._release(decision_id)
            self._forget(decision_id)

    def _release(self, decision_id: str) -> Held | None:
        held = self._deferred.pop(decision_id, None)
        if held is not None:
            self._held_bytes -= len(held.line)
        return held

    async def keep_synced(self) -> Never:
        """Force the spool onto the disk ten times a second, for as long as the edge lives."""
        while True:
            await asyncio.sleep(SYNC_INTERVAL_S)
            try:
                await asyncio.to_thread(self._spool.sync)
            except OSError as error:
                log.error("spool.sync_failed", error=str(error))  # noqa: TRY400


def _counted(decision: Decision) -> Counted:
    variant = None
    if decision.split is not None and decision.variant is not None:
        variant = decision.policy, decision.split, decision.variant
    return Counted((decision.policy, decision.mode, decision.action), variant)


def reward_deadline(decision: Decision, wait_s: float) -> datetime:
    """When the decision's reward is settled."""
    return decision.at + timedelta(seconds=wait_s)


def check_id(field: str, value: str | None, limit: int = 128) -> str | None:
    """A session's or episode's id as the application gave it.

    Raises:
        ProblemError: It is empty, too long or not printable (422).
    """
    if value is not None and not (0 < len(value) <= limit and value.isprintable()):
        raise invalid(field, value, f"give 1 to {limit} printable characters")
    return value
