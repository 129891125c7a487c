"""A small seeded world: two kinds of request, four arms, and a log that chose evenly."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import numpy as np
import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from controlplane import registry, rounds
from controlplane.config import PolicyConfig, from_json
from controlplane.publishing import CHAMPION, Publisher
from controlplane.registry import RewardBody
from feedback import ingest
from learners.bundle import Bundle, unseal
from learners.ids import ENTROPY_BYTES, uuid7
from learners.records import Arm, ContextValue
from storage import policies, projects, versions
from storage.policies import StoredPolicy
from storage.versions import StoredRound, StoredVerdict

SIGNER = Ed25519PrivateKey.from_private_bytes(bytes(32))
PUBLISHER = Publisher((SIGNER,), timedelta(days=7))
NOW = datetime(2026, 1, 5, tzinfo=UTC)
"""When the log is joined; all of it is older."""

ARMS = ("a", "b", "c", "d")
DOMAINS = ("maths", "prose")
FEATURES = [
    {"name": "domain", "kind": "category", "values": list(DOMAINS)},
    {"name": "length", "kind": "number", "mean": 0.0, "scale": 1.0},
]
SPECIALISTS = {"maths": (0.85, 0.25, 0.5, 0.3), "prose": (0.25, 0.85, 0.5, 0.3)}
"""Each arm's chance of success: the best fixed arm has 0.55, who knows the domain has 0.85."""
ALIKE = {"maths": (0.5, 0.5, 0.5, 0.5), "prose": (0.5, 0.5, 0.5, 0.5)}

GATE = {"min_interactions": 400, "growth": 1.5, "share": 0.5, "min_judged": 200, "alpha": 0.05}

Means = Mapping[str, Sequence[float]]


def arm(name: str) -> Arm:
    return Arm(name, name, "http://127.0.0.1:9/v1")


