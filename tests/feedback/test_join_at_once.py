"""What happens when arrivals and joins overlap: in each order that could lose something."""

import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa

from feedback import ingest, join
from feedback.said import Said
from learners.rewards import RewardFunction, Term
from storage import interactions, policies
from storage.engine import connect
from tests.ground import T0, Ground, decision_line, later, lay, new_id, outcome_line

DEFAULTED = RewardFunction((Term("good", default=0.25),))
EPISODE = "run-1"


@contextmanager
def in_thread(call: Callable[[], Any]) -> Iterator[Future[Any]]:
    with ThreadPoolExecutor(1) as threads:
        yield threads.submit(call)


def wait_for_a_lock(ground: Ground) -> None:
    """Until some transaction of this database waits for another."""
    query = sa.text(
        "SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid) "
        "WHERE NOT l.granted AND a.datname = current_database()"
    )
    for _ in range(500):
        with ground.engine.connect() as connection:
            if connection.execute(query).scalar_one():
                return
        threading.Event().wait(0.01)
    pytest.fail("nothing waits for a lock")


def decide(connection: sa.Connection, ground: Ground, decision_id: UUID) -> None:
    line = decision_line(decision_id, episode_id=EPISODE)
    ingest.record_decisions(connection, ground.project_id, [line], T0)


def say(connection: sa.Connection, ground: Ground, decision_id: UUID) -> None:
    said = Said("decision_id", str(decision_id), "good", value=True)
    ingest.record_feedback(connection, ground.project_id, said, source="user", now=T0)


def say_episode(connection: sa.Connection, ground: Ground, _: UUID) -> None:
    said = Said("episode_id", EPISODE, "good", value=True)
    ingest.record_feedback(connection, ground.project_id, said, source="user", now=T0)


def send_outcome(connection: sa.Connection, ground: Ground, decision_id: UUID) -> None:
    line = outcome_line(decision_id, values={"error": 1.0})
    ingest.record_outcomes(connection, ground.project_id, [line], T0)


Arrival = Callable[[sa.Connection, Ground, UUID], None]
ARRIVALS = (say, say_episode, send_outcome)


def joined_with(arrival: Arrival, ground: Ground, decision_id: UUID) -> bool:
    values = ground.log()[decision_id]["values"]
    return bool(values == ({"error": 1.0} if arrival is send_outcome else {"good": 1.0}))


@pytest.mark.parametrize("arrival", ARRIVALS)
def test_a_join_leaves_alone_what_something_is_just_arriving_for(ground: Ground, arrival: Arrival):
    decision_id = new_id()
    ground.decide(decision_id, episode_id=EPISODE)
    with ground.engine.connect() as connection:
        arrival(connection, ground, decision_id)
        assert ground.settle(later(100)) == 0
        connection.commit()
    assert ground.settle(later(100)) == 1
    assert joined_with(arrival, ground, decision_id)


@pytest.mark.parametrize("arrival", ARRIVALS)
def test_what_arrives_during_a_join_waits_for_it_and_is_joined_next(
    ground: Ground, arrival: Arrival
):
    decision_id = new_id()
    ground.decide(decision_id, episode_id=EPISODE)
    with ground.engine.connect() as joining:
        assert join.settle(joining, ground.policy_id, now=later(100)) == 1

        def arrive() -> None:
            with ground.engine.begin() as connection:
                arrival(connection, ground, decision_id)

        with in_thread(arrive) as arriving:
            wait_for_a_lock(ground)
            assert not arriving.done()
            joining.commit()
            arriving.result()
    assert ground.settle(later(100)) == 1
    assert joined_with(arrival, ground, decision_id)


@pytest.mark.parametrize("arrival", ARRIVALS)
def test_a_decision_waits_for_what_is_just_arriving_for_it(ground: Ground, arrival: Arrival):
    decision_id = new_id()
    with ground.engine.connect() as connection:
        arrival(connection, ground, decision_id)
        with in_thread(lambda: ground.decide(decision_id, episode_id=EPISODE)) as deciding:
            wait_for_a_lock(ground)
            assert ground.settle(later(100)) == 0
            connection.commit()
            assert deciding.result().accepted == 1
    assert ground.settle(later(100)) == 1
    assert joined_with(arrival, ground, decision_id)


@pytest.mark.parametrize("arrival", ARRIVALS)
def test_what_arrives_waits_for_a_decision_that_is_just_arriving(ground: Ground, arrival: Arrival):
    decision_id = new_id()

    def arrive() -> None:
        with ground.engine.begin() as connection:
            arrival(connection, ground, decision_id)

    with ground.engine.connect() as connection:
        decide(connection, ground, decision_id)
        with in_thread(arrive) as arriving:
            wait_for_a_lock(ground)
            connection.commit()
            arriving.result()
    assert ground.settle(later(100)) == 1
    assert joined_with(arrival, ground, decision_id)


@pytest.mark.parametrize("arrival", [say, send_outcome])
def test_what_waited_for_a_decision_and_its_join_both_is_joined_next(
    ground: Ground, arrival: Arrival
):
    decision_id = new_id()

    def arrive() -> None:
        with ground.engine.begin() as connection:
            arrival(connection, ground, decision_id)

    with ground.engine.connect() as connection:
        decide(connection, ground, decision_id)
        join.settle(connection, ground.policy_id, now=later(100))
        with in_thread(arrive) as arriving:
            wait_for_a_lock(ground)
            connection.commit()
            arriving.result()
    assert ground.count("pending_joins") == 1
    assert ground.settle(later(100)) == 1
    assert joined_with(arrival, ground, decision_id)


