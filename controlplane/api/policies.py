"""Policies: what learns, how, and where it stands."""

from datetime import timedelta
from typing import Annotated

import sqlalchemy as sa
from fastapi import APIRouter, Query

from controlplane import config as policy_config
from controlplane import registry, rounds
from controlplane.api.answers import (
    ArmShare,
    AskedAnswer,
    ChampionAnswer,
    Counts,
    PoliciesAnswer,
    PolicyAnswer,
    RewardPoint,
    StatusAnswer,
    WorkRow,
)
from controlplane.api.auth import Publishing, Reader
from controlplane.api.idempotency import IdempotencyKey, once
from controlplane.api.runtime import Api, now
from controlplane.api.wire import Name, PolicyBody
from controlplane.publishing import CHAMPION
from storage import interactions, policies, versions, work
from storage.policies import StoredPolicy

router = APIRouter(prefix="/v1/policies", tags=["policies"])

ROUND = "round"
BUCKETS = 48
LAST_DECISIONS = 1_000
SHOWN = timedelta(days=30)
CHARTED = 20_000
"""Interactions in the chart: a page of a long log must not read it all."""


@router.get("")
def list_policies(
    caller: Reader,
    api: Api,
    after: Annotated[str, Query(max_length=128)] = "",
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> PoliciesAnswer:
    """The project's policies by name, a page at a time."""
    with api.engine.connect() as connection:
        rows = policies.list_policies(connection, caller.project_id, limit=limit + 1, after=after)
    items = [answer(row) for row in rows[:limit]]
    return PoliciesAnswer(items=items, next=items[-1].name if len(rows) > limit else None)


@router.get("/{policy}")
def get_policy(policy: Name, caller: Reader, api: Api) -> PolicyAnswer:
    """One policy."""
    with api.engine.connect() as connection:
        found = registry.find_policy(connection, caller.project_id, policy)
    return answer(found)


@router.put("/{policy}")
def put_policy(policy: Name, body: PolicyBody, caller: Publishing, api: Api) -> PolicyAnswer:
    """Create a policy, which explores evenly as version 1, or change one's pool and config."""
    wanted = policy_config.from_json(body.model_dump(exclude={"pool"}))
    with api.engine.begin() as connection:
        found = registry.put_policy(
            connection,
            api.publisher,
            caller.project_id,
            name=policy,
            pool=body.pool,
            config=wanted,
            now=now(),
        )
    return answer(found)


@router.get("/{policy}/status")
def get_status(policy: Name, caller: Reader, api: Api) -> StatusAnswer:
    """Where the policy stands: its log, its champion, its arms, its reward over time."""
    with api.engine.connect() as connection:
        found = registry.find_policy(connection, caller.project_id, policy)
        return status_of(connection, found)


def status_of(connection: sa.Connection, policy: StoredPolicy) -> StatusAnswer:
    """A policy's numbers, as its status and its page show them."""
    champion = versions.find_alias(connection, policy.id, CHAMPION)
    newest = versions.list_bundles(connection, policy.id, limit=1)
    last = versions.newest_round(connection, policy.id)
    shares = interactions.arm_shares(connection, policy.id, last=LAST_DECISIONS)
    total = sum(row["n"] for row in shares)
    series = interactions.reward_series(
        connection, policy, buckets=BUCKETS, since=now() - SHOWN, last=CHARTED
    )
    return StatusAnswer(
        policy=policy.name,
        champion=ChampionAnswer(version=champion[0], revision=champion[1]) if champion else None,
        serial=newest[0]["serial"] if newest else None,
        log_position=policy.log_position,
        next_round_position=rounds.due_position(policy_config.read_config(policy.config), last),
        counts=Counts(**interactions.counts(connection, policy.id)),
        work=[WorkRow.model_validate(row) for row in work.list_work(connection, policy.id)],
        arms=[ArmShare(**row, share=row["n"] / total) for row in shares],
        rewards=[RewardPoint.model_validate(row) for row in series],
    )


@router.post("/{policy}/rounds", status_code=202)
def ask_for_a_round(
    policy: Name, caller: Publishing, api: Api, key: IdempotencyKey = None
) -> AskedAnswer:
    """Have a round run now, whether or not it is due: join, learn, judge, perhaps publish."""
    at = now()
    with api.engine.begin() as connection:
        found = registry.find_policy(connection, caller.project_id, policy)

        def ask() -> dict[str, str]:
            work.ask(connection, found.id, ROUND, at)
            return {"kind": ROUND, "due_at": at.isoformat()}

        request = {"route": "rounds", "policy": policy}
        asked, _ = once(connection, caller, key, request, ask, now=at)
    return AskedAnswer.model_validate(asked)


def answer(policy: StoredPolicy) -> PolicyAnswer:
    """A policy as the API shows it: flat, as it is put."""
    return PolicyAnswer(
        **policy_config.as_json(policy_config.read_config(policy.config)),
        name=policy.name,
        pool=policy.pool,
        wait_s=policy.wait_s,
        log_position=policy.log_position,
        created_at=policy.created_at,
        updated_at=policy.updated_at,
    )
