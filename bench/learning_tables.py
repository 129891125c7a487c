"""What each learner earns on each table, beside its rivals, all in one run and on the same splits.

Per seed a table is split anew. The first probes are scored on all arms, then each router passes
once over the training side and sees one arm's feedback a request; what it learnt then chooses on
the test side, without exploration.
"""

import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context

import numpy as np

from bench import rivals, tables
from bench.curves import Curve
from bench.measure import Measure, Report, main
from controlplane.replay_baselines import best_fixed, compare, judge
from controlplane.replay_loop import Course, Plan, run_seed
from controlplane.threads import one_thread
from learners import catalogue
from learners.errors import SpecError

PROBES = 200
SEEDS = 10
PROCESSES = 2
HARM = 0.003
GAIN = 0.85
LEAST_GAIN = 0.02
HINDSIGHT = "best fixed arm, all outcomes of the training side known"
LUCKIEST = "best fixed arm, all outcomes of the test side itself known"
PER_DOMAIN = "best arm of each domain, all outcomes known"
FULL = "ridge on all outcomes"
FROM_PROBES = "best fixed arm of the probes"
REFRESH = 64
"""Requests between two freezes."""
EPISODIC = frozenset({"always_large", "always_small", "fqi", "reinforce"})
"""Learners of the catalogue for another task: agents' episodes."""


def routers() -> tuple[str, ...]:
    """The learners that are compared."""
    return tuple(name for name in catalogue.NAMES if name not in EPISODIC)


@dataclass(frozen=True, slots=True)
class Job:
    """One seed of one table."""

    table: str
    seed: int
    learners: tuple[str, ...]
    rivals: tuple[str, ...]


@cache
def _whole(name: str) -> tables.Whole:
    place = tables.folder()
    assert place is not None
    return tables.Whole.of(place, name)


def run_job(job: Job) -> dict[str, float]:
    """Each router's test reward."""
    course = _whole(job.table).split(job.seed)
    with one_thread():
        return earned(course, job)


def earned(course: Course, job: Job) -> dict[str, float]:
    """Each router's test reward on one split."""
    found = references(course, job.seed)
    for name in job.learners:
        plan = Plan(name, probes=PROBES, seeds=1, refresh=REFRESH)
        try:
            run = run_seed(plan, course, catalogue.load(name), job.seed)
        except SpecError as error:  # it says itself that it is not for such a table
            sys.stderr.write(f"{name} on {job.table}: {error}\n")
            continue
        found[name] = run.test.test_reward
    for name in job.rivals:
        found[name] = rivals.replay(name, course, probes=PROBES, seed=job.seed)
    return found


def references(course: Course, seed: int) -> dict[str, float]:
    """What knows more than a router may: hindsight, all outcomes, and the probes' best arm."""
    n = len(course.test.rewards)
    known = compare(course.train, course.test)
    order = np.random.default_rng(seed).permutation(len(course.train.x))
    probes = course.train.rewards[order[:PROBES]]
    fixed, full = known["best_fixed"], known["full_information"]
    per_domain = known["per_domain"]
    assert fixed is not None
    assert full is not None
    found = {
        HINDSIGHT: fixed.test_reward,
        LUCKIEST: float(course.test.rewards.mean(axis=0).max()),
        FULL: full.test_reward,
        FROM_PROBES: judge(course.test, best_fixed(probes, n)).test_reward,
    }
    if per_domain is not None:
        found[PER_DOMAIN] = per_domain.test_reward
    return found


def compare_all(
    names: Sequence[str], seeds: int, learners: Sequence[str], others: Sequence[str]
) -> dict[str, dict[str, list[float]]]:
    """By table and router, the test rewards of all seeds."""
    jobs = [Job(t, s, tuple(learners), tuple(others)) for t in names for s in range(seeds)]
    found: dict[str, dict[str, list[float]]] = {name: {} for name in names}
    with ProcessPoolExecutor(PROCESSES, mp_context=get_context("spawn")) as pool:
        for job, rewards in zip(jobs, pool.map(run_job, jobs), strict=True):
            for router, reward in rewards.items():
                found[job.table].setdefault(router, []).append(reward)
    return found


def run(quick: bool) -> Report:  # noqa: FBT001 — the one switch of every benchmark
    """All measures, and the gains that are drawn."""
    if tables.folder() is None:
        sys.stderr.write("POINTSMAN_BENCH_DATA is not set: nothing is earned on tables\n")
        return Report(())
    names = tables.NAMES[:1] if quick else tables.NAMES
    found = compare_all(names, 2 if quick else SEEDS, routers(), rivals.NAMES)
    return Report(tuple(measures(found)), tuple(gains(found)))


