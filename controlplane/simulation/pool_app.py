"""The pool over HTTP: a world's arms behind OpenAI's API, and the levers that change them."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from uuid import uuid4

import msgspec
from aiohttp import web

from controlplane.simulation import chat
from controlplane.simulation.contract import (
    Answer,
    AnyWorld,
    Moment,
    UnknownQueryError,
    WorldError,
)
from controlplane.simulation.levers import Levers
from controlplane.simulation.prompts import key_of

MAX_IN_FLIGHT = 4_096
RETRY_AFTER_S = 1
_encode = msgspec.json.encode
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(slots=True)
class Pool:
    """A world being served.

    Attributes:
        speed: how many times faster than its world it answers; 0 does not wait at all.
    """

    world: AnyWorld
    speed: float = 1.0
    levers: Levers = field(default_factory=Levers)
    started: float = field(default_factory=time.monotonic)
    requests: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    in_flight: int = 0

    def answer(self, ask: chat.Ask) -> Answer:
        """What the world answers now, counted.

        Raises:
            ApiError: 404 for an unknown model, 400 for a query that a table does not hold.
        """
        if ask.model not in self.world.arm_names:
            text = f"The model {ask.model[:200]!r} does not exist: see GET /v1/models."
            raise chat.ApiError(404, text, param="model", code="model_not_found")
        t = Moment(self.requests.total(), time.monotonic() - self.started)
        self.requests[ask.model] += 1
        key = key_of(ask.prompt)
        try:
            answer = self.levers.applied(self.world).answer(
                key, ask.model, ask.prompt, t=t, max_tokens=ask.max_tokens
            )
        except UnknownQueryError as error:
            raise chat.ApiError(400, str(error), param="messages", code="unknown_query") from error
        self.failures[ask.model] += answer.failed
        return answer

    async def wait(self, seconds: float) -> None:
        """Let a part of the world's time pass."""
        if self.speed > 0:
            await asyncio.sleep(seconds / self.speed)


POOL = web.AppKey("pool", Pool)


def build_app(pool: Pool) -> web.Application:
    """The application that serves a pool."""
    app = web.Application(client_max_size=chat.MAX_BODY, middlewares=[_in_openai_form])
    app[POOL] = pool
    app.add_routes(
        [
            web.post("/v1/chat/completions", _complete),
            web.get("/v1/models", _list_models),
            web.get("/v1/models/{arm:.+}", _show_model),
            web.get("/healthz", _healthz),
            web.get("/admin/arms", _list_arms),
            web.patch("/admin/arms/{arm:.+}", _patch_arm),
        ]
    )
    return app


@web.middleware
async def _in_openai_form(request: web.Request, handler: _Handler) -> web.StreamResponse:
    """Every refusal has OpenAI's error body, those of the web framework too."""
    try:
        return await handler(request)
    except chat.ApiError as error:
        refusal = error
    except web.HTTPRequestEntityTooLarge:
        refusal = chat.ApiError(413, f"The body is larger than {chat.MAX_BODY} bytes.")
    except web.HTTPError as error:
        refusal = chat.ApiError(error.status, f"{request.method} {request.path}: {error.reason}.")
    headers = {"retry-after": str(RETRY_AFTER_S)} if refusal.status in {429, 503} else {}
    return _json(refusal.as_json(), refusal.status, headers)


async def _complete(request: web.Request) -> web.StreamResponse:
    pool = request.app[POOL]
    ask = chat.read(await request.read())
    if pool.in_flight >= MAX_IN_FLIGHT:
        raise chat.failure(429)
    pool.in_flight += 1
    try:
        return await _answer(request, pool, ask)
    finally:
        pool.in_flight -= 1


async def _answer(request: web.Request, pool: Pool, ask: chat.Ask) -> web.StreamResponse:
    answer = pool.answer(ask)
    if answer.failed:
        await pool.wait(answer.latency_s)
        raise chat.failure(answer.status)
    reply = chat.Reply(
        id=f"chatcmpl-{uuid4().hex}",
        created=int(time.time()),
        model=ask.model,
        text=chat.text_of(ask.model, answer),
        answer=answer,
    )
    if ask.stream:
        return await _stream(request, pool, reply, include_usage=ask.include_usage)
    await pool.wait(answer.latency_s)
    return _json(chat.completion(reply))


async def _stream(
    request: web.Request, pool: Pool, reply: chat.Reply, *, include_usage: bool
) -> web.StreamResponse:
    """Send the chunks at the pace of the arm; a client that leaves ends it."""
    headers = {"content-type": "text/event-stream", "cache-control": "no-cache"}
    response = web.StreamResponse(headers=headers)
    events = list(chat.chunks(reply, include_usage=include_usage))
    answer = reply.answer
    pause_s = max(0.0, answer.latency_s - answer.first_token_s) / len(events)
    await pool.wait(answer.first_token_s)
    try:
        await response.prepare(request)
        for event in events:
            await response.write(b"data: " + _encode(event) + b"\n\n")
            await pool.wait(pause_s)
        await response.write(b"data: [DONE]\n\n")
        await response.write_eof()
    except ConnectionError:
        pass
    return response


async def _list_models(request: web.Request) -> web.Response:
    names = request.app[POOL].world.arm_names
    return _json({"object": "list", "data": [_model(name) for name in names]})


async def _show_model(request: web.Request) -> web.Response:
    return _json(_model(_arm(request)))


async def _healthz(request: web.Request) -> web.Response:
    return _json({"status": "ok", "arms": len(request.app[POOL].world.arm_names)})


async def _list_arms(request: web.Request) -> web.Response:
    pool = request.app[POOL]
    return _json({"arms": [_show(pool, name) for name in pool.world.arm_names]})


async def _patch_arm(request: web.Request) -> web.Response:
    pool, arm = request.app[POOL], _arm(request)
    try:
        pool.levers.pull(pool.world, arm, await request.read())
    except WorldError as error:
        raise chat.ApiError(400, str(error)) from error
    return _json(_show(pool, arm))


def _arm(request: web.Request) -> str:
    """The arm that the path names."""
    arm = request.match_info["arm"]
    if arm not in request.app[POOL].world.arm_names:
        text = f"The model {arm[:200]!r} does not exist: see GET /v1/models."
        raise chat.ApiError(404, text, param="model", code="model_not_found")
    return arm


def _model(name: str) -> chat.Json:
    return {"id": name, "object": "model", "created": 0, "owned_by": "simulation"}


def _show(pool: Pool, arm: str) -> chat.Json:
    return {
        "arm": arm,
        **pool.world.card(arm),
        "levers": pool.levers.show(arm),
        "requests": pool.requests[arm],
        "failures": pool.failures[arm],
    }


def _json(row: chat.Json, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(
        body=_encode(row), status=status, headers=headers, content_type="application/json"
    )
