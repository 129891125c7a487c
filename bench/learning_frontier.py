"""What quality costs on each table: ``multi_objective`` swept by its requests' preference.

Per seed a table is split anew. The first 200 requests are scored on all arms, then one pass over
the training side shows one arm's feedback a request. The policy that is frozen then serves the test
side under each preference, without training between. Beside it stand the two-model mix, which
knows nothing of the request, and a ridge regression an arm and part on all outcomes, swept alike.
A request that scores nothing is a failure: it is charged the strongest arm's cost on top, as in
TwinRouterBench's static track. Pacing stands in :mod:`bench.pacing`.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from bench import tables
from bench.curves import Curve
from bench.measure import Measure, Report, main
from controlplane.replay_baselines import Side
from controlplane.replay_loop import Course, Plan, run_seed
from controlplane.threads import one_thread
from learners import multi_objective
from learners.charges import bill
from learners.frontier import LEVELS, Comparison, Point, Summary, compare, expected, of_arms
from learners.interactions import Interactions
from learners.scorers.base import Scorer

PROBES = 200
SEEDS = 10
REFRESH = 512
"""Interactions between two freezes: it is the last that is judged."""
FACTORS = (0.0, *np.geomspace(0.02, 200.0, 24).tolist(), 1000.0)
"""Preferences that are swept: factors on the policy's own weight of the cost."""
ROUTER, MIX, FULL = "multi_objective", "two-model mix", "ridge on all outcomes"


@dataclass(slots=True)
class _Kept:
    """The learner, and the last scorer that it froze."""

    scorer: Scorer | None = None
    PARAMS = multi_objective.PARAMS
    PROMISES = multi_objective.PROMISES
    init = staticmethod(multi_objective.init)
    learn = staticmethod(multi_objective.learn)
    rearm = staticmethod(multi_objective.rearm)
    snapshot = staticmethod(multi_objective.snapshot)
    restore = staticmethod(multi_objective.restore)

    def freeze(self, state: multi_objective.State) -> Scorer:
        """The scorer, which is kept."""
        self.scorer = multi_objective.freeze(state)
        return self.scorer


@dataclass(frozen=True, slots=True)
class Fronts:
    """One seed's points on the test side; each sweep's in the order of :data:`FACTORS`."""

    router: tuple[Point, ...]
    full: tuple[Point, ...]
    arms: tuple[Point, ...]

    def comparison(self) -> Comparison:
        """The router beside its references."""
        return compare(self.router, self.arms, full_information=self.full)


def run(quick: bool) -> Report:  # noqa: FBT001 — the one switch of every benchmark
    """Each table's frontier, in shares of the best single model's cost, and as curves."""
    place = tables.folder()
    if place is None:
        sys.stderr.write("POINTSMAN_BENCH_DATA is not set: no frontier of real tables\n")
        return Report(())
    measures: list[Measure] = []
    drawn: list[Curve] = []
    for name in ("llmdrift",) if quick else tables.NAMES:
        whole = tables.Whole.of(place, name)
        with one_thread():
            seeds = range(2 if quick else SEEDS)
            found = [fronts(whole.split(seed), seed) for seed in seeds]
        measures += _rows(name, [one.comparison() for one in found])
        drawn += curves(name, found)
    return Report(tuple(measures), tuple(drawn))


def curves(table: str, found: Sequence[Fronts]) -> list[Curve]:
    """Each setting's and each arm's mean point over the seeds, in USD per 1,000 requests."""
    sweeps = {
        ROUTER: _mean([one.router for one in found]),
        FULL: _mean([one.full for one in found]),
    }
    lines = [
        Curve("frontier", table, name, *_across(points), reference=name == FULL)
        for name, points in sweeps.items()
    ]
    arms = _mean([one.arms for one in found])
    return lines + [
        Curve("frontier", table, arm.name, *_across([arm]), reference=True) for arm in arms
    ]


def _mean(found: Sequence[Sequence[Point]]) -> list[Point]:
    each = zip(*found, strict=True)
    return [
        Point(
            float(np.mean([one.cost for one in points])),
            float(np.mean([one.score for one in points])),
            points[0].name,
        )
        for points in each
    ]


