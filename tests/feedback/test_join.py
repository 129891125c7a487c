from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from feedback import join
from feedback.metrics import Metric
from learners.records import Interaction
from learners.rewards import RewardFunction, RewardGate, Term
from storage import interactions
from tests.ground import GOOD, T0, WAIT_S, Ground, later, lay, new_id

DEFAULTED = RewardFunction((Term("good", default=0.25),))


def positions(ground: Ground) -> list[int]:
    return [row["position"] for row in ground.log().values()]


def read(ground: Ground, watermark: int, now_s: float = 1_000, **options: Any) -> list[Interaction]:
    with ground.engine.begin() as connection:
        return join.join(connection, ground.policy_id, watermark, now=later(now_s), **options)


# The wait


def test_nothing_is_joined_before_its_wait_is_over_even_where_all_is_there(ground: Ground):
    decision_id = new_id()
    ground.decide(decision_id)
    ground.outcome(decision_id)
    ground.say(decision_id, True)
    assert ground.settle(later(WAIT_S - 0.001)) == 0
    assert ground.settle(later(WAIT_S)) == 1


def test_a_decision_that_arrives_after_its_wait_still_waits_for_what_was_spooled_with_it(
    ground: Ground,
):
    decision_id, arrival = new_id(), WAIT_S * 10
    ground.decide(decision_id, now=later(arrival))
    assert ground.settle(later(arrival + 1.9)) == 0
    assert ground.settle(later(arrival + 2.0)) == 1


def test_a_longer_wait_holds_back_what_was_queued_before_it(ground: Ground):
    early, late = new_id(), new_id()
    ground.decide(early)
    ground.settle(later(WAIT_S))
    ground.decide(late)
    ground.put_reward(GOOD, later(WAIT_S), wait_s=500)
    assert ground.settle(later(499)) == 0
    assert ground.settle(later(500)) == 2
    assert positions(ground) == [1, 2]


def test_a_wait_that_was_lengthened_behind_a_batchs_back_is_kept_too(ground: Ground):
    decision_id = new_id()
    ground.decide(decision_id)
    with ground.engine.begin() as connection:  # as if the batch had not seen the new wait
        connection.execute(
            sa.text("UPDATE policies SET wait_s = 500 WHERE id = :p"), {"p": ground.policy_id}
        )
    assert ground.settle(later(499)) == 0
    assert ground.settle(later(500)) == 1


def test_a_shorter_wait_lets_go_what_was_queued_before_it(ground: Ground):
    ground.decide(new_id())
    ground.put_reward(GOOD, later(1), wait_s=5)
    assert ground.settle(later(4)) == 0
    assert ground.settle(later(5)) == 1


def test_without_a_reward_decisions_wait(ground: Ground):
    bare = lay(ground.engine, reward=None)
    bare.decide(new_id())
    assert bare.settle(later(1_000)) == 0
    with bare.engine.connect() as connection:
        assert bare.policy_id not in interactions.due_policies(connection, later(1_000))
    bare.put_reward(GOOD)
    with bare.engine.connect() as connection:
        assert bare.policy_id in interactions.due_policies(connection, later(1_000))
    assert bare.settle(later(1_000)) == 1


# What becomes of a decision


def test_what_nobody_speaks_of_gets_the_default(ground: Ground):
    ground.put_reward(DEFAULTED)
    decision_id = new_id()
    ground.decide(decision_id)
    ground.settle(later(100))
    assert ground.rewards() == {decision_id: 0.25}
    assert ground.log()[decision_id]["values"] == {}, "what was not said is not written down"


def test_what_nobody_speaks_of_teaches_nothing_without_a_default(ground: Ground):
    decision_id = new_id()
    ground.decide(decision_id)
    assert read(ground, 0) == []
    assert ground.rewards() == {decision_id: None}


@pytest.mark.parametrize("order", ["feedback first", "decision first"])
def test_feedback_may_come_before_its_decision(ground: Ground, order: str):
    decision_id = new_id()
    steps = [lambda: ground.say(decision_id, True), lambda: ground.decide(decision_id)]
    for step in steps if order == "feedback first" else steps[::-1]:
        step()
    assert ground.settle(later(100)) == 1
    assert ground.rewards() == {decision_id: 1.0}


def test_late_feedback_amends_the_row_in_its_place(ground: Ground):
    first, second = new_id(), new_id()
    ground.decide(first, second)
    ground.settle(later(100))
    place = ground.log()[first]["position"]
    assert ground.say(first, True, now=later(200)).status == "late"
    assert ground.settle(later(200)) == 1
    row = ground.log()[first]
    assert (row["position"], row["revision"], row["reward"]) == (place, 2, 1.0)
    assert row["joined_at"] == later(200)
    assert positions(ground) == [1, 2]


