"""A champion-to-be that breaks in its canary: how many requests are hurt before it is sent back.

The whole installation in real processes: API, worker, schedule, edge and a simulated pool. A round
finds the best fixed arm and its release begins by itself, with 5 % of the requests; once it serves,
its arm starts failing 30 %. Hurt are the requests that the canary sent to that arm and that failed
there, from then until the edge has stopped deciding by it; most of them the edge tries once more.
A day's traffic is that at the same rate.
"""

import asyncio
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import httpx
import sqlalchemy as sa

from bench.measure import Measure, main
from controlplane import logs
from controlplane.processes import Process, Program
from controlplane.settings import Settings
from controlplane.simulation.habits import Habits
from controlplane.simulation.traffic import METRIC, Traffic
from controlplane.simulation.world import default_world
from controlplane.up import Stack, running_database
from storage.engine import connect

Found = TypeVar("Found")

POLICY, POOL = "chat", "bench"
RATE_PER_S = 40.0
SPEED = 20.0
"""Of the pool: its answers take tenths of a second, and the machine holds the rate."""
SHARE, FAILS = 0.05, 0.3
SERVED_FIRST = 20
"""Decisions of the canary before its arm breaks."""
AFTER_S = 4.0
"""Traffic after the revert, which shows whether the edge has heard of it."""
LIMIT_S = 900.0
DAY_S = 86_400.0
MOST_HURT = 0.01
RELEASE: Mapping[str, Any] = {
    "stages": [SHARE, 0.25, 1],
    "unit": "request",
    "min_decisions": 2_000,
    "min_seconds": 600,
    "guardrails": [{"metric": "error", "kind": "rate", "margin": 0.02}],
}
GATE = {"min_interactions": 600, "growth": 1.3, "min_judged": 100}
HABITS = Habits(wait_s=(0.0, 0.6), late_s=(1.5, 2.5), drain_s=2.0)

_SEEN = """
SELECT d.at, d.action, d.retry_of IS NOT NULL AS again,
       coalesce((o."values" ->> 'error')::float, 0) AS error
FROM decisions d LEFT JOIN outcomes o USING (decision_id)
WHERE d.variant = 'canary' AND d.version = :version ORDER BY d.at
"""


class BenchError(RuntimeError):
    """The installation does not come as far as it is to be measured."""


@dataclass(frozen=True, slots=True)
class Broken:
    """What happened.

    Attributes:
        seconds: from the break to the canary's last decision.
        decided: by the control plane, seconds from the break.
        requests: of the canary meanwhile.
        hurt: of those, sent to the broken arm first, where they failed.
        lost: of those, failed by the arm that the edge tried next, too.
        rate: requests a second, as they came.
        reason: why it was sent back.
    """

    seconds: float
    decided: float
    requests: int
    hurt: int
    lost: int
    rate: float
    reason: str


def run(quick: bool) -> list[Measure]:  # noqa: FBT001 — the one switch of every benchmark
    """All measures; none when quick, as it takes minutes."""
    if quick:
        return []
    logs.configure("warning")  # stdout is for the figures
    with installed() as place:
        found = place.broken()
    return measures(found)


def measures(found: Broken) -> list[Measure]:
    """Of one break."""
    share = found.hurt / (found.rate * DAY_S)
    return [
        Measure(
            measure=f"a canary's arm fails {FAILS:.0%}: until the edge decides by it no more "
            f"({found.requests} of the canary's requests; {found.reason[:160]})",
            value=float(f"{found.seconds:.4g}"),
            unit="s",
            reference=f"the control plane's revert: {found.decided:.4g} s",
            ratio=float(f"{found.seconds / found.decided:.4g}"),
        ),
        Measure(
            measure=f"a canary's arm fails {FAILS:.0%}: {found.hurt} requests hurt, {found.lost} "
            "of them for good as the retry failed too, share of a day "
            f"at {found.rate:.1f} requests a second",
            value=float(f"{share:.3g}"),
            unit="of a day's requests",
            goal=f"< {MOST_HURT}",
            holds=share < MOST_HURT,
        ),
        Measure(
            measure="the fewest requests a day of which the hurt ones would be less than "
            f"{MOST_HURT:.0%}",
            value=float(round(found.hurt / MOST_HURT)) + 1.0,
            unit="requests a day",
        ),
    ]


