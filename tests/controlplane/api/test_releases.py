from typing import Any

import sqlalchemy as sa

from tests.controlplane.api.conftest import Api

BASE = "/v1/policies/chat"
CHALLENGER = f"{BASE}/aliases/challenger"
LADDER = {"stages": [0, 0.5, 1], "unit": "request"}


def begun(api: Api, **release: Any) -> int:
    """A policy with a release under way; returns the version."""
    api.declare(release={**LADDER, **release})
    number = api.add_version(passed=True)
    api.ok("PUT", CHALLENGER, {"version": number}, if_match='"0"')
    return number


def test_a_challenger_is_put_with_the_etag_that_was_read_and_begins_a_release(api: Api) -> None:
    api.declare(release=LADDER)
    number = api.add_version(passed=True)
    read = api("GET", CHALLENGER, scope="read")
    assert (read.json()["version"], read.headers["etag"]) == (None, '"0"')
    put = api("PUT", CHALLENGER, {"version": number}, scope="publish", if_match='"0"')
    assert put.json() == {"alias": "challenger", "version": number, "revision": 1}
    assert put.headers["etag"] == '"1"'
    [release] = api.ok("GET", f"{BASE}/releases", scope="read")["items"]
    assert (release["version"], release["champion"], release["stage_name"]) == (number, 1, "shadow")
    assert (release["stages"], release["status"]) == ([0, 0.5, 1], "running")
    assert release["by"] == "key:publish key"
    assert api.ok("GET", f"{BASE}/versions/{number}")["state"] == "shadow"
    assert api.ok("GET", f"{BASE}/aliases/champion")["version"] == 1
    newest = api.ok("GET", f"{BASE}/bundles")["items"][0]
    assert (newest["serial"], newest["version"], newest["reason"]) == (2, 1, "release 1: shadow")


def test_a_stale_etag_is_412_none_is_428_and_a_second_release_is_409(api: Api) -> None:
    number = begun(api)
    other = api.add_version(passed=True)
    assert api("PUT", CHALLENGER, {"version": other}, if_match='"0"').status_code == 412
    assert api("PUT", CHALLENGER, {"version": other}).status_code == 428
    answer = api("PUT", CHALLENGER, {"version": other}, if_match='"1"')
    assert answer.status_code == 409
    assert f"version {number} is under way" in answer.json()["detail"]


def test_what_has_not_passed_or_was_sent_back_is_422_with_each_failed_check(api: Api) -> None:
    number = begun(api)
    sent = api.ok("POST", f"{BASE}/releases/1/revert", scope="publish")
    assert (sent["status"], sent["ended_at"] is not None) == ("reverted", True)
    answer = api("PUT", CHALLENGER, {"version": number}, if_match='"1"')
    assert answer.status_code == 422
    [check] = answer.json()["checks"]
    assert (check["name"], check["value"]) == ("not_sent_back", 1)
    failed = api.add_version(passed=False)
    answer = api("PUT", CHALLENGER, {"version": failed}, if_match="*")
    assert answer.status_code == 422
    checks = {check["name"]: check["value"] for check in answer.json()["checks"]}
    assert checks["over_champion"] == -0.02
    assert api("POST", f"{BASE}/releases/1/revert").status_code == 409
    assert api("POST", f"{BASE}/releases/7/revert").status_code == 404


def test_a_rollout_begins_at_its_share_and_keeps_the_evaluation(api: Api) -> None:
    api.declare(release=LADDER)
    number = api.add_version(passed=True)
    [verdict] = api.ok("GET", f"{BASE}/verdicts?version={number}")["items"]
    body = {"version": number, "rollout": 0.2, "evaluation_id": verdict["id"]}
    for alias in ("champion", "challenger"):
        unknown = {"version": number, "evaluation_id": "0195c1f4-6c00-7a3e-9d43-2f6f3c0a9b11"}
        refused = api("PUT", f"{BASE}/aliases/{alias}", unknown, if_match="*")
        assert (refused.status_code, refused.json()["field"]) == (422, "evaluation_id")
    api.ok("PUT", CHALLENGER, body, if_match="*")
    release = api.ok("GET", f"{BASE}/releases/1")
    assert (release["stages"], release["stage_name"]) == ([0.2, 0.5, 1.0], "canary 20 %")
    assert release["rules"]["unit"] == "request"
    refused = api("PUT", CHALLENGER, {"version": number, "rollout": 1}, if_match="*")
    assert (refused.status_code, refused.json()["field"]) == (422, "rollout")
    refused = api("PUT", f"{BASE}/aliases/champion", {"version": number, "rollout": 0.5},
                  if_match="*")  # fmt: skip
    assert (refused.status_code, refused.json()["field"]) == (422, "rollout")


