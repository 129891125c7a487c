"""`pointsman demo`: the whole installation on example traffic; watch it learn and release."""

import argparse
import asyncio
import contextlib
import math
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import aiohttp
from rich.console import Console
from rich.live import Live

from controlplane.processes import Process, Program
from controlplane.settings import Settings, read_settings
from controlplane.simulation import demo_view
from controlplane.simulation.contract import AnyWorld, WorldError
from controlplane.simulation.demo_client import POLICY, Client, DemoError, Places
from controlplane.simulation.demo_view import Progress
from controlplane.simulation.traffic import Traffic
from controlplane.simulation.world import default_world
from controlplane.up import TROUBLE, Addresses, Ending, Stack

RATE_PER_S = 30.0
CONCURRENCY = 512
"""An answer takes seconds, as real ones do."""
LOOK_S = 1.0
LINE_EVERY_S = 10.0
ENOUGH_S = 90.0
GATE = {"min_interactions": 1_300, "growth": 1.3, "margin": 0.01}
"""Rounds come often, so that one can watch; the evidence that they need is the same as anywhere."""
RELEASE = {
    "stages": [0, 0.25, 0.5, 1],
    "unit": "request",
    "min_decisions": 60,
    "min_rewarded": 0,
    "min_seconds": 2,
    "margin": 0.3,
    "guardrails": [
        {"metric": "error", "kind": "rate", "margin": 0.05, "shown": False},
        {"metric": "latency_s", "kind": "p95", "margin": 2.0, "relative": True, "shown": False},
    ],
    "watch_decisions": 300,
    "cooldown_s": 30,
}
"""A ladder that is climbed in half a minute: so little evidence finds gross harm only.

The reward has a price for cost, and needs no guardrail on it.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run until Ctrl-C, or as long as ``--for`` says."""
    given = _parser().parse_args(argv)
    data = given.data_dir or Path(tempfile.mkdtemp(prefix="pointsman-demo-"))
    if given.data_dir is None:
        # Root's Postgres runs as another account, and passes through.
        data.chmod(0o711 if os.geteuid() == 0 else 0o700)
    try:
        return _run(given, read_settings(data_dir=data))
    except (*TROUBLE, DemoError, WorldError) as error:
        print(f"pointsman demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        if given.data_dir is None:
            shutil.rmtree(data, ignore_errors=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="pointsman demo", description=__doc__)
    option = parser.add_argument
    option(
        "--for",
        dest="seconds",
        type=_seconds,
        metavar="120s",
        help="end by itself, after the last answers",
    )
    option("--rate", type=float, default=RATE_PER_S, help=f"requests a second; {RATE_PER_S:g}")
    option("--seed", type=int, default=0, help="of the simulated world and its users; default: 0")
    option("--data-dir", type=Path, help="keep the data here; default: a temporary directory")
    return parser


def _seconds(text: str) -> float:
    units = {"s": 1.0, "m": 60.0, "h": 3600.0}
    number, unit = (text[:-1], text[-1]) if text[-1:] in units else (text, "s")
    try:
        seconds = float(number) * units[unit]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: give 120s, 2m or 1h") from error
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r}: give a time above 0")
    return seconds


def _run(given: argparse.Namespace, settings: Settings) -> int:
    ending = Ending()
    world = default_world(given.seed)
    console = Console(soft_wrap=True, highlight=False)
    console.print("starting Postgres, Redis, API, worker, schedule, edge and a simulated pool …")
    pool_program = Program(
        "pool", "controlplane.simulation.pool", ("--port", "0", "--seed", str(given.seed))
    )
    with Stack(settings, policies=(POLICY,)) as addresses:
        pool = Process(pool_program, settings.data / "logs")
        try:
            port = pool.wait_ready()["port"]
            places = Places(addresses.api, addresses.edge, f"http://127.0.0.1:{port}")
            show = Show(given, console, ending)
            ending.wait()
            asyncio.run(show.run(world, places, _admin_key(addresses)))
        finally:
            pool.stop()
            console.print("stopping …")
    return 0


def _admin_key(addresses: Addresses) -> str:
    if addresses.admin_key is None:
        raise DemoError(
            f"{addresses.data} was used before, and its admin key was shown then: "
            "choose an empty --data-dir"
        )
    return addresses.admin_key


class Show:
    """The traffic, and what is seen of it."""

    def __init__(self, given: argparse.Namespace, console: Console, ending: Ending) -> None:
        self._given = given
        self._console = console
        self._ending = ending

    async def run(self, world: AnyWorld, places: Places, key: str) -> None:
        """Declare, send traffic, show what happens, and sum it up."""
        async with Client(places, key) as client:
            await client.declare(world, GATE, RELEASE)
            await client.edge_ready()
            self._console.print(
                f"dashboard {places.api}/   edge {places.edge}/v1   admin key {key}\n"
                f"{self._given.rate:g} requests a second to model route/{POLICY}; version 1 "
                "explores evenly, and learners challenge it on what it earned" + self._too_short()
            )
            traffic = Traffic(
                edge_url=places.edge,
                control_plane_url=places.api,
                api_key=key,
                policy=POLICY,
                world=world,
                rate_per_s=self._given.rate,
                seed=self._given.seed,
                concurrency=CONCURRENCY,
            )
            progress = Progress(traffic.tally)
            sending = asyncio.create_task(traffic.run())
            try:
                await self._watch(client, progress, sending)
            finally:
                traffic.stop()
                await sending
            await progress.look(client)
            self._console.print(demo_view.summary(progress))

    def _too_short(self) -> str:
        if self._given.seconds is None or self._given.seconds >= ENOUGH_S:
            return ""
        return f"\nless than {ENOUGH_S:g} s may be too short to see a promotion"

    async def _watch(
        self, client: Client, progress: Progress, sending: "asyncio.Task[object]"
    ) -> None:
        began = last_line = time.monotonic()
        with self._screen() as live:
            while not self._ending.asked and not sending.done():
                now = time.monotonic()
                if self._given.seconds is not None and now - began >= self._given.seconds:
                    return
                with contextlib.suppress(DemoError, aiohttp.ClientError):
                    for line in await progress.look(client):
                        self._console.print(line)
                if live is not None:
                    live.update(demo_view.table(progress))
                elif now - last_line >= LINE_EVERY_S:
                    last_line = now
                    self._console.print(demo_view.line(progress))
                await asyncio.sleep(LOOK_S)

    def _screen(self) -> contextlib.AbstractContextManager[Live | None]:
        if self._console.is_terminal:
            return Live(console=self._console, refresh_per_second=2, transient=True)
        return contextlib.nullcontext()
