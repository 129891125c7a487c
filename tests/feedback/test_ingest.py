import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from feedback import ingest
from feedback.errors import InvalidEventError, KeyReusedError, UnknownFeedbackError
from feedback.ingest import Rejected
from feedback.lines import MAX_LINES, MAX_TEXT
from feedback.said import Said
from learners.rewards import RewardFunction, Term
from storage.engine import connect
from tests.ground import T0, Ground, decision_line, later, lay, new_id

# Decisions and outcomes


def test_a_batch_is_stored_once_however_often_it_comes(ground: Ground):
    lines = [decision_line(new_id()) for _ in range(5)]
    first, again = ground.send_decisions(lines), ground.send_decisions(lines)
    assert (first.accepted, first.duplicates) == (5, 0)
    assert (again.accepted, again.duplicates) == (0, 5)
    assert ground.count("decisions") == 5


def test_a_line_that_stands_twice_in_a_batch_is_stored_once(ground: Ground):
    line = decision_line(new_id())
    batch = ground.send_decisions([line, line])
    assert (batch.accepted, batch.duplicates) == (1, 1)


def test_a_bad_line_is_reported_by_its_number_and_spoils_nothing(ground: Ground):
    lines = [decision_line(new_id()), b"{", decision_line(new_id(), policy="absent")]
    batch = ground.send_decisions([*lines, decision_line(new_id())])
    assert batch.accepted == 2
    assert [(r.line, r.field) for r in batch.rejected] == [(2, ""), (3, "policy")]
    assert "policy 'absent' does not exist: create it first" in batch.rejected[1].detail
    assert isinstance(batch.rejected[0], Rejected)


@pytest.mark.parametrize("bad", [b"\xff", b"[" * 9_999, b'{"at": "9999-12-31T23:59:59-05:00"}'])
def test_no_line_can_take_the_batch_down_with_it(ground: Ground, bad: bytes):
    batch = ground.send_decisions([bad, decision_line(new_id())])
    assert (batch.accepted, len(batch.rejected)) == (1, 1)


def test_too_many_lines_are_refused_at_once(ground: Ground):
    with pytest.raises(InvalidEventError, match=f"give at most {MAX_LINES}"):
        ground.send_decisions([b"{}"] * (MAX_LINES + 1))


def test_an_empty_batch_is_no_mistake(ground: Ground):
    assert ground.send_decisions([]) == ingest.Batch(0, 0, ())


ODD = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=20
)


def test_every_text_comes_back_from_the_table_as_it_was_sent(ground: Ground):
    @given(ODD, ODD, st.lists(ODD, min_size=1, max_size=3, unique=True))
    def sent(name: str, text: str, arms: list[str]):
        decision_id = new_id()
        fields: dict[str, Any] = {
            "context": {name: text, f"{name}s": [1.5, -2.0, 1e-300]},
            "eligible": arms,
            "distribution": [1.0] + [0.0] * (len(arms) - 1),
            "action": arms[0],
            "propensity": 1.0,
            "session_id": text,
            "retry_of": str(decision_id),
        }
        assert ground.decide(decision_id, **fields).accepted == 1
        with ground.engine.connect() as connection:
            query = sa.text("SELECT * FROM decisions WHERE decision_id = :i")
            row = connection.execute(query, {"i": decision_id}).mappings().one()
        read = {k: str(row[k]) if k == "retry_of" else row[k] for k in fields}
        assert read == fields
        assert (row["at"], row["received_at"], row["edge_id"]) == (T0, T0, "edge-1")

    sent()


def test_the_first_outcome_of_a_decision_counts(ground: Ground):
    decision_id = new_id()
    ground.decide(decision_id)
    assert ground.outcome(decision_id, values={"latency_s": 1.0}).accepted == 1
    assert ground.outcome(decision_id, values={"latency_s": 9.0}).duplicates == 1
    ground.settle(later(100))
    assert ground.log()[decision_id]["values"] == {"latency_s": 1.0}


# Feedback


