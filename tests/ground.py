"""What tests of the log stand on: projects with policies, and the lines that edges send."""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from feedback import ingest, join
from feedback.ingest import Batch
from feedback.metrics import Metric
from feedback.said import Receipt, Said
from learners.ids import ENTROPY_BYTES, uuid7
from learners.rewards import RewardFunction, Term
from storage import policies, projects
from storage.policies import StoredPolicy
from storage.tables import metadata

T0 = datetime(2026, 3, 1, 12, tzinfo=UTC)
WAIT_S = 60.0
METRICS = (
    Metric("good", type="boolean", wait_s=WAIT_S),
    Metric("score", type="float", range=(0.0, 1.0), wait_s=WAIT_S),
    Metric("note", type="comment"),
    Metric("solved", type="boolean", level="episode"),
)
GOOD = RewardFunction((Term("good"),))
_random = random.Random(20260301)


def later(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def new_id(at: datetime = T0) -> UUID:
    return uuid7(at, _random.randbytes(ENTROPY_BYTES))


@dataclass(frozen=True)
class Ground:
    """One project with one policy, and short words for what happens to it."""

    engine: sa.Engine
    project_id: UUID
    policy_id: UUID

    def decide(self, *ids: UUID, now: datetime = T0, **fields: Any) -> Batch:
        return self.send_decisions([decision_line(i, **fields) for i in ids], now)

    def send_decisions(self, lines: Sequence[bytes], now: datetime = T0) -> Batch:
        with self.engine.begin() as connection:
            return ingest.record_decisions(connection, self.project_id, lines, now)

    def outcome(self, decision_id: UUID, now: datetime = T0, **fields: Any) -> Batch:
        with self.engine.begin() as connection:
            lines = [outcome_line(decision_id, **fields)]
            return ingest.record_outcomes(connection, self.project_id, lines, now)

    def say(
        self,
        target: UUID | str,
        value: Any,
        *,
        now: datetime = T0,
        source: str = "user",
        key: str | None = None,
        **fields: Any,
    ) -> Receipt:
        """Feedback on a decision (a UUID) or an episode (a text)."""
        about = "decision_id" if isinstance(target, UUID) else "episode_id"
        given = {"about": about, "identifier": str(target), "metric": "good", "value": value}
        said = Said(**given | {"key": key} | fields)
        with self.engine.begin() as connection:
            return ingest.record_feedback(connection, self.project_id, said, source=source, now=now)

    def retract(self, feedback_id: UUID, now: datetime = T0) -> None:
        with self.engine.begin() as connection:
            ingest.retract(connection, self.project_id, feedback_id, now)

    def settle(self, now: datetime, limit: int = join.BATCH) -> int:
        with self.engine.begin() as connection:
            return join.settle(connection, self.policy_id, now=now, limit=limit)

    def put_reward(self, reward: RewardFunction, now: datetime = T0, wait_s: float = WAIT_S) -> int:
        with self.engine.begin() as connection:
            return policies.add_reward(connection, self.policy_id, reward.as_json(), wait_s, now)

    def put_metric(self, metric: Metric) -> None:
        with self.engine.begin() as connection:
            policies.put_metric(connection, self.project_id, metric.name, metric.as_json(), T0)

    def policy(self) -> StoredPolicy:
        with self.engine.connect() as connection:
            return policies.get_policy(connection, self.policy_id)

    def count(self, table: str) -> int:
        query = sa.select(sa.func.count()).select_from(metadata.tables[table])
        mine = metadata.tables[table].c.project_id == self.project_id
        with self.engine.connect() as connection:
            return connection.execute(query.where(mine)).scalar_one()

    def log(self) -> dict[UUID, dict[str, Any]]:
        """The policy's interactions by decision, unrewarded ones too."""
        query = sa.text('SELECT * FROM interactions WHERE policy_id = :p ORDER BY "position"')
        with self.engine.connect() as connection:
            rows = connection.execute(query, {"p": self.policy_id}).mappings()
            return {row["decision_id"]: dict(row) for row in rows}

    def rewards(self) -> dict[UUID, float | None]:
        return {decision_id: row["reward"] for decision_id, row in self.log().items()}


def lay(engine: sa.Engine, *, reward: RewardFunction | None = GOOD) -> Ground:
    """A new project with the policy ``chat``, METRICS, and a reward that waits WAIT_S."""
    with engine.begin() as connection:
        project_id = projects.ensure_project(connection, new_id(), str(new_id()), T0)
        pool_id = policies.ensure_pool(connection, project_id, new_id(), "models", T0)
        policy_id = new_id()
        policies.put_policy(
            connection,
            policy_id=policy_id,
            project_id=project_id,
            pool_id=pool_id,
            name="chat",
            config={},
            now=T0,
        )
    ground = Ground(engine, project_id, policy_id)
    for metric in METRICS:
        ground.put_metric(metric)
    if reward is not None:
        ground.put_reward(reward)
    return ground


def decision(decision_id: UUID, /, **fields: Any) -> dict[str, Any]:
    """A decision's line as a dict; ``fields`` replace what stands there."""
    return {
        "decision_id": str(decision_id),
        "policy": "chat",
        "version": 1,
        "serial": 1,
        "digest": "0" * 16,
        "at": T0.isoformat(),
        "context": {"tokens": 12, "domain": "code", "urgent": True, "embedding": [0.5, -1.0]},
        "eligible": ["small", "large"],
        "distribution": [0.25, 0.75],
        "action": "large",
        "propensity": 0.75,
        "mode": "policy",
        "retry_of": None,
        "session_id": None,
        "episode_id": None,
        "edge_id": "edge-1",
    } | fields


def decision_line(decision_id: UUID, /, **fields: Any) -> bytes:
    return json.dumps(decision(decision_id, **fields)).encode()


def outcome_line(decision_id: UUID, /, **fields: Any) -> bytes:
    row = {
        "decision_id": str(decision_id),
        "at": T0.isoformat(),
        "values": {"latency_s": 0.5, "cost_usd": 0.001},
        "response_id": None,
    }
    return json.dumps(row | fields).encode()
