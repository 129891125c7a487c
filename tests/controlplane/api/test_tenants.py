from tests.controlplane.api.conftest import Api, decision, ndjson, outcome


def test_a_project_sees_nothing_of_another(api: Api, other: Api) -> None:
    api.declare()
    api.add_version(passed=True)
    api.ok("POST", "/v1/edges/edge-1/status", {})
    for path in ("metrics", "policies", "edges"):
        assert other.ok("GET", f"/v1/{path}")["items"] == []
    for path in (
        "metrics/score", "pools/main/arms", "pools/main/arms/large", "policies/chat",
        "policies/chat/status", "policies/chat/versions", "policies/chat/versions/2",
        "policies/chat/verdicts", "policies/chat/bundles", "policies/chat/aliases/champion",
        "rewards/chat", "bundles/chat",
    ):  # fmt: skip
        assert other("GET", f"/v1/{path}").status_code == 404, path


def test_a_project_changes_nothing_of_another(api: Api, other: Api) -> None:
    api.declare()
    api.add_version(passed=True)
    version = {"version": 2}
    alias = "/v1/policies/chat/aliases/champion"
    assert other("PUT", alias, version, if_match='"1"').status_code == 404
    assert other("POST", "/v1/policies/chat/rollback").status_code == 404
    assert other("POST", "/v1/policies/chat/rounds").status_code == 404
    assert other("PUT", "/v1/rewards/chat", {"expression": "error"}).status_code == 404
    assert other("DELETE", "/v1/pools/main/arms/large").status_code == 404
    key = api.ok("GET", "/v1/keys")["items"][0]["id"]
    assert other("DELETE", f"/v1/keys/{key}").status_code == 404
    assert api.ok("GET", alias) == {"alias": "champion", "version": 1, "revision": 1}


def test_two_projects_have_the_same_names_apart(api: Api, other: Api) -> None:
    api.declare(floor=0.1)
    other.declare(floor=0.3)
    assert api.ok("GET", "/v1/policies/chat")["floor"] == 0.1
    assert other.ok("GET", "/v1/policies/chat")["floor"] == 0.3
    other.ok("PUT", "/v1/pools/main/arms/third", {"model": "m", "endpoint": "http://x/v1"})
    assert len(api.ok("GET", "/v1/pools/main/arms")["items"]) == 2
    assert len(api.ok("GET", "/v1/policies/chat/bundles")["items"]) == 1


def test_the_same_decision_of_two_projects_is_two(api: Api, other: Api) -> None:
    api.declare()
    other.declare()
    line = decision()
    for project in (api, other):
        answer = project.ok("POST", "/v1/decisions:batch", content=ndjson([line]))
        assert answer["accepted"] == 1
        told = ndjson([outcome(line["decision_id"])])
        assert project.ok("POST", "/v1/outcomes:batch", content=told)["accepted"] == 1
        assert project.ok("GET", "/v1/policies/chat/status")["counts"]["decisions"] == 1


def test_a_project_cannot_use_anothers_policy_in_its_decisions(api: Api, other: Api) -> None:
    api.declare()
    answer = other.ok("POST", "/v1/decisions:batch", content=ndjson([decision()]))
    assert answer["rejected"][0]["field"] == "policy"
    assert api.ok("GET", "/v1/policies/chat/status")["counts"]["decisions"] == 0


def test_an_idempotency_key_belongs_to_its_project(api: Api, other: Api) -> None:
    for project in (api, other):
        project.declare()
        [identifier] = project.decisions()
        body = {"decision_id": identifier, "metric": "score", "value": 1}
        answer = project.ok("POST", "/v1/feedback", body, idempotency_key="k")
        assert answer["status"] == "accepted"
