"""Whether intervals of a policy's value cover it as often as they say, on logs of real tables.

Each log is drawn anew from a table: two thirds of its rows, half of the requests served by the best
arm, the others by any arm. The judged policy is a ridge learnt on the other third, exploring 10 %.
Its value over all rows and arms is known exactly. Of 500 logs a true 95 % shows as 93.1 to 96.9 %
in 95 of 100 cases, so of 50 figures a few leave the goal by luck; all tables together say more.
"""

import sys
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from bench import tables
from bench.evidence_logs import TABLES, Floats, Ints, Source, explored, side_of, source_of
from bench.measure import Measure, main
from controlplane.replay_baselines import Side, full_information
from learners import intervals, ope
from learners.ope import Estimator

LOGS = 500
ROWS = 1_500
LEVEL = 0.95
GOAL = (0.935, 0.97)
ESTIMATORS: tuple[Estimator, ...] = ("ips", "snips", "dr", "switch_dr", "dros")
KINDS = ("normal", "bootstrap")
LOGGED, EXPLORED = 0.5, 0.1

FRESH = 2_804
"""Rows of llmrouter9 that judge; the others, about a fifth, teach."""
FRESH_TABLE, FRESH_LOGS, FRESH_LIMIT = "llmrouter9", 200, 0.024

Hits = dict[tuple[Estimator, str], int]


def run(quick: bool) -> list[Measure]:  # noqa: FBT001 — the one switch of every benchmark
    """All measures."""
    place = tables.folder()
    if place is None:
        return []
    logs = 10 if quick else LOGS
    sides = {name: side_of(place, name) for name in (TABLES[:1] if quick else TABLES)}
    found = {name: covered(*partly_taught(name, side), logs) for name, side in sides.items()}
    told = [one for name, hits in found.items() for one in measures(name, hits, logs, quick=quick)]
    if not quick:
        told += together(list(found.values()), logs)
    return [*told, error(sides[FRESH_TABLE], 10 if quick else FRESH_LOGS)]


def partly_taught(name: str, side: Side) -> tuple[Source, Floats]:
    """Two thirds of a table, and a policy that was learnt on the rest, ``(m, K)``."""
    order = np.random.default_rng(1).permutation(len(side.x))
    cut = len(order) // 3
    taught, rest = order[:cut], order[cut:]
    return source_of(name, side, rest), explored(learnt(side, taught, rest), EXPLORED)


def learnt(side: Side, taught: Ints, rest: Ints) -> Floats:
    """The favourite arms of a ridge that saw the ``taught`` rows, on the rest, ``(m, K)``."""
    own = replace(side, x=side.x[taught], rewards=side.scores[taught])
    return full_information(own, side.x[rest])


def covered(source: Source, judged: Floats, logs: int) -> Hits:
    """How many logs' intervals hold the value, by estimator and kind."""
    logged = explored(source.best(), LOGGED)
    truth = source.value(judged)
    hits = dict.fromkeys(((each, kind) for each in ESTIMATORS for kind in KINDS), 0)
    for seed in range(logs):
        rows, log = source.drawn(np.random.default_rng(seed), logged, ROWS)
        for each, one in ope.evaluate_each(log, judged[rows], ESTIMATORS).items():
            drawn = intervals.bootstrap(one.influence, seed=seed, level=LEVEL)
            for kind, found in zip(KINDS, (ope.estimate(one, level=LEVEL), drawn), strict=True):
                hits[each, kind] += found.low <= truth <= found.high
    return hits


def measures(name: str, hits: Hits, logs: int, *, quick: bool) -> Iterator[Measure]:
    """Each estimator's and kind's coverage on one table."""
    low, high = (0.5, 1.0) if quick else GOAL
    for (each, kind), count in hits.items():
        yield Measure(
            measure=f"coverage of 95 % intervals, {name}, {each}, {kind} ({logs} logs)",
            value=round(count / logs, 4),
            unit="of logs",
            goal=f"{low} to {high}",
            holds=low <= count / logs <= high,
        )


def together(found: list[Hits], logs: int) -> Iterator[Measure]:
    """Over all tables, which tells luck from fault."""
    low, high = GOAL
    for each, kind in found[0]:
        share = sum(hits[each, kind] for hits in found) / (logs * len(found))
        yield Measure(
            measure=f"coverage of 95 % intervals, all tables, {each}, {kind} "
            f"({logs * len(found):,} logs)",
            value=round(share, 4),
            unit="of logs",
            goal=f"{low} to {high}",
            holds=low <= share <= high,
        )


def error(side: Side, logs: int) -> Measure:
    """How far the doubly robust value of a learnt policy is off, on fresh uniform logs."""
    far = []
    for seed in range(logs):
        random = np.random.default_rng(seed)
        order = random.permutation(len(side.x))
        fresh, taught = order[:FRESH], order[FRESH:]
        source = source_of(FRESH_TABLE, side, fresh)
        judged = learnt(side, taught, fresh)
        uniform = np.full_like(judged, 1.0 / source.arms)
        log = source.served(random, uniform, np.arange(len(source)))
        far.append(ope.evaluate(log, judged, "dr").value - source.value(judged))
    root = float(np.sqrt(np.mean(np.square(far))))
    return Measure(
        measure=f"RMSE of dr on {FRESH:,} fresh uniform rows of {FRESH_TABLE} ({logs} logs, "
        f"mean error {np.mean(far):+.4f})",
        value=round(root, 5),
        unit="reward",
        goal=f"<= {FRESH_LIMIT}",
        holds=root <= FRESH_LIMIT,
    )


if __name__ == "__main__":
    sys.exit(main(run))
