"""Decisions + outcomes + feedback → interactions: once each, corrected when more arrives late."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa

from feedback.metrics import Metric
from learners.features import canonical_json
from learners.records import MAX_ABS_REWARD, Interaction
from learners.rewards import RewardFunction
from storage import interactions, policies, versions
from storage.policies import StoredPolicy

BATCH = 2_000
MAX_READ = 100_000

Said = Mapping[str, Mapping[str, float]]
"""By metric, what each source said, in a number."""


def join(
    connection: sa.Connection,
    policy_id: UUID,
    watermark: int,
    *,
    now: datetime,
    limit: int = MAX_READ,
) -> list[Interaction]:
    """Settle what is due, then give the interactions above the watermark, in order.

    Each has its own position, for good: whoever keeps the last position that it has seen as the
    next watermark sees each interaction exactly once.
    """
    while settle(connection, policy_id, now=now) == BATCH:
        pass
    end = policies.get_policy(connection, policy_id).log_position
    return interactions.read(connection, policy_id, after=watermark, upto=end, limit=limit)


def settle_batches(
    engine: sa.Engine, policy_id: UUID, *, now: datetime, batches: int
) -> tuple[int, bool]:
    """Settle up to so many batches, a transaction each, so that arrivals wait for one at most.

    Returns:
        How many decisions were taken off the queue, and whether all that was due is done.
    """
    total = 0
    for _ in range(batches):
        with engine.begin() as connection:
            taken = settle(connection, policy_id, now=now)
        total += taken
        if taken < BATCH:
            return total, True
    return total, False


def settle(connection: sa.Connection, policy_id: UUID, *, now: datetime, limit: int = BATCH) -> int:
    """Join decisions whose wait is over; returns how many were taken off the queue.

    Never earlier than the wait, even where all values are there: what answers fast would
    otherwise be over-represented. What arrives later amends the interaction in its place.
    The policy stays locked until the commit, so its log grows by one join at a time, and a reward
    that is replaced meanwhile finds every interaction that was made with it.
    """
    versions.lock_policy(connection, policy_id)
    newest = policies.newest_reward(connection, policy_id)
    if newest is None:
        return 0
    version, spec = newest
    reward = RewardFunction.from_json(spec)
    policy = policies.get_policy(connection, policy_id)
    due = interactions.take_due(connection, policy, now, limit)
    if not due:
        return 0
    metrics = {
        name: Metric.from_json(name, row)
        for name, row in policies.list_metrics(connection, policy.project_id).items()
        if name in reward.metrics
    }
    rows = []
    for decision_id, (values, said) in _known(
        connection, policy.project_id, list(due), metrics
    ).items():
        shown, told = (canonical_json(one).decode() for one in (values, said))
        rows.append((decision_id, bounded(reward.evaluate(values)), shown, told))
    aside = [decision_id for decision_id, of_shadow in due.items() if of_shadow]
    interactions.write(connection, policy_id, rows, reward_version=version, now=now, aside=aside)
    return len(due)


def newest_values(
    connection: sa.Connection, policy: StoredPolicy, metrics: Mapping[str, Metric], limit: int
) -> list[dict[str, float]]:
    """What is known of the newest decisions of a policy's log, whatever its reward reads.

    Args:
        connection: to the database.
        policy: whose log.
        metrics: the declared metrics that count beside the outcomes.
        limit: how many decisions.
    """
    ids = interactions.newest_ids(connection, policy.id, limit)
    found: list[dict[str, float]] = []
    for start in range(0, len(ids), BATCH):
        batch = ids[start : start + BATCH]
        known = _known(connection, policy.project_id, batch, metrics)
        found += [values for values, _ in known.values()]
    return found


def _known(
    connection: sa.Connection,
    project_id: UUID,
    ids: Sequence[UUID],
    metrics: Mapping[str, Metric],
) -> dict[UUID, tuple[dict[str, float], Said]]:
    """What was measured and said of each decision, and by whom, in the order of the ids."""
    outcomes = interactions.outcome_values(connection, project_id, ids)
    told = interactions.feedback_values(connection, project_id, ids)
    found: dict[UUID, tuple[dict[str, float], Said]] = {}
    for one in ids:
        said = {name: told[one][name] for name in told.get(one, {}) if name in metrics}
        found[one] = combine(outcomes.get(one, {}), said, metrics), said
    return found


def combine(
    outcome: Mapping[str, float],
    said: Said,
    metrics: Mapping[str, Metric],
) -> dict[str, float]:
    """The outcome's values and one number for each metric that somebody spoke of."""
    values = dict(outcome)
    for name, by_source in said.items():
        values[name] = metrics[name].aggregate(list(by_source.values()))
    return values


def bounded(reward: float | None) -> float | None:
    """A reward that a learner may eat; a huge one (a wrong unit, an attack) counts as none."""
    if reward is None or not abs(reward) <= MAX_ABS_REWARD:
        return None
    return reward
