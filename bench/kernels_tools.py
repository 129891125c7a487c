"""Tool selection: what outcomes add to descriptions on queries that were not seen.

``metatool`` (175 tools) is split by query, 70 to 30, three times, nothing being chosen on the part
that measures. What is logged are its labels, as successes, and as failures the first choice by
descriptions where that was wrong. In the sparse setting a fifth of the tools has no outcome in the
log, and a fifth one or two. The plain pull beside it is the paper's: tools that move are free to
outrank those that do not. The ceiling is what the nearest of all logged queries tells: some queries
would be served by several tools, of which the table names one.
"""

import csv
import gzip
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from time import perf_counter
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from bench import kernels_tools_serving, minilm, tables
from bench.measure import Measure, at_most, main, seconds_each
from kernels import tools_ranking as ranking
from kernels import tools_rerank
from kernels.tools import LEAST, Outcomes, Refined, refine

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]
TEST_SHARE = 0.3
GAIN_GOAL, FIRST_GOAL = 0.05, 0.70
SPLITS = (0, 1, 2)
PLAIN_PULL = 3.0
SERVED_GOAL = 2.0
"""Times the order by descriptions."""
KEPT, KEPT_GOAL = kernels_tools_serving.KEPT, 0.05


def run(quick: bool) -> list[Measure]:  # noqa: FBT001 — the one switch of every benchmark
    """All measures; none where there are no tables."""
    place = tables.folder()
    if place is None:
        return []
    table = Table(place)
    splits = SPLITS[:1] if quick else SPLITS
    return [
        *described(table),
        *known(table, splits),
        *sparse(table, splits),
        *second_look(table, splits),
        *several(table),
        served(table, quick=quick),
        *kernels_tools_serving.run(quick),
    ]


class Labelled(Protocol):
    """Vectors of tools ``(t, d)`` and queries ``(n, d)``, and the tool of each query ``(n,)``."""

    @property
    def names(self) -> Sequence[str]: ...
    @property
    def tool(self) -> Ints: ...
    @property
    def tools(self) -> Floats: ...
    @property
    def queries(self) -> Floats: ...


class Table:
    """The table, and vectors of its texts."""

    def __init__(self, place: Path) -> None:
        entries = json.loads((place / "metatool_tools.json").read_text(encoding="utf-8"))
        self.names = [str(one["tool"]) for one in entries]
        self.descriptions = [str(one["description"]) for one in entries]
        rows = read(place / "metatool.csv.gz")
        self.texts = [row["query_text"] for row in rows]
        index = {name: place for place, name in enumerate(self.names)}
        self.tool = np.array([index[row["tool"]] for row in rows])
        both = read(place / "metatool_multi.csv.gz")
        self.both_texts = [row["query_text"] for row in both]
        self.both = [[index[name] for name in row["tools"].split("|")] for row in both]

    @cached_property
    def tools(self) -> Floats:
        return minilm.embed(self.descriptions)

    @cached_property
    def queries(self) -> Floats:
        return minilm.embed(self.texts)


def read(path: Path) -> list[dict[str, str]]:
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """Rows of the table that are logged, and rows that judge."""

    log: Ints
    test: Ints

    @classmethod
    def of(cls, table: Labelled, seed: int) -> "Split":
        order = np.random.default_rng(seed).permutation(len(table.tool))
        cut = round(TEST_SHARE * len(order))
        return cls(np.sort(order[cut:]), np.sort(order[:cut]))

    def thinned(self, table: Labelled, seed: int) -> "Split":
        """A fifth of the tools has no row in the log, and another fifth has one or two."""
        rng = np.random.default_rng(1_000 + seed)
        tools = rng.permutation(len(table.names))
        few = len(tools) // 5
        most = np.full(len(tools), len(table.tool))
        most[tools[:few]] = 0
        most[tools[few : 2 * few]] = rng.integers(1, LEAST, size=few)
        rows = rng.permutation(self.log)
        nth = np.zeros(len(tools), np.int64)
        kept = []
        for row in rows.tolist():
            tool = table.tool[row]
            if nth[tool] < most[tool]:
                kept.append(row)
            nth[tool] += 1
        return Split(np.sort(np.array(kept)), self.test)


