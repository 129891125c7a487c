"""``pointsman-edge``: run one edge until it is told to stop."""

import argparse
import asyncio
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import structlog
from aiohttp import web
from pydantic import ValidationError

from edge.app import running
from edge.errors import SignalsError, SpoolError, ToolsError
from edge.logs import configure
from edge.settings import Settings
from kernels import models_commands

log = structlog.get_logger()


def main(argv: Sequence[str] | None = None) -> int:
    """Run; returns the exit status."""
    words = sys.argv[1:] if argv is None else argv
    if words[:1] == ["models"]:
        return models_commands.run(words[1:], os.environ, print, prog="pointsman-edge models")
    given = {name: value for name, value in vars(_parse(argv)).items() if value is not None}
    try:
        settings = Settings(**given)
    except ValidationError as error:
        print(_explained(error), file=sys.stderr)
        return 2
    configure(settings.log_level)
    try:
        _run(settings, os.environ)
    except (SignalsError, SpoolError, ToolsError, OSError) as error:
        log.error("edge.failed", error=str(error))  # noqa: TRY400 — the message says it all
        return 1
    return 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="pointsman-edge",
        description="The thin router beside the applications: choose, proxy, report, pull.",
        epilog="Everything is set by POINTSMAN_EDGE_… variables; an option replaces its variable."
        " `pointsman-edge models` brings the encoder's files.",
    )
    parser.add_argument("--control-plane-url", help="base URL of the control plane")
    parser.add_argument("--policies", help="comma separated (chat)")
    parser.add_argument("--id", help="this edge's name (the host's)")
    parser.add_argument("--data-dir", help="folder of bundles and spool, for one edge only")
    parser.add_argument("--host", help="address to listen on (127.0.0.1)")
    parser.add_argument("--port", help="port to listen on, 0 for any free one (8081)")
    parser.add_argument("--models", help="folder of the encoder's files (none: no models)")
    parser.add_argument("--require-provider", help="the only provider that may run the encoder")
    parser.add_argument("--tools-file", help="what `pointsman tools refine` wrote (none)")
    parser.add_argument("--tools-kept", help="tools that a request keeps (0: all of them)")
    return parser.parse_args(argv)


def _explained(error: ValidationError) -> str:
    """One line for each setting; values are left out, for some are secrets."""
    prefix = str(Settings.model_config.get("env_prefix", ""))
    rows = [f"{prefix}{'_'.join(map(str, e['loc'])).upper()}: {e['msg']}" for e in error.errors()]
    return "\n".join(["pointsman-edge cannot start:", *rows])


def _run(settings: Settings, environ: Mapping[str, str]) -> None:
    if sys.platform == "win32":
        asyncio.run(serve(settings, environ))
        return
    import uvloop  # noqa: PLC0415 — it is not there on Windows

    uvloop.run(serve(settings, environ))


async def serve(settings: Settings, environ: Mapping[str, str]) -> None:
    """Serve until SIGTERM or SIGINT, then finish the requests in flight, for a bounded time."""
    stopping = _stop_signal()
    async with running(settings, environ) as app:
        # A client that goes away cancels its handler, and with it the request to the arm.
        options: dict[str, Any] = {"handler_cancellation": True, "access_log": None}
        runner = web.AppRunner(app, shutdown_timeout=settings.shutdown_s, **options)
        await runner.setup()
        try:
            await web.TCPSite(runner, settings.host, settings.port).start()
            port = runner.addresses[0][1]
            print(json.dumps({"ready": True, "port": port}), flush=True)
            log.info("edge.started", id=settings.id, host=settings.host, port=port)
            await stopping.wait()
            log.info("edge.stopping")
        finally:
            await runner.cleanup()
    log.info("edge.stopped")


def _stop_signal() -> asyncio.Event:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    return stopping


if __name__ == "__main__":
    sys.exit(main())
