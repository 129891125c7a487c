"""The tasks: each is one call of a service. The work and its leases stand in Postgres."""

import os
import socket
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

import sqlalchemy as sa
import structlog
from celery import shared_task

from controlplane import agenda
from controlplane.errors import SettingsError
from controlplane.publishing import Publisher
from controlplane.settings import Settings, read_settings
from controlplane.signing import load_keys
from controlplane.threads import one_thread
from storage import work
from storage.engine import connect
from storage.work import Due
from workers.app import QUEUE, ROUNDS_QUEUE, TICK_S

POOL_SIZE = 3

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Means:
    """What this process works with."""

    engine: sa.Engine
    publisher: Publisher
    owner: str


class _Process:
    """One process's means: made at its first task, and never carried over a fork."""

    pid: int = 0
    means: Means | None = None


def means() -> Means:
    """This process's connections and keys."""
    if _Process.means is None or _Process.pid != os.getpid():
        _Process.pid, _Process.means = os.getpid(), _open(read_settings())
    return _Process.means


def _open(settings: Settings) -> Means:
    if settings.database_url is None:
        raise SettingsError("POINTSMAN_DATABASE_URL is not set: `pointsman up` sets it")
    given = settings.signing_keys.get_secret_value() if settings.signing_keys else None
    return Means(
        engine=connect(
            settings.database_url.get_secret_value(),
            pool_size=POOL_SIZE,
            application="pointsman worker",
        ),
        publisher=Publisher(
            load_keys(given, settings.data), timedelta(seconds=settings.bundle_ttl_s)
        ),
        owner=f"{socket.gethostname()}:{os.getpid()}",
    )


@shared_task
def tick() -> None:
    """Find what is due in Postgres, and hand it out."""
    with means().engine.begin() as connection:
        found = agenda.find(connection, datetime.now(UTC))
    for due in found:
        queue = ROUNDS_QUEUE if due.kind in {work.ROUND, work.REVISE, work.HEADS} else QUEUE
        do.apply_async((str(due.policy_id), due.kind), queue=queue, expires=2 * TICK_S)


@shared_task
def do(policy_id: str, kind: str) -> None:
    """Do one piece of work, unless another worker is at it."""
    own, due = means(), Due(UUID(policy_id), kind)
    with work.lease(own.engine, due, own.owner, datetime.now(UTC)) as held:
        if held:
            with one_thread():
                agenda.perform(own.engine, own.publisher, due)
            log.debug("work.done", policy_id=policy_id, kind=kind)


@shared_task
def tidy() -> None:
    """Housekeeping that may as well come later."""
    with means().engine.begin() as connection:
        agenda.tidy(connection, datetime.now(UTC))
