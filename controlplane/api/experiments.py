"""Experiments: begun, looked at, stopped; and how long one would take, before it begins."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import sqlalchemy as sa
from fastapi import APIRouter, Path, Query, Response

from controlplane import experiments as service
from controlplane import planning, registry
from controlplane.api.answers import Answer
from controlplane.api.auth import Publishing, Reader
from controlplane.api.idempotency import IdempotencyKey, once
from controlplane.api.runtime import Api, now
from controlplane.api.wire import Finite, Name, Text
from controlplane.experiment_config import (
    REWARD,
    Covariate,
    ExperimentConfig,
    ExperimentGuardrail,
    ExperimentVariant,
    as_json,
    read_config,
)
from learners.lineup import Unit
from storage import experiment_rows, policies
from storage.releases import StoredExperiment

router = APIRouter(prefix="/v1", tags=["experiments"])

ExperimentId = Annotated[UUID, Path(description="as the experiment's creation answered")]
Part = Annotated[Finite, Query(gt=0, lt=1)]


class PlanRow(Answer):
    """One way to see a difference; ``decisions`` are of those who take part, with this chance."""

    method: str
    difference: float
    level: float
    power: float
    requests_per_day: float
    design_effect: float
    deviation: float
    worst: float
    decisions: int
    typical: int
    days: float
    sentence: str


class PlannedAnswer(Answer):
    """How long it takes, and what that rests on; ``note`` says why there is no plan."""

    metric: str | None = None
    requests_per_day: float | None = None
    deviation: float | None = None
    design_effect: float | None = None
    values: int | None = None
    exploration: float | None = None
    arms: int | None = None
    plans: list[PlanRow]
    note: str | None = None


class PlanAnswer(PlannedAnswer):
    """The ways to see a difference in a policy, and how long each takes."""

    policy: str


class ExperimentAnswer(Answer):
    """An experiment: what was declared, its part of the layer, and what the last look said.

    ``result`` holds the verdict number by number; ``decided`` is the first that was none of
    ``running``, which later looks do not take back.
    """

    id: UUID
    policy: str
    name: str
    status: str
    reason: str | None
    by: str
    unit: Unit
    layer: str
    start: float
    end: float
    share: float
    holdout: float
    aa: bool
    salt: str
    variants: list[ExperimentVariant]
    metric: str
    guardrails: list[ExperimentGuardrail]
    covariate: Covariate | None
    segment: str | None
    difference: float
    power: float
    margin: float
    negligible: float
    alpha: float
    max_decisions: int | None
    look_s: float
    auto_stop: bool
    unproven: bool
    plan: PlannedAnswer
    looks: int
    looked_at: datetime | None
    look_at: datetime | None
    started_at: datetime
    ended_at: datetime | None
    decided: dict[str, Any] | None
    result: dict[str, Any] | None


class ExperimentsAnswer(Answer):
    """A page of experiments, newest first; ``next`` is the ``before`` of the page that follows."""

    items: list[ExperimentAnswer]
    next: UUID | None


@router.get("/policies/{policy}/experiments")
def list_experiments(
    policy: Name,
    caller: Reader,
    api: Api,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    before: UUID | None = None,
) -> ExperimentsAnswer:
    """A policy's experiments, newest first, with the verdict of the last look."""
    with api.engine.connect() as connection:
        found = registry.find_policy(connection, caller.project_id, policy)
        rows = experiment_rows.page(connection, found.id, limit=limit + 1, before=before)
    items = [answer(row, policy) for row in rows[:limit]]
    return ExperimentsAnswer(items=items, next=items[-1].id if len(rows) > limit else None)


