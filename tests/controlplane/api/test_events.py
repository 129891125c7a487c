import gzip
import json
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa

from controlplane.api import uploads
from feedback.lines import MAX_LINES
from tests.controlplane.api.conftest import Api, decision, ndjson, new_id, outcome

DECISIONS, OUTCOMES = "/v1/decisions:batch", "/v1/outcomes:batch"


@pytest.fixture(autouse=True)
def declared(api: Api) -> None:
    api.declare()


def count(api: Api, table: str) -> int:
    with api.engine.connect() as connection:
        return connection.execute(
            sa.select(sa.func.count()).select_from(sa.table(table))
        ).scalar_one()


@pytest.mark.parametrize("scope", ["edge", "ingest", "admin"])
def test_decisions_and_outcomes_are_stored(api: Api, scope: str) -> None:
    lines = [decision() for _ in range(3)]
    answer = api.ok("POST", DECISIONS, content=ndjson(lines), scope=scope)
    assert answer == {"accepted": 3, "duplicates": 0, "rejected": []}
    told = [outcome(line["decision_id"]) for line in lines]
    assert api.ok("POST", OUTCOMES, content=ndjson(told), scope=scope)["accepted"] == 3
    assert (count(api, "decisions"), count(api, "outcomes")) == (3, 3)


def test_a_gzipped_batch_is_taken_like_a_plain_one(api: Api) -> None:
    body = gzip.compress(ndjson([decision() for _ in range(40)]))
    answer = api.ok("POST", DECISIONS, content=body, content_encoding="gzip")
    assert answer["accepted"] == 40


def test_gzip_members_in_a_row_are_one_body(api: Api) -> None:
    parts = [gzip.compress(ndjson([decision()])) for _ in range(3)]
    answer = api.ok("POST", DECISIONS, content=b"".join(parts), content_encoding="gzip")
    assert answer["accepted"] == 3


def test_what_is_sent_again_is_a_duplicate(api: Api) -> None:
    lines = [decision(), decision()]
    api.ok("POST", DECISIONS, content=ndjson(lines))
    again = ndjson([*lines, lines[0], decision()])
    answer = api.ok("POST", DECISIONS, content=again)
    assert answer == {"accepted": 1, "duplicates": 3, "rejected": []}


def test_bad_lines_are_named_and_the_others_are_stored(api: Api) -> None:
    lines = [
        json.dumps(decision()).encode(),
        b"not json",
        json.dumps(decision(propensity=0.3)).encode(),
        json.dumps(decision(policy="nowhere")).encode(),
        b"",
        b'{"decision_id": "\xff"}',
        json.dumps(decision(version=2**70)).encode(),
        json.dumps(decision(context={"chars": 10**400})).encode(),
        json.dumps(decision(session_id="\x00")).encode(),
        json.dumps(decision(session_id="\ud800")).encode(),
        json.dumps(decision()).encode(),
    ]
    answer = api.ok("POST", DECISIONS, content=b"\n".join(lines))
    assert answer["accepted"] == 2
    assert [line["line"] for line in answer["rejected"]] == [2, 3, 4, 5, 6, 7, 8, 9, 10]
    fields = {line["line"]: line["field"] for line in answer["rejected"]}
    assert (fields[3], fields[4]) == ("propensity", "policy")
    assert all(line["detail"] for line in answer["rejected"])


def test_an_empty_batch_is_nothing_to_do(api: Api) -> None:
    nothing = {"accepted": 0, "duplicates": 0, "rejected": []}
    assert api.ok("POST", DECISIONS, content=b"") == nothing


def test_too_many_lines_refuse_the_whole_batch(api: Api) -> None:
    body = gzip.compress(b"{}\n" * (MAX_LINES + 1))
    answer = api("POST", DECISIONS, content=body, content_encoding="gzip")
    assert answer.status_code == 413
    assert "5,001 lines" in answer.json()["detail"]
    assert count(api, "decisions") == 0


def test_as_many_lines_as_allowed_are_read(api: Api) -> None:
    answer = api.ok("POST", DECISIONS, content=b"{}\n" * MAX_LINES)
    assert len(answer["rejected"]) == MAX_LINES


def test_a_compressed_body_past_the_limit_is_413(api: Api) -> None:
    body = bytes(uploads.MAX_COMPRESSED + 1)
    answer = api("POST", DECISIONS, content=body, content_encoding="gzip")
    assert answer.status_code == 413
    assert answer.json()["remedy"] == "send it in smaller parts"


def test_a_gzip_bomb_is_refused_before_it_grows(api: Api) -> None:
    answer = api("POST", DECISIONS, content=bomb(2**30), content_encoding="gzip")
    assert answer.status_code == 413
    assert "inflates" in answer.json()["detail"]


