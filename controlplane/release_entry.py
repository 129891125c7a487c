"""Which release may begin: one at a time, never what was sent back, and not too soon after."""

import math
from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

import sqlalchemy as sa

from controlplane import overrides, publishing
from controlplane.errors import GateError
from controlplane.gates import Check
from controlplane.release_config import ReleaseConfig
from storage import releases, versions
from storage.releases import StoredRelease

REVERTED, COMPLETED = "reverted", "completed"
ROUND = "round"
"""Of a release's plan: the round that began it."""
UNDER_WAY = "is under way"
"""How the reason ends that a round's version waits for another release."""
REMEMBERED = 200
"""Releases that are looked back at."""


def too_soon(
    connection: sa.Connection,
    policy_id: UUID,
    rules: ReleaseConfig,
    now: datetime,
    *,
    gain: float = -math.inf,
) -> str | None:
    """Why no release may begin by itself now; None where one may.

    ``gain`` is what the version to come surely gains: one that only watches may have to yield.
    """
    held = overrides.frozen(connection, policy_id, now)
    if held is not None:
        return f"the policy is {held}"
    running = releases.running_release(connection, policy_id)
    if running is not None and not yields(connection, running, gain):
        return f"release {running.number} of version {running.version} {UNDER_WAY}"
    in_a_row = reverts_in_a_row(releases.list_releases(connection, policy_id, limit=REMEMBERED))
    if not in_a_row:
        return None
    if len(in_a_row) >= rules.max_reverts:
        return (
            f"the last {len(in_a_row)} releases were sent back: a person has to start the next one"
        )
    ended = in_a_row[0].ended_at
    over = ended + timedelta(seconds=rules.cooldown_s) if ended else now
    if now < over:
        return (
            f"release {in_a_row[0].number} was sent back: the next one may begin at "
            f"{over.isoformat(timespec='seconds')}"
        )
    return None


def yields(connection: sa.Connection, running: StoredRelease, gain: float) -> bool:
    """Whether a release gives its place to a version that surely gains more than its own seemed to.

    Only what a round began and nobody was served by yet. The next one has to gain more again, so
    releases cannot displace each other for ever.
    """
    watches = float(running.plan["stages"][running.stage]["share"]) == 0
    if not watches or ROUND not in running.plan:
        return False
    said = versions.list_verdicts(connection, running.policy_id, version=running.version)
    gains = [
        float(one.numbers["over_champion"]["value"])
        for one in said
        if one.numbers.get("over_champion")
    ]
    return bool(gains) and gain > max(gains)


def reverts_in_a_row(newest_first: Sequence[StoredRelease]) -> list[StoredRelease]:
    """The releases that were sent back since one was completed, newest first."""
    found = []
    for release in newest_first:
        if release.status == COMPLETED:
            break
        if release.status == REVERTED:
            found.append(release)
    return found


def admit(
    connection: sa.Connection, policy_id: UUID, number: int, *, now: datetime | None = None
) -> None:
    """Let a version begin its way: it may serve, and neither it nor its like was sent back.

    Raises:
        InvalidError: There is no such version.
        GateError: With each failed check.
        ConflictError: The policy is frozen ``now``, if that is given.
    """
    if now is not None:
        overrides.refuse_frozen(connection, policy_id, now)
    failed: list[dict[str, object]] = []
    said: list[str] = []
    before = sent_back(connection, policy_id, number)
    if before is not None:
        detail = (
            f"release {before.number} of version {before.version}, which is the same, was sent "
            f"back: {before.reason}"
        )
        failed.append(Check("not_sent_back", False, before.number, 0, detail).as_json())
        said.append(detail)
    try:
        publishing.admit(connection, policy_id, number)
    except GateError as error:
        failed += error.checks
        said.append(str(error))
    if said:
        raise GateError("; ".join(said), failed)


def sent_back(connection: sa.Connection, policy_id: UUID, number: int) -> StoredRelease | None:
    """The release that sent back this version, or one with the same scorer.

    One that only ran out of time says nothing against its version.
    """
    version = versions.find_version(connection, policy_id, number)
    if version is None:
        return None
    for release in releases.list_releases(connection, policy_id, limit=REMEMBERED):
        if release.status != REVERTED or release.state.get("late"):
            continue
        if release.version == number:
            return release
        other = versions.find_version(connection, policy_id, release.version)
        if other is not None and (other.digest, other.config) == (version.digest, version.config):
            return release
    return None