@router.post("/policies/{policy}/experiments", status_code=201)
def create_experiment(
    policy: Name,
    body: ExperimentConfig,
    *,
    caller: Publishing,
    api: Api,
    response: Response,
    preview: bool = False,
    key: IdempotencyKey = None,
) -> ExperimentAnswer:
    """Begin an experiment on a free part of its layer; ``preview`` shows it and begins nothing.

    ``plan`` says how many decisions and days it takes until the difference can be seen. 409: the
    name is taken or the layer has no room; 422 with each failed check: a version has not passed.
    """
    at = now()
    with api.engine.begin() as connection:
        found = registry.find_policy(connection, caller.project_id, policy)
        if preview:
            response.status_code = 200
            made = service.prepare(connection, found, body, by=caller.source, now=at)
            return answer(made, policy).model_copy(update={"status": "preview"})

        def act() -> dict[str, Any]:
            made = service.create(connection, api.publisher, found, body, by=caller.source, now=at)
            return answer(made, policy).model_dump(mode="json")

        request = {"route": "experiments", "policy": policy, "body": as_json(body)}
        told, _ = once(connection, caller, key, request, act, now=at)
    return ExperimentAnswer.model_validate(told)


@router.get("/experiments/{experiment}")
def get_experiment(experiment: ExperimentId, caller: Reader, api: Api) -> ExperimentAnswer:
    """One experiment: allocation, split, intervals, guardrails, segments, verdict."""
    with api.engine.connect() as connection:
        found = service.find(connection, caller.project_id, experiment)
        return answer(found, _policy(connection, found))


@router.post("/experiments/{experiment}/stop")
def stop_experiment(experiment: ExperimentId, caller: Publishing, api: Api) -> ExperimentAnswer:
    """End an experiment: its units are the champion's again. 409 where it has ended."""
    with api.engine.begin() as connection:
        ended = service.stop(
            connection, api.publisher, caller.project_id, experiment, by=caller.source, now=now()
        )
        return answer(ended, _policy(connection, ended))


@router.get("/policies/{policy}/plan")
def get_plan(
    policy: Name,
    caller: Reader,
    api: Api,
    *,
    difference: Annotated[Finite, Query(gt=0, description="to be seen, in the metric's unit")],
    metric: Text = REWARD,
    unit: Unit = "session",
    share: Part = 0.5,
    traffic: Annotated[Finite, Query(gt=0, le=1)] = 1.0,
    differ: Annotated[Finite, Query(gt=0, le=1)] = 0.3,
    power: Part = 0.8,
    alpha: Part = 0.05,
    requests_per_day: Annotated[Finite | None, Query(gt=0)] = None,
    deviation: Annotated[Finite | None, Query(gt=0)] = None,
) -> PlanAnswer:
    """How many decisions and days until a difference can be seen; nothing begins.

    ``ab``: by a split, of which the new variant has ``share`` and which has ``traffic`` of the
    requests. ``fixed`` and ``anytime``: on the champion's own log, for a candidate that chooses
    otherwise on ``differ`` of the requests. What is not given is read of the newest log.
    """
    asked = planning.Asked(
        difference=difference,
        metric=metric,
        unit=unit,
        share=share,
        traffic=traffic,
        differ=differ,
        power=power,
        alpha=alpha,
        requests_per_day=requests_per_day,
        deviation=deviation,
    )
    with api.engine.connect() as connection:
        found = registry.find_policy(connection, caller.project_id, policy)
        told = planning.estimate(connection, found, asked, now())
    return PlanAnswer.model_validate(told)


def answer(experiment: StoredExperiment, policy: str) -> ExperimentAnswer:
    """An experiment as the API and the pages show it."""
    spec, state = experiment.spec, experiment.state
    config = read_config(spec["config"])
    declared = {name: getattr(config, name) for name in config.__dataclass_fields__}
    split = spec["split"]
    return ExperimentAnswer(
        **{
            **declared,
            "id": experiment.id,
            "policy": policy,
            "status": experiment.status,
            "reason": state.get("reason"),
            "by": spec["by"],
            "start": split["start"],
            "end": split["end"],
            "salt": split["salt"],
            "plan": PlannedAnswer.model_validate(spec["plan"]),
            "looks": state["looks"],
            "looked_at": state.get("looked_at"),
            "look_at": state.get("look_at"),
            "started_at": experiment.started_at,
            "ended_at": experiment.ended_at,
            "decided": state.get("decided"),
            "result": experiment.result,
        }
    )


def _policy(connection: sa.Connection, experiment: StoredExperiment) -> str:
    return policies.get_policy(connection, experiment.policy_id).name
