from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa

from controlplane import registry
from controlplane.config import from_json
from controlplane.errors import InvalidError, NotFoundError
from controlplane.registry import RewardBody
from feedback import join
from feedback.metrics import Metric
from learners.rewards import RewardGate, Term
from storage import policies, versions
from tests.controlplane.learning_world import ARMS, FEATURES, NOW, PUBLISHER, World, arm


def rewards(world: World) -> list[dict[str, object]]:
    with world.engine.connect() as connection:
        return policies.list_rewards(connection, world.policy.id)


def test_version_1_explores_evenly_over_the_pools_arms(engine: sa.Engine) -> None:
    bundle = World(engine).bundle()
    found = bundle.distribution({"domain": "maths"}, ARMS)
    assert found.tolist() == [0.25] * 4
    assert bundle.distribution({}, ARMS[:2]).tolist() == [0.5, 0.5, 0, 0]


def test_an_arm_that_is_changed_retired_or_brought_back_is_published(engine: sa.Engine) -> None:
    world = World(engine)
    serials = [world.bundle().serial]
    for change in (world.retire, world.add_arm, world.add_arm):
        change("d")
        serials.append(world.bundle().serial)
    assert serials == [1, 2, 3, 4]
    assert world.arms_in_service() == list(ARMS)


def test_what_is_not_in_service_cannot_be_retired(engine: sa.Engine) -> None:
    world = World(engine)
    world.retire("d")
    for name in ("d", "nobody"):
        with pytest.raises(NotFoundError, match=name):
            world.retire(name)
    assert world.bundle().serial == 2


def test_the_last_arm_stays(engine: sa.Engine) -> None:
    world = World(engine, arms=("a", "b"))
    world.retire("a")
    with pytest.raises(InvalidError, match="last arm"):
        world.retire("b")
    assert world.arms_in_service() == ["b"]


