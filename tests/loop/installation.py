"""A whole installation of real processes: API, worker, schedule, edge and a simulated pool."""

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import sqlalchemy as sa

from controlplane.processes import Process, Program
from controlplane.signing import load_keys, public_keys
from controlplane.simulation.habits import Habits
from controlplane.simulation.tally import Tally
from controlplane.simulation.traffic import Traffic
from controlplane.simulation.world import default_world
from controlplane.up import free_port

POOL, METRIC = "main", "score"
SHARED = ("pool", "api", "worker", "beat")
"""Programs that one test after another uses; each has a policy and an edge of its own."""
WAIT_S = 1.0
GATE = {"min_interactions": 500, "growth": 1.4, "min_judged": 100}
STRAIGHT: Mapping[str, Any] = {"stages": []}
"""To champion without steps."""
HABITS = Habits(wait_s=(0.0, 0.6), late_s=(1.5, 2.5), drain_s=30.0)


@dataclass
class Installation:
    """Real programs over one database; each can be killed and started again.

    ``policy`` is that of the test which runs, and its edge's name.
    """

    data: Path
    database_url: str
    redis_url: str
    engine: sa.Engine
    admin_key: str
    edge_key: str
    api_port: int
    edge_port: int = 0
    pool_port: int = 0
    policy: str = ""
    processes: dict[str, Process] = field(default_factory=dict)

    @property
    def api_url(self) -> str:
        return f"http://127.0.0.1:{self.api_port}"

    @property
    def edge_url(self) -> str:
        return f"http://127.0.0.1:{self.edge_port}"

    def start(self, *names: str) -> None:
        logs = self.data / "logs"
        logs.mkdir(exist_ok=True)
        for name in names:
            self.processes[name] = Process(self._program(name), logs)
        for name in names:
            ready = self.processes[name].wait_ready()
            if name == "pool":
                self.pool_port = int(ready["port"])

    def kill(self, *names: str) -> None:
        """``kill -9``, the whole session of the process: nothing can be tidied up."""
        for name in names:
            if not self.is_down(name):
                os.killpg(self.processes[name].pid, signal.SIGKILL)
        wait_until(lambda: all(self.processes[name].ended() is not None for name in names), 10)

    @contextmanager
    def serving(self, policy: str) -> Iterator[None]:
        """An edge for a policy that nothing is known of yet; what a test has killed runs again."""
        self.policy, self.edge_port = policy, free_port("127.0.0.1", 0)
        self.start(*(name for name in SHARED if self.is_down(name)))
        self.start("edge")
        try:
            yield
        finally:
            self.kill("edge")

    def is_down(self, name: str) -> bool:
        return name not in self.processes or self.processes[name].ended() is not None

    def _program(self, name: str) -> Program:
        shared = {
            "POINTSMAN_DATABASE_URL": self.database_url,
            "POINTSMAN_REDIS_URL": self.redis_url,
            "POINTSMAN_DATA_DIR": str(self.data),
        }
        trusted = public_keys(load_keys(None, self.data))
        programs = {
            "api": Program(
                "api", "controlplane.api.app", (), {**shared, "POINTSMAN_PORT": str(self.api_port)}
            ),
            "worker": Program("worker", "workers.cli", ("worker",), shared),
            "beat": Program("beat", "workers.cli", ("beat",), shared),
            "pool": Program(
                "pool", "controlplane.simulation.pool", ("--port", "0", "--speed", "20")
            ),
            "edge": Program(
                "edge",
                "edge.cli",
                (),
                {
                    "POINTSMAN_EDGE_CONTROL_PLANE_URL": self.api_url,
                    "POINTSMAN_EDGE_API_KEY": self.edge_key,
                    "POINTSMAN_EDGE_TRUSTED_KEYS": trusted,
                    "POINTSMAN_EDGE_POLICIES": self.policy,
                    "POINTSMAN_EDGE_ID": self.policy,
                    "POINTSMAN_EDGE_DATA_DIR": str(self.data / self.policy),
                    "POINTSMAN_EDGE_PORT": str(self.edge_port),
                    "POINTSMAN_EDGE_STATUS_INTERVAL_S": "1",
                    "POINTSMAN_EDGE_BACKOFF_MAX_S": "2",
                },
            ),
        }
        return programs[name]

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        answer = httpx.request(
            method,
            self.api_url + path,
            json=body,
            headers={"authorization": f"Bearer {self.admin_key}", **headers},
            timeout=30,
        )
        assert answer.status_code < 300, f"{path}: {answer.status_code}: {answer.text}"
        return answer.json() if answer.content else None

    def declare(
        self,
        *,
        auto_promote: bool = True,
        release: Mapping[str, Any] = STRAIGHT,
        **more: Any,
    ) -> None:
        world = default_world()
        for arm in world.arm_names:
            card = world.card(arm)
            prices = {name: card[name] for name in ("usd_per_mtok_in", "usd_per_mtok_out")}
            self.call(
                "PUT",
                f"/v1/pools/{POOL}/arms/{arm}",
                {
                    "model": arm,
                    "endpoint": f"http://127.0.0.1:{self.pool_port}/v1",
                    "card": prices,
                },
            )
        metric = {"type": "float", "range": [0, 1], "wait_s": WAIT_S}
        self.call("PUT", f"/v1/metrics/{METRIC}", metric)
        self.configure(auto_promote=auto_promote, release=dict(release), **more)
        reward = {"expression": f"{METRIC} - 0.2*cost_usd/0.004"}
        self.call("PUT", f"/v1/rewards/{self.policy}", reward)
        wait_until(lambda: httpx.get(f"{self.edge_url}/readyz").status_code == 200, 30)

    def configure(self, **policy: Any) -> None:
        """Put the policy; what is not given takes this installation's usual values."""
        usual = {"pool": POOL, "learners": [{"name": "linucb"}], "gate": GATE}
        self.call("PUT", f"/v1/policies/{self.policy}", {**usual, **policy})

    def pull_levers(self, arm: str, **levers: Any) -> None:
        """Change an arm of the simulated pool while it runs."""
        url = f"http://127.0.0.1:{self.pool_port}/admin/arms/{arm}"
        httpx.patch(url, json=levers, timeout=10).raise_for_status()

    def traffic(self, rate_per_s: float = 60.0, seed: int = 0) -> Traffic:
        return Traffic(
            edge_url=self.edge_url,
            control_plane_url=self.api_url,
            api_key=self.admin_key,
            policy=self.policy,
            world=default_world(),
            rate_per_s=rate_per_s,
            seed=seed,
            habits=HABITS,
        )

    def items(self, kind: str) -> list[dict[str, Any]]:
        """The policy's versions, bundles, releases or findings, newest first."""
        return list(self.call("GET", f"/v1/policies/{self.policy}/{kind}")["items"])

    def own_edge(self) -> dict[str, Any]:
        """What the edge said of itself last."""
        edges = self.call("GET", "/v1/edges")["items"]
        [found] = [one for one in edges if one["edge_id"] == self.policy]
        return dict(found)

    def learn_once(self, declared: Mapping[str, Any], **then: Any) -> int:
        """Have a learnt version serve, which no further round replaces; its number.

        What is given beside the declaration is added to it when that version serves.
        """
        self.declare(**declared)
        self.send_until(lambda: self.champion() > 1)
        calm = {**GATE, "growth": 10}
        usual = {"auto_promote": True, "release": dict(STRAIGHT), "gate": calm}
        self.configure(**{**usual, **declared, **then})
        return self.champion()

    def champion(self) -> int:
        """The version that serves."""
        found = self.call("GET", f"/v1/policies/{self.policy}/aliases/champion")
        return int(found["version"])

    def send(self, requests: int, rate_per_s: float = 60.0, seed: int = 0) -> Tally:
        return asyncio.run(self.traffic(rate_per_s, seed).run(requests=requests))

    def send_until(self, condition: Callable[[], bool], *, each: int = 300, times: int = 8) -> None:
        """Send traffic until something is so: rounds come as the log grows, and not all pass."""
        for seed in range(times):
            self.send(each, seed=1_000 + seed)
            for _ in range(50):
                if condition():
                    return
                time.sleep(0.1)
        wait_until(condition, 60)

    def column(self, statement: str, **given: Any) -> list[Any]:
        """The first column of a statement, in which ``:policy`` is the policy's id."""
        policy = "(SELECT id FROM policies WHERE name = :name)"
        query = sa.text(statement.replace(":policy", policy))
        with self.engine.connect() as connection:
            return list(connection.execute(query, {"name": self.policy, **given}).scalars())

    def all_joined(self, decisions: int) -> bool:
        """Whether so many decisions are stored, none waits, and each is one interaction."""
        [stored], [waiting], [joined] = (
            self.column(f"SELECT count(*) FROM {table} WHERE policy_id = :policy")  # noqa: S608
            for table in ("decisions", "pending_joins", "interactions")
        )
        return bool(stored >= decisions and waiting == 0 and joined == stored)


def wait_until(condition: Callable[[], bool], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            if condition():
                return
        except httpx.HTTPError:
            pass
        assert time.monotonic() < deadline, f"not within {timeout_s} s"
        time.sleep(0.1)
