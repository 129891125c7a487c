from concurrent.futures import ThreadPoolExecutor
from typing import Any

from learners.rewards import RewardFunction, Term
from storage import edges, policies, projects
from storage.projects import StoredKey
from tests.ground import GOOD, METRICS, T0, WAIT_S, Ground, later, lay, new_id


def put(ground: Ground, name: str, config: dict[str, Any]) -> None:
    with ground.engine.begin() as connection:
        policies.put_policy(
            connection,
            policy_id=new_id(),
            project_id=ground.project_id,
            pool_id=ground.policy().pool_id,
            name=name,
            config=config,
            now=later(1),
        )


def test_a_policy_that_is_put_again_keeps_its_id_its_log_and_its_wait(ground: Ground):
    ground.decide(new_id())
    ground.settle(later(100))
    before = ground.policy()
    put(ground, "chat", {"seed": 7})
    after = ground.policy()
    assert after.config == {"seed": 7}
    assert after.updated_at == later(1)
    kept = ("id", "pool_id", "name", "wait_s", "log_position", "created_at")
    assert [getattr(after, k) for k in kept] == [getattr(before, k) for k in kept]
    assert (after.wait_s, after.log_position) == (WAIT_S, 1)


def test_policies_are_found_by_name_in_their_project_only(ground: Ground):
    put(ground, "tools", {})
    stranger = lay(ground.engine)
    with ground.engine.connect() as connection:
        assert set(policies.policy_ids(connection, ground.project_id)) == {"chat", "tools"}
        found = policies.find_policy(connection, ground.project_id, "chat")
        assert found == ground.policy()
        assert policies.find_policy(connection, stranger.project_id, "tools") is None
        listed = policies.list_policies(connection, ground.project_id, after="chat")
        assert [policy.name for policy in listed] == ["tools"]
        of_pool = policies.policies_of_pool(connection, ground.policy().pool_id)
        assert ground.policy_id in of_pool
        assert stranger.policy_id not in of_pool


def test_a_pool_is_made_once(ground: Ground):
    def ensure(_: int) -> object:
        with ground.engine.begin() as connection:
            return policies.ensure_pool(connection, ground.project_id, new_id(), "new", T0)

    with ThreadPoolExecutor(4) as threads:
        assert len(set(threads.map(ensure, range(4)))) == 1


def test_arms_come_go_and_come_back(ground: Ground):
    pool = ground.policy().pool_id
    with ground.engine.begin() as connection:
        policies.put_arm(connection, pool, "b", {"model": "m1"}, T0)
        policies.put_arm(connection, pool, "a", {"model": "m2"}, T0)
        assert [arm["name"] for arm in policies.list_arms(connection, pool)] == ["a", "b"]
        assert policies.retire_arm(connection, pool, "a", T0)
        assert not policies.retire_arm(connection, pool, "a", T0)
        assert not policies.retire_arm(connection, pool, "c", T0)
        assert policies.list_arms(connection, pool) == [{"name": "b", "model": "m1"}]
        policies.put_arm(connection, pool, "a", {"model": "m3"}, T0)
        assert policies.list_arms(connection, pool)[0] == {"name": "a", "model": "m3"}


def test_metrics_are_the_projects_own(ground: Ground):
    stranger = lay(ground.engine)
    with ground.engine.begin() as connection:
        policies.put_metric(connection, stranger.project_id, "theirs", {"type": "float"}, T0)
        mine = policies.list_metrics(connection, ground.project_id)
        assert list(mine) == sorted(metric.name for metric in METRICS)
        assert policies.find_metrics(connection, ground.project_id, ["theirs"]) == {}
        found = policies.find_metrics(connection, stranger.project_id, ["theirs", "good"])
    assert set(found) == {"theirs", "good"}
    assert found["theirs"] == {"type": "float"}


def test_a_rewards_versions_stay_and_the_newest_counts(ground: Ground):
    second = RewardFunction((Term("score"),))
    assert ground.put_reward(second, later(1), wait_s=5) == 2
    with ground.engine.connect() as connection:
        assert policies.newest_reward(connection, ground.policy_id) == (2, second.as_json())
        listed = policies.list_rewards(connection, ground.policy_id)
    assert [row["version"] for row in listed] == [2, 1]
    assert listed[1]["terms"] == GOOD.as_json()["terms"]
    assert ground.policy().wait_s == 5


def test_rewards_at_once_get_versions_of_their_own(ground: Ground):
    with ThreadPoolExecutor(4) as threads:
        got = list(threads.map(lambda _: ground.put_reward(GOOD), range(4)))
    assert sorted(got) == [2, 3, 4, 5]


def test_a_key_is_found_by_its_prefix_and_revoked_in_its_project_only(ground: Ground):
    key = StoredKey(
        id=new_id(),
        project_id=ground.project_id,
        name="edge",
        prefix=str(new_id()),
        secret_hash=b"\x00\xff",
        scopes=("edge", "ingest"),
        created_at=T0,
        revoked_at=None,
    )
    stranger = lay(ground.engine)
    with ground.engine.begin() as connection:
        projects.add_key(connection, key)
        assert projects.find_key(connection, key.prefix) == key
        assert projects.find_key(connection, "absent") is None
        assert projects.list_keys(connection, stranger.project_id) == []
        assert not projects.revoke_key(connection, stranger.project_id, key.id, T0)
        for second in (1, 2):
            assert projects.revoke_key(connection, ground.project_id, key.id, later(second))
        [revoked] = projects.list_keys(connection, ground.project_id)
    assert revoked.revoked_at == later(1)


def test_a_project_is_made_once(ground: Ground):
    name = str(new_id())

    def ensure(_: int) -> object:
        with ground.engine.begin() as connection:
            return projects.ensure_project(connection, new_id(), name, T0)

    with ThreadPoolExecutor(4) as threads:
        assert len(set(threads.map(ensure, range(4)))) == 1


def test_an_edges_newest_status_is_kept(ground: Ground):
    with ground.engine.begin() as connection:
        for second, edge in ((1, "a"), (2, "b"), (3, "a")):
            status = {"lag_s": second, "edge_id": "forged"}
            edges.put_status(connection, ground.project_id, edge, status, later(second))
        found = edges.list_edges(connection, ground.project_id)
        assert edges.list_edges(connection, lay(ground.engine).project_id) == []
    assert found == [
        {"edge_id": "a", "seen_at": later(3), "lag_s": 3},
        {"edge_id": "b", "seen_at": later(2), "lag_s": 2},
    ]