def test_feedback_says_how_it_stands_to_its_decision(ground: Ground):
    decision_id = new_id()
    assert ground.say(decision_id, True).status == "pending_join"
    ground.decide(decision_id)
    assert ground.say(decision_id, False, now=later(1)).status == "accepted"
    ground.settle(later(100))
    assert ground.say(decision_id, True, now=later(101)).status == "late"


def test_the_same_word_of_the_same_source_is_a_duplicate(ground: Ground):
    decision_id = new_id()
    first = ground.say(decision_id, True)
    again = ground.say(decision_id, True, now=later(1))
    assert (again.status, again.feedback_id) == ("duplicate", first.feedback_id)
    assert ground.count("feedback") == 1


def test_another_source_another_value_and_another_metric_are_no_duplicates(ground: Ground):
    decision_id = new_id()
    ground.say(decision_id, True)
    ground.say(decision_id, True, source="judge")
    ground.say(decision_id, 1.0, metric="score")
    ground.say(decision_id, False, now=later(1))
    assert ground.count("feedback") == 4


def test_what_comes_again_with_the_same_time_is_a_duplicate_even_once_retracted(ground: Ground):
    decision_id = new_id()
    first = ground.say(decision_id, True, occurred_at=T0)
    ground.say(decision_id, False, now=later(1), occurred_at=later(1))
    assert ground.say(decision_id, True, now=later(2), occurred_at=T0).status == "duplicate"
    ground.retract(first.feedback_id)
    assert ground.say(decision_id, True, now=later(3), occurred_at=T0).status == "duplicate"


def test_feedback_on_a_response_finds_its_decision(ground: Ground):
    decision_id = new_id()
    ground.decide(decision_id)
    ground.outcome(decision_id, response_id="resp-1")
    ground.say(decision_id, True, about="response_id", identifier="resp-1")
    ground.settle(later(100))
    assert ground.rewards() == {decision_id: 1.0}


def test_feedback_on_an_unknown_response_says_what_to_do(ground: Ground):
    with pytest.raises(InvalidEventError, match="x-route-decision-id as decision_id") as refused:
        ground.say(new_id(), True, about="response_id", identifier="resp-404")
    assert refused.value.field == "response_id"


@pytest.mark.parametrize(
    ("fields", "field", "message"),
    [
        ({"metric": "absent"}, "metric", "declare it by PUT /v1/metrics/absent"),
        ({"value": 1}, "value", "give true or false"),
        ({"value": None}, "value", "value is None"),
        ({"value": float("nan")}, "value", "value is nan"),
        ({"value": 10**400}, "value", "value is 1000"),
        ({"value": ["x"]}, "value", "value is ['x']"),
        ({"value": 1.5, "metric": "score"}, "value", "from 0 to 1"),
        ({"value": "a\x00b", "metric": "note"}, "value", "without NUL"),
        ({"value": "\ud800", "metric": "note"}, "value", "characters of Unicode"),
        ({"metric": "solved"}, "decision_id", "give episode_id"),
        ({"identifier": "x"}, "decision_id", "give a UUIDv7"),
        ({"identifier": ""}, "decision_id", "decision_id is empty"),
        ({"identifier": str(new_id(later(9_999)))}, "decision_id", "set the sender's clock"),
        ({"about": "episode_id", "identifier": "\ud800"}, "episode_id", "characters of Unicode"),
        ({"about": "episode_id", "identifier": "x" * 257}, "episode_id", "give at most 256"),
        ({"occurred_at": T0.replace(tzinfo=None)}, "occurred_at", "has no zone"),
        ({"occurred_at": later(9_999)}, "occurred_at", "set the sender's clock"),
        ({"tags": {"a": [1]}}, "tags", "tags.a is [1]"),
        ({"tags": {"a": "\x00"}}, "tags", "without NUL"),
        ({"tags": {"a": float("inf")}}, "tags", "tags.a is inf"),
        ({"tags": {str(i): 1 for i in range(33)}}, "tags", "33 tags: give at most 32"),
    ],
)
@pytest.mark.parametrize("key", [None, "key-1"])
def test_feedback_that_cannot_be_taken_names_field_value_and_remedy(
    ground: Ground, fields: dict[str, Any], field: str, message: str, key: Any
):
    with pytest.raises(InvalidEventError) as refused:
        ground.say(new_id(), **({"value": True, "key": key} | fields))
    assert refused.value.field == field
    assert message in str(refused.value)
    assert (ground.count("feedback"), ground.count("idempotency_keys")) == (0, 0)


