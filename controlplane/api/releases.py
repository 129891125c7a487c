"""Releases in steps, and the aliases that begin one or have a version watch."""

from typing import Annotated, Literal

import sqlalchemy as sa
from fastapi import APIRouter, Header, Path, Query, Response

from controlplane import publishing, registry, release_entry, release_steps
from controlplane import releases as service
from controlplane.api.answers import AliasAnswer, ReleaseAnswer, ReleaseRow, ReleasesAnswer
from controlplane.api.auth import Publishing, Reader
from controlplane.api.errors import ProblemError
from controlplane.api.runtime import Api, now
from controlplane.api.versions import expected, verdicts_of
from controlplane.api.wire import AliasBody, Name
from controlplane.errors import InvalidError, NotFoundError
from controlplane.publishing import CHAMPION
from storage import releases, versions
from storage.policies import StoredPolicy
from storage.releases import StoredRelease

router = APIRouter(prefix="/v1/policies/{policy}", tags=["releases"])

Number = Annotated[int, Path(ge=1, le=2**62)]
Limit = Annotated[int, Query(ge=1, le=200)]
ShadowAlias = Annotated[
    Literal["shadow", "shadow-2", "shadow-3", "shadow-4"],
    Path(description="`shadow`, `shadow-2`, `shadow-3` or `shadow-4`"),
]
IfMatch = Annotated[str | None, Header(max_length=64)]


@router.get("/releases")
def list_releases(
    policy: Name,
    caller: Reader,
    api: Api,
    limit: Limit = 50,
    before: Annotated[int | None, Query(ge=1, le=2**62)] = None,
) -> ReleasesAnswer:
    """A policy's releases, newest first: where each stands, and the numbers of its last look."""
    with api.engine.connect() as connection:
        found = registry.find_policy(connection, caller.project_id, policy)
        rows = releases.list_releases(connection, found.id, limit=limit + 1, before=before)
    items = [row_of(row) for row in rows[:limit]]
    return ReleasesAnswer(items=items, next=items[-1].number if len(rows) > limit else None)


@router.get("/releases/{release}")
def get_release(policy: Name, release: Number, caller: Reader, api: Api) -> ReleaseAnswer:
    """One release: its rules, its numbers, and what was said on its way."""
    with api.engine.connect() as connection:
        found = registry.find_policy(connection, caller.project_id, policy)
        return _answer(connection, found, release)


@router.post("/releases/{release}/approve")
def approve_release(policy: Name, release: Number, caller: Publishing, api: Api) -> ReleaseAnswer:
    """Let a release that waits for a person take its next step."""
    with api.engine.begin() as connection:
        found = registry.find_policy(connection, caller.project_id, policy)
        service.approve(connection, api.publisher, found.id, release, by=caller.source, now=now())
        return _answer(connection, found, release)


@router.post("/releases/{release}/revert")
def revert_release(policy: Name, release: Number, caller: Publishing, api: Api) -> ReleaseAnswer:
    """Send a release back that is under way; its version is not tried again."""
    with api.engine.begin() as connection:
        found = registry.find_policy(connection, caller.project_id, policy)
        service.revert(connection, api.publisher, found.id, release, by=caller.source, now=now())
        return _answer(connection, found, release)


@router.get("/aliases/challenger")
def get_challenger(policy: Name, caller: Reader, api: Api, response: Response) -> AliasAnswer:
    """The version that is on its way; its ETag is what a change must send as If-Match."""
    with api.engine.connect() as connection:
        found = registry.find_policy(connection, caller.project_id, policy)
        return _challenger(connection, found, response)


@router.put("/aliases/challenger")
def put_challenger(
    policy: Name,
    body: AliasBody,
    *,
    caller: Publishing,
    api: Api,
    response: Response,
    if_match: IfMatch = None,
) -> AliasAnswer:
    """Begin a version's release: at the policy's first stage, or at ``rollout`` of the units.

    412 when another was begun since the ETag was read, 409 while one is under way, 422 with each
    failed check.
    """
    if body.rollout == 1:
        raise ProblemError(
            422,
            "rollout 1 leaves nobody to compare with",
            field="rollout",
            remedy="give less than 1, or put the alias champion",
        )
    noted = {"evaluation_id": str(body.evaluation_id)} if body.evaluation_id else {}
    with api.engine.begin() as connection:
        found = registry.find_policy(connection, caller.project_id, policy)
        versions.lock_policy(connection, found.id)
        expected(if_match, _newest(connection, found))
        release_entry.admit(connection, found.id, body.version, now=now())
        publishing.check_evaluation(connection, found.id, body.version, body.evaluation_id)
        service.start(
            connection,
            api.publisher,
            found.id,
            body.version,
            by=caller.source,
            rollout=body.rollout,
            noted=noted,
            now=now(),
        )
        return _challenger(connection, found, response)


