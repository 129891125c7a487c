"""The policy linter over what is stored: a policy, its pool, its champion and its newest log."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from controlplane import scorers
from controlplane.config import read_config
from controlplane.errors import InvalidError
from controlplane.linter import Counts, Lint, Subject, lint
from controlplane.publishing import CHAMPION
from feedback.metrics import Metric
from learners.bundle import arm_from_json
from learners.errors import ContextError
from learners.rewards import RewardFunction
from storage import lint_rows, policies, versions
from storage.lint_rows import Newest
from storage.policies import StoredPolicy
from storage.versions import StoredVersion

NEWEST = 1_000
"""Decisions that are looked at."""
BREAKING = frozenset(
    {
        "no-arms",
        "role-without-arm",
        "segment-without-feature",
        "version-cannot-choose",
        "version-of-other-arms",
    }
)
"""Errors with which a policy could not serve, or would look after nobody; others are only said."""


def lint_policy(connection: sa.Connection, policy: StoredPolicy, *, now: datetime) -> Lint:
    """All that is wrong or odd about a policy as it stands, by its newest log too."""
    return _lint(connection, policy, lint_rows.newest(connection, policy, now, limit=NEWEST))


def _lint(connection: sa.Connection, policy: StoredPolicy, seen: Newest) -> Lint:
    config = read_config(policy.config)
    arms = tuple(arm_from_json(row) for row in policies.list_arms(connection, policy.pool_id))
    reward = policies.newest_reward(connection, policy.id)
    declared = policies.list_metrics(connection, policy.project_id)
    alias = versions.find_alias(connection, policy.id, CHAMPION)
    version = versions.find_version(connection, policy.id, alias[0]) if alias else None
    names = [arm.name for arm in arms]
    scorer = None
    if version and names:
        scorer = scorers.load(version).over(names).floored(config.floor)
    return lint(
        Subject(
            config=config,
            arms=arms,
            reward=RewardFunction.from_json(reward[1]) if reward else None,
            metrics={name: Metric.from_json(name, row) for name, row in declared.items()},
            scorer=scorer,
            schema=scorers.schema_of(version) if version else None,
            contexts=_fitting(version, seen.contexts),
            counts=Counts(
                decisions=len(seen.eligible),
                eligible=Counter(arm for arms_of in seen.eligible for arm in arms_of),
                values=seen.values,
                sources=seen.sources,
            ),
        )
    )


def _fitting(
    version: StoredVersion | None, contexts: Sequence[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """The contexts that the version can read; a round leaves the others out too."""
    if version is None:
        return []
    schema, found = scorers.schema_of(version), []
    for context in contexts:
        try:
            schema.encode(context)
        except ContextError:
            continue
        found.append(context)
    return found


def refuse_breaking(connection: sa.Connection, policy: StoredPolicy) -> None:
    """Refuse a policy that could not serve, or whose segments nobody could tell.

    Raises:
        InvalidError: With the sentence and the remedy of each error.
    """
    errors = _lint(connection, policy, Newest([], [], {}, {})).errors
    breaking = [one for one in errors if one.code in BREAKING]
    if breaking:
        told = "; ".join(f"{one.sentence}: {one.remedy}" for one in breaking)
        raise InvalidError(breaking[0].field, told)
