"""Versions on log newer than their training, whenever somebody asks."""

from typing import Annotated

from fastapi import APIRouter, Query

from controlplane import evaluating, registry
from controlplane.api.answers import VerdictAnswer
from controlplane.api.auth import Publishing, Reader
from controlplane.api.evidence_answers import ComparisonAnswer
from controlplane.api.runtime import Api, now
from controlplane.api.wire import Name, VersionNumber
from learners.ope import IntervalKind

router = APIRouter(prefix="/v1/policies/{policy}/versions/{version}", tags=["versions"])


Interval = Annotated[
    IntervalKind,
    Query(description="by the central limit theorem, resampled, or for any number of rows"),
]


@router.post("/evaluations", status_code=201)
def evaluate_version(
    policy: Name,
    version: VersionNumber,
    caller: Publishing,
    api: Api,
    *,
    interval: Interval = "normal",
) -> VerdictAnswer:
    """Evaluate a version on the newest log after its training, by all estimators; it is stored."""
    with api.engine.begin() as connection:
        found = registry.find_policy(connection, caller.project_id, policy)
        said = evaluating.evaluate(connection, found.id, version, now=now(), interval=interval)
    return VerdictAnswer.model_validate(said)


@router.get("/compare/{other}")
def compare_versions(
    policy: Name,
    version: VersionNumber,
    other: VersionNumber,
    caller: Reader,
    api: Api,
    *,
    interval: Interval = "normal",
    strict: Annotated[bool, Query(description="refuse where a diagnostic fails")] = False,
) -> ComparisonAnswer:
    """The version minus another, paired on the newest log after the training of both."""
    with api.engine.connect() as connection:
        found = registry.find_policy(connection, caller.project_id, policy)
        return ComparisonAnswer.model_validate(
            evaluating.compare(
                connection,
                found.id,
                version,
                other,
                now=now(),
                interval=interval,
                strict=strict,
            )
        )
