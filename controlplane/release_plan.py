"""What a release is begun with: its stages, its rules, and that somebody could pass them."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from controlplane import lineups, watching
from controlplane.config import read_config
from controlplane.errors import ConflictError, InvalidError
from controlplane.release_config import GUARDRAILS, Guardrail, ReleaseConfig, as_json
from learners.rewards import RewardFunction
from storage import policies
from storage.policies import StoredPolicy

Json = dict[str, Any]


def plan_of(connection: sa.Connection, policy: StoredPolicy, rollout: float | None) -> Json:
    """The stages and rules of a release that begins now; it keeps them.

    Args:
        connection: to the database.
        policy: whose.
        rollout: share of the units to begin with; None: the policy's first stage.

    Raises:
        InvalidError: A guardrail's metric is not measured, there is no stage to begin with, or no
            reward can come in a stage's time.
        ConflictError: Experiments hold every request.
    """
    reward = policies.newest_reward(connection, policy.id)
    rules = read_config(policy.config).release
    rules = replace(rules, guardrails=guardrails_of(rules, reward[1] if reward else None))
    unknown = watching.unmeasurable(connection, policy, rules.guardrails)
    if unknown:
        raise InvalidError(
            "release.guardrails",
            f"release.guardrails: {unknown} are neither measured nor declared: PUT "
            f"/v1/metrics/{unknown[0]} first",
        )
    shares = _shares(rules, rollout)
    if reward is None and shares[0] < 1:
        raise InvalidError(
            "reward", "the policy has no reward to compare versions by: declare one first"
        )
    if policy.wait_s >= rules.max_seconds and shares[0] < 1:
        raise InvalidError(
            "release.max_seconds",
            f"release.max_seconds is {rules.max_seconds:g}, and a reward is known after "
            f"{policy.wait_s:g} s only: no stage could pass; give more",
        )
    crowd = lineups.crowd(connection, policy.id)
    if crowd and canaries(shares):
        raise ConflictError(
            f"experiment {crowd} holds every request, so a canary would decide none: stop it, or "
            "give it a smaller share"
        )
    return {
        "stages": [{"share": share} for share in shares],
        "unit": rules.unit,
        "rules": as_json(rules),
        "reward_version": reward[0] if reward else 0,
    }


def guardrails_of(rules: ReleaseConfig, reward: Json | None) -> tuple[Guardrail, ...]:
    """What must not become worse, by the declared rules and the reward as it is stored.

    A mean that the reward itself prices is no guardrail unless it was asked for: a version that
    spends more and earns more after that cost is better by the policy's own word.
    """
    if rules.guardrails != GUARDRAILS or reward is None:
        return rules.guardrails
    priced = RewardFunction.from_json(reward).metrics
    return tuple(one for one in GUARDRAILS if one.kind != "mean" or one.metric not in priced)


def canaries(shares: Iterable[float]) -> bool:
    """Whether in a stage the version decides for some and the champion for others."""
    return any(0 < share < 1 for share in shares)


def _shares(rules: ReleaseConfig, rollout: float | None) -> tuple[float, ...]:
    """The stages, from a share on."""
    if rollout == 1.0:
        return (1.0,)
    if rollout is not None:
        return (rollout, *(share for share in rules.stages if share > rollout and share < 1), 1.0)
    if not rules.stages:
        raise InvalidError("rollout", "the policy's release has no stages: give a rollout")
    return rules.stages
