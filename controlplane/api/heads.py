"""Heads: what a policy's classifiers are, which versions serve, and taking one back."""

from datetime import datetime
from typing import Annotated, Any

import sqlalchemy as sa
from fastapi import APIRouter, Path, Query
from pydantic import Field

from controlplane import head_entry, head_looks, registry
from controlplane import heads as service
from controlplane.api.answers import Answer, CheckAnswer
from controlplane.api.auth import Publishing, Reader
from controlplane.api.idempotency import IdempotencyKey, once
from controlplane.api.runtime import Api, now
from controlplane.api.wire import Body, Name
from controlplane.config import read_config
from controlplane.heads_config import HeadConfig
from storage import heads as stored
from storage.policies import StoredPolicy

router = APIRouter(prefix="/v1/policies/{policy}/heads", tags=["heads"])

HeadName = Annotated[str, Path(pattern=r"^[a-z][a-z0-9_]{0,63}$", description="a head's name")]
Limit = Annotated[int, Query(ge=1, le=200)]


class HeadVersionRow(Answer):
    """A version of a head, with what its gate said; ``labels`` trained and judged it."""

    number: int
    state: str
    passed: bool
    summary: str
    labels: int
    numbers: dict[str, Any]
    checks: list[CheckAnswer]
    declaration: dict[str, Any]
    digest: str
    data_digest: str
    created_at: datetime
    served_at: datetime | None


class HeadVersionsAnswer(Answer):
    """A page of versions, newest first; ``next`` is the ``before`` of the page that follows."""

    items: list[HeadVersionRow]
    next: int | None


class UnfitAnswer(Answer):
    """Labels that teach a head nothing: why, how many, and what mends them."""

    why: str
    count: int
    remedy: str


class HeadLabelsAnswer(Answer):
    """The labels since the newest version was judged: how many it can learn from, of how many."""

    usable: int
    needed: int
    unfit: list[UnfitAnswer]
    looked_at: datetime


class HeadAnswer(Answer):
    """A head as it is declared, the version that serves, and the newest one.

    ``held`` says why the newest one, which may serve, waits; ``labels`` what the worker's newest
    look for labels found.
    """

    name: str
    kind: str
    classes: list[str]
    feature: str
    size: int
    parent: str | None
    threshold: float
    auto_publish: bool
    start: str | None
    serving: int | None
    newest: HeadVersionRow | None
    held: str | None
    labels: HeadLabelsAnswer | None


class HeadsAnswer(Answer):
    """The heads that a policy declares, in its order."""

    items: list[HeadAnswer]


class PublishHeadBody(Body):
    """The version that shall serve."""

    version: Annotated[int, Field(ge=1, le=2**62)]


class HeadPublishedAnswer(Answer):
    """The version that serves now, if any, and the bundle's serial."""

    serving: int | None
    serial: int | None


@router.get("")
def list_heads(policy: Name, caller: Reader, api: Api) -> HeadsAnswer:
    """What a policy's heads tell apart, and where each stands."""
    with api.engine.connect() as connection:
        found = registry.find_policy(connection, caller.project_id, policy)
        return HeadsAnswer(items=heads_of(connection, found))


@router.get("/{head}/versions")
def list_versions(
    policy: Name,
    head: HeadName,
    *,
    caller: Reader,
    api: Api,
    limit: Limit = 50,
    before: Annotated[int | None, Query(ge=1, le=2**62)] = None,
) -> HeadVersionsAnswer:
    """A head's versions, newest first, with the numbers by which each was judged."""
    with api.engine.connect() as connection:
        found = registry.find_policy(connection, caller.project_id, policy)
        service.declared(connection, found.id, head)
        rows = stored.list_heads(connection, found.id, head, limit=limit + 1, before=before)
    items = [HeadVersionRow.model_validate(row) for row in rows[:limit]]
    return HeadVersionsAnswer(items=items, next=items[-1].number if len(rows) > limit else None)


@router.post("/{head}/publish")
def publish(
    policy: Name, head: HeadName, body: PublishHeadBody, caller: Publishing, api: Api
) -> HeadPublishedAnswer:
    """Have a version serve that has passed; 422 with the failed checks for another one.

    409 while the policy is frozen, or a release or an experiment is under way.
    """
    with api.engine.begin() as connection:
        found = registry.find_policy(connection, caller.project_id, policy)
        bundle = service.publish(connection, api.publisher, found.id, head, body.version, now=now())
    return HeadPublishedAnswer(serving=body.version, serial=bundle.serial if bundle else None)


@router.post("/{head}/rollback")
def roll_back(
    policy: Name, head: HeadName, caller: Publishing, api: Api, key: IdempotencyKey = None
) -> HeadPublishedAnswer:
    """Have the version serve that served before; without one the head serves no more.

    Either way no version of it is published by itself until the policy declares that again.
    """
    at = now()
    with api.engine.begin() as connection:
        found = registry.find_policy(connection, caller.project_id, policy)

        def act() -> dict[str, int | None]:
            bundle = service.rollback(connection, api.publisher, found.id, head, now=at)
            serving = stored.serving_head(connection, found.id, head)
            return {
                "serving": serving.number if serving else None,
                "serial": bundle.serial if bundle else None,
            }

        asked = {"route": "head rollback", "policy": policy, "head": head}
        answer, _ = once(connection, caller, key, asked, act, now=at)
    return HeadPublishedAnswer.model_validate(answer)


def heads_of(connection: sa.Connection, policy: StoredPolicy) -> list[HeadAnswer]:
    """A policy's heads, as the API and its page show them."""
    return [_head(connection, policy, head) for head in read_config(policy.config).heads]


def _head(connection: sa.Connection, policy: StoredPolicy, head: HeadConfig) -> HeadAnswer:
    newest = stored.list_heads(connection, policy.id, head.name, limit=1)
    serving = stored.serving_head(connection, policy.id, head.name)
    stands = serving is not None and serving.declaration == head.identity
    look = head_looks.newest(connection, policy.id, head)
    return HeadAnswer(
        name=head.name,
        kind=head.kind,
        classes=list(head.names),
        feature=head.feature,
        size=head.size,
        parent=head.parent,
        threshold=head.threshold,
        auto_publish=head.auto_publish,
        start=head.start,
        serving=serving.number if serving and stands else None,
        newest=HeadVersionRow.model_validate(newest[0]) if newest else None,
        held=head_entry.why_waiting(connection, policy.id, head, now()),
        labels=HeadLabelsAnswer.model_validate(look) if look else None,
    )
