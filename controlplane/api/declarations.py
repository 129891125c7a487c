"""What a project declares: metrics, the arms of its pools, rewards."""

from typing import Any

from fastapi import APIRouter

from controlplane import registry
from controlplane.api.answers import (
    ArmAnswer,
    ArmsAnswer,
    MetricAnswer,
    MetricsAnswer,
    RewardsAnswer,
    RewardVersion,
)
from controlplane.api.auth import Publishing, Reader
from controlplane.api.runtime import Api, now
from controlplane.api.wire import ArmBody, ArmName, MetricBody, Name, RewardBody
from controlplane.errors import NotFoundError
from feedback.metrics import Metric
from learners.records import Arm, Card
from learners.rewards import RewardGate, Term
from storage import policies

router = APIRouter(prefix="/v1", tags=["declarations"])


@router.get("/metrics")
def list_metrics(caller: Reader, api: Api) -> MetricsAnswer:
    """The project's metrics."""
    with api.engine.connect() as connection:
        found = policies.list_metrics(connection, caller.project_id)
    return MetricsAnswer(items=[_metric(name, spec) for name, spec in found.items()])


@router.get("/metrics/{name}")
def get_metric(name: Name, caller: Reader, api: Api) -> MetricAnswer:
    """One metric."""
    with api.engine.connect() as connection:
        found = policies.list_metrics(connection, caller.project_id)
    if name not in found:
        raise NotFoundError(f"metric {name!r} does not exist: PUT /v1/metrics/{name} declares it")
    return _metric(name, found[name])


@router.put("/metrics/{name}")
def put_metric(name: Name, body: MetricBody, caller: Publishing, api: Api) -> MetricAnswer:
    """Declare a metric, or change it; feedback that came before keeps its number."""
    metric = Metric(name=name, **dict(body))
    with api.engine.begin() as connection:
        registry.put_metric(connection, caller.project_id, metric, now=now())
    return _metric(name, metric.as_json())


@router.get("/pools/{pool}/arms")
def list_arms(pool: Name, caller: Reader, api: Api) -> ArmsAnswer:
    """The arms in service."""
    with api.engine.connect() as connection:
        found = registry.list_arms(connection, caller.project_id, pool)
    return ArmsAnswer(items=[ArmAnswer.model_validate(arm) for arm in found])


@router.get("/pools/{pool}/arms/{arm:path}")
def get_arm(pool: Name, arm: ArmName, caller: Reader, api: Api) -> ArmAnswer:
    """One arm in service."""
    with api.engine.connect() as connection:
        found = registry.list_arms(connection, caller.project_id, pool)
    for one in found:
        if one["name"] == arm:
            return ArmAnswer.model_validate(one)
    raise NotFoundError(f"pool {pool!r} has no arm {arm!r} in service")


@router.put("/pools/{pool}/arms/{arm:path}")
def put_arm(pool: Name, arm: ArmName, body: ArmBody, caller: Publishing, api: Api) -> ArmAnswer:
    """Add an arm, change it, or bring it back; the pool's policies are published anew for it."""
    card = Card(
        usd_per_mtok_in=body.card.usd_per_mtok_in,
        usd_per_mtok_out=body.card.usd_per_mtok_out,
        context_tokens=body.card.context_tokens,
        tags=tuple(body.card.tags),
        capabilities=tuple(body.card.capabilities),
        joules_per_token_in=body.card.joules_per_token_in,
        joules_per_token_out=body.card.joules_per_token_out,
    )
    wanted = Arm(arm, body.model, body.endpoint, card, body.api_key_env)
    with api.engine.begin() as connection:
        registry.put_arm(connection, api.publisher, caller.project_id, pool, wanted, now=now())
    return ArmAnswer(name=arm, **dict(body))


@router.delete("/pools/{pool}/arms/{arm:path}", status_code=204)
def retire_arm(pool: Name, arm: ArmName, caller: Publishing, api: Api) -> None:
    """Take an arm out of service; what it earned stays in the log."""
    with api.engine.begin() as connection:
        registry.retire_arm(connection, api.publisher, caller.project_id, pool, arm, now=now())


@router.get("/rewards/{policy}")
def get_reward(policy: Name, caller: Reader, api: Api) -> RewardsAnswer:
    """The reward in force, and every version before it."""
    with api.engine.connect() as connection:
        found = registry.find_policy(connection, caller.project_id, policy)
        rows = policies.list_rewards(connection, found.id)
    if not rows:
        raise NotFoundError(f"policy {policy!r} has no reward: PUT /v1/rewards/{policy} gives one")
    items = [RewardVersion.model_validate(row) for row in rows]
    return RewardsAnswer(policy=policy, version=items[0].version, items=items)


@router.put("/rewards/{policy}")
def put_reward(policy: Name, body: RewardBody, caller: Publishing, api: Api) -> RewardsAnswer:
    """Give a policy its reward; another one than before is a new version, and re-joins the log."""
    wanted = registry.RewardBody(
        expression=body.expression,
        terms=[Term(**dict(term)) for term in body.terms],
        offset=body.offset,
        wait_s=body.wait_s,
        gates=[RewardGate(**dict(gate)) for gate in body.gates],
        window=body.window,
    )
    with api.engine.begin() as connection:
        found = registry.find_policy(connection, caller.project_id, policy)
        registry.put_reward(connection, found, wanted, now=now())
        rows = policies.list_rewards(connection, found.id)
    items = [RewardVersion.model_validate(row) for row in rows]
    return RewardsAnswer(policy=policy, version=items[0].version, items=items)


def _metric(name: str, spec: dict[str, Any]) -> MetricAnswer:
    return MetricAnswer(name=name, **spec)
