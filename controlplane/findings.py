"""Findings: what a monitor, an experiment or a release saw that somebody has to know of."""

import os
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
import structlog

from learners.ids import ENTROPY_BYTES, uuid7
from storage import releases as stored
from storage.releases import StoredFinding

ALARM, WARNING, NOTE = "alarm", "warning", "note"

log = structlog.get_logger(__name__)

Json = dict[str, Any]


def note(
    connection: sa.Connection,
    policy_id: UUID,
    *,
    monitor: str,
    severity: str,
    reaction: str,
    summary: str,
    numbers: Json,
    now: datetime,
) -> StoredFinding:
    """Store a finding, and write it to the program's own log.

    Args:
        connection: holds the transaction of whatever is done about it.
        policy_id: whose.
        monitor: who saw it.
        severity: ``alarm``, ``warning`` or ``note``.
        reaction: what was done; ``none``.
        summary: all of that, for people.
        numbers: that it rests on; what is not finite becomes None.
        now: the time.
    """
    made = StoredFinding(
        id=uuid7(now, os.urandom(ENTROPY_BYTES)),
        policy_id=policy_id,
        monitor=monitor,
        severity=severity,
        reaction=reaction,
        summary=summary,
        numbers=plain(numbers),
        created_at=now,
    )
    stored.add_finding(connection, made)
    log.warning(
        "monitor.finding",
        policy_id=str(policy_id),
        monitor=monitor,
        severity=severity,
        reaction=reaction,
        summary=summary,
    )
    return made


def plain(value: Any) -> Any:
    """As JSON holds it: None for a number that is not finite."""
    if isinstance(value, dict):
        return {name: plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    finite = not isinstance(value, float) or abs(value) < float("inf")
    return value if finite else None
