import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from controlplane import experiments, plan_cli
from controlplane.api import pages
from controlplane.publishing import Publisher
from tests.controlplane.api.conftest import SIGNER, Api, decision, ndjson, new_id, outcome

BASE = "/v1/policies/chat/experiments"


def body(number: int | None, name: str = "prices", **more: Any) -> dict[str, Any]:
    variants = [{"name": "old", "share": 0.5}, {"name": "new", "share": 0.5, "version": number}]
    return {"name": name, "variants": variants, **more}


def ready(api: Api, **config: Any) -> int:
    api.declare(**config)
    return api.add_version(passed=True)


def serve(api: Api, count: int = 200) -> None:
    """Decisions with their costs."""
    told = [
        outcome(identifier, values={"cost_usd": 0.001 * (position % 7)})
        for position, identifier in enumerate(api.decisions(count))
    ]
    api.ok("POST", "/v1/outcomes:batch", content=ndjson(told))


def test_an_experiment_begins_is_listed_and_is_stopped(api: Api) -> None:
    number = ready(api)
    made = api.ok("POST", BASE, body(number, share=0.4), scope="publish")
    assert (made["status"], made["by"], made["policy"]) == ("running", "key:publish key", "chat")
    assert (made["start"], made["end"], made["looks"]) == (0.0, 0.4, 0)
    assert made["variants"] == [
        {"name": "old", "share": 0.5, "version": None},
        {"name": "new", "share": 0.5, "version": number},
    ]
    assert made["plan"]["plans"] == []
    assert "give its standard deviation" in made["plan"]["note"]
    newest = api.ok("GET", "/v1/policies/chat/bundles")["items"][0]
    assert newest["reason"] == "experiment prices begins"
    second = api.ok("POST", BASE, body(number, "tone", share=0.4))
    assert second["start"] == 0.4
    listed = api.ok("GET", f"{BASE}?limit=1", scope="read")
    assert (listed["items"], listed["next"]) == ([second], second["id"])
    assert api.ok("GET", f"{BASE}?before={listed['next']}") == {"items": [made], "next": None}
    path = f"/v1/experiments/{made['id']}"
    assert api.ok("GET", path, scope="read") == made
    stopped = api.ok("POST", f"{path}/stop", scope="publish")
    newest = api.ok("GET", "/v1/policies/chat/bundles")["items"][0]
    assert newest["reason"] == "experiment prices ends"
    assert (stopped["status"], stopped["reason"]) == ("stopped", "stopped by key:publish key")
    assert stopped["ended_at"] is not None
    assert api("POST", f"{path}/stop").status_code == 409


def test_a_preview_shows_part_and_plan_and_begins_nothing(api: Api) -> None:
    number = ready(api)
    serve(api)
    answer = api("POST", f"{BASE}?preview=true", body(number, metric="cost_usd", difference=1e-4))
    assert answer.json()["status"] == "preview"
    assert answer.status_code == 200
    [plan] = answer.json()["plan"]["plans"]
    assert plan["method"] == "ab"
    assert plan["days"] == pytest.approx(plan["decisions"] / plan["requests_per_day"])
    assert answer.json()["plan"]["values"] == 200
    assert api.ok("GET", BASE)["items"] == []
    assert len(api.ok("GET", "/v1/policies/chat/bundles")["items"]) == 1


def test_the_same_idempotency_key_begins_one_experiment(api: Api) -> None:
    number = ready(api)
    first = api.ok("POST", BASE, body(number), idempotency_key="k")
    assert api.ok("POST", BASE, body(number), idempotency_key="k") == first
    assert api("POST", BASE, body(number, "other"), idempotency_key="k").status_code == 409
    assert len(api.ok("GET", BASE)["items"]) == 1


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"variants": [{"name": "a", "share": 1}]}, "variants"),
        ({"variants": [{"name": "a", "share": 0.5}, {"name": "b", "share": 0.4}]}, "variants"),
        ({"variants": [{"name": "a", "share": 0.5}, {"name": "a", "share": 0.5}]}, "variants"),
        ({"variants": [{"name": "a", "share": 0.5}, {"name": "b", "share": 0.5}]}, "variants"),
        ({"name": "canary"}, "name"),
        ({"aa": True}, "variants"),
        ({"share": 0}, "share"),
        ({"holdout": 1}, "holdout"),
        ({"unit": "house"}, "unit"),
        ({"metric": "nothing"}, "metric"),
        ({"guardrails": [{"metric": "latency_s", "margin": 0}]}, "guardrails.margin"),
        ({"guardrails": [{"metric": "reward", "margin": 1}]}, "guardrails"),
        ({"unknown": 1}, "unknown"),
    ],
)
def test_what_compares_nothing_is_422_by_field(
    api: Api, change: dict[str, Any], field: str
) -> None:
    number = ready(api)
    answer = api("POST", BASE, {**body(number), **change})
    assert answer.status_code == 422, answer.text
    assert answer.json()["field"] == field
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_version_that_failed_is_422_with_its_checks_unless_that_is_taken(api: Api) -> None:
    api.declare()
    failed = api.add_version(passed=False)
    answer = api("POST", BASE, body(failed))
    assert answer.status_code == 422
    assert [check["name"] for check in answer.json()["checks"]] == ["over_champion"]
    assert api.ok("POST", BASE, body(failed, unproven=True))["unproven"] is True


