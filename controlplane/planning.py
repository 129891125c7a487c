"""How many decisions and days until a difference can be seen: at this traffic, this exploration."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import sqlalchemy as sa

from controlplane.config import read_config
from controlplane.errors import InvalidError
from controlplane.experiment_config import REWARD
from feedback.metrics import OUTCOMES
from learners.intervals import clustered
from learners.lineup import Unit
from learners.planner import Plan, Question, of_exploration, of_split, plan
from storage import experiment_rows, policies
from storage.experiment_rows import Measure
from storage.policies import StoredPolicy

SEEN = timedelta(days=30)
"""How far back a metric's spread is read."""
TRAFFIC = timedelta(days=7)
LEAST_SPAN_S = 3_600.0
"""Traffic of a shorter time is taken as this much's: a first minute is no day's 1,440th part."""
MAX_VALUES = 20_000
MAX_SPREADS = 2_000


@dataclass(frozen=True, slots=True)
class Ground:
    """What a plan rests on, read from the log or given.

    Attributes:
        metric: that is compared.
        requests_per_day: of the policy.
        deviation: of the metric, between requests.
        design_effect: by how much requests of one unit tell less than independent ones.
        values: how many were read; 0 where the deviation was given.
        exploration: share of the traffic that is explored evenly.
        floor: the same of a policy that is to come.
        arms: in service.
        min_effective_n: what the policy's gate asks for.
    """

    metric: str
    requests_per_day: float
    deviation: float
    design_effect: float
    values: int
    exploration: float
    floor: float
    arms: int
    min_effective_n: float


def measure_of(
    connection: sa.Connection, policy: StoredPolicy, metric: str, field: str = "metric"
) -> tuple[Measure, bool]:
    """How a metric is read, and whether more of it is better.

    Raises:
        InvalidError: It is not known, not a number, or of episodes.
    """
    if metric == REWARD:
        found = policies.newest_reward(connection, policy.id)
        if found is None:
            raise InvalidError(field, "the policy has no reward: declare one, or name a metric")
        return Measure(REWARD, "reward", reward_version=found[0]), True
    if metric in OUTCOMES:
        return Measure(metric, "outcome"), False
    spec = policies.find_metrics(connection, policy.project_id, [metric]).get(metric)
    if spec is None:
        raise InvalidError(
            field,
            f"metric {metric!r} is not declared: give {REWARD!r}, an outcome of the edge "
            f"({', '.join(OUTCOMES)}) or a declared metric",
        )
    if spec.get("type") == "comment" or spec.get("level") == "episode":
        raise InvalidError(field, f"metric {metric!r} is no number of one decision")
    return (
        Measure(
            metric,
            "feedback",
            aggregation=spec.get("aggregation", "mean"),
            wait_s=float(spec.get("wait_s", 0.0)),
            default=spec.get("default"),
        ),
        spec.get("optimize", "max") == "max",
    )


def ground(
    connection: sa.Connection,
    policy: StoredPolicy,
    metric: str,
    unit: Unit,
    now: datetime,
    *,
    requests_per_day: float | None = None,
    deviation: float | None = None,
) -> Ground:
    """Read what a plan rests on; what is given is not read.

    A user is not known before a split hands users out: their sessions stand for them.

    Raises:
        InvalidError: The log tells nothing yet and nothing is given.
    """
    effect, count = 1.0, 0
    if deviation is None:
        deviation, effect, count = _spread(connection, policy, metric, unit, now)
    rate = requests_per_day
    if rate is None:
        rate = _rate(connection, policy, now)
    explored = experiment_rows.exploration(connection, policy, now - SEEN, limit=MAX_SPREADS)
    config = read_config(policy.config)
    arms = len(policies.list_arms(connection, policy.pool_id))
    return Ground(
        metric=metric,
        requests_per_day=rate,
        deviation=deviation,
        design_effect=effect,
        values=count,
        exploration=config.floor if explored is None else explored,
        floor=config.floor,
        arms=arms,
        min_effective_n=config.gate.min_effective_n,
    )


def of_ab(on: Ground, question: dict[str, float], *, share: float, part: float = 1.0) -> Plan:
    """Until an A/B split shows it.

    Args:
        on: what the plan rests on.
        question: ``difference``, ``power`` and ``level``.
        share: of the pair's units that the new variant has.
        part: of the traffic that the pair has.

    Raises:
        EstimateError: A number is out of range, or it would take too long.
    """
    asked = Question(
        requests_per_day=on.requests_per_day * part, design_effect=on.design_effect, **question
    )
    return plan(asked, of_split(on.deviation, share), "ab")


