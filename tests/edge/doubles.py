"""What an edge talks to, over real HTTP: a small control plane and small model servers.

The edge may not import our control plane, so :class:`ControlPlaneDouble` speaks its contract with
bundles that ``learners.bundle.seal`` really signed. The arms speak OpenAI's chat API.
"""

import asyncio
import base64
import gzip
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import numpy as np
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge.app import running
from edge.settings import Settings
from kernels.signals.text import SIGNAL_SCHEMA, read
from learners.bundle import Bundle, seal
from learners.exploration import Exploration
from learners.features import Schema
from learners.lineup import Golden
from learners.records import Arm, Card
from learners.scorers.linear import Linear

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
FOREIGN_KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
TRUSTED = base64.b64encode(KEY.public_key().public_bytes_raw()).decode()
ARMS = ("small", "medium", "large")
UNIFORM = Exploration("uniform")
Record = TypeVar("Record")


def make_bundle(
    *,
    policy: str = "chat",
    serial: int = 1,
    arms: tuple[str, ...] = ARMS,
    endpoint: str = "",
    exploration: Exploration = UNIFORM,
    expires_in: timedelta = timedelta(days=1),
    golden: bool = True,
) -> Bundle:
    """A policy whose scores differ by arm and by text; its version is its serial."""
    schema = Schema.from_json([*SIGNAL_SCHEMA, {"name": "price", "kind": "number"}])
    rng = np.random.default_rng(len(arms))
    now = datetime.now(UTC)
    bundle = Bundle(
        policy=policy,
        version=serial,
        serial=serial,
        issued_at=now,
        expires_at=now + expires_in,
        arms=tuple(
            Arm(name, f"{name}-model", endpoint, Card(1.0, 2.0), f"{name.upper()}_KEY")
            for name in arms
        ),
        schema=schema,
        scorer=Linear(arms, rng.normal(size=(len(arms), schema.dimension)), exploration),
        fallback_arm=arms[0],
        learner="linucb",
        wait_s=3600.0,
    )
    if not golden:
        return bundle
    context = read("What is the capital of France?")
    found = tuple(bundle.distribution(context, arms).tolist())
    return replaced(bundle, golden=(Golden(context, arms, found),))


def replaced(of: Record, **changes: Any) -> Record:
    """The same record (a bundle, a challenger) with other fields."""
    names = of.__dataclass_fields__  # type: ignore[attr-defined]
    return type(of)(**({name: getattr(of, name) for name in names} | changes))


@dataclass
class ControlPlaneDouble:
    """Speaks the control plane's side of the contract, and remembers what it was told."""

    url: str = ""
    sealed: dict[str, tuple[bytes, str]] = field(default_factory=dict)
    decisions: list[dict[str, Any]] = field(default_factory=list)
    outcomes: list[dict[str, Any]] = field(default_factory=list)
    arrivals: list[tuple[str, str]] = field(default_factory=list)
    statuses: list[dict[str, Any]] = field(default_factory=list)
    authorizations: set[str] = field(default_factory=set)
    refuse_with: int | None = None
    reject_ids: set[str] = field(default_factory=set)
    poison_ids: set[str] = field(default_factory=set)
    bundle_requests: int = 0
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def publish(self, bundle: Bundle, *, key: Ed25519PrivateKey = KEY) -> None:
        self.publish_bytes(bundle.policy, seal(bundle, [key]), f"{bundle.serial}-{bundle.digest}")

    def publish_bytes(self, policy: str, data: bytes, name: str) -> None:
        self.sealed[policy] = data, f'"{name[:40]}"'
        self._changed.set()
        self._changed = asyncio.Event()

    def application(self) -> web.Application:
        app = web.Application(client_max_size=64 * 2**20)
        app.add_routes(
            [
                web.get("/v1/bundles/{policy}", self._bundle),
                web.post("/v1/decisions:batch", self._batch),
                web.post("/v1/outcomes:batch", self._batch),
                web.post("/v1/edges/{edge}/status", self._status),
            ]
        )
        return app

    async def _bundle(self, request: web.Request) -> web.Response:
        self.bundle_requests += 1
        if self.refuse_with is not None:
            return web.Response(status=self.refuse_with)
        policy, known = request.match_info["policy"], request.headers.get("If-None-Match")
        wait_s = float(request.headers.get("Prefer", "wait=0").removeprefix("wait="))
        if self.sealed.get(policy, (b"", None))[1] == known:
            try:
                async with asyncio.timeout(wait_s):
                    await self._changed.wait()
            except TimeoutError:
                return web.Response(status=304)
        if policy not in self.sealed:
            return web.Response(status=404)
        data, etag = self.sealed[policy]
        return web.Response(body=data, headers={"ETag": etag})

    async def _batch(self, request: web.Request) -> web.Response:
        self.authorizations.add(request.headers["Authorization"])
        if self.refuse_with is not None:
            return web.Response(status=self.refuse_with)
        # aiohttp's server has already unpacked the body by its Content-Encoding.
        body = await request.read()
        text = gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body
        rows = [json.loads(line) for line in text.splitlines()]
        kind = request.path.removeprefix("/v1/").removesuffix(":batch")
        if any(row["decision_id"] in self.poison_ids for row in rows):
            return web.Response(status=400, text="a line is no JSON")
        rejected = [
            {"line": i, "field": "context", "detail": "is not wanted"}
            for i, row in enumerate(rows)
            if row["decision_id"] in self.reject_ids
        ]
        kept = [row for row in rows if row["decision_id"] not in self.reject_ids]
        (self.decisions if kind == "decisions" else self.outcomes).extend(kept)
        self.arrivals.extend((kind, row["decision_id"]) for row in kept)
        return web.json_response({"accepted": len(kept), "duplicates": 0, "rejected": rejected})

    async def _status(self, request: web.Request) -> web.Response:
        self.statuses.append(await request.json())
        return web.Response(status=204)


