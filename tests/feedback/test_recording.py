"""A batch of feedback: answered and stored as if its items had come one by one."""

import random
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from feedback import ingest
from feedback.errors import FeedbackError, InvalidEventError, KeyReusedError
from feedback.lines import MAX_LINES
from feedback.said import Receipt, Said
from learners.rewards import RewardFunction, Term
from tests.ground import T0, Ground, decision_line, later, lay, new_id

WAITING, JOINED, UNKNOWN = (str(new_id()) for _ in range(3))
SUBJECTS: Sequence[tuple[Any, str]] = (
    ("decision_id", WAITING),
    ("decision_id", JOINED),
    ("decision_id", UNKNOWN),
    ("decision_id", "no id"),
    ("episode_id", "run-1"),
    ("episode_id", "run-404"),
    ("response_id", "resp-1"),
    ("response_id", "resp-404"),
)
VALUES = (
    ("good", True),
    ("good", False),
    ("good", 1),
    ("score", 1),
    ("score", 1.0),
    ("score", 0.0),
    ("score", 7),
    ("note", "fine"),
    ("solved", True),
    ("absent", True),
)
TIMES = (None, None, later(-5), later(-3), later(1_000), later(99_999))


def record(
    ground: Ground, said: Sequence[Said], source: str = "user", now: datetime = T0
) -> list[Receipt | FeedbackError]:
    with ground.engine.begin() as connection:
        return ingest.record_feedback_batch(
            connection, ground.project_id, said, source=source, now=now
        )


def of(decision_id: UUID | str, **fields: Any) -> Said:
    given: dict[str, Any] = {"metric": "good", "value": True} | fields
    return Said("decision_id", str(decision_id), **given)


def receipts(answers: Sequence[Receipt | FeedbackError]) -> list[Receipt]:
    found = [answer for answer in answers if isinstance(answer, Receipt)]
    assert len(found) == len(answers), answers
    return found


# As one by one


@dataclass(frozen=True)
class Step:
    """What one source says at a time; before that, the feedback of an earlier item is retracted."""

    source: str
    said: list[Said]
    retracted: int | None


@dataclass
class World:
    """A project with what was answered so far."""

    ground: Ground
    answers: list[Receipt | FeedbackError] = field(default_factory=list)

    def place(self, feedback_id: UUID) -> int:
        """The first item that was answered with this id."""
        return next(
            n
            for n, one in enumerate(self.answers)
            if isinstance(one, Receipt) and one.feedback_id == feedback_id
        )

    def retract(self, place: int, now: datetime) -> None:
        if place < len(self.answers):
            answer = self.answers[place]
            if isinstance(answer, Receipt):
                self.ground.retract(answer.feedback_id, now)

    def told(self) -> list[tuple[Any, ...]]:
        return [
            (one.status, self.place(one.feedback_id))
            if isinstance(one, Receipt)
            else (type(one), getattr(one, "field", None))
            for one in self.answers
        ]

    def read(self, query: str) -> list[Any]:
        with self.ground.engine.connect() as connection:
            return list(connection.execute(sa.text(query), {"p": self.ground.project_id}))

    def stored(self) -> dict[str, Any]:
        rows = self.read("SELECT * FROM feedback WHERE project_id = :p")
        keys = self.read("SELECT * FROM idempotency_keys WHERE project_id = :p")
        waiting = self.read("SELECT * FROM pending_joins WHERE project_id = :p")
        self.ground.settle(later(5_000))
        return {
            "feedback": {
                self.place(row.feedback_id): (
                    row.decision_id,
                    row.episode_id,
                    row.metric,
                    row.value,
                    row.number,
                    row.source,
                    row.occurred_at if row.occurred_at in TIMES else None,
                    row.tags,
                    row.retracted_at is None,
                )
                for row in rows
            },
            "keys": {
                row.key: (
                    bytes(row.body_hash),
                    row.response["status"],
                    self.place(UUID(row.response["feedback_id"])),
                )
                for row in keys
            },
            "queue": {(row.decision_id, row.policy_id is None) for row in waiting},
            "log": {i: (row["values"], row["reward"]) for i, row in self.ground.log().items()},
        }


def world(engine: sa.Engine) -> World:
    ground = lay(engine)
    ground.decide(UUID(JOINED), episode_id="run-1")
    ground.outcome(UUID(JOINED), response_id="resp-1")
    ground.settle(later(100))
    ground.decide(UUID(WAITING), episode_id="run-1")
    return World(ground)


def items() -> st.SearchStrategy[Said]:
    def build(subject: tuple[Any, str], value: tuple[str, Any], **fields: Any) -> Said:
        return Said(*subject, *value, **fields)

    return st.builds(
        build,
        st.sampled_from(SUBJECTS),
        st.sampled_from(VALUES),
        occurred_at=st.sampled_from(TIMES),
        tags=st.sampled_from(({}, {}, {"page": 1})),
        key=st.sampled_from((None, None, "k", "l", "\x00")),
    )


STEPS = st.lists(
    st.builds(
        Step,
        st.sampled_from(("user", "user", "judge")),
        st.lists(items(), min_size=1, max_size=12),
        st.none() | st.integers(0, 20),
    ),
    min_size=1,
    max_size=3,
)


def test_a_batch_is_taken_as_if_its_items_had_come_one_by_one(log_engine: sa.Engine):
    @settings(max_examples=60, deadline=None)
    @given(STEPS)
    def taken(steps: list[Step]):
        batches, singles = world(log_engine), world(log_engine)
        for number, step in enumerate(steps):
            now = later(10 * number)
            if step.retracted is not None:
                batches.retract(step.retracted, now)
                singles.retract(step.retracted, now)
            batches.answers += record(batches.ground, step.said, step.source, now)
            for n, one in enumerate(step.said):
                moment = now + timedelta(milliseconds=n)
                singles.answers += record(singles.ground, [one], step.source, moment)
        assert batches.told() == singles.told()
        assert batches.stored() == singles.stored()

    taken()


