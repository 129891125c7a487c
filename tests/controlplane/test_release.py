"""What must not slip through between a round, a person and a changing policy."""

import threading
import time
from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from controlplane import agenda, candidates, publishing, registry, rounds
from controlplane.config import LearnerConfig, PolicyConfig
from controlplane.errors import GateError, InvalidError
from controlplane.registry import RewardBody
from learners.exploration import Exploration
from learners.interactions import encode
from learners.records import Arm, Interaction
from learners.scorers.linear import Linear
from storage import interactions, policies, versions, work
from tests.controlplane.learning_world import ALIKE, ARMS, NOW, PUBLISHER, World

AUTO = {"auto_promote": True}


def promoted(engine: sa.Engine) -> World:
    """A world whose second version or a later one serves, by a round of its own."""
    world = World(engine, config=AUTO)
    world.log(2_000)
    world.round()
    assert world.champion()[0] > 1
    return world


def test_sealing_anew_never_undoes_a_promotion_that_runs_at_the_same_time(
    engine: sa.Engine,
) -> None:
    world = World(engine)
    world.log(2_000)
    world.round()
    with engine.connect() as connection:
        number = next(
            v.version for v in versions.list_verdicts(connection, world.policy.id) if v.passed
        )
    policy_id = world.policy.id

    def renew() -> None:
        with engine.begin() as connection:
            publishing.republish(connection, PUBLISHER, policy_id, reason="renewed", now=NOW)

    with engine.begin() as connection:
        versions.lock_policy(connection, policy_id)
        renewing = threading.Thread(target=renew)
        renewing.start()
        time.sleep(0.3)
        publishing.publish(connection, PUBLISHER, policy_id, number, reason="promoted", now=NOW)
    renewing.join(10)
    assert world.champion()[0] == number
    assert world.bundle().version == number


def test_a_new_arm_is_tried_by_the_floor_and_does_not_take_the_traffic() -> None:
    d, exploration = 6, Exploration("greedy", floor=0.1)
    inverse = np.stack([np.eye(d) * 0.01] * 2)
    learnt = Linear(("a", "b"), np.ones((2, d)) * [[0.5], [0.4]], exploration, inverse, 0.5)
    x = np.abs(np.random.default_rng(0).normal(size=(200, d)))
    share = learnt.over(("a", "b", "new")).distribution(x, np.ones((200, 3), bool))
    assert share[:, 2].mean() == pytest.approx(0.1 / 3)


def test_a_learners_hopes_of_an_arm_that_was_never_tried_do_not_serve(engine: sa.Engine) -> None:
    world = World(engine)
    world.log(1_200)
    world.add_arm("new")
    config = world.settings()
    log = encode(log_of(world), config.schema, (*ARMS, "new"))
    arms = [Arm(name, name, "http://pool/v1") for name in log.arms]
    found, failed = candidates.train(log, config, arms, seed=1)
    assert not failed
    for one in found:
        x = config.schema.encode_all([row.context for row in log_of(world)])
        share = one.scorer.distribution(x, np.ones((len(x), 5), bool))[:, 4]
        assert share.mean() < 0.1, one.learner.name


def test_a_round_reads_only_what_the_reward_in_force_has_judged(engine: sa.Engine) -> None:
    world = World(engine)
    world.log(600)
    world.round()
    with engine.begin() as connection:
        body = RewardBody("10 - 10*error", wait_s=7_000.0)
        registry.put_reward(connection, world.policy, body, now=NOW)
    done = rounds.run_round(
        engine, PUBLISHER, world.policy.id, started_at=NOW - timedelta(seconds=30)
    )
    assert done is not None
    with engine.connect() as connection:
        old = connection.scalar(
            sa.text("SELECT count(*) FROM interactions WHERE reward_version = 1")
        )
    assert old > 0
    assert done.summary["reward_version"] == 2
    highest = [v.numbers.get("value", {}).get("value", 10.0) for v in verdicts_of(world, done)]
    assert all(value > 1.5 for value in highest), "rewards of 0 to 1 were mixed in"


def test_one_policy_that_cannot_be_read_does_not_stop_the_others(engine: sa.Engine) -> None:
    worlds = [World(engine, project=name) for name in ("newer", "broken", "fine")]
    for world in worlds:
        world.log(600)
    change = sa.text("UPDATE policies SET config = config || CAST(:c AS jsonb) WHERE id = :id")
    with engine.begin() as connection:
        newer = {"c": '{"brand_new": 1}', "id": worlds[0].policy.id}
        connection.execute(change, newer)
        connection.execute(change, {"c": '{"floor": 7}', "id": worlds[1].policy.id})
    for world in worlds:
        agenda.settle(engine, world.policy.id, NOW)
    with engine.begin() as connection:
        found = {due.policy_id for due in agenda.find(connection, NOW) if due.kind == work.ROUND}
    assert found == {worlds[0].policy.id, worlds[2].policy.id}


def test_a_rollback_holds_until_a_person_switches_promotion_on_again(engine: sa.Engine) -> None:
    world = promoted(engine)
    with engine.begin() as connection:
        publishing.rollback(connection, PUBLISHER, world.policy.id, now=NOW)
    assert world.champion()[0] == 1
    world.log(1_000, seed=3)
    done = world.round()
    assert done.summary["passed"]
    assert done.summary["held"] == "auto_promote is off"
    assert world.champion()[0] == 1
    assert done.look == 2, "the first version's looks go on where they stood"


