from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from feedback import join
from tests.controlplane.api.conftest import ARMS, Api, ndjson, outcome

ARM = {"model": "m", "endpoint": "http://127.0.0.1:9/v1"}


def test_a_metric_is_declared_changed_and_read(api: Api) -> None:
    body = {"type": "category", "categories": {"good": 1, "bad": 0}, "wait_s": 60}
    put = api.ok("PUT", "/v1/metrics/mood", body, scope="publish")
    assert put == api.ok("GET", "/v1/metrics/mood", scope="read")
    assert put["categories"] == {"good": 1.0, "bad": 0.0}
    api.ok("PUT", "/v1/metrics/mood", {**body, "wait_s": 5})
    assert api.ok("GET", "/v1/metrics")["items"] == [{**put, "wait_s": 5.0}]
    assert api("GET", "/v1/metrics/none").status_code == 404


@pytest.mark.parametrize(
    ("name", "body", "field"),
    [
        ("latency_s", {}, "name"),
        ("a%20b", {}, "name"),
        ("-a", {}, "name"),
        ("m" * 129, {}, "name"),
        ("m", {"type": "integer"}, "type"),
        ("m", {"range": [1, 0]}, "range"),
        ("m", {"range": [1]}, "range.1"),
        ("m", {"type": "category"}, "categories"),
        ("m", {"wait_s": -1}, "wait_s"),
        ("m", {"colour": "red"}, "colour"),
        ("m", {"aggregation": "median"}, "aggregation"),
    ],
)
def test_a_metric_that_fits_no_value_is_refused(
    api: Api, name: str, body: dict[str, Any], field: str
) -> None:
    answer = api("PUT", f"/v1/metrics/{name}", body)
    assert answer.status_code == 422
    assert answer.json()["field"] == field


def test_an_arm_is_added_changed_retired_and_brought_back(api: Api) -> None:
    path = "/v1/pools/main/arms/meta/llama-3:8b"
    card = {"usd_per_mtok_in": 0.1, "tags": ["small"]}
    put = api.ok("PUT", path, {**ARM, "card": card}, scope="publish")
    assert put["name"] == "meta/llama-3:8b"
    assert put == api.ok("GET", path, scope="read")
    assert api.ok("GET", "/v1/pools/main/arms")["items"] == [put]
    assert api("DELETE", path).status_code == 204
    assert api("GET", path).status_code == 404
    assert api("DELETE", path).status_code == 404
    api.ok("PUT", path, ARM)
    assert api.ok("GET", path)["card"]["tags"] == []


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"endpoint": "ftp://x"}, "endpoint"),
        ({"endpoint": "http://user:secret@x/v1"}, "endpoint"),
        ({"model": ""}, "model"),
        ({"card": {"usd_per_mtok_in": -1}}, "card.usd_per_mtok_in"),
        ({"api_key_env": "a b"}, "api_key_env"),
        ({"api_key": "sk-1"}, "api_key"),
    ],
)
def test_an_arm_that_cannot_serve_is_refused(api: Api, change: dict[str, Any], field: str) -> None:
    answer = api("PUT", "/v1/pools/main/arms/a", {**ARM, **change})
    assert answer.status_code == 422
    assert answer.json()["field"] == field


def test_a_pool_that_does_not_exist_says_how_to_make_one(api: Api) -> None:
    answer = api("GET", "/v1/pools/none/arms")
    assert answer.status_code == 404
    assert "PUT /v1/pools/none/arms/" in answer.json()["detail"]


def test_the_last_arm_of_a_pool_in_use_cannot_be_retired(api: Api) -> None:
    api.declare()
    api.ok("DELETE", f"/v1/pools/main/arms/{ARMS[0]}")
    answer = api("DELETE", f"/v1/pools/main/arms/{ARMS[1]}")
    assert answer.status_code == 422
    assert answer.json()["field"] == "arm"
    assert len(api.ok("GET", "/v1/pools/main/arms")["items"]) == 1


def test_a_changed_pool_publishes_its_policies_anew(api: Api) -> None:
    api.declare()
    api.ok("PUT", "/v1/pools/main/arms/third", ARM)
    newest = api.ok("GET", "/v1/policies/chat/bundles")["items"][0]
    assert (newest["serial"], newest["version"], newest["reason"]) == (2, 1, "arm third put")


