from datetime import UTC, datetime, timedelta
from uuid import UUID

import numpy as np
import pytest
import sqlalchemy as sa

from controlplane import candidates, registry, scorers
from controlplane.revisions import told_apart
from controlplane.round_log import RoundLog
from learners.features import Schema
from learners.interactions import encode
from learners.records import Arm, Interaction
from storage import policies, versions
from tests.controlplane.learning_world import NOW, PUBLISHER, World

T0 = datetime(2026, 1, 1, tzinfo=UTC)
LOGGED = NOW - timedelta(hours=2)
"""When the world's log was made."""


def row(n: int, action: str) -> Interaction:
    return Interaction(
        decision_id=str(n),
        at=T0 + timedelta(hours=n),
        context={},
        eligible=("a", "b"),
        action=action,
        propensity=0.5,
        reward=float(n),
    )


def test_what_an_arms_former_model_earned_teaches_nothing_about_the_new_one():
    rows = [row(n, "ab"[n % 2]) for n in range(6)]
    found = told_apart(rows, {"a": T0 + timedelta(hours=3)})
    log = encode(found, Schema(()), ("a", "b"))
    assert log.reward.tolist() == [1.0, 3.0, 4.0, 5.0]
    assert log.eligible.tolist() == [[False, True], [True, True], [True, True], [True, True]]


def test_a_row_of_the_former_model_stays_in_the_judged_log_as_a_retired_arms():
    rows = [row(n, "ab"[n % 2]) for n in range(20)]
    found = told_apart(rows, {"a": T0 + timedelta(hours=9)})
    read = RoundLog.read([(found, [{}] * 20)], (Schema(()), Schema(())), limit=20)
    judged = candidates.Log.of(found, ("a", "b"), read)
    assert len(judged.log) == 20
    assert judged.log.arms[2:] == ("a before 2026-01-01T09:00:00+00:00",)
    assert (judged.log.action == 2).sum() == 5
    assert judged.in_service.tolist() == [True, True, False]


def test_without_a_revised_arm_the_log_stays_as_it_is():
    rows = [row(n, "a") for n in range(3)]
    assert told_apart(rows, {}) == rows
    assert told_apart(rows, {"c": T0 + timedelta(days=1)}) == rows


def revised(engine: sa.Engine, pool_id: UUID) -> dict[str, datetime]:
    with engine.connect() as connection:
        return policies.revised_arms(connection, pool_id)


@pytest.fixture
def world(engine: sa.Engine) -> World:
    return World(engine)


def put(world: World, arm: Arm, now: datetime) -> None:
    with world.engine.begin() as connection:
        registry.put_arm(connection, PUBLISHER, world.project_id, "main", arm, now=now)


def test_an_arm_is_revised_when_its_model_or_endpoint_changes_and_not_by_its_card(world: World):
    pool = world.policy.pool_id
    assert revised(world.engine, pool) == {}
    put(world, Arm("a", "a", "http://127.0.0.1:9/v1", api_key_env="KEY"), NOW)
    assert revised(world.engine, pool) == {}
    put(world, Arm("a", "a2", "http://127.0.0.1:9/v1"), NOW)
    put(world, Arm("b", "b", "http://127.0.0.1:10/v1"), NOW + timedelta(hours=1))
    expected = {"a": NOW, "b": NOW + timedelta(hours=1)}
    assert revised(world.engine, pool) == expected
    put(world, Arm("a", "a2", "http://127.0.0.1:9/v1"), NOW + timedelta(hours=2))
    assert revised(world.engine, pool) == expected


def test_an_arm_that_comes_back_with_another_model_is_revised(world: World):
    world.retire("a")
    put(world, Arm("a", "a", "http://127.0.0.1:9/v1"), NOW)
    assert revised(world.engine, world.policy.pool_id) == {}
    world.retire("a")
    put(world, Arm("a", "other", "http://127.0.0.1:9/v1"), NOW)
    assert revised(world.engine, world.policy.pool_id) == {"a": NOW}


def shares(world: World) -> dict[str, float]:
    """How often the newest trained linucb would choose each arm."""
    with world.engine.connect() as connection:
        found = connection.execute(
            sa.text(
                "SELECT number FROM versions WHERE policy_id = :p AND learner = 'linucb' "
                "ORDER BY number DESC LIMIT 1"
            ),
            {"p": world.policy.id},
        ).scalar_one()
        version = versions.find_version(connection, world.policy.id, found)
        assert version is not None
        scorer = scorers.load(version)
    x = world.settings().schema.encode_all([{"domain": "maths"}, {"domain": "prose"}])
    share = scorer.distribution(x, np.ones((2, len(scorer.arms)), dtype=bool)).mean(axis=0)
    return dict(zip(scorer.arms, share.tolist(), strict=True))


def test_a_round_does_not_credit_a_new_model_with_what_the_former_one_earned(world: World):
    world.log(1_500)
    world.round()
    assert shares(world)["a"] > 0.4
    put(world, Arm("a", "worse", "http://127.0.0.1:9/v1"), LOGGED + timedelta(minutes=1))
    world.log(1_500, {"maths": (0.1, 0.25, 0.5, 0.3), "prose": (0.1, 0.85, 0.5, 0.3)}, seed=3_600)
    world.round()
    assert shares(world)["a"] < 0.1
