"""Experiments: versions compared on live traffic, by units that a hash hands out.

An experiment holds a part of a layer. Experiments of one layer, across all policies of a project,
hold disjoint parts, so a unit is in one of them at most; a holdout at the layer's end is in none.
Creating and ending one publishes the policy's bundle in the same transaction. Workers look at it
from time to time; everything that a look says holds at every look (:mod:`learners.experiments`).
"""

import os
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
import structlog

from controlplane import alarms, experiment_numbers, planning, publishing
from controlplane.config import read_config as read_policy
from controlplane.errors import ConflictError, InvalidError, NotFoundError
from controlplane.experiment_config import ENDED, ExperimentConfig, as_json, read_config
from controlplane.lineups import cast_of, crowd
from controlplane.publishing import CHAMPION, Publisher
from controlplane.release_plan import canaries
from learners.errors import EstimateError
from learners.ids import ENTROPY_BYTES, uuid7
from learners.lineup import MAX_CHALLENGERS, MAX_SPLITS, Split, Variant, free_part
from storage import experiment_rows, policies, releases, versions
from storage.policies import StoredPolicy
from storage.releases import StoredExperiment

RUNNING, STOPPED = "running", "stopped"
"""It runs; a person stopped it; it ended by itself."""
PLANNED_ROWS = 20_000
"""At which intervals are tightest where no plan could be made."""
RARER = 0.05
"""Part of an experiment's age that lies between two looks, so that all looks together read its log
about twenty times."""
MAX_PAUSE_S = 86_400.0
_TICK = timedelta(milliseconds=1)
BREAKING = ("stopped_by_srm", "guardrail_broken", "worse")

Json = dict[str, Any]
log = structlog.get_logger(__name__)


def create(
    connection: sa.Connection,
    publisher: Publisher,
    policy: StoredPolicy,
    config: ExperimentConfig,
    *,
    by: str,
    now: datetime,
) -> StoredExperiment:
    """Begin an experiment, and publish the bundle that serves it.

    Raises:
        InvalidError: A metric, version or segment is not there, or nothing is compared.
        ConflictError: The name is taken, or the layer has no free part that is large enough.
        GateError: A version has not passed, and ``unproven`` is off.
    """
    made = prepare(connection, policy, config, by=by, now=now)
    releases.add_experiment(connection, made)
    publishing.republish(
        connection, publisher, policy.id, reason=f"experiment {config.name} begins", now=now
    )
    log.info("experiment.created", policy=policy.name, experiment=config.name)
    return made


def prepare(
    connection: sa.Connection,
    policy: StoredPolicy,
    config: ExperimentConfig,
    *,
    by: str,
    now: datetime,
) -> StoredExperiment:
    """The experiment as it would begin now, with its part of the layer and its plan; not stored.

    Raises:
        InvalidError: As of :func:`create`, as its other errors.
    """
    policies.lock_project(connection, policy.project_id)
    versions.lock_policy(connection, policy.id)
    if experiment_rows.find_named(connection, policy.id, config.name) is not None:
        raise ConflictError(f"the policy has had an experiment {config.name!r}: choose a new name")
    running = releases.list_experiments(connection, policy.id, running=True)
    # Bundles take experiments in the order of their ids: a younger one must not be before an older.
    began = max([now, *(one.started_at + _TICK for one in running)])
    identifier = uuid7(began, os.urandom(ENTROPY_BYTES))
    salt = config.salt or str(identifier)
    split = _split(connection, policy, config, salt)
    _check_versions(connection, policy, config)
    _check_release(connection, policy, split)
    earlier = _check_metrics(connection, policy, config, salt)
    reward = policies.newest_reward(connection, policy.id)
    plan, planned_rows = _plan(connection, policy, config, now)
    spec = {
        "config": as_json(config),
        "split": split.as_json(),
        "by": by,
        "planned_rows": planned_rows,
        "plan": plan,
        "reward_version": reward[0] if reward else 0,
        "earlier": earlier,
    }
    state = {"looks": 0, "look_at": (now + timedelta(seconds=config.look_s)).isoformat()}
    return StoredExperiment(
        identifier, policy.id, config.name, spec, RUNNING, state, None, began, None
    )


