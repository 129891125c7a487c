"""``pointsman replay``: measure a learner offline, on a table that knows every arm's outcome.

One pass over the training side shows the learner one arm's reward per query, late where a delay
is asked for; then the frozen policy is judged on queries that it has never seen, greedily: with
its exploration and its confidence bonus off, as what was learnt is measured there, and not what
learning costs (the online reward measures that).
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from controlplane.config import PriorConfig
from controlplane.replay_baselines import Value, compare
from controlplane.replay_loop import (
    DEFAULT_REFRESH,
    MAX_WITHOUT_COST,
    Course,
    Plan,
    ReplayError,
    Run,
    prepare,
    replay,
)
from controlplane.simulation import tables
from controlplane.threads import one_thread
from learners import catalogue
from learners.errors import LearnersError, RewardError
from learners.priors import Prior
from learners.rewards import RewardFunction

DEFAULT_REWARD = "score - 0.2*cost_usd/COST_REF"
_HASH_SPLIT = "the half of the table with the upper hashes of query_id; the other half trains"


def report(
    plan: Plan, course: Course, runs: Sequence[Run], asked: str | RewardFunction
) -> dict[str, Any]:
    """All that the seeds showed, as plain values; ``se`` is over the seeds, null with one."""
    baselines = compare(course.train, course.test)
    baselines["best_fixed_probes"] = _mean_value([run.best_fixed_probes for run in runs])
    events = len(course.train.query_ids)
    return {
        "learner": plan.learner,
        "params": dict(plan.params),
        "arms": list(course.arms),
        "events": events,
        "test_queries": len(course.test.query_ids),
        "seeds": plan.seeds,
        "probes": min(plan.probes, events),
        "delay": list(plan.delay),
        "refresh": plan.refresh,
        "prior": asdict(plan.prior) if plan.prior else None,
        "reward": asked if isinstance(asked, str) else course.reward.as_json(),
        "cost_ref": course.cost_ref,
        "without_cost": course.without_cost,
        "online_reward": _spread([run.online_reward for run in runs], per_seed=True),
        "test_reward": _spread([run.test.test_reward for run in runs], per_seed=True),
        "test_score": _spread([run.test.test_score for run in runs]),
        "test_cost_usd": _spread([run.test.test_cost_usd for run in runs]),
        "baselines": {
            name: None if value is None else value.as_json()
            for name, value in sorted(baselines.items())
        },
    }


def _spread(values: Sequence[float], *, per_seed: bool = False) -> dict[str, Any]:
    n = len(values)
    se = float(np.std(values, ddof=1)) / math.sqrt(n) if n > 1 else None
    found: dict[str, Any] = {"mean": float(np.mean(values)), "se": se}
    return {**found, "per_seed": list(values)} if per_seed else found


def _mean_value(values: Sequence[Value | None]) -> Value | None:
    there = [value for value in values if value is not None]
    if not there:
        return None
    return Value(
        test_reward=float(np.mean([value.test_reward for value in there])),
        test_score=float(np.mean([value.test_score for value in there])),
        test_cost_usd=float(np.mean([value.test_cost_usd for value in there])),
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``pointsman replay``."""
    option = parser.add_argument
    option("--queries", type=Path, required=True, metavar="F", help="CSV (.gz) of the queries")
    option("--outcomes", type=Path, required=True, metavar="F", help="CSV (.gz): query x model")
    option("--test-queries", type=Path, metavar="F", help="queries to judge the policy on")
    option(
        "--test-outcomes",
        type=Path,
        metavar="F",
        help=f"their outcomes; without test files the test side is {_HASH_SPLIT}",
    )
    option("--arms", help="the pool, as names with commas between; default: all models")
    option("--reward", default=DEFAULT_REWARD, help=_REWARD_HELP)
    option("--probes", type=int, default=0, metavar="N", help=_PROBES_HELP)
    option("--learner", required=True, help=", ".join(sorted(catalogue.NAMES)))
    option("--seeds", type=int, default=5, metavar="N", help="replays; default: 5")
    option("--delay", default="0", metavar="N", help=_DELAY_HELP)
    option("--refresh", type=int, default=DEFAULT_REFRESH, metavar="N", help=_REFRESH_HELP)
    option("--param", action="append", default=[], metavar="k=v", help="a learner's parameter")
    option("--prior", metavar="F", type=Path, help=_PRIOR_HELP)
    option("--json", action="store_true", help="print one JSON object instead of a table")


