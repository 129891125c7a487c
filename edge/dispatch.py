"""Shadow dispatch: a share of the requests also goes to a shadow's arm, off the user's path.

The bundle says how many, how many at once and what they may cost. Whether a request is drawn
depends on its decision alone; a place and the money are reserved before the user's answer, whose
head names the shadow's decision, and the arm is asked after that answer has ended. What it makes
of the request is logged as a decision of mode ``shadow`` with an outcome: an observation of what
another arm does with the same request, which no learner takes for traffic.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from time import monotonic

import structlog

from edge.answers import Answers
from edge.chat import Chat
from edge.errors import UpstreamError
from edge.ledger import Ledger
from edge.metrics import Metrics
from edge.purse import Purse
from edge.router import Decision, Shadow, counterfactual
from edge.upstream import Upstream
from edge.usage import CHARS_PER_TOKEN, Meter, Usage, cost_usd, count_chars
from learners.bundle import Bundle
from learners.exploration import unit_interval
from learners.records import Arm

USUAL_TOKENS = 1_024
"""How long an answer is taken to become whose request does not bound it."""
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Ticket:
    """A request that will go to a shadow's arm: its place and its price are reserved."""

    decision_id: str
    bundle: Bundle
    served: Decision
    shadow: Shadow
    arm: Arm
    chat: Chat
    chars: int
    reserved_usd: float


class Dispatcher:
    """Draws, reserves, asks and measures; what it cannot do at once it does not do."""

    def __init__(
        self,
        upstream: Upstream,
        ledger: Ledger,
        metrics: Metrics,
        answers: Answers,
        *,
        request_s: float,
        now: Callable[[], datetime],
        new_id: Callable[[datetime], str],
    ) -> None:
        """``request_s`` bounds each request; ``now`` and ``new_id`` are as the proxy's."""
        self._upstream = upstream
        self._ledger = ledger
        self._metrics = metrics
        self._answers = answers
        self._request_s = request_s
        self._now = now
        self._new_id = new_id
        self._purses: dict[str, Purse] = {}
        self._busy: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    def plan(self, bundle: Bundle, decision: Decision, chat: Chat) -> Ticket | None:
        """A ticket, where the decision is drawn and a place and the money are there."""
        asked = bundle.lineup.dispatch
        if asked is None or not decision.shadows:
            return None
        key = decision.decision_id, bundle.digest
        if unit_interval("dispatch", *key) >= asked.share:
            return None
        # Which shadow is drawn apart from what it chose, so its own probabilities hold.
        at = int(unit_interval("dispatch shadow", *key) * len(decision.shadows))
        shadow = decision.shadows[at]
        if shadow.action == decision.action:
            self._count(bundle.policy, "agreed")
            return None
        if self._busy[bundle.policy] >= asked.max_in_flight:
            self._count(bundle.policy, "busy")
            return None
        arm = bundle.arms[bundle.index[shadow.action]]
        chars = count_chars(chat.messages)
        usage = Usage(-(-chars // CHARS_PER_TOKEN), chat.most_tokens or USUAL_TOKENS)
        price = cost_usd(usage, arm.card)
        purse = self._purses.setdefault(bundle.policy, Purse())
        if not purse.reserve(price, asked.usd_per_hour, monotonic()):
            self._count(bundle.policy, "budget")
            return None
        self._busy[bundle.policy] += 1
        decision_id = self._new_id(self._now())
        self._answers.expect(decision_id, arm.name)
        return Ticket(decision_id, bundle, decision, shadow, arm, chat, chars, price)

    def _count(self, policy: str, result: str) -> None:
        self._metrics.shadow_dispatches.labels(policy, result).inc()

    def give_back(self, ticket: Ticket) -> None:
        """The user has gone: nothing is asked, and nothing spent."""
        self._answers.drop(ticket.decision_id)
        self._settle(ticket, "given_up", 0.0)

    def start(self, ticket: Ticket) -> None:
        """Ask the arm, in the background."""
        if self._closed:
            self.give_back(ticket)
            return
        task = asyncio.create_task(self._ask(ticket))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Give up what is under way, and begin no more."""
        self._closed = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _ask(self, ticket: Ticket) -> None:
        result, spent, meter = "failed", ticket.reserved_usd, Meter(monotonic())
        try:
            self._ledger.observe(
                counterfactual(
                    ticket.bundle,
                    ticket.served,
                    ticket.shadow,
                    decision_id=ticket.decision_id,
                    at=self._now(),
                )
            )
            if await self._measured(ticket, meter):
                result = "answered"
            spent = self._write_outcome(ticket, meter)
        except Exception:
            # Nobody waits for this task, so this is where a bug is heard of.
            log.exception("dispatch.failed", arm=ticket.arm.name)
        finally:
            self._settle(ticket, result, spent)

    async def _measured(self, ticket: Ticket, meter: Meter) -> bool:
        """Whether the arm has answered; the meter knows what it took."""
        arm, answers = ticket.arm, self._answers
        try:
            async with asyncio.timeout(self._request_s):
                # Of the client's headers none goes along: this is a request of the edge's own.
                answer = await self._upstream.open(arm, ticket.chat.body_for(arm.model), {})
                try:
                    body = await self._upstream.read(
                        answer, arm, meter.feed if ticket.chat.stream else None
                    )
                finally:
                    answer.close()
        except (UpstreamError, TimeoutError) as error:
            meter.error = 1
            reason = error.reason if isinstance(error, UpstreamError) else "timeout"
            log.warning("dispatch.no_answer", arm=arm.name, reason=reason)
            answers.keep(ticket.decision_id, arm.name, 0)
            return False
        if not ticket.chat.stream:
            meter.read_whole(body)
        meter.end(answer.status)
        answers.keep(
            ticket.decision_id,
            arm.name,
            answer.status,
            answer.headers.get("Content-Type", ""),
            body,
        )
        return True

    def _write_outcome(self, ticket: Ticket, meter: Meter) -> float:
        """Log what was measured; what it cost, in USD."""
        values = meter.values(monotonic(), ticket.arm.card, ticket.chars)
        self._ledger.outcome(
            ticket.decision_id,
            at=self._now(),
            values=values,
            response_id=meter.response_id,
            shadow=True,
        )
        # Who does not say what it took is taken to have cost what was reserved.
        return values.get("cost_usd", ticket.reserved_usd)

    def _settle(self, ticket: Ticket, result: str, spent: float) -> None:
        policy = ticket.bundle.policy
        self._purses[policy].settle(ticket.reserved_usd, spent, monotonic())
        self._busy[policy] -= 1
        self._count(policy, result)