def outcomes(table: Labelled, split: Split) -> Outcomes:
    """Labels as successes, and the wrong ones of the first choices by descriptions as failures."""
    queries, right = table.queries[split.log], table.tool[split.log]
    first = (queries @ table.tools.T).argmax(axis=1)
    wrong = np.flatnonzero(first != right)
    every = np.arange(len(right))
    return Outcomes(
        queries,
        np.concatenate([every, wrong]),
        np.concatenate([right, first[wrong]]),
        np.arange(len(every) + len(wrong)) < len(every),
    )


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """How the test side ranks by some scores, a number each row."""

    ndcg: Floats
    first: Floats

    @classmethod
    def of(cls, table: Table, test: Ints, order: Ints) -> "Judged":
        tool = table.tool[test]
        pairs = ranking.pairs_of(table.tools, table.queries[test], (np.arange(len(tool)), tool))
        found = ranking.ndcg(pairs, order)
        return cls(found, (found == 1.0).astype(np.float32))


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """One split, judged by descriptions, by the plain pull, and as refined."""

    tool: Ints
    logged: Ints
    before: Judged
    plain: Judged
    after: Judged
    refined: Refined
    seconds: float

    @classmethod
    def of(cls, table: Table, split: Split) -> "Trial":
        log = outcomes(table, split)
        started = perf_counter()
        refined = refine(table.tools, log)
        seconds = perf_counter() - started
        queries = table.queries[split.test]
        bare, free = (queries @ one.T for one in (table.tools, pulled(table, split)))
        orders = (ranking.order(bare), ranking.order(free), refined.order(queries))
        logged = np.bincount(table.tool[split.log], minlength=len(table.names))
        before, plain, after = (Judged.of(table, split.test, one) for one in orders)
        return cls(table.tool[split.test], logged, before, plain, after, refined, seconds)

    def worse(self, which: Flags) -> int:
        """Of these tools, how many the test side ranks worse than by descriptions."""
        many = len(self.logged)
        change = ranking.by_tool(self.after.ndcg - self.before.ndcg, self.tool, many)
        return int((change[which] < -ranking.SLACK).sum())


def pulled(table: Table, split: Split) -> Floats:
    """The plain pull: descriptions and logged queries, averaged, none spared."""
    sums = PLAIN_PULL * table.tools
    np.add.at(sums, table.tool[split.log], table.queries[split.log])
    return ranking.unit(sums)


def described(table: Table) -> list[Measure]:
    """The table itself: what it leaves open."""
    named: dict[str, set[int]] = {}
    for text, tool in zip(table.texts, table.tool.tolist(), strict=True):
        named.setdefault(text.strip().lower(), set()).add(tool)
    close = table.tools @ table.tools.T - 2 * np.eye(len(table.tools), dtype=np.float32)
    return [
        Measure(
            "metatool: texts that two tools claim", sum(len(v) > 1 for v in named.values()), ""
        ),
        Measure(
            "metatool: tools with a neighbour's description at cosine >= 0.7",
            int((close.max(axis=1) >= 0.7).sum()),
            f"of {len(table.tools)}",
        ),
    ]


def known(table: Table, splits: Sequence[int]) -> list[Measure]:
    """Every tool has outcomes."""
    trials = [Trial.of(table, Split.of(table, seed)) for seed in splits]
    before, plain, after = (_mean(trials, name, "ndcg") for name in _WAYS)
    first = [_mean(trials, name, "first") for name in _WAYS]
    name = "metatool, all tools known"
    return [
        Measure(f"{name}: NDCG@5 by descriptions", _round(before), ""),
        _gain(f"{name}: NDCG@5 refined", after, before, GAIN_GOAL),
        Measure(f"{name}: NDCG@5 by the plain pull", _round(plain), ""),
        Measure(f"{name}: first choice right by descriptions", _round(first[0]), ""),
        _least(f"{name}: first choice right, refined", first[2], FIRST_GOAL),
        Measure(f"{name}: first choice right by the plain pull", _round(first[1]), ""),
        Measure(f"{name}: first choice right by the nearest logged query", _nearest(table), ""),
        _kept(table, splits, trials),
        Measure(
            f"{name}: tools that rank worse than by descriptions",
            statistics.mean(one.worse(one.logged >= LEAST) for one in trials),
            f"of {len(table.names)}",
        ),
        Measure(f"{name}: refining", _round(statistics.median(t.seconds for t in trials)), "s"),
    ]


_WAYS = ("before", "plain", "after")


def sparse(table: Table, splits: Sequence[int]) -> list[Measure]:
    """Some tools have few outcomes and some none."""
    halves = [(seed, Split.of(table, seed)) for seed in splits]
    trials = [Trial.of(table, split.thinned(table, seed)) for seed, split in halves]
    kinds: dict[str, Callable[[Ints], Flags]] = {
        "no outcomes": lambda logged: logged == 0,
        "one or two": lambda logged: (logged > 0) & (logged < LEAST),
        "more": lambda logged: logged >= LEAST,
    }
    found = []
    for kind, of in kinds.items():
        wanted = [of(one.logged) for one in trials]
        before, plain, after = (_mean(trials, name, "ndcg", wanted) for name in _WAYS)
        name = f"metatool, sparse: tools with {kind}"
        worse = sum(one.worse(which) for one, which in zip(trials, wanted, strict=True))
        goal = 0.0 if kind != "more" else GAIN_GOAL
        found += [
            _gain(f"{name}: NDCG@5 refined", after, before, goal),
            Measure(f"{name}: NDCG@5 by the plain pull", _round(plain), ""),
            Measure(
                f"{name}: rank worse than by descriptions",
                worse,
                f"of {sum(int(which.sum()) for which in wanted)}",
                goal=None if kind == "more" else "<= 0",
                holds=None if kind == "more" else worse == 0,
            ),
        ]
    return found


