"""Projects' pools, arms, metrics, rewards and policies: what exists, and how it is declared."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

import numpy as np
import sqlalchemy as sa

from controlplane import config as policy_config
from controlplane import head_start, heads_config, linting, publishing, scorers
from controlplane.config import PolicyConfig, check_learners, read_config
from controlplane.errors import InvalidError, NotFoundError
from controlplane.publishing import Publisher
from feedback import join
from feedback.metrics import MAX_WAIT_S, OUTCOMES, Metric
from learners.alignment import align
from learners.bundle import arm_as_json
from learners.errors import BundleError, RewardError
from learners.exploration import Exploration
from learners.ids import ENTROPY_BYTES, uuid7
from learners.records import Arm
from learners.rewards import RewardFunction, RewardGate, Term, parse
from learners.scorers.linear import constant
from storage import policies, versions, work
from storage.policies import StoredPolicy
from storage.versions import StoredVersion

MAX_ARMS = 1_000
MAX_METRICS = 200
MAX_POLICIES = 200
UNIFORM = "uniform"
ALIGN_WINDOW = 10_000
"""Joined decisions, the newest, over which a reward's spreads are measured."""


@dataclass(frozen=True, slots=True)
class RewardBody:
    """A reward as declared: an expression, or terms."""

    expression: str | None = None
    terms: Sequence[Term] = ()
    offset: float = 0.0
    wait_s: float | None = None
    gates: Sequence[RewardGate] = ()
    window: int = ALIGN_WINDOW


def put_arm(
    connection: sa.Connection,
    publisher: Publisher,
    project_id: UUID,
    pool: str,
    arm: Arm,
    *,
    now: datetime,
) -> None:
    """Add or change an arm; every policy of the pool is published anew for it.

    Raises:
        InvalidError: The pool is full.
    """
    pool_id = policies.ensure_pool(connection, project_id, _new_id(now), pool, now)
    standing = {row["name"] for row in policies.list_arms(connection, pool_id)}
    if arm.name not in standing and len(standing) >= MAX_ARMS:
        raise InvalidError("name", f"pool {pool!r} has {MAX_ARMS} arms: retire one first")
    policies.put_arm(connection, pool_id, arm.name, arm_as_json(arm), now)
    _republish(connection, publisher, pool_id, f"arm {arm.name} put", now)


def retire_arm(
    connection: sa.Connection,
    publisher: Publisher,
    project_id: UUID,
    pool: str,
    arm: str,
    *,
    now: datetime,
) -> None:
    """Take an arm out of service; what it earned stays in the log.

    Raises:
        NotFoundError: There is no such pool, or no such arm in service.
        InvalidError: It is the last arm of a pool that a policy chooses from.
    """
    pool_id = _pool(connection, project_id, pool)
    if not policies.retire_arm(connection, pool_id, arm, now):
        raise NotFoundError(f"pool {pool!r} has no arm {arm!r} in service")
    if not policies.list_arms(connection, pool_id) and policies.policies_of_pool(
        connection, pool_id
    ):
        raise InvalidError("arm", f"{arm!r} is the last arm of pool {pool!r}: add another first")
    _republish(connection, publisher, pool_id, f"arm {arm} retired", now)


def list_arms(connection: sa.Connection, project_id: UUID, pool: str) -> list[dict[str, Any]]:
    """The arms in service.

    Raises:
        NotFoundError: There is no such pool.
    """
    return policies.list_arms(connection, _pool(connection, project_id, pool))


def put_metric(
    connection: sa.Connection, project_id: UUID, metric: Metric, *, now: datetime
) -> None:
    """Declare a metric, or change it.

    Raises:
        InvalidError: The project has too many metrics.
    """
    standing = policies.list_metrics(connection, project_id)
    if metric.name not in standing and len(standing) >= MAX_METRICS:
        raise InvalidError("name", f"the project has {MAX_METRICS} metrics: that is the limit")
    policies.put_metric(connection, project_id, metric.name, metric.as_json(), now)


