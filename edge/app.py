"""The edge put together: its parts, its routes and its background tasks."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from time import monotonic
from typing import Any, Never

import aiohttp
import structlog
from aiohttp import web

from edge.answers import Answers
from edge.arriving import CHAT_PATH, Arrivals
from edge.backoff import Backoff
from edge.control_plane import ControlPlane
from edge.decide import Decider
from edge.dispatch import Dispatcher
from edge.errors import as_problems
from edge.guards import Bodies, ClientKeys, Gate
from edge.ledger import Ledger
from edge.metrics import Metrics
from edge.policies import Policies
from edge.probes import Probes
from edge.proxy import Proxy
from edge.puller import Puller
from edge.reading import Reader, open_reader
from edge.relay import Relay
from edge.reporter import Reporter
from edge.settings import Settings, public_key
from edge.shelf import Shelf
from edge.spool import Spool
from edge.status import Status
from edge.toolbox import Toolbox
from edge.tools import Narrower
from edge.upstream import Upstream
from learners.ids import ENTROPY_BYTES, uuid7
from learners.lineup import MAX_IN_FLIGHT

# Below the 5 s after which uvicorn, and so vLLM, drops an idle connection.
UPSTREAM_KEEPALIVE_S = 4.0
DRAIN_S = 5.0
RESTART_S = 1.0
MAX_RESTART_S = 60.0
Job = Callable[[], Coroutine[Any, Any, Never]]
log = structlog.get_logger()


def now() -> datetime:
    """The clock."""
    return datetime.now(UTC)


def new_id(at: datetime) -> str:
    """A fresh decision id."""
    return str(uuid7(at, os.urandom(ENTROPY_BYTES)))


@dataclass(frozen=True, slots=True)
class Parts:
    """What an edge is made of."""

    settings: Settings
    policies: Policies
    metrics: Metrics
    spool: Spool
    ledger: Ledger
    control_plane: ControlPlane
    reporter: Reporter
    status: Status
    pullers: tuple[Puller, ...]
    upstream: Upstream
    answers: Answers
    dispatcher: Dispatcher
    reader: Reader
    toolbox: Toolbox


@asynccontextmanager
async def running(settings: Settings, environ: Mapping[str, str]) -> AsyncIterator[web.Application]:
    """The application with everything behind it at work; ``environ`` holds the arms' keys.

    Raises:
        SignalsError: The models that the settings name cannot be used.
        SpoolError: Another edge uses the data folder.
        ToolsError: The file of tools that the settings name cannot be used.
    """
    async with _control_session(settings) as control, _arms_session(settings) as arms:
        parts = assemble(settings, environ, control=control, arms=arms)
        try:
            parts.toolbox.boot()
            for puller in parts.pullers:
                puller.boot()
            async with _background(parts):
                yield application(parts)
            await _drain(parts)
        finally:
            parts.reader.close()
            parts.spool.close()


def assemble(
    settings: Settings,
    environ: Mapping[str, str],
    *,
    control: aiohttp.ClientSession,
    arms: aiohttp.ClientSession,
) -> Parts:
    """Build the parts; nothing runs yet."""
    policies, metrics = Policies(settings.policies), Metrics()
    spool = Spool(settings.data_dir / "spool", max_bytes=settings.max_spool_bytes)
    control_plane = ControlPlane(
        control,
        str(settings.control_plane_url),
        edge_id=settings.id,
        max_bundle_bytes=settings.max_bundle_bytes,
    )
    reporter = _reporter(settings, spool, control_plane, metrics)
    status = Status(control_plane, policies, reporter, interval_s=settings.status_interval_s)
    shelf = Shelf(settings.data_dir / "bundles")
    trusted = [public_key(text) for text in settings.trusted_keys]
    pullers = tuple(
        Puller(
            name,
            control_plane=control_plane,
            shelf=shelf,
            policies=policies,
            trusted=trusted,
            metrics=metrics,
            backoff=_backoff(settings),
            wait_s=settings.poll_wait_s,
            now=now,
            changed=status.announce,
        )
        for name in settings.policies
    )
    ledger, answers = Ledger(spool, metrics, settings.id), Answers(monotonic)
    upstream = Upstream(arms, environ, max_bytes=settings.max_answer_bytes)
    reader = open_reader(settings, metrics)
    return Parts(
        settings=settings,
        policies=policies,
        metrics=metrics,
        spool=spool,
        ledger=ledger,
        control_plane=control_plane,
        reporter=reporter,
        status=status,
        pullers=pullers,
        upstream=upstream,
        answers=answers,
        dispatcher=_dispatcher(settings, upstream, ledger, metrics, answers),
        reader=reader,
        toolbox=Toolbox(settings.tools_file, reader.encoder, metrics, look_s=settings.poll_wait_s),
    )


def _reporter(
    settings: Settings, spool: Spool, control_plane: ControlPlane, metrics: Metrics
) -> Reporter:
    interval_s, backoff = settings.upload_interval_s, _backoff(settings)
    return Reporter(spool, control_plane, metrics, interval_s=interval_s, backoff=backoff, now=now)


def _dispatcher(
    settings: Settings, upstream: Upstream, ledger: Ledger, metrics: Metrics, answers: Answers
) -> Dispatcher:
    limit_s = settings.request_timeout_s
    return Dispatcher(upstream, ledger, metrics, answers, request_s=limit_s, now=now, new_id=new_id)


def application(parts: Parts) -> web.Application:
    """The routes."""
    settings = parts.settings
    keys = ClientKeys([key.get_secret_value() for key in settings.client_keys])
    gate = Gate(settings.max_requests, parts.metrics)
    bodies = Bodies(settings.body_timeout_s, Arrivals(parts.policies, parts.reader).take)
    app = web.Application(
        middlewares=[as_problems, keys.check, gate.count, bodies.read],
        client_max_size=settings.max_body_bytes,
    )
    decider = Decider(
        parts.policies, parts.ledger, parts.metrics, parts.reader, now=now, new_id=new_id
    )
    relay = Relay(
        parts.upstream,
        parts.metrics,
        silence_s=settings.silence_timeout_s,
        request_s=settings.request_timeout_s,
    )
    proxy = Proxy(
        parts.policies,
        parts.ledger,
        relay,
        parts.metrics,
        parts.dispatcher,
        reader=parts.reader,
        narrower=_narrower(parts),
        retries=settings.retries,
        now=now,
        new_id=new_id,
    )
    probes = Probes(parts.policies, parts.spool, parts.reporter, parts.metrics, now=now)
    app.add_routes(
        [
            web.post(CHAT_PATH, proxy.chat),
            web.get("/v1/models", proxy.models),
            web.post("/v1/decide", decider.decide),
            web.post("/v1/decisions/{decision_id}/activate", decider.activate),
            web.get("/v1/shadow-answers/{decision_id}", parts.answers.read),
            web.get("/healthz", probes.health),
            web.get("/readyz", probes.ready),
            web.get("/metrics", probes.scrape),
        ]
    )
    return app


def _narrower(parts: Parts) -> Narrower:
    return Narrower(
        parts.toolbox,
        parts.metrics,
        kept=parts.settings.tools_kept,
        has_models=parts.reader.encoder is not None,
    )


def _backoff(settings: Settings) -> Backoff:
    return Backoff(settings.backoff_min_s, settings.backoff_max_s)


def _control_session(settings: Settings) -> aiohttp.ClientSession:
    key = settings.api_key.get_secret_value()
    return aiohttp.ClientSession(headers={"Authorization": f"Bearer {key}"})


def _arms_session(settings: Settings) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(
            limit=settings.max_requests + MAX_IN_FLIGHT * len(settings.policies),
            keepalive_timeout=UPSTREAM_KEEPALIVE_S,
        ),
        timeout=aiohttp.ClientTimeout(
            total=settings.request_timeout_s,
            sock_connect=settings.connect_timeout_s,
            sock_read=settings.silence_timeout_s,
        ),
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
    )


@asynccontextmanager
async def _background(parts: Parts) -> AsyncIterator[None]:
    """Pull, upload, report and sync while the body runs; what shadows were asked ends with it."""
    jobs: dict[str, Job] = {
        "upload": parts.reporter.run,
        "status": parts.status.run,
        "sync": parts.ledger.keep_synced,
        "tools": parts.toolbox.run,
        **{f"pull {puller.policy}": puller.run for puller in parts.pullers},
    }
    tasks = [
        asyncio.create_task(again(job, name, Backoff(RESTART_S, MAX_RESTART_S)))
        for name, job in jobs.items()
    ]
    try:
        yield
    finally:
        await parts.dispatcher.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def again(job: Job, name: str, backoff: Backoff) -> Never:
    """A job that dies of a bug or a bad disk is no reason to stop serving: it is begun again.

    One that dies over and over waits longer each time; one that lived for long begins afresh.
    """
    while True:
        started = monotonic()
        try:
            await job()
        except Exception:
            log.exception("edge.job_died", job=name)
        if monotonic() - started > MAX_RESTART_S:
            backoff.reset()
        await asyncio.sleep(backoff.next())


async def _drain(parts: Parts) -> None:
    """Upload what is left, for a short while: the disk may not outlive the process."""
    try:
        async with asyncio.timeout(min(DRAIN_S, parts.settings.shutdown_s)):
            await parts.reporter.drain()
    except TimeoutError:
        log.warning("upload.left_on_disk", lines=parts.spool.depth)
