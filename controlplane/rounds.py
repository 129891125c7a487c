"""A round: join → learn → judge on newer log → publish, or a verdict that says why not."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
import structlog

from controlplane import release_entry, releases, scorers
from controlplane.candidates import FAILURES, Candidate, Incumbent, train, weigh
from controlplane.config import LearnerConfig, PolicyConfig, read_config
from controlplane.errors import ControlPlaneError, StaleError
from controlplane.gates import Evidence, Verdict, judge
from controlplane.grading import Graded, graded
from controlplane.log_checks import Background
from controlplane.publishing import CHAMPION, Publisher, promote
from controlplane.release_steps import STOPPED, Means, end
from controlplane.revisions import told_apart
from controlplane.round_log import RoundLog, keeping
from feedback import join
from feedback.metrics import Metric
from learners.bundle import arm_from_json
from learners.ids import ENTROPY_BYTES, uuid7
from learners.interactions import arrange, digest
from learners.priors import TAKES_NONE
from learners.records import Arm, Interaction
from learners.rewards import RewardFunction
from storage import policies, revised, versions
from storage import releases as stored
from storage.log import stream
from storage.policies import StoredPolicy
from storage.versions import StoredRound, StoredVerdict, StoredVersion

GATE = "release"
KEPT_CANDIDATES = 200
MAX_BATCHES = 50
"""Joined before a round begins; what is due beyond that is joined by work of its own."""
MAX_STEP = 25_000
"""A round comes at least every so many interactions, however long the log has grown."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Standing:
    """The champion as it stood when the round began."""

    version: StoredVersion
    revision: int


@dataclass(frozen=True, slots=True)
class Window:
    """The part of the log that a round reads: trained on (start, cut], judged on (cut, end].

    ``newer_than`` is the later of the cut and the champion's own training cut-off.
    """

    start: int
    cut: int
    end: int
    newer_than: int


@dataclass(frozen=True, slots=True)
class Judged:
    """A candidate with its evidence and what the gate said of it."""

    candidate: Candidate
    evidence: Evidence | None
    verdict: Verdict


def due_position(config: PolicyConfig, last: StoredRound | None) -> int:
    """The log position at which the next round is due: each round waits for a grown log."""
    if last is None:
        return config.gate.min_interactions
    grown = min(math.ceil(last.position * config.gate.growth), last.position + MAX_STEP)
    return max(config.gate.min_interactions, grown)


def run_round(
    engine: sa.Engine, publisher: Publisher, policy_id: UUID, *, started_at: datetime
) -> StoredRound | None:
    """Run one round; returns None when there is no champion or no arm yet.

    Nothing is locked while it computes. What it found is stored in one transaction; if the
    champion was moved meanwhile, its verdicts stand, and it publishes nothing.
    """
    join.settle_batches(engine, policy_id, now=started_at, batches=MAX_BATCHES)
    with engine.connect() as connection:
        policy = policies.get_policy(connection, policy_id)
        arms = _arms(connection, policy)
        last = versions.newest_round(connection, policy_id)
        standing = _standing(connection, policy_id)
        if standing is None or not arms:
            return None
        config = read_config(policy.config)
        window = _window(policy.log_position, config, standing)
        reward = policies.newest_reward(connection, policy_id)
        ground = Ground(
            policy=policy,
            config=config,
            arms=arms,
            reward_version=reward[0] if reward else 0,
            reward=RewardFunction.from_json(reward[1]) if reward else None,
            window=window,
            standing=standing,
            number=last.number + 1 if last else 1,
            metrics=metrics_of(connection, policy),
            revised=policies.revised_arms(connection, policy.pool_id),
        )
        looks = versions.looks(
            connection,
            policy_id,
            champions=revised.line_of(connection, policy_id, standing.version.number),
            reward_version=ground.reward_version,
        )
        # While a log is joined anew under a changed reward, only what has been joined counts.
        batches = stream(
            connection,
            policy_id,
            after=window.start,
            upto=window.end,
            limit=config.max_interactions,
            reward_version=ground.reward_version,
            kept=keeping(config.segment),
        )
        schemas = (config.schema, scorers.schema_of(standing.version))
        read = RoundLog.read(batches, schemas, limit=window.end - window.start)
        background = _background(connection, ground, read, started_at)
    story = _learn(ground, read, background, looks)
    with engine.begin() as connection:
        return _store(connection, publisher, story, started_at)


@dataclass(frozen=True, slots=True)
class Ground:
    """What a round stands on, as it was when the round began."""

    policy: StoredPolicy
    config: PolicyConfig
    arms: tuple[Arm, ...]
    reward_version: int
    reward: RewardFunction | None
    window: Window
    standing: Standing
    number: int
    metrics: Mapping[str, Metric]
    revised: Mapping[str, datetime]

    @property
    def seed(self) -> int:
        """Each round draws anew, and the same round the same."""
        return self.config.seed + self.number