_REWARD_HELP = (
    "linear in score, cost_usd, latency_s, input_tokens and output_tokens, or @F: a JSON file of "
    f"terms, offset and gates; default: {DEFAULT_REWARD!r}. COST_REF is the mean cost of the arm "
    "with the best mean score on the training side. Where costs are named, queries of which some "
    f"arm's cost is blank are left out, up to {MAX_WITHOUT_COST:.0%}% of a side"
)
_PROBES_HELP = (
    "the first N queries are scored on all arms: the learner gets every arm's reward, and the "
    "online reward of such a query is that of the arm drawn, less the cost of all arms"
)
_PRIOR_HELP = (
    "JSON file of ratings and count, as a policy's prior; the learner then learns anew at each "
    "refresh"
)
_DELAY_HELP = (
    "events, that is further requests, before a reward reaches the learner, or a:b drawn "
    "uniformly for each; default: 0"
)
_REFRESH_HELP = (
    "requests whose feedback arrives between two refreshes of the scorer; default: "
    f"{DEFAULT_REFRESH}"
)


def main(argv: Sequence[str]) -> int:
    """Run ``pointsman replay``; 0 when done, 2 when it was asked for wrongly."""
    parser = argparse.ArgumentParser(prog="pointsman replay", description=_DESCRIPTION)
    add_arguments(parser)
    options = parser.parse_args(argv)
    started = time.perf_counter()
    try:
        plan = _plan(options)
        reward = _reward(options.reward)
        train, test, facts = _read(options)
        course = prepare(train, test, reward)
        looped = time.perf_counter()
        with one_thread():
            runs = replay(plan, course)
        loop_s = time.perf_counter() - looped
        found = report(plan, course, runs, reward)
    except (ReplayError, tables.TableError, LearnersError, OSError) as error:
        sys.stderr.write(f"pointsman replay: {error}\n")
        return 2
    found.update(facts)
    found["wall_s"] = round(time.perf_counter() - started, 3)
    found["interactions_per_s"] = round(sum(run.interactions for run in runs) / loop_s, 1)
    sys.stdout.write((json.dumps(found, allow_nan=False) if options.json else render(found)) + "\n")
    return 0


_DESCRIPTION = (
    "Replay a table that knows every arm's outcome as if it were live traffic: one pass with one "
    "arm's feedback per query, then the frozen policy is judged greedily (without exploration) on "
    "the test side, beside baselines that saw more."
)


def _plan(options: argparse.Namespace) -> Plan:
    return Plan(
        learner=options.learner,
        probes=options.probes,
        seeds=options.seeds,
        delay=_delay(options.delay),
        refresh=options.refresh,
        params=dict(_param(text) for text in options.param),
        prior=Prior() if options.prior is None else _prior(options.prior),
    )


def _prior(path: Path) -> Prior:
    try:
        return TypeAdapter(PriorConfig).validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "a JSON object"
        raise ReplayError(f"prior {path}: {place}: {first['msg']}") from error


def _reward(text: str) -> str | RewardFunction:
    """The expression, or what the file after an @ holds: the body that declares a reward."""
    if not text.startswith("@"):
        return text
    path = Path(text[1:])
    try:
        row = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ReplayError(f"reward {path}: not JSON in UTF-8: {error}") from error
    unknown = sorted(set(row) - _REWARD_FIELDS) if isinstance(row, dict) else []
    if unknown:
        raise ReplayError(
            f"reward {path}: unknown field {unknown[0]!r}: give {sorted(_REWARD_FIELDS)}"
        )
    try:
        return RewardFunction.from_json(row)
    except RewardError as error:
        raise ReplayError(f"reward {path}: {error}") from error


_REWARD_FIELDS = {"terms", "offset", "gates", "statistics", "wait_s", "window"}


