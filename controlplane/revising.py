"""Revisions of the champion: it learns on from newer log, and changes by a bounded step at once.

A revision learns what came after its champion's training, up to where the next round would begin
to judge: so what judges stays newer than what any champion has learnt. What it would choose is
mixed with what serves, exactly, such that both differ on at most ``max_shift`` of the newest
requests. It is published as a new version under a new serial, and watched as any new champion is
(:mod:`controlplane.releases`): where it surely earns less or fails more, the version before serves
again.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
import structlog

from controlplane import release_entry, releases, scorers
from controlplane.candidates import FAILURES, MIN_TRIED, Log
from controlplane.config import PolicyConfig, QualityConfig, read_config
from controlplane.gates import Check
from controlplane.grading import Grader
from controlplane.publishing import CHAMPION, Publisher
from controlplane.revisions import told_apart
from controlplane.round_log import RoundLog
from controlplane.specs import reading, revision
from feedback.metrics import Metric
from learners import catalogue
from learners.bundle import arm_from_json
from learners.contract import Reading, Spec
from learners.ids import ENTROPY_BYTES, uuid7
from learners.interactions import arrange, digest
from learners.records import Arm, Interaction
from learners.rewards import RewardFunction
from learners.scorers.base import Scorer
from learners.scorers.blend import blend, roomy
from learners.scorers.mixed import Mixed
from learners.shifts import longest_step, mean_total_variation
from storage import policies, revised, versions, work
from storage import releases as stored
from storage.log import stream
from storage.policies import StoredPolicy
from storage.releases import StoredRelease
from storage.versions import StoredVerdict, StoredVersion

GATE = "revision"
KEPT_SNAPSHOTS = 5
LEAST_STEP = 1e-3
"""A smaller share of what was learnt is no revision."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Ground:
    """What a revision stands on, as it was when the work began."""

    policy: StoredPolicy
    config: PolicyConfig
    version: StoredVersion
    snapshot: bytes
    revision: int
    arms: tuple[Arm, ...]
    reward_version: int
    reward: RewardFunction | None
    metrics: Mapping[str, Metric]
    since: Mapping[str, datetime]
    tried: Mapping[str, int]
    cut: int

    @property
    def names(self) -> tuple[str, ...]:
        """Of the arms."""
        return tuple(arm.name for arm in self.arms)

    @property
    def spec(self) -> Spec:
        """What the champion's learner was made from, if nothing has changed since."""
        return Spec(
            schema=scorers.schema_of(self.version),
            arms=self.names,
            params=self.version.config["params"],
            seed=self.version.seed,
            cards=tuple(arm.card for arm in self.arms),
            revisions=tuple(revision(arm) for arm in self.arms),
            reading=Reading() if self.reward is None else reading(self.reward),
        )


@dataclass(frozen=True, slots=True)
class Revision:
    """What was learnt, and how much of it may serve at once."""

    scorer: Scorer
    snapshot: bytes
    data_digest: str
    rows: int
    share: float
    shift: float
    whole: float
    contexts: int


def step(
    engine: sa.Engine, publisher: Publisher, policy_id: UUID, *, now: datetime
) -> StoredRelease | None:
    """Revise a policy's champion, if it may and there is enough to learn from.

    Returns:
        The release by which the revision is watched; None where there is none, and the log says
        why.
    """
    found = _attempt(engine, policy_id, now)
    if isinstance(found, str):
        log.info("revision.none", policy_id=str(policy_id), reason=found)
        return None
    ground, made = found
    with engine.begin() as connection:
        versions.lock_policy(connection, policy_id)
        standing = versions.find_alias(connection, policy_id, CHAMPION)
        moved = standing is None or standing[1] != ground.revision
        if moved or _held(connection, policy_id, ground.config, now) is not None:
            return None
        return _publish(connection, publisher, ground, made, now)