@dataclass
class Arms:
    """Model servers: the model's name says which; ``behaviour`` says how one answers."""

    url: str = ""
    behaviour: dict[str, str] = field(default_factory=dict)
    bodies: list[bytes] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    models: list[str] = field(default_factory=list)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)

    def application(self) -> web.Application:
        app = web.Application(client_max_size=64 * 2**20)
        app.add_routes([web.post("/v1/chat/completions", self._chat)])
        return app

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        self.bodies.append(await request.read())
        self.headers.append({k.lower(): v for k, v in request.headers.items()})
        body = json.loads(self.bodies[-1])
        self.models.append(body["model"])
        how = self.behaviour.get(body["model"].removesuffix("-model"), "good")
        status, _, retry_after = how.partition(" after ")
        if status.isdecimal():
            extra = {"Retry-After": retry_after} if retry_after else {}
            return web.json_response(
                {"error": {"message": "no"}}, status=int(status), headers=extra
            )
        if how == "slow":
            await asyncio.sleep(0.5)
        if how == "hang":
            try:
                await asyncio.sleep(60)
            finally:
                self.cancelled.set()
        if body.get("stream"):
            return await _stream(request, body, how)
        extra = ROUTED_HEADERS if how == "routed" else {}
        return web.Response(body=ANSWERS.get(how, ANSWER), headers=ANSWER_HEADERS | extra)


ANSWER = (
    b'{"id": "chatcmpl-1",  "object":"chat.completion","created":1,"model":"m-2024","choices":'
    b'[{"index":0,"message":{"role":"assistant","content":"Pari\\u0073"},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":10,"completion_tokens":20,"total_tokens":30},"own":1.0}'
)
FAILURE = b'{"error": {"message": "out of memory", "code": 500}}'
ANSWERS = {
    "large_answer": ANSWER + b" " * 4096,
    "huge_answer": ANSWER + b" " * 24 * 2**20,
    "empty": b"",
    "told_error": FAILURE,
    "absurd_usage": ANSWER.replace(b"20,", b"1" + b"0" * 400 + b","),
    "deep": ANSWER.replace(b"1.0", b"[" * 100_000 + b"]" * 100_000),
}
# As an arm sends them that is an edge itself, or would like to be believed one.
ROUTED_HEADERS = {"X-Route-Decision-Id": "another", "x-route-propensity": "1", "X-ROUTE-Odd": "1"}
ANSWER_HEADERS = {"Content-Type": "application/json", "X-Provider": "yes", "Set-Cookie": "a=b"}