def test_a_bomb_of_many_members_is_refused_too(api: Api) -> None:
    body = bomb(uploads.MAX_PLAIN // 2) * 3
    assert api("POST", DECISIONS, content=body, content_encoding="gzip").status_code == 413


def bomb(size: int) -> bytes:
    squeezer = zlib.compressobj(9, wbits=31)
    chunk = bytes(2**20)
    return b"".join(squeezer.compress(chunk) for _ in range(size // 2**20)) + squeezer.flush()


@pytest.mark.parametrize(
    ("content", "encoding", "status"),
    [
        (b"not gzip", "gzip", 400),
        (gzip.compress(b"{}" * 1000, mtime=0)[:-12], "gzip", 400),
        (b"{}", "br", 415),
    ],
)
def test_a_body_that_cannot_be_read_says_why(
    api: Api, content: bytes, encoding: str, status: int
) -> None:
    answer = api("POST", DECISIONS, content=content, content_encoding=encoding)
    assert answer.status_code == status
    assert answer.json()["remedy"]


def test_the_first_outcome_of_a_decision_counts(api: Api) -> None:
    [identifier] = api.decisions()
    first = outcome(identifier, values={"cost_usd": 1.0})
    second = outcome(identifier, values={"cost_usd": 2.0})
    assert api.ok("POST", OUTCOMES, content=ndjson([first]))["accepted"] == 1
    assert api.ok("POST", OUTCOMES, content=ndjson([second]))["duplicates"] == 1


def test_feedback_is_accepted_and_signed_by_its_key(api: Api) -> None:
    [identifier] = api.decisions()
    body = {"decision_id": identifier, "metric": "score", "value": 0.5, "tags": {"page": "a"}}
    answer = api("POST", "/v1/feedback", body, scope="ingest")
    assert answer.status_code == 202
    assert answer.json()["status"] == "accepted"
    with api.engine.connect() as connection:
        row = connection.execute(sa.text("SELECT source, number, tags FROM feedback")).one()
    assert (row.source, row.number, row.tags) == ("key:ingest key", 0.5, {"page": "a"})


def test_a_body_may_not_choose_its_source(api: Api) -> None:
    body = {"decision_id": str(new_id()), "metric": "score", "value": 1, "source": "judge"}
    answer = api("POST", "/v1/feedback", body)
    assert answer.status_code == 422
    assert answer.json()["field"] == "source"


def test_feedback_may_come_before_its_decision(api: Api) -> None:
    body = {"decision_id": str(new_id()), "metric": "score", "value": 1}
    assert api.ok("POST", "/v1/feedback", body)["status"] == "pending_join"


def test_feedback_may_name_the_response(api: Api) -> None:
    [identifier] = api.decisions()
    told = outcome(identifier, response_id="chatcmpl-1")
    api.ok("POST", OUTCOMES, content=ndjson([told]))
    body = {"response_id": "chatcmpl-1", "metric": "score", "value": 1}
    assert api.ok("POST", "/v1/feedback", body)["status"] == "accepted"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"metric": "nothing"}, "metric"),
        ({"value": 2}, "value"),
        ({"value": "good"}, "value"),
        ({"value": None}, "value"),
        ({"decision_id": "x"}, "decision_id"),
        ({"decision_id": None}, None),
        ({"episode_id": "e"}, None),
        ({"metric": "a\x00b"}, "metric"),
        ({"tags": {"a": {"b": 1}}}, "tags"),
        ({"tags": {"a": "\x00"}}, "tags"),
        ({"occurred_at": "yesterday"}, "occurred_at"),
        ({"occurred_at": "2026-01-01T00:00:00"}, "occurred_at"),
        ({"occurred_at": "0001-01-01T00:00:00+14:00"}, "occurred_at"),
    ],
)
def test_feedback_that_does_not_fit_names_its_field(
    api: Api, change: dict[str, Any], field: str | None
) -> None:
    [identifier] = api.decisions()
    body = {"decision_id": identifier, "metric": "score", "value": 1, **change}
    answer = api("POST", "/v1/feedback", body)
    assert answer.status_code == 422, answer.text
    problem = answer.json()
    assert problem["detail"]
    if field is not None:
        assert problem["field"].startswith(field)


def test_numbers_that_are_not_json_are_refused(api: Api) -> None:
    raw = b'{"decision_id": "%s", "metric": "score", "value": NaN}' % str(new_id()).encode()
    answer = api("POST", "/v1/feedback", content=raw, content_type="application/json")
    assert answer.status_code == 422


def test_a_repeated_key_gives_the_first_answer_and_stores_nothing(api: Api) -> None:
    [identifier] = api.decisions()
    body = {"decision_id": identifier, "metric": "score", "value": 1}
    first = api.ok("POST", "/v1/feedback", body, idempotency_key="k1")
    again = api("POST", "/v1/feedback", body, idempotency_key="k1")
    assert again.status_code == 202
    assert again.json() == {"feedback_id": first["feedback_id"], "status": "duplicate"}
    assert count(api, "feedback") == 1


