from tests.controlplane.api.conftest import Api

BASE = "/v1/policies/chat/versions"


def test_a_version_without_newer_log_is_refused_and_an_unknown_one_not_found(api: Api) -> None:
    api.declare()
    answer = api("POST", f"{BASE}/1/evaluations")
    assert (answer.status_code, answer.json()["field"]) == (422, "version")
    assert api("POST", f"{BASE}/9/evaluations").status_code == 404
    assert api("GET", f"{BASE}/1/compare/9").status_code == 404
    assert api("GET", f"{BASE}/1/compare/1").status_code == 422
