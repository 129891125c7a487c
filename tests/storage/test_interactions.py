from collections.abc import Mapping
from uuid import UUID

import pytest
import sqlalchemy as sa

from learners.records import Interaction
from learners.rewards import RewardFunction, Term
from storage import interactions
from tests.ground import T0, Ground, later, lay, new_id


def write(ground: Ground, *rows: tuple[UUID, float | None, str], version: int = 1) -> None:
    with ground.engine.begin() as connection:
        interactions.write(
            connection,
            ground.policy_id,
            [(*row, "{}") for row in rows],
            reward_version=version,
            now=later(version),
        )


def test_new_ones_go_to_the_logs_end_and_known_ones_are_amended(ground: Ground):
    a, b, c = new_id(), new_id(), new_id()
    write(ground, (a, 0.1, "{}"), (b, None, "{}"))
    write(ground, (b, 0.2, '{"good": 1}'), (c, 0.3, "{}"))
    found = {i: (r["position"], r["reward"], r["revision"]) for i, r in ground.log().items()}
    assert found == {a: (1, 0.1, 1), b: (2, 0.2, 2), c: (3, 0.3, 1)}
    assert ground.policy().log_position == 3


def test_writing_what_stands_there_already_changes_nothing(ground: Ground):
    one = new_id()
    write(ground, (one, 0.1, '{"x": 1, "y": 2}'))
    before = ground.log()
    write(ground, (one, 0.1, '{"y": 2, "x": 1}'))
    assert ground.log() == before
    write(ground, (one, 0.1, '{"x": 1, "y": 2}'), version=2)
    assert (ground.log()[one]["revision"], ground.log()[one]["reward_version"]) == (2, 2)


def test_a_write_that_is_rolled_back_gives_its_positions_back(ground: Ground):
    with ground.engine.connect() as connection:
        interactions.write(
            connection, ground.policy_id, [(new_id(), 1.0, "{}", "{}")], reward_version=1, now=T0
        )
        connection.rollback()
    write(ground, (new_id(), 1.0, "{}"))
    assert [row["position"] for row in ground.log().values()] == [1]


def test_what_is_due_is_taken_oldest_first_and_no_more_than_asked_for(ground: Ground):
    ids = [new_id(later(n)) for n in range(4)]
    for n in (2, 0, 3, 1):
        ground.decide(ids[n], at=later(n).isoformat(), now=later(3))
    policy = ground.policy()

    def take(seconds: float, limit: int) -> list[UUID]:
        with ground.engine.begin() as connection:
            return list(interactions.take_due(connection, policy, later(seconds), limit))

    assert take(59, 10) == []
    assert take(62, 2) == ids[:2]
    assert take(62, 10) == [ids[2]]
    assert take(62, 10) == []
    assert take(63, 10) == [ids[3]]


def test_reading_gives_rewarded_interactions_in_order_between_two_positions(ground: Ground):
    ids = [new_id() for _ in range(6)]
    ground.decide(*ids)
    write(ground, *[(i, None if n == 3 else float(n), "{}") for n, i in enumerate(ids)])

    def read(after: int, upto: int, limit: int = 10) -> list[tuple[int, float]]:
        with ground.engine.connect() as connection:
            rows = interactions.read(
                connection, ground.policy_id, after=after, upto=upto, limit=limit
            )
        return [(row.position, row.reward) for row in rows]

    assert read(0, 6) == [(1, 0.0), (2, 1.0), (3, 2.0), (5, 4.0), (6, 5.0)]
    assert read(2, 5) == [(3, 2.0), (5, 4.0)]
    assert read(0, 6, limit=2) == [(1, 0.0), (2, 1.0)]
    assert read(6, 6) == []


def test_reading_tells_who_said_what(ground: Ground):
    ids = [new_id() for _ in range(3)]
    ground.decide(*ids)
    for source in ("judge", "user"):
        ground.say(ids[0], source == "user", source=source)
    ground.say(ids[1], True, source="judge")
    ground.outcome(ids[2])
    ground.settle(later(100))
    ground.put_reward(RewardFunction((Term("good", default=0.5),)))
    ground.settle(later(200))
    with ground.engine.connect() as connection:
        rows = interactions.read(connection, ground.policy_id, after=0, upto=3, limit=3)
    found = {UUID(row.decision_id): (row.said, row.source) for row in rows}
    assert found == {
        ids[0]: ({"good": {"judge": 0.0, "user": 1.0}}, None),
        ids[1]: ({"good": {"judge": 1.0}}, "judge"),
        ids[2]: ({}, None),
    }


def test_what_was_joined_before_sources_were_kept_is_nobodys_until_it_is_joined_again(
    ground: Ground,
):
    one = new_id()
    ground.decide(one)
    ground.say(one, True)
    ground.settle(later(100))
    with ground.engine.begin() as connection:
        connection.execute(sa.text("UPDATE interactions SET said = NULL"))

    def read() -> Interaction:
        with ground.engine.connect() as connection:
            return interactions.read(connection, ground.policy_id, after=0, upto=1, limit=1)[0]

    assert (read().said, read().source) == ({}, None)
    ground.say(one, True, source="judge", now=later(150))
    ground.settle(later(200))
    assert read().said == {"good": {"judge": 1.0, "user": 1.0}}
    assert ground.log()[one]["revision"] == 2


