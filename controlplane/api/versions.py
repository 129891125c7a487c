"""Versions, their verdicts, and which one serves."""

import re
from dataclasses import asdict
from typing import Annotated

import sqlalchemy as sa
from fastapi import APIRouter, Header, Query, Response

from controlplane import lineups, publishing, registry, releases
from controlplane.api.answers import (
    BundleRow,
    BundlesAnswer,
    ChampionAnswer,
    PublishedAnswer,
    VerdictAnswer,
    VerdictsAnswer,
    VersionAnswer,
    VersionRow,
    VersionsAnswer,
)
from controlplane.api.auth import Publishing, Reader
from controlplane.api.errors import ProblemError
from controlplane.api.idempotency import IdempotencyKey, once
from controlplane.api.runtime import Api, now
from controlplane.api.wire import AliasBody, Name, VersionNumber
from controlplane.errors import NotFoundError, StaleError
from controlplane.publishing import CHAMPION
from storage import versions
from storage.policies import StoredPolicy

router = APIRouter(prefix="/v1/policies/{policy}", tags=["versions"])

Limit = Annotated[int, Query(ge=1, le=200)]
_REVISION = re.compile(r'"(\d{1,18})"')


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


@router.get("/aliases/champion")
def get_champion(policy: Name, caller: Reader, api: Api, response: Response) -> ChampionAnswer:
    """The version that serves; its ETag is what a change must send as If-Match."""
    with api.engine.connect() as connection:
        found = registry.find_policy(connection, caller.project_id, policy)
        return _champion(connection, found, response)


@router.put("/aliases/champion")
def put_champion(
    policy: Name,
    body: AliasBody,
    *,
    caller: Publishing,
    api: Api,
    response: Response,
    if_match: Annotated[str | None, Header(max_length=64)] = None,
) -> ChampionAnswer:
    """Have a version serve whose newest verdict has passed, or that has served before.

    412 when somebody has moved the champion since its ETag was read; 422 with the failed checks.
    """
    if body.rollout not in {None, 1.0}:
        raise ProblemError(
            422,
            f"rollout {body.rollout:g} is no champion's, who decides for all",
            field="rollout",
            remedy="put the alias challenger for a release in steps, or leave rollout out",
        )
    with api.engine.begin() as connection:
        found = registry.find_policy(connection, caller.project_id, policy)
        versions.lock_policy(connection, found.id)
        standing = versions.find_alias(connection, found.id, CHAMPION)
        revision = expected(if_match, standing[1] if standing else 0)
        if standing is not None and standing[0] == body.version:
            return _champion(connection, found, response)
        publishing.admit(connection, found.id, body.version, now=now())
        publishing.check_evaluation(connection, found.id, body.version, body.evaluation_id)
        releases.give_way(connection, found.id, body.version, by=caller.source, now=now())
        publishing.promote(
            connection,
            api.publisher,
            found.id,
            body.version,
            revision=revision,
            reason=f"promoted by {caller.source}{_resting_on(body)}",
            now=now(),
        )
        return _champion(connection, found, response)


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
        VerdictAnswer.model_validate({**asdict(row), "learner": learner.get(row.version)})
        for row in rows
    ]


def _champion(
    connection: sa.Connection, policy: StoredPolicy, response: Response
) -> ChampionAnswer:
    found = versions.find_alias(connection, policy.id, CHAMPION)
    if found is None:
        raise NotFoundError(f"policy {policy.name!r} has no champion")
    response.headers["ETag"] = f'"{found[1]}"'
    return ChampionAnswer(version=found[0], revision=found[1])


def _resting_on(body: AliasBody) -> str:
    return f" by evaluation {body.evaluation_id}" if body.evaluation_id else ""


def expected(if_match: str | None, standing: int) -> int:
    """The revision that the sender has seen.

    Raises:
        ProblemError: It names none.
        StaleError: It is not the standing one, or no revision at all.
    """
    if if_match is None:
        raise ProblemError(
            428,
            "the request carries no If-Match",
            field="If-Match",
            remedy="GET the alias, and send its ETag as If-Match",
        )
    if if_match.strip() == "*":
        return standing
    found = _REVISION.fullmatch(if_match.strip())
    if found is None or int(found[1]) != standing:
        raise StaleError(
            f'the alias\'s ETag is "{standing}", and If-Match names {if_match[:64]}: '
            "read the alias again"
        )
    return standing
