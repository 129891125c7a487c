"""Whether intervals that may be watched hold: coverage at every look, A/A, sample ratio, planner.

Logs are drawn from the real tables: a row at random, an arm by the champion's probabilities
(ε = 0.1 around the best arm); the candidate prefers the second-best arm on half of the rows. Its
doubly robust gain has an exactly known mean: that over all rows and arms. Beside them stand values
that are hard on asymptotics. A path counts as covered when the truth is inside at every look.
"""

import math
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench import tables
from bench.measure import Measure, main
from learners import betting
from learners.contrasts import SRM_ALARM, Sums, sample_ratio
from learners.experiments import Rules, judge
from learners.looks import Looks
from learners.planner import Method, Plan, Question, of_exploration, of_split, plan
from learners.sequences import Asymptotic

TABLES = ("llmrouter9", "mmlu_pro", "bfcl", "routellm2", "llmdrift")
LOOKS = 10_000
PATHS = 500
BETTING_PATHS = 100
"""Fewer, as they take a hundred times as long, and hold by a proof for any number of rows."""
BETTING = ("betting", "betting, lower")
EXPERIMENTS = 1_000
SRM_RUNS = 4_000
SRM_UNITS = 20_000
PLANTED_RUNS = 200
PLANTED_UNITS = 200_000
PLANTED = 0.51
EXPLORATION = 0.1
LEVEL = 0.95

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class World:
    """Values of a known mean; ``span`` is what one may be, ``means`` what the mean may be."""

    name: str
    draw: Callable[[np.random.Generator, int], Floats]
    mean: float
    span: tuple[float, float]
    means: tuple[float, float]

    @property
    def worst(self) -> float:
        return max(map(abs, self.span))


def run(quick: bool) -> list[Measure]:  # noqa: FBT001 — the one switch of every benchmark
    """All measures."""
    return [
        *coverage(quick),
        watched_a_a(60 if quick else EXPERIMENTS, 40 if quick else 200),
        watched_a_a(30 if quick else EXPERIMENTS, 20 if quick else 50, returning=True),
        split_alarms(200 if quick else SRM_RUNS),
        split_found(10 if quick else PLANTED_RUNS),
        *planned(40 if quick else 500),
    ]


def coverage(quick: bool) -> Iterator[Measure]:  # noqa: FBT001 — as above
    """Each world and sequence: the share of paths that are covered at every look."""
    looks, paths = (2_000, 40) if quick else (LOOKS, PATHS)
    for world in worlds(quick):
        for name, sequence in sequences(world, looks).items():
            few = paths if name not in BETTING else min(paths, BETTING_PATHS)
            share, width = covered(world, sequence, few, looks)
            goal = LEVEL if not quick else 0.85
            yield Measure(
                measure=f"{world.name}, {name}: paths covered at all {looks:,} looks "
                f"({few} paths; the last bound {width:.4f} off the mean)",
                value=round(share, 4),
                unit="of paths",
                goal=f">= {goal}",
                holds=share >= goal,
            )


def worlds(quick: bool) -> Iterator[World]:  # noqa: FBT001 — as above
    """Synthetic ones, and each table that is there."""
    yield World("coins of 3 %", coins, 0.03, (0.0, 1.0), (0.0, 1.0))
    yield World("weights of 1 in 50", weighted, 0.0, (-1.0, 49.0), (-1.0, 1.0))
    place = tables.folder()
    if not quick and place is not None:
        for name in TABLES:
            yield of_table(name, tables.Whole.of(place, name).course.train.scores)


def coins(random: np.random.Generator, n: int) -> Floats:
    return (random.random(n) < 0.03).astype(np.float64)


def weighted(random: np.random.Generator, n: int) -> Floats:
    """Of mean 0: one in fifty counts fifty times, the heaviest tail of a log that explores 2 %."""
    return np.where(random.random(n) < 0.02, 50.0, 0.0) - 1.0


def of_table(name: str, scores: Floats) -> World:
    """A candidate's gain over the champion, row by row, as a log of the champion's tells it."""
    n, k = scores.shape
    order = np.argsort(-scores.mean(axis=0))
    rows = np.arange(n)
    logged = np.full((n, k), EXPLORATION / k)
    judged = logged.copy()
    logged[:, order[0]] += 1.0 - EXPLORATION
    judged[rows, np.where(rows % 2 == 0, order[0], order[1])] += 1.0 - EXPLORATION
    shift = judged - logged
    predicted = scores.mean(axis=0)
    gain = (shift @ predicted)[:, None] + shift / logged * (scores - predicted)
    edges = logged.cumsum(axis=1)

    def draw(random: np.random.Generator, size: int) -> Floats:
        row = random.integers(n, size=size)
        arm = (edges[row] < random.random((size, 1))).sum(axis=1)
        return np.asarray(gain[row, np.minimum(arm, k - 1)])

    truth = float((shift * scores).sum(axis=1).mean())
    return World(name, draw, truth, (float(gain.min()), float(gain.max())), (-1.0, 1.0))