def test_a_rollback_ends_the_release_and_leaves_the_champion(api: Api) -> None:
    number = begun(api)
    serial = api.ok("GET", f"{BASE}/bundles")["items"][0]["serial"]
    assert api.ok("POST", f"{BASE}/rollback", scope="publish") == {
        "version": 1, "serial": serial + 1,
    }  # fmt: skip
    assert api.ok("GET", f"{BASE}/releases/1")["status"] == "reverted"
    assert api.ok("GET", f"{BASE}/versions/{number}")["state"] == "retired"
    assert api.ok("GET", BASE)["auto_promote"] is False


def test_who_makes_a_version_champion_by_hand_ends_its_release(api: Api) -> None:
    number = begun(api)
    api.ok("PUT", f"{BASE}/aliases/champion", {"version": number}, if_match='"1"')
    release = api.ok("GET", f"{BASE}/releases/1")
    assert (release["status"], "made champion by" in release["reason"]) == ("completed", True)
    assert api.ok("GET", CHALLENGER)["version"] is None


def test_four_shadows_watch_and_are_taken_away_again(api: Api) -> None:
    api.declare()
    names = ["shadow", "shadow-2", "shadow-3", "shadow-4"]
    put = {}
    for name in names:
        path = f"{BASE}/aliases/{name}"
        assert api("GET", path).json() == {"alias": name, "version": None, "revision": 0}
        number = api.add_version(passed=None)
        answer = api("PUT", path, {"version": number}, if_match='"0"')
        assert answer.status_code == 200, answer.text
        put[name] = (number, answer.headers["etag"])
    number, etag = put["shadow"]
    path = f"{BASE}/aliases/shadow"
    assert api.ok("GET", path)["version"] == number
    assert api("PUT", path, {"version": 1}, if_match=etag).status_code == 422
    assert api("PUT", path, {"version": 99}, if_match=etag).status_code == 422
    assert api("DELETE", path, if_match='"99"').status_code == 412
    assert api("DELETE", path, if_match=etag).status_code == 204
    assert api("DELETE", path, if_match=etag).status_code == 404
    again = api("PUT", path, {"version": number}, if_match='"0"')
    assert again.headers["etag"] != etag, "a revision that was seen must not come back"
    fifth = api("PUT", f"{BASE}/aliases/shadow-5", {"version": number}, if_match="*")
    assert (fifth.status_code, fifth.json()["field"]) == (422, "alias")


def test_a_release_that_waits_for_nobody_cannot_be_approved(api: Api) -> None:
    begun(api, approval="stages")
    answer = api("POST", f"{BASE}/releases/1/approve")
    assert (answer.status_code, "waits for nobody" in answer.json()["detail"]) == (409, True)


def test_a_guardrail_on_what_nobody_measures_is_422(api: Api) -> None:
    api.declare(release={**LADDER, "guardrails": [{"metric": "vetoed", "kind": "rate"}]})
    number = api.add_version(passed=True)
    answer = api("PUT", CHALLENGER, {"version": number}, if_match="*")
    assert (answer.status_code, answer.json()["field"]) == (422, "release.guardrails")
    api.ok("PUT", "/v1/metrics/vetoed", {"type": "boolean", "optimize": "min"})
    assert api("PUT", CHALLENGER, {"version": number}, if_match="*").status_code == 200


def test_releases_come_newest_first_a_page_at_a_time(api: Api) -> None:
    begun(api)
    api.ok("POST", f"{BASE}/releases/1/revert")
    number = api.add_version(passed=True)
    with api.engine.begin() as connection:  # another scorer than the one that was sent back
        connection.execute(
            sa.text("UPDATE versions SET digest = 'x' WHERE number = :n"), {"n": number}
        )
    api.ok("PUT", CHALLENGER, {"version": number}, if_match='"1"')
    first = api.ok("GET", f"{BASE}/releases?limit=1", scope="read")
    assert ([row["number"] for row in first["items"]], first["next"]) == ([2], 2)
    rest = api.ok("GET", f"{BASE}/releases?limit=1&before=2")
    assert ([row["number"] for row in rest["items"]], rest["next"]) == ([1], None)