def gains(found: Mapping[str, Mapping[str, Sequence[float]]]) -> list[Curve]:
    """What auto, its rivals and the references earn more than the best fixed arm, by seed."""
    names = ("auto", *rivals.NAMES, FROM_PROBES, PER_DOMAIN, FULL)
    curves = []
    for table, by_router in found.items():
        for name in filter(by_router.__contains__, names):
            over = np.subtract(by_router[name], by_router[HINDSIGHT]).tolist()
            gain, error = float(np.mean(over)), spread(over)
            known = name in {PER_DOMAIN, FULL}
            curves.append(Curve("gain", table, name, (0.0,), (gain,), (error,), reference=known))
    return curves


def measures(found: Mapping[str, Mapping[str, Sequence[float]]]) -> list[Measure]:
    """A row a table and router, then auto's goals."""
    rows = [
        _row(table, router, values, by_router[HINDSIGHT])
        for table, by_router in found.items()
        for router, values in by_router.items()
    ]
    for table, by_router in found.items():
        if "auto" in by_router:
            rows += _goals(table, by_router)
    if all("auto" in by_router for by_router in found.values()):
        rows.append(_ahead(found))
    return rows


def _row(table: str, router: str, values: Sequence[float], fixed: Sequence[float]) -> Measure:
    value, base = float(np.mean(values)), float(np.mean(fixed))
    return Measure(
        measure=f"test reward on {table}: {router} (s.e. {spread(values):.4f})",
        value=round(value, 4),
        unit="reward",
        reference=f"{HINDSIGHT}: {base:.4f} ± {spread(fixed):.4f}",
        ratio=round(value / base, 4),
    )


def spread(values: Sequence[float]) -> float:
    """The standard error of a mean over seeds; 0 for one seed."""
    n = len(values)
    return float(np.std(values, ddof=1)) / n**0.5 if n > 1 else 0.0


def _goals(table: str, by_router: Mapping[str, Sequence[float]]) -> list[Measure]:
    """No harm, and most of the gain that there is."""
    mean = {name: float(np.mean(values)) for name, values in by_router.items()}
    fixed, auto = mean[HINDSIGHT], mean["auto"]
    found = [_harmless(table, by_router, name) for name in (HINDSIGHT, LUCKIEST)]
    gain = max(mean[FULL], mean.get(PER_DOMAIN, mean[FULL])) - fixed
    if gain > LEAST_GAIN:
        share = (auto - fixed) / gain
        found.append(
            Measure(
                measure=f"auto's share of the gain that all outcomes allow on {table}",
                value=round(share, 3),
                unit="",
                reference=f"gain of the better of full information and per domain: {gain:.4f}",
                ratio=round(share, 3),
                goal=f">= {GAIN}",
                holds=share >= GAIN,
            )
        )
    return found


def _harmless(table: str, by_router: Mapping[str, Sequence[float]], name: str) -> Measure:
    auto, fixed = np.array(by_router["auto"]), np.array(by_router[name])
    over = float((auto - fixed).mean())
    return Measure(
        measure=f"auto over the {name}, on {table} (s.e. {spread(list(auto - fixed)):.4f})",
        value=round(over, 4),
        unit="reward",
        reference=f"{name}: {fixed.mean():.4f}",
        ratio=round(float(auto.mean() / fixed.mean()), 4),
        goal=f">= {-HARM}",
        holds=over >= -HARM,
    )


def _ahead(found: Mapping[str, Mapping[str, Sequence[float]]]) -> Measure:
    """Auto's mean over the tables beside the best rival's."""
    names = [*rivals.NAMES, FROM_PROBES]
    mean = {
        name: float(np.mean([np.mean(by_router[name]) for by_router in found.values()]))
        for name in [*names, "auto"]
    }
    best = max(names, key=mean.__getitem__)
    return Measure(
        measure=f"auto's mean over {len(found)} tables beside the best rival's",
        value=round(mean["auto"], 4),
        unit="reward",
        reference=f"{best}: {mean[best]:.4f}",
        ratio=round(mean["auto"] / mean[best], 4),
        goal="> every rival's",
        holds=mean["auto"] > mean[best],
    )


if __name__ == "__main__":
    sys.exit(main(run))