def _across(points: Sequence[Point]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Costs and scores by rising cost."""
    ordered = sorted(points, key=lambda one: one.cost)
    return tuple(1_000 * one.cost for one in ordered), tuple(one.score for one in ordered)


def fronts(course: Course, seed: int) -> Fronts:
    """One seed's frontiers on the test side."""
    kept = _Kept()
    run_seed(Plan(ROUTER, probes=PROBES, seeds=1, refresh=REFRESH), course, kept, seed)
    assert kept.scorer is not None
    spec = course.spec({}, seed)
    full = multi_objective.freeze(
        multi_objective.learn(multi_objective.init(spec), everything(course))
    )
    test = charged(course.test)
    return Fronts(
        tuple(swept(kept.scorer, course, test)),
        tuple(swept(full, course, test)),
        of_arms(test.scores, test.costs_usd, course.arms),
    )


def charged(side: Side) -> Side:
    """The side with failures charged: a request that scores nothing pays the strongest arm too."""
    strongest = int(side.scores.mean(axis=0).argmax())
    penalty = side.costs_usd[:, [strongest]]
    return replace(side, costs_usd=bill(side.costs_usd, side.scores > 0, penalty))


def swept(scorer: Scorer, course: Course, test: Side) -> list[Point]:
    """The policy's point on the test side under each preference."""
    policy, n = scorer.greedy(), len(test.x)
    everyone = np.ones(test.scores.shape, dtype=np.bool_)
    reading = course.spec({}, 0).reading
    cost = np.array([name == "cost_usd" for name in reading.names])
    points = []
    for factor in FACTORS:
        mix = np.where(cost, factor, 1.0) * np.array(reading.mix)
        choice = policy.distribution(test.x, everyone, np.tile(mix, (n, 1)))
        points.append(expected(choice, test.scores, test.costs_usd, f"cost={factor:g}"))
    return points


def everything(course: Course) -> Interactions:
    """Every arm's outcome of every training request."""
    train, k = course.train, len(course.arms)
    n = len(train.x)
    return Interactions(
        arms=course.arms,
        x=np.repeat(train.x, k, axis=0),
        eligible=np.ones((n * k, k), dtype=np.bool_),
        action=np.tile(np.arange(k), n),
        propensity=np.ones(n * k),
        reward=train.rewards.ravel(),
        weight=np.ones(n * k),
        parts=train.parts.reshape(n * k, -1),
    )


def _rows(table: str, found: Sequence[Comparison]) -> list[Measure]:
    """A row a router and figure, beside the best single model."""
    best = float(np.mean([one.best.score for one in found]))
    full = [one.full_information for one in found]
    by_name = {
        ROUTER: [one.router for one in found],
        MIX: [one.two_model_mix for one in found],
        FULL: [one for one in full if one is not None],
    }
    rows = []
    for name, each in by_name.items():
        mix = by_name[MIX]
        for i, level in enumerate(LEVELS):
            rows.append(_share(f"{table}: {name}", level, (each, mix), i))
        rows += [
            _figure(f"{table}: {name}: nAUC over its own costs", [one.nauc for one in each], best),
            _figure(
                f"{table}: {name}: nAUC over the arms' costs",
                [one.nauc_common for one in each],
                best,
            ),
            _figure(f"{table}: {name}: Ps", [one.peak for one in each], best),
            _reached(f"{table}: {name}: QNC", [one.qnc for one in each]),
        ]
    return rows


def _share(
    name: str, level: float, of: tuple[Sequence[Summary], Sequence[Summary]], i: int
) -> Measure:
    """The cost of a level; seeds that do not reach it are counted, and left out of the mean."""
    values, mix = ([one.shares[i] for one in each] for each in of)
    row = _reached(f"{name}: cost of {level:.0%} of the best single model's score", values)
    both = [(one, other) for one, other in zip(values, mix, strict=True) if np.isfinite(one)]
    if not both:
        return row
    base = float(np.mean([other for _, other in both]))
    ratio = round(float(np.mean([one for one, _ in both])) / base, 4)
    return replace(row, reference=f"{MIX}, same seeds: {base:.4f}", ratio=ratio)


def _reached(name: str, values: Sequence[float]) -> Measure:
    reached = [each for each in values if np.isfinite(each)]
    return Measure(
        measure=f"{name} (reached in {len(reached)} of {len(values)} seeds, "
        f"s.e. {_spread(reached):.4f})",
        value=round(float(np.mean(reached)), 4) if reached else -1.0,
        unit="of the best single model's cost" if reached else "out of reach",
    )


def _figure(name: str, values: Sequence[float], best: float) -> Measure:
    known = [each for each in values if np.isfinite(each)]
    value = float(np.mean(known)) if known else 0.0
    return Measure(
        measure=f"{name} (s.e. {_spread(known):.4f})",
        value=round(value, 4),
        unit="score",
        reference=f"best single model: {best:.4f}",
        ratio=round(value / best, 4),
    )


def _spread(values: Sequence[float]) -> float:
    n = len(values)
    return float(np.std(values, ddof=1)) / n**0.5 if n > 1 else 0.0


if __name__ == "__main__":
    sys.exit(main(run))