def of_log(on: Ground, question: dict[str, float], *, differ: float) -> list[Plan]:
    """Until a gate sees it on the champion's own log, looked at once and at any time.

    Args:
        on: what the plan rests on.
        question: ``difference``, ``power`` and ``level``.
        differ: share of the requests on which the two policies choose otherwise.

    Raises:
        EstimateError: A number is out of range, or it would take too long.
    """
    asked = Question(
        requests_per_day=on.requests_per_day,
        design_effect=on.design_effect,
        min_effective_n=on.min_effective_n,
        **question,
    )
    explored = min(max(on.exploration, 1e-6), 1.0)
    floor = min(on.floor, 1.0 - 1e-6)
    spread = of_exploration(on.arms, explored, on.deviation, differ, floor=floor)
    return [plan(asked, spread, "fixed"), plan(asked, spread, "anytime")]


def answer(on: Ground, plans: list[Plan]) -> dict[str, Any]:
    """The plans and what they rest on, as the API and the command line show them."""
    return {
        "metric": on.metric,
        "requests_per_day": on.requests_per_day,
        "deviation": on.deviation,
        "design_effect": on.design_effect,
        "values": on.values,
        "exploration": on.exploration,
        "arms": on.arms,
        "plans": [one.as_json() for one in plans],
    }


@dataclass(frozen=True, slots=True)
class Asked:
    """What somebody wants to know before anything begins.

    Attributes:
        difference: to be seen, in the metric's unit.
        metric: that is compared.
        unit: of the split.
        share: of the split's units that the new variant has.
        traffic: share of the requests that are in the split.
        differ: share of the requests on which the policies choose otherwise.
        power: chance to see it.
        alpha: 1 − level of the interval.
        requests_per_day: None: as the log has it.
        deviation: None: as the log has it.
    """

    difference: float
    metric: str = REWARD
    unit: Unit = "session"
    share: float = 0.5
    traffic: float = 1.0
    differ: float = 0.3
    power: float = 0.8
    alpha: float = 0.05
    requests_per_day: float | None = None
    deviation: float | None = None


def estimate(
    connection: sa.Connection, policy: StoredPolicy, asked: Asked, now: datetime
) -> dict[str, Any]:
    """Three ways to see a difference, and how long each takes.

    Raises:
        InvalidError: The metric is not known, or the log tells nothing yet.
        EstimateError: A number is out of range, or it would take too long.
    """
    on = ground(
        connection,
        policy,
        asked.metric,
        asked.unit,
        now,
        requests_per_day=asked.requests_per_day,
        deviation=asked.deviation,
    )
    question = {
        "difference": asked.difference,
        "power": asked.power,
        "level": 1.0 - asked.alpha,
    }
    plans = [of_ab(on, question, share=asked.share, part=asked.traffic)]
    if on.arms > 1:
        plans += of_log(on, question, differ=asked.differ)
    return {"policy": policy.name, **answer(on, plans)}


def _spread(
    connection: sa.Connection, policy: StoredPolicy, metric: str, unit: Unit, now: datetime
) -> tuple[float, float, int]:
    """Standard deviation, design effect, and how many values they were read from."""
    measure, _ = measure_of(connection, policy, metric)
    rows = experiment_rows.recent(
        connection, policy, measure, since=now - SEEN, now=now, limit=MAX_VALUES
    )
    values = np.array([value for _, value in rows], dtype=np.float64)
    if len(values) < 2 or not values.std() > 0:
        raise InvalidError(
            "deviation",
            f"{metric} has {len(values)} values that differ not at all in the newest log: give "
            "its standard deviation as deviation",
        )
    deviation, effect = float(values.std(ddof=1)), 1.0
    if unit != "request":
        codes: dict[str, int] = {}
        of = np.array([codes.setdefault(name, len(codes)) for name, _ in rows], dtype=np.int64)
        if len(codes) > 1:
            error = clustered(values, of).standard_error
            effect = max(error**2 * len(values) / deviation**2, 1.0)
    return deviation, effect, len(values)


def _rate(connection: sa.Connection, policy: StoredPolicy, now: datetime) -> float:
    count, since = experiment_rows.traffic(connection, policy, now - TRAFFIC)
    if since is None or not count:
        raise InvalidError(
            "requests_per_day",
            f"policy {policy.name!r} had no requests in {TRAFFIC.days} days: give requests_per_day",
        )
    span_s = min(max((now - since).total_seconds(), LEAST_SPAN_S), TRAFFIC.total_seconds())
    return count * 86_400.0 / span_s