def stop(
    connection: sa.Connection,
    publisher: Publisher,
    project_id: UUID,
    experiment_id: UUID,
    *,
    by: str,
    now: datetime,
) -> StoredExperiment:
    """End an experiment; its units are the champion's again. It is looked at once more, later.

    Raises:
        NotFoundError: The project has no such experiment.
        ConflictError: It has ended.
    """
    found = find(connection, project_id, experiment_id)
    versions.lock_policy(connection, found.policy_id)
    found = find(connection, project_id, experiment_id)
    if found.ended_at is not None:
        raise ConflictError(f"experiment {found.name!r} has ended: it was {found.status}")
    state = {**found.state, "reason": f"stopped by {by}"}
    if state.get("look_at") is not None:
        state["look_at"] = (now + _wait(connection, found)).isoformat()
    ended = replace(found, status=STOPPED, state=state, ended_at=now)
    _end(connection, publisher, ended, now)
    return ended


def find(connection: sa.Connection, project_id: UUID, experiment_id: UUID) -> StoredExperiment:
    """One of a project's experiments.

    Raises:
        NotFoundError: The project has no such experiment.
    """
    found = experiment_rows.find_in_project(connection, project_id, experiment_id)
    if found is None:
        raise NotFoundError(f"experiment {experiment_id} does not exist")
    return found


def look(
    engine: sa.Engine, publisher: Publisher, policy_id: UUID, *, now: datetime
) -> list[StoredExperiment]:
    """Look at a policy's experiments that are due; returns where each stands.

    The log is read without a lock; what was changed meanwhile is looked at by the next look.
    """
    with engine.connect() as connection:
        due = experiment_rows.due(connection, policy_id, now)
    return [_look(engine, publisher, one, now) for one in due]


def _look(
    engine: sa.Engine, publisher: Publisher, experiment: StoredExperiment, now: datetime
) -> StoredExperiment:
    with engine.connect() as connection:
        ground = experiment_numbers.ground_of(connection, experiment, now)
        reason = experiment_numbers.overtaken(connection, ground)
        result = experiment.result if reason else experiment_numbers.look(connection, ground)
    looked = _settled(experiment, ground.config, result, reason, now)
    with engine.begin() as connection:
        versions.lock_policy(connection, experiment.policy_id)
        if releases.find_experiment(connection, experiment.id) != experiment:
            return experiment
        told = alarms.of_experiment(connection, experiment, looked, now)
        looked = replace(looked, state={**looked.state, "told": told})
        if looked.ended_at is not None and experiment.ended_at is None:
            _end(connection, publisher, looked, now)
        else:
            releases.put_experiment(connection, looked)
    return looked


def _settled(
    experiment: StoredExperiment,
    config: ExperimentConfig,
    result: Json | None,
    reason: str | None,
    now: datetime,
) -> StoredExperiment:
    """Where the experiment stands after a look."""
    state: Json = {**experiment.state, "looked_at": now.isoformat()}
    state["looks"] = int(state["looks"]) + 1
    status = (result or {}).get("status", "running")
    if result is not None and not reason:
        state["split_evidence"] = result["split_evidence"]
        if status != "running" and "decided" not in state:
            decided = {"status": status, "sentence": result["sentence"], "at": now.isoformat()}
            state["decided"] = decided
    broken = status == "stopped_by_srm"
    if reason or (status in BREAKING and (broken or config.auto_stop)):
        # Nothing is to be learnt any more, or what was learnt ends it.
        state["reason"] = reason or (result or {}).get("sentence", "")
        state["look_at"] = None
    elif experiment.ended_at is not None:
        state["look_at"] = None
    else:
        age_s = (now - experiment.started_at).total_seconds()
        pause_s = max(config.look_s, min(RARER * age_s, MAX_PAUSE_S))
        state["look_at"] = (now + timedelta(seconds=pause_s)).isoformat()
    looked = replace(experiment, state=state, result=result)
    if state["look_at"] is None and config.auto_stop and experiment.ended_at is None:
        return replace(looked, status=ENDED, ended_at=now)
    return looked