def test_a_version_that_passed_against_an_earlier_champion_is_judged_again_first(
    engine: sa.Engine,
) -> None:
    world = World(engine)
    world.log(2_000)
    world.round()
    with engine.begin() as connection:
        passed = [
            v.version for v in versions.list_verdicts(connection, world.policy.id) if v.passed
        ]
        publishing.admit(connection, world.policy.id, passed[1])
        publishing.publish(
            connection, PUBLISHER, world.policy.id, passed[0], reason="promoted", now=NOW
        )
        with pytest.raises(GateError, match="was compared with version 1"):
            publishing.admit(connection, world.policy.id, passed[1])
        publishing.admit(connection, world.policy.id, 1)


def test_learners_that_would_fail_in_each_round_are_refused(engine: sa.Engine) -> None:
    world = World(engine)
    for learners in (
        [{"name": "linucb", "params": {"alfa": 1.0}}],
        [{"name": "vw", "params": {"floor": 7.0}}],
    ):
        with pytest.raises(InvalidError, match="learners"):
            world.put(learners=learners)
    with pytest.raises(InvalidError, match="max_interactions"):
        world.put(learners=[{"name": "vw"}], max_interactions=200)


def test_a_learner_that_fails_takes_no_other_with_it(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(engine)
    world.log(1_000)
    broken = PolicyConfig(
        features=world.settings().features,
        learners=(LearnerConfig("linucb", {"alfa": 1.0}), LearnerConfig("vw")),
    )
    monkeypatch.setattr(
        rounds, "read_config", lambda _: replace(broken, gate=world.settings().gate)
    )
    done = world.round()
    assert set(done.summary["candidates"].values()) == {"vw", "best_fixed"}
    assert "alfa" in done.summary["failed"]["linucb"]


def test_a_look_is_spent_only_where_somebody_was_judged(engine: sa.Engine) -> None:
    world = World(engine)
    world.log(500, rewarded=False)
    assert world.round().look == 0
    world.log(1_000, seed=1)
    assert world.round().look == 1
    assert world.round().look == 2


def test_what_is_switched_off_while_a_round_computes_stays_off(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(engine, config=AUTO)
    world.log(2_000)
    weigh = candidates.weigh

    def meanwhile(*given: Any, **named: Any) -> Any:
        world.put(auto_promote=False)
        return weigh(*given, **named)

    monkeypatch.setattr(rounds, "weigh", meanwhile)
    done = world.round()
    assert done.summary["passed"]
    assert done.summary["published"] is None
    assert world.champion()[0] == 1


def test_an_arm_that_leaves_while_a_round_computes_holds_the_promotion(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(engine, config=AUTO)
    world.log(2_000)
    weigh = candidates.weigh

    def meanwhile(*given: Any, **named: Any) -> Any:
        world.retire("d")
        return weigh(*given, **named)

    monkeypatch.setattr(rounds, "weigh", meanwhile)
    assert world.round().summary["held"] == "the pool's arms have changed meanwhile"


def test_more_exploration_reaches_the_edges_at_once(engine: sa.Engine) -> None:
    world = promoted(engine)
    before = world.bundle()
    world.put(floor=0.6)
    after = world.bundle()
    assert after.serial == before.serial + 1
    assert after.scorer.exploration.floor == 0.6
    assert after.version == before.version


def test_a_changed_reward_asks_for_a_round_and_for_bundles_with_its_wait(
    engine: sa.Engine,
) -> None:
    world = promoted(engine)
    with engine.begin() as connection:
        body = RewardBody("2 - 2*error", wait_s=60.0)
        registry.put_reward(connection, world.policy, body, now=NOW)
        found = {due.kind for due in work.find_due(connection, NOW)}
    assert found >= {work.ROUND, work.REFRESH}


def test_a_policy_that_is_made_twice_at_once_is_made_once(engine: sa.Engine) -> None:
    world = World(engine)
    errors: list[BaseException] = []

    def make() -> None:
        try:
            with engine.begin() as connection:
                registry.put_policy(
                    connection, PUBLISHER, world.project_id,
                    name="second", pool="main", config=world.settings(), now=NOW,
                )  # fmt: skip
        except sa.exc.SQLAlchemyError as error:
            errors.append(error)

    makers = [threading.Thread(target=make) for _ in range(4)]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join()
    assert errors == []
    with engine.connect() as connection:
        found = policies.find_policy(connection, world.project_id, "second")
        assert found is not None
        assert len(versions.list_bundles(connection, found.id)) == 1


def test_a_world_where_all_arms_are_alike_releases_nothing_in_many_looks(
    engine: sa.Engine,
) -> None:
    world = World(engine, config=AUTO)
    for look in range(6):
        world.log(500, ALIKE, seed=10 + look)
        world.round()
    assert world.champion()[0] == 1


def log_of(world: World) -> list[Interaction]:

    agenda.settle(world.engine, world.policy.id, NOW)
    with world.engine.connect() as connection:
        return interactions.read(connection, world.policy.id, after=0, upto=10_000, limit=10_000)


def verdicts_of(world: World, done: Any) -> list[Any]:
    with world.engine.connect() as connection:
        found = versions.list_verdicts(connection, world.policy.id)
    return [v for v in found if str(v.version) in done.summary["candidates"]]