@dataclass(slots=True)
class World:
    """A project with a policy, and a log that grows as it is told to."""

    engine: sa.Engine
    project: str = "default"
    config: Mapping[str, Any] = field(default_factory=dict)
    arms: Sequence[str] = ARMS
    project_id: UUID = field(init=False)

    def __post_init__(self) -> None:
        with self.engine.begin() as connection:
            self.project_id = projects.ensure_project(
                connection, uuid7(NOW, self.project.encode().ljust(ENTROPY_BYTES)[:ENTROPY_BYTES]),
                self.project, NOW,
            )  # fmt: skip
            for name in self.arms:
                registry.put_arm(connection, PUBLISHER, self.project_id, "main", arm(name), now=NOW)
            policy = registry.put_policy(
                connection, PUBLISHER, self.project_id,
                name="chat", pool="main", config=self.settings(), now=NOW,
            )  # fmt: skip
            registry.put_reward(connection, policy, RewardBody("1 - error"), now=NOW)

    def settings(self) -> PolicyConfig:
        given = {
            "features": FEATURES,
            "learners": [{"name": "linucb"}, {"name": "vw"}],
            "release": {"stages": []},
        }
        gate = {**GATE, **self.config.get("gate", {})}
        return from_json({**given, **self.config, "gate": gate})

    def put(self, **config: Any) -> None:
        """Change the policy's config."""
        self.config = {**self.config, **config}
        with self.engine.begin() as connection:
            registry.put_policy(
                connection, PUBLISHER, self.project_id,
                name="chat", pool="main", config=self.settings(), now=NOW,
            )  # fmt: skip

    @property
    def policy(self) -> StoredPolicy:
        with self.engine.connect() as connection:
            return registry.find_policy(connection, self.project_id, "chat")

    def log(self, count: int, means: Means = SPECIALISTS, *, seed: int = 0, **fields: Any) -> None:
        """Record decisions that chose evenly, and the outcome of each: success or error."""
        rng = np.random.default_rng(seed)
        rewarded = fields.pop("rewarded", True)
        at = NOW - timedelta(hours=2) + timedelta(seconds=seed)
        decisions, outcomes = [], []
        for number in range(count):
            made = at + timedelta(milliseconds=number)
            identifier = str(uuid7(made, rng.bytes(ENTROPY_BYTES)))
            domain = DOMAINS[int(rng.integers(2))]
            chosen = int(rng.integers(len(self.arms)))
            context = {"domain": domain, "length": float(rng.normal())}
            error = float(rng.random() > means[domain][ARMS.index(self.arms[chosen])])
            decisions.append(
                {
                    "decision_id": identifier, "policy": "chat", "version": 1, "serial": 1,
                    "digest": "", "at": made.isoformat(), "context": context,
                    "eligible": list(self.arms), "action": self.arms[chosen],
                    "distribution": [1 / len(self.arms)] * len(self.arms),
                    "propensity": 1 / len(self.arms), **fields,
                }
            )  # fmt: skip
            outcomes.append(
                {"decision_id": identifier, "at": made.isoformat(), "values": {"error": error}}
            )
        with self.engine.begin() as connection:
            told = now = at + timedelta(minutes=1)
            taken = ingest.record_decisions(connection, self.project_id, lines(decisions), now)
            assert taken.accepted == count, taken.rejected[:3]
            if rewarded:
                ingest.record_outcomes(connection, self.project_id, lines(outcomes), told)

    def round(self, engine: sa.Engine | None = None) -> StoredRound:
        done = rounds.run_round(engine or self.engine, PUBLISHER, self.policy.id, started_at=NOW)
        assert done is not None
        return done

    def champion(self) -> tuple[int, int]:
        with self.engine.connect() as connection:
            found = versions.find_alias(connection, self.policy.id, CHAMPION)
        assert found is not None
        return found

    def bundle(self) -> Bundle:
        with self.engine.connect() as connection:
            stored = versions.newest_bundle(connection, self.policy.id)
        assert stored is not None
        return unseal(stored.body, [SIGNER.public_key()])

    def numbers(self) -> dict[str, int]:
        """The newest version of each learner."""
        with self.engine.connect() as connection:
            rows = versions.list_versions(connection, self.policy.id)
        return {row["learner"]: row["number"] for row in reversed(rows)}

    def verdicts(self) -> dict[str, StoredVerdict]:
        """The newest round's verdicts, by learner."""
        with self.engine.connect() as connection:
            rows = versions.list_versions(connection, self.policy.id)
            said = versions.list_verdicts(connection, self.policy.id)
        learner = {row["number"]: row["learner"] for row in rows}
        return {learner[one.version]: one for one in reversed(said)}

    def is_due(self) -> bool:
        with self.engine.connect() as connection:
            last = versions.newest_round(connection, self.policy.id)
        return self.policy.log_position >= rounds.due_position(self.settings(), last)

    def retire(self, name: str) -> None:
        with self.engine.begin() as connection:
            registry.retire_arm(connection, PUBLISHER, self.project_id, "main", name, now=NOW)

    def add_arm(self, name: str) -> None:
        with self.engine.begin() as connection:
            registry.put_arm(connection, PUBLISHER, self.project_id, "main", arm(name), now=NOW)

    def arms_in_service(self) -> list[str]:
        with self.engine.connect() as connection:
            return [row["name"] for row in policies.list_arms(connection, self.policy.pool_id)]


def lines(rows: Sequence[Mapping[str, Any]]) -> list[bytes]:
    return [json.dumps(row).encode() for row in rows]


def value_of(bundle: Bundle, means: Means) -> float:
    """The expected reward that a bundle truly earns, over contexts of the world."""
    rng = np.random.default_rng(99)
    total = 0.0
    for number in range(400):
        domain = DOMAINS[number % 2]
        context: dict[str, ContextValue] = {"domain": domain, "length": float(rng.normal())}
        names = [one.name for one in bundle.arms]
        probabilities = bundle.distribution(context, names)
        total += sum(
            p * means[domain][ARMS.index(n)] for p, n in zip(probabilities, names, strict=True)
        )
    return total / 400
