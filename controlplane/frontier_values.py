"""What the judged versions' quality costs on the log, failures charged with what they spent. Pure.

A request that failed pays what it spent and what the strongest arm costs on average, as
TwinRouterBench has it (:mod:`learners.charges`), so that a cheap failure is no saving.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from controlplane.evaluation_log import LEVEL, Bench
from controlplane.specs import reading
from learners.charges import Attempts, bill, charge
from learners.errors import EstimateError, FrontierError
from learners.interactions import Interactions, arrange
from learners.ope import frontiers
from learners.ope.logs import Bools, Floats, Ints
from learners.records import Interaction
from learners.rewards import RewardFunction

COST, FAILED = "cost_usd", "error"
MIN_ROWS = 100
MAX_ATTEMPTS = 16
"""At one request that are known to belong together."""

Json = dict[str, Any]


def frontier_values(bench: Bench, names: tuple[str, str]) -> Json | None:
    """Cost and score of both versions beside the arms alone, with nAUC, Ps and QNC.

    The score is the reward without its price of cost; rows whose cost nobody measured are left out.

    Args:
        bench: the rows.
        names: of the two versions; the same twice for one alone.

    Returns:
        None where too few rows have a cost, or no arm was there for all of them.
    """
    spent = _measured(bench.log.rows, COST)
    known = ~np.isnan(spent) & (spent >= 0)
    if int(known.sum()) < MIN_ROWS or not (spent[known] > 0).any():
        return None
    log, failed = bench.log.log.rows(known), _measured(bench.log.rows, FAILED)[known] > 0
    scores = score_of(bench, bench.reward)[known]
    penalty = _strongest(log, spent[known], scores, failed)
    costs = bill(spent[known], ~failed, penalty)
    policies = {names[0]: bench.own[known]}
    if names[0] != names[1]:
        policies[names[1]] = bench.standing[known]
    clusters = None if bench.log.clusters is None else bench.log.clusters[known]
    try:
        found = frontiers.of_log(log, scores, costs, policies, clusters=clusters)
        figures = found.figures(np.random.default_rng(bench.interval.seed), level=LEVEL)
        best = found.compare().best
    except (EstimateError, FrontierError):
        return None
    return {
        "judged": len(log),
        "without_cost": int((~known).sum()),
        "penalty_usd": penalty,
        "best_single": asdict(best),
        "points": frontiers.as_json(found, level=LEVEL),
        "figures": {name: asdict(one) for name, one in figures.items()},
    }


def served_values(bench: Bench) -> Json | None:
    """What each request of the log cost and scored, all its attempts together, as it was served.

    Returns:
        None where a row's cost is not known.
    """
    rows = bench.log.rows
    spent = _measured(rows, COST)
    if not len(rows) or np.isnan(spent).any():
        return None
    failed = _measured(rows, FAILED) > 0
    order = np.argsort(bench.log.log.at, kind="stable")
    request = _requests([row.decision_id for row in rows], bench.retries)
    scores = score_of(bench, bench.reward)
    penalty = _strongest(bench.log.log, spent, scores, failed)
    costs, earned = charge(
        Attempts(request[order], spent[order], scores[order], failed[order]), penalty
    )
    return {
        "requests": len(costs),
        "attempts": len(rows),
        "failed_attempts": int(failed.sum()),
        "cost_usd": float(costs.mean()),
        "score": float(earned.mean()),
    }


def score_of(bench: Bench, reward: RewardFunction | None) -> Floats:
    """Each row's reward without its price of cost, shape ``(n,)``."""
    log = bench.log.log
    if reward is None:
        return log.reward
    how = reading(reward)
    parts = arrange(bench.log.rows, log.x, log.arms, reward).parts
    if parts.shape[1] != len(how.names) or COST not in how.names:
        return log.reward
    at = how.names.index(COST)
    return np.asarray(log.reward - how.mix[at] * parts[:, at])


def _measured(rows: Sequence[Interaction], name: str) -> Floats:
    """NaN where nobody measured it; a failure that nobody told is none."""
    missing = np.nan if name == COST else 0.0
    return np.array([row.values.get(name, missing) for row in rows], dtype=np.float64)


def _strongest(log: Interactions, costs: Floats, scores: Floats, failed: Bools) -> float:
    """The mean cost of the arm that scores best where it answers."""
    answered = ~failed
    counts = np.bincount(log.action[answered], minlength=len(log.arms))
    totals = np.bincount(log.action[answered], scores[answered], minlength=len(log.arms))
    if not counts.any():
        return float(costs.mean())
    means = np.where(counts > 0, totals / np.maximum(counts, 1), -np.inf)
    return float(costs[answered & (log.action == int(means.argmax()))].mean())


def _requests(ids: Sequence[str], retries: Mapping[str, str]) -> Ints:
    """Numbers of the requests that the decisions belong to, without gaps, shape ``(n,)``."""
    numbers: dict[str, int] = {}
    found = []
    for one in ids:
        first = one
        for _ in range(MAX_ATTEMPTS):  # whoever reports decisions may name them in a circle
            first = retries.get(first, first)
        found.append(numbers.setdefault(first, len(numbers)))
    return np.array(found, dtype=np.int64)
