"""When a head's version may begin to serve: not while versions of its policy are compared.

What a head says stands in the contexts of both sides of a comparison. One that changes midway makes
either side another than it was, so a head waits until releases and experiments have ended, as a
revision does (:mod:`controlplane.revising`).
"""

from datetime import datetime
from uuid import UUID

import sqlalchemy as sa

from controlplane import overrides, served_heads
from controlplane.errors import ConflictError
from controlplane.heads_config import HeadConfig
from storage import heads, releases
from storage.heads import CANDIDATE, StoredHead


def held(connection: sa.Connection, policy_id: UUID, now: datetime) -> str | None:
    """Why no version of a head may begin to serve now; None where one may."""
    frozen = overrides.frozen(connection, policy_id, now)
    return f"the policy is {frozen}" if frozen is not None else _compared(connection, policy_id)


def refuse_held(connection: sa.Connection, policy_id: UUID, now: datetime) -> None:
    """Let no version of a head begin to serve while something holds it.

    Raises:
        ConflictError: Something does.
    """
    overrides.refuse_frozen(connection, policy_id, now)
    why = _compared(connection, policy_id)
    if why is not None:
        raise ConflictError(
            f"{why}, and a head changes the contexts of both sides: wait for its end, or end it"
        )


def waiting(connection: sa.Connection, policy_id: UUID, head: HeadConfig) -> StoredHead | None:
    """The version that would serve by itself if nothing held it; None where there is none.

    Only the newest one waits, and only for what it was compared with: where another has begun to
    serve meanwhile, nothing is known of both.
    """
    newest = heads.newest_head(connection, policy_id, head.name)
    if newest is None or newest.state != CANDIDATE or not (newest.passed and head.auto_publish):
        return None
    serving = heads.serving_head(connection, policy_id, head.name)
    against = serving.number if serving and served_heads.stands(serving, head) else None
    known = served_heads.stands(newest, head) and newest.numbers.get("serving") == against
    return newest if known else None


def why_waiting(
    connection: sa.Connection, policy_id: UUID, head: HeadConfig, now: datetime
) -> str | None:
    """Why a head's newest version does not serve yet; None where none waits."""
    one = waiting(connection, policy_id, head)
    why = held(connection, policy_id, now) if one is not None else None
    return f"version {one.number} waits: {why}" if one is not None and why is not None else None


def _compared(connection: sa.Connection, policy_id: UUID) -> str | None:
    running = releases.running_release(connection, policy_id)
    if running is not None:
        return f"release {running.number} of version {running.version} is under way"
    experiments = releases.list_experiments(connection, policy_id, running=True, limit=1)
    return f"experiment {experiments[0].name} is under way" if experiments else None