def _end(
    connection: sa.Connection, publisher: Publisher, ended: StoredExperiment, now: datetime
) -> None:
    """Store that it ended, and publish the bundle without it; hold the policy's lock."""
    releases.put_experiment(connection, ended)
    publishing.republish(
        connection,
        publisher,
        ended.policy_id,
        reason=f"experiment {ended.name} ends",
        now=now,
    )
    log.info("experiment.ended", experiment=ended.name, reason=ended.state.get("reason"))


def _wait(connection: sa.Connection, experiment: StoredExperiment) -> timedelta:
    """How long after the last decision its metrics may still come."""
    policy = policies.get_policy(connection, experiment.policy_id)
    config = read_config(experiment.spec["config"])
    names = [config.metric, *(one.metric for one in config.guardrails)]
    waits = [planning.measure_of(connection, policy, name)[0].wait_s for name in names]
    return timedelta(seconds=max(policy.wait_s, *waits))


def _split(
    connection: sa.Connection, policy: StoredPolicy, config: ExperimentConfig, salt: str
) -> Split:
    """The experiment's split on the first free part of its layer."""
    others = experiment_rows.running_in_layer(connection, policy.project_id, config.layer)
    splits = [Split.from_json(one.spec["split"]) for one in others]
    units = {one.unit for one in splits} - {config.unit}
    if units:
        raise ConflictError(
            f"layer {config.layer!r} hands out {units.pop()}s: {config.unit}s of the same "
            "requests would be in two of its experiments; take another layer"
        )
    if any(config.salt == one.salt for one in splits):
        raise ConflictError(f"salt {salt!r} is in use in layer {config.layer!r}: give another")
    held = [read_config(one.spec["config"]).holdout for one in others]
    upto = 1.0 - max([config.holdout, *held])
    if any(one.end > upto for one in splits):
        raise ConflictError(
            f"holdout {config.holdout:g}: a running experiment of layer {config.layer!r} holds a "
            "part of it; wait for its end, or take a smaller one"
        )
    part = free_part([(one.start, one.end) for one in splits], config.share, upto)
    if part is None:
        raise ConflictError(_no_room(config, splits, upto))
    return Split(
        name=config.name,
        salt=salt,
        unit=config.unit,
        variants=tuple(Variant(v.name, v.share, v.version) for v in config.variants),
        layer=config.layer,
        start=part[0],
        end=part[1],
    )


def _no_room(config: ExperimentConfig, splits: Sequence[Split], upto: float) -> str:
    taken = ", ".join(f"{one.name} [{one.start:g}, {one.end:g})" for one in splits) or "nobody"
    return (
        f"layer {config.layer!r} has no free part of {config.share:g} below {upto:g}: {taken} "
        "hold theirs; stop one, or ask for a smaller share or another layer"
    )


