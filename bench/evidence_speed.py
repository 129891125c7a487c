"""How long a million logged decisions take to evaluate, and in how much memory.

Two policies over 16 arms, by every estimator, with intervals of both values and of their paired
difference, the reward model's fit included; in a process of its own, on two cores.
"""

import json
import os
import subprocess
import sys
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from bench.measure import Measure, main
from learners import ope
from learners.interactions import Interactions

ROWS, ARMS, CORES = 1_000_000, 16, 2
COLUMNS = (32, 86)
"""Of the contexts: few, and as many as the schemas of real tables have."""
LIMIT_S, LIMIT_GIB = 20.0, 4.0


def run(quick: bool) -> list[Measure]:  # noqa: FBT001 — the one switch of every benchmark
    """All measures."""
    rows = ROWS // 20 if quick else ROWS
    return [one for d in (COLUMNS[:1] if quick else COLUMNS) for one in measured(rows, d)]


def measured(rows: int, columns: int) -> list[Measure]:
    """Time and memory of a log."""
    code = f"from bench.evidence_speed import child; child({rows}, {columns})"
    threads = {name: str(CORES) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        check=True,
        env={**os.environ, **threads},
    )
    found = json.loads(done.stdout)
    what = (
        f"{rows:,} decisions, {ARMS} arms, {columns} columns: two policies by "
        f"{len(ope.ESTIMATORS)} estimators, paired, on {CORES} cores"
    )
    share = rows / ROWS
    return [
        bounded(
            f"{what} (CPU {found['cpu_s']:.1f} s)", found["wall_s"], "s", LIMIT_S * max(share, 0.5)
        ),
        bounded(f"{what}: peak memory, log included", found["peak_gib"], "GiB", LIMIT_GIB),
    ]


def bounded(measure: str, value: float, unit: str, limit: float) -> Measure:
    """A figure that is to stay below a limit."""
    return Measure(
        measure, float(f"{value:.3g}"), unit, goal=f"< {limit:g} {unit}", holds=value < limit
    )


def child(rows: int, columns: int) -> None:
    """Evaluate, and print what it took."""
    import resource  # noqa: PLC0415 — not there on every system

    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    log, policies = made(rows, columns)
    began, before = perf_counter(), os.times()
    evaluated(log, policies)
    wall, after = perf_counter() - began, os.times()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    cpu = after.user + after.system - before.user - before.system
    print(json.dumps({"wall_s": wall, "cpu_s": cpu, "peak_gib": peak}))


def made(rows: int, columns: int) -> tuple[Interactions, list[NDArray[np.float64]]]:
    """A log of a policy that explores 20 %, and two policies that explore less, ``(n, K)`` each."""
    random = np.random.default_rng(0)
    x = random.normal(size=(rows, columns))
    x[:, 0] = 1.0
    truth = random.normal(size=(columns, ARMS)) / columns**0.5
    policies = []
    for noise in (1.0, 0.5, 0.2):
        favourite = (x @ (truth + noise * random.normal(size=truth.shape))).argmax(axis=1)
        policy = np.full((rows, ARMS), 0.2 / ARMS)
        policy[np.arange(rows), favourite] += 0.8
        policies.append(policy)
    logged, *judged = policies
    action = (logged.cumsum(axis=1) < random.random((rows, 1))).sum(axis=1).clip(max=ARMS - 1)
    own = np.arange(rows), action
    chance = 1.0 / (1.0 + np.exp(-(x @ truth)[own]))
    log = Interactions(
        arms=tuple(f"arm{number}" for number in range(ARMS)),
        x=x,
        eligible=np.ones((rows, ARMS), dtype=np.bool_),
        action=action,
        propensity=logged[own],
        reward=(random.random(rows) < chance).astype(np.float64),
        weight=np.ones(rows),
    )
    return log, judged


def evaluated(log: Interactions, policies: list[NDArray[np.float64]]) -> None:
    """Both policies by every estimator, with intervals, and their difference."""
    predicted = ope.reward_model(log)
    found = [ope.evaluate_each(log, policy, predicted=predicted) for policy in policies]
    spread = float(np.ptp(log.reward))
    for each in ope.ESTIMATORS:
        other, own = (one[each] for one in found)
        for evaluation in (other, own):
            ope.estimate(evaluation)
            ope.mean_weight(evaluation)
        ope.difference(own, other, reward_range=spread)


if __name__ == "__main__":
    sys.exit(main(run))
