"""A policy whose second version is on its way, and decisions as its bundles would make them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import sqlalchemy as sa

from controlplane import agenda, registry, releases, scorers
from controlplane.stage_gates import Ruling
from edge import router
from feedback import ingest
from learners.exploration import Exploration
from learners.ids import ENTROPY_BYTES, uuid7
from learners.scorers.linear import constant
from storage import edges, versions
from storage import releases as stored
from storage.releases import StoredRelease
from storage.versions import StoredVerdict
from tests.controlplane.learning_world import NOW, PUBLISHER, World, lines

FAILS = {"a": 0.05, "b": 0.6, "c": 0.3, "d": 0.3}
"""How often each arm fails: who sticks to ``a`` is better."""
RULES: dict[str, Any] = {
    "stages": [0, 0.5, 1],
    "min_decisions": 100,
    "min_rewarded": 50,
    "min_seconds": 0,
    "margin": 0.1,
    "unit": "request",
    "watch_decisions": 200,
    "cooldown_s": 600,
}


@dataclass(slots=True)
class Way:
    """A world, its clock, and what its requests meet."""

    engine: sa.Engine
    rules: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    now: datetime = NOW
    world: World = field(init=False)
    served: int = 0
    session: int = 0
    """Requests of each session; 0: there are none."""

    def __post_init__(self) -> None:
        config = {"release": {**RULES, **self.rules}, "learners": [{"name": "linucb"}]}
        self.world = World(self.engine, config={**config, "auto_promote": True, **self.config})

    def add_version(self, best: str = "a", floor: float = 0.1) -> int:
        """A passed version that sticks to an arm."""
        policy = self.world.policy
        config = self.world.settings()
        scores = {arm: float(arm == best) for arm in self.world.arms}
        scorer = constant(scores, config.schema.dimension, Exploration("greedy", floor=floor))
        form, tensors, digest = scorers.dump(scorer)
        made = registry.explorer(policy, self.world.arms, config, self.now)
        with self.engine.begin() as connection:
            champion = versions.find_alias(connection, policy.id, "champion")
            assert champion is not None
            number = versions.next_version(connection, policy.id)
            made = replace(
                made,
                number=number,
                learner="best_fixed",
                scorer=form,
                tensors=tensors,
                digest=digest,
            )
            versions.add_version(connection, made)
            versions.add_verdict(connection, passed(policy.id, number, champion[0], self.now))
        return number

    def start(self, number: int | None = None, **more: Any) -> StoredRelease:
        number = self.add_version() if number is None else number
        with self.engine.begin() as connection:
            return releases.start(
                connection, PUBLISHER, self.world.policy.id, number, by="a test", now=self.now,
                **more,
            )  # fmt: skip

    def serve(self, count: int, fails: Mapping[str, float] = FAILS, *, told: bool = True) -> None:
        """Requests, as an edge decides them by the newest bundle; a second for all of them."""
        bundle, arms = self.world.bundle(), self.world.arms_in_service()
        rng = np.random.default_rng(self.served)
        decisions, outcomes = [], []
        for number in range(count):
            at = self.now + timedelta(seconds=number / count)
            made = router.decide(
                bundle,
                {"domain": ("maths", "prose")[number % 2], "length": float(rng.normal())},
                decision_id=str(uuid7(at, rng.bytes(ENTROPY_BYTES))),
                at=at,
                eligible=arms,
                session_id=f"{self.served}-{number // self.session}" if self.session else None,
            )
            decisions.append({**asdict(made), "at": at.isoformat()})
            error = float(rng.random() < fails[made.action])
            values = {"error": error, "cost_usd": 0.01, "latency_s": float(rng.gamma(20.0, 0.05))}
            outcomes.append(
                {"decision_id": made.decision_id, "at": at.isoformat(), "values": values}
            )
        self.served += count
        self.now += timedelta(seconds=1)
        with self.engine.begin() as connection:
            project = self.world.project_id
            taken = ingest.record_decisions(connection, project, lines(decisions), self.now)
            assert taken.accepted == count, taken.rejected[:3]
            if told:
                ingest.record_outcomes(connection, project, lines(outcomes), self.now)
        self.now += timedelta(seconds=5)
        agenda.settle(self.engine, self.world.policy.id, self.now)

    def edge_says(self, *, nack: str | None = None, fault: str | None = None) -> None:
        """An edge reports that it serves the newest bundle, or that it refused it."""
        serial = self.world.bundle().serial
        said: list[dict[str, Any]] = []
        if nack is not None:
            said = [{"policy": "chat", "serial": serial, "reason": nack, "fault": fault}]
            serial -= 1
        status = {"active": {"chat": serial}, "nack": said, "lag_s": 0.0}
        with self.engine.begin() as connection:
            edges.put_status(connection, self.world.project_id, "edge-1", status, self.now)

    def look(self) -> Ruling | None:
        self.now += timedelta(seconds=1)
        return releases.step(self.engine, PUBLISHER, self.world.policy.id, now=self.now)

    def pass_stage(self, count: int = 400) -> Ruling:
        """Traffic, an edge that reports, and a look that passes."""
        self.edge_says()
        self.serve(count)
        self.edge_says()
        found = self.look()
        assert found is not None
        assert found.action == "pass", found.verdict.summary
        return found

    def newest(self) -> StoredRelease:
        with self.engine.connect() as connection:
            return stored.list_releases(connection, self.world.policy.id)[0]

    def gates(self) -> list[tuple[str, bool]]:
        """What was said, oldest first."""
        with self.engine.connect() as connection:
            said = versions.list_verdicts(connection, self.world.policy.id, limit=100)
        return [(one.gate, one.passed) for one in reversed(said)]

    def state_of(self, number: int) -> str:
        with self.engine.connect() as connection:
            found = versions.find_version(connection, self.world.policy.id, number)
        assert found is not None
        return found.state


def passed(policy_id: Any, number: int, champion: int, now: datetime) -> StoredVerdict:
    identifier = uuid7(now, number.to_bytes(ENTROPY_BYTES, "big"))
    return StoredVerdict(
        identifier, policy_id, number, "release", True, "better", {"champion_version": champion},
        [], now,
    )  # fmt: skip
