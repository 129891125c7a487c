"""``python -m controlplane.simulation.pool``: a simulated model pool that speaks OpenAI's API."""

import argparse
import asyncio
import json
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from controlplane.simulation.contract import AnyWorld, Drift, WorldError
from controlplane.simulation.levers import drifts_of
from controlplane.simulation.pool_app import Pool, build_app
from controlplane.simulation.table_world import TableWorld
from controlplane.simulation.tables import TableError, read_table
from controlplane.simulation.world import default_world

STOP_S = 3.0
"""How long answers under way may take after a signal to stop."""
BACKLOG = 1_024

_DESCRIPTION = (
    "Serve simulated models over OpenAI's chat API, each with its own skill, price, pace and "
    "failures. With --queries and --outcomes the answers are those of a full-information table: "
    "a prompt then ends with a line [query <query_id>]. Answers end with their quality."
)


@dataclass(frozen=True, slots=True)
class Options:
    """How the program was started."""

    host: str
    port: int
    seed: int
    speed: float
    queries: Path | None
    outcomes: Path | None
    arms: tuple[str, ...] | None
    drifts: Path | None


def main(argv: Sequence[str]) -> int:
    """Serve until SIGTERM or SIGINT: 0; 2 when it was asked for wrongly."""
    options = read_options(argv)
    try:
        world = build_world(options)
        asyncio.run(serve(Pool(world, options.speed), options.host, options.port))
    except (WorldError, TableError, OSError) as error:
        sys.stderr.write(f"pointsman pool: {error}\n")
        return 2
    return 0


def read_options(argv: Sequence[str]) -> Options:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="pointsman pool", description=_DESCRIPTION)
    option = parser.add_argument
    option("--host", default="127.0.0.1", help="default: 127.0.0.1; /admin asks for no key")
    option("--port", type=int, default=8090, help="default: 8090; 0: any free one")
    option("--seed", type=int, default=0, help="of the answers' luck; default: 0")
    option("--speed", type=float, default=1.0, help="times faster than real; 0: no waiting")
    option("--queries", type=Path, metavar="F", help="CSV (.gz) of a table's queries")
    option("--outcomes", type=Path, metavar="F", help="CSV (.gz): query x model")
    option("--arms", help="the arms to serve, as names with commas between; default: all")
    option("--drifts", type=Path, metavar="F", help="JSON list of changes on the way")
    found = parser.parse_args(argv)
    if (found.queries is None) != (found.outcomes is None):
        parser.error("give both --queries and --outcomes, or neither")
    if not 0.0 <= found.speed <= 1e6:
        parser.error(f"--speed {found.speed}: give a number from 0 to 1e6")
    if not 0 <= found.port < 65_536:
        parser.error(f"--port {found.port}: give a number from 0 to 65535")
    if found.arms is not None:
        found.arms = tuple(name.strip() for name in found.arms.split(",") if name.strip())
    return Options(**vars(found))


def build_world(options: Options) -> AnyWorld:
    """The world that the options ask for.

    Raises:
        WorldError: An arm or a drift does not fit it.
        TableError: The table can not be used.
        OSError: The file of drifts can not be read.
    """
    drifts: tuple[Drift, ...] = ()
    if options.drifts is not None:
        drifts = drifts_of(options.drifts.read_bytes())
    if options.queries is not None and options.outcomes is not None:
        table = read_table(options.queries, options.outcomes, options.arms)
        return TableWorld(table, drifts, options.seed)
    world = default_world(options.seed)
    if options.arms is not None:
        world = world.only(options.arms)
    return world.with_drifts(drifts)


async def serve(pool: Pool, host: str, port: int) -> None:
    """Serve a pool until a signal says to stop.

    Raises:
        OSError: The address is taken or not ours.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop.set)
    runner = web.AppRunner(build_app(pool), access_log=None, shutdown_timeout=STOP_S)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port, backlog=BACKLOG).start()
        ready = {"ready": True, "port": runner.addresses[0][1], "arms": list(pool.world.arm_names)}
        sys.stdout.write(json.dumps(ready) + "\n")
        sys.stdout.flush()
        await stop.wait()
    finally:
        await runner.cleanup()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
