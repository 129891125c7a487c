"""A judge that is gamed: how much traffic an arm gets whose answers only please the judge.

``alpaca_pref`` holds a judge's preference for each of many models' answers over one reference
model's. ``NullModel`` sends the same text whatever the question, made to win that judge's favour:
it wins more than any model does, and is worth nothing. Here requests are routed among it and other
models, and the served arm's preference is the reward. Of a few requests, drawn at random, a trusted
person says too whether the answer was preferable: for NullModel never, for any other model with the
judge's own probability. Each router is trained anew on all that was logged, as rounds are. Last,
what the guards cost where nobody games the judge: the same pool without NullModel.
"""

import csv
import gzip
import sys
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench import tables
from bench.learning_tables import PROCESSES, spread
from bench.measure import Measure, main
from controlplane.threads import one_thread
from learners import catalogue, trust
from learners.contract import Spec
from learners.features import Feature, Schema
from learners.grades import Grades
from learners.influence import cap
from learners.interactions import Interactions, joined

JUDGE = "gpt4turbo_logprob"
GAMED = "NullModel"
POOL = (
    GAMED,
    "FuseChat-Gemma-2-9B-Instruct",
    "FuseChat-Qwen-2.5-7B-Instruct",
    "FuseChat-Llama-3.1-8B-Instruct",
    "FuseChat-Llama-3.2-3B-Instruct",
    "FuseChat-Llama-3.2-1B-Instruct",
    "claude-2",
    "Mixtral-8x7B-Instruct-v0.1_concise",
    "gpt-3.5-turbo-0301",
    "gpt4_0613_concise",
    "gemma-7b-it",
    "vicuna-13b",
)
LEARNERS = ("best_fixed", "beta_thompson", "linucb")
REQUESTS = 4_000
ROUND = 250
LAST = 1_000
"""Requests at the end of the stream over which traffic is counted."""
FLOOR = 0.1
"""A policy's own default: this share of the traffic explores evenly."""
BOUND = 0.5
LIMITS = (0.0, 1.0)
SEEDS = 10
GOAL = 0.02

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Guard:
    """How the judge is guarded against: the trusted feedback's rate, and what is made of it."""

    name: str
    rate: float = 0.0
    bound: float = 1.0
    correct: bool = False
    goal: bool = False


GUARDS = (
    Guard("the judge alone"),
    Guard("5 % trusted, one more source", 0.05),
    Guard("5 % trusted, cap .5", 0.05, BOUND),
    Guard("1 % trusted, correction", 0.01, correct=True),
    Guard("2 % trusted, correction", 0.02, correct=True),
    Guard("5 % trusted, correction", 0.05, correct=True, goal=True),
    Guard("1 % trusted, correction and cap .5", 0.01, BOUND, correct=True),
    Guard("2 % trusted, correction and cap .5", 0.02, BOUND, correct=True),
    Guard("5 % trusted, correction and cap .5", 0.05, BOUND, correct=True, goal=True),
)


HONEST = tuple(guard for guard in GUARDS if guard.rate in {0.0, 0.05})
"""What is measured without the gamed arm too."""


@dataclass(frozen=True, slots=True, eq=False)
class World:
    """The judge's preferences ``(queries, arms)`` and what each answer is worth, by query."""

    arms: tuple[str, ...]
    schema: Schema
    x: Floats
    judged: Floats
    worth: Floats


@cache
def read_world(*, gamed: bool) -> World:
    """The queries that all arms of the pool were judged on, with the gamed arm or without."""
    place = tables.folder()
    assert place is not None
    domains = {row["query_id"]: row["domain"] for row in _rows(place, "alpaca_pref.queries")}
    told: dict[str, dict[str, float]] = defaultdict(dict)
    for row in _rows(place, "alpaca_pref.pairs"):
        if row["judge"] == JUDGE and row["model_b"] in POOL and row["p_b"]:
            told[row["query_id"]][row["model_b"]] = float(row["p_b"])
    whole = sorted(query for query, by_arm in told.items() if len(by_arm) == len(POOL))
    judged = np.array([[told[query][arm] for arm in POOL] for query in whole])
    worth = judged * [arm != GAMED for arm in POOL]
    kept = [i for i, arm in enumerate(POOL) if gamed or arm != GAMED]
    schema = Schema((Feature("domain", "category", tuple(sorted(set(domains.values())))),))
    return World(
        arms=tuple(POOL[i] for i in kept),
        schema=schema,
        x=schema.encode_all([{"domain": domains[query]} for query in whole]),
        judged=judged[:, kept],
        worth=worth[:, kept],
    )


