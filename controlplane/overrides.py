"""What the monitors' reactions put over a policy's own settings, for a while."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from controlplane.config import PolicyConfig
from controlplane.errors import ConflictError
from storage import releases

FROZEN, FLOOR = "frozen", "floor"

Json = dict[str, Any]


def made(hold_s: float, why: str, now: datetime, **values: Any) -> Json:
    """An override that stands for so many seconds."""
    until = now + timedelta(seconds=hold_s)
    return {**values, "since": now.isoformat(), "until": until.isoformat(), "why": why}


def standing(overrides: Json, now: datetime) -> Json:
    """Those that have not run out."""
    return {
        name: one for name, one in overrides.items() if datetime.fromisoformat(one["until"]) > now
    }


def read(connection: sa.Connection, policy_id: UUID, now: datetime) -> Json:
    """What stands over a policy's settings now."""
    watch = releases.find_watch(connection, policy_id)
    return standing(watch.overrides, now) if watch is not None else {}


def frozen(connection: sa.Connection, policy_id: UUID, now: datetime) -> str | None:
    """Why nothing new may begin to serve now; None where it may."""
    found = read(connection, policy_id, now).get(FROZEN)
    return f"frozen until {found['until']}: {found['why']}" if found else None


def refuse_frozen(connection: sa.Connection, policy_id: UUID, now: datetime) -> None:
    """Let nothing new begin to serve while the policy is frozen.

    Raises:
        ConflictError: It is.
    """
    why = frozen(connection, policy_id, now)
    if why is not None:
        raise ConflictError(f"the policy is {why}; unfreeze it first")


def explored(
    connection: sa.Connection, policy_id: UUID, config: PolicyConfig, now: datetime
) -> PolicyConfig:
    """The settings with the exploration that stands now."""
    found = read(connection, policy_id, now).get(FLOOR)
    if found is None or found["value"] <= config.floor:
        return config
    return replace(config, floor=found["value"])