def test_counts_are_those_of_the_policy(ground: Ground):
    other = lay(ground.engine)
    ids = [new_id() for _ in range(3)]
    ground.decide(*ids)
    ground.say(ids[0], True)
    ground.settle(later(100), limit=2)
    other.decide(new_id())
    unrewarded = sum(reward is None for reward in ground.rewards().values())
    found = {"decisions": 3, "pending": 1, "joined": 2, "unrewarded": unrewarded}
    assert counts(ground) == found == counted_one_by_one(ground)


def test_counts_are_those_of_a_full_count_whatever_has_happened(ground: Ground):
    ids = [new_id(later(n)) for n in range(8)]
    ground.say(ids[0], True)
    assert counts(ground) == counted_one_by_one(ground), "feedback came before its decision"
    ground.decide(*ids)
    ground.decide(new_id(later(9)), mode="shadow", retry_of=str(ids[0]))
    assert counts(ground) == counted_one_by_one(ground), "all of them wait"
    for one in ids[1:4]:
        ground.say(one, False)
    ground.settle(later(100), limit=5)
    assert counts(ground) == counted_one_by_one(ground), "some are joined"
    ground.settle(later(200))
    joined = counts(ground)
    assert joined == counted_one_by_one(ground)
    assert (joined["joined"], joined["pending"]) == (8, 0)
    ground.say(ids[5], True, now=later(300))
    late = counts(ground)
    assert late == counted_one_by_one(ground) == {**joined, "pending": 1}
    ground.settle(later(400))
    amended = counts(ground)
    assert amended == counted_one_by_one(ground)
    assert amended["unrewarded"] == joined["unrewarded"] - 1
    ground.put_reward(RewardFunction((Term("good", default=0.5),)))
    assert counts(ground) == counted_one_by_one(ground), "all of them are to be joined again"
    ground.settle(later(1_000))
    assert counts(ground) == counted_one_by_one(ground)
    assert counts(ground)["unrewarded"] == 0


def counts(ground: Ground) -> Mapping[str, int]:
    with ground.engine.connect() as connection:
        return interactions.counts(connection, ground.policy_id)


def counted_one_by_one(ground: Ground) -> Mapping[str, int]:
    statement = (
        "SELECT (SELECT count(*) FROM decisions WHERE policy_id = :p) "
        "- count(*) FILTER (WHERE position = 0) AS decisions, "
        "(SELECT count(*) FROM pending_joins WHERE policy_id = :p) AS pending, "
        "count(*) FILTER (WHERE position > 0) AS joined, "
        "count(*) FILTER (WHERE position > 0 AND reward IS NULL) AS unrewarded "
        "FROM interactions WHERE policy_id = :p"
    )
    with ground.engine.connect() as connection:
        found = connection.execute(sa.text(statement), {"p": ground.policy_id})
        return dict(found.mappings().one())


def test_only_policies_with_something_due_are_due(ground: Ground):
    other = lay(ground.engine)
    ground.decide(new_id())
    with ground.engine.connect() as connection:
        assert ground.policy_id not in interactions.due_policies(connection, later(59))
        due = interactions.due_policies(connection, later(60))
    assert ground.policy_id in due
    assert other.policy_id not in due


def test_the_reward_series_covers_the_log_in_its_order(ground: Ground):
    for n in range(10):
        one = new_id(later(n))
        ground.decide(one, at=later(n).isoformat(), version=1 + n // 5, now=later(10))
        ground.outcome(one, values={"cost_usd": 0.5}, now=later(10))
        ground.say(one, n >= 5, now=later(10))
    ground.settle(later(200))
    policy = ground.policy()
    with ground.engine.connect() as connection:
        rows = interactions.reward_series(connection, policy, buckets=2, since=T0, last=100)
        empty = interactions.reward_series(
            connection, policy, buckets=2, since=later(100), last=100
        )
        newest = interactions.reward_series(connection, policy, buckets=2, since=T0, last=4)
    assert [(r["n"], r["reward"], r["version"]) for r in rows] == [(5, 0.0, 1), (5, 1.0, 2)]
    assert [r["cost_usd"] for r in rows] == [0.5, 0.5]
    assert [r["at"] for r in rows] == [T0, later(5)]
    assert empty == []
    assert [(r["n"], r["reward"]) for r in newest] == [(2, 1.0), (2, 1.0)]


def test_arm_shares_count_the_newest_decisions_whether_joined_or_not(ground: Ground):
    old = new_id(later(0))
    ground.decide(old, action="small", propensity=0.25)
    joined = new_id(later(1))
    ground.decide(joined)
    ground.say(joined, True, now=later(1))
    ground.settle(later(100))
    ground.decide(new_id(later(2)), now=later(100))
    with ground.engine.connect() as connection:
        newest = interactions.arm_shares(connection, ground.policy_id, last=2)
        every = interactions.arm_shares(connection, ground.policy_id, last=10)
    assert [(r["arm"], r["n"], r["reward"]) for r in newest] == [("large", 2, 1.0)]
    assert [(r["arm"], r["n"]) for r in every] == [("large", 2), ("small", 1)]


@pytest.mark.parametrize("reward", [float("nan"), float("inf")])
def test_reading_refuses_a_reward_that_would_poison_a_learner(ground: Ground, reward: float):
    one = new_id()
    ground.decide(one)
    write(ground, (one, reward, "{}"))
    with (
        ground.engine.connect() as connection,
        pytest.raises(ValueError, match="is not finite"),
    ):
        interactions.read(connection, ground.policy_id, after=0, upto=1, limit=1)
