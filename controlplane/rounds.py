"""A round: join → learn → judge on newer log → publish, or a verdict that says why not."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

import sqlalchemy as sa
import structlog

from controlplane import scorers
from controlplane.candidates import Candidate, Incumbent, digest_of, fitting, train, weigh
from controlplane.config import PolicyConfig, from_json
from controlplane.errors import StaleError
from controlplane.gates import Evidence, Verdict, judge
from controlplane.publishing import CHAMPION, Publisher, promote
from feedback import join
from learners.ids import ENTROPY_BYTES, uuid7
from storage import interactions, policies, versions
from storage.policies import StoredPolicy
from storage.versions import StoredRound, StoredVerdict, StoredVersion

GATE = "release"
KEPT_CANDIDATES = 200
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
    with engine.begin() as connection:
        while join.settle(connection, policy_id, now=started_at) == join.BATCH:
            pass
    with engine.connect() as connection:
        policy = policies.get_policy(connection, policy_id)
        arms = tuple(row["name"] for row in policies.list_arms(connection, policy.pool_id))
        last = versions.newest_round(connection, policy_id)
        standing = _standing(connection, policy_id)
        if standing is None or not arms:
            return None
        config = from_json(policy.config)
        window = _window(policy.log_position, config, standing)
        rows = interactions.read(
            connection,
            policy_id,
            after=window.start,
            upto=window.end,
            limit=config.max_interactions,
        )
    look = _look(last, standing)
    champion = Incumbent(scorers.load(standing.version), scorers.schema_of(standing.version))
    rows, misfits = fitting(rows, (config.schema, champion.schema))
    training = [row for row in rows if row.position <= window.cut]
    newer = [row for row in rows if row.position > window.newer_than]
    number = last.number + 1 if last else 1
    judged = []
    if training:
        candidates = train(training, arms, config, seed=config.seed + number)
        evidence = weigh(newer, candidates, champion, config, look=look)
        judged = [
            Judged(c, e, _verdict(e, config)) for c, e in zip(candidates, evidence, strict=True)
        ]
    story = Story(policy, config, window, standing, number, look, misfits, digest_of(training))
    with engine.begin() as connection:
        return _store(connection, publisher, story, judged, started_at)


@dataclass(frozen=True, slots=True)
class Story:
    """What a round was about, beside its candidates."""

    policy: StoredPolicy
    config: PolicyConfig
    window: Window
    standing: Standing
    number: int
    look: int
    misfits: int
    data_digest: str


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


def _look(last: StoredRound | None, standing: Standing) -> int:
    if last is None or last.summary.get("champion") != standing.version.number:
        return 1
    return last.look + 1


def _verdict(evidence: Evidence | None, config: PolicyConfig) -> Verdict:
    if evidence is None:
        return Verdict(False, "not released: no interactions newer than the training", ())
    return judge(evidence, config.gate)


def _store(
    connection: sa.Connection,
    publisher: Publisher,
    story: Story,
    judged: Sequence[Judged],
    started_at: datetime,
) -> StoredRound:
    policy_id = story.policy.id
    versions.lock_policy(connection, policy_id)
    versions.retire_candidates(connection, policy_id, keep=KEPT_CANDIDATES)
    now = datetime.now(UTC)
    numbers = [_store_candidate(connection, story, one, now) for one in judged]
    winner = _winner(judged)
    published = None
    if winner is not None and story.config.auto_promote:
        published = _publish(connection, publisher, story, numbers[winner], now)
    done = StoredRound(
        policy_id=policy_id,
        number=story.number,
        position=story.window.end,
        look=story.look,
        summary={
            "champion": story.standing.version.number,
            "candidates": {
                str(n): one.candidate.learner.name for n, one in zip(numbers, judged, strict=True)
            },
            "passed": [n for n, one in zip(numbers, judged, strict=True) if one.verdict.passed],
            "published": published,
            "trained_on": [story.window.start, story.window.cut],
            "judged_on": [story.window.newer_than, story.window.end],
            "contexts_that_did_not_fit": story.misfits,
        },
        started_at=started_at,
        finished_at=now,
    )
    versions.add_round(connection, done)
    log.info("round.done", policy=story.policy.name, round=done.number, **done.summary)
    return done


def _winner(judged: Sequence[Judged]) -> int | None:
    """The passed candidate that is surest to beat the champion."""
    passed = [
        (one.evidence.over_champion.low, i)
        for i, one in enumerate(judged)
        if one.verdict.passed and one.evidence is not None
    ]
    return max(passed)[1] if passed else None


def _publish(
    connection: sa.Connection, publisher: Publisher, story: Story, number: int, now: datetime
) -> int | None:
    try:
        promote(
            connection,
            publisher,
            story.policy.id,
            number,
            revision=story.standing.revision,
            reason=f"round {story.number}: passed the gate",
            now=now,
        )
    except StaleError as error:
        log.warning("round.champion_moved", policy=story.policy.name, detail=str(error))
        return None
    return number


def _store_candidate(connection: sa.Connection, story: Story, one: Judged, now: datetime) -> int:
    policy_id = story.policy.id
    number = versions.next_version(connection, policy_id)
    form, tensors, digest = scorers.dump(one.candidate.scorer)
    versions.add_version(
        connection,
        StoredVersion(
            policy_id=policy_id,
            number=number,
            state="candidate",
            learner=one.candidate.learner.name,
            config={
                "features": story.config.schema.as_json(),
                "params": dict(one.candidate.learner.params),
            },
            seed=story.config.seed + story.number,
            parent=story.standing.version.number,
            data_from=story.window.start,
            data_to=story.window.cut,
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