def _check_versions(
    connection: sa.Connection, policy: StoredPolicy, config: ExperimentConfig
) -> None:
    champion = versions.find_alias(connection, policy.id, CHAMPION)
    if champion is None:
        raise InvalidError("policy", f"policy {policy.name!r} has no champion to compare with")
    serving = {v.version or champion[0] for v in config.variants}
    if len(serving) < 2 and not config.aa:
        raise InvalidError(
            "variants", f"all variants serve version {champion[0]}: name another, or set aa"
        )
    for number in sorted(serving - {champion[0]}):
        if config.unproven:
            if versions.find_version(connection, policy.id, number) is None:
                raise InvalidError("variants", f"version {number} does not exist")
        else:
            publishing.admit(connection, policy.id, number)
    running = releases.list_experiments(connection, policy.id, running=True)
    if len(running) >= MAX_SPLITS - 1:  # a release's canary needs one
        raise ConflictError(f"{len(running)} experiments of this policy run: stop one")
    brought = {*cast_of(connection, policy.id, champion[0]).versions, *serving} - {champion[0]}
    if len(brought) >= MAX_CHALLENGERS:
        raise ConflictError(f"versions {sorted(brought)} stand beside the champion: stop some")


def _check_release(connection: sa.Connection, policy: StoredPolicy, split: Split) -> None:
    """Leave a canary that is under way some requests: it is drawn from what experiments leave."""
    release = releases.running_release(connection, policy.id)
    if release is None or crowd(connection, policy.id, [split]) is None:
        return
    if canaries(float(stage["share"]) for stage in release.plan["stages"][release.stage :]):
        raise ConflictError(
            f"release {release.number} is under way, and its canary would decide no request: give "
            "the experiment a smaller share, or wait for the release"
        )


def _check_metrics(
    connection: sa.Connection, policy: StoredPolicy, config: ExperimentConfig, salt: str
) -> list[str]:
    """Refuse what can not be read; returns the earlier experiments that know the units."""
    _check_context(policy, config)
    planning.measure_of(connection, policy, config.metric)
    for one in config.guardrails:
        planning.measure_of(connection, policy, one.metric, "guardrails")
    covariate = config.covariate
    if covariate is None or covariate.kind == "context":
        return []
    planning.measure_of(connection, policy, covariate.name, "covariate")
    if config.unit == "request":
        raise InvalidError("covariate", "a request has no before: take a field of its context")
    earlier = [one.name for one in experiment_rows.of_salt(connection, policy.id, salt)]
    if config.unit == "user" and not earlier:
        raise InvalidError(
            "covariate",
            "a user is logged as a salted hash alone: run an A/A experiment by users first, and "
            "give this one the same salt",
        )
    return earlier


def _check_context(policy: StoredPolicy, config: ExperimentConfig) -> None:
    """Refuse segments and covariates that no decision's context will hold."""
    kinds = {one.name: one.kind for one in read_policy(policy.config).schema.features}
    finite = sorted(name for name, kind in kinds.items() if kind in {"category", "flag"})
    if config.segment is not None and config.segment not in finite:
        raise InvalidError(
            "segment",
            f"segment is {config.segment!r}, which is no category and no flag of the policy's "
            f"features: give one of {finite}, or leave it out",
        )
    numbers = sorted(name for name, kind in kinds.items() if kind == "number")
    asked = config.covariate
    if asked is not None and asked.kind == "context" and asked.name not in numbers:
        raise InvalidError(
            "covariate",
            f"covariate.name is {asked.name!r}, which is no number of the policy's features: give "
            f"one of {numbers}, or leave the covariate out",
        )


def _plan(
    connection: sa.Connection, policy: StoredPolicy, config: ExperimentConfig, now: datetime
) -> tuple[Json, int]:
    """How long it takes, and the rows at which intervals are to be tightest."""
    least = min(config.variants[1:], key=lambda variant: variant.share)
    pair = config.variants[0].share + least.share
    question = {
        "difference": config.difference,
        "power": config.power,
        "level": 1.0 - config.alpha / (len(config.variants) - 1),
    }
    try:
        on = planning.ground(connection, policy, config.metric, config.unit, now)
        plan = planning.of_ab(on, question, share=least.share / pair, part=config.share * pair)
    except (InvalidError, EstimateError) as error:
        return {"plans": [], "note": f"no plan: {error}"}, PLANNED_ROWS
    return planning.answer(on, [plan]), plan.decisions
