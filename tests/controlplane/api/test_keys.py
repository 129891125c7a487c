from typing import Any

import pytest
import sqlalchemy as sa

from tests.controlplane.api.conftest import Api, new_id


def test_a_new_key_works_and_its_token_is_shown_once(api: Api) -> None:
    answer = api("POST", "/v1/keys", {"name": "app", "scopes": ["read"]})
    assert answer.status_code == 201
    token = answer.json()["token"]
    found = api.client.get("/v1/policies", headers={"authorization": f"Bearer {token}"})
    assert found.status_code == 200
    listed = api.ok("GET", "/v1/keys")["items"][-1]
    assert (listed["name"], listed["prefix"]) == ("app", token.split("_")[1])
    assert "token" not in listed
    assert token.split("_", 2)[2] not in api("GET", "/v1/keys").text


def test_a_repeated_request_makes_no_second_key_and_stores_no_token(api: Api) -> None:
    body = {"name": "app", "scopes": ["read"]}
    before = len(api.ok("GET", "/v1/keys")["items"])
    first = api.ok("POST", "/v1/keys", body, idempotency_key="k")
    again = api.ok("POST", "/v1/keys", body, idempotency_key="k")
    assert again == {**first, "token": None}
    assert len(api.ok("GET", "/v1/keys")["items"]) == before + 1
    with api.engine.connect() as connection:
        stored = connection.execute(sa.text("SELECT response::text FROM idempotency_keys")).scalar()
    assert first["token"].split("_", 2)[2] not in str(stored)
    other = {"name": "app", "scopes": ["admin"]}
    assert api("POST", "/v1/keys", other, idempotency_key="k").status_code == 409


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"name": "a", "scopes": []}, "scopes"),
        ({"name": "a", "scopes": ["root"]}, "scopes.0"),
        ({"name": "", "scopes": ["read"]}, "name"),
        ({"name": "a\x00", "scopes": ["read"]}, "name"),
        ({"name": "a", "scopes": ["read"], "token": "x"}, "token"),
    ],
)
def test_a_key_that_may_nothing_or_anything_is_refused(api: Api, body: Any, field: str) -> None:
    answer = api("POST", "/v1/keys", body)
    assert answer.status_code == 422
    assert answer.json()["field"] == field


@pytest.mark.parametrize("key", ["a b", "é", "x" * 201])
def test_an_idempotency_key_is_short_and_printable(api: Api, key: str) -> None:
    headers = {b"idempotency-key": key.encode("latin-1")}
    headers[b"authorization"] = f"Bearer {api.tokens['admin']}".encode()
    answer = api.client.post(
        "/v1/keys", json={"name": "a", "scopes": ["read"]}, headers=list(headers.items())
    )
    assert answer.status_code == 422
    assert answer.json()["field"] == "Idempotency-Key"


def test_a_revoked_key_stays_listed_and_an_unknown_one_is_404(api: Api) -> None:
    made = api.ok("POST", "/v1/keys", {"name": "app", "scopes": ["read"]})
    assert api("DELETE", f"/v1/keys/{made['id']}").status_code == 204
    assert api.ok("GET", "/v1/keys")["items"][-1]["revoked_at"]
    assert api("DELETE", f"/v1/keys/{new_id()}").status_code == 404
