from dataclasses import fields
from typing import Any

import pytest

from controlplane.api.wire import PolicyBody
from controlplane.config import PolicyConfig
from storage import work
from tests.controlplane.api.conftest import Api, ndjson, outcome


def test_the_wire_takes_every_setting_of_a_policy() -> None:
    assert set(PolicyBody.model_fields) == {"pool", *(f.name for f in fields(PolicyConfig))}


def test_a_new_policy_explores_evenly_as_version_1(api: Api) -> None:
    api.declare()
    status = api.ok("GET", "/v1/policies/chat/status", scope="read")
    assert status["champion"] == {"version": 1, "revision": 1}
    assert (status["serial"], status["log_position"]) == (1, 0)
    assert status["next_round_position"] == PolicyConfig().gate.min_interactions
    version = api.ok("GET", "/v1/policies/chat/versions/1")
    assert (version["learner"], version["state"]) == ("uniform", "champion")


def test_what_is_read_can_be_put_again_and_changes_nothing(api: Api) -> None:
    api.declare()
    read = api.ok("GET", "/v1/policies/chat")
    body = {name: read[name] for name in PolicyBody.model_fields}
    put = api.ok("PUT", "/v1/policies/chat", body)
    assert {**put, "updated_at": ""} == {**read, "updated_at": ""}
    assert len(api.ok("GET", "/v1/policies/chat/bundles")["items"]) == 1


def test_settings_that_are_left_out_take_their_defaults(api: Api) -> None:
    api.declare(floor=0.2, auto_promote=True, gate={"growth": 2.0})
    read = api.ok("GET", "/v1/policies/chat")
    assert (read["floor"], read["auto_promote"], read["gate"]["growth"]) == (0.2, True, 2.0)
    default = PolicyConfig()
    assert read["gate"]["alpha"] == default.gate.alpha
    put = api.ok("PUT", "/v1/policies/chat", {"pool": "main"})
    assert (put["floor"], put["auto_promote"], put["gate"]["growth"]) == (
        default.floor, default.auto_promote, default.gate.growth,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "pool"),
        ({"pool": "main", "floor": 0}, "floor"),
        ({"pool": "main", "learners": []}, "learners"),
        ({"pool": "main", "learners": [{"name": "oracle"}]}, "learners"),
        ({"pool": "main", "learners": [{"name": "vw"}, {"name": "vw"}]}, "learners"),
        ({"pool": "main", "gate": {"alpha": 2}}, "gate.alpha"),
        ({"pool": "main", "gate": {"luck": 2}}, "gate.luck"),
        ({"pool": "main", "features": [{"name": "a", "kind": "smell"}]}, "features"),
        ({"pool": "main", "fallback_arm": "nobody"}, "fallback_arm"),
        ({"pool": "main", "prior": {"ratings": dict.fromkeys("wxyz", 1)}}, "prior.ratings"),
        ({"pool": "main", "secret": 1}, "secret"),
    ],
)
def test_a_policy_that_cannot_learn_is_refused(api: Api, body: Any, field: str) -> None:
    api.declare()
    answer = api("PUT", "/v1/policies/chat", body)
    assert answer.status_code == 422, answer.text
    assert answer.json()["field"] == field


def test_a_policy_needs_a_pool_with_an_arm(api: Api) -> None:
    answer = api("PUT", "/v1/policies/chat", {"pool": "main"})
    assert answer.status_code == 404
    assert "PUT /v1/pools/main/arms/" in answer.json()["detail"]


def test_policies_come_a_page_at_a_time(api: Api) -> None:
    for name in ("c", "a", "b"):
        api.declare(name)
    first = api.ok("GET", "/v1/policies?limit=2")
    assert ([p["name"] for p in first["items"]], first["next"]) == (["a", "b"], "b")
    rest = api.ok("GET", "/v1/policies?limit=2&after=b")
    assert ([p["name"] for p in rest["items"]], rest["next"]) == (["c"], None)
    assert api("GET", "/v1/policies?limit=1000").status_code == 422


def test_a_round_that_is_asked_for_stands_as_work(api: Api) -> None:
    api.declare()
    answer = api("POST", "/v1/policies/chat/rounds", scope="publish", idempotency_key="k")
    assert answer.status_code == 202
    [row] = api.ok("GET", "/v1/policies/chat/status")["work"]
    assert (row["kind"], row["done_at"], row["due_at"]) == (
        "round", None, answer.json()["due_at"],
    )  # fmt: skip
    again = api("POST", "/v1/policies/chat/rounds", idempotency_key="k", scope="publish")
    assert again.json() == answer.json()
    with api.engine.connect() as connection:
        assert len(work.list_work(connection, api.policy_id())) == 1


def test_the_status_counts_what_was_decided_and_who_served(api: Api) -> None:
    api.declare()
    ids = api.decisions(3) + api.decisions(1, action="large")
    api.ok("POST", "/v1/outcomes:batch", content=ndjson([outcome(i) for i in ids]))
    status = api.ok("GET", "/v1/policies/chat/status")
    assert status["counts"] == {"decisions": 4, "pending": 4, "joined": 0, "unrewarded": 0}
    assert [(a["arm"], a["n"], a["share"]) for a in status["arms"]] == [
        ("small", 3, 0.75), ("large", 1, 0.25),
    ]  # fmt: skip


@pytest.mark.parametrize("path", ["", "/status", "/versions", "/verdicts", "/bundles"])
def test_a_policy_that_does_not_exist_is_404(api: Api, path: str) -> None:
    answer = api("GET", f"/v1/policies/none{path}")
    assert answer.status_code == 404
    assert "PUT /v1/policies/none" in answer.json()["detail"]
