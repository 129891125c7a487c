from datetime import timedelta

import pytest
import sqlalchemy as sa
from fastapi import FastAPI
from starlette.testclient import TestClient

from controlplane.api.app import create_app
from controlplane.publishing import Publisher
from controlplane.settings import Settings
from storage.engine import connect
from tests.controlplane.api.conftest import SIGNER, Api


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nothing", 404), ("POST", "/healthz", 405), ("GET", "/v1/policies/", 404)],
)
def test_what_is_not_there_is_a_problem_too(api: Api, method: str, path: str, status: int) -> None:
    answer = api(method, path)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert (problem["type"], problem["status"]) == ("about:blank", status)
    assert problem["title"]
    assert "/openapi.json" in problem["detail"]


def test_a_refused_field_is_named_with_its_value_and_a_remedy(api: Api) -> None:
    answer = api("PUT", "/v1/metrics/m", {"wait_s": "soon"})
    problem = answer.json()
    assert (answer.status_code, problem["field"], problem["value"]) == (422, "wait_s", "'soon'")
    assert problem["remedy"]
    assert problem["title"].startswith("Unprocessable")


def test_a_body_that_is_not_json_is_400_and_says_where(api: Api) -> None:
    body = b'{"type": boolean}'
    answer = api("PUT", "/v1/metrics/m", content=body, content_type="application/json")
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"
    assert "character 9" in answer.json()["detail"]


def test_a_long_value_is_cut_short(api: Api) -> None:
    answer = api("PUT", "/v1/metrics/m", {"wait_s": "x" * 100_000})
    assert len(answer.json()["value"]) <= 200


def test_an_unexpected_error_tells_the_log_and_not_the_caller(app: FastAPI) -> None:
    def fail() -> None:
        raise RuntimeError("the secret is 1234")

    app.get("/fail")(fail)
    with TestClient(app, raise_server_exceptions=False) as client:
        answer = client.get("/fail")
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert "1234" not in answer.text
    assert "Traceback" not in answer.text


def test_a_database_that_is_away_is_503_and_said_to_come_back() -> None:
    engine = connect("postgresql://nobody@127.0.0.1:1/none")
    app = create_app(Settings(), engine, Publisher((SIGNER,), timedelta(days=1)))
    with TestClient(app, raise_server_exceptions=False) as client:
        answer = client.get("/v1/policies", headers={"authorization": "Bearer pm_a_b"})
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "1"
        assert client.get("/healthz").status_code == 200
        assert client.get("/readyz").status_code == 503
    engine.dispose()


def test_a_database_without_tables_is_not_ready(empty_database_url: str) -> None:
    engine = connect(empty_database_url)
    app = create_app(Settings(), engine, Publisher((SIGNER,), timedelta(days=1)))
    with TestClient(app) as client:
        answer = client.get("/readyz")
    assert answer.status_code == 503
    assert "pointsman migrate" in answer.json()["remedy"]
    engine.dispose()


def test_a_migrated_database_is_ready(api: Api) -> None:
    assert api.ok("GET", "/readyz", scope=None) == {"status": "ok"}
    assert api.ok("GET", "/healthz", scope=None) == {"status": "ok"}


def test_a_transaction_that_fails_leaves_nothing(api: Api, engine: sa.Engine) -> None:
    answer = api("PUT", "/v1/policies/chat", {"pool": "main"})
    assert answer.status_code == 404
    with engine.connect() as connection:
        assert connection.execute(sa.text("SELECT count(*) FROM policies")).scalar_one() == 0
