"""How fast routers follow a pool that changes: silently, by a new arm, by one that leaves.

Per seed a stream (:mod:`bench.streams`) changes after its first half. Measured are the requests
until a router's choices, without exploration, earn within 0.02 of the best fixed arm of after the
change, at two looks in a row, 64 requests apart; on the test side, whose outcomes are all known.
For a router that knows contexts the bar is the same, so one that spreads its choices over arms may
pass it at once; the plain best fixed arm is the harder case. What is not reached within the stream
counts as its whole second half.

A new arm's share is that of a learner's choices, without exploration. The fair share is what a
learner that had the arm from the start gives it, on average over its last looks: where two arms are
about as good, a single look's share jumps from next to nothing to most. For the same reason the
share on average over all seeds is given too.

An arm is added and removed by ``rearm``, which keeps what is known of the arms that stay. The
served system trains anew each round on the log encoded for the pool's arms, where a new arm has no
rows yet and a removed one's are left out, so both start from the same knowledge.
"""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from bench import curves, rivals, streams, tables
from bench.curves import Curve
from bench.learning_tables import PROCESSES, spread
from bench.measure import Measure, Report, main
from bench.streams import REFRESH, Change, Learning, Rivalling
from controlplane.replay_loop import Course
from controlplane.threads import one_thread
from learners.contract import Params

SEEDS = 10
BEFORE, AFTER = 1_024, 2_048
DRAWN = 3
"""Seeds whose whole recovery is drawn; the others end when they have recovered."""
STAYING = 10
"""Seeds of a stream without a change, and of arms that join and leave."""
LAST = 16
"""Looks that make up a fair share."""
TIMES = 3.0
LOST = 0.01
FAIR = 0.8
"""Of the share that an arm has in the policy of a learner that had it from the start."""

LEARNERS: Mapping[str, tuple[str, Params]] = {
    "auto": ("auto", {}),
    "auto, drift: none": ("auto", {"drift": "none"}),
    "linucb, half_life: 500": ("linucb", {"half_life": 500.0}),
    "ema": ("ema", {}),
    "beta_thompson, half_life: 500": ("beta_thompson", {"half_life": 500.0}),
    "river, drift: page_hinkley": ("river", {"drift": "page_hinkley"}),
    "best_fixed": ("best_fixed", {}),
}
WATCHED = ("auto", "auto, drift: none")
JOINING = ("auto", "linucb, half_life: 500", "beta_thompson, half_life: 500")

CHANGES = {
    "March to June snapshots": ("llmdrift", streams.endpoints),
    "best and worst arm swapped": ("llmrouter9", streams.swapped),
    "the two arms swapped": ("routellm2", streams.swapped),
    "the best arm's scores halved": ("llmrouter9", streams.degraded),
}
STATIONARY = ("llmrouter9", "llmdrift", "bfcl", "zeroeval_math")


@dataclass(frozen=True, slots=True)
class Job:
    """One seed of one stream and router."""

    stream: str
    router: str
    seed: int
    before: int = BEFORE
    after: int = AFTER


Found = TypeVar("Found")
Work = Callable[[Job], Found]


@cache
def _whole(name: str) -> tables.Whole:
    place = tables.folder()
    assert place is not None
    return tables.Whole.of(place, name)


def _router(name: str, course: Course, seed: int) -> Learning | Rivalling:
    if name in LEARNERS:
        learner, params = LEARNERS[name]
        return Learning(learner, course, params, seed)
    return Rivalling(name, course, seed)


def recovered(job: Job) -> tuple[float, list[float]]:
    """Requests until the router of a changing stream is near the best, and what it earned."""
    table, made = CHANGES[job.stream]
    change: Change = made(_whole(table).split(job.seed))
    with one_thread():
        router = _router(job.router, change.before, job.seed)
        earned = streams.recovery(
            router, change, job.seed, job.before, job.after, whole=job.seed < DRAWN
        )
    return min(streams.rounds(earned, change.best_after), float(job.after)), earned


def stayed(job: Job) -> float:
    """What the router of a stream without a change earns, on average over its second half."""
    course = _whole(job.stream).split(job.seed)
    with one_thread():
        router = _router(job.router, course, job.seed)
        same = Change("none", course, course)
        earned = streams.recovery(router, same, job.seed, job.before, job.after)
    return float(np.mean(earned))


def joined(job: Job) -> tuple[float, list[float]]:
    """A fair share of the best arm, and what a learner gives it at each look from its arrival."""
    course = _whole(job.stream).split(job.seed)
    best = int(course.train.rewards.mean(axis=0).argmax())
    without = streams.over_arms(course, [i for i in range(len(course.arms)) if i != best])
    with one_thread():
        always, late = (_router(job.router, each, job.seed) for each in (course, without))
        assert isinstance(always, Learning)
        assert isinstance(late, Learning)
        rows = _pass(always, course, job.seed, job.before + job.after - LAST * REFRESH)
        usual = [_shared(always, course, next(rows), best) for _ in range(LAST)]
        rows = _pass(late, without, job.seed, job.before)
        late.rearm(course)
        looks = range(0, job.after, REFRESH)
        return float(np.mean(usual)), [_shared(late, course, next(rows), best) for _ in looks]


def _shared(router: Learning, course: Course, rows: NDArray[np.int64], arm: int) -> float:
    """An arm's share after these rows."""
    router.serve(course, rows)
    return float(router.shares(course)[arm])


