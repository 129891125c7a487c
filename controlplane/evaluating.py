"""What a version would have earned on log newer than its training: asked for at any time.

Nobody is released by it: it is one look among many, whose intervals hold for one look each.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import numpy as np
import sqlalchemy as sa

from controlplane import scorers
from controlplane.candidates import Log
from controlplane.config import PolicyConfig, read_config
from controlplane.errors import InvalidError, NotFoundError
from controlplane.findings import plain
from controlplane.gates import Check
from controlplane.publishing import CHAMPION, EVALUATION
from controlplane.revisions import told_apart
from controlplane.round_log import RoundLog, keeping
from learners import diagnostics, ope
from learners.diagnostics import Finding
from learners.errors import EstimateError
from learners.ids import ENTROPY_BYTES, uuid7
from learners.ope import ESTIMATORS, Evaluation
from learners.records import Estimate
from learners.scorers.base import Scorer
from storage import policies, versions
from storage.log import stream
from storage.policies import StoredPolicy
from storage.versions import StoredVerdict, StoredVersion

MAX_ROWS = 20_000
"""Of the newest log: what a call answers within seconds."""
LEVEL = 0.95

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Bench:
    """Rows newer than the training of all whom they judge, as each of two versions reads them.

    Attributes:
        log: the rows.
        scorers: as each version serves.
        predicted: the reward model's rewards, the same for both.
        after: the position beyond which the rows lie.
        upto: the last position.
    """

    config: PolicyConfig
    log: Log
    scorers: tuple[Scorer, Scorer]
    predicted: np.ndarray[Any, np.dtype[np.float64]]
    after: int
    upto: int

    @property
    def own(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """The first version's probabilities, shape ``(n, K)``."""
        return self.log.distribution(self.log.log.x, self.scorers[0])

    def both(self) -> tuple[Evaluation, Evaluation]:
        """Both versions by the doubly robust estimator."""
        first, second = self.scorers
        return (
            self.log.evaluate(self.log.log.x, first, self.predicted),
            self.log.evaluate(self.log.standing_x, second, self.predicted),
        )

    def gap(self, first: Evaluation, second: Evaluation) -> tuple[Estimate, dict[str, Estimate]]:
        """First − second, paired, in all and in each of the largest segments."""
        spread = float(np.ptp(self.log.log.reward))
        whole = ope.difference(first, second, level=LEVEL, reward_range=spread)
        return whole, self.log.by_segment(first, second, self.config, LEVEL, spread)

    def findings(self, own: Evaluation) -> tuple[Finding, ...]:
        """Whether these rows can judge the first version."""
        least = self.config.gate.min_effective_n
        return (
            diagnostics.effective_size(own.weights, least=least, clusters=own.clusters),
            diagnostics.mean_weight(own),
            *self.log.diagnostics(self.scorers[0], own, self.config),
        )


def evaluate(
    connection: sa.Connection, policy_id: UUID, number: int, *, now: datetime
) -> StoredVerdict:
    """Evaluate a version on the log that is newer than its training, and store what was found.

    By all estimators, arm by arm, in the largest segments, and against the champion where that
    is another version (then on rows newer than its training too).

    Raises:
        NotFoundError: There is no such version.
        InvalidError: There are too few newer rows.
        LearnersError: It cannot be evaluated.
    """
    policy = policies.get_policy(connection, policy_id)
    version = _version(connection, policy, number)
    alias = versions.find_alias(connection, policy_id, CHAMPION)
    champion = _version(connection, policy, alias[0]) if alias else version
    bench = _bench(connection, policy, version, champion)
    own, other = bench.both()
    findings = bench.findings(own)
    passed = all(one.passed for one in findings)
    value = ope.estimate(own, level=LEVEL)
    numbers: Json = {
        "judged": len(bench.log.log),
        "judged_on": [bench.after, bench.upto],
        "champion_version": champion.number,
        "value": value.as_json(),
        "estimates": _estimates(bench),
        "arms": _each(
            ope.by_arm(
                bench.log.log, bench.own, predicted=bench.predicted, clusters=bench.log.clusters
            )
        ),
        "diagnostics": {one.name: one.value for one in findings},
    }
    if champion.number != number:
        gap, segments = bench.gap(own, other)
        numbers["over_champion"] = gap.as_json()
        numbers["champion"] = ope.estimate(other, level=LEVEL).as_json()
        numbers["segments"] = {name: one.as_json() for name, one in segments.items()}
    said = f"{value.value:.4f} ({value.low:.4f} to {value.high:.4f}) on {value.n:,} newer rows"
    refused = "; ".join(one.sentence for one in findings if not one.passed)
    verdict = StoredVerdict(
        id=uuid7(now, os.urandom(ENTROPY_BYTES)),
        policy_id=policy_id,
        version=number,
        gate=EVALUATION,
        passed=passed,
        summary=said if passed else f"the log cannot say: {refused}",
        numbers=plain(numbers),
        checks=[
            plain(Check(f.name, f.passed, f.value, f.bound, f.sentence).as_json()) for f in findings
        ],
        created_at=now,
    )
    versions.add_verdict(connection, verdict)
    return verdict


