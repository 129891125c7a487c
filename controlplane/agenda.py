"""What there is to do, as it stands in Postgres, and how each kind of it is done."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Protocol
from uuid import UUID

import sqlalchemy as sa
import structlog

from controlplane import (
    config,
    experiments,
    heads,
    publishing,
    releases,
    revising,
    rounds,
    watches,
)
from controlplane.errors import InvalidError
from controlplane.publishing import Publisher
from feedback import join
from storage import (
    events,
    experiment_rows,
    interactions,
    policies,
    stages,
    versions,
    watching_rows,
    work,
)
from storage.partitions import ensure_partitions
from storage.work import EXPERIMENT, HEADS, JOIN, REFRESH, RELEASE, REVISE, ROUND, WATCH, Due

KEY_LIFE = timedelta(days=2)
"""How long an idempotency key is remembered."""
STRAY_LIFE = timedelta(days=31)
"""How long a decision is waited for that was spoken of and has not arrived."""

BATCHES_A_LEASE = 50
KEPT_BUNDLES = 20
"""Of each policy, with their bytes."""

log = structlog.get_logger(__name__)


class _Step(Protocol):
    def __call__(
        self, engine: sa.Engine, publisher: Publisher, policy_id: UUID, *, now: datetime
    ) -> object: ...


_STEPS: Mapping[str, _Step] = {
    RELEASE: releases.step,
    EXPERIMENT: experiments.look,
    REVISE: revising.step,
    HEADS: heads.step,
}


def find(connection: sa.Connection, now: datetime) -> list[Due]:
    """Note what has become due, and return all that is due and nobody is at work on."""
    for policy_id in interactions.due_policies(connection, now):
        work.notice(connection, policy_id, JOIN, now)
    for policy_id, kind in _of_configs(connection, now):
        work.notice(connection, policy_id, kind, now)
    for policy_id in versions.past_half_life(connection, now):
        work.notice(connection, policy_id, REFRESH, now)
    for policy_id in stages.due_releases(connection, now):
        work.notice(connection, policy_id, RELEASE, now)
    for policy_id in experiment_rows.due_policies(connection, now):
        work.notice(connection, policy_id, EXPERIMENT, now)
    for policy_id in watching_rows.due_watches(connection, now, now - watches.EVERY):
        work.notice(connection, policy_id, WATCH, now)
    return work.find_due(connection, now)


def perform(engine: sa.Engine, publisher: Publisher, due: Due) -> None:
    """Do one piece of work; hold its lease meanwhile."""
    now = datetime.now(UTC)
    if due.kind in _STEPS:
        _STEPS[due.kind](engine, publisher, due.policy_id, now=now)
    elif due.kind == JOIN:
        settle(engine, due.policy_id, now)
    elif due.kind == ROUND:
        rounds.run_round(engine, publisher, due.policy_id, started_at=now)
    elif due.kind == WATCH:
        watch(engine, publisher, due.policy_id, now)
    elif due.kind == REFRESH:
        with engine.begin() as connection:
            publishing.republish(
                connection, publisher, due.policy_id, reason="renewed before it expires", now=now
            )
    else:
        raise ValueError(f"no work of kind {due.kind!r}")


def settle(engine: sa.Engine, policy_id: UUID, now: datetime) -> int:
    """Join what is due, one transaction a batch; returns how many decisions.

    After so many batches it asks for more time and ends, well before its lease does: what a new
    reward puts back into the queue can be millions.
    """
    total, done = join.settle_batches(engine, policy_id, now=now, batches=BATCHES_A_LEASE)
    if not done:
        with engine.begin() as connection:
            work.ask(connection, policy_id, JOIN, now)
    return total


def watch(engine: sa.Engine, publisher: Publisher, policy_id: UUID, now: datetime) -> None:
    """Have the monitors look; where the log goes on, they look again at once."""
    if watches.step(engine, publisher, policy_id, now=now)[1]:
        with engine.begin() as connection:
            work.ask(connection, policy_id, WATCH, now)


def tidy(connection: sa.Connection, now: datetime) -> None:
    """Make the coming months' partitions; forget old keys, bundles and what never came."""
    ensure_partitions(connection, now)
    events.forget_keys(connection, now - KEY_LIFE)
    events.forget_strays(connection, now - STRAY_LIFE)
    versions.forget_bodies(connection, keep=KEPT_BUNDLES)


def _of_configs(connection: sa.Connection, now: datetime) -> list[tuple[UUID, str]]:
    """Policies whose log has grown enough for another round, or whose revision is due."""
    last = versions.newest_rounds(connection)
    revised, taught = work.last_done(connection, REVISE), work.last_done(connection, HEADS)
    found = []
    for policy in policies.all_policies(connection):
        try:
            read = config.read_config(policy.config)
        except InvalidError as error:  # one policy's trouble is not to stop the others
            log.error("policy.unreadable", policy=policy.name, detail=str(error))  # noqa: TRY400
            continue
        if policy.log_position >= rounds.due_position(read, last.get(policy.id)):
            found.append((policy.id, ROUND))
        every = timedelta(seconds=read.revise.every_s)
        if every and _since(revised.get(policy.id), every, now):
            found.append((policy.id, REVISE))
        if read.heads and _since(taught.get(policy.id), heads.EVERY, now):
            found.append((policy.id, HEADS))
    return found


def _since(done: datetime | None, every: timedelta, now: datetime) -> bool:
    """Whether it was done so long ago, or never."""
    return done is None or done + every <= now
