"""The API in this process over a real database, with a key of every scope and another project's."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fastapi import FastAPI
from starlette.testclient import TestClient

from controlplane import keys, registry
from controlplane.api.app import create_app
from controlplane.config import PolicyConfig
from controlplane.publishing import Publisher
from controlplane.settings import Settings
from learners.ids import ENTROPY_BYTES, uuid7
from storage import projects, versions
from storage.versions import StoredVerdict

ARMS = ("large", "small")
SIGNER = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


@dataclass(frozen=True, slots=True)
class Api:
    """Calls as a project's keys."""

    client: TestClient
    engine: sa.Engine
    project_id: UUID
    tokens: Mapping[str, str]

    def __call__(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        scope: str | None = "admin",
        content: bytes | None = None,
        **headers: str,
    ) -> Any:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if scope is not None:
            named["authorization"] = f"Bearer {self.tokens[scope]}"
        more: dict[str, Any] = {"json": body} if body is not None else {}
        if content is not None:
            more["content"] = content
        return self.client.request(method, path, headers=named, **more)

    def ok(self, method: str, path: str, body: Any = None, **more: Any) -> Any:
        answer = self(method, path, body, **more)
        assert answer.status_code < 300, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json() if answer.content else None

    def declare(self, policy: str = "chat", **config: Any) -> None:
        for arm in ARMS:
            body = {"model": arm, "endpoint": "http://127.0.0.1:9/v1"}
            self.ok("PUT", f"/v1/pools/main/arms/{arm}", body)
        self.ok("PUT", "/v1/metrics/score", {"range": [0, 1], "wait_s": 0})
        self.ok("PUT", f"/v1/policies/{policy}", {"pool": "main", **config})
        self.ok("PUT", f"/v1/rewards/{policy}", {"expression": "score"})

    def policy_id(self, policy: str = "chat") -> UUID:
        with self.engine.connect() as connection:
            return registry.find_policy(connection, self.project_id, policy).id

    def add_version(self, *, passed: bool | None, policy: str = "chat") -> int:
        """A candidate beside version 1, with a verdict unless ``passed`` is None."""
        now = datetime.now(UTC)
        with self.engine.begin() as connection:
            found = registry.find_policy(connection, self.project_id, policy)
            number = versions.next_version(connection, found.id)
            made = registry.explorer(found, ARMS, PolicyConfig(), now)
            versions.add_version(connection, replace(made, number=number))
            if passed is not None:
                said = verdict(found.id, number, now, passed=passed)
                champion = versions.find_alias(connection, found.id, "champion")
                assert champion is not None
                said.numbers["champion_version"] = champion[0]
                versions.add_verdict(connection, said)
        return number

    def decisions(self, count: int = 1, policy: str = "chat", **fields: Any) -> list[str]:
        """Upload decisions; returns their ids."""
        lines = [decision(policy=policy, **fields) for _ in range(count)]
        answer = self.ok("POST", "/v1/decisions:batch", content=ndjson(lines))
        assert answer == {"accepted": count, "duplicates": 0, "rejected": []}
        return [line["decision_id"] for line in lines]


def verdict(policy_id: UUID, number: int, now: datetime, *, passed: bool) -> StoredVerdict:
    value = 0.05 if passed else -0.02
    checks = [
        {"name": "judged", "passed": True, "value": 500.0, "bound": 200.0, "detail": "500 judged"},
        {
            "name": "over_champion",
            "passed": passed,
            "value": value,
            "bound": 0.0,
            "detail": f"{value:+.4f} against the champion",
        },
    ]
    estimate = {"value": value, "low": value, "high": 0.2, "level": 0.95}
    summary = "better" if passed else "not released: no better"
    return StoredVerdict(
        id=new_id(now),
        policy_id=policy_id,
        version=number,
        gate="release",
        passed=passed,
        summary=summary,
        numbers={"judged": 500, "over_champion": estimate},
        checks=checks,
        created_at=now,
    )


def new_id(at: datetime | None = None) -> UUID:
    return uuid7(at or datetime.now(UTC), os.urandom(ENTROPY_BYTES))


def decision(**fields: Any) -> dict[str, Any]:
    return {
        "decision_id": str(new_id()),
        "policy": "chat",
        "version": 1,
        "serial": 1,
        "digest": "d",
        "at": datetime.now(UTC).isoformat(),
        "context": {"chars": 5.0},
        "eligible": list(ARMS),
        "distribution": [0.5, 0.5],
        "action": "small",
        "propensity": 0.5,
        "mode": "policy",
        "edge_id": "edge-1",
        **fields,
    }


def outcome(decision_id: str, **fields: Any) -> dict[str, Any]:
    return {
        "decision_id": decision_id,
        "at": datetime.now(UTC).isoformat(),
        "values": {"latency_s": 0.5, "cost_usd": 0.001},
        **fields,
    }


def ndjson(lines: Sequence[Mapping[str, Any]]) -> bytes:
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def new_project(engine: sa.Engine, client: TestClient, name: str) -> Api:
    now = datetime.now(UTC)
    with engine.begin() as connection:
        project = projects.ensure_project(connection, new_id(now), name, now)
        tokens = {
            scope: keys.mint(
                connection, project, name=f"{scope} key", scopes=[scope], now=now
            ).token
            for scope in keys.SCOPES
        }
    return Api(client, engine, project, tokens)


@pytest.fixture
def app(engine: sa.Engine) -> FastAPI:
    return create_app(Settings(), engine, Publisher((SIGNER,), timedelta(days=7)))


@pytest.fixture
def client(app: FastAPI) -> Iterator[TestClient]:
    with TestClient(app, raise_server_exceptions=False) as opened:
        yield opened


@pytest.fixture
def api(engine: sa.Engine, client: TestClient) -> Api:
    return new_project(engine, client, "default")


@pytest.fixture
def other(engine: sa.Engine, client: TestClient) -> Api:
    """Another project on the same installation."""
    return new_project(engine, client, "other")
