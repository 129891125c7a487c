"""Versions, their verdicts, and which one serves."""

from dataclasses import fields
from typing import Annotated, Any

import sqlalchemy as sa
from fastapi import APIRouter, Query

from controlplane import lineups, registry, releases
from controlplane.api.answers import (
    BundleRow,
    BundlesAnswer,
    PublishedAnswer,
    VerdictAnswer,
    VerdictsAnswer,
    VersionAnswer,
    VersionRow,
    VersionsAnswer,
)
from controlplane.api.auth import Publishing, Reader
from controlplane.api.idempotency import IdempotencyKey, once
from controlplane.api.runtime import Api, now
from controlplane.api.wire import Name, VersionNumber
from controlplane.errors import NotFoundError
from storage import versions
from storage.policies import StoredPolicy
from storage.versions import StoredVerdict

router = APIRouter(prefix="/v1/policies/{policy}", tags=["versions"])

Limit = Annotated[int, Query(ge=1, le=200)]


@router.get("/versions")
def list_versions(
    policy: Name,
    caller: Reader,
    api: Api,
    limit: Limit = 50,
    before: Annotated[int | None, Query(ge=1, le=2**62)] = None,
) -> VersionsAnswer:
    """A policy's versions, newest first."""
    with api.engine.connect() as connection:
        found = registry.find_policy(connection, caller.project_id, policy)
        rows = versions.list_versions(connection, found.id, limit=limit + 1, before=before)
        rows = lineups.as_they_stand(rows, lineups.roles(connection, found.id))
    items = [VersionRow.model_validate(row) for row in rows[:limit]]
    return VersionsAnswer(items=items, next=items[-1].number if len(rows) > limit else None)


@router.get("/versions/{version}")
def get_version(policy: Name, version: VersionNumber, caller: Reader, api: Api) -> VersionAnswer:
    """One version: what it was made from, and what was said of it."""
    with api.engine.connect() as connection:
        found = registry.find_policy(connection, caller.project_id, policy)
        rows = versions.list_versions(connection, found.id, limit=1, before=version + 1)
        if not rows or rows[0]["number"] != version:
            raise NotFoundError(f"policy {policy!r} has no version {version}")
        rows = lineups.as_they_stand(rows, lineups.roles(connection, found.id))
        said = verdicts_of(connection, found, version=version)
    return VersionAnswer.model_validate({**rows[0], "verdicts": said})


@router.get("/verdicts")
def list_verdicts(
    policy: Name,
    caller: Reader,
    api: Api,
    limit: Limit = 50,
    version: Annotated[int | None, Query(ge=1, le=2**62)] = None,
) -> VerdictsAnswer:
    """What the gate said, newest first."""
    with api.engine.connect() as connection:
        found = registry.find_policy(connection, caller.project_id, policy)
        return VerdictsAnswer(items=verdicts_of(connection, found, version=version, limit=limit))


@router.get("/bundles")
def list_bundles(policy: Name, caller: Reader, api: Api, limit: Limit = 50) -> BundlesAnswer:
    """What was published, newest first, and why."""
    with api.engine.connect() as connection:
        found = registry.find_policy(connection, caller.project_id, policy)
        rows = versions.list_bundles(connection, found.id, limit=limit)
    return BundlesAnswer(items=[BundleRow.model_validate(row) for row in rows])


@router.post("/rollback")
def roll_back(
    policy: Name, caller: Publishing, api: Api, key: IdempotencyKey = None
) -> PublishedAnswer:
    """Undo what was published last, under a new, higher serial.

    A release that is under way is sent back; without one, the version serves that served before
    the champion. Either way the policy stops promoting by itself.
    """
    at = now()
    with api.engine.begin() as connection:
        found = registry.find_policy(connection, caller.project_id, policy)

        def act() -> dict[str, int]:
            bundle = releases.rollback(connection, api.publisher, found.id, now=at)
            return {"version": bundle.version, "serial": bundle.serial}

        answer, _ = once(
            connection, caller, key, {"route": "rollback", "policy": policy}, act, now=at
        )
    return PublishedAnswer.model_validate(answer)


def verdicts_of(
    connection: sa.Connection, policy: StoredPolicy, *, version: int | None = None, limit: int = 50
) -> list[VerdictAnswer]:
    """Verdicts newest first, each with its version's learner, where the version still stands."""
    rows = versions.list_verdicts(connection, policy.id, version=version, limit=limit)
    learner = versions.learners_of(connection, policy.id, [row.version for row in rows])
    return [
        VerdictAnswer.model_validate({**_fields(row), "learner": learner.get(row.version)})
        for row in rows
    ]


def _fields(verdict: StoredVerdict) -> dict[str, Any]:
    """As they are: to copy a verdict's many numbers would take longer than to read them."""
    return {field.name: getattr(verdict, field.name) for field in fields(verdict)}