def put_reward(
    connection: sa.Connection, policy: StoredPolicy, body: RewardBody, *, now: datetime
) -> int:
    """Store the next version of a policy's reward; its log is joined anew with it.

    Metrics' defaults and waits are written into the version, so that it means the same for ever;
    so are the spreads that it needs, as the policy's log shows them now. The reward that is in
    force already is no new version: its number is returned, and its spreads stay.

    Raises:
        InvalidError: It does not parse, names a metric that is not declared, or needs the spread
            of a metric of which the log holds too few values.
    """
    metrics = {
        name: Metric.from_json(name, row)
        for name, row in policies.list_metrics(connection, policy.project_id).items()
    }
    reward = _settled(_reward(body), metrics)
    said = [metrics[name] for name in reward.metrics if name in metrics]
    wait_s = body.wait_s if body.wait_s is not None else max([m.wait_s for m in said], default=0.0)
    if not 0 <= wait_s <= MAX_WAIT_S:
        raise InvalidError("wait_s", f"wait_s {wait_s}: give 0 to {MAX_WAIT_S:.0f} seconds")
    spec = {**reward.as_json(), "wait_s": wait_s, "expression": body.expression}
    if reward.measured:
        spec["window"] = body.window
    standing = policies.newest_reward(connection, policy.id)
    if standing is not None and _declared(standing[1]) == spec:
        return standing[0]
    if reward.measured:
        spec |= _aligned(connection, policy, reward, metrics, body.window).as_json()
    version = policies.add_reward(connection, policy.id, spec, wait_s, now)
    # Edges learn the new wait, and the champion has to stand the new reward at once.
    if wait_s != policy.wait_s:
        work.ask(connection, policy.id, work.REFRESH, now)
    if policy.log_position >= read_config(policy.config).gate.min_interactions:
        work.ask(connection, policy.id, work.ROUND, now)
    return version


def put_policy(
    connection: sa.Connection,
    publisher: Publisher,
    project_id: UUID,
    *,
    name: str,
    pool: str,
    config: PolicyConfig,
    now: datetime,
) -> StoredPolicy:
    """Create a policy, which then explores evenly as version 1; or change one.

    Raises:
        NotFoundError: There is no such pool.
        InvalidError: The pool has no arm, the project too many policies, or the linter found an
            error with which it could not serve.
    """
    policies.lock_project(connection, project_id)
    pool_id = _pool(connection, project_id, pool)
    arms = [row["name"] for row in policies.list_arms(connection, pool_id)]
    if not arms:
        raise InvalidError(
            "pool", f"pool {pool!r} has no arm: PUT /v1/pools/{pool}/arms/<arm> first"
        )
    _check_fallback(config, arms)
    strangers = sorted(set(config.prior.ratings) - set(arms))
    if strangers:
        raise InvalidError(
            "prior.ratings",
            f"prior.ratings of {strangers[0]!r}, which is none of {arms}: leave it out, or PUT the "
            "arm first",
        )
    check_learners(config, arms)
    _check_heads(connection, project_id, pool_id, config)
    standing = policies.find_policy(connection, project_id, name)
    known = policies.list_policies(connection, project_id, limit=MAX_POLICIES)
    if standing is None and len(known) >= MAX_POLICIES:
        raise InvalidError("name", f"the project has {MAX_POLICIES} policies: that is the limit")
    policies.put_policy(
        connection,
        policy_id=standing.id if standing else _new_id(now),
        project_id=project_id,
        pool_id=pool_id,
        name=name,
        config=policy_config.as_json(config),
        now=now,
    )
    found = find_policy(connection, project_id, name)
    started = head_start.begin(connection, found.id, config.heads, now)
    if standing is None:
        versions.add_version(connection, explorer(found, arms, config, now))
        publishing.publish(
            connection, publisher, found.id, 1, reason="created: explores evenly", now=now
        )
    elif started or _served(standing.pool_id, read_config(standing.config)) != _served(
        pool_id, config
    ):
        publishing.republish(connection, publisher, found.id, reason="policy changed", now=now)
    linting.refuse_breaking(connection, found)
    return found


def _served(pool_id: UUID, config: PolicyConfig) -> tuple[object, ...]:
    """What of a policy's settings the edges see."""
    heads = [(head.identity, head.parent, head.threshold) for head in config.heads]
    return pool_id, config.fallback_arm, config.floor, config.shadow_dispatch, heads, config.guards


def _check_fallback(config: PolicyConfig, arms: Sequence[str]) -> None:
    if config.fallback_arm is not None and config.fallback_arm not in arms:
        raise InvalidError(
            "fallback_arm", f"fallback_arm {config.fallback_arm!r} is none of {arms}"
        )


def _check_heads(
    connection: sa.Connection, project_id: UUID, pool_id: UUID, config: PolicyConfig
) -> None:
    if not config.heads:
        return
    metrics = policies.list_metrics(connection, project_id)
    heads_config.check_labels(
        config.heads,
        config.guards,
        {name: Metric.from_json(name, row) for name, row in metrics.items()},
        policies.list_arms(connection, pool_id),
    )


def find_policy(connection: sa.Connection, project_id: UUID, name: str) -> StoredPolicy:
    """The project's policy of that name.

    Raises:
        NotFoundError: There is none.
    """
    found = policies.find_policy(connection, project_id, name)
    if found is None:
        raise NotFoundError(f"policy {name!r} does not exist: PUT /v1/policies/{name} creates it")
    return found


