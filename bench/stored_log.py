"""A policy with a long log of its own making in the embedded Postgres, written by COPY."""

import os
import random
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from controlplane import registry
from controlplane.config import PolicyConfig
from controlplane.publishing import Publisher
from controlplane.registry import RewardBody
from controlplane.simulation.prompts import VOCABULARIES
from feedback.metrics import Metric
from kernels.signals import text as signals
from learners.ids import ENTROPY_BYTES, uuid7
from learners.records import Arm
from storage import projects
from storage.copying import line
from storage.embedded import Embedded
from storage.engine import connect
from storage.events import DECISION_COLUMNS
from storage.migrate import migrate

ARMS = tuple(f"arm-{i:02}" for i in range(16))
DOMAINS = tuple(f"domain-{i:02}" for i in range(15))
FEATURES: tuple[Mapping[str, Any], ...] = (
    *signals.SIGNAL_SCHEMA,
    {"name": "domain", "kind": "category", "values": list(DOMAINS)},
)
"""The signals of a text and a domain: with the constant, 87 columns."""
EXPRESSION = "score - 20*cost_usd"

_BATCH = 20_000
_TEXTS = 5_000
_INTERACTION_COLUMNS = (
    "decision_id", "policy_id", "position", "reward", "reward_version", "values", "revision",
    "joined_at", "said",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class StoredLog:
    """A database with one policy and its log."""

    engine: sa.Engine
    policy: UUID
    publisher: Publisher
    config: PolicyConfig
    rows: int


@contextmanager
def stored(rows: int, config: PolicyConfig) -> Iterator[StoredLog]:
    """A database that lives as long as the block."""
    with tempfile.TemporaryDirectory(prefix="pm-") as name:
        data = Path(name)
        data.chmod(0o711)  # root's Postgres runs as another account and passes through
        with Embedded(data, redis=False) as services:
            migrate(services.database_url)
            engine = connect(services.database_url)
            yield fill(engine, rows, config)
            engine.dispose()


def fill(engine: sa.Engine, rows: int, config: PolicyConfig) -> StoredLog:
    """Declare a policy in an empty database, and write its log."""
    publisher = Publisher((Ed25519PrivateKey.generate(),), timedelta(days=7))
    now = datetime.now(UTC)
    with engine.begin() as connection:
        project = projects.ensure_project(
            connection, uuid7(now, os.urandom(ENTROPY_BYTES)), "bench", now
        )
        for name in ARMS:
            arm = Arm(name, name, "http://127.0.0.1:1/v1")
            registry.put_arm(connection, publisher, project, "pool", arm, now=now)
        metric = Metric("score", range=(0.0, 1.0), wait_s=0.0)
        registry.put_metric(connection, project, metric, now=now)
        policy = registry.put_policy(
            connection, publisher, project, name="chat", pool="pool", config=config, now=now
        )
        body = RewardBody(expression=EXPRESSION)
        registry.put_reward(connection, policy, body, now=now)
    maker = Maker.of(project, policy.id, now)
    for start in range(0, rows, _BATCH):
        with engine.begin() as connection:
            batch = [maker.row(place) for place in range(start, min(start + _BATCH, rows))]
            _copy(connection, "decisions", DECISION_COLUMNS, [one for one, _ in batch])
            _copy(connection, "interactions", _INTERACTION_COLUMNS, [two for _, two in batch])
    with engine.begin() as connection:
        given = {"n": rows, "policy": policy.id}
        connection.execute(
            sa.text("UPDATE policies SET log_position = :n WHERE id = :policy"), given
        )
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("VACUUM ANALYZE decisions, interactions")
    return StoredLog(engine, policy.id, publisher, config, rows)


@dataclass(frozen=True, slots=True)
class Maker:
    """Rows as the edge and the join write them: uniform choices, a score and a cost."""

    project: UUID
    policy: UUID
    now: datetime
    rng: random.Random
    contexts: Sequence[dict[str, Any]]

    @classmethod
    def of(cls, project: UUID, policy: UUID, now: datetime) -> "Maker":
        """With contexts of some thousand texts."""
        rng = random.Random(0)
        worlds = list(VOCABULARIES.values())
        contexts = []
        for _ in range(_TEXTS):
            one = rng.choice(worlds)
            words = {name: rng.choice(getattr(one, name)) for name in "abc"}
            text = " ".join(
                rng.choice(one.templates).format(**words) for _ in range(rng.randint(1, 4))
            )
            contexts.append({**signals.read(text), "turns": 0.7, "domain": rng.choice(DOMAINS)})
        return cls(project, policy, now, rng, contexts)

    def row(self, place: int) -> tuple[list[Any], list[Any]]:
        """A decision and its interaction."""
        rng = self.rng
        at = self.now - timedelta(hours=1) + timedelta(milliseconds=place)
        decision = uuid7(at, rng.randbytes(ENTROPY_BYTES))
        arm = rng.randrange(len(ARMS))
        score, cost = float(rng.random() < 0.4 + arm / 50), rng.random() / 1_000
        known = {
            "decision_id": decision, "project_id": self.project, "policy_id": self.policy,
            "version": 1, "serial": 1, "digest": "0" * 64, "at": at,
            "context": rng.choice(self.contexts), "eligible": list(ARMS),
            "distribution": [1 / len(ARMS)] * len(ARMS), "action": ARMS[arm],
            "propensity": 1 / len(ARMS), "mode": "policy", "received_at": at,
        }  # fmt: skip
        values = {"score": score, "cost_usd": cost, "latency_s": rng.random(), "error": 0.0}
        joined = [
            decision, self.policy, place + 1, score - 20 * cost, 1, values, 1, self.now,
            {"score": {"key:app": score}},
        ]  # fmt: skip
        return [known.get(name) for name in DECISION_COLUMNS], joined


def _copy(
    connection: sa.Connection, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]
) -> None:
    driver = connection.connection.driver_connection
    assert driver is not None
    names = ", ".join(f'"{column}"' for column in columns)
    with driver.cursor().copy(f"COPY {table} ({names}) FROM STDIN") as out:
        out.write("".join(map(line, rows)))