def test_another_reward_is_a_new_version_and_the_same_one_is_not(api: Api) -> None:
    api.declare()
    body = {"expression": "score - 0.2*cost_usd/0.01", "wait_s": 3}
    assert api.ok("PUT", "/v1/rewards/chat", body, scope="publish")["version"] == 2
    assert api.ok("PUT", "/v1/rewards/chat", body)["version"] == 2
    terms = {"terms": [{"metric": "score", "weight": 2}, {"metric": "error", "weight": -1}]}
    put = api.ok("PUT", "/v1/rewards/chat", terms)
    assert put["version"] == 3
    assert put == api.ok("GET", "/v1/rewards/chat", scope="read")
    assert [item["version"] for item in put["items"]] == [3, 2, 1]
    assert put["items"][1]["wait_s"] == 3
    assert put["items"][1]["expression"] == body["expression"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "expression"),
        ({"expression": "score", "terms": [{"metric": "score"}]}, "expression"),
        ({"expression": "score*cost_usd"}, "expression"),
        ({"expression": "__import__('os')"}, "expression"),
        ({"expression": "nothing"}, "terms"),
        ({"terms": [{"metric": "score", "scale": 0}]}, None),
        ({"expression": "score", "wait_s": 1e9}, "wait_s"),
        ({"terms": [{"metric": "score", "normaliser": "rank"}]}, "terms.0.normaliser"),
        ({"terms": [{"metric": "score", "align": "cost_usd"}]}, "terms"),
        ({"expression": "score", "gates": [{"metric": "score", "at_least": 1}]}, "gates.0.reward"),
        ({"expression": "score", "gates": [{"metric": "x", "at_least": 1, "reward": 0}]}, "gates"),
        ({"expression": "score", "window": 99}, "window"),
        ({"terms": [{"metric": "score", "normaliser": "std"}]}, "terms"),  # nothing is joined yet
    ],
)
def test_a_reward_that_cannot_be_computed_is_refused(
    api: Api, body: dict[str, Any], field: str | None
) -> None:
    api.declare()
    answer = api("PUT", "/v1/rewards/chat", body)
    assert answer.status_code == 422
    assert answer.json().get("field") == field
    assert api.ok("GET", "/v1/rewards/chat")["version"] == 1


def test_a_reward_is_declared_with_gates_caps_and_normalisers(api: Api) -> None:
    api.declare()
    body = {
        "terms": [
            {"metric": "score", "normaliser": "minmax", "range": [0.2, 0.8], "cap_low": 0.2},
            {"metric": "energy_j", "weight": -0.1, "normaliser": "log1p"},
        ],
        "gates": [{"metric": "output_tokens", "at_least": 1, "reward": -1}],
    }
    newest = api.ok("PUT", "/v1/rewards/chat", body)["items"][0]
    assert newest["terms"][0]["range"] == [0.2, 0.8]
    assert newest["terms"][1]["normaliser"] == "log1p"
    assert newest["gates"][0] == {**body["gates"][0], "default": None, "on_error": 0.0}
    assert (newest["statistics"], newest["window"]) == ({}, None)
    assert api.ok("PUT", "/v1/rewards/chat", body)["version"] == newest["version"]


def test_an_aligned_reward_shows_the_spreads_that_it_was_given(api: Api) -> None:
    api.declare()
    ids = api.decisions(120, at="2026-01-05T00:00:00Z")
    values = [
        {"values": {"cost_usd": 0.001 * (i % 7), "energy_j": 5.0 * (i % 3)}} for i in range(120)
    ]
    lines = [outcome(one, **more) for one, more in zip(ids, values, strict=True)]
    assert api.ok("POST", "/v1/outcomes:batch", content=ndjson(lines))["accepted"] == 120
    body = {
        "terms": [
            {"metric": "energy_j", "weight": -1},
            {"metric": "cost_usd", "weight": -1, "align": "energy_j"},
        ],
        "window": 110,
    }
    refused = api("PUT", "/v1/rewards/chat", body)
    assert refused.status_code == 422
    assert "'energy_j' has 0 values" in refused.json()["detail"]
    with api.engine.begin() as connection:
        later = datetime.now(UTC) + timedelta(hours=1)
        assert join.settle(connection, api.policy_id(), now=later) == 120
    newest = api.ok("PUT", "/v1/rewards/chat", body)["items"][0]
    assert {name: one["n"] for name, one in newest["statistics"].items()} == {
        "energy_j": 110,
        "cost_usd": 110,
    }
    assert newest["terms"][1]["align"] == "energy_j"
    assert newest["window"] == 110


def test_an_arm_that_tells_its_energy_keeps_it(api: Api) -> None:
    path = "/v1/pools/main/arms/a"
    put = api.ok("PUT", path, {**ARM, "card": {"joules_per_token_out": 0.4}})
    assert put["card"]["joules_per_token_out"] == 0.4
    assert put == api.ok("GET", path)
    assert put["card"]["joules_per_token_in"] is None
    answer = api("PUT", path, {**ARM, "card": {"joules_per_token_in": -1}})
    assert answer.json()["field"] == "card.joules_per_token_in"
