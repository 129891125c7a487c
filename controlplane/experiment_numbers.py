"""One look at an experiment: what the log says of its variants, and the verdict by it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from controlplane import planning
from controlplane.experiment_config import REWARD, Covariate, ExperimentConfig, read_config
from controlplane.publishing import CHAMPION
from learners.contrasts import SRM_ALARM, Sums, sample_ratio
from learners.experiments import Guardrail, Rules, by_segment, finite, judge
from learners.lineup import Split
from storage import experiment_rows, policies, versions
from storage.experiment_rows import Before, Count, Measure, Scope
from storage.policies import StoredPolicy
from storage.releases import StoredExperiment

MAX_ROWS = 2_000_000
"""Decisions by which an experiment is judged: its first ones."""
MAX_SEGMENTS = 20
"""The largest, that are looked at."""

Json = dict[str, Any]
BySegment = Mapping[str, Sums]


@dataclass(frozen=True, slots=True)
class Ground:
    """What a look stands on."""

    policy: StoredPolicy
    experiment: StoredExperiment
    config: ExperimentConfig
    split: Split
    scope: Scope

    @property
    def variants(self) -> tuple[str, ...]:
        """Names, the control first."""
        return tuple(self.config.shares)


def ground_of(connection: sa.Connection, experiment: StoredExperiment, now: datetime) -> Ground:
    """The experiment's declaration and where its decisions are."""
    policy = policies.get_policy(connection, experiment.policy_id)
    config = read_config(experiment.spec["config"])
    split = Split.from_json(experiment.spec["split"])
    scope = Scope(
        policy=policy,
        split=split.name,
        salt=split.salt,
        unit=split.unit,
        started_at=experiment.started_at,
        now=now,
        limit=MAX_ROWS,
        segment=config.segment,
    )
    return Ground(policy, experiment, config, split, scope)


def overtaken(connection: sa.Connection, ground: Ground) -> str | None:
    """Why the experiment says nothing any more, by what others have changed meanwhile."""
    champion = versions.find_alias(connection, ground.policy.id, CHAMPION)
    if champion is not None and ground.experiment.ended_at is None and not ground.config.aa:
        serving = {variant.version or champion[0] for variant in ground.config.variants}
        if len(serving) < 2:
            return f"version {champion[0]} has become the champion: all variants serve it now"
    names = [ground.config.metric, *(one.metric for one in ground.config.guardrails)]
    if REWARD not in names:
        return None
    reward = policies.newest_reward(connection, ground.policy.id)
    began = ground.experiment.spec["reward_version"]
    if reward is not None and reward[0] == began:
        return None
    return f"the reward has changed: version {began} was in force when the experiment began"


def look(connection: sa.Connection, ground: Ground) -> Json:
    """The verdict now, number by number.

    Units are counted as they were assigned. Where they are not split as declared, nothing else is
    read.
    """
    counted = experiment_rows.counts(connection, ground.scope)
    units = dict.fromkeys(ground.variants, 0)
    units |= {
        one.variant: one.units for one in counted if one.version is None and one.variant in units
    }
    rules, measures = _rules(connection, ground)
    before = float(ground.experiment.state.get("split_evidence", 0.0))
    evidence = max(before, sample_ratio(units, rules.shares))
    covariate = _covariate(connection, ground)
    metrics: dict[str, dict[str, Sums]] = {}
    if evidence * SRM_ALARM <= 1.0:
        for measure in measures:
            found = experiment_rows.sums(connection, ground.scope, measure, covariate)
            metrics[measure.name] = {
                name: found.get((name, ""), Sums()) for name in ground.variants
            }
    verdict = judge(rules, units, metrics, split_evidence=evidence)
    segments: Json = {}
    if metrics and ground.config.segment is not None:
        segments = _segments(connection, ground, rules, measures[0], covariate)
    return {
        **verdict.as_json(),
        "counts": _counts(ground, counted, units),
        "means": {
            name: {
                variant: {
                    "mean": one.mean if math.isfinite(one.mean) else None,
                    "rows": one.rows,
                    "units": one.units,
                }
                for variant, one in of.items()
            }
            for name, of in metrics.items()
        },
        "segments": segments,
    }


def _rules(connection: sa.Connection, ground: Ground) -> tuple[Rules, list[Measure]]:
    """As declared before the first unit; the metrics in the order in which they are judged."""
    config = ground.config
    primary, higher = planning.measure_of(connection, ground.policy, config.metric)
    measures, guardrails = [primary], []
    for one in config.guardrails:
        measure, better = planning.measure_of(connection, ground.policy, one.metric)
        measures.append(measure)
        guardrails.append(Guardrail(one.metric, one.margin, better))
    rules = Rules(
        metric=config.metric,
        shares=config.shares,
        planned_rows=float(ground.experiment.spec["planned_rows"]),
        higher_is_better=higher,
        margin=config.margin,
        negligible=config.negligible,
        most_rows=math.inf if config.max_decisions is None else float(config.max_decisions),
        guardrails=tuple(guardrails),
        cuped=config.covariate is not None,
        level=1.0 - config.alpha,
    )
    return rules, measures


def _covariate(connection: sa.Connection, ground: Ground) -> Before | str | None:
    """As the sums take it."""
    asked: Covariate | None = ground.config.covariate
    if asked is None or asked.kind == "context":
        return None if asked is None else asked.name
    measure, _ = planning.measure_of(connection, ground.policy, asked.name)
    return Before(measure, asked.days, tuple(ground.experiment.spec["earlier"]))


def _counts(ground: Ground, counted: Sequence[Count], units: Mapping[str, int]) -> Json:
    """Units and decisions of each variant, and which versions decided."""
    found: Json = {}
    for name in ground.variants:
        own = [one for one in counted if one.variant == name]
        found[name] = {
            "units": units[name],
            "decisions": sum(one.decisions for one in own if one.version is None),
            "versions": {str(one.version): one.decisions for one in own if one.version is not None},
        }
    return found


def _segments(
    connection: sa.Connection,
    ground: Ground,
    rules: Rules,
    measure: Measure,
    covariate: Before | str | None,
) -> Json:
    """Each variant against the control in the largest segments."""
    found = experiment_rows.sums(connection, ground.scope, measure, covariate, by_segment=True)
    rows: dict[str, int] = {}
    for (_, segment), one in found.items():
        rows[segment] = rows.get(segment, 0) + one.rows
    largest = sorted(rows, key=lambda name: (-rows[name], name))[:MAX_SEGMENTS]

    def of(variant: str) -> BySegment:
        return {name: found[variant, name] for name in largest if (variant, name) in found}

    control = of(ground.variants[0])
    return {
        variant: [
            {
                "segment": one.name,
                "difference": finite(one.difference),
                "p_value": one.p_value,
                "discovered": one.discovered,
                "certain": one.certain,
            }
            for one in by_segment(rules, control, of(variant))
        ]
        for variant in ground.variants[1:]
    }