def sequences(world: World, looks: int) -> Mapping[str, Looks]:
    """The sequences that are put to the test."""
    low, high = world.span
    return {
        "asymptotic": Asymptotic(looks, worst=(-world.worst, world.worst)),
        "asymptotic, lower": Asymptotic(looks, "low", worst=(-world.worst, world.worst)),
        "asymptotic, upper": Asymptotic(looks, "high", worst=(-world.worst, world.worst)),
        "betting": betting.start((low, high), means=world.means),
        "betting, lower": betting.start((low, math.inf), means=world.means),
        "plug-in Bernstein": betting.PluginBernstein((low, high)),
    }


def covered(world: World, sequence: Looks, paths: int, looks: int) -> tuple[float, float]:
    """The share of paths covered throughout, and how far the last bound is off the mean."""
    good, width = 0, 0.0
    for seed in range(paths):
        low, high = sequence.path(world.draw(np.random.default_rng(seed), looks), LEVEL)
        good += bool(((low <= world.mean) & (world.mean <= high)).all())
        lower, upper = world.mean - float(low[-1]), float(high[-1]) - world.mean
        width += lower if math.isfinite(lower) else upper
    return good / paths, width / paths


def watched_a_a(experiments: int, looks: int, *, returning: bool = False) -> Measure:
    """Two equal variants, looked at again and again: how often one is called better or worse."""
    called = sum(a_a(seed, looks, returning=returning) for seed in range(experiments))
    what = "units that come back" if returning else "a unit a row"
    return Measure(
        measure=f"A/A of 10,000 rows, {what}, looked at {looks} times, {experiments:,} "
        "experiments: called better or worse",
        value=round(called / experiments, 4),
        unit="of experiments",
        goal="<= 0.05",
        holds=called / experiments <= 0.05,
    )


def a_a(seed: int, looks: int, *, returning: bool) -> bool:
    """Whether an A/A experiment was ever called otherwise than undecided."""
    random, n = np.random.default_rng(seed), 10_000
    if returning:
        unit = random.integers(2_000, size=n)
        taste = random.normal(size=2_000)
    else:
        unit, taste = np.arange(n), np.zeros(n)
    side = random.random(2_000 if returning else n) < 0.5
    value = (random.random(n) < 1.0 / (1.0 + np.exp(-taste[unit]))).astype(np.float64)
    rules = Rules("score", {"control": 0.5, "new": 0.5}, planned_rows=n)
    for seen in np.linspace(n / looks, n, looks).astype(int):
        now = unit[:seen]
        metrics = {
            name: summed(value[:seen], now, side[now] == chosen, alone=not returning)
            for name, chosen in (("control", False), ("new", True))
        }
        counts = {name: each.units for name, each in metrics.items()}
        if judge(rules, counts, {"score": metrics}).status in {"better", "worse"}:
            return True
    return False


def summed(value: Floats, unit: NDArray[np.int64], mine: NDArray[np.bool_], *, alone: bool) -> Sums:
    """The sums of a variant's rows; quickly where each is a unit."""
    own = value[mine]
    if alone:
        total, square, n = float(own.sum()), float(own @ own), len(own)
        return Sums(n, n, total, square, square, total, n)
    r = np.bincount(unit[mine]).astype(np.float64)
    t = np.bincount(unit[mine], weights=own).astype(np.float64)
    units = int((r > 0).sum())
    return Sums(
        units, len(own), float(t.sum()), float(own @ own), *map(float, (t @ t, t @ r, r @ r))
    )


def split_alarms(runs: int) -> Measure:
    """A fair split looked at after every unit of the first 200, then each 20: false alarms."""
    looks = np.concatenate([np.arange(1, 200), np.arange(200, SRM_UNITS + 1, 20)])
    alarms = sum(alarmed(seed, 0.5, looks) for seed in range(runs))
    return Measure(
        measure=f"a fair split of {SRM_UNITS:,} units, {len(looks):,} looks, {runs:,} runs: "
        "false alarms",
        value=alarms / runs,
        unit="of runs",
        goal=f"<= {SRM_ALARM}",
        holds=alarms / runs <= SRM_ALARM,
    )


