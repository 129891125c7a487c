"""What the monitors found of a policy, and the way out of a freeze."""

from typing import Annotated

from fastapi import APIRouter, Query

from controlplane import linting, overrides, registry, watches
from controlplane.api.auth import Publishing, Reader
from controlplane.api.evidence_answers import FindingAnswer, FindingsAnswer, LintAnswer
from controlplane.api.runtime import Api, now
from controlplane.api.wire import Name
from controlplane.errors import ConflictError
from storage import releases

router = APIRouter(prefix="/v1/policies/{policy}", tags=["monitors"])


@router.get("/findings")
def list_findings(
    policy: Name,
    caller: Reader,
    api: Api,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> FindingsAnswer:
    """What the monitors found, newest first, and what stands over the policy's settings now."""
    with api.engine.connect() as connection:
        found = registry.find_policy(connection, caller.project_id, policy)
        rows = releases.list_findings(connection, found.id, limit=limit)
        standing = overrides.read(connection, found.id, now())
    items = [FindingAnswer.model_validate(row) for row in rows]
    return FindingsAnswer(items=items, overrides=standing)


@router.get("/lint")
def lint_policy(policy: Name, caller: Reader, api: Api) -> LintAnswer:
    """What is wrong or odd about the policy, by what is declared and by its newest decisions."""
    with api.engine.connect() as connection:
        found = registry.find_policy(connection, caller.project_id, policy)
        told = linting.lint_policy(connection, found, now=now())
    return LintAnswer.model_validate(told.as_json())


@router.post("/unfreeze")
def unfreeze(policy: Name, caller: Publishing, api: Api) -> FindingAnswer:
    """Let versions begin to serve again, before the time of the freeze is over; 409 without one."""
    with api.engine.begin() as connection:
        found = registry.find_policy(connection, caller.project_id, policy)
        noted = watches.unfreeze(connection, found.id, by=caller.source, now=now())
    if noted is None:
        raise ConflictError(f"policy {policy!r} is not frozen")
    return FindingAnswer.model_validate(noted)