def test_joins_at_once_neither_join_twice_nor_lose_one(ground: Ground):
    ids = [new_id() for _ in range(300)]
    ground.decide(*ids)
    start = threading.Barrier(3)

    def settle(_: int) -> int:
        start.wait()
        return sum(iter(lambda: ground.settle(later(100), limit=20), 0))

    with ThreadPoolExecutor(3) as threads:
        assert sum(threads.map(settle, range(3))) == 300
    assert set(ground.log()) == set(ids)
    assert [row["position"] for row in ground.log().values()] == list(range(1, 301))
    assert {row["revision"] for row in ground.log().values()} == {1}


def test_a_reader_never_sees_a_later_position_before_an_earlier_one(ground: Ground):
    ground.put_reward(DEFAULTED)
    ground.decide(*[new_id() for _ in range(200)])
    settled = threading.Event()

    def settle(_: int) -> None:
        while ground.settle(later(100), limit=7):
            pass

    def follow() -> list[int]:
        seen: list[int] = []
        last = False
        while not last:
            last = settled.is_set()
            end = ground.policy().log_position
            with ground.engine.connect() as connection:
                rows = interactions.read(
                    connection, ground.policy_id, after=len(seen), upto=end, limit=1_000
                )
            seen += [row.position for row in rows]
        return seen

    with ThreadPoolExecutor(4) as threads:
        follower = threads.submit(follow)
        list(threads.map(settle, range(3)))
        settled.set()
        assert follower.result() == list(range(1, 201))


def test_a_reward_that_is_replaced_during_a_join_reaches_what_that_joined(ground: Ground):
    decision_id = new_id()
    ground.decide(decision_id)
    with ground.engine.connect() as joining:
        join.settle(joining, ground.policy_id, now=later(100))
        with in_thread(lambda: ground.put_reward(DEFAULTED, later(100))) as replacing:
            wait_for_a_lock(ground)
            joining.commit()
            assert replacing.result() == 2
    assert ground.settle(later(100)) == 1
    assert ground.log()[decision_id]["reward_version"] == 2


def test_a_join_during_the_replacement_of_a_reward_waits_for_the_new_one(ground: Ground):
    decision_id = new_id()
    ground.decide(decision_id)
    with ground.engine.connect() as replacing:
        policies.add_reward(replacing, ground.policy_id, DEFAULTED.as_json(), 60.0, later(100))
        with in_thread(lambda: ground.settle(later(100))) as joining:
            wait_for_a_lock(ground)
            replacing.commit()
            joining.result()
    ground.settle(later(100))
    assert ground.log()[decision_id]["reward_version"] == 2


def test_the_replacement_of_a_reward_and_what_arrives_do_not_wait_in_a_circle(ground: Ground):
    joined, waiting = sorted([new_id(), new_id()])
    ground.decide(joined)
    ground.settle(later(100))
    ground.decide(waiting)
    with ground.engine.connect() as connection:
        say(connection, ground, joined)
        with in_thread(lambda: ground.put_reward(DEFAULTED, later(100))) as replacing:
            wait_for_a_lock(ground)
            say(connection, ground, waiting)
            connection.commit()
            assert replacing.result() == 2
    assert ground.settle(later(200)) == 2
    assert set(ground.rewards().values()) == {1.0}


def storm(ground: Ground, seed: int) -> None:
    """Decisions, outcomes, feedback and joins from six threads; then nothing may be missing."""
    chance = random.Random(seed)
    ids = [new_id() for _ in range(120)]
    episodes = {decision_id: f"run-{i % 10}" for i, decision_id in enumerate(ids)}
    spoken_of = {f"run-{i}" for i in range(0, 10, 2)}
    jobs: list[Callable[[], object]] = []
    for start in range(0, len(ids), 6):
        lines = [decision_line(i, episode_id=episodes[i]) for i in ids[start : start + 6]]
        jobs += [lambda lines=lines: ground.send_decisions(lines)] * 2  # type: ignore[misc]
    for number, decision_id in enumerate(ids):
        jobs += [
            lambda i=decision_id: ground.outcome(i),  # type: ignore[misc]
            lambda i=decision_id, n=number: ground.say(i, n % 3 == 0, source="judge"),  # type: ignore[misc]
        ]
    jobs += [lambda e=e: ground.say(e, True, source="user") for e in sorted(spoken_of)]  # type: ignore[misc]
    jobs += [lambda: ground.settle(later(100), limit=15)] * 60
    chance.shuffle(jobs)
    with ThreadPoolExecutor(6) as threads:
        for done in [threads.submit(job) for job in jobs]:
            done.result()
    while ground.settle(later(100)):
        pass
    log = ground.log()
    assert set(log) == set(ids)
    assert [row["position"] for row in log.values()] == list(range(1, len(ids) + 1))
    for number, decision_id in enumerate(ids):
        said = [1.0] if episodes[decision_id] in spoken_of else []
        said.append(float(number % 3 == 0))
        expected = {"latency_s": 0.5, "cost_usd": 0.001, "good": sum(said) / len(said)}
        assert log[decision_id]["values"] == expected, f"decision {number}"
    assert ground.count("pending_joins") == 0


@pytest.mark.parametrize("seed", range(3))
def test_in_a_storm_of_arrivals_and_joins_nothing_is_lost(ground: Ground, seed: int):
    storm(ground, seed)


@pytest.mark.external
def test_a_storm_loses_nothing_on_another_server_either(external_database_url: str):
    engine = connect(external_database_url, pool_size=10)
    storm(lay(engine), seed=1)
    engine.dispose()