def test_late_outcomes_amend_the_row_too(ground: Ground):
    decision_id = new_id()
    ground.decide(decision_id)
    ground.settle(later(100))
    ground.outcome(decision_id, now=later(101), values={"error": 1.0})
    assert ground.settle(later(101)) == 1
    assert ground.log()[decision_id]["values"] == {"error": 1.0}


def test_a_join_that_finds_nothing_new_leaves_the_row_as_it_was(ground: Ground):
    decision_id = new_id()
    ground.decide(decision_id)
    ground.say(decision_id, True)
    ground.settle(later(100))
    before = ground.log()
    ground.say(decision_id, "thanks", now=later(101), metric="note")
    assert ground.settle(later(101)) == 1
    assert ground.log() == before


def test_an_amendment_by_the_same_source_replaces_what_it_said(ground: Ground):
    decision_id = new_id()
    ground.decide(decision_id)
    ground.say(decision_id, True)
    ground.say(decision_id, False, now=later(1))
    ground.settle(later(100))
    assert ground.rewards() == {decision_id: 0.0}


def test_what_was_said_last_counts_not_what_arrived_last(ground: Ground):
    decision_id = new_id()
    ground.decide(decision_id)
    ground.say(decision_id, False, now=later(20), occurred_at=later(10))
    ground.say(decision_id, True, now=later(30), occurred_at=later(5))
    ground.settle(later(100))
    assert ground.rewards() == {decision_id: 0.0}


@pytest.mark.parametrize(("how", "reward"), [("mean", 0.5), ("min", 0.0), ("max", 1.0)])
def test_each_source_has_one_voice(ground: Ground, how: Any, reward: float):
    ground.put_metric(Metric("good", type="boolean", aggregation=how))
    decision_id = new_id()
    ground.decide(decision_id)
    for second in range(4):
        ground.say(decision_id, second % 2 == 0, now=later(second), source="loud")
    ground.say(decision_id, True, source="judge")
    ground.settle(later(100))
    assert ground.rewards() == {decision_id: reward}


def test_feedback_on_an_episode_counts_for_each_of_its_decisions(ground: Ground):
    ground.put_reward(RewardFunction((Term("solved", default=0.0),)))
    before, early, late, other = new_id(), new_id(), new_id(), new_id()
    ground.decide(before, episode_id="run-1")
    ground.settle(later(100))
    ground.decide(early, episode_id="run-1")
    ground.say("run-1", True, metric="solved", now=later(100))
    ground.decide(late, episode_id="run-1", now=later(100))
    ground.decide(other, episode_id="run-2", now=later(100))
    ground.settle(later(200))
    assert ground.rewards() == {before: 1.0, early: 1.0, late: 1.0, other: 0.0}


def test_retracted_feedback_on_an_episode_is_taken_from_each_of_its_decisions(ground: Ground):
    ids = [new_id(), new_id()]
    ground.decide(*ids, episode_id="run-1")
    said = ground.say("run-1", True)
    ground.settle(later(100))
    assert ground.rewards() == dict.fromkeys(ids, 1.0)
    ground.retract(said.feedback_id, later(101))
    assert ground.settle(later(101)) == 2
    assert ground.rewards() == dict.fromkeys(ids)


def test_a_new_reward_joins_the_log_anew_in_place(ground: Ground):
    ids = [new_id() for _ in range(5)]
    ground.decide(*ids)
    for decision_id in ids:
        ground.outcome(decision_id)
        ground.say(decision_id, True)
    ground.settle(later(100))
    cheaper = RewardFunction((Term("good"), Term("cost_usd", weight=-100.0)))
    assert ground.put_reward(cheaper, later(101)) == 2
    assert ground.settle(later(101)) == 5
    assert ground.rewards() == pytest.approx(dict.fromkeys(ids, 0.9))
    assert positions(ground) == [1, 2, 3, 4, 5]
    assert {(r["revision"], r["reward_version"]) for r in ground.log().values()} == {(2, 2)}


@pytest.mark.parametrize("weight", [1e300, -1e7])
def test_a_reward_out_of_all_proportion_counts_as_none(ground: Ground, weight: float):
    ground.put_reward(RewardFunction((Term("good", weight=weight, scale=1e-300),)))
    decision_id = new_id()
    ground.decide(decision_id)
    ground.say(decision_id, True)
    ground.settle(later(100))
    assert ground.rewards() == {decision_id: None}


# Watermarks


def test_a_reader_that_keeps_its_watermark_sees_each_interaction_once(ground: Ground):
    seen: list[Interaction] = []
    sent: list[UUID] = []
    watermark = 0
    for step in range(4):
        ids = [new_id() for _ in range(5)]
        sent += ids
        ground.decide(*ids, at=later(step).isoformat())
        for decision_id in ids:
            ground.say(decision_id, True)
        for late in seen[:2]:
            ground.say(UUID(late.decision_id), step % 2 == 0, now=later(100 + step))
        for _ in range(3):
            got = read(ground, watermark, 100 + step * 10, limit=2)
            seen += got
            watermark = got[-1].position if got else watermark
    seen += read(ground, watermark)
    assert [row.position for row in seen] == list(range(1, 21))
    assert {row.decision_id for row in seen} == set(map(str, sent))


