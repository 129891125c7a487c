"""Each fault of a judging log, planted in the tables, is found and named, and refuses."""

from dataclasses import replace
from itertools import count
from typing import Any

import pytest
import sqlalchemy as sa

from controlplane import agenda
from controlplane.config import GateConfig
from controlplane.log_checks import Background
from learners.diagnostics import Finding
from learners.records import Interaction
from storage import interactions
from tests.controlplane.learning_world import NOW, World
from tests.controlplane.release_world import Way

CUT, END = 200, 1_200
_NUMBERS = count()


@pytest.fixture(name="world")
def _world(log_engine: sa.Engine) -> World:
    """A sound log, all of it joined."""
    world = World(log_engine, f"c{next(_NUMBERS):09d}")
    world.log(END)
    agenda.settle(log_engine, world.policy.id, NOW)
    return world


def plant(world: World, statement: str) -> None:
    with world.engine.begin() as connection:
        connection.execute(sa.text(statement), {"policy": world.policy.id})


def judging(world: World) -> list[Interaction]:
    with world.engine.connect() as connection:
        return interactions.read(
            connection, world.policy.id, after=CUT, upto=END, limit=END, reward_version=1
        )


def found(world: World, rows: list[Interaction] | None = None, **gate: Any) -> dict[str, Finding]:
    rows = judging(world) if rows is None else rows
    with world.engine.connect() as connection:
        background = Background.read(
            connection, world.policy, rows, positions=(CUT, END), reward_version=1, now=NOW
        )
    return {one.name: one for one in background.findings(rows, GateConfig(**gate))}


def failed(findings: dict[str, Finding]) -> list[str]:
    return [name for name, one in findings.items() if not one.passed]


def test_a_sound_log_passes_every_check(world: World) -> None:
    findings = found(world)
    assert failed(findings) == []
    assert list(findings) == [
        "newer_than_training", "duplicates", "calibration", "logging_changes", "unweighed",
        "censored", "unjoined",
    ]  # fmt: skip
    assert all(one.sentence for one in findings.values())
    assert "1 logging policies in this range: version 1 100.0%" in str(
        findings["logging_changes"].sentence
    )


def test_rows_that_trained_refuse(world: World) -> None:
    rows = judging(world)
    old = [replace(row, position=CUT) for row in rows[:50]]
    said = found(world, old + rows[50:])
    assert failed(said) == ["newer_than_training"]
    assert said["newer_than_training"].value == pytest.approx(0.05)


def test_a_decision_that_counts_twice_refuses(world: World) -> None:
    rows = judging(world)
    assert failed(found(world, [*rows, rows[0]])) == ["duplicates"]


def test_distributions_that_were_not_served_refuse(world: World) -> None:
    plant(
        world,
        "UPDATE decisions SET distribution = ARRAY[0.4, 0.2, 0.2, 0.2] WHERE policy_id = :policy",
    )
    said = found(world)
    assert failed(said) == ["calibration"]
    assert "a was served" in said["calibration"].sentence
    assert "(by version 1)" in said["calibration"].sentence


def test_a_change_of_who_decides_is_told_and_refuses_only_where_asked(world: World) -> None:
    plant(
        world,
        "UPDATE decisions SET version = 2 FROM interactions i WHERE decisions.policy_id = :policy "
        "AND i.policy_id = decisions.policy_id "
        "AND i.decision_id = decisions.decision_id AND i.position > 900",
    )
    said = found(world)
    assert failed(said) == []
    assert said["logging_changes"].value == pytest.approx(0.3)
    assert failed(found(world, max_relogged=0.2)) == ["logging_changes"]


def test_rows_without_a_propensity_are_told_and_refuse_only_where_asked(world: World) -> None:
    plant(
        world,
        "UPDATE decisions SET propensity = 'NaN', mode = 'imported' FROM interactions i "
        "WHERE decisions.policy_id = :policy "
        "AND i.policy_id = decisions.policy_id "
        "AND i.decision_id = decisions.decision_id AND i.position > 900",
    )
    said = found(world)
    assert len(judging(world)) == 700
    assert failed(said) == []
    assert said["unweighed"].value == pytest.approx(0.3)
    assert "imported 30.0%" in said["logging_changes"].sentence
    assert failed(found(world, max_unweighed=0.2)) == ["unweighed"]


def test_rewards_made_before_their_wait_was_over_refuse(world: World) -> None:
    plant(world, "UPDATE policies SET wait_s = 1000000 WHERE id = :policy")
    assert failed(found(world)) == ["censored"]
    assert found(world)["censored"].value == 1.0
    assert failed(found(world, max_censored=1.0)) == []


def test_decisions_that_are_due_and_not_joined_refuse(world: World) -> None:
    plant(
        world,
        "INSERT INTO pending_joins (decision_id, project_id, policy_id, due_at) "
        "SELECT d.decision_id, d.project_id, d.policy_id, d.at FROM decisions d "
        "JOIN interactions i USING (decision_id, policy_id) WHERE d.policy_id = :policy "
        "AND i.position > 1000 AND i.position < 1200",
    )
    assert found(world)["unjoined"].value == 0  # they are joined, and only amended
    plant(
        world,
        "UPDATE interactions SET reward_version = 0 WHERE policy_id = :policy "
        "AND position > 1000 AND position < 1200",
    )
    said = found(world)
    assert failed(said) == ["unjoined"]
    assert said["unjoined"].value == pytest.approx(0.199)
    plant(
        world,
        "UPDATE pending_joins SET due_at = due_at + interval '1 year' WHERE policy_id = :policy",
    )
    said = found(world)
    assert failed(said) == []
    assert "199 more still wait" in said["unjoined"].sentence


def test_what_was_decided_outside_the_judging_rows_is_nobodys_fault(world: World) -> None:
    world.log(500, seed=600)  # newer than any judging row, and not joined
    assert found(world)["unjoined"].value == 0


def test_a_fault_of_the_log_refuses_each_candidate_of_a_round(engine: sa.Engine) -> None:
    world = World(engine, config={"auto_promote": True})
    world.log(2_000)
    agenda.settle(engine, world.policy.id, NOW)
    plant(
        world,
        "UPDATE decisions SET distribution = ARRAY[0.4, 0.2, 0.2, 0.2] WHERE policy_id = :policy",
    )
    done = world.round()
    assert done.summary["passed"] == []
    for verdict in world.verdicts().values():
        assert "standard deviations, more than" in verdict.summary
        [check] = [one for one in verdict.checks if one["name"] == "calibration"]
        assert not check["passed"]
        assert check["value"] > check["bound"]


def test_what_an_edge_decided_by_two_versions_passes(engine: sa.Engine) -> None:
    # The draws are a hash's: a false alarm in one of 10,000 logs, and the seeds are fixed.
    way = Way(engine)
    way.start()
    way.pass_stage()  # half of the requests are its own from then on
    way.serve(800)
    end = way.world.policy.log_position
    with engine.connect() as connection:
        policy_id = way.world.policy.id
        rows = interactions.read(
            connection, policy_id, after=0, upto=end, limit=end, reward_version=1
        )
        background = Background.read(
            connection, way.world.policy, rows, positions=(0, end), reward_version=1, now=way.now
        )
    findings = {one.name: one for one in background.findings(rows, GateConfig())}
    assert failed(findings) == []
    assert "2 logging policies" in findings["logging_changes"].sentence
    assert findings["calibration"].value > 0
