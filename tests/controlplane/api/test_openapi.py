import json
import re
from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI

from controlplane.api.limits import MAX_BODY
from controlplane.api.uploads import MAX_COMPRESSED
from feedback.lines import MAX_LINES
from tests.controlplane.api.conftest import Api


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def test_the_document_is_served_without_a_key(api: Api) -> None:
    answer = api("GET", "/openapi.json", scope=None)
    assert answer.status_code == 200
    assert answer.json()["openapi"].startswith("3.1")
    assert answer.json()["info"]["title"] == "Pointsman"


def test_every_reference_of_the_document_leads_somewhere(app: FastAPI) -> None:
    document = app.openapi()
    found = set(re.findall(r'"\$ref": "#/components/schemas/([^"]+)"', json.dumps(document)))
    assert found
    assert found <= set(document["components"]["schemas"])


def test_every_operation_has_its_own_id_and_declares_its_path(app: FastAPI) -> None:
    ids = []
    for name, operation in operations(app.openapi()):
        ids.append(operation["operationId"])
        wanted = set(re.findall(r"\{(\w+)\}", name))
        given = {p["name"] for p in operation.get("parameters", []) if p["in"] == "path"}
        assert given == wanted, name
        assert operation["responses"]
    assert len(set(ids)) == len(ids)


def test_every_body_states_its_limit(app: FastAPI) -> None:
    bodies = {
        name: operation["requestBody"]
        for name, operation in operations(app.openapi())
        if "requestBody" in operation
    }
    upload = bodies.pop("POST /v1/decisions:batch")
    assert (upload["x-max-bytes"], upload["x-max-lines"]) == (MAX_COMPRESSED, MAX_LINES)
    assert bodies.pop("POST /v1/outcomes:batch")["x-max-bytes"] == MAX_COMPRESSED
    assert len(bodies) >= 9
    for name, body in bodies.items():
        assert body["x-max-bytes"] == MAX_BODY, name
        assert "bytes" in body["description"]


def test_every_operation_states_its_errors_and_its_key(app: FastAPI) -> None:
    document = app.openapi()
    [scheme] = document["components"]["securitySchemes"].values()
    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")
    for name, operation in operations(document):
        problem = operation["responses"]["default"]["content"]["application/problem+json"]
        assert problem["schema"]["$ref"].endswith("/Problem")
        assert "422" not in operation["responses"]
        if " /v1/" in name:
            assert operation["security"] == [{"key": []}], name


def test_the_items_of_a_batch_are_described(app: FastAPI) -> None:
    schemas = app.openapi()["components"]["schemas"]
    items = schemas["FeedbackBatchBody"]["properties"]["items"]
    assert items["items"]["$ref"].endswith("/FeedbackItem")
    assert items["maxItems"] == 1_000
    assert "idempotency_key" in schemas["FeedbackItem"]["properties"]


def test_bodies_refuse_what_they_do_not_know(app: FastAPI) -> None:
    schemas = app.openapi()["components"]["schemas"]
    for name in ("FeedbackBody", "PolicyBody", "GateConfig", "LearnerConfig", "ArmBody", "KeyBody"):
        assert schemas[name]["additionalProperties"] is False, name