def test_tags_are_kept_as_they_were_sent(ground: Ground):
    tags = {"page": "häuser\n", "rank": 3, "first": True, "why": None}
    ground.say(new_id(), True, tags=tags)
    with ground.engine.connect() as connection:
        query = sa.text("SELECT tags FROM feedback WHERE project_id = :p")
        assert connection.execute(query, {"p": ground.project_id}).scalar_one() == tags


# Keys


def test_the_same_key_with_the_same_body_gives_the_first_id(ground: Ground):
    decision_id = new_id()
    first = ground.say(decision_id, True, key="k")
    ground.say(decision_id, False, now=later(1), key="k2")
    again = ground.say(decision_id, True, now=later(2), key="k")
    assert (again.status, again.feedback_id) == ("duplicate", first.feedback_id)
    assert ground.count("feedback") == 2


@pytest.mark.parametrize("other", [{"value": False}, {"tags": {"a": 1}}, {"occurred_at": T0}])
def test_the_same_key_with_another_body_is_refused(ground: Ground, other: dict[str, Any]):
    decision_id = new_id()
    ground.say(decision_id, True, key="k")
    body: dict[str, Any] = {"value": True} | other
    with pytest.raises(KeyReusedError, match="'k' was used with another body"):
        ground.say(decision_id, key="k", **body)
    assert ground.count("feedback") == 1


def test_a_key_belongs_to_its_source_and_project(ground: Ground):
    other = lay(ground.engine)
    ground.say(new_id(), True, key="k")
    ground.say(new_id(), False, key="k", source="judge")
    other.say(new_id(), False, key="k")
    assert (ground.count("feedback"), other.count("feedback")) == (2, 1)


def test_a_key_that_nothing_came_of_may_be_used_again_in_the_same_transaction(ground: Ground):
    bad = Said("response_id", "resp-1", "good", value=True, key="k")
    decision_id = new_id()
    with ground.engine.begin() as connection, pytest.raises(InvalidEventError):
        ingest.record_feedback(connection, ground.project_id, bad, source="user", now=T0)
    ground.decide(decision_id)
    ground.outcome(decision_id, response_id="resp-1")
    assert (
        ground.say(decision_id, True, about="response_id", identifier="resp-1", key="k").status
        == "accepted"
    )


@pytest.mark.parametrize("key", ["x" * (MAX_TEXT + 1), "a\x00b", "\udc80"])
def test_a_key_that_no_index_holds_is_refused(ground: Ground, key: str):
    with pytest.raises(InvalidEventError) as refused:
        ground.say(new_id(), True, key=key)
    assert refused.value.field == "Idempotency-Key"


def test_requests_at_once_with_one_key_store_one_row(ground: Ground):
    decision_id, start = new_id(), threading.Barrier(6)

    def send(_: int) -> UUID:
        start.wait()
        return ground.say(decision_id, True, key="k").feedback_id

    with ThreadPoolExecutor(6) as threads:
        ids = set(threads.map(send, range(6)))
    assert len(ids) == 1
    assert ground.count("feedback") == 1


# Retraction


def test_retracted_feedback_counts_no_longer(ground: Ground):
    decision_id = new_id()
    ground.decide(decision_id)
    said = ground.say(decision_id, True)
    ground.retract(said.feedback_id)
    ground.settle(later(100))
    assert ground.rewards() == {decision_id: None}


def test_retraction_takes_back_what_was_amended_too(ground: Ground):
    decision_id = new_id()
    ground.decide(decision_id)
    ground.say(decision_id, True)
    amended = ground.say(decision_id, False, now=later(1))
    ground.say(decision_id, True, now=later(2), source="judge")
    ground.retract(amended.feedback_id, later(3))
    ground.settle(later(100))
    assert ground.rewards() == {decision_id: 1.0}, "the judge's word stands alone"


