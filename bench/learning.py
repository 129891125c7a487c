"""Learners: the time to learn and freeze beside a bare ridge, what they earn beside best_fixed.

Rewards are measured by replaying the full-information tables in ``$POINTSMAN_BENCH_DATA``; without
it only the times are.
"""

import csv
import os
import sys
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.measure import Measure, Work, main, seconds_each
from controlplane.replay import DEFAULT_REWARD
from controlplane.replay_baselines import compare
from controlplane.replay_loop import Course, Plan, prepare, replay
from controlplane.simulation.tables import read_table, split
from learners import catalogue
from learners.contract import Spec
from learners.features import Feature, Schema
from learners.interactions import Interactions

ARMS = 9
COLUMNS = 86
BATCH = 500
SCHEMA = Schema((Feature("terms", "vector", size=COLUMNS - 1),))
TABLES = ("llmrouter9", "mmlu_pro", "routellm2")


def run(quick: bool) -> list[Measure]:  # noqa: FBT001 — the one switch of every benchmark
    """All measures."""
    found = times(rounds=3 if quick else 15)
    folder = os.environ.get("POINTSMAN_BENCH_DATA")
    if folder is None:
        sys.stderr.write("POINTSMAN_BENCH_DATA is not set: rewards on tables are left out\n")
        return found
    for name in TABLES[:1] if quick else TABLES:
        found += earned(name, course(Path(folder) / "public", name), seeds=2 if quick else 5)
    return found


def times(*, rounds: int) -> list[Measure]:
    """Learning a batch and freezing after it, for each learner and for bare numpy."""
    log = a_log()
    gram = np.zeros((ARMS, COLUMNS, COLUMNS))
    moment = np.zeros((ARMS, COLUMNS))
    regular = gram + np.eye(COLUMNS)
    works: list[Work] = [
        partial(update_ridge, gram, moment, log),
        partial(np.linalg.solve, regular, moment[..., None]),
    ]
    for name in catalogue.NAMES:
        learner = catalogue.load(name)
        empty = learner.init(Spec(SCHEMA, log.arms))
        trained = learner.learn(empty, log)
        works.append(partial(learner.learn, empty, log))
        works.append(partial(learner.freeze, trained))
    learn_s, freeze_s, *rest = seconds_each(works, rounds=rounds, calls=2)
    found = []
    for i, name in enumerate(catalogue.NAMES):
        found.append(beside("learn an interaction", name, rest[2 * i] / BATCH, learn_s / BATCH))
        found.append(beside("freeze", name, rest[2 * i + 1], freeze_s))
    return found


def a_log() -> Interactions:
    """Random interactions of the size that the tables have."""
    random = np.random.default_rng(0)
    x = np.column_stack([np.ones(BATCH), random.normal(size=(BATCH, COLUMNS - 1)) / 8])
    return Interactions(
        arms=tuple(f"arm-{i}" for i in range(ARMS)),
        x=x,
        eligible=np.ones((BATCH, ARMS), dtype=np.bool_),
        action=random.integers(ARMS, size=BATCH),
        propensity=np.full(BATCH, 1 / ARMS),
        reward=random.random(BATCH),
        weight=np.ones(BATCH),
    )


def update_ridge(gram: NDArray[np.float64], moment: NDArray[np.float64], log: Interactions) -> None:
    """The least that a ridge regression an arm must do with a batch."""
    for arm in range(ARMS):
        x = log.x[log.action == arm]
        gram[arm] += x.T @ x
        moment[arm] += x.T @ log.reward[log.action == arm]


def beside(what: str, name: str, value_s: float, reference_s: float) -> Measure:
    """A time in µs beside bare numpy's."""
    return Measure(
        measure=f"{what}: {name} ({ARMS} arms, {COLUMNS} columns)",
        value=round(value_s * 1e6, 2),
        unit="µs",
        reference=f"bare numpy ridge: {reference_s * 1e6:.3g} µs",
        ratio=round(value_s / reference_s, 2),
    )


def course(folder: Path, name: str) -> Course:
    """A table's suggested pool, split by the hash of the query."""
    with (folder / "models.csv").open(encoding="utf-8") as stream:
        pool = [
            row["model"]
            for row in csv.DictReader(stream)
            if row["table"] == name and row["pool"] == "1"
        ]
    queries, outcomes = (folder / f"{name}.{side}.csv.gz" for side in ("queries", "outcomes"))
    return prepare(*split(read_table(queries, outcomes, pool)), DEFAULT_REWARD)


def earned(table: str, ready: Course, *, seeds: int) -> list[Measure]:
    """Each learner's reward on the test side, beside the best fixed arm's of hindsight."""
    baseline = compare(ready.train, ready.test)["best_fixed"]
    assert baseline is not None
    best = baseline.test_reward
    found = []
    for name in catalogue.NAMES:
        runs = replay(Plan(name, seeds=seeds), ready)
        value = float(np.mean([one.test.test_reward for one in runs]))
        # best_fixed can at most find the arm that hindsight names.
        goal = None if name == "best_fixed" else ">= best fixed arm"
        found.append(
            Measure(
                measure=f"test reward on {table}: {name}, {seeds} seeds",
                value=round(value, 4),
                unit="reward",
                reference=f"best fixed arm of hindsight: {best:.4f}",
                ratio=round(value / best, 4),
                goal=goal,
                holds=None if goal is None else value >= best,
            )
        )
    return found


if __name__ == "__main__":
    sys.exit(main(run))
