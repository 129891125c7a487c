from datetime import UTC, datetime
from typing import Any

from controlplane import overrides
from controlplane.api import pages
from storage import releases
from storage.releases import StoredFinding, StoredWatch
from tests.controlplane.api.conftest import Api, new_id


def add_finding(api: Api, summary: str, **fields: Any) -> StoredFinding:
    told = {"monitor": "reward", "severity": "alarm", "reaction": "freeze", "numbers": {"value": 9}}
    at = datetime.now(UTC)
    finding = StoredFinding(
        id=new_id(), policy_id=api.policy_id(), summary=summary, created_at=at, **{**told, **fields}
    )
    with api.engine.begin() as connection:
        releases.add_finding(connection, finding)
    return finding


def freeze(api: Api, *, seconds: float = 600) -> None:
    at = datetime.now(UTC)
    made = overrides.made(seconds, "monitor reward: <b>fell</b>", at)
    with api.engine.begin() as connection:
        releases.put_watch(
            connection, StoredWatch(api.policy_id(), 0, {}, {overrides.FROZEN: made}, at)
        )


def test_findings_are_listed_newest_first(api: Api) -> None:
    api.declare()
    assert api.ok("GET", "/v1/policies/chat/findings") == {"items": [], "overrides": {}}
    for number in range(3):
        add_finding(api, f"finding {number}")
    found = api.ok("GET", "/v1/policies/chat/findings?limit=2", scope="read")
    assert [one["summary"] for one in found["items"]] == ["finding 2", "finding 1"]
    assert found["items"][0]["numbers"] == {"value": 9}


def test_a_frozen_policy_takes_no_new_version_until_it_is_unfrozen(api: Api) -> None:
    api.declare()
    number = api.add_version(passed=True)
    assert api("POST", "/v1/policies/chat/unfreeze").status_code == 409
    freeze(api)
    found = api.ok("GET", "/v1/policies/chat/findings")["overrides"]
    assert set(found) == {"frozen"}
    for alias in ("champion", "challenger"):
        path = f"/v1/policies/chat/aliases/{alias}"
        answer = api("PUT", path, {"version": number}, if_match="*")
        assert answer.status_code == 409, alias
        assert "unfreeze it first" in answer.json()["detail"]
    noted = api.ok("POST", "/v1/policies/chat/unfreeze", scope="publish")
    assert noted["reaction"] == "unfreeze"
    assert api.ok("GET", "/v1/policies/chat/findings")["overrides"] == {}
    api.ok("PUT", "/v1/policies/chat/aliases/champion", {"version": number}, if_match="*")


def test_a_freeze_that_is_over_holds_nobody(api: Api) -> None:
    api.declare()
    number = api.add_version(passed=True)
    freeze(api, seconds=-1)
    api.ok("PUT", "/v1/policies/chat/aliases/champion", {"version": number}, if_match="*")


def test_the_page_shows_the_newest_findings_and_the_freeze(api: Api) -> None:
    api.declare()
    headers = {"cookie": f"{pages.COOKIE}={api.tokens['read']}"}
    assert "Frozen:" not in api.client.get("/", headers=headers).text
    freeze(api)
    add_finding(api, "the mean <i>reward</i> is low")
    shown = api.client.get("/", headers=headers).text
    assert "Frozen:" in shown
    assert "&lt;b&gt;fell&lt;/b&gt;" in shown
    assert "the mean &lt;i&gt;reward&lt;/i&gt; is low" in shown
    assert "POST /v1/policies/chat/unfreeze" in shown


def test_what_is_watched_is_declared_with_the_policy(api: Api) -> None:
    api.declare(monitors={"reward": {"reaction": "freeze"}, "hold_s": 60})
    found = api.ok("GET", "/v1/policies/chat")["monitors"]
    assert (found["reward"]["reaction"], found["hold_s"]) == ("freeze", 60)
    assert found["context"]["reaction"] == "none"
    answer = api(
        "PUT", "/v1/policies/chat", {"pool": "main", "monitors": {"reward": {"window": 1}}}
    )
    assert answer.status_code == 422
    assert answer.json()["field"].endswith("monitors.window")
