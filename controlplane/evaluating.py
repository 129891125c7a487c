"""What a version would have earned on log newer than its training: asked for at any time.

Nobody is released by it: it is one look among many, whose intervals hold for one look each.
"""

import os
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from controlplane import evaluation_log
from controlplane.episode_values import episode_values
from controlplane.errors import InvalidError, NotFoundError
from controlplane.evaluation_log import Bench
from controlplane.findings import plain
from controlplane.frontier_values import frontier_values, served_values
from controlplane.gates import Check
from controlplane.publishing import CHAMPION, EVALUATION
from learners import diagnostics, ope
from learners.diagnostics import Finding
from learners.errors import EstimateError
from learners.ids import ENTROPY_BYTES, uuid7
from learners.ope import ESTIMATORS, Evaluation, IntervalKind
from storage import policies, versions
from storage.policies import StoredPolicy
from storage.versions import StoredVerdict, StoredVersion

Json = dict[str, Any]


def evaluate(
    connection: sa.Connection,
    policy_id: UUID,
    number: int,
    *,
    now: datetime,
    interval: IntervalKind = "normal",
) -> StoredVerdict:
    """Evaluate a version on the log that is newer than its training, and store what was found.

    By all estimators, arm by arm, in the largest segments, an episode where there are some, beside
    the arms in cost and score, and against the champion where that is another version (then on rows
    newer than its training too). Where no row has a propensity, by the direct method alone.

    Raises:
        NotFoundError: There is no such version.
        InvalidError: There are too few newer rows.
        LearnersError: It cannot be evaluated.
    """
    policy = policies.get_policy(connection, policy_id)
    version = _version(connection, policy, number)
    alias = versions.find_alias(connection, policy_id, CHAMPION)
    champion = _version(connection, policy, alias[0]) if alias else version
    bench = evaluation_log.read(connection, policy, (version, champion), kind=interval, now=now)
    if len(bench.log.log) < ope.FOLDS <= len(bench.unweighed):
        said, numbers, findings = _by_direct_method(bench)
    else:
        _refuse_too_few(bench)
        said, numbers, findings = _by_all(bench, (number, champion.number))
    passed = all(one.passed for one in findings)
    refused = "; ".join(one.sentence for one in findings if not one.passed)
    verdict = StoredVerdict(
        id=uuid7(now, os.urandom(ENTROPY_BYTES)),
        policy_id=policy_id,
        version=number,
        gate=EVALUATION,
        passed=passed,
        summary=said if passed else f"the log cannot say: {refused}",
        numbers=plain(
            {
                "judged_on": [bench.after, bench.upto],
                "champion_version": champion.number,
                "interval": interval,
                "without_propensity": len(bench.unweighed),
                "diagnostics": {one.name: one.value for one in findings},
                **numbers,
            }
        ),
        checks=[
            plain(Check(f.name, f.passed, f.value, f.bound, f.sentence).as_json()) for f in findings
        ],
        created_at=now,
    )
    versions.add_verdict(connection, verdict)
    return verdict


def _by_all(bench: Bench, numbered: tuple[int, int]) -> tuple[str, Json, tuple[Finding, ...]]:
    """In a sentence, in numbers, and whether the log can say it; of a version and the champion."""
    own, other = bench.both()
    value, log = bench.estimate(own), bench.log
    differ = numbered[0] != numbered[1]
    model, together = bench.predicted, log.clusters
    numbers: Json = {
        "judged": len(log.log),
        "value": value.as_json(),
        "estimates": _estimates(bench),
        "arms": _each(bench, ope.by_arm(log.log, bench.own, predicted=model, clusters=together)),
        "always": _each(bench, ope.of_arms(log.log, predicted=model, clusters=together)),
        "episodes": episode_values(bench, differ=differ),
        "frontier": frontier_values(bench, (f"version {numbered[0]}", f"version {numbered[1]}")),
        "served": served_values(bench),
        "pairs": None if bench.calibration is None else bench.calibration.as_json(),
    }
    if differ:
        gap, segments = bench.gap(own, other)
        numbers["over_champion"] = gap.as_json()
        numbers["champion"] = bench.estimate(other).as_json()
        numbers["segments"] = {name: one.as_json() for name, one in segments.items()}
    said = f"{value.value:.4f} ({value.low:.4f} to {value.high:.4f}) on {value.n:,} newer rows"
    return said, numbers, bench.findings(own)


