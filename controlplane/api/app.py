"""The control plane over HTTP: :func:`create_app` for any server, :func:`serve` for ours."""

import argparse
import json
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from importlib.metadata import PackageNotFoundError, version
from types import FrameType
from uuid import UUID

import anyio
import sqlalchemy as sa
import structlog
import uvicorn
from fastapi import FastAPI

from controlplane import logs, signing
from controlplane.api import (
    bundles,
    declarations,
    edges,
    errors,
    evaluations,
    events,
    experiments,
    heads,
    health,
    keys,
    monitoring,
    openapi,
    pages,
    policies,
    releases,
    versions,
)
from controlplane.api.announcements import Announcements, Mark
from controlplane.api.limits import BodyLimit
from controlplane.api.runtime import Runtime
from controlplane.errors import ControlPlaneError, SettingsError
from controlplane.publishing import Publisher
from controlplane.settings import Settings, read_settings
from storage import versions as stored
from storage.engine import connect

BATCHES_AT_ONCE = 4
STOP_S = 10
BACKLOG = 2_048

log = structlog.get_logger(__name__)


def create_app(settings: Settings, engine: sa.Engine, publisher: Publisher) -> FastAPI:
    """The API and its pages over an open database; who gives the engine closes it."""

    def newest() -> dict[UUID, Mark]:
        with engine.connect() as connection:
            return stored.newest_serials(connection)

    announcements = Announcements(newest)
    at_once = min(BATCHES_AT_ONCE, settings.database_connections)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        await announcements.finished()

    app = FastAPI(
        title="Pointsman",
        version=_version(),
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    limiter = anyio.CapacityLimiter(at_once)
    app.state.runtime = Runtime(engine, publisher, announcements, limiter)
    app.add_middleware(BodyLimit)
    for module in (
        health,
        events,
        declarations,
        policies,
        versions,
        releases,
        experiments,
        heads,
        monitoring,
        evaluations,
        bundles,
        edges,
        keys,
        pages,
    ):
        app.include_router(module.router)
    errors.install(app)
    openapi.install(app)
    return app


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; says ``{"ready": true, "port": N}`` on stdout once it listens.

    Raises:
        SettingsError: There is no database, the address cannot be used, or the signing keys are
            not those of the programs that publish already.
    """
    if settings.database_url is None:
        raise SettingsError(
            "POINTSMAN_DATABASE_URL is not set: name a Postgres, or run `pointsman up`, which "
            "brings its own"
        )
    logs.configure(settings.log_level)
    listening = _listen(settings)
    engine = connect(
        settings.database_url.get_secret_value(),
        pool_size=settings.database_connections,
        application="pointsman-api",
    )
    try:
        signers = signing.agree(settings, engine, datetime.now(UTC))
        publisher = Publisher(signers, timedelta(seconds=settings.bundle_ttl_s))
        app = create_app(settings, engine, publisher)
        config = uvicorn.Config(
            app,
            loop="uvloop",
            http="httptools",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=STOP_S,
            timeout_keep_alive=KEEP_ALIVE_S,
        )
        Server(config, app.state.runtime.announcements).run(sockets=[listening])
    finally:
        engine.dispose()


KEEP_ALIVE_S = 75
"""Longer than the pauses of edges, which report every few seconds over one connection."""


class Server(uvicorn.Server):
    """Uvicorn that says when it is ready, sends waiting edges home first, and ends with code 0."""

    def __init__(self, config: uvicorn.Config, announcements: Announcements) -> None:
        """``announcements`` holds the requests that would otherwise outlast the server."""
        super().__init__(config)
        self._announcements = announcements

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then say so."""
        await super().startup(sockets)
        port = sockets[0].getsockname()[1] if sockets else self.config.port
        print(json.dumps({"ready": True, "port": port}), flush=True)  # noqa: T201 — the contract
        log.info("api.ready", port=port)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Wake those who wait, and finish what is under way."""
        self._announcements.close()
        await super().shutdown(sockets)
        log.info("api.stopped")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop; being told to stop is no failure, so the signal is not raised again at the end."""
        super().handle_exit(sig, frame)
        self._captured_signals.clear()


def main(argv: Sequence[str] | None = None) -> int:
    """``pointsman api``."""
    parser = argparse.ArgumentParser(prog="pointsman api", description=main.__doc__)
    parser.description = "The control plane's API and dashboard; settings are POINTSMAN_… variables"
    parser.parse_args(argv)
    try:
        serve(read_settings())
    except ControlPlaneError as error:
        print(f"pointsman api: {error}", file=sys.stderr)  # noqa: T201 — a command line prints
        return 1
    return 0


def _listen(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise SettingsError(
            f"cannot listen on {settings.host} port {settings.port}: {error}; choose another with "
            "POINTSMAN_HOST and POINTSMAN_PORT (0: any free one)"
        ) from error


def _version() -> str:
    try:
        return version("pointsman")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "0"


if __name__ == "__main__":
    sys.exit(main())
