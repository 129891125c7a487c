"""What a shadow's arm made of a request: joined beside the log, never in it."""

from datetime import timedelta
from uuid import UUID

from learners.pairs import Observed, Pair
from storage import interactions
from storage.pairs import read_pairs
from tests.ground import T0, Ground, later, new_id

SETTLED = later(120)


def shadow_of(ground: Ground, served: UUID, *, said: bool | None) -> UUID:
    """A decision by which `small` was asked too, 0.2 s after `large` had served."""
    shadow = new_id(later(0.2))
    taken = ground.decide(
        shadow,
        mode="shadow",
        retry_of=str(served),
        version=7,
        eligible=["small"],
        distribution=[1.0],
        action="small",
        propensity=1.0,
    )
    assert taken.accepted == 1, taken.rejected
    if said is not None:
        ground.say(shadow, said)
    return shadow


def read(ground: Ground, *, reward_version: int = 1, limit: int = 10) -> list[Pair]:
    with ground.engine.connect() as connection:
        return read_pairs(
            connection,
            ground.policy_id,
            reward_version=reward_version,
            since=T0 - timedelta(hours=1),
            limit=limit,
        )


def test_a_shadows_answer_is_joined_and_takes_no_place_in_the_log(ground: Ground):
    served = new_id()
    ground.decide(served, version=3)
    ground.say(served, value=True)
    shadow = shadow_of(ground, served, said=False)
    assert ground.settle(SETTLED) == 2
    assert ground.policy().log_position == 1
    assert ground.rewards() == {served: 1.0, shadow: 0.0}
    with ground.engine.connect() as connection:
        policy_id = ground.policy_id
        log = interactions.read(connection, policy_id, after=0, upto=10, limit=10)
        newest = interactions.newest_ids(connection, policy_id, 10)
        counts = interactions.counts(connection, policy_id)
        policy = ground.policy()
        series = interactions.reward_series(connection, policy, buckets=1, since=T0, last=100)
        shares = interactions.arm_shares(connection, policy_id, last=10)
    assert [row.decision_id for row in log] == [str(served)]
    assert newest == [served]
    assert counts == {"decisions": 1, "pending": 0, "joined": 1, "unrewarded": 0}
    assert [(row["n"], row["reward"]) for row in series] == [(1, 1.0)]
    assert [(row["arm"], row["n"]) for row in shares] == [("large", 1)]


def test_a_pair_holds_both_arms_with_their_rewards_and_the_requests_context(ground: Ground):
    served = new_id()
    ground.decide(served, version=3)
    ground.say(served, value=True)
    shadow = shadow_of(ground, served, said=False)
    ground.settle(SETTLED)
    (pair,) = read(ground)
    assert pair.context["domain"] == "code"
    assert pair.eligible == ("small", "large")
    assert pair.served == Observed(str(served), 3, "large", 0.75, 1.0)
    assert pair.shadow == Observed(str(shadow), 7, "small", 1.0, 0.0)
    assert read(ground, reward_version=2) == []
    assert read(ground, limit=0) == []


def test_feedback_that_is_late_amends_a_pair_where_it_is(ground: Ground):
    served = new_id()
    ground.decide(served)
    ground.say(served, value=True)
    shadow = shadow_of(ground, served, said=None)
    ground.settle(SETTLED)
    assert read(ground) == []
    ground.say(shadow, value=True, now=later(200))
    ground.settle(later(300))
    assert [pair.shadow.reward for pair in read(ground)] == [1.0]
    assert ground.log()[shadow]["position"] == 0