@dataclass(frozen=True, slots=True)
class Installed:
    """Everything that runs."""

    api: str
    edge: str
    pool: str
    key: str
    engine: sa.Engine

    def broken(self) -> Broken:
        """Declare, send traffic, break the canary's arm, and wait until it is sent back."""
        self.declare()
        traffic = Traffic(
            edge_url=self.edge,
            control_plane_url=self.api,
            api_key=self.key,
            policy=POLICY,
            world=default_world(),
            rate_per_s=RATE_PER_S,
            habits=HABITS,
        )
        sending = threading.Thread(target=lambda: asyncio.run(traffic.run()))
        sending.start()
        try:
            return self._watched(traffic)
        finally:
            traffic.stop()
            sending.join(60)

    def _watched(self, traffic: Traffic) -> Broken:
        release = until("a release begins", lambda: self._release("ended_at IS NULL"))
        version = release["version"]
        seen = until("the canary decides", lambda: self._canary(version, at_least=SERVED_FIRST))
        arm = most_common([row["action"] for row in seen])
        at, before, began = datetime.now(UTC), traffic.tally.requests, time.monotonic()
        self._lever(arm, FAILS)
        ended = until("it is sent back", lambda: self._release("ended_at IS NOT NULL"))
        if ended["status"] != "reverted":
            raise BenchError(f"the release was {ended['status']}: {ended['reason']}")
        time.sleep(AFTER_S)
        rate = (traffic.tally.requests - before) / (time.monotonic() - began)
        late = [row for row in self._canary(version) or () if row["at"] >= at]
        failed = [row for row in late if row["error"] > 0]
        return Broken(
            seconds=(max(row["at"] for row in late) - at).total_seconds(),
            decided=(ended["ended_at"] - at).total_seconds(),
            requests=sum(not row["again"] for row in late),
            hurt=sum(row["action"] == arm and not row["again"] for row in failed),
            lost=sum(row["again"] for row in failed),
            rate=rate,
            reason=ended["reason"],
        )

    def declare(self) -> None:
        """Arms, metric, policy and reward, as any operator would."""
        world = default_world()
        for arm in world.arm_names:
            card = world.card(arm)
            prices = {name: card[name] for name in ("usd_per_mtok_in", "usd_per_mtok_out")}
            body = {"model": arm, "endpoint": f"{self.pool}/v1", "card": prices}
            self._put(f"/v1/pools/{POOL}/arms/{arm}", body)
        self._put(f"/v1/metrics/{METRIC}", {"type": "float", "range": [0, 1], "wait_s": 1.0})
        policy = {
            "pool": POOL,
            "learners": [{"name": "best_fixed"}],
            "auto_promote": True,
            "gate": GATE,
            "release": dict(RELEASE),
        }
        self._put(f"/v1/policies/{POLICY}", policy)
        self._put(f"/v1/rewards/{POLICY}", {"expression": f"{METRIC} - 0.2*cost_usd/0.004"})
        until("the edge serves", self._ready)

    def _ready(self) -> bool:
        return httpx.get(f"{self.edge}/readyz").status_code == 200

    def _put(self, path: str, body: Mapping[str, Any]) -> None:
        headers = {"authorization": f"Bearer {self.key}"}
        answer = httpx.put(self.api + path, json=body, headers=headers, timeout=30)
        if answer.status_code >= 300:
            raise BenchError(f"{path}: {answer.status_code}: {answer.text[:300]}")

    def _lever(self, arm: str, failure_rate: float) -> None:
        body = {"failure_rate": failure_rate}
        httpx.patch(f"{self.pool}/admin/arms/{arm}", json=body, timeout=30).raise_for_status()

    def _release(self, which: str) -> Mapping[str, Any] | None:
        query = f"SELECT * FROM releases WHERE {which} ORDER BY number LIMIT 1"  # noqa: S608
        with self.engine.connect() as connection:
            found = connection.execute(sa.text(query)).mappings().first()
        return None if found is None else dict(found)

    def _canary(self, version: int, *, at_least: int = 0) -> list[Mapping[str, Any]] | None:
        with self.engine.connect() as connection:
            rows = connection.execute(sa.text(_SEEN), {"version": version}).mappings().all()
        return [dict(row) for row in rows] if len(rows) >= at_least else None


@contextmanager
def installed() -> Iterator[Installed]:
    """The installation, in a directory of its own."""
    data = Path(tempfile.mkdtemp(prefix="pm-canary-"))
    data.chmod(0o711)  # root's Postgres runs as another account and passes through
    settings = Settings(
        data_dir=data, port=0, edge_port=0, database_url=None, redis_url=None, log_level="warning"
    )
    program = Program(
        "pool", "controlplane.simulation.pool", ("--port", "0", "--speed", f"{SPEED:g}")
    )
    try:
        with Stack(settings, policies=(POLICY,)) as addresses:
            url = running_database(data)
            if url is None or addresses.admin_key is None:
                raise BenchError(f"{data} is not a new installation")
            pool, engine = Process(program, data / "logs"), connect(url)
            try:
                port = pool.wait_ready()["port"]
                yield Installed(
                    addresses.api,
                    addresses.edge,
                    f"http://127.0.0.1:{port}",
                    addresses.admin_key,
                    engine,
                )
            finally:
                engine.dispose()
                pool.stop()
    finally:
        shutil.rmtree(data, ignore_errors=True)


def until(what: str, look: Callable[[], Found | None]) -> Found:
    """What a look finds, once it finds anything.

    Raises:
        BenchError: It does not in time.
    """
    ends = time.monotonic() + LIMIT_S
    while time.monotonic() < ends:
        found = look()
        if found:
            return found
        time.sleep(0.2)
    raise BenchError(f"not within {LIMIT_S:g} s: {what}")


def most_common(names: list[str]) -> str:
    """The canary's favourite."""
    return max(sorted(set(names)), key=names.count)


if __name__ == "__main__":
    sys.exit(main(run))