def second_look(table: Table, splits: Sequence[int]) -> list[Measure]:
    """Reordering the first five: where all tools are known, and where some are not."""
    found = []
    for setting in ("all tools known", "sparse"):
        before: list[bool] = []
        after: list[bool] = []
        for seed in splits:
            split = Split.of(table, seed)
            split = split if setting != "sparse" else split.thinned(table, seed)
            log = outcomes(table, split)
            refined = refine(table.tools, log)
            second = tools_rerank.fit(table.tools, log, refined)
            queries, right = table.queries[split.test], table.tool[split.test]
            order = refined.order(queries)
            before += (order[:, 0] == right).tolist()
            order = order if second is None else second.order(refined, queries)
            after += (order[:, 0] == right).tolist()
        name = f"metatool, {setting}: first choice right after a second look"
        base = statistics.mean(before)
        found.append(_gain(name, statistics.mean(after), base, 0.0, "without it"))
    return found


def several(table: Table) -> list[Measure]:
    """Queries that need two tools, by what queries that need one have taught."""
    refined = refine(table.tools, outcomes(table, Split.of(table, 0)))
    queries = minilm.embed(table.both_texts)
    served = np.array([(q, tool) for q, tools in enumerate(table.both) for tool in tools])
    pairs = ranking.pairs_of(table.tools, queries, (served[:, 0], served[:, 1]))
    before = ranking.ndcg(pairs, ranking.order(pairs.base)).mean()
    after = ranking.ndcg(pairs, refined.order(queries)[served[:, 0]]).mean()
    name = "metatool_multi: NDCG@5 of each of two tools, the other left out, refined"
    return [_gain(name, float(after), float(before), 0.0)]


def served(table: Table, *, quick: bool) -> Measure:
    """A query's order of tools beside that by descriptions: a product of the same size, sorted."""
    refined = refine(table.tools, outcomes(table, Split.of(table, 0)))
    query = table.queries[:1]
    rounds = 7 if quick else 31
    works = (lambda: ranking.order(query @ table.tools.T), lambda: refined.order(query))
    bare, whole = (s * 1e6 for s in seconds_each(works, rounds=rounds, calls=500))
    return at_most(
        "order of 175 tools for one query, refined",
        whole,
        "µs",
        reference=("the same by descriptions", bare),
        limit=SERVED_GOAL * bare,
    )


def _kept(table: Table, splits: Sequence[int], trials: Sequence[Trial]) -> Measure:
    """How often the tool that serves is among those that an edge would pass on."""
    before, after = [], []
    for seed, trial in zip(splits, trials, strict=True):
        test = Split.of(table, seed).test
        queries, right = table.queries[test], table.tool[test][:, None]
        bare = ranking.order(queries @ table.tools.T)
        before += (bare[:, :KEPT] == right).any(axis=1).tolist()
        after += (trial.refined.order(queries)[:, :KEPT] == right).any(axis=1).tolist()
    name = f"metatool, all tools known: the right tool is among {KEPT}, refined"
    return _gain(name, statistics.mean(after), statistics.mean(before), KEPT_GOAL)


def _nearest(table: Table) -> float:
    split = Split.of(table, 0)
    near = (table.queries[split.test] @ table.queries[split.log].T).argmax(axis=1)
    right = table.tool[split.log][near] == table.tool[split.test]
    return _round(float(right.mean()))


def _mean(
    trials: Sequence[Trial], way: str, what: str, wanted: Sequence[Flags] | None = None
) -> float:
    parts = []
    for place, trial in enumerate(trials):
        values = getattr(getattr(trial, way), what)
        parts.append(values if wanted is None else values[wanted[place][trial.tool]])
    return float(np.concatenate(parts).mean())


def _gain(
    name: str, after: float, before: float, goal: float, against: str = "by descriptions"
) -> Measure:
    return Measure(
        name,
        _round(after),
        "",
        reference=f"{against}: {_round(before):g}",
        ratio=_round(after / before),
        goal=f">= {_round(before + goal):g}",
        holds=after >= before + goal,
    )


def _least(name: str, value: float, goal: float) -> Measure:
    return Measure(name, _round(value), "", goal=f">= {goal:g}", holds=value >= goal)


def _round(value: float) -> float:
    return float(f"{value:.4g}")


if __name__ == "__main__":
    sys.exit(main(run))
