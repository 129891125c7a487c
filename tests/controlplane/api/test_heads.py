"""Heads over HTTP."""

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from controlplane import heads
from controlplane.publishing import Publisher
from tests.controlplane.api.conftest import SIGNER, Api

SIZE = 4
TOPIC = {
    "name": "topic",
    "metric": "topic",
    "classes": ["maths", "law"],
    "feature": "sense",
    "size": SIZE,
}
PATH = "/v1/policies/chat/heads"


def teach(
    api: Api, count: int = 160, *, seed: int = 0, names: tuple[str, str] = ("maths", "law")
) -> None:
    """Decisions, each with feedback on what it was about, and a look of the worker."""
    random = np.random.default_rng(seed)
    labels = random.integers(2, size=count)
    items = []
    for label in labels:
        vector = (random.normal(size=SIZE) + 3 * label).round(3).tolist()
        (made,) = api.decisions(context={"sense": vector})
        items.append({"decision_id": made, "metric": "topic", "value": names[label]})
    api.ok("POST", "/v1/feedback:batch", {"items": items})
    publisher = Publisher((SIGNER,), heads.EVERY)
    heads.step(api.engine, publisher, api.policy_id(), now=datetime.now(UTC))


@pytest.fixture
def taught(api: Api) -> Api:
    api.ok("PUT", "/v1/metrics/topic", {"type": "category", "categories": {"maths": 1, "law": 0}})
    api.declare(heads=[TOPIC])
    teach(api)
    return api


def test_a_head_shows_what_it_is_and_the_numbers_of_its_versions(taught: Api) -> None:
    (head,) = taught.ok("GET", PATH, scope="read")["items"]
    assert {name: head[name] for name in TOPIC if name != "metric"} == {
        name: value for name, value in TOPIC.items() if name != "metric"
    }
    assert (head["serving"], head["kind"], head["held"]) == (1, "softmax", None)
    newest = head["newest"]
    assert newest["passed"]
    assert newest["state"] == "serving"
    assert {"log_loss", "brier", "ece", "auroc", "aupr"} < set(newest["numbers"]["own"])
    found = taught.ok("GET", f"{PATH}/topic/versions", scope="read")
    assert found == {"items": [newest], "next": None}
    checks = {check["name"]: check["passed"] for check in newest["checks"]}
    assert checks == dict.fromkeys(
        ("trained", "judged", "effective_n", "calibration", "over_serving"), True
    )


def test_labels_that_teach_nothing_are_shown_with_what_mends_them(api: Api) -> None:
    categories = {"maths": 1, "law": 0, "<b>art</b>": 0}
    api.ok("PUT", "/v1/metrics/topic", {"type": "category", "categories": categories})
    api.declare(heads=[TOPIC])
    (head,) = api.ok("GET", PATH, scope="read")["items"]
    assert head["labels"] is None
    teach(api, 50, names=("maths", "<b>art</b>"))
    (head,) = api.ok("GET", PATH, scope="read")["items"]
    (unfit,) = head["labels"]["unfit"]
    assert head["labels"]["usable"] + unfit["count"] == 50
    assert head["labels"]["needed"] == 58
    assert unfit["why"] == "class"
    assert "none of the classes ['maths', 'law'], but '<b>art</b>'" in unfit["remedy"]
    page = api.client.get("/", headers={"cookie": f"pointsman_key={api.tokens['read']}"}).text
    assert f"{unfit['count']} labels teach nothing" in page
    assert "&lt;b&gt;art&lt;/b&gt;" in page
    assert "<b>art</b>" not in page
    (finding,) = api.ok("GET", "/v1/policies/chat/findings", scope="read")["items"]
    assert finding["monitor"] == "head_labels"


def test_a_rollback_is_done_once_by_its_key(taught: Api) -> None:
    first = taught.ok("POST", f"{PATH}/topic/rollback", scope="publish", idempotency_key="k")
    again = taught.ok("POST", f"{PATH}/topic/rollback", scope="publish", idempotency_key="k")
    assert first == again
    assert first["serving"] is None
    assert taught("POST", f"{PATH}/topic/rollback").status_code == 404
    policy = taught.ok("GET", "/v1/policies/chat")
    assert policy["heads"][0]["auto_publish"] is False
    back = taught.ok("POST", f"{PATH}/topic/publish", {"version": 1}, scope="publish")
    assert back["serving"] == 1
    assert back["serial"] > first["serial"]


@pytest.mark.usefixtures("taught")
def test_another_project_sees_and_moves_no_head(other: Api) -> None:
    assert other("GET", PATH).status_code == 404
    assert other("GET", f"{PATH}/topic/versions").status_code == 404
    assert other("POST", f"{PATH}/topic/rollback").status_code == 404
    assert other("POST", f"{PATH}/topic/publish", {"version": 1}).status_code == 404


def test_what_is_not_there_or_may_not_serve_is_refused(taught: Api) -> None:
    for path in ("other/versions", "Topic/versions"):
        assert taught("GET", f"{PATH}/{path}").status_code in {404, 422}
    assert taught("POST", f"{PATH}/topic/publish", {"version": 7}).status_code == 404
    assert taught("POST", f"{PATH}/topic/rollback", scope="read").status_code == 403
    changed = {**TOPIC, "classes": ["law", "maths"]}
    taught.ok("PUT", "/v1/policies/chat", {"pool": "main", "heads": [changed]})
    answer = taught("POST", f"{PATH}/topic/publish", {"version": 1})
    assert answer.status_code == 422
    assert "declared anew" in answer.json()["detail"]


def test_a_bad_declaration_names_field_and_remedy(api: Api) -> None:
    api.declare()
    cases: list[tuple[dict[str, Any], str, str]] = [
        ({**TOPIC, "name": "terms"}, "heads.name", "none of"),
        ({**TOPIC, "metric": "nobody"}, "heads.metric", "PUT /v1/metrics/nobody"),
        ({**TOPIC, "share": 2}, "heads.share", "out of range"),
    ]
    for head, field, remedy in cases:
        answer = api("PUT", "/v1/policies/chat", {"pool": "main", "heads": [head]})
        assert answer.status_code == 422
        assert answer.json()["field"] == field
        assert remedy in answer.json()["detail"]


def test_the_page_shows_the_heads(taught: Api) -> None:
    page = taught.client.get("/", headers={"cookie": f"pointsman_key={taught.tokens['read']}"})
    assert page.status_code == 200
    assert "<h3>Heads</h3>" in page.text
    assert "topic" in page.text