def test_a_pool_is_bounded(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(engine)
    monkeypatch.setattr(registry, "MAX_ARMS", 4)
    world.add_arm("a")  # a change is no addition
    with pytest.raises(InvalidError, match="4 arms"):
        world.add_arm("e")


def test_metrics_and_policies_are_bounded(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(engine)
    monkeypatch.setattr(registry, "MAX_METRICS", 1)
    monkeypatch.setattr(registry, "MAX_POLICIES", 1)
    with engine.begin() as connection:
        registry.put_metric(connection, world.project_id, Metric("one"), now=NOW)
        registry.put_metric(connection, world.project_id, Metric("one", wait_s=1), now=NOW)
        with pytest.raises(InvalidError, match="1 metrics"):
            registry.put_metric(connection, world.project_id, Metric("two"), now=NOW)
        with pytest.raises(InvalidError, match="1 policies"):
            registry.put_policy(
                connection, PUBLISHER, world.project_id,
                name="second", pool="main", config=world.settings(), now=NOW,
            )  # fmt: skip


def test_a_reward_keeps_the_defaults_and_waits_of_its_metrics(engine: sa.Engine) -> None:
    world = World(engine)
    with engine.begin() as connection:
        metric = Metric("score", default=0.5, wait_s=30)
        registry.put_metric(connection, world.project_id, metric, now=NOW)
        body = RewardBody(terms=[Term("score"), Term("cost_usd", -1.0, default=0.1)])
        assert registry.put_reward(connection, world.policy, body, now=NOW) == 2
        changed = Metric("score", default=0.9, wait_s=60)
        registry.put_metric(connection, world.project_id, changed, now=NOW)
    newest: Any = rewards(world)[0]
    assert newest["wait_s"] == 30
    assert [term["default"] for term in newest["terms"]] == [0.5, 0.1]
    assert world.policy.wait_s == 30
    with engine.begin() as connection:
        assert registry.put_reward(connection, world.policy, body, now=NOW) == 3


def test_a_reward_says_what_a_failed_arm_earned(engine: sa.Engine) -> None:
    world = World(engine)
    with engine.begin() as connection:
        for metric in (
            Metric("score", range=(0.0, 1.0)),
            Metric("open"),
            Metric("harm", "boolean"),
        ):
            registry.put_metric(connection, world.project_id, metric, now=NOW)
        body = RewardBody("score - 2*harm + open - 0.2*cost_usd")
        registry.put_reward(connection, world.policy, body, now=NOW)
    terms: Any = rewards(world)[0]["terms"]
    found = {term["metric"]: term["on_error"] for term in terms}
    assert found == {"score": 0.0, "harm": 1.0, "open": None, "cost_usd": 0.0}


def test_a_gate_keeps_what_stands_in_for_its_metric_and_waits_for_it(engine: sa.Engine) -> None:
    world = World(engine)
    with engine.begin() as connection:
        metric = Metric("valid", "boolean", default=1.0, wait_s=45)
        registry.put_metric(connection, world.project_id, metric, now=NOW)
        gates = [RewardGate("valid", 1.0, -1.0), RewardGate("output_tokens", 1.0, -0.5)]
        registry.put_reward(connection, world.policy, RewardBody("1 - error", gates=gates), now=NOW)
        unknown = RewardBody("1 - error", gates=[RewardGate("nothing", 1.0, 0.0)])
        with pytest.raises(InvalidError, match="'nothing' is not declared"):
            registry.put_reward(connection, world.policy, unknown, now=NOW)
    newest: Any = rewards(world)[0]
    assert newest["wait_s"] == 45
    found = [(gate["default"], gate["on_error"]) for gate in newest["gates"]]
    assert found == [(1.0, 0.0), (None, 0.0)]


ALIGNED = RewardBody(terms=[Term("error", -1.0), Term("cost_usd", -0.2, align="error")])


def cost(world: World, factor: float) -> None:
    """Give each decision a cost, as if it had been measured in so many units."""
    with world.engine.begin() as connection:
        connection.execute(
            sa.text(
                'UPDATE outcomes SET "values" = "values" || jsonb_build_object(\'cost_usd\', '
                "CAST(:factor AS float8) * (get_byte(uuid_send(decision_id), 15) + 1))"
            ),
            {"factor": factor},
        )


def test_an_aligned_reward_is_the_same_whatever_the_unit_of_the_log_is(engine: sa.Engine) -> None:
    logs: list[dict[Any, float]] = []
    for project, factor in (("usd", 0.001), ("cents", 0.1)):
        world = World(engine, project)
        world.log(300)
        cost(world, factor)
        world.round()
        with engine.begin() as connection:
            assert registry.put_reward(connection, world.policy, ALIGNED, now=NOW) == 2
        statistics: Any = rewards(world)[0]["statistics"]
        assert {name: one["n"] for name, one in statistics.items()} == {
            "error": 300,
            "cost_usd": 300,
        }
        world.round()
        with engine.connect() as connection:
            query = sa.text("SELECT position, reward FROM interactions WHERE policy_id = :p")
            rows = connection.execute(query, {"p": world.policy.id})
            logs.append({row.position: row.reward for row in rows})
    assert len(logs[0]) == 300
    assert len(set(logs[0].values())) > 100
    assert logs[1] == pytest.approx(logs[0], abs=1e-9)


def test_an_aligned_reward_declared_again_keeps_its_spreads(engine: sa.Engine) -> None:
    world = World(engine)
    world.log(150)
    cost(world, 1.0)
    world.round()
    with engine.begin() as connection:
        assert registry.put_reward(connection, world.policy, ALIGNED, now=NOW) == 2
    world.log(150, seed=1)
    cost(world, 2.0)
    world.round()
    with engine.begin() as connection:
        assert registry.put_reward(connection, world.policy, ALIGNED, now=NOW) == 2
        assert registry.put_reward(
            connection, world.policy, replace(ALIGNED, window=200), now=NOW
        ) == 3  # fmt: skip
    newest, before, _ = (row.get("statistics") for row in rewards(world))
    assert isinstance(newest, dict)
    assert isinstance(before, dict)
    assert (newest["cost_usd"]["n"], before["cost_usd"]["n"]) == (200, 150)
    assert newest["cost_usd"]["mean"] == pytest.approx(2 * before["cost_usd"]["mean"], rel=0.3)


def test_a_log_that_is_too_short_to_align_to_is_refused_with_the_remedy(engine: sa.Engine) -> None:
    world = World(engine)
    world.log(99)
    cost(world, 1.0)
    with engine.begin() as connection:
        assert join.settle(connection, world.policy.id, now=NOW) == 99
    with (
        engine.begin() as connection,
        pytest.raises(InvalidError, match=r"99 values.*newest 99 joined.*give a scale") as refused,
    ):
        registry.put_reward(connection, world.policy, ALIGNED, now=NOW)
    assert refused.value.field == "terms"
    assert len(rewards(world)) == 1


def test_an_offset_beside_an_expression_is_refused(engine: sa.Engine) -> None:
    world = World(engine)
    with engine.begin() as connection, pytest.raises(InvalidError, match="offset"):
        registry.put_reward(connection, world.policy, RewardBody("1 - error", offset=1.0), now=NOW)


def test_the_reward_in_force_is_no_new_version(engine: sa.Engine) -> None:
    world = World(engine)
    with engine.begin() as connection:
        again = registry.put_reward(connection, world.policy, RewardBody("1 - error"), now=NOW)
    assert again == 1
    assert len(rewards(world)) == 1


def test_another_reward_judges_the_whole_log_anew(engine: sa.Engine) -> None:
    world = World(engine)
    world.log(500)
    world.round()
    with engine.begin() as connection:
        registry.put_reward(connection, world.policy, RewardBody("2 - 2*error"), now=NOW)
    world.round()
    with engine.connect() as connection:
        top = connection.execute(sa.text("SELECT max(reward) FROM interactions")).scalar_one()
        count = connection.execute(sa.text("SELECT count(*) FROM interactions")).scalar_one()
    assert (top, count) == (2.0, 500)
    assert world.policy.log_position == 500


def test_a_policy_of_another_pool_is_published_for_its_arms(engine: sa.Engine) -> None:
    world = World(engine)
    with engine.begin() as connection:
        registry.put_arm(connection, PUBLISHER, world.project_id, "spare", arm("z"), now=NOW)
        registry.put_policy(
            connection, PUBLISHER, world.project_id,
            name="chat", pool="spare", config=world.settings(), now=NOW,
        )  # fmt: skip
    bundle = world.bundle()
    assert (bundle.serial, [one.name for one in bundle.arms]) == (2, ["z"])


def test_a_changed_setting_that_edges_do_not_see_publishes_nothing(engine: sa.Engine) -> None:
    world = World(engine)
    changed = from_json({"features": FEATURES, "auto_promote": True, "seed": 3})
    with engine.begin() as connection:
        found = registry.put_policy(
            connection, PUBLISHER, world.project_id,
            name="chat", pool="main", config=changed, now=NOW,
        )  # fmt: skip
        assert len(versions.list_bundles(connection, found.id)) == 1
    assert found.config["auto_promote"] is True