def _by_direct_method(bench: Bench) -> tuple[str, Json, tuple[Finding, ...]]:
    """What can be said where no propensities were logged: a value, and that nobody can test it."""
    value = bench.estimate(bench.direct())
    estimates: Json = dict.fromkeys(ESTIMATORS)
    numbers: Json = {
        "judged": 0,
        "value": value.as_json(),
        "estimates": {**estimates, "dm": value.as_json()},
    }
    said = f"{value.value:.4f} by the direct method alone, on {value.n:,} newer rows"
    log = bench.unweighed.log
    return said, numbers, (diagnostics.unweighed(log.propensity),)


def compare(
    connection: sa.Connection,
    policy_id: UUID,
    first: int,
    second: int,
    *,
    now: datetime,
    interval: IntervalKind = "normal",
    strict: bool = False,
) -> Json:
    """Two versions on the rows that are newer than the training of both; nothing is stored.

    Raises:
        NotFoundError: There is no such version.
        InvalidError: It is the same version twice, or there are too few newer rows.
        LearnersError: They cannot be compared; or, with ``strict``, a diagnostic says that the log
            cannot judge the first.
    """
    if first == second:
        raise InvalidError("version", "a version does not differ from itself: name another")
    policy = policies.get_policy(connection, policy_id)
    both = _version(connection, policy, first), _version(connection, policy, second)
    bench = evaluation_log.read(connection, policy, both, kind=interval, now=now)
    _refuse_too_few(bench)
    own, other = bench.both()
    findings = bench.findings(own)
    if strict:
        diagnostics.require(findings)
    gap, segments = bench.gap(own, other)
    found: Json = {
        "first": first,
        "second": second,
        "judged": len(bench.log.log),
        "judged_on": [bench.after, bench.upto],
        "interval": interval,
        "difference": gap.as_json(),
        "values": [bench.estimate(one).as_json() for one in (own, other)],
        "segments": {name: one.as_json() for name, one in segments.items()},
        "episodes": episode_values(bench, differ=True),
        "diagnostics": [one.as_json() for one in findings],
    }
    answer: Json = plain(found)
    return answer


def _version(connection: sa.Connection, policy: StoredPolicy, number: int) -> StoredVersion:
    found = versions.find_version(connection, policy.id, number)
    if found is None:
        raise NotFoundError(f"policy {policy.name!r} has no version {number}")
    return found


def _refuse_too_few(bench: Bench) -> None:
    if len(bench.log.log) >= ope.FOLDS:
        return
    why = f"{ope.FOLDS} are needed at least"
    if bench.config.sources.trusted and len(bench.background.facts.at) >= ope.FOLDS:
        why += "; of the others too few have a grade of a trusted source beside another one"
    raise InvalidError(
        "version",
        f"{len(bench.log.log)} rewarded decisions are newer than the training, at position "
        f"{bench.after}: {why}",
    )


def _estimates(bench: Bench) -> Mapping[str, Json | None]:
    """By each estimator; None where one can say nothing. Rows without a propensity serve dm."""
    found: dict[str, Json | None] = {}
    log = bench.log
    for name in ESTIMATORS:
        try:
            each = (
                bench.direct()
                if name == "dm"
                else ope.evaluate(
                    log.log, bench.own, name, predicted=bench.predicted, clusters=log.clusters
                )
            )
            found[name] = bench.estimate(each).as_json()
        except EstimateError:
            found[name] = None
    return found


def _each(bench: Bench, evaluations: Mapping[str, Evaluation]) -> dict[str, Json]:
    """Of the arms in service."""
    serving = {
        arm for arm, there in zip(bench.log.log.arms, bench.log.in_service, strict=True) if there
    }
    return {
        name: bench.estimate(one).as_json() for name, one in evaluations.items() if name in serving
    }