def stream_events(*, usage: bool, words: tuple[str, ...] = ("Pa", "ri", "s")) -> list[bytes]:
    """A streamed answer, one event for each word."""
    base = {"id": "chatcmpl-2", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    deltas = [{"role": "assistant", "content": ""}, *({"content": word} for word in words)]
    rows: list[Any] = [{**base, "choices": [{"index": 0, "delta": d}]} for d in deltas]
    rows.append({**base, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    if usage:
        counts = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
        rows.append({**base, "choices": [], "usage": counts})
    return [*(f"data: {json.dumps(row)}\n\n".encode() for row in rows), b"data: [DONE]\n\n"]


async def _stream(request: web.Request, body: dict[str, Any], how: str) -> web.StreamResponse:
    usage = bool((body.get("stream_options") or {}).get("include_usage"))
    extra = ROUTED_HEADERS if how == "routed" else {}
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"} | extra)
    await response.prepare(request)
    assert request.transport is not None
    if how == "empty":
        return response
    if how == "told_error":
        await response.write(b"data: %b\n\ndata: [DONE]\n\n" % FAILURE)
        return response
    while how == "flood":
        await response.write(b"data: %b\n\n" % (b"x" * 60_000))
    if how == "break_at_once":
        request.transport.close()
        return response
    for number, event in enumerate(stream_events(usage=usage)):
        if how == "break_later" and number == 2:
            request.transport.close()
            return response
        # Cut inside events too: a network does.
        for part in (event[:9], event[9:]):
            await response.write(part)
            await asyncio.sleep(0.001)
    await response.write_eof()
    return response


@asynccontextmanager
async def served(app: web.Application, port: int = 0) -> AsyncIterator[str]:
    """The application on a port of this machine."""
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.2)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def control_plane(port: int = 0) -> AsyncIterator[ControlPlaneDouble]:
    """A control plane without bundles."""
    double = ControlPlaneDouble()
    async with served(double.application(), port) as double.url:
        yield double


@asynccontextmanager
async def arms() -> AsyncIterator[Arms]:
    """Model servers; all are good until told otherwise."""
    double = Arms()
    async with served(double.application()) as url:
        double.url = f"{url}/v1"
        yield double


def settings(url: str, data_dir: Path, **changes: Any) -> Settings:
    """Settings of an edge that does everything quickly."""
    fields: dict[str, Any] = {
        "control_plane_url": url,
        "api_key": "pm_edge_secret",
        "trusted_keys": TRUSTED,
        "id": "edge-1",
        "data_dir": data_dir,
        "port": 0,
        "poll_wait_s": 2,
        "status_interval_s": 0.2,
        "upload_interval_s": 0.02,
        "backoff_min_s": 0.02,
        "backoff_max_s": 0.1,
        "shutdown_s": 2,
    }
    return Settings(**(fields | changes))


@dataclass
class EdgeClient:
    """A client of a running edge."""

    url: str
    session: aiohttp.ClientSession

    async def get(self, path: str) -> tuple[int, Any]:
        async with self.session.get(self.url + path) as found:
            text = await found.text()
        return found.status, json.loads(text) if text[:1] == "{" else text

    async def post(self, path: str, body: object, **headers: str) -> tuple[int, Any]:
        status, _, data = await self.send(path, body, **headers)
        return status, json.loads(data) if data else None

    async def send(
        self, path: str, body: object, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.session.post(self.url + path, data=data, headers=given) as found:
            got = {name.lower(): value for name, value in found.headers.items()}
            return found.status, got, await found.read()

    async def ready(self) -> None:
        async def is_ready() -> bool:
            return (await self.get("/readyz"))[0] == 200

        await eventually(is_ready)


@asynccontextmanager
async def edge(
    url: str, data_dir: Path, *, environ: dict[str, str] | None = None, **changes: Any
) -> AsyncIterator[EdgeClient]:
    """The whole edge, in this process, on a port of its own."""
    async with (
        running(settings(url, data_dir, **changes), environ or {}) as app,
        served(app) as base,
        aiohttp.ClientSession() as session,
    ):
        yield EdgeClient(base, session)


async def eventually(condition: Any, *, within_s: float = 10.0) -> None:
    """Wait until the condition, a function or coroutine function, holds."""
    async with asyncio.timeout(within_s):
        while True:
            found = condition()
            if asyncio.iscoroutine(found):
                found = await found
            if found:
                return
            await asyncio.sleep(0.01)