def _attempt(engine: sa.Engine, policy_id: UUID, now: datetime) -> tuple[Ground, Revision] | str:
    """Read and learn, without any lock; or why there is nothing to publish."""
    with engine.connect() as connection:
        ground = _ground(connection, policy_id, now)
        if isinstance(ground, str):
            return ground
        read = _read(connection, ground, ground.version.data_to, ground.cut)
        end = ground.policy.log_position
        newest = _read(connection, ground, max(0, end - ground.config.revise.contexts), end)
    try:
        made = learn(ground, read, newest)
    except FAILURES as error:  # LearnersError among them: another pool or reward than it learnt
        log.warning("revision.failed", policy=ground.policy.name, detail=str(error) or repr(error))
        return f"it could not learn on: {str(error) or repr(error)}"
    return made if isinstance(made, str) else (ground, made)


def _held(
    connection: sa.Connection, policy_id: UUID, config: PolicyConfig, now: datetime
) -> str | None:
    """Why no revision may begin to serve now."""
    if config.revise.every_s == 0:
        return "revise.every_s is 0"
    if stored.list_experiments(connection, policy_id, running=True):
        return "an experiment compares the champion: it stays as it is"
    for row in work.list_work(connection, policy_id):
        if (
            row["kind"] == work.ROUND
            and row["lease_until"] is not None
            and row["lease_until"] > now
        ):
            return "a round compares with the champion"
    newest = versions.newest_round(connection, policy_id)
    if newest is not None and str(newest.summary.get("held")).endswith(release_entry.UNDER_WAY):
        return "the newest round's version waited for a release: the next one comes first"
    return release_entry.too_soon(connection, policy_id, config.release, now)


def _ground(connection: sa.Connection, policy_id: UUID, now: datetime) -> Ground | str:
    policy = policies.get_policy(connection, policy_id)
    config = read_config(policy.config)
    held = _held(connection, policy_id, config, now)
    if held is not None:
        return held
    alias = versions.find_alias(connection, policy_id, CHAMPION)
    version = alias and versions.find_version(connection, policy_id, alias[0])
    if not alias or not version or version.snapshot is None:
        return "the champion keeps nothing that could learn on"
    end = policy.log_position
    start = max(0, end - config.max_interactions)
    cut = end - round((end - start) * config.gate.share)
    if cut - version.data_to < config.revise.min_rows:
        return f"{max(cut - version.data_to, 0)} interactions that are new and do not judge"
    reward = policies.newest_reward(connection, policy_id)
    declared = policies.list_metrics(connection, policy.project_id)
    return Ground(
        policy=policy,
        config=config,
        version=version,
        snapshot=version.snapshot,
        revision=alias[1],
        arms=tuple(arm_from_json(row) for row in policies.list_arms(connection, policy.pool_id)),
        reward_version=reward[0] if reward else 0,
        reward=RewardFunction.from_json(reward[1]) if reward else None,
        metrics={name: Metric.from_json(name, row) for name, row in declared.items()},
        since=policies.revised_arms(connection, policy.pool_id),
        tried=revised.tried(connection, policy_id, after=version.data_from, upto=cut),
        cut=cut,
    )


def _read(connection: sa.Connection, ground: Ground, after: int, upto: int) -> RoundLog:
    """Rewarded rows at positions in (after, upto], as the champion reads them."""
    limit = min(ground.config.max_interactions, upto - after)
    schema = scorers.schema_of(ground.version)
    batches = stream(
        connection,
        ground.policy.id,
        after=after,
        upto=upto,
        limit=limit,
        reward_version=ground.reward_version,
    )
    return RoundLog.read(batches, (schema, schema), limit=limit)