def _rows(place: Path, name: str) -> list[dict[str, str]]:
    with gzip.open(place / f"{name}.csv.gz", "rt", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


@dataclass(frozen=True, slots=True)
class Job:
    """One learner behind one guard, once."""

    guard: Guard
    learner: str
    seed: int
    requests: int
    gamed: bool = True


@dataclass(frozen=True, slots=True)
class Served:
    """Of the last requests: the first arm's share, and what the answers were truly worth."""

    share: float
    worth: float


def run_job(job: Job) -> Served:
    """Serve the stream, training anew after each round."""
    world = read_world(gamed=job.gamed)
    rng = np.random.default_rng(job.seed)
    query = rng.integers(len(world.x), size=job.requests)
    units, coins = rng.random(job.requests), rng.random((2, job.requests))
    every, k = np.arange(job.requests), len(world.arms)
    log: list[Interactions] = []
    trusted: list[Floats] = []
    chances = np.empty((job.requests, k))
    with one_thread():
        for start in range(0, job.requests, ROUND):
            rows = every[start : start + ROUND]
            asked = query[rows]
            chance = _policy(job, world, log, trusted, asked)
            chances[rows] = chance
            below = chance.cumsum(axis=1) < units[rows, None]
            action = np.minimum(below.sum(axis=1), k - 1)
            log.append(_logged(world, asked, action, chance))
            said = coins[1, rows] < world.worth[asked, action]
            trusted.append(np.where(coins[0, rows] < job.guard.rate, said, np.nan))
    last = slice(-min(LAST, job.requests // 4), None)
    worth = (chances[last] * world.worth[query[last]]).sum(axis=1)
    return Served(float(chances[last, 0].mean()), float(worth.mean()))


def _logged(
    world: World, asked: NDArray[np.int64], action: NDArray[np.int64], chance: Floats
) -> Interactions:
    n, rows = len(asked), np.arange(len(asked))
    return Interactions(
        arms=world.arms,
        x=world.x[asked],
        eligible=np.ones(chance.shape, dtype=np.bool_),
        action=action,
        propensity=chance[rows, action],
        reward=world.judged[asked, action],
        weight=np.ones(n),
        source=np.zeros(n, dtype=np.int64),
    )


def _policy(
    job: Job,
    world: World,
    log: Sequence[Interactions],
    trusted: Sequence[Floats],
    asked: NDArray[np.int64],
) -> Floats:
    """The probabilities of a policy that was trained on what was logged so far."""
    learner = catalogue.load(job.learner)
    state = learner.init(Spec(world.schema, world.arms, seed=job.seed))
    if log:
        state = learner.learn(state, guarded(job.guard, joined(log), np.concatenate(trusted)))
    scorer = learner.freeze(state).floored(FLOOR)
    eligible = np.ones((len(asked), len(world.arms)), dtype=np.bool_)
    return scorer.distribution(world.x[asked], eligible)


def guarded(guard: Guard, log: Interactions, trusted: Floats) -> Interactions:
    """The log as a learner gets it."""
    shape = (len(log.arms), int(log.source.max(initial=-1)) + 1)
    grades = Grades(shape, log.action, log.source, log.reward, log.weight, trusted)
    if guard.correct:
        grades = trust.corrected(grades, LIMITS)
    else:
        # The trusted source is a source as the judge is one, and speaks in its place.
        told = np.isfinite(trusted)
        grades = replace(grades.with_trusted(), shape=(len(log.arms), 2))
        grades = replace(grades, source=np.where(told, 1, log.source))
    grades = cap(grades, guard.bound, LIMITS)
    return replace(
        log, reward=grades.reward, weight=grades.weight, parts=grades.reward.reshape(-1, 1)
    )


def run(quick: bool) -> list[Measure]:  # noqa: FBT001 — the one switch of every benchmark
    """All measures."""
    if tables.folder() is None:
        sys.stderr.write("POINTSMAN_BENCH_DATA is not set: no judge is gamed\n")
        return []
    seeds, requests = (2, REQUESTS // 2) if quick else (SEEDS, REQUESTS)
    jobs = [
        Job(guard, learner, seed, requests, gamed)
        for gamed in (True, False)
        for guard in (GUARDS if gamed else HONEST)
        for learner in LEARNERS
        for seed in range(seeds)
    ]
    found: dict[tuple[bool, Guard, str], list[Served]] = defaultdict(list)
    with ProcessPoolExecutor(PROCESSES, mp_context=get_context("spawn")) as pool:
        for job, served in zip(jobs, pool.map(run_job, jobs, chunksize=4), strict=True):
            found[job.gamed, job.guard, job.learner].append(served)
    best = float(read_world(gamed=False).worth.mean(axis=0).max())
    rows = []
    for (gamed, guard, learner), of_seeds in found.items():
        if gamed:
            rows.append(share_of(guard, learner, [one.share for one in of_seeds]))
        behind = f"{learner}, {guard.name}{'' if gamed else f', without {GAMED}'}"
        rows.append(worth_of(behind, [one.worth for one in of_seeds], best))
    return rows


def share_of(guard: Guard, learner: str, shares: Sequence[float]) -> Measure:
    """The gamed arm's share of the traffic over the seeds."""
    share, even = float(np.mean(shares)), 1 / len(POOL)
    return Measure(
        measure=f"{GAMED}'s share of the traffic: {learner}, {guard.name} "
        f"(s.e. {spread(shares):.4f})",
        value=round(share, 4),
        unit="",
        reference=f"an even share of {len(POOL)} arms: {even:.4f}",
        ratio=round(share / even, 3),
        goal=f"< {GOAL}" if guard.goal else None,
        holds=share < GOAL if guard.goal else None,
    )


def worth_of(behind: str, worth: Sequence[float], best: float) -> Measure:
    """What the answers were truly worth beside the best honest arm's."""
    earned = float(np.mean(worth))
    return Measure(
        measure=f"true worth of the answers: {behind} (s.e. {spread(worth):.4f})",
        value=round(earned, 4),
        unit="reward",
        reference=f"the best honest arm: {best:.4f}",
        ratio=round(earned / best, 3),
    )


if __name__ == "__main__":
    sys.exit(main(run))