def compare(connection: sa.Connection, policy_id: UUID, first: int, second: int) -> Json:
    """Two versions on the rows that are newer than the training of both; nothing is stored.

    Raises:
        NotFoundError: There is no such version.
        InvalidError: It is the same version twice, or there are too few newer rows.
        LearnersError: They cannot be compared.
    """
    if first == second:
        raise InvalidError("version", "a version does not differ from itself: name another")
    policy = policies.get_policy(connection, policy_id)
    both = [_version(connection, policy, number) for number in (first, second)]
    bench = _bench(connection, policy, both[0], both[1])
    own, other = bench.both()
    gap, segments = bench.gap(own, other)
    found: Json = {
        "first": first,
        "second": second,
        "judged": len(bench.log.log),
        "judged_on": [bench.after, bench.upto],
        "difference": gap.as_json(),
        "values": [ope.estimate(one, level=LEVEL).as_json() for one in (own, other)],
        "segments": {name: one.as_json() for name, one in segments.items()},
        "diagnostics": [one.as_json() for one in bench.findings(own)],
    }
    answer: Json = plain(found)
    return answer


def _version(connection: sa.Connection, policy: StoredPolicy, number: int) -> StoredVersion:
    found = versions.find_version(connection, policy.id, number)
    if found is None:
        raise NotFoundError(f"policy {policy.name!r} has no version {number}")
    return found


def _bench(
    connection: sa.Connection, policy: StoredPolicy, first: StoredVersion, second: StoredVersion
) -> Bench:
    config = read_config(policy.config)
    arms = tuple(row["name"] for row in policies.list_arms(connection, policy.pool_id))
    upto = policy.log_position
    after = max(first.data_to, second.data_to, upto - min(MAX_ROWS, config.max_interactions))
    reward = policies.newest_reward(connection, policy.id)
    batches = stream(
        connection,
        policy.id,
        after=after,
        upto=upto,
        limit=MAX_ROWS,
        reward_version=reward[0] if reward else 0,
        kept=keeping(config.segment),
    )
    schemas = (scorers.schema_of(first), scorers.schema_of(second))
    read = RoundLog.read(batches, schemas, limit=max(upto - after, 0))
    revised = policies.revised_arms(connection, policy.pool_id)
    log = Log.of(told_apart(read.rows, revised), arms, read)
    if len(log.log) < ope.FOLDS:
        raise InvalidError(
            "version",
            f"{len(log.log)} rewarded decisions are newer than the training, at position {after}: "
            f"{ope.FOLDS} are needed at least",
        )
    served = tuple(scorers.load(one).over(arms).floored(config.floor) for one in (first, second))
    predicted = ope.reward_model(log.log, clusters=log.clusters)
    return Bench(config, log, (served[0], served[1]), predicted, after, upto)


def _estimates(bench: Bench) -> Mapping[str, Json | None]:
    """By each estimator; None where one can say nothing."""
    found: dict[str, Json | None] = {}
    for name in ESTIMATORS:
        try:
            each = ope.evaluate(
                bench.log.log,
                bench.own,
                name,
                predicted=bench.predicted,
                clusters=bench.log.clusters,
            )
        except EstimateError:
            found[name] = None
        else:
            found[name] = ope.estimate(each, level=LEVEL).as_json()
    return found


def _each(evaluations: Mapping[str, Evaluation]) -> dict[str, Json]:
    return {name: ope.estimate(one, level=LEVEL).as_json() for name, one in evaluations.items()}
