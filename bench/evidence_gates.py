"""Whether the release gate lets the better through and keeps the worse out, on logs of real tables.

The champion is a table's best arm and explores 20 %; the candidate chooses otherwise on some rows,
so many that its true value is 3 points below the champion's, or 5 above both it and the best fixed
arm. In each run the planner says how many decisions a difference of 5 points needs, from a pilot of
4,000 (16,000 for one that few rows tell of); the gate then looks at new ones as rounds do, each
time the log has grown by half, at what a look may spend. Promoted is what passes all checks of the
real gate at any look until then.
"""

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from bench import tables
from bench.evidence_logs import TABLES, Floats, Ints, Source, by_domain, explored, side_of
from bench.measure import Measure, main
from controlplane.config import GateConfig
from controlplane.gates import Evidence, judge, level_of
from learners import ope
from learners.interactions import Interactions
from learners.ope import Evaluation
from learners.planner import Question, of_influence, plan
from learners.unseen import gain_seen

RUNS = 500
LOGGED, EXPLORED = 0.2, 0.02
WORSE, BETTER = -0.03, 0.05
POWER = 0.8
EACH = 1.0 - (1.0 - POWER) / 2.0
"""Of each of the two comparisons, so that both are seen with the power that is asked for."""
PILOT, FEW_PILOT = 4_000, 16_000
"""Decisions that the planner reads; of those that tell of few rows it needs more."""
GATE = GateConfig(growth=1.5)
DIFFER = 0.35
"""Of the rows, on which a better candidate and the champion prefer different arms."""
FEW_TABLE, FEW_RUNS = "llmrouter9", 100
_SAME = 1e-9


@dataclass(frozen=True, slots=True, eq=False)
class Duel:
    """Policies over a table's rows, ``(m, K)`` each."""

    source: Source
    candidate: Floats
    champion: Floats
    fixed: Floats

    @property
    def gains(self) -> tuple[float, float]:
        """The candidate's true value beyond the champion's, and beyond the best fixed arm's."""
        own = self.source.value(self.candidate)
        return own - self.source.value(self.champion), own - self.source.value(self.fixed)

    @property
    def differs(self) -> float:
        """Share of the rows on which candidate and champion prefer different arms."""
        own, other = (policy.argmax(axis=1) for policy in (self.candidate, self.champion))
        return float((own != other).mean())

    def looked_at(self, log: Interactions, rows: Ints, look: int) -> Evidence:
        """What a look finds in a log."""
        model = ope.reward_model(log)
        own, standing, reference = (
            ope.evaluate(log, policy[rows], "dr", predicted=model)
            for policy in (self.candidate, self.champion, self.fixed)
        )
        level, spread = level_of(GATE, look, 1), float(np.ptp(log.reward))
        over = [
            ope.difference(own, other, level=level, reward_range=spread)
            for other in (standing, reference)
        ]
        return Evidence(
            judged=len(log),
            value=ope.estimate(own),
            champion=ope.estimate(standing),
            best_fixed=ope.estimate(reference),
            over_champion=over[0],
            over_best_fixed=over[1],
            mean_weight=ope.mean_weight(own),
            champion_version=1,
            look=look,
            candidates=1,
            diagnostics=tuple(
                gain_seen(log, self.candidate[rows], other[rows], name=name)
                for name, other in (("champion", self.champion), ("best fixed arm", self.fixed))
            ),
        )


def run(quick: bool) -> list[Measure]:  # noqa: FBT001 — the one switch of every benchmark
    """All measures."""
    place = tables.folder()
    if place is None:
        return []
    runs = 5 if quick else RUNS
    found: list[Measure] = []
    for name in TABLES[2:3] if quick else TABLES:
        found += of_source(by_domain(name, side_of(place, name)), runs)
    if quick:
        return found
    few = by_domain(FEW_TABLE, side_of(place, FEW_TABLE))
    return [*found, together(found[::2], runs), of_few(few, FEW_RUNS)]


def of_source(source: Source, runs: int) -> Iterator[Measure]:
    """What becomes of both candidates on one table."""
    better, worse = duel(source, BETTER), duel(source, WORSE)
    said = [schedule(better, seed) for seed in range(runs)]
    yield in_time(better, said, "a candidate")
    passed = sum(promoted(worse, looks, seed) is not None for seed, looks in enumerate(said))
    yield Measure(
        measure=f"{source.name}: a candidate {worse.gains[0]:+.3f} against the champion: promoted "
        f"at any of the same looks, of {runs} runs",
        value=passed,
        unit="runs",
        goal="<= 1",
        holds=passed <= 1,
    )


def together(better: list[Measure], runs: int) -> Measure:
    """Over all tables, as a single one is right by luck or not where the planner just keeps it."""
    share = sum(one.value for one in better) / len(better)
    return Measure(
        measure=f"all tables: the better candidates promoted, of {runs * len(better):,} runs",
        value=round(share, 4),
        unit="of runs",
        goal=f">= {POWER}",
        holds=share >= POWER,
    )