def _delay(text: str) -> tuple[int, int]:
    fewest, _, most = text.partition(":")
    try:
        return int(fewest), int(most or fewest)
    except ValueError as error:
        raise ReplayError(f"delay {text!r}: give a number of requests, or a:b") from error


def _param(text: str) -> tuple[str, float | int | str | bool]:
    """``k=v``, with v the first of a whole number, a number, true or false, a text that it is."""
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise ReplayError(f"param {text!r}: give name=value")
    if value in {"true", "false"}:
        return key, value == "true"
    readers: tuple[Callable[[str], float | int], ...] = (int, float)
    for reader in readers:
        try:
            return key, reader(value)
        except ValueError:
            continue
    return key, value


def _read(options: argparse.Namespace) -> tuple[tables.Table, tables.Table, dict[str, Any]]:
    """The training side, the test side, and what the reader of a report should know of them."""
    arms = None
    if options.arms is not None:
        arms = [name.strip() for name in options.arms.split(",") if name.strip()]
    if (options.test_queries is None) != (options.test_outcomes is None):
        raise ReplayError("give both --test-queries and --test-outcomes, or neither")
    table = tables.read_table(options.queries, options.outcomes, arms)
    facts: dict[str, Any] = {"dropped": table.dropped, "blank_costs": table.blank_costs}
    if options.test_queries is None:
        train, test = tables.split(table)
        return train, test, {**facts, "test_side": _HASH_SPLIT}
    test = tables.read_table(options.test_queries, options.test_outcomes, table.arms)
    facts["dropped"] += test.dropped
    facts["blank_costs"] += test.blank_costs
    return table, test, {**facts, "test_side": str(options.test_queries)}


def render(found: Mapping[str, Any]) -> str:
    """The report as a small table for people."""
    rows: list[tuple[str, ...]] = [("", "test reward", "test score", "test cost USD")]
    columns = ("test_reward", "test_score", "test_cost_usd")
    rows.append((found["learner"], *(_cell(found[column]["mean"]) for column in columns)))
    for name, value in found["baselines"].items():
        if value is not None:
            rows.append((f"baseline {name}", *(_cell(value[column]) for column in columns)))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    lines = [
        f"{row[0]:<{widths[0]}}" + "".join(f"  {row[i]:>{widths[i]}}" for i in range(1, 4))
        for row in rows
    ]
    head = (
        f"{found['learner']} over {_count(len(found['arms']), 'arm')}: "
        f"{_count(found['events'], 'request')}, {_count(found['seeds'], 'seed')}, "
        f"{_count(found['probes'], 'probe')}; judged on "
        f"{_count(found['test_queries'], 'query', 'queries')} ({found['test_side']})"
    )
    reward = found["reward"]
    shown = reward if isinstance(reward, str) else json.dumps(reward)
    told = [head, f"reward {shown}", "", *lines, "", *_omissions(found), _tail(found)]
    return "\n".join(told)


def _tail(found: Mapping[str, Any]) -> str:
    parts = [f"online reward {found['online_reward']['mean']:.4f}"]
    if found["test_reward"]["se"] is not None:  # a single seed says nothing of the spread
        parts.append(f"standard error of the test reward {_cell(found['test_reward']['se'])}")
    parts.append(f"{found['interactions_per_s']:.0f} interactions/s, {found['wall_s']:.1f} s")
    return "; ".join(parts)


def _count(n: int, one: str, many: str | None = None) -> str:
    return f"{n} {one if n == 1 else many or one + 's'}"


def _omissions(found: Mapping[str, Any]) -> list[str]:
    """What a reader would otherwise take for known."""
    lines = []
    if found["dropped"]:
        left_out = _count(found["dropped"], "query", "queries")
        lines.append(f"{left_out} left out: not every arm has answered")
    if found["without_cost"]:
        left_out = _count(found["without_cost"], "query", "queries")
        lines.append(f"{left_out} left out: an arm's cost is blank")
    elif found["blank_costs"]:
        blank = _count(found["blank_costs"], "blank cost")
        lines.append(f"{blank}, counted as 0 in the test cost")
    return lines


def _cell(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if abs(value) >= 0.01 or value == 0 else f"{value:.3g}"