def left(job: Job) -> float:
    """How often a removed arm is drawn afterwards."""
    course = _whole(job.stream).split(job.seed)
    best = int(course.train.rewards.mean(axis=0).argmax())
    without = streams.over_arms(course, [i for i in range(len(course.arms)) if i != best])
    with one_thread():
        router = _router(job.router, course, job.seed)
        assert isinstance(router, Learning)
        rows = _pass(router, course, job.seed, job.before)
        assert router.picks[course.arms[best]] > 0
        router.rearm(without)
        for _ in range(0, job.after, REFRESH):
            router.serve(without, next(rows))
    assert router.picks.total() >= job.after
    return float(router.picks[course.arms[best]])


def _pass(
    router: Learning, course: Course, seed: int, requests: int
) -> Iterator[NDArray[np.int64]]:
    """Pass the learner over so many requests; what follows them."""
    rows = streams.passes(course, seed)
    for start in range(0, requests, REFRESH):
        router.serve(course, next(rows), probe=start < streams.PROBES)
    return rows


def run(quick: bool) -> Report:  # noqa: FBT001 — the one switch of every benchmark
    """All measures."""
    if tables.folder() is None:
        sys.stderr.write("POINTSMAN_BENCH_DATA is not set: nothing changes on tables\n")
        return Report(())
    return measured(quick)


def measured(quick: bool) -> Report:  # noqa: FBT001 — as above
    """Recovery on each stream, what watching costs without a change, arms that join and leave."""
    seeds, staying, after = (1, 1, 1_024) if quick else (SEEDS, STAYING, AFTER)
    rows: list[Measure] = []
    drawn: list[Curve] = []
    with ProcessPoolExecutor(PROCESSES, mp_context=get_context("spawn")) as pool:

        def each(work: Work[Found], stream: str, router: str, count: int) -> list[Found]:
            jobs = [Job(stream, router, seed, after=after) for seed in range(count)]
            return list(pool.map(work, jobs))

        for stream in list(CHANGES)[: 1 if quick else None]:
            names = (*LEARNERS, *rivals.NAMES)
            passed = {name: each(recovered, stream, name, seeds) for name in names}
            drawn += [
                curves.recovery(stream, name, [one[1] for one in runs[:DRAWN]], REFRESH)
                for name, runs in passed.items()
            ]
            found = {name: [one[0] for one in runs] for name, runs in passed.items()}
            rows += _recovery(stream, found, after)
        for table in STATIONARY[: 1 if quick else None]:
            found = {name: each(stayed, table, name, staying) for name in WATCHED}
            rows.append(_lost(table, found))
        for name in JOINING:
            rows += _joined(name, each(joined, "llmrouter9", name, staying), after)
            rows.append(_left(name, each(left, "llmrouter9", name, staying)))
    return Report(tuple(rows), tuple(drawn))


def _recovery(stream: str, found: Mapping[str, Sequence[float]], after: int) -> list[Measure]:
    """A row a router, then auto's goal."""
    slowest = max(rivals.NAMES, key=lambda name: float(np.mean(found[name])))
    base = float(np.mean(found[slowest]))
    rows = []
    for name, values in found.items():
        value, never = float(np.mean(values)), sum(one >= after for one in values)
        rows.append(
            Measure(
                measure=f"requests to recover on {stream}: {name} "
                f"(s.e. {spread(values):.0f}, not within {after:,}: {never} of {len(values)})",
                value=round(value),
                unit="requests",
                reference=f"slowest rival, {slowest}: {base:.0f}",
                ratio=round(value / base, 3) if base else None,
                goal=f"<= 1/{TIMES:g} of the slowest rival's" if name == "auto" else None,
                holds=value * TIMES <= base if name == "auto" else None,
            )
        )
    return rows


def _lost(table: str, found: Mapping[str, Sequence[float]]) -> Measure:
    watched, blind = (np.array(found[name]) for name in WATCHED)
    lost = blind - watched
    error = spread(lost.tolist())
    return Measure(
        measure=f"lost by watching where nothing changes, on {table} (s.e. {error:.4f})",
        value=round(float(lost.mean()), 4),
        unit="reward",
        reference=f"auto, drift: none: {blind.mean():.4f}",
        ratio=round(float(watched.mean() / blind.mean()), 4),
        goal=f"<= {LOST}",
        holds=bool(lost.mean() <= LOST),
    )


def _joined(name: str, found: Sequence[tuple[float, Sequence[float]]], after: int) -> list[Measure]:
    """A row of the seeds one by one, and one of their mean share."""
    values = [fair_after(share, fair, after) for fair, share in found]
    never = sum(one >= after for one in values)
    fair = float(np.mean([one[0] for one in found]))
    share = np.mean([one[1] for one in found], axis=0)
    what = f"requests until a new arm has {FAIR:.0%} of its fair share"
    return [
        Measure(
            measure=f"{what}: {name} "
            f"(s.e. {spread(values):.0f}, not within {after:,}: {never} of {len(values)})",
            value=round(float(np.mean(values))),
            unit="requests",
        ),
        Measure(
            measure=f"{what} on average over {len(found)} seeds: {name}",
            value=round(fair_after(share.tolist(), fair, after)),
            unit="requests",
            reference=f"fair share: {fair:.3f}, the last looks': {share[-LAST:].mean():.3f}",
        ),
    ]


def fair_after(share: Sequence[float], fair: float, after: int) -> float:
    """Requests until a share is fair; ``after`` where it never is."""
    enough = (i + 1 for i, one in enumerate(share) if one >= FAIR * fair)
    return float(REFRESH * next(enough, after // REFRESH))


def _left(name: str, values: Sequence[float]) -> Measure:
    return Measure(
        measure=f"picks of an arm after it was removed: {name}",
        value=float(sum(values)),
        unit="picks",
        goal="0",
        holds=sum(values) == 0,
    )


if __name__ == "__main__":
    sys.exit(main(run))