def of_few(source: Source, runs: int) -> Measure:
    """The same gain on as few rows as it takes: hard for the floor of the effective sample size."""
    few = duel(source, BETTER, differ=0.0)
    said = [schedule(few, seed, FEW_PILOT) for seed in range(runs)]
    return in_time(few, said, f"one that differs on {few.differs:.0%} of the rows alone,")


def in_time(better: Duel, said: list[Ints], what: str) -> Measure:
    """How often a better candidate is promoted within the decisions that were said, run by run."""
    runs = len(said)
    seen = [promoted(better, looks, seed) for seed, looks in enumerate(said)]
    share = sum(when is not None for when in seen) / runs
    typical, most = (float(np.median([f(looks) for looks in said])) for f in (max, len))
    half = float(np.median([when or math.inf for when in seen]))
    by = f"{half:,.0f}" if math.isfinite(half) else "none of them"
    return Measure(
        measure=f"{better.source.name}: {what} {better.gains[0]:+.3f} over the champion, "
        f"{better.gains[1]:+.3f} over the best arm: promoted within the decisions that the planner "
        f"said (median {typical:,.0f} in {most:.0f} looks; half of {runs} runs by {by})",
        value=round(share, 4),
        unit="of runs",
        goal=f">= {POWER}",
        holds=share >= POWER,
    )


def duel(source: Source, gain: float, *, differ: float = DIFFER) -> Duel:
    """A candidate whose true gain is as asked.

    A better one turns to a right arm on just so many rows that the best arm fails, and to one that
    is as good on others, until it differs on a part of all; a worse one to any arm on any rows.

    Raises:
        ValueError: The table has nothing to gain so much by.
    """
    random = np.random.default_rng(0)
    fixed = source.best()
    champion, rows = explored(fixed, LOGGED), np.arange(len(source))
    idea = random.random(size=source.scores.shape) * (1e-6 if gain > 0 else 1.0)
    if gain > 0:
        idea += source.scores
    other = np.where(fixed > 0, -np.inf, idea).argmax(axis=1)
    steps = source.scores[rows, other] - source.scores[rows, fixed.argmax(axis=1)]
    order = random.permutation(rows)
    if gain > 0:
        order = order[steps[order] > _SAME]
    bar = max(source.value(champion), source.value(fixed) if gain > 0 else 0.0)
    base = source.value(explored(fixed, EXPLORED)) - bar
    reached = base + (1.0 - EXPLORED) * steps[order].cumsum() / len(rows)
    enough = reached >= gain if gain > 0 else reached <= gain
    if not enough.any():
        most = reached.max(initial=base)
        raise ValueError(f"{source.name}: no candidate gains {gain}, {most:.3f} at most")
    moved = order[: int(enough.argmax()) + 1]
    if gain > 0:
        alike = random.permutation(rows[np.abs(steps) <= _SAME])
        moved = np.append(moved, alike[: max(0, round(differ * len(rows)) - len(moved))])
    favourite = fixed.copy()
    favourite[moved] = np.eye(source.arms)[other[moved]]
    return Duel(source, explored(favourite, EXPLORED), champion, fixed)


def schedule(better: Duel, seed: int, pilot: int = PILOT) -> Ints:
    """The decisions at each look; the last are those that the planner says, for both comparisons.

    How much a look may spend depends on how many came before, so both are sought together.
    """
    rows, log = better.source.drawn(np.random.default_rng((seed, 1)), better.champion, pilot)
    model = ope.reward_model(log)
    own, *others = (
        ope.evaluate(log, policy[rows], "dr", predicted=model)
        for policy in (better.candidate, better.champion, better.fixed)
    )
    looks = np.array([GATE.min_judged])
    for _ in range(8):
        level = level_of(GATE, len(looks), 1)
        decisions = max(needed(own, other, level) for other in others)
        count = 1 + int(math.log(max(1.0, decisions / GATE.min_judged)) / math.log(GATE.growth))
        again = np.rint(decisions / GATE.growth ** np.arange(count)[::-1]).astype(np.int64)
        if len(again) == len(looks):
            return again
        looks = again
    return looks


def needed(own: Evaluation, other: Evaluation, level: float) -> int:
    """What the planner says of a gain of 5 points over another policy."""
    shift = own.weights - other.weights
    spread = of_influence(
        own.influence - other.influence, worst=float(np.abs(shift).max()), shift=shift
    )
    question = Question(BETTER, 20_000.0, EACH, level, min_effective_n=GATE.min_effective_n)
    return plan(question, spread, "fixed").decisions


def promoted(duel: Duel, looks: Ints, seed: int) -> int | None:
    """After how many decisions the gate let the candidate through; None if at none of the looks."""
    rows, log = duel.source.drawn(np.random.default_rng(seed), duel.champion, int(looks[-1]))
    for look, until in enumerate(looks.tolist(), 1):
        evidence = duel.looked_at(log.rows(slice(until)), rows[:until], look)
        if judge(evidence, GATE).passed:
            return int(until)
    return None


if __name__ == "__main__":
    sys.exit(main(run))