def test_an_interaction_holds_what_was_logged_of_its_decision(ground: Ground):
    decision_id = new_id()
    ground.decide(decision_id)
    ground.say(decision_id, True)
    [row] = read(ground, 0)
    assert row == Interaction(
        decision_id=str(decision_id),
        at=T0,
        context={"tokens": 12, "domain": "code", "urgent": True, "embedding": [0.5, -1.0]},
        eligible=("small", "large"),
        action="large",
        propensity=0.75,
        reward=1.0,
        position=1,
        values={"good": 1.0},
        source="user",
        said={"good": {"user": 1.0}},
    )


def test_more_than_a_batch_is_joined_in_one_call(ground: Ground):
    count = join.BATCH + 10
    ground.decide(*[new_id() for _ in range(count)])
    read(ground, 0)
    assert positions(ground) == list(range(1, count + 1))


def test_each_policy_has_its_own_positions(ground: Ground):
    other = lay(ground.engine)
    for one in (ground, other, ground):
        one.decide(new_id())
        one.settle(later(100))
    assert (positions(ground), positions(other)) == ([1, 2], [1])


# Any order


@dataclass(frozen=True)
class Event:
    kind: str
    decision: int = 0
    source: str = ""
    value: bool = True
    second: int = 0


N = 3
EVENTS = [
    *(Event("decision", i) for i in range(N)),
    *(Event("outcome", i) for i in range(N - 1)),
    Event("feedback", 0, "user", value=True, second=1),
    Event("feedback", 0, "user", value=False, second=2),
    Event("feedback", 0, "user", value=False, second=3),
    Event("feedback", 0, "judge", value=True, second=1),
    Event("feedback", 1, "user", value=True, second=5),
    Event("episode", 0, "user", value=True, second=4),
    Event("episode", 0, "judge", value=False, second=6),
    Event("settle"),
    Event("settle"),
]


def play(ground: Ground, events: Sequence[Event], ids: Sequence[UUID]) -> None:
    """Each event arrives 50 s after the last one: some before their wait is over, some after."""
    for tick, event in enumerate(events):
        now, about = later(50.0 * tick), ids[event.decision]
        match event.kind:
            case "decision":
                episode = "run-1" if event.decision < 2 else None
                ground.decide(about, now=now, episode_id=episode)
            case "outcome":
                ground.outcome(about, now=now)
            case "settle":
                ground.settle(now)
            case _:
                target = about if event.kind == "feedback" else "run-1"
                at = later(event.second - 100)
                ground.say(target, event.value, source=event.source, now=now, occurred_at=at)


@settings(max_examples=25, deadline=None)
@given(
    st.permutations(EVENTS),
    st.lists(st.tuples(st.integers(0, 40), st.sampled_from(EVENTS)), max_size=8),
)
def test_any_order_and_any_repetition_gives_the_same_interactions_once(
    log_engine: sa.Engine, order: list[Event], again: list[tuple[int, Event]]
):
    ground, ids = lay(log_engine), [new_id() for _ in range(N)]
    for place, event in again:
        order.insert(place % (len(order) + 1), event)
    play(ground, order, ids)
    ground.settle(later(5_000))
    outcome = {"latency_s": 0.5, "cost_usd": 0.001}
    assert {i: row["values"] for i, row in ground.log().items()} == {
        ids[0]: outcome | {"good": 0.5},  # user: True at 4 s; judge: False at 6 s
        ids[1]: outcome | {"good": 0.5},  # user: True at 5 s; judge: False at 6 s
        ids[2]: {},
    }
    assert ground.rewards() == {ids[0]: 0.5, ids[1]: 0.5, ids[2]: None}
    assert positions(ground) == [1, 2, 3]
    assert ground.policy().log_position == 3
    assert ground.count("pending_joins") == 0


def test_a_gate_decides_what_the_log_holds_and_energy_counts(engine: sa.Engine) -> None:
    ground = lay(engine, reward=None)
    terms = (Term("score", default=0.5), Term("energy_j", -0.01, cap_high=50.0))
    ground.put_reward(RewardFunction(terms, gates=(RewardGate("good", 1.0, -1.0),)))
    ids = [new_id() for _ in range(3)]
    ground.decide(*ids)
    for decision_id, joules in zip(ids, (20.0, 400.0, 20.0), strict=True):
        ground.outcome(decision_id, values={"energy_j": joules})
    for decision_id, good in zip(ids, (True, True, False), strict=True):
        ground.say(decision_id, good)
    ground.settle(later(WAIT_S))
    assert [ground.rewards()[i] for i in ids] == pytest.approx([0.5 - 0.2, 0.5 - 0.5, -1.0])