def learn(ground: Ground, read: RoundLog, newest: RoundLog) -> Revision | str:
    """Learn on, and take the longest step that is short enough; pure.

    Returns:
        The revision, or why there is none.

    Raises:
        LearnersError: The snapshot is of another pool, reward or setting, or learning fails.
    """
    module, settings = catalogue.load(ground.version.learner), ground.config.revise
    state = module.restore(ground.spec, ground.snapshot)
    taught = _graded(ground, told_apart(read.rows, ground.since))
    if len(taught) < settings.min_rows:
        return f"{len(taught)} rewarded interactions that are new and do not judge"
    encoded = arrange(taught, read.encoded(taught), ground.names, ground.reward)
    quality = ground.version.config.get("quality")
    state = module.learn(state, QualityConfig(**quality).passed(encoded) if quality else encoded)
    floor = ground.config.floor
    served = scorers.load(ground.version).over(ground.names).floored(floor)
    new = _modest(module.freeze(state), ground.tried).floored(floor)
    probe = Log.of(told_apart(newest.rows, ground.since), ground.names, newest)
    if not len(probe.log):
        return "no newer context to measure the shift on"
    now, base, wanted = (
        probe.distribution(probe.log.x, each) for each in (served, roomy(served), new)
    )
    share = longest_step(now, base, wanted, settings.max_shift)
    if share < LEAST_STEP:
        return "no step towards it is short enough"
    if share < 1.0 and any(isinstance(one, Mixed) for one in (served, new)):
        return "it would change too much at once, and a mixture could not follow preferences"
    scorer = blend(served, new, share)
    return Revision(
        scorer=scorer,
        snapshot=module.snapshot(state),
        data_digest=digest(encoded),
        rows=len(taught),
        share=share,
        shift=mean_total_variation(now, probe.distribution(probe.log.x, scorer)),
        whole=mean_total_variation(now, wanted),
        contexts=len(probe.log),
    )


def _modest(scorer: Scorer, tried: Mapping[str, int]) -> Scorer:
    """Arms that have hardly served are left to the floor, as in a round."""
    known = [arm for arm in scorer.arms if tried.get(arm, 0) >= MIN_TRIED]
    return scorer if not known or len(known) == len(scorer.arms) else scorer.modest(known)


def _graded(ground: Ground, rows: list[Interaction]) -> list[Interaction]:
    if ground.reward is None:
        return rows
    grader = Grader(ground.config.sources, ground.reward, ground.metrics)
    return grader.graded(rows, []).training


def _publish(
    connection: sa.Connection,
    publisher: Publisher,
    ground: Ground,
    made: Revision,
    now: datetime,
) -> StoredRelease:
    """Store the revision with its verdict, and begin to serve and to watch it."""
    before, policy_id = ground.version, ground.policy.id
    number = versions.next_version(connection, policy_id)
    form, tensors, of_scorer = scorers.dump(made.scorer)
    versions.add_version(
        connection,
        replace(
            before,
            number=number,
            state="candidate",
            config={**before.config, "revision": _made_of(before.number, made)},
            parent=before.number,
            data_to=ground.cut,
            data_digest=made.data_digest,
            digest=of_scorer,
            scorer=form,
            tensors=tensors,
            snapshot=made.snapshot,
            created_at=now,
        ),
    )
    said = _verdict(ground, number, made, now)
    versions.add_verdict(connection, said)
    revised.forget_snapshots(connection, policy_id, keep=KEPT_SNAPSHOTS)
    log.info("revision.published", policy=ground.policy.name, version=number, summary=said.summary)
    return releases.start(
        connection,
        publisher,
        policy_id,
        number,
        by=GATE,
        revision=ground.revision,
        rollout=1.0,
        noted={"reason": f"revision of version {before.number}"},
        now=now,
    )


def _verdict(ground: Ground, number: int, made: Revision, now: datetime) -> StoredVerdict:
    most, before = ground.config.revise.max_shift, ground.version.number
    detail = (
        f"chooses otherwise on {100 * made.shift:.1f} % of the newest {made.contexts} requests "
        f"(at most {100 * most:g} %; all that it learnt would be {100 * made.whole:.1f} %)"
    )
    return StoredVerdict(
        id=uuid7(now, os.urandom(ENTROPY_BYTES)),
        policy_id=ground.policy.id,
        version=number,
        gate=GATE,
        passed=True,
        summary=(
            f"revision of version {before}: learnt {made.rows} newer interactions, and {detail}"
        ),
        numbers={"champion_version": before, **_made_of(before, made)},
        checks=[Check("shift", True, made.shift, most, detail).as_json()],
        created_at=now,
    )


def _made_of(before: int, made: Revision) -> dict[str, Any]:
    return {
        "of": before,
        "rows": made.rows,
        "share": made.share,
        "shift": made.shift,
        "whole_shift": made.whole,
        "contexts": made.contexts,
    }
