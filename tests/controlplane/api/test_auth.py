import re
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from fastapi import FastAPI

from controlplane import keys
from tests.controlplane.api.conftest import Api

READERS = {"read", "publish", "admin"}
PUBLISHERS = {"publish", "admin"}
UPLOADERS = {"edge", "ingest", "admin"}
ALLOWED = {
    "POST /v1/decisions:batch": UPLOADERS,
    "POST /v1/outcomes:batch": UPLOADERS,
    "POST /v1/feedback": {"ingest", "admin"},
    "POST /v1/feedback:batch": {"ingest", "admin"},
    "DELETE /v1/feedback/{feedback_id}": {"ingest", "admin"},
    "GET /v1/metrics": READERS,
    "GET /v1/metrics/{name}": READERS,
    "PUT /v1/metrics/{name}": PUBLISHERS,
    "GET /v1/pools/{pool}/arms": READERS,
    "GET /v1/pools/{pool}/arms/{arm}": READERS,
    "PUT /v1/pools/{pool}/arms/{arm}": PUBLISHERS,
    "DELETE /v1/pools/{pool}/arms/{arm}": PUBLISHERS,
    "GET /v1/rewards/{policy}": READERS,
    "PUT /v1/rewards/{policy}": PUBLISHERS,
    "GET /v1/policies": READERS,
    "GET /v1/policies/{policy}": READERS,
    "PUT /v1/policies/{policy}": PUBLISHERS,
    "GET /v1/policies/{policy}/status": READERS,
    "POST /v1/policies/{policy}/rounds": PUBLISHERS,
    "GET /v1/policies/{policy}/versions": READERS,
    "GET /v1/policies/{policy}/versions/{version}": READERS,
    "POST /v1/policies/{policy}/versions/{version}/evaluations": PUBLISHERS,
    "GET /v1/policies/{policy}/versions/{version}/compare/{other}": READERS,
    "GET /v1/policies/{policy}/verdicts": READERS,
    "GET /v1/policies/{policy}/bundles": READERS,
    "PUT /v1/policies/{policy}/aliases/champion": PUBLISHERS,
    "POST /v1/policies/{policy}/rollback": PUBLISHERS,
    "GET /v1/policies/{policy}/findings": READERS,
    "GET /v1/policies/{policy}/heads": READERS,
    "GET /v1/policies/{policy}/heads/{head}/versions": READERS,
    "POST /v1/policies/{policy}/heads/{head}/publish": PUBLISHERS,
    "POST /v1/policies/{policy}/heads/{head}/rollback": PUBLISHERS,
    "GET /v1/policies/{policy}/lint": READERS,
    "POST /v1/policies/{policy}/unfreeze": PUBLISHERS,
    "PUT /v1/policies/{policy}/aliases/challenger": PUBLISHERS,
    "GET /v1/policies/{policy}/aliases/{alias}": READERS,
    "PUT /v1/policies/{policy}/aliases/{alias}": PUBLISHERS,
    "DELETE /v1/policies/{policy}/aliases/{alias}": PUBLISHERS,
    "GET /v1/policies/{policy}/releases": READERS,
    "GET /v1/policies/{policy}/releases/{release}": READERS,
    "POST /v1/policies/{policy}/releases/{release}/approve": PUBLISHERS,
    "POST /v1/policies/{policy}/releases/{release}/revert": PUBLISHERS,
    "GET /v1/policies/{policy}/experiments": READERS,
    "POST /v1/policies/{policy}/experiments": PUBLISHERS,
    "GET /v1/policies/{policy}/plan": READERS,
    "GET /v1/experiments/{experiment}": READERS,
    "POST /v1/experiments/{experiment}/stop": PUBLISHERS,
    "GET /v1/bundles/{policy}": {"edge", "admin"},
    "POST /v1/edges/{edge_id}/status": {"edge", "admin"},
    "GET /v1/edges": READERS,
    "GET /v1/keys": {"admin"},
    "POST /v1/keys": {"admin"},
    "DELETE /v1/keys/{key_id}": {"admin"},
}
EXAMPLES = {
    "version": "7",
    "other": "8",
    "release": "7",
    "alias": "shadow",
    "feedback_id": str(UUID(int=0)),
    "key_id": str(UUID(int=0)),
    "experiment": str(UUID(int=0)),
}


def path_of(operation: str) -> tuple[str, str]:
    method, path = operation.split(" ")
    return method, re.sub(r"\{(\w+)\}", lambda name: EXAMPLES.get(name[1], "nothing"), path)


def operations(app: FastAPI) -> set[str]:
    document: dict[str, Any] = app.openapi()
    return {
        f"{method.upper()} {path}"
        for path, methods in document["paths"].items()
        for method in methods
        if path.startswith("/v1/")
    }


def test_every_route_states_which_keys_may_call_it(app: FastAPI) -> None:
    assert operations(app) == set(ALLOWED)


def test_without_a_key_every_route_answers_401(api: Api) -> None:
    for operation in ALLOWED:
        answer = api(*path_of(operation), scope=None)
        assert answer.status_code == 401, operation
        assert answer.headers["www-authenticate"] == "Bearer"
        assert answer.headers["content-type"] == "application/problem+json"
        assert "Authorization: Bearer" in answer.json()["remedy"]


@pytest.mark.parametrize("scope", keys.SCOPES)
def test_a_key_opens_the_routes_of_its_scope_and_no_other(api: Api, scope: str) -> None:
    for operation, allowed in ALLOWED.items():
        answer = api(*path_of(operation), scope=scope)
        assert (answer.status_code == 403) == (scope not in allowed), operation
        if answer.status_code == 403:
            assert scope in answer.json()["detail"]


@pytest.mark.parametrize(
    "token",
    ["", "x", "pm_", "pm_a_b", "pm_000000000000_secret", "pm__", "Bearer", "pm_%00_x", "pm_é_x"],
)
def test_a_token_that_is_none_of_ours_is_401(api: Api, token: str) -> None:
    header = f"Bearer {token}".encode("latin-1")
    answer = api.client.get("/v1/policies", headers={b"authorization": header})
    assert answer.status_code == 401


def test_another_secret_under_a_known_prefix_is_401(api: Api) -> None:
    prefix = api.tokens["admin"].split("_")[1]
    header = {"authorization": f"Bearer pm_{prefix}_{'A' * 43}"}
    assert api.client.get("/v1/policies", headers=header).status_code == 401


def test_another_scheme_is_401(api: Api) -> None:
    header = {"authorization": f"Basic {api.tokens['admin']}"}
    assert api.client.get("/v1/policies", headers=header).status_code == 401


def test_a_revoked_key_is_401_at_once(api: Api) -> None:
    assert api("GET", "/v1/policies", scope="read").status_code == 200
    prefix = api.tokens["read"].split("_")[1]
    found = next(k for k in api.ok("GET", "/v1/keys")["items"] if k["prefix"] == prefix)
    with api.engine.begin() as connection:
        keys.revoke(connection, api.project_id, UUID(found["id"]), datetime.now(UTC))
    assert api("GET", "/v1/policies", scope="read").status_code == 401


def test_a_missing_key_is_said_before_a_wrong_body(api: Api) -> None:
    assert api("POST", "/v1/feedback", {"nonsense": 1}, scope=None).status_code == 401