@router.get("/aliases/{alias}")
def get_shadow(
    policy: Name, alias: ShadowAlias, caller: Reader, api: Api, response: Response
) -> AliasAnswer:
    """The version that watches under this name, if any; its ETag is to be sent as If-Match."""
    with api.engine.connect() as connection:
        found = registry.find_policy(connection, caller.project_id, policy)
        return _shadow(connection, found, alias, response)


@router.put("/aliases/{alias}")
def put_shadow(
    policy: Name,
    alias: ShadowAlias,
    body: AliasBody,
    *,
    caller: Publishing,
    api: Api,
    response: Response,
    if_match: IfMatch = None,
) -> AliasAnswer:
    """Have a version watch: asked about each request, it decides none."""
    if body.rollout:
        raise ProblemError(422, "a shadow decides nothing: leave rollout out", field="rollout")
    with api.engine.begin() as connection:
        found = registry.find_policy(connection, caller.project_id, policy)
        versions.lock_policy(connection, found.id)
        standing = versions.find_alias(connection, found.id, alias)
        expected(if_match, standing[1] if standing else 0)
        champion = versions.find_alias(connection, found.id, CHAMPION)
        if versions.find_version(connection, found.id, body.version) is None:
            raise InvalidError("version", f"version {body.version} does not exist")
        if champion is not None and champion[0] == body.version:
            raise InvalidError("version", f"version {body.version} is the champion: it serves")
        # What was taken away must not come back under a revision that somebody has seen.
        first = versions.next_serial(connection, found.id)
        versions.put_alias(connection, found.id, alias, body.version, now(), first=first)
        reason = f"version {body.version} watches as {alias}, by {caller.source}"
        publishing.republish(connection, api.publisher, found.id, reason=reason, now=now())
        return _shadow(connection, found, alias, response)


@router.delete("/aliases/{alias}", status_code=204)
def delete_shadow(
    policy: Name,
    alias: ShadowAlias,
    *,
    caller: Publishing,
    api: Api,
    if_match: IfMatch = None,
) -> None:
    """Have nobody watch under this name any more."""
    with api.engine.begin() as connection:
        found = registry.find_policy(connection, caller.project_id, policy)
        versions.lock_policy(connection, found.id)
        standing = versions.find_alias(connection, found.id, alias)
        if standing is None:
            raise NotFoundError(f"policy {policy!r} has no {alias}")
        expected(if_match, standing[1])
        versions.drop_alias(connection, found.id, alias)
        reason = f"nobody watches as {alias}, by {caller.source}"
        publishing.republish(connection, api.publisher, found.id, reason=reason, now=now())


def row_of(release: StoredRelease) -> ReleaseRow:
    """A release as the API and the pages show it."""
    stages = [float(stage["share"]) for stage in release.plan["stages"]]
    return ReleaseRow(
        number=release.number,
        version=release.version,
        champion=release.champion,
        status=release.status,
        reason=release.reason,
        by=release.plan["by"],
        stages=stages,
        stage=release.stage,
        stage_name=release_steps.stage_name(release),
        share=stages[release.stage],
        started_at=release.started_at,
        stage_at=release.stage_at,
        ended_at=release.ended_at,
        numbers=release.state.get("numbers", {}),
        checks=release.state.get("checks", []),
    )


def _answer(connection: sa.Connection, policy: StoredPolicy, number: int) -> ReleaseAnswer:
    release = releases.find_release(connection, policy.id, number)
    if release is None:
        raise NotFoundError(f"policy {policy.name!r} has no release {number}")
    said = [
        verdict
        for verdict in verdicts_of(connection, policy, version=release.version)
        if verdict.numbers.get("release") in {None, number}
    ]
    row = row_of(release)
    return ReleaseAnswer(**row.model_dump(), rules=release.plan["rules"], verdicts=said)


def _newest(connection: sa.Connection, policy: StoredPolicy) -> int:
    return releases.next_release(connection, policy.id) - 1


def _challenger(connection: sa.Connection, policy: StoredPolicy, response: Response) -> AliasAnswer:
    running = releases.running_release(connection, policy.id)
    revision = _newest(connection, policy)
    response.headers["ETag"] = f'"{revision}"'
    version = running.version if running is not None else None
    return AliasAnswer(alias="challenger", version=version, revision=revision)


def _shadow(
    connection: sa.Connection, policy: StoredPolicy, alias: str, response: Response
) -> AliasAnswer:
    found = versions.find_alias(connection, policy.id, alias)
    version, revision = found if found is not None else (None, 0)
    response.headers["ETag"] = f'"{revision}"'
    return AliasAnswer(alias=alias, version=version, revision=revision)