def split_found(runs: int) -> Measure:
    """A planted split of 51 to 49 of 200,000 units: how often it is found."""
    looks = np.arange(1_000, PLANTED_UNITS + 1, 1_000)
    found = sum(alarmed(seed, PLANTED, looks) for seed in range(runs))
    return Measure(
        measure=f"a planted 51/49 of {PLANTED_UNITS:,} units, {runs} runs: found",
        value=found / runs,
        unit="of runs",
        goal=">= 1",
        holds=found == runs,
    )


def alarmed(seed: int, share: float, looks: NDArray[np.int64]) -> bool:
    """Whether a declared half that is ``share`` alarms at any look."""
    random = np.random.default_rng(seed)
    steps = np.diff(looks, prepend=0)
    first = random.binomial(steps, share).cumsum()
    declared = {"control": 0.5, "new": 0.5}
    return any(
        sample_ratio({"control": one, "new": all_ - one}, declared) > 1.0 / SRM_ALARM
        for one, all_ in zip(first.tolist(), looks.tolist(), strict=True)
    )


def planned(runs: int) -> Iterator[Measure]:
    """A difference of the planned size: how often it is seen within the planned decisions."""
    for method in ("fixed", "anytime", "ab"):
        answer, seen = kept(method, runs)
        # Three standard errors of the simulation below the promise.
        goal = answer.question.power - 3.0 * math.sqrt(0.16 / runs)
        yield Measure(
            measure=f"planner, {method}: {answer.decisions:,} decisions; seen within them, "
            f"{runs} runs",
            value=round(seen, 4),
            unit="of runs",
            goal=f">= {goal:.3f}",
            holds=seen >= goal,
        )


DIFFER, ARMS, GAIN = 0.25, 4, 0.05


def kept(method: Method, runs: int) -> tuple[Plan, float]:
    """The plan for 5 points, and how often a world of that difference keeps it."""
    spread = of_split(0.5) if method == "ab" else of_exploration(ARMS, EXPLORATION, 0.5, DIFFER)
    answer = plan(Question(GAIN, 20_000.0), spread, method)
    return answer, sum(seen(method, answer, seed) for seed in range(runs)) / runs


def seen(method: Method, answer: Plan, seed: int) -> bool:
    """Whether one world's lower bound came above 0 within the planned decisions."""
    random, n = np.random.default_rng(seed), answer.decisions
    if method == "ab":
        return split_seen(random, n)
    gap = gains(random, n)
    state = Asymptotic(n, worst=(-answer.spread.worst, answer.spread.worst))
    if method == "anytime":
        return bool((state.path(gap)[0] > 0).any())
    row = np.append(gap, -answer.spread.worst)
    return bool(row.mean() > 1.96 * row.std(ddof=1) / math.sqrt(n))


def gains(random: np.random.Generator, n: int) -> Floats:
    """Influence values of a candidate that is better by :data:`GAIN`, the reward model right."""
    rare, moved = EXPLORATION / ARMS, 1.0 - EXPLORATION
    better = GAIN / (DIFFER * moved)
    own, place = 0.5 + better / 2, random.random(n)
    differ = random.random(n) < DIFFER
    new, old = place < rare, place > 1.0 - moved - rare
    reward = random.random(n)
    surprise = np.where(new, (reward < own) - own, (reward < own - better) - own + better)
    weight = np.where(new, moved / rare, np.where(old, -moved / (moved + rare), 0.0))
    return np.asarray(np.where(differ, moved * better + weight * surprise, 0.0))


def split_seen(random: np.random.Generator, n: int) -> bool:
    """Whether an A/B experiment called the better variant better, at one of 100 looks."""
    side = random.random(n) < 0.5
    value = (random.random(n) < 0.5 + GAIN * (side - 0.5)).astype(np.float64)
    rules = Rules("score", {"control": 0.5, "new": 0.5}, planned_rows=n)
    unit = np.arange(n)
    for until in np.linspace(n / 100, n, 100).astype(int):
        metrics = {
            name: summed(value[:until], unit[:until], side[:until] == chosen, alone=True)
            for name, chosen in (("control", False), ("new", True))
        }
        counts = {name: each.units for name, each in metrics.items()}
        if judge(rules, counts, {"score": metrics}).status == "better":
            return True
    return False


if __name__ == "__main__":
    sys.exit(main(run))