def explorer(
    policy: StoredPolicy, arms: Sequence[str], config: PolicyConfig, now: datetime
) -> StoredVersion:
    """Version 1: every arm alike, which makes the best log to learn from."""
    even = constant(
        dict.fromkeys(arms, 0.0), config.schema.dimension, Exploration("uniform", floor=1.0)
    )
    form, tensors, digest = scorers.dump(even)
    return StoredVersion(
        policy_id=policy.id,
        number=1,
        state="candidate",
        learner=UNIFORM,
        config={"features": config.schema.as_json(), "params": {}},
        seed=config.seed,
        parent=None,
        data_from=0,
        data_to=0,
        data_digest="",
        digest=digest,
        scorer=form,
        tensors=tensors,
        snapshot=None,
        created_at=now,
    )


def _pool(connection: sa.Connection, project_id: UUID, pool: str) -> UUID:
    found = policies.find_pool(connection, project_id, pool)
    if found is None:
        raise NotFoundError(
            f"pool {pool!r} does not exist: PUT /v1/pools/{pool}/arms/<arm> creates it"
        )
    return found


def _republish(
    connection: sa.Connection, publisher: Publisher, pool_id: UUID, reason: str, now: datetime
) -> None:
    for policy_id in policies.policies_of_pool(connection, pool_id):
        try:
            publishing.republish(connection, publisher, policy_id, reason=reason, now=now)
        except BundleError as error:
            name = policies.get_policy(connection, policy_id).name
            raise InvalidError(
                "arm", f"the champion of policy {name!r} does not fit the pool any more: {error}"
            ) from error


def _reward(body: RewardBody) -> RewardFunction:
    if (body.expression is None) == (not body.terms):
        raise InvalidError("expression", "give either an expression or terms")
    if body.expression is not None and body.offset:
        raise InvalidError("offset", "offset goes with terms: write it into the expression instead")
    try:
        gates = tuple(body.gates)
        if body.expression is not None:
            return replace(parse(body.expression), gates=gates)
        return RewardFunction(tuple(body.terms), body.offset, gates)
    except RewardError as error:
        raise InvalidError("expression" if body.expression else "terms", str(error)) from error


def _settled(reward: RewardFunction, metrics: Mapping[str, Metric]) -> RewardFunction:
    """The reward with what stands in for a missing value written into it."""
    terms, gates = [], []
    for term in reward.terms:
        default, on_error = _stand_ins(term, "terms", metrics, term.weight / term.scale)
        terms.append(replace(term, default=default, on_error=on_error))
    for gate in reward.gates:
        default, on_error = _stand_ins(gate, "gates", metrics, 1.0)
        gates.append(replace(gate, default=default, on_error=on_error))
    return replace(reward, terms=tuple(terms), gates=tuple(gates))


def _stand_ins(
    of: Term | RewardGate, field: str, metrics: Mapping[str, Metric], slope: float
) -> tuple[float | None, float | None]:
    """What counts where a value never came, and where it is missing since the arm failed."""
    if of.metric not in metrics and of.metric not in OUTCOMES:
        raise InvalidError(
            field,
            f"metric {of.metric!r} is not declared: PUT /v1/metrics/{of.metric}, or use "
            f"one of {sorted({*metrics, *OUTCOMES})}",
        )
    metric = metrics.get(of.metric)
    default = of.default if of.default is not None or metric is None else metric.default
    if of.on_error is not None:
        return default, of.on_error
    # An arm that failed earned the worst grade, and cost what was measured, if anything.
    return default, metric.worst(slope) if metric else 0.0


def _declared(spec: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in spec.items() if name != "statistics"}


def _aligned(
    connection: sa.Connection,
    policy: StoredPolicy,
    reward: RewardFunction,
    metrics: Mapping[str, Metric],
    window: int,
) -> RewardFunction:
    """The reward with the spreads that the newest part of the policy's log shows."""
    rows = join.newest_values(connection, policy, metrics, window)
    columns = {
        term.metric: np.array([row[term.metric] for row in rows if term.metric in row])
        for term in reward.measured
    }
    try:
        return align(reward, columns)
    except RewardError as error:
        raise InvalidError(
            "terms",
            f"{error}, among the newest {len(rows)} joined decisions of policy {policy.name!r}: "
            "give a scale in place of align and of the normaliser std, and ask again when more "
            "has been joined",
        ) from error


def _new_id(now: datetime) -> UUID:
    return uuid7(now, os.urandom(ENTROPY_BYTES))
