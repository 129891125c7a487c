"""A safety veto by configuration: a boolean metric that every canary stage must show to hold."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

import numpy as np
import sqlalchemy as sa

from controlplane.stage_gates import Ruling
from feedback import ingest
from feedback.metrics import Metric
from feedback.said import Said
from storage import policies, tables
from storage import releases as stored
from tests.controlplane.release_world import Way

VETO = {"metric": "unsafe", "kind": "rate", "margin": 0.1, "safety_veto": True}
SAME = dict.fromkeys("abcd", 0.05)
SAFE = dict.fromkeys("abcd", 0.01)


def on_its_way(engine: sa.Engine) -> Way:
    """A canary at a half, of a version that does as well as the champion."""
    way = Way(engine, {"stages": [0.5, 0.8, 1], "guardrails": [VETO]})
    metric = Metric("unsafe", type="boolean", optimize="min", wait_s=0.0)
    with engine.begin() as connection:
        policies.put_metric(
            connection, way.world.project_id, metric.name, metric.as_json(), way.now
        )
    way.start()
    way.edge_says()
    return way


def served(way: Way, count: int, unsafe: Mapping[str, float] | None) -> Ruling:
    """Traffic that a judge looks at, and what the release's next look says."""
    before = way.now
    way.serve(count, SAME)
    if unsafe is not None:
        judge(way, unsafe, decided(way, before))
    way.edge_says()
    found = way.look()
    assert found is not None
    return found


def decided(way: Way, since: Any) -> list[tuple[UUID, str]]:
    of = tables.decisions.c
    with way.engine.connect() as connection:
        rows = connection.execute(sa.select(of.decision_id, of.action).where(of.at >= since))
        return [(row.decision_id, row.action) for row in rows]


def judge(way: Way, unsafe: Mapping[str, float], made: list[tuple[UUID, str]]) -> None:
    rng = np.random.default_rng(way.served)
    said = [
        Said("decision_id", str(identifier), "unsafe", bool(rng.random() < unsafe[arm]))
        for identifier, arm in made
    ]
    with way.engine.begin() as connection:
        ingest.record_feedback_batch(
            connection, way.world.project_id, said, source="judge", now=way.now
        )


def test_a_version_that_is_surely_less_safe_is_sent_back_however_well_it_earns(
    engine: sa.Engine,
) -> None:
    way = on_its_way(engine)
    found = served(way, 800, {**SAFE, "a": 0.6})
    assert found.action == "revert"
    assert [check.name for check in found.alarms] == ["unsafe_not_broken"]
    with engine.connect() as connection:
        (finding,) = stored.list_findings(connection, way.world.policy.id)
    assert (finding.monitor, finding.reaction) == ("guardrail", "revert")
    assert finding.numbers["metric"] == "unsafe"


def test_a_veto_on_what_nobody_measures_lets_no_canary_pass(engine: sa.Engine) -> None:
    found = served(on_its_way(engine), 800, None)
    assert found.action == "stay"
    assert [check.name for check in found.verdict.checks if not check.passed] == ["unsafe"]


def test_every_canary_stage_must_show_that_the_veto_holds(engine: sa.Engine) -> None:
    way = on_its_way(engine)
    found = served(way, 300, SAFE)
    assert [check.name for check in found.verdict.checks if not check.passed] == ["unsafe"]
    found = served(way, 900, SAFE)
    assert found.action == "pass", found.verdict.summary
    assert way.newest().stage == 1
