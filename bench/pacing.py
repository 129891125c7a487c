"""Whether ``paced`` spends its budget: total spend over a stream, and what the money bought.

One pass over a stream of requests, the policy frozen anew each 64; costs weigh next to nothing in
the reward, so that only the budget restrains them. The reference is the best fixed mix of two arms
at the same mean cost, with all outcomes of the stream known beforehand. The first 64 requests are
served evenly, as nothing is known: they count.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench import tables
from bench.measure import Measure, main
from controlplane.threads import one_thread
from learners import paced
from learners.contract import Reading, Spec
from learners.features import Schema
from learners.frontier import hull, of_arms
from learners.interactions import Interactions

REFRESH = 64
SEEDS = 10
LONGEST = 3_000
"""Requests of a stream."""
SHARES = (0.3, 0.6)
"""Of the way from the cheapest arm's cost to the best arm's: the budgets."""
GOAL = 0.01
COST_WEIGHT = 1e-3
PARAMS = {"ridge": 30.0}

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Stream:
    """Requests in their order, each arm's outcome known: ``x`` (n, d), the others (n, K)."""

    schema: Schema
    arms: tuple[str, ...]
    x: Floats
    scores: Floats
    costs: Floats


def run(quick: bool) -> list[Measure]:  # noqa: FBT001 — the one switch of every benchmark
    """All measures."""
    return measures(quick)


def measures(quick: bool) -> list[Measure]:  # noqa: FBT001 — as above
    """Each world and budget: spend, then score."""
    found = []
    with one_thread():
        for name, stream_of in worlds(quick):
            for share in SHARES[:1] if quick else SHARES:
                found += _rows(name, share, stream_of, 2 if quick else SEEDS)
    return found


def worlds(quick: bool) -> Iterator[tuple[str, Callable[[int], Stream]]]:  # noqa: FBT001
    """The streams by name, each made of a seed."""
    yield "costs that drift", drifting
    place = tables.folder()
    if quick or place is None:
        return
    for name in ("routellm2", "llmrouter9"):
        yield name, _of_table(tables.Whole.of(place, name))


def _of_table(whole: tables.Whole) -> Callable[[int], Stream]:
    def stream(seed: int) -> Stream:
        course, side = whole.course, whole.course.train
        order = np.random.default_rng(seed).permutation(len(whole))[:LONGEST]
        return Stream(
            course.schema, course.arms, side.x[order], side.scores[order], side.costs_usd[order]
        )

    return stream


def drifting(seed: int) -> Stream:
    """Four arms; the dearest's price triples step by step, the second's falls by half at once."""
    random = np.random.default_rng(seed)
    schema = Schema.from_json(
        [{"name": "hard", "kind": "number"}, {"name": "long", "kind": "number"}]
    )
    hard, long = random.normal(size=(2, LONGEST))
    rows = zip(hard.tolist(), long.tolist(), strict=True)
    x = schema.encode_all([{"hard": one, "long": other} for one, other in rows])
    chance = np.array([0.55, 0.65, 0.75, 0.85]) - hard[:, None] * [0.2, 0.15, 0.1, 0.02]
    scores = (random.random((LONGEST, 4)) < chance).astype(np.float64)
    price = np.tile([0.1, 1.0, 3.0, 10.0], (LONGEST, 1))
    price[:, 3] *= np.linspace(1.0, 3.0, LONGEST)
    price[LONGEST // 2 :, 1] /= 2.0
    costs = price * np.exp(0.4 * long[:, None] + 0.5 * random.normal(size=(LONGEST, 4)))
    return Stream(schema, ("tiny", "small", "middle", "large"), x, scores, costs)


@dataclass(frozen=True, slots=True)
class Paced:
    """One seed: means per request."""

    budget: float
    spent: float
    score: float
    fixed: float
    binds: bool
    """Whether the budget restrained the policy at the end: else money was left that it found no
    use for."""


def simulated(stream: Stream, share: float, seed: int) -> Paced:
    """One pass under a budget that is this share of the way to the best arm's cost."""
    mean = stream.costs.mean(axis=0)
    best = int(stream.scores.mean(axis=0).argmax())
    budget = float(mean.min() + share * (mean[best] - mean.min()))
    reading = Reading(("score", "cost_usd"), (1.0, -COST_WEIGHT / float(mean[best])))
    spec = Spec(
        stream.schema, stream.arms, {**PARAMS, "budget": budget}, seed=seed, reading=reading
    )
    action, state = _served(stream, spec, seed)
    end = paced.standing(state)
    rows = np.arange(len(action))
    corners = hull(of_arms(stream.scores, stream.costs, stream.arms))
    fixed = np.interp(budget, [one.cost for one in corners], [one.score for one in corners])
    return Paced(
        budget,
        float(stream.costs[rows, action].mean()),
        float(stream.scores[rows, action].mean()),
        float(fixed),
        end is not None and end.multiplier > 0,
    )


def _served(stream: Stream, spec: Spec, seed: int) -> tuple[NDArray[np.int64], paced.State]:
    """The arm that served each request, and the last state."""
    random, n = np.random.default_rng(seed), len(stream.x)
    k = len(stream.arms)
    state, action = paced.init(spec), np.zeros(n, dtype=np.int64)
    for start in range(0, n, REFRESH):
        rows = np.arange(start, min(start + REFRESH, n))
        eligible = np.ones((len(rows), k), dtype=np.bool_)
        spread = paced.freeze(state).distribution(stream.x[rows], eligible)
        drawn = spread.cumsum(axis=1) < random.random((len(rows), 1))
        action[rows] = np.minimum(drawn.sum(axis=1), k - 1)
        own = action[rows]
        parts = np.column_stack([stream.scores[rows, own], stream.costs[rows, own]])
        log = Interactions(
            arms=stream.arms,
            x=stream.x[rows],
            eligible=eligible,
            action=own,
            propensity=spread[np.arange(len(rows)), own],
            reward=parts @ np.array(spec.reading.mix),
            weight=np.ones(len(rows)),
            at=rows.astype(np.float64),
            parts=parts,
        )
        state = paced.learn(state, log)
    return action, state


def _rows(name: str, share: float, stream_of: Callable[[int], Stream], seeds: int) -> list[Measure]:
    found = [simulated(stream_of(seed), share, seed) for seed in range(seeds)]
    bound = [one for one in found if one.binds]
    off = np.array([one.spent / one.budget - 1.0 for one in bound] or [0.0])
    score = np.array([one.score for one in found])
    fixed = float(np.mean([one.fixed for one in found]))
    error = float(score.std(ddof=1)) / len(score) ** 0.5
    what = f"{name}, budget {share:.0%} of the way from the cheapest to the best arm"
    left = [round(1.0 - one.spent / one.budget, 3) for one in found if not one.binds]
    worst = float(np.abs(off).max(initial=0.0))
    kept = f"worst of {len(bound)} seeds that it restrains"
    return [
        Measure(
            measure=f"{what}: spend off the budget, {kept} (mean {off.mean():+.4f}; the other "
            f"seeds left unspent {left})",
            value=round(worst, 4),
            unit="of the budget",
            goal=f"<= {GOAL}",
            holds=worst <= GOAL,
        ),
        Measure(
            measure=f"{what}: score (s.e. {error:.4f})",
            value=round(float(score.mean()), 4),
            unit="score",
            reference=f"best fixed mix at that cost, all outcomes known: {fixed:.4f}",
            ratio=round(float(score.mean()) / fixed, 4),
        ),
    ]


if __name__ == "__main__":
    sys.exit(main(run))
