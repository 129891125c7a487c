from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from storage import events
from storage.copying import line, stage
from storage.events import GRACE_S
from tests.ground import T0, WAIT_S, Ground, later, lay, new_id


def queue(ground: Ground) -> dict[UUID, tuple[UUID | None, datetime]]:
    query = sa.text("SELECT * FROM pending_joins WHERE project_id = :p")
    with ground.engine.connect() as connection:
        rows = connection.execute(query, {"p": ground.project_id})
        return {row.decision_id: (row.policy_id, row.due_at) for row in rows}


def test_a_decision_is_queued_for_the_end_of_its_wait(ground: Ground):
    in_time, late = new_id(), new_id()
    ground.decide(in_time)
    ground.decide(late, now=later(WAIT_S * 2))
    assert queue(ground) == {
        in_time: (ground.policy_id, later(WAIT_S)),
        late: (ground.policy_id, later(WAIT_S * 2 + GRACE_S)),
    }


def test_a_second_copy_of_a_joined_decision_does_not_queue_it_again(ground: Ground):
    decision_id = new_id()
    ground.decide(decision_id)
    ground.settle(later(100))
    assert ground.decide(decision_id).duplicates == 1
    assert queue(ground) == {}


def test_what_arrives_late_queues_its_decision_at_once(ground: Ground):
    decision_id = new_id()
    ground.decide(decision_id)
    ground.settle(later(100))
    ground.outcome(decision_id, now=later(101))
    assert queue(ground) == {decision_id: (ground.policy_id, later(101))}


def test_what_is_spoken_of_before_it_comes_is_queued_without_a_policy(ground: Ground):
    decision_id = new_id()
    ground.say(decision_id, True, now=later(1))
    assert queue(ground) == {decision_id: (None, later(1))}
    ground.decide(decision_id)
    assert queue(ground) == {decision_id: (ground.policy_id, later(WAIT_S))}


def test_strays_are_forgotten_and_their_feedback_still_counts(ground: Ground):
    stray, waiting = new_id(), new_id()
    ground.say(stray, True)
    ground.say(waiting, True, now=later(10))
    ground.decide(new_id())
    with ground.engine.begin() as connection:
        events.forget_strays(connection, later(5))
    assert stray not in queue(ground)
    assert {waiting} <= set(queue(ground))
    assert len(queue(ground)) == 2
    ground.decide(stray)
    ground.settle(later(100))
    assert ground.rewards()[stray] == 1.0


def test_known_decisions_are_those_of_the_project_with_whether_they_are_joined(ground: Ground):
    joined, waiting, foreign = new_id(), new_id(), new_id()
    ground.decide(joined)
    ground.settle(later(100))
    ground.decide(waiting)
    lay(ground.engine).decide(foreign)
    with ground.engine.connect() as connection:
        ids = [joined, waiting, foreign, new_id()]
        found = events.known_decisions(connection, ground.project_id, ids, later(100))
    assert found == {joined: True, waiting: False}


def test_a_response_names_its_newest_decision(ground: Ground):
    older, newer = new_id(), new_id(later(1))
    ground.outcome(newer, response_id="resp-1", now=later(1))
    ground.outcome(older, response_id="resp-1", now=later(1))
    with ground.engine.connect() as connection:
        asked = {"resp-1", "resp-2"}
        found = events.decisions_of_responses(connection, ground.project_id, asked)
    assert found == {"resp-1": newer}


def test_keys_are_claimed_once_and_give_what_was_settled(ground: Ground):
    project = ground.project_id
    with ground.engine.begin() as connection:
        assert events.claim_keys(connection, project, ["k", "l", "k"], T0) == {}
        events.settle_keys(connection, project, {"k": (b"one", {"id": 1}), "l": (b"two", {})})
        used = {"k": (b"one", {"id": 1}), "l": (b"two", {})}
        assert events.claim_keys(connection, project, ["m", "l", "k"], T0) == used
        events.release_keys(connection, project, ["k", "m"])
        assert events.claim_keys(connection, project, ["k", "l", "m"], T0) == {"l": (b"two", {})}


def test_only_old_keys_are_forgotten(ground: Ground):
    with ground.engine.begin() as connection:
        for second in (1, 2, 3):
            events.claim_keys(connection, ground.project_id, [str(second)], later(second))
        events.forget_keys(connection, later(2))
    assert ground.count("idempotency_keys") == 2


def test_many_episodes_in_one_batch_need_few_locks(ground: Ground):
    lines = [new_id() for _ in range(500)]
    with ground.engine.begin() as connection:
        rows: list[tuple[Any, ...]] = [
            (
                i, ground.project_id, ground.policy_id, 1, 1, "d", T0, {}, ["a"], [1.0], "a", 1.0,
                "policy", None, None, f"run-{i}", None, T0, None, None, None, None,
            )
            for i in lines
        ]  # fmt: skip
        assert events.add_decisions(connection, ground.project_id, rows) == 500
        held = connection.scalar(
            sa.text(
                "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' "
                "AND pid = pg_backend_pid()"
            )
        )
    assert 0 < held <= 64


# COPY


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00")))
def test_no_text_breaks_out_of_its_field(text: str):
    copied = line((text, [text, text], {"k": text}, 1))
    assert copied.count("\t") == 3
    assert copied.count("\n") == 1
    assert copied.endswith("\t1\n")


def test_every_kind_of_value_arrives_as_it_was(ground: Ground):
    one, at = new_id(), datetime(2026, 3, 1, 14, 30, 0, 123456, timezone(timedelta(hours=2)))
    odd = 'a\\N "quoted", {braced}\t\r\n\\. ü ☃ \x01'
    row = (one, one, at, {"odd": odd, "n": [1, 0.1, True, None]}, None, T0)
    columns = events.OUTCOME_COLUMNS
    with ground.engine.begin() as connection:
        stage(connection, "outcomes", columns, [(one, one, at, {}, odd, T0)])
        stage(connection, "outcomes", columns, [row])  # replaces what was staged before
        found = connection.execute(sa.text("SELECT * FROM stage_outcomes")).all()
    assert [tuple(r) for r in found] == [(*row[:2], at.astimezone(UTC), *row[3:])]


def test_a_value_without_a_form_is_refused_by_name():
    with pytest.raises(TypeError, match="bytes b'x' has no form in COPY"):
        line((b"x",))
