"""A world whose requests' domain shows in a vector only: heads have to learn it from feedback."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from controlplane import agenda, heads, registry
from feedback import ingest
from feedback.metrics import Metric
from feedback.said import Said
from kernels.signals.prototypes import FEEDBACK
from learners.ids import ENTROPY_BYTES, uuid7
from learners.records import Arm, Card
from storage import heads as stored
from storage.heads import StoredHead
from tests.controlplane.learning_world import NOW, PUBLISHER, SPECIALISTS, World, lines

Labels = Sequence[int] | NDArray[np.int64]
Floats = NDArray[np.float64]

DOMAINS = ("maths", "prose")
SIZE = 8
DOMAIN_HEAD = {
    "name": "topic",
    "metric": "topic",
    "classes": list(DOMAINS),
    "feature": "sense",
    "size": SIZE,
}
KINDS = tuple(FEEDBACK)
FEEDBACK_HEAD = {
    "name": "feedback",
    "metric": "kind",
    "classes": list(KINDS),
    "feature": "embedding",
    "size": 384,
    "start": "prototypes",
}
FEATURES = [{"name": "topic", "kind": "category", "values": list(DOMAINS)}]
CENTRES = np.random.default_rng(5).normal(size=(2, SIZE))


def vectors(labels: Labels, *, seed: int, noise: float = 1.0) -> Floats:
    """A vector for each label, around its class's centre."""
    random = np.random.default_rng(seed)
    found: Floats = CENTRES[np.asarray(labels)] + noise * random.normal(size=(len(labels), SIZE))
    return found


class HeadsWorld:
    """A policy whose heads are told what its requests were about."""

    def __init__(self, engine: sa.Engine, *declared: Mapping[str, Any], **more: Any) -> None:
        self.engine = engine
        self.config = {"features": FEATURES, **more}
        self.world = World(engine, config={"features": FEATURES})
        with engine.begin() as connection:
            for name, of in (
                (
                    "topic",
                    {"type": "category", "categories": {"maths": 1.0, "prose": 0.0, "law": 0.0}},
                ),
                ("kind", {"type": "category", "categories": dict.fromkeys(KINDS, 0.0)}),
                ("unsafe", {"type": "boolean"}),
                ("score", {"type": "float"}),
                ("solved", {"type": "boolean", "level": "episode"}),
            ):
                registry.put_metric(
                    connection, self.world.project_id, Metric(name, wait_s=60.0, **of), now=NOW
                )
            for name, tags in (("a", ()), ("b", ()), ("c", ("safe",)), ("d", ())):
                arm = Arm(name, name, "http://127.0.0.1:9/v1", Card(tags=tags))
                registry.put_arm(connection, PUBLISHER, self.world.project_id, "main", arm, now=NOW)
        self.declare(*declared)

    @property
    def policy_id(self) -> UUID:
        return self.world.policy.id

    def declare(self, *declared: Mapping[str, Any], **more: Any) -> None:
        self.world.config = {**self.config, "heads": list(declared), **more}
        self.world.put()

    def grow(
        self,
        labels: Labels,
        *,
        seed: int,
        noise: float = 1.0,
        topic: str | None = None,
        embeddings: Floats | None = None,
        **fields: Any,
    ) -> list[UUID]:
        """Decisions that chose evenly, with a vector; success is by the label's specialists.

        ``topic`` names a context's field that holds the domain, for worlds that need no head;
        ``embeddings`` stand in the contexts too.
        """
        random = np.random.default_rng(seed)
        at = NOW - timedelta(hours=2) + timedelta(seconds=seed)
        ids, decisions, outcomes = [], [], []
        for number, (label, vector) in enumerate(
            zip(labels, vectors(labels, seed=seed, noise=noise), strict=True)
        ):
            made = at + timedelta(milliseconds=number)
            ids.append(uuid7(made, random.bytes(ENTROPY_BYTES)))
            arm = int(random.integers(4))
            domain = DOMAINS[int(label) % 2]
            error = float(random.random() > SPECIALISTS[domain][arm])
            context = {"sense": vector.round(4).tolist(), **({topic: domain} if topic else {})}
            if embeddings is not None:
                context["embedding"] = embeddings[number].round(4).tolist()
            decisions.append({
                "decision_id": str(ids[-1]), "policy": "chat", "version": 1, "serial": 1,
                "digest": "", "at": made.isoformat(), "context": context,
                "eligible": list("abcd"), "action": "abcd"[arm], "distribution": [0.25] * 4,
                "propensity": 0.25, **fields,
            })  # fmt: skip
            outcomes.append(
                {"decision_id": str(ids[-1]), "at": made.isoformat(), "values": {"error": error}}
            )
        with self.engine.begin() as connection:
            project, told = self.world.project_id, at + timedelta(minutes=1)
            ingest.record_decisions(connection, project, lines(decisions), told)
            ingest.record_outcomes(connection, project, lines(outcomes), told)
        return ids

    def say(
        self, ids: Sequence[UUID], metric: str, values: Sequence[Any], *, source: str = "user"
    ) -> None:
        with self.engine.begin() as connection:
            for one, value in zip(ids, values, strict=True):
                said = Said(about="decision_id", identifier=str(one), metric=metric, value=value)
                ingest.record_feedback(
                    connection, self.world.project_id, said, source=source, now=NOW
                )

    def teach(self, count: int, *, seed: int, noise: float = 1.0, wrong: bool = False) -> None:
        """Requests with their topics as somebody says them; ``wrong``: as a dice says them."""
        random = np.random.default_rng(seed)
        labels = random.integers(2, size=count)
        told = random.permutation(labels) if wrong else labels
        ids = self.grow(labels, seed=seed, noise=noise)
        self.say(ids, "topic", [DOMAINS[label] for label in told])

    def settle(self) -> None:
        agenda.settle(self.engine, self.policy_id, NOW)

    def step(self, now: datetime = NOW) -> list[StoredHead]:
        return heads.step(self.engine, PUBLISHER, self.policy_id, now=now)

    def serving(self, name: str = "topic") -> StoredHead | None:
        with self.engine.connect() as connection:
            return stored.serving_head(connection, self.policy_id, name)

    def states(self, name: str = "topic") -> list[tuple[int, str]]:
        """Versions with their states, oldest first."""
        with self.engine.connect() as connection:
            rows = stored.list_heads(connection, self.policy_id, name)
        return [(row["number"], row["state"]) for row in rows][::-1]

    def serial(self) -> int:
        return self.world.bundle().serial