def shown(api: Api) -> str:
    headers = {"cookie": f"{pages.COOKIE}={api.tokens['read']}"}
    return str(api.client.get("/", headers=headers).text)


def test_the_page_shows_plan_split_interval_and_verdict(api: Api) -> None:
    number = ready(api)
    assert "Experiments" not in shown(api)
    made = api.ok("POST", BASE, body(number, metric="cost_usd", share=0.4))
    page = shown(api)
    assert "not looked at yet" in page
    assert "by sessions, 40 % of layer default" in page
    assert "no plan: cost_usd has 0 values" in page
    made_ones, told_ones = [], []
    for position in range(300):
        variant, cost = (("old", 0.001), ("new", 0.002))[position % 2]
        line = decision(split="prices", variant=variant, unit=f"unit-{position}")
        made_ones.append(line)
        values = {"cost_usd": cost * (1 + position % 4 // 2)}
        told_ones.append(outcome(line["decision_id"], values=values))
    api.ok("POST", "/v1/decisions:batch", content=ndjson(made_ones))
    api.ok("POST", "/v1/outcomes:batch", content=ndjson(told_ones))
    due = """UPDATE experiments SET state = state || '{"look_at": "2020-01-01T00:00:00Z"}'"""
    with api.engine.begin() as connection:
        connection.exec_driver_sql(due)
    looker = Publisher((SIGNER,), timedelta(days=7))
    experiments.look(api.engine, looker, api.policy_id(), now=datetime.now(UTC))
    page = shown(api)
    assert '<span class="badge bad">worse</span> prices' in page
    assert "old 150, new 150 units, p = 1 ✓" in page
    assert "new is worse: cost_usd +0.0015 against old" in page
    assert '<svg class="interval"' in page
    told = api.ok("GET", f"/v1/experiments/{made['id']}")
    assert (told["status"], told["decided"]["status"]) == ("ended", "worse")
    assert told["result"]["counts"]["new"]["units"] == 150


def test_another_project_sees_and_stops_nothing(api: Api, other: Api) -> None:
    made = api.ok("POST", BASE, body(ready(api)))
    path = f"/v1/experiments/{made['id']}"
    for call in (("GET", path), ("POST", f"{path}/stop"), ("GET", BASE), ("GET", path + "0")):
        assert other(*call).status_code in {404, 422}, call
    assert other("GET", path).status_code == 404
    # Its layers are its own.
    other_made = other.ok("POST", BASE, body(ready(other)))
    assert (other_made["start"], other_made["end"]) == (0.0, 1.0)
    assert api.ok("GET", path)["status"] == "running"
    assert api("GET", f"/v1/experiments/{new_id()}").status_code == 404


def test_the_plan_tells_how_long_it_takes_or_what_is_missing(
    api: Api, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    api.declare()
    path = "/v1/policies/chat/plan?difference=0.02"
    missing = api("GET", path)
    assert (missing.status_code, missing.json()["field"]) == (422, "deviation")
    missing = api("GET", f"{path}&deviation=0.5")
    assert (missing.status_code, missing.json()["field"]) == (422, "requests_per_day")
    told = api.ok("GET", f"{path}&deviation=0.5&requests_per_day=1000", scope="read")
    assert [one["method"] for one in told["plans"]] == ["ab", "fixed", "anytime"]
    [split, *_] = told["plans"]
    assert split["days"] == pytest.approx(split["decisions"] / 1_000)
    half = api.ok("GET", f"{path}&deviation=0.5&requests_per_day=1000&traffic=0.5")["plans"][0]
    assert (half["decisions"], half["days"]) == (split["decisions"], 2 * split["days"])
    assert api("GET", "/v1/policies/chat/plan?difference=0").json()["field"] == "difference"
    url = api.engine.url.render_as_string(hide_password=False)
    monkeypatch.setenv("POINTSMAN_DATABASE_URL", url)
    more = ["--difference", "0.02", "--deviation", "0.5", "--requests-per-day", "1000"]
    asked = ["--policy", "chat", *more]
    assert plan_cli.main([*asked, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        name: value for name, value in told.items() if name != "note"
    }
    assert plan_cli.main(asked) == 0
    assert split["sentence"] in capsys.readouterr().out
    assert plan_cli.main(["--policy", "nobody", *more]) == 1
    assert "nobody" in capsys.readouterr().err
