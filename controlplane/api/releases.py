"""Releases in steps, and the aliases: who serves, who is on its way, who watches."""

import re
from typing import Annotated, Literal

import sqlalchemy as sa
from fastapi import APIRouter, Header, Path, Query, Response

from controlplane import publishing, registry, release_entry, release_steps
from controlplane import releases as service
from controlplane.api.answers import AliasAnswer, ReleaseAnswer, ReleaseRow, ReleasesAnswer
from controlplane.api.auth import Publishing, Reader
from controlplane.api.errors import ProblemError
from controlplane.api.runtime import Api, now
from controlplane.api.versions import verdicts_of
from controlplane.api.wire import AliasBody, Name
from controlplane.errors import InvalidError, NotFoundError, StaleError
from controlplane.publishing import CHAMPION
from storage import releases, versions
from storage.policies import StoredPolicy
from storage.releases import StoredRelease

router = APIRouter(prefix="/v1/policies/{policy}", tags=["releases"])

Number = Annotated[int, Path(ge=1, le=2**62)]
Limit = Annotated[int, Query(ge=1, le=200)]
CHALLENGER = "challenger"
AnyAlias = Literal["champion", "challenger", "shadow", "shadow-2", "shadow-3", "shadow-4"]
ShadowAlias = Annotated[
    Literal["shadow", "shadow-2", "shadow-3", "shadow-4"],
    Path(description="`shadow`, `shadow-2`, `shadow-3` or `shadow-4`"),
]
_REVISION = re.compile(r'"(\d{1,18})"')
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


@router.get("/aliases/{alias}")
def get_alias(
    policy: Name, alias: AnyAlias, caller: Reader, api: Api, response: Response
) -> AliasAnswer:
    """The version that an alias names, if any; its ETag is what a change must send as If-Match.

    The champion serves, the challenger is on its way, and the shadows watch. 404 where there is no
    champion.
    """
    with api.engine.connect() as connection:
        found = registry.find_policy(connection, caller.project_id, policy)
        return _told(connection, found, alias, response)


@router.put("/aliases/champion")
def put_champion(
    policy: Name,
    body: AliasBody,
    *,
    caller: Publishing,
    api: Api,
    response: Response,
    if_match: IfMatch = None,
) -> AliasAnswer:
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
        standing, revision = _standing(connection, found, CHAMPION)
        _expect(if_match, revision)
        if standing == body.version:
            return _told(connection, found, CHAMPION, response)
        publishing.admit(connection, found.id, body.version, now=now())
        publishing.check_evaluation(connection, found.id, body.version, body.evaluation_id)
        service.give_way(connection, found.id, body.version, by=caller.source, now=now())
        publishing.promote(
            connection,
            api.publisher,
            found.id,
            body.version,
            revision=revision,
            reason=f"promoted by {caller.source}{_resting_on(body)}",
            now=now(),
        )
        return _told(connection, found, CHAMPION, response)


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
        _expect(if_match, _standing(connection, found, CHALLENGER)[1])
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
        return _told(connection, found, CHALLENGER, response)


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
        _expect(if_match, _standing(connection, found, alias)[1])
        if versions.find_version(connection, found.id, body.version) is None:
            raise InvalidError("version", f"version {body.version} does not exist")
        if _standing(connection, found, CHAMPION)[0] == body.version:
            raise InvalidError("version", f"version {body.version} is the champion: it serves")
        # What was taken away must not come back under a revision that somebody has seen.
        first = versions.next_serial(connection, found.id)
        versions.put_alias(connection, found.id, alias, body.version, now(), first=first)
        reason = f"version {body.version} watches as {alias}, by {caller.source}"
        publishing.republish(connection, api.publisher, found.id, reason=reason, now=now())
        return _told(connection, found, alias, response)


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
        standing, revision = _standing(connection, found, alias)
        if standing is None:
            raise NotFoundError(f"policy {policy!r} has no {alias}")
        _expect(if_match, revision)
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


def _standing(
    connection: sa.Connection, policy: StoredPolicy, alias: str
) -> tuple[int | None, int]:
    """The version that an alias names, and its revision; a challenger's is its release's number."""
    if alias == CHALLENGER:
        running = releases.running_release(connection, policy.id)
        newest = releases.next_release(connection, policy.id) - 1
        return running.version if running is not None else None, newest
    return versions.find_alias(connection, policy.id, alias) or (None, 0)


def _told(
    connection: sa.Connection, policy: StoredPolicy, alias: str, response: Response
) -> AliasAnswer:
    """An alias as it stands now, with its ETag."""
    version, revision = _standing(connection, policy, alias)
    if version is None and alias == CHAMPION:
        raise NotFoundError(f"policy {policy.name!r} has no champion")
    response.headers["ETag"] = f'"{revision}"'
    return AliasAnswer(alias=alias, version=version, revision=revision)


def _resting_on(body: AliasBody) -> str:
    return f" by evaluation {body.evaluation_id}" if body.evaluation_id else ""


def _expect(if_match: str | None, standing: int) -> None:
    """Have the sender name the revision that stands.

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
        return
    found = _REVISION.fullmatch(if_match.strip())
    if found is None or int(found[1]) != standing:
        raise StaleError(
            f'the alias\'s ETag is "{standing}", and If-Match names {if_match[:64]}: '
            "read the alias again"
        )
