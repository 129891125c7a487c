"""OpenAI-compatible chat: choose an arm, relay its answer untouched, measure, retry on another.

An arm that fails before the client has got a byte is logged with ``error`` 1, and a second
decision among the rest, with its own id and exact propensity, is served. So the head of an answer
is sent when its first bytes are there.
"""

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from time import monotonic
from urllib.parse import quote

import aiohttp
import msgspec
import structlog
from aiohttp import web

from edge.chat import ROUTE, Chat, read_chat
from edge.errors import ProblemError, UpstreamError
from edge.ledger import Ledger
from edge.metrics import Metrics
from edge.policies import Policies
from edge.router import Decision, NoArmError, decide
from edge.upstream import Upstream
from edge.usage import Meter, count_chars
from kernels import signals
from learners.bundle import Bundle
from learners.errors import LearnersError
from learners.records import Arm, Context

_HEADER_SAFE = " !#$&'()*+,/:;=?@[]~|"
# Hop by hop (RFC 9110 §7.6.1), framing that aiohttp writes anew, and cookies, which would carry
# one client's state with a provider to all others.
_NOT_RELAYED = frozenset(
    {
        "connection",
        "content-length",
        "date",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "server",
        "set-cookie",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
log = structlog.get_logger()


class Proxy:
    """``POST /v1/chat/completions`` and ``GET /v1/models``."""

    def __init__(
        self,
        policies: Policies,
        ledger: Ledger,
        upstream: Upstream,
        metrics: Metrics,
        *,
        retries: int,
        now: Callable[[], datetime],
        new_id: Callable[[datetime], str],
    ) -> None:
        """``now`` and ``new_id`` are the clock and the source of decision ids."""
        self._policies = policies
        self._ledger = ledger
        self._upstream = upstream
        self._metrics = metrics
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
        chat = read_chat(await request.read(), request.headers)
        if chat.policy is not None:
            return await self._routed(request, chat, self._policies.bundle(chat.policy))
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
        try:
            headers = {"x-route-model": _header(arm.name)}
            return await self._relay(request, chat, arm, headers=headers, meter=_meter())
        except UpstreamError as error:
            raise self._all_failed([(arm, error)]) from error

    async def _routed(self, request: web.Request, chat: Chat, bundle: Bundle) -> web.StreamResponse:
        context = signals.read_messages(chat.messages)
        failed: list[tuple[Arm, UpstreamError]] = []
        before: str | None = None
        while True:
            tried = {arm.name for arm, _ in failed}
            try:
                decision = self._decide(bundle, context, chat, before, tried)
            except NoArmError as error:
                raise self._all_failed(failed, str(error)) from error
            self._ledger.record(decision)
            arm = bundle.arms[bundle.index[decision.action]]
            try:
                return await self._serve(request, chat, arm, decision)
            except UpstreamError as error:
                failed.append((arm, error))
            if len(failed) > self._retries:
                raise self._all_failed(failed)
            before = decision.decision_id

    def _decide(
        self,
        bundle: Bundle,
        context: Context,
        chat: Chat,
        before: str | None,
        tried: set[str],
    ) -> Decision:
        at = self._now()
        try:
            return decide(
                bundle,
                context,
                decision_id=self._new_id(at),
                at=at,
                eligible=[a.name for a in bundle.arms if a.endpoint and a.name not in tried],
                retry_of=before,
                session_id=chat.session_id,
                episode_id=chat.episode_id,
            )
        except LearnersError as error:
            # The signals are ours: a schema or scorer that cannot take them is a mistake of the
            # policy, not of the client.
            raise ProblemError(
                503, "policy_unfit", f"policy {bundle.policy!r} cannot choose: {error}"
            ) from error

    async def _serve(
        self, request: web.Request, chat: Chat, arm: Arm, decision: Decision
    ) -> web.StreamResponse:
        """Relay, and log the outcome however it ends: answered, failed or given up.

        A client that gives up leaves ``error`` open, and the time until then as a latency, which
        is at least that: or else an arm that hangs would leave no trace.
        """
        meter = _meter()
        try:
            headers = _decision_headers(decision)
            return await self._relay(request, chat, arm, headers=headers, meter=meter)
        except UpstreamError:
            meter.error = 1
            raise
        finally:
            if meter.error is None:
                self._metrics.cancelled.inc()
            if meter.estimated:
                self._metrics.estimated.inc()
            self._ledger.outcome(
                decision.decision_id,
                at=self._now(),
                values=meter.values(monotonic(), arm.card, count_chars(chat.messages)),
                response_id=meter.response_id,
            )

    async def _relay(
        self,
        request: web.Request,
        chat: Chat,
        arm: Arm,
        *,
        headers: Mapping[str, str],
        meter: Meter,
    ) -> web.StreamResponse:
        answer = None
        try:
            answer = await self._upstream.open(arm, chat.body_for(arm.model), request.headers)
            every = {**_relayed(answer.headers.items()), **headers}
            if not chat.stream:
                return await self._relay_whole(answer, arm, every, meter)
            return await self._relay_stream(request, answer, arm, headers=every, meter=meter)
        except UpstreamError as error:
            self._metrics.upstream_errors.labels(arm.name, error.reason).inc()
            log.warning("upstream.failed", arm=arm.name, reason=error.reason)
            raise
        finally:
            if answer is not None:
                answer.close()  # which cancels what was not read to its end

    async def _relay_whole(
        self, answer: aiohttp.ClientResponse, arm: Arm, headers: Mapping[str, str], meter: Meter
    ) -> web.Response:
        body = await self._upstream.read(answer, arm)
        meter.read_whole(body)
        meter.error = int(answer.status >= 400)
        return web.Response(status=answer.status, body=body, headers=headers)

    async def _relay_stream(
        self,
        request: web.Request,
        answer: aiohttp.ClientResponse,
        arm: Arm,
        *,
        headers: Mapping[str, str],
        meter: Meter,
    ) -> web.StreamResponse:
        chunk = await self._upstream.read_some(answer, arm)
        response = web.StreamResponse(status=answer.status, headers=headers)
        await response.prepare(request)
        try:
            while chunk:
                meter.feed(chunk, monotonic())
                await response.write(chunk)
                chunk = await self._upstream.read_some(answer, arm)
        except UpstreamError as error:
            # The head is out, so nothing can be retried: the client must see the break.
            meter.error = 1
            self._metrics.upstream_errors.labels(arm.name, error.reason).inc()
            log.warning("upstream.broke_off", arm=arm.name, reason=error.reason)
            if request.transport is not None:
                request.transport.close()
            return response
        except ConnectionResetError:
            return response  # the client has gone
        meter.error = int(answer.status >= 400)
        await response.write_eof()
        return response

    def _all_failed(self, failed: list[tuple[Arm, UpstreamError]], more: str = "") -> ProblemError:
        said = "; ".join(str(error) for _, error in failed)
        return ProblemError(
            502,
            "upstream_failed",
            "; ".join(text for text in (said, more) if text),
            value=[arm.name for arm, _ in failed],
            remedy="see pointsman_edge_upstream_errors_total, and the arms' endpoints",
        )


def _meter() -> Meter:
    return Meter(monotonic())


def _decision_headers(decision: Decision) -> dict[str, str]:
    return {
        "x-route-decision-id": decision.decision_id,
        "x-route-policy": f"{decision.policy}@{decision.version}",
        "x-route-model": _header(decision.action),
        "x-route-propensity": repr(decision.propensity),
    }


def _header(name: str) -> str:
    """An arm's name as a header's value: percent-encoded where it is not plain ASCII."""
    return quote(name, safe=_HEADER_SAFE)


def _relayed(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    return {name: value for name, value in headers if name.lower() not in _NOT_RELAYED}


def _model(name: str, created: datetime) -> dict[str, object]:
    return {
        "id": name,
        "object": "model",
        "created": int(created.timestamp()),
        "owned_by": "pointsman",
    }