def test_a_key_with_another_body_is_409(api: Api) -> None:
    [identifier] = api.decisions()
    body = {"decision_id": identifier, "metric": "score", "value": 1}
    api.ok("POST", "/v1/feedback", body, idempotency_key="k1")
    answer = api("POST", "/v1/feedback", {**body, "value": 0}, idempotency_key="k1")
    assert answer.status_code == 409
    assert "k1" in answer.json()["detail"]


def test_a_refused_request_leaves_its_key_free(api: Api) -> None:
    [identifier] = api.decisions()
    body = {"decision_id": identifier, "metric": "score", "value": 7}
    assert api("POST", "/v1/feedback", body, idempotency_key="k1").status_code == 422
    answer = api("POST", "/v1/feedback", {**body, "value": 0.7}, idempotency_key="k1")
    assert answer.json()["status"] == "accepted"


def test_the_same_key_at_once_stores_one(api: Api) -> None:
    [identifier] = api.decisions()
    body = {"decision_id": identifier, "metric": "score", "value": 1}

    def send(_: int) -> str:
        answer = api.ok("POST", "/v1/feedback", body, idempotency_key="same")
        return str(answer["feedback_id"])

    with ThreadPoolExecutor(8) as pool:
        ids = set(pool.map(send, range(16)))
    assert len(ids) == 1
    assert count(api, "feedback") == 1


def test_a_batch_of_feedback_is_answered_item_by_item(api: Api) -> None:
    first, second = api.decisions(2)
    good = {"decision_id": first, "metric": "score", "value": 1}
    items: list[Any] = [
        good,
        {**good, "metric": "nothing"},
        "not an object",
        {**good, "source": "judge"},
        {"decision_id": second, "metric": "score", "value": 9},
        {"decision_id": second, "metric": "score", "value": 0.9},
    ]
    answer = api.ok("POST", "/v1/feedback:batch", {"items": items})["items"]
    assert [one["status"] for one in answer] == [
        "accepted", "rejected", "rejected", "rejected", "rejected", "accepted",
    ]  # fmt: skip
    assert [one["field"] for one in answer] == [None, "metric", None, "source", "value", None]
    assert all(one["detail"] for one in answer if one["status"] == "rejected")
    assert count(api, "feedback") == 2


def test_an_item_that_fails_leaves_its_own_key_free(api: Api) -> None:
    [identifier] = api.decisions()
    bad = {"decision_id": identifier, "metric": "score", "value": 9, "idempotency_key": "k"}
    api.ok("POST", "/v1/feedback:batch", {"items": [bad]})
    good = {**bad, "value": 0.9}
    for status in ("accepted", "duplicate"):
        answer = api.ok("POST", "/v1/feedback:batch", {"items": [good]})
        assert answer["items"][0]["status"] == status
    other = api.ok("POST", "/v1/feedback:batch", {"items": [{**good, "value": 0.1}]})
    assert other["items"][0]["field"] == "idempotency_key"


@pytest.mark.parametrize("size", [0, 1_001])
def test_a_batch_of_feedback_is_bounded(api: Api, size: int) -> None:
    answer = api("POST", "/v1/feedback:batch", {"items": [{}] * size})
    assert answer.status_code == 422
    assert answer.json()["field"] == "items"


def test_retracted_feedback_is_gone_and_another_projects_stays(api: Api, other: Api) -> None:
    [identifier] = api.decisions()
    body = {"decision_id": identifier, "metric": "score", "value": 1}
    given = api.ok("POST", "/v1/feedback", body)["feedback_id"]
    assert other("DELETE", f"/v1/feedback/{given}").status_code == 404
    assert api("DELETE", f"/v1/feedback/{given}").status_code == 204
    assert api("DELETE", f"/v1/feedback/{given}").status_code == 204
    assert api("DELETE", f"/v1/feedback/{new_id()}").status_code == 404
    assert api("DELETE", "/v1/feedback/x").status_code == 422


def test_a_body_past_the_limit_is_413_whatever_it_announces(api: Api) -> None:
    big = b'{"items": [' + b" " * (5 * 2**20) + b"]}"
    announced = api("POST", "/v1/feedback:batch", content=big)
    assert announced.status_code == 413

    def chunks() -> Any:
        for start in range(0, len(big), 2**18):
            yield big[start : start + 2**18]

    headers = {"authorization": f"Bearer {api.tokens['admin']}"}
    silent = api.client.post("/v1/feedback:batch", content=chunks(), headers=headers)
    assert silent.status_code == 413
    assert silent.headers["content-type"] == "application/problem+json"