# Within one batch


def test_of_what_is_said_twice_in_a_batch_the_last_counts(ground: Ground):
    decision_id = new_id()
    ground.decide(decision_id)
    values = [True, False] * 20
    told = receipts(record(ground, [of(decision_id, value=value) for value in values]))
    assert {one.status for one in told} == {"accepted"}
    ground.settle(later(100))
    assert ground.rewards() == {decision_id: 0.0}


def test_what_is_repeated_in_a_batch_is_a_duplicate_of_the_first(ground: Ground):
    decision_id = new_id()
    first, second, third = receipts(record(ground, [of(decision_id)] * 3))
    assert [one.status for one in (first, second, third)] == ["pending_join", *["duplicate"] * 2]
    assert {first.feedback_id} == {second.feedback_id, third.feedback_id}
    assert ground.count("feedback") == 1


def test_a_key_that_stands_twice_in_a_batch_acts_once(ground: Ground):
    decision_id = new_id()
    one = of(decision_id, key="k")
    first, again, other = record(ground, [one, one, replace(one, value=False)])
    assert isinstance(first, Receipt)
    assert again == Receipt(first.feedback_id, "duplicate")
    assert isinstance(other, KeyReusedError)
    assert ground.count("feedback") == ground.count("idempotency_keys") == 1


def test_an_item_that_fails_leaves_its_key_to_the_next_one(ground: Ground):
    decision_id = new_id()
    bad, good = record(ground, [of(decision_id, value=7, key="k"), of(decision_id, key="k")])
    assert isinstance(bad, InvalidEventError)
    assert isinstance(good, Receipt)
    [again] = receipts(record(ground, [of(decision_id, key="k")]))
    assert again == Receipt(good.feedback_id, "duplicate")


def test_a_batch_without_a_good_item_stores_nothing(ground: Ground):
    answers = record(ground, [of("no id", key="k"), of(new_id(), metric="absent", key="l")])
    assert [getattr(one, "field", None) for one in answers] == ["decision_id", "metric"]
    assert ground.count("feedback") == ground.count("idempotency_keys") == 0
    assert record(ground, []) == []


def test_numbers_past_64_bits_and_odd_texts_spoil_no_batch(ground: Ground):
    ids = [new_id() for _ in range(3)]
    text = 'häuser\t\n"\\N" ☃ {}\x01'
    said = [
        of(ids[0], metric="note", value=text, tags={text: text, "n": 10**300}),
        of(ids[1], metric="note", value="😀" * 5_000),
        of(ids[2], tags={"x": 1e-300, "none": None, "yes": True}),
    ]
    receipts(record(ground, said))
    query = sa.text("SELECT decision_id, value, tags FROM feedback WHERE project_id = :p")
    with ground.engine.connect() as connection:
        rows = connection.execute(query, {"p": ground.project_id}).all()
    found = {row.decision_id: (row.value, row.tags) for row in rows}
    assert found == {i: (one.value, one.tags) for i, one in zip(ids, said, strict=True)}


def test_too_many_items_are_refused_at_once(ground: Ground):
    with pytest.raises(InvalidEventError, match=f"give at most {MAX_LINES}"):
        record(ground, [of(new_id())] * (MAX_LINES + 1))


# At once


def batches_at_once(ground: Ground, seed: int) -> None:
    """Four sources, heard three times each; joins, decisions and outcomes among them."""
    ground.put_reward(RewardFunction((Term("good"), Term("score"))))
    chance = random.Random(seed)
    ids = [new_id() for _ in range(80)]
    episodes = {i: f"run-{n % 8}" for n, i in enumerate(ids)}
    sources = ("app", "judge", "survey", "user")
    of_decisions = [of(i, value=n % 2 == 0, key=f"k{n}") for n, i in enumerate(ids)]
    of_episodes = [Said("episode_id", f"run-{n}", "score", 0.5, key=f"e{n}") for n in range(8)]
    jobs: list[Callable[[], object]] = [
        partial(record, ground, chance.sample(said, len(said)), source)
        for source in sources
        for said in (of_decisions, of_decisions, of_decisions + of_episodes)
    ]
    for start in range(0, len(ids), 20):
        part = chance.sample(ids[start : start + 20], 20)
        lines = [decision_line(i, episode_id=episodes[i]) for i in part]
        jobs.append(partial(ground.send_decisions, lines))
        jobs += [partial(ground.outcome, i) for i in part]
    jobs += [lambda: ground.settle(later(100), limit=15)] * 12
    chance.shuffle(jobs)
    with ThreadPoolExecutor(8) as threads:
        for done in [threads.submit(job) for job in jobs]:
            done.result()
    while ground.settle(later(100)):
        pass
    assert ground.count("feedback") == ground.count("idempotency_keys") == 4 * (80 + 8)
    expected = {"latency_s": 0.5, "cost_usd": 0.001, "score": 0.5}
    assert {i: row["values"] for i, row in ground.log().items()} == {
        i: expected | {"good": float(n % 2 == 0)} for n, i in enumerate(ids)
    }


@pytest.mark.parametrize("seed", range(3))
def test_batches_about_the_same_in_other_orders_neither_wait_in_a_circle_nor_lose(
    ground: Ground, seed: int
):
    batches_at_once(ground, seed)
