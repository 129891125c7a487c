"""What a look for a head's labels found: how many teach, and which do not and why.

It is kept for whoever asks why a head does not learn, and is a finding where most labels are lost.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from controlplane import findings, head_labels
from controlplane.head_labels import Tally
from controlplane.heads_config import HeadConfig
from storage import heads
from storage.heads import HeadLook

LEAST_UNFIT = 20
"""Labels that teach nothing, and at least as many as teach, before it is a finding."""
MONITOR = "head_labels"


@dataclass(frozen=True, slots=True)
class Unfit:
    """Labels that teach nothing: why, how many, and what mends them."""

    why: str
    count: int
    remedy: str


@dataclass(frozen=True, slots=True)
class Look:
    """The labels since the newest version was judged, as they were looked at last."""

    usable: int
    needed: int
    unfit: tuple[Unfit, ...]
    looked_at: datetime


def note(
    connection: sa.Connection,
    policy_id: UUID,
    head: HeadConfig,
    found: Tally,
    *,
    needed: int,
    after: UUID,
    now: datetime,
) -> None:
    """Keep what a look found; tell of it once for each version where most labels are lost."""
    before = heads.find_look(connection, policy_id, head.name)
    told = before is not None and _same(before.labels, head, after) and before.labels["told"]
    lost = sum(found.unfit.values())
    if not told and lost >= max(LEAST_UNFIT, found.usable):
        told = True
        remedies = head_labels.remedies(head, found)
        findings.note(
            connection,
            policy_id,
            monitor=MONITOR,
            severity=findings.WARNING,
            reaction="none",
            summary=f"head {head.name}: {lost} of {lost + found.usable} new labels teach nothing: "
            + "; ".join(f"{found.unfit[why]}, as {remedy}" for why, remedy in remedies.items()),
            numbers={"head": head.name, "usable": found.usable, "unfit": dict(found.unfit)},
            now=now,
        )
    labels = {
        "after": str(after),
        "declaration": head.identity,
        "usable": found.usable,
        "needed": needed,
        "unfit": dict(found.unfit),
        "strange": dict(found.strange),
        "told": told,
    }
    heads.put_look(connection, policy_id, head.name, HeadLook(labels, now))


def newest(connection: sa.Connection, policy_id: UUID, head: HeadConfig) -> Look | None:
    """What the newest look found; None before one, or of a head that was declared otherwise."""
    look = heads.find_look(connection, policy_id, head.name)
    if look is None or look.labels["declaration"] != head.identity:
        return None
    found = Tally(look.labels["usable"], look.labels["unfit"], look.labels["strange"])
    remedies = head_labels.remedies(head, found)
    unfit = tuple(Unfit(why, found.unfit[why], remedy) for why, remedy in remedies.items())
    return Look(found.usable, look.labels["needed"], unfit, look.looked_at)


def _same(labels: Mapping[str, Any], head: HeadConfig, after: UUID) -> bool:
    return bool(labels["after"] == str(after) and labels["declaration"] == head.identity)