@dataclass(frozen=True, slots=True)
class Story:
    """What a round found: ``look`` counts only where somebody could be judged."""

    ground: Ground
    judged: list[Judged]
    failed: dict[str, str]
    look: int
    misfits: int
    data_digest: str
    bias: dict[str, dict[str, float]]


def _background(
    connection: sa.Connection, ground: Ground, read: RoundLog, now: datetime
) -> Background:
    window = ground.window
    judging = [row for row in read.rows if row.position > window.newer_than]
    return Background.read(
        connection,
        ground.policy,
        judging,
        positions=(window.newer_than, window.end),
        reward_version=ground.reward_version,
        now=now,
    )


def _learn(ground: Ground, read: RoundLog, background: Background, looks: int) -> Story:
    """Train and judge; pure, and the long part."""
    version, config = ground.standing.version, ground.config
    champion = Incumbent(version.number, scorers.load(version))
    parts = _graded(ground, told_apart(read.rows, ground.revised))
    training, newer = parts.training, parts.newer
    names = tuple(arm.name for arm in ground.arms)
    encoded = arrange(training, read.encoded(training), names, ground.reward)
    judged: list[Judged] = []
    failed: dict[str, str] = {}
    if training:
        candidates, failed = train(encoded, config, ground.arms, ground.reward, seed=ground.seed)
        weighed, unweighed = weigh(
            newer, candidates, champion, config, read=read, look=looks + 1, background=background
        )
        judged = [Judged(c, e, _verdict(e, config)) for c, e in weighed]
        failed |= unweighed
    looked = any(one.evidence and one.evidence.judged >= config.gate.min_judged for one in judged)
    look = looks + int(looked)
    return Story(ground, judged, failed, look, read.misfits, digest(encoded), parts.bias)


def _graded(ground: Ground, rows: list[Interaction]) -> Graded:
    """What trains and what judges, with the rewards that the sources of feedback are worth."""
    training = [row for row in rows if row.position <= ground.window.cut]
    newer = [row for row in rows if row.position > ground.window.newer_than]
    return graded(
        ground.config.sources, ground.reward, ground.metrics, training=training, newer=newer
    )


def metrics_of(connection: sa.Connection, policy: StoredPolicy) -> dict[str, Metric]:
    """The metrics that the policy's project has declared."""
    declared = policies.list_metrics(connection, policy.project_id)
    return {name: Metric.from_json(name, row) for name, row in declared.items()}


def _arms(connection: sa.Connection, policy: StoredPolicy) -> tuple[Arm, ...]:
    return tuple(arm_from_json(row) for row in policies.list_arms(connection, policy.pool_id))


def _standing(connection: sa.Connection, policy_id: UUID) -> Standing | None:
    alias = versions.find_alias(connection, policy_id, CHAMPION)
    if alias is None:
        return None
    version = versions.find_version(connection, policy_id, alias[0])
    return Standing(version, alias[1]) if version else None


def _window(end: int, config: PolicyConfig, standing: Standing) -> Window:
    start = max(0, end - config.max_interactions)
    cut = end - round((end - start) * config.gate.share)
    return Window(start, cut, end, max(cut, standing.version.data_to))


def _verdict(evidence: Evidence | None, config: PolicyConfig) -> Verdict:
    if evidence is None:
        return Verdict(False, "not released: no interactions newer than the training", ())
    return judge(evidence, config.gate, harm=config.release.harm.margin)


def _store(
    connection: sa.Connection, publisher: Publisher, story: Story, started_at: datetime
) -> StoredRound:
    ground, judged = story.ground, story.judged
    policy_id = ground.policy.id
    versions.lock_policy(connection, policy_id)
    versions.retire_candidates(connection, policy_id, keep=KEPT_CANDIDATES)
    now = datetime.now(UTC)
    numbers = [_store_candidate(connection, story, one, now) for one in judged]
    winner = _winner(judged)
    held = _held(connection, ground, judged[winner] if winner is not None else None)
    published = release = None
    if winner is not None and held is None:
        release, held = _publish(connection, publisher, ground, numbers[winner], now)
        published = numbers[winner] if held is None and release is None else None
    named = list(zip(numbers, judged, strict=True))
    done = StoredRound(
        policy_id=policy_id,
        number=ground.number,
        position=ground.window.end,
        look=story.look,
        summary={
            "champion": ground.standing.version.number,
            "reward_version": ground.reward_version,
            "candidates": {str(n): one.candidate.learner.name for n, one in named},
            "failed": story.failed,
            "passed": [n for n, one in named if one.verdict.passed],
            "published": published,
            "release": release,
            "held": held,
            "trained_on": [ground.window.start, ground.window.cut],
            "judged_on": [ground.window.newer_than, ground.window.end],
            "contexts_that_did_not_fit": story.misfits,
            "bias": story.bias,
        },
        started_at=started_at,
        finished_at=now,
    )
    versions.add_round(connection, done)
    log.info("round.done", policy=ground.policy.name, round=done.number, **done.summary)
    return done


