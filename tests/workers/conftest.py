"""A policy with a log that holds something to learn, and real workers on it."""

import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest
import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from controlplane import registry
from controlplane.config import GateConfig, LearnerConfig, PolicyConfig
from controlplane.processes import Process, Program
from controlplane.publishing import Publisher
from controlplane.registry import RewardBody
from controlplane.release_config import ReleaseConfig
from feedback import ingest
from feedback.metrics import Metric
from feedback.said import Said
from learners.ids import uuid7
from learners.records import Arm
from storage import projects

ARMS = ("a", "b", "c", "d")
BEST = {"red": "a", "blue": "b"}
CONFIG = PolicyConfig(
    features=({"name": "colour", "kind": "category", "values": ["red", "blue"]},),
    learners=(LearnerConfig("linucb"),),
    auto_promote=True,
    release=ReleaseConfig(stages=()),
    gate=GateConfig(min_interactions=300),
)


@dataclass(frozen=True)
class Log:
    """A policy whose reward depends on the context's colour, and a way to grow its log."""

    engine: sa.Engine
    project: UUID
    policy: UUID
    publisher: Publisher

    def grow(self, decisions: int, *, seed: int = 0, gap: float = 0.6) -> None:
        """Uniform decisions, and a grade of each: 0.2, and ``gap`` more for the right arm."""
        rng, now = random.Random(seed), datetime.now(UTC)
        rows = []
        for _ in range(decisions):
            colour, arm = rng.choice(["red", "blue"]), rng.choice(ARMS)
            identifier = str(uuid7(now - timedelta(seconds=5), rng.randbytes(10)))
            value = 0.2 + gap * (BEST[colour] == arm) + rng.gauss(0, 0.05)
            rows.append((identifier, colour, arm, min(1.0, max(0.0, value))))
        with self.engine.begin() as connection:
            batch = ingest.record_decisions(
                connection, self.project, [decision(row, now) for row in rows], now
            )
            assert not batch.rejected
            for identifier, _, _, value in rows:
                said = Said("decision_id", identifier, "score", value)
                ingest.record_feedback(connection, self.project, said, source="test", now=now)
            # The grace for spooled events is over: these tests are not about it.
            connection.exec_driver_sql("UPDATE pending_joins SET due_at = now()")

    def scalar(self, statement: str) -> int:
        with self.engine.connect() as connection:
            found: int = connection.exec_driver_sql(statement).scalar_one()
            return found


def decision(row: tuple[str, str, str, float], now: datetime) -> bytes:
    return json.dumps(
        {
            "decision_id": row[0],
            "policy": "chat",
            "version": 1,
            "serial": 1,
            "digest": "0" * 64,
            "at": (now - timedelta(seconds=5)).isoformat(),
            "context": {"colour": row[1]},
            "eligible": list(ARMS),
            "distribution": [0.25] * 4,
            "action": row[2],
            "propensity": 0.25,
        }
    ).encode()


@pytest.fixture
def log(engine: sa.Engine) -> Log:
    now = datetime.now(UTC)
    publisher = Publisher((Ed25519PrivateKey.generate(),), timedelta(days=7))
    with engine.begin() as connection:
        project = projects.ensure_project(connection, uuid7(now, b"0" * 10), "default", now)
        for name in ARMS:
            arm = Arm(name, name, "http://127.0.0.1:1/v1")
            registry.put_arm(connection, publisher, project, "pool", arm, now=now)
        registry.put_metric(
            connection, project, Metric("score", range=(0.0, 1.0), wait_s=0.0), now=now
        )
        policy = registry.put_policy(
            connection, publisher, project, name="chat", pool="pool", config=CONFIG, now=now
        )
        registry.put_reward(connection, policy, RewardBody(expression="score"), now=now)
    return Log(engine, project, policy.id, publisher)


@pytest.fixture
def run(short_path: Path, database_url: str, redis_url: str) -> Iterator[Callable[..., Process]]:
    """Starts ``worker``, ``beat`` or both; whatever still runs is killed after the test."""
    started: list[Process] = []
    (short_path / "logs").mkdir()
    shared: Mapping[str, str] = {
        "POINTSMAN_DATABASE_URL": database_url,
        "POINTSMAN_REDIS_URL": redis_url,
        "POINTSMAN_DATA_DIR": str(short_path),
    }

    def start(*names: str) -> Process:
        """The first of the programs; all of them are ready."""
        programs = [Program(name, "workers.cli", (name,), shared) for name in names]
        new = [Process(program, short_path / "logs") for program in programs]
        started.extend(new)
        for process in new:
            process.wait_ready()
        return new[0]

    yield start
    for process in started:
        kill(process)
    if os.environ.get("POINTSMAN_TEST_LOGS"):
        print((short_path / "logs" / "worker.log").read_text())


def kill(process: Process) -> None:
    """End it at once, and all of its own: how they end when asked to is told by their tests."""
    if process.ended() is None:
        os.killpg(process.pid, signal.SIGKILL)
        until(lambda: process.ended() is not None, 10)


def until(condition: Callable[[], bool], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s"
        time.sleep(0.1)
