"""OpenAI-compatible chat: choose an arm, relay its answer untouched, measure, retry on another.

An arm that fails before the client has got a byte is logged with ``error`` 1, and a second
decision among the rest, with its own id and exact propensity, is served. So the head of an answer
is sent when its first bytes are there.
"""

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from time import monotonic

import msgspec
import structlog
from aiohttp import web

from edge.arriving import arrived_at, body_of, heard_of
from edge.chat import ROUTE, Chat, read_chat
from edge.dispatch import Dispatcher, Ticket
from edge.errors import ProblemError, UpstreamError, invalid
from edge.headers import decision_headers, model_header
from edge.heads import held, permitted
from edge.ledger import Ledger
from edge.metrics import Metrics
from edge.policies import Policies
from edge.preference import HEADER
from edge.reading import Reader
from edge.relay import Attempt, Relay
from edge.router import Decision, NoArmError, decide
from edge.tools import Narrower
from edge.usage import Meter, count_chars
from learners.bundle import Bundle
from learners.errors import ContextError, LearnersError
from learners.preferences import PREFIX
from learners.records import Arm, Context

BUSY = frozenset({429, 503})
Failures = list[tuple[Arm, UpstreamError]]
log = structlog.get_logger()


class Proxy:
    """``POST /v1/chat/completions`` and ``GET /v1/models``."""

    def __init__(
        self,
        policies: Policies,
        ledger: Ledger,
        relay: Relay,
        metrics: Metrics,
        dispatcher: Dispatcher,
        *,
        reader: Reader,
        narrower: Narrower,
        retries: int,
        now: Callable[[], datetime],
        new_id: Callable[[datetime], str],
    ) -> None:
        """``now`` and ``new_id`` are the clock and the source of decision ids."""
        self._policies = policies
        self._ledger = ledger
        self._relay = relay
        self._metrics = metrics
        self._dispatcher = dispatcher
        self._reader = reader
        self._narrower = narrower
        self._retries = retries
        self._now = now
        self._new_id = new_id

    async def models(self, _: web.Request) -> web.Response:
        """List what may be asked for: policies, then arms."""
        active = self._policies.active
        rows = [_model(f"{ROUTE}{name}", one.issued_at) for name, one in active.items()]
        issued = {arm.name: one.issued_at for one in active.values() for arm in one.arms}
        rows += [_model(name, at) for name, at in issued.items()]
        body = msgspec.json.encode({"object": "list", "data": rows})
        return web.Response(body=body, content_type="application/json")

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """Route the request, or pass it on to the arm that it names."""
        chat = read_chat(await body_of(request), request.headers)
        if chat.policy is None:
            return await self._relay.send(request, await self._passed_on(request, chat))
        tickets: list[Ticket] = []
        ended = self._dispatcher.start
        try:
            bundle = self._policies.bundle(chat.policy)
            response = await self._routed(request, chat, bundle, tickets)
            return await self._relay.send(request, response)
        except asyncio.CancelledError:
            ended = self._dispatcher.give_back
            raise
        finally:
            for ticket in tickets:
                ended(ticket)

    async def _passed_on(self, request: web.Request, chat: Chat) -> web.StreamResponse:
        arm = self._policies.arms.get(chat.model)
        if arm is None:
            raise ProblemError(
                404,
                "model_not_found",
                f"the model {chat.model!r} does not exist here",
                field="model",
                value=chat.model,
                remedy="see GET /v1/models",
            )
        headers = model_header(arm.name)
        try:
            return await self._relay.relay(Attempt(request, chat, arm, headers, _meter()))
        except UpstreamError as error:
            raise _all_failed([(arm, error)], headers) from error

    async def _routed(
        self, request: web.Request, chat: Chat, bundle: Bundle, tickets: list[Ticket]
    ) -> web.StreamResponse:
        """Try arms until one serves; what is to go to shadows' arms too is added to ``tickets``."""
        context, chat, told = await self._read(request, chat, bundle)
        self._metrics.count_guarded(bundle.policy, held(bundle, context))
        failed: Failures = []
        made: list[Decision] = []
        headers: Mapping[str, str] = told
        while True:
            try:
                decision = self._decide(bundle, context, chat, made)
            except NoArmError as error:
                raise _all_failed(failed, headers, str(error)) from error
            self._ledger.record(decision)
            self._metrics.count_asked(bundle, decision)
            ticket = self._dispatcher.plan(bundle, decision, chat)
            if ticket is not None:
                tickets.append(ticket)
            arm = bundle.arms[bundle.index[decision.action]]
            headers = decision_headers(decision, ticket.decision_id if ticket else None) | told
            try:
                attempt = Attempt(request, chat, arm, headers, _meter(), again=bool(made))
                return await self._serve(attempt, decision)
            except UpstreamError as error:
                failed.append((arm, error))
            if len(failed) > self._retries:
                raise _all_failed(failed, headers)
            made.append(decision)

    async def _read(
        self, request: web.Request, chat: Chat, bundle: Bundle
    ) -> tuple[Context, Chat, dict[str, str]]:
        """The request's context, the chat as it is passed on, and what is said of its tools."""
        heard = heard_of(request)
        early = heard.finish if heard is not None else None
        asked = self._narrower.ask(chat, request.headers)
        given, started, embedding = chat.preference, arrived_at(request), None
        if asked is None or asked.settled is not None:
            context = await self._reader.read(bundle, chat.messages, given, early, started=started)
        else:
            context, embedding = await self._reader.read_embedded(
                bundle, chat.messages, given, early, started=started
            )
        if asked is None:
            return context, chat, {}
        return context, *self._narrower.narrow(chat, asked, bundle.policy, embedding)

    def _decide(
        self,
        bundle: Bundle,
        context: Context,
        chat: Chat,
        made: Sequence[Decision],
    ) -> Decision:
        """The next decision for a request; those ``made`` before it have failed."""
        at = self._now()
        tried = {one.action for one in made}
        able = [a.name for a in bundle.arms if a.endpoint and a.name not in tried]
        try:
            return decide(
                bundle,
                context,
                decision_id=self._new_id(at),
                at=at,
                eligible=permitted(bundle, held(bundle, context), able, tried=bool(tried)),
                retry_of=made[-1].decision_id if made else None,
                session_id=chat.session_id,
                episode_id=chat.episode_id,
                user=chat.user,
                request_id=made[0].decision_id if made else None,
            )
        except LearnersError as error:
            if chat.preference and isinstance(error, ContextError) and PREFIX in str(error):
                raise invalid(HEADER, chat.preference, str(error)) from error
            # The signals are ours: a schema or scorer that cannot take them is a mistake of the
            # policy, not of the client.
            raise ProblemError(
                503, "policy_unfit", f"policy {bundle.policy!r} cannot choose: {error}"
            ) from error

    async def _serve(self, attempt: Attempt, decision: Decision) -> web.StreamResponse:
        """Relay, and log the outcome however it ends: answered, failed or given up.

        A client that gives up leaves ``error`` open, and the time until then as a latency, which
        is at least that: or else an arm that hangs would leave no trace.
        """
        try:
            return await self._relay.relay(attempt)
        except UpstreamError:
            attempt.meter.error = 1
            raise
        finally:
            self._write_outcome(attempt, decision)

    def _write_outcome(self, attempt: Attempt, decision: Decision) -> None:
        meter = attempt.meter
        if meter.error is None:
            self._metrics.cancelled.inc()
        if meter.estimated:
            self._metrics.estimated.inc()
        try:
            chars = count_chars(attempt.chat.messages)
            self._ledger.outcome(
                decision.decision_id,
                at=self._now(),
                values=meter.values(monotonic(), attempt.arm.card, chars),
                response_id=meter.response_id,
            )
        except Exception:
            # What is known comes from an arm, and the answer is worth more than its measurement:
            # raised here, in a finally, it would replace a good answer by a 500.
            self._metrics.dropped.labels("outcome", "unmeasured").inc()
            log.exception("outcome.lost", arm=attempt.arm.name)


def _meter() -> Meter:
    return Meter(monotonic())


def _all_failed(failed: Failures, headers: Mapping[str, str], more: str = "") -> ProblemError:
    """502, or what the arms said where all of them only have too much to do."""
    errors = [error for _, error in failed]
    busy = bool(errors) and all(error.status in BUSY for error in errors)
    waits = [error.retry_after_s for error in errors if error.retry_after_s is not None]
    status = 502
    if busy:
        status = 429 if all(error.status == 429 for error in errors) else 503
    return ProblemError(
        status,
        "upstream_busy" if busy else "upstream_failed",
        "; ".join([*map(str, errors), *([more] if more else [])]),
        retry_after_s=math.ceil(max(waits)) if busy and waits else None,
        headers=headers,
        value=[arm.name for arm, _ in failed],
        remedy="see pointsman_edge_upstream_errors_total, and the arms' endpoints",
    )


def _model(name: str, created: datetime) -> dict[str, object]:
    return {
        "id": name,
        "object": "model",
        "created": int(created.timestamp()),
        "owned_by": "pointsman",
    }
