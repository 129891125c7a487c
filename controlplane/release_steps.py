"""The steps of a release: into a stage, on to the next, back; each publishes what it changes."""

import hashlib
from dataclasses import dataclass, replace
from datetime import datetime

import sqlalchemy as sa
import structlog

from controlplane import publishing
from controlplane.candidates import FAILURES
from controlplane.errors import ControlPlaneError, NotFoundError
from controlplane.experiment_config import ENDED
from controlplane.publishing import ROLLBACK, Publisher
from controlplane.release_config import read_rules
from controlplane.release_entry import COMPLETED, REVERTED
from learners.features import canonical_json
from storage import policies, versions
from storage import releases as stored
from storage.policies import StoredPolicy
from storage.releases import StoredRelease

RUNNING, WAITING, HELD, WATCHING, STOPPED = "running", "waiting", "held", "watching", "stopped"
SHADOW, CANARY, WATCH = "shadow", "canary", "watch"

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Means:
    """What a step is taken with; the connection holds the transaction and the policy's lock."""

    connection: sa.Connection
    publisher: Publisher
    now: datetime


def stage_name(release: StoredRelease) -> str:
    """What the stage is called in a verdict."""
    share = float(release.plan["stages"][release.stage]["share"])
    if share == 0:
        return SHADOW
    return WATCH if share == 1 else f"{CANARY} {100 * share:g} %"


def advance(
    means: Means,
    release: StoredRelease,
    reason: str,
) -> StoredRelease:
    """Enter the next stage; where that cannot be published, the release is stopped and says why."""
    return _enter(means, replace(release, reason=reason), release.stage + 1, "its next stage")


def repeat(means: Means, release: StoredRelease) -> StoredRelease:
    """Begin the stage that stands once more, or stop as :func:`advance` does."""
    return _enter(means, release, release.stage, "its stage")


def _enter(means: Means, release: StoredRelease, stage: int, what: str) -> StoredRelease:
    try:
        with means.connection.begin_nested():
            return enter(means, release, stage)
    except (ControlPlaneError, *FAILURES) as error:
        log.exception("release.not_published", release=release.number, version=release.version)
        why = f"{what} could not be published: {str(error) or repr(error)}"
        return end(means, release, STOPPED, why)


def enter(
    means: Means,
    release: StoredRelease,
    stage: int,
) -> StoredRelease:
    """Begin a stage; its numbers begin with its bundle."""
    share = float(release.plan["stages"][stage]["share"])
    entered = replace(release, stage=stage, stage_at=means.now, status=RUNNING)
    reason = f"release {release.number}: {stage_name(entered)}"
    if share == 1.0:
        rules = read_rules(release.plan["rules"])
        entered = replace(
            entered,
            status=WATCHING if rules.watch_decisions else COMPLETED,
            ended_at=None if rules.watch_decisions else means.now,
        )
        stored.put_release(means.connection, entered)
        bundle = publishing.publish(
            means.connection,
            means.publisher,
            release.policy_id,
            release.version,
            reason=release.plan.get("reason", f"release {release.number}: champion"),
            now=means.now,
        )
    else:
        stored.put_release(means.connection, entered)
        state = SHADOW if share == 0 else CANARY
        versions.set_state(means.connection, release.policy_id, [release.version], state)
        again = publishing.republish(
            means.connection, means.publisher, release.policy_id, reason=reason, now=means.now
        )
        if again is None:
            raise NotFoundError("the policy has no champion")
        bundle = again
    policy = policies.get_policy(means.connection, release.policy_id)
    begun = {"serial": bundle.serial, "arms": arms_digest(means.connection, policy)}
    entered = replace(entered, state=begun)
    stored.put_release(means.connection, entered)
    log.info("release.stage", policy=policy.name, release=release.number, stage=reason)
    return entered


def send_back(
    means: Means,
    release: StoredRelease,
    reason: str,
) -> StoredRelease:
    """End a release; where its version is the champion already, the one before serves again.

    What has gone back decides for no experiment's units either.
    """
    if not release.state.get("late"):
        _withdraw(means, release)
    ended = replace(release, status=REVERTED, reason=reason, ended_at=means.now)
    if release.status != WATCHING:
        return end(means, release, REVERTED, reason)
    stored.put_release(means.connection, ended)
    publishing.publish(
        means.connection,
        means.publisher,
        release.policy_id,
        release.champion,
        reason=f"{ROLLBACK} {release.version}: {reason}",
        now=means.now,
    )
    log.warning("release.reverted", release=release.number, reason=reason)
    return ended


def _withdraw(means: Means, release: StoredRelease) -> None:
    """End the experiments that serve the release's version; hold what is published back."""
    for one in stored.list_experiments(means.connection, release.policy_id, running=True):
        if release.version not in {variant["version"] for variant in one.spec["split"]["variants"]}:
            continue
        why = f"release {release.number} sent back version {release.version}"
        state = {**one.state, "reason": why, "look_at": None}
        ended = replace(one, status=ENDED, state=state, ended_at=means.now)
        stored.put_experiment(means.connection, ended)
        log.info("experiment.ended", experiment=one.name, reason=why)


def end(
    means: Means,
    release: StoredRelease,
    status: str,
    reason: str,
) -> StoredRelease:
    """End a release before its version was the champion; the champion decides everything again."""
    ended = replace(release, status=status, reason=reason, ended_at=means.now)
    stored.put_release(means.connection, ended)
    if release.status != WATCHING:
        versions.set_state(means.connection, release.policy_id, [release.version], "retired")
        why = f"release {release.number} {status}"
        publishing.republish(
            means.connection, means.publisher, release.policy_id, reason=why, now=means.now
        )
    log.warning("release.ended", release=release.number, status=status, reason=reason)
    return ended


def arms_digest(connection: sa.Connection, policy: StoredPolicy) -> str:
    """Of the pool's arms as they stand: with others, a stage's numbers say nothing."""
    rows = policies.list_arms(connection, policy.pool_id)
    return hashlib.sha256(canonical_json(rows)).hexdigest()