def test_retracting_what_was_amended_leaves_the_amendment(ground: Ground):
    decision_id = new_id()
    ground.decide(decision_id)
    first = ground.say(decision_id, True)
    ground.say(decision_id, False, now=later(1))
    ground.retract(first.feedback_id, later(2))
    ground.settle(later(100))
    assert ground.rewards() == {decision_id: 0.0}


def test_feedback_may_be_retracted_twice_and_given_again(ground: Ground):
    decision_id = new_id()
    ground.decide(decision_id)
    said = ground.say(decision_id, True)
    ground.retract(said.feedback_id)
    ground.retract(said.feedback_id)
    assert ground.say(decision_id, True, now=later(1)).status == "accepted"
    ground.settle(later(100))
    assert ground.rewards() == {decision_id: 1.0}


def test_retracting_what_does_not_exist_says_so(ground: Ground):
    with pytest.raises(UnknownFeedbackError, match="does not exist in this project"):
        ground.retract(new_id())


# Tenants


def test_another_projects_feedback_changes_nothing(ground: Ground):
    stranger = lay(ground.engine)
    early, late = new_id(), new_id()
    stranger.say(early, True)
    ground.decide(early, late, episode_id="run-1")
    assert stranger.say(late, True).status == "pending_join", "it must not learn that it exists"
    stranger.say("run-1", True)
    ground.settle(later(100))
    before = ground.log()
    stranger.say(late, False, now=later(101))
    stranger.outcome(early, now=later(102))
    assert ground.settle(later(200)) == stranger.settle(later(200)) == 0
    assert ground.log() == before
    assert ground.rewards() == {early: None, late: None}
    assert stranger.log() == {}


def test_another_project_cannot_take_a_decisions_id_or_its_outcome(ground: Ground):
    stranger = lay(ground.engine)
    decision_id = new_id()
    stranger.decide(decision_id)
    stranger.outcome(decision_id, values={"latency_s": 99.0})
    assert ground.decide(decision_id).accepted == 1
    assert ground.outcome(decision_id, values={"latency_s": 1.0}).accepted == 1
    ground.say(decision_id, True)
    for one in (ground, stranger):
        assert one.settle(later(100)) == 1
    assert ground.log()[decision_id]["values"] == {"latency_s": 1.0, "good": 1.0}
    assert stranger.log()[decision_id]["values"] == {"latency_s": 99.0}


def test_another_projects_feedback_cannot_be_retracted(ground: Ground):
    stranger = lay(ground.engine)
    said = ground.say(new_id(), True)
    with pytest.raises(UnknownFeedbackError):
        stranger.retract(said.feedback_id)


def test_another_projects_response_is_not_found(ground: Ground):
    stranger = lay(ground.engine)
    decision_id = new_id()
    ground.decide(decision_id)
    ground.outcome(decision_id, response_id="resp-1")
    with pytest.raises(InvalidEventError, match="not known yet"):
        stranger.say(decision_id, True, about="response_id", identifier="resp-1")


def test_a_policy_of_another_project_is_not_known(ground: Ground):
    stranger = lay(ground.engine)
    with ground.engine.begin() as connection:
        connection.execute(
            sa.text("UPDATE policies SET name = 'theirs' WHERE id = :p"), {"p": stranger.policy_id}
        )
    assert ground.decide(new_id(), policy="theirs").rejected[0].field == "policy"


def test_a_whole_day_works_on_either_server(either_database_url: str):
    engine = connect(either_database_url)
    ground = lay(engine, reward=RewardFunction((Term("good"), Term("latency_s", weight=-0.1))))
    decision_id = new_id()
    ground.say(decision_id, True, key="k")
    ground.outcome(decision_id)
    ground.decide(decision_id)
    ground.say(decision_id, False, now=later(1), occurred_at=T0 - timedelta(seconds=1))
    assert ground.settle(later(100)) == 1
    assert ground.rewards() == {decision_id: 1.0 - 0.1 * 0.5}
    engine.dispose()