def _held(connection: sa.Connection, ground: Ground, winner: Judged | None) -> str | None:
    """Why nothing may be published, by what stands now and not when the round began."""
    policy = policies.get_policy(connection, ground.policy.id)
    if not read_config(policy.config).auto_promote:
        return "auto_promote is off"
    reward = policies.newest_reward(connection, policy.id)
    if reward is None or reward[0] != ground.reward_version:
        return "the reward has changed meanwhile"
    rules = read_config(policy.config).release
    gain = winner.evidence.over_champion.low if winner and winner.evidence else -math.inf
    soon = release_entry.too_soon(connection, policy.id, rules, datetime.now(UTC), gain=gain)
    if soon is not None:
        return soon
    return (
        None
        if _arms(connection, policy) == ground.arms
        else "the pool's arms have changed meanwhile"
    )


def _winner(judged: Sequence[Judged]) -> int | None:
    """The passed candidate that is surest to beat the champion."""
    passed = [
        (one.evidence.over_champion.low, i)
        for i, one in enumerate(judged)
        if one.verdict.passed and one.evidence is not None
    ]
    return max(passed)[1] if passed else None


def _publish(
    connection: sa.Connection, publisher: Publisher, ground: Ground, number: int, now: datetime
) -> tuple[int | None, str | None]:
    """Begin a version's release, or promote it where the policy has no stages.

    What it had written by the time that it fails is undone, and the round's verdicts stand. A
    database that fails ends the round: nothing of it is stored, and it is tried again.

    Returns:
        The release's number, None without stages; and why nothing could be done, None where it was.
    """
    by = f"round {ground.number}"
    revision = ground.standing.revision
    try:
        with connection.begin_nested():
            _displace(connection, publisher, ground.policy.id, number, now)
            if read_config(policies.get_policy(connection, ground.policy.id).config).release.stages:
                begun = releases.start(
                    connection,
                    publisher,
                    ground.policy.id,
                    number,
                    by=by,
                    revision=revision,
                    noted={release_entry.ROUND: ground.number},
                    now=now,
                )
                return begun.number, None
            promote(
                connection,
                publisher,
                ground.policy.id,
                number,
                revision=revision,
                reason=f"{by}: passed the gate",
                now=now,
            )
    except StaleError as error:
        log.warning("round.champion_moved", policy=ground.policy.name, detail=str(error))
        return None, "the champion has been moved meanwhile"
    except (ControlPlaneError, *FAILURES) as error:
        log.exception("round.not_published", policy=ground.policy.name, version=number)
        return None, f"version {number} could not be published: {str(error) or repr(error)}"
    return None, None


def _displace(
    connection: sa.Connection, publisher: Publisher, policy_id: UUID, number: int, now: datetime
) -> None:
    """End the release that yields to this version, if one runs (:func:`release_entry.yields`)."""
    running = stored.running_release(connection, policy_id)
    if running is not None:
        reason = f"version {number} surely gains more"
        end(Means(connection, publisher, now), running, STOPPED, reason)


def _made_of(learner: LearnerConfig, config: PolicyConfig) -> dict[str, Any]:
    """What a version says of how it was made."""
    made = {"features": config.schema.as_json(), "params": dict(learner.params)}
    if config.prior and learner.name not in TAKES_NONE:
        made["prior"] = asdict(config.prior)
    return made if learner.quality is None else {**made, "quality": asdict(learner.quality)}


def _store_candidate(connection: sa.Connection, story: Story, one: Judged, now: datetime) -> int:
    ground, policy_id = story.ground, story.ground.policy.id
    number = versions.next_version(connection, policy_id)
    form, tensors, digest = scorers.dump(one.candidate.scorer)
    versions.add_version(
        connection,
        StoredVersion(
            policy_id=policy_id,
            number=number,
            state="candidate",
            learner=one.candidate.learner.name,
            config=_made_of(one.candidate.learner, ground.config),
            seed=ground.seed,
            parent=ground.standing.version.number,
            data_from=ground.window.start,
            data_to=ground.window.cut,
            data_digest=story.data_digest,
            digest=digest,
            scorer=form,
            tensors=tensors,
            snapshot=one.candidate.snapshot,
            created_at=now,
        ),
    )
    versions.add_verdict(
        connection,
        StoredVerdict(
            id=uuid7(now, os.urandom(ENTROPY_BYTES)),
            policy_id=policy_id,
            version=number,
            gate=GATE,
            passed=one.verdict.passed,
            summary=one.verdict.summary,
            numbers=one.evidence.as_json() if one.evidence else {},
            checks=[check.as_json() for check in one.verdict.checks],
            created_at=now,
        ),
    )
    return number
