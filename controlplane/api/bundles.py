"""Edges pull bundles, and say what became of them."""

import re
from typing import Annotated

import sqlalchemy as sa
from fastapi import APIRouter, Header, Response
from starlette.concurrency import run_in_threadpool

from controlplane import registry
from controlplane.api.announcements import Mark
from controlplane.api.auth import Caller, Edge
from controlplane.api.runtime import Api, Runtime
from controlplane.api.wire import Name
from controlplane.errors import NotFoundError
from storage import versions
from storage.policies import StoredPolicy
from storage.versions import StoredBundle

router = APIRouter(prefix="/v1/bundles", tags=["bundles"])

MAX_WAIT_S = 60.0
MEDIA_TYPE = "application/vnd.pointsman.bundle"
_WAIT = re.compile(r"(?:^|[,;\s])wait=(\d{1,4})(?=$|[,;\s])")


@router.get(
    "/{policy}",
    response_class=Response,
    responses={
        200: {"content": {MEDIA_TYPE: {}}, "description": "The sealed bundle"},
        304: {"description": "Still the one that If-None-Match names"},
    },
)
async def pull(
    policy: Name,
    caller: Edge,
    api: Api,
    if_none_match: Annotated[str | None, Header(max_length=1_024)] = None,
    prefer: Annotated[
        str | None, Header(max_length=256, description="`wait=30`: for a change, at most 60 s")
    ] = None,
) -> Response:
    """The newest bundle; with If-None-Match and Prefer, as soon as there is another one."""
    found, mark = await run_in_threadpool(_newest, api, caller, policy)
    wait_s = _wait_s(prefer)
    if _matches(if_none_match, mark) and wait_s:
        await api.announcements.wait(found.id, mark, wait_s)
        mark = await run_in_threadpool(_mark, api, found)
    if _matches(if_none_match, mark):
        return Response(status_code=304, headers=_headers(mark))
    bundle = await run_in_threadpool(_bundle, api, found)
    headers = _headers((bundle.serial, bundle.digest))
    return Response(bundle.body, media_type=MEDIA_TYPE, headers=headers)


def etag(mark: Mark) -> str:
    """The ETag of a bundle."""
    return f'"{mark[0]}-{mark[1][:16]}"'


def _newest(api: Runtime, caller: Caller, policy: str) -> tuple[StoredPolicy, Mark]:
    with api.engine.connect() as connection:
        found = registry.find_policy(connection, caller.project_id, policy)
        return found, _read_mark(connection, found)


def _mark(api: Runtime, policy: StoredPolicy) -> Mark:
    with api.engine.connect() as connection:
        return _read_mark(connection, policy)


def _read_mark(connection: sa.Connection, policy: StoredPolicy) -> Mark:
    rows = versions.list_bundles(connection, policy.id, limit=1)
    if not rows:
        raise NotFoundError(f"policy {policy.name!r} has no bundle yet: nothing was published")
    return rows[0]["serial"], rows[0]["digest"]


def _bundle(api: Runtime, policy: StoredPolicy) -> StoredBundle:
    with api.engine.connect() as connection:
        bundle = versions.newest_bundle(connection, policy.id)
    if bundle is None:
        raise NotFoundError(f"policy {policy.name!r} has no bundle yet: nothing was published")
    return bundle


def _headers(mark: Mark) -> dict[str, str]:
    return {"ETag": etag(mark), "Cache-Control": "private, no-cache", "Vary": "Authorization"}


def _matches(if_none_match: str | None, mark: Mark) -> bool:
    if if_none_match is None:
        return False
    given = [part.strip().removeprefix("W/") for part in if_none_match.split(",")]
    return etag(mark) in given or "*" in given


def _wait_s(prefer: str | None) -> float:
    found = _WAIT.search(prefer or "")
    return min(float(found[1]), MAX_WAIT_S) if found else 0.0
