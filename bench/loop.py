"""The loop's own work: joining decisions, and a whole round, beside the bare work inside them.

The reference of the join is a bare INSERT … SELECT of as many rows into a like table; that of a
round is training its candidates in memory on the same rows.
"""

import json
import random
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import perf_counter
from uuid import UUID

import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bench.measure import Measure, main
from controlplane import agenda, candidates, logs, registry, rounds
from controlplane.config import GateConfig, LearnerConfig, PolicyConfig
from controlplane.publishing import Publisher
from controlplane.registry import RewardBody
from controlplane.release_config import ReleaseConfig
from feedback import ingest
from feedback.lines import MAX_LINES
from feedback.metrics import Metric
from feedback.said import Said
from kernels.signals import text as signals
from learners.ids import uuid7
from learners.interactions import encode
from learners.records import Arm
from storage import interactions, policies, projects
from storage.embedded import Embedded
from storage.engine import connect
from storage.migrate import migrate

ARMS = tuple(f"arm{i}" for i in range(8))
CONFIG = PolicyConfig(
    learners=(LearnerConfig("linucb"),),
    auto_promote=True,
    release=ReleaseConfig(stages=()),
    gate=GateConfig(min_interactions=100),
)
TEXTS = (
    "Write a function that merges two sorted lists, and say why it is linear.",
    "What is the derivative of x^3 * sin(x)?",
    "May my landlord keep the deposit if I leave a month early?",
    "A short poem about the sea in autumn, please.",
)


@dataclass(frozen=True)
class Installed:
    """A database with one policy."""

    engine: sa.Engine
    project: UUID
    policy: UUID
    publisher: Publisher


def run(quick: bool) -> list[Measure]:  # noqa: FBT001 — bench.measure's contract
    logs.configure("warning")  # stdout is for the figures
    count = 4_000 if quick else 20_000
    with installed() as place:
        fill(place, count)
        join_s, bare_s = join(place, count)
        round_s, learn_s = whole_round(place)
    return [
        Measure(
            measure="decisions joined with outcome and feedback",
            value=float(f"{count / join_s:.4g}"),
            unit="rows/s",
            reference=f"bare INSERT … SELECT: {count / bare_s:.4g} rows/s",
            ratio=float(f"{bare_s / join_s:.3g}"),
        ),
        Measure(
            measure=f"a round on {count:,} interactions: read, train, judge, seal, store",
            value=float(f"{round_s:.4g}"),
            unit="s",
            reference=f"training its candidates in memory: {learn_s:.4g} s",
            ratio=float(f"{round_s / learn_s:.3g}"),
        ),
    ]


@contextmanager
def installed() -> Iterator[Installed]:
    with tempfile.TemporaryDirectory(prefix="pm-") as name:
        data = Path(name)
        data.chmod(0o711)  # root's Postgres runs as another account and passes through
        with Embedded(data, redis=False) as services:
            migrate(services.database_url)
            engine = connect(services.database_url)
            yield declare(engine)
            engine.dispose()


def declare(engine: sa.Engine) -> Installed:
    now = datetime.now(UTC)
    publisher = Publisher((Ed25519PrivateKey.generate(),), timedelta(days=7))
    with engine.begin() as connection:
        project = projects.ensure_project(connection, uuid7(now, b"0" * 10), "bench", now)
        for name in ARMS:
            arm = Arm(name, name, "http://127.0.0.1:1/v1")
            registry.put_arm(connection, publisher, project, "pool", arm, now=now)
        score = Metric("score", range=(0.0, 1.0), wait_s=0.0, default=0.5)
        registry.put_metric(connection, project, score, now=now)
        policy = registry.put_policy(
            connection, publisher, project, name="chat", pool="pool", config=CONFIG, now=now
        )
        body = RewardBody(expression="score - 20*cost_usd")
        registry.put_reward(connection, policy, body, now=now)
    return Installed(engine, project, policy.id, publisher)


def fill(place: Installed, count: int) -> None:
    rng, now = random.Random(0), datetime.now(UTC)
    at = now - timedelta(minutes=1)
    ids = [str(uuid7(at, rng.randbytes(10))) for _ in range(count)]
    decisions = [decision(one, rng, at) for one in ids]
    outcomes = [outcome(one, rng, at) for one in ids]
    for start in range(0, count, MAX_LINES):
        part = slice(start, start + MAX_LINES)
        with place.engine.begin() as connection:
            ingest.record_decisions(connection, place.project, decisions[part], now)
            ingest.record_outcomes(connection, place.project, outcomes[part], now)
    with place.engine.begin() as connection:
        for one in ids[: count // 20]:
            said = Said("decision_id", one, "score", rng.random())
            ingest.record_feedback(connection, place.project, said, source="bench", now=now)
        connection.exec_driver_sql("UPDATE pending_joins SET due_at = now()")


def decision(one: str, rng: random.Random, at: datetime) -> bytes:
    return json.dumps(
        {
            "decision_id": one,
            "policy": "chat",
            "version": 1,
            "serial": 1,
            "digest": "0" * 64,
            "at": at.isoformat(),
            "context": signals.read(rng.choice(TEXTS)),
            "eligible": list(ARMS),
            "distribution": [1 / len(ARMS)] * len(ARMS),
            "action": rng.choice(ARMS),
            "propensity": 1 / len(ARMS),
        }
    ).encode()


def outcome(one: str, rng: random.Random, at: datetime) -> bytes:
    values = {"latency_s": rng.random(), "cost_usd": rng.random() / 1_000, "error": 0}
    return json.dumps({"decision_id": one, "at": at.isoformat(), "values": values}).encode()


def join(place: Installed, count: int) -> tuple[float, float]:
    began = perf_counter()
    joined = agenda.settle(place.engine, place.policy, datetime.now(UTC))
    spent = perf_counter() - began
    assert joined == count, f"{joined} of {count} were joined"
    with place.engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE bare (LIKE interactions INCLUDING ALL)")
        began = perf_counter()
        connection.exec_driver_sql("INSERT INTO bare SELECT * FROM interactions")
    return spent, perf_counter() - began


def whole_round(place: Installed) -> tuple[float, float]:
    with place.engine.connect() as connection:
        end = policies.get_policy(connection, place.policy).log_position
        rows = interactions.read(connection, place.policy, after=0, upto=end, limit=end)
    began = perf_counter()
    found = rounds.run_round(
        place.engine, place.publisher, place.policy, started_at=datetime.now(UTC)
    )
    spent = perf_counter() - began
    assert found is not None
    upto = found.summary["trained_on"][1]
    training = [row for row in rows if row.position <= upto]
    began = perf_counter()
    arms = [Arm(name, name, "http://pool/v1") for name in ARMS]
    candidates.train(encode(training, CONFIG.schema, ARMS), CONFIG, arms, seed=1)
    return spent, perf_counter() - began


if __name__ == "__main__":
    sys.exit(main(run))
