"""Outcome-aware tool selection: vectors of tools, moved offline by what came of using them.

A tool starts as the vector of its description. Queries that succeeded with it pull it towards their
centroid, queries that failed push it away (Outcome-Aware Tool Selection, arXiv:2603.13426). How
hard is chosen by leaving out one query at a time; nobody has to tell.

Queries are more like queries than like descriptions, so tools that moved would outrank all that
did not: on MetaTool that costs tools without outcomes a quarter of their NDCG@5. Refined tools
therefore change places among themselves only: a tool with too few outcomes keeps the place that its
description gives it, whatever the others learnt. A tool whose own left-out queries rank worse once
the others have moved is favoured by a constant, or else keeps its place too. Serving stays one
matrix product, of twice the size while some tools are not refined.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from kernels import tools_ranking as ranking
from kernels.tools_moves import Moves, Step, moves_of
from kernels.tools_ranking import Floats, Pairs

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]
PULLS = (1.0, 3.0, 10.0)
"""How many queries a description weighs as much as."""
PUSHES = (0.0, 0.25, 0.5, 0.75)
"""How much the centroid of what pushes weighs beside that of what pulls."""
LEAST = 3
"""Queries that succeeded, below which a tool keeps its description."""
FAVOUR = 0.02
"""What is added to the scores of a tool that loses by the others' moves, at most ROUNDS times."""
ROUNDS = 15
MAX_TOOLS = 4_096
MAX_CELLS = 20_000_000
"""Successes times tools: 80 MB for each matrix of scores, of which there are a few."""
UNIT_SLACK = 1e-3


@dataclass(frozen=True, slots=True, eq=False)
class Outcomes:
    """What came of using tools.

    Args:
        queries: ``(n, d)``, vectors of Euclidean length 1.
        query: ``(m,)``, the row of ``queries`` of each outcome.
        tool: ``(m,)``, the tool that was used.
        success: ``(m,)``, whether it served the query.

    Raises:
        ValueError: Shapes disagree, or a row names a query that is not there.
    """

    queries: Floats
    query: Ints
    tool: Ints
    success: Flags

    def __post_init__(self) -> None:
        """Check."""
        _require_unit("queries", self.queries)
        if not self.query.shape == self.tool.shape == self.success.shape == (len(self.query),):
            raise ValueError(
                f"query, tool and success have shapes {self.query.shape}, {self.tool.shape} and "
                f"{self.success.shape}: give one row of each for every outcome"
            )
        if len(self.query) and not 0 <= self.query.min() <= self.query.max() < len(self.queries):
            raise ValueError(
                f"query goes from {self.query.min()} to {self.query.max()}: there are "
                f"{len(self.queries)} queries, counted from 0"
            )


@dataclass(frozen=True, slots=True, eq=False)
class Refined:
    """Tools as they are served.

    Args:
        descriptions: ``(t, d)``.
        vectors: ``(t, d)``; a tool that was not refined has its description's.
        favours: ``(t,)``, added to the scores; 0 for most.
        refined: ``(t,)``, which were.
        pull: how many queries a description weighs as much as; 0 where nothing was refined.
        push: what failures weigh beside successes.
        before: mean NDCG@5 of the successes by descriptions, in [0, 1].
        after: the same as served, each query left out of all that it moves.
    """

    descriptions: Floats
    vectors: Floats
    favours: Floats
    refined: Flags
    pull: float
    push: float
    before: float
    after: float

    def scores(self, queries: Floats) -> Floats:
        """Scores ``(n, t)`` of queries ``(n, d)``, by which refined tools rank among themselves."""
        found: Floats = queries @ self.vectors.T + self.favours
        return found

    def order(self, queries: Floats) -> Ints:
        """All tools for each query, best first: ``(n, t)`` of queries ``(n, d)``."""
        if self.refined.all():
            return ranking.order(self.scores(queries))
        return ranking.placed(queries @ self.descriptions.T, self.scores(queries), self.refined)

    def only(self, rows: Ints) -> "Refined":
        """Some of the tools: those of ``rows``, in their order."""
        return replace(
            self,
            descriptions=self.descriptions[rows],
            vectors=self.vectors[rows],
            favours=self.favours[rows],
            refined=self.refined[rows],
        )


def refine(tools: Floats, outcomes: Outcomes, *, least: int = LEAST) -> Refined:
    """Move the vectors of tools by outcomes, as far as left-out queries say that it helps.

    Args:
        tools: ``(t, d)``, vectors of descriptions, of Euclidean length 1.
        outcomes: what came of using them.
        least: successes below which a tool keeps its description, at least 2.

    Raises:
        ValueError: Shapes disagree, or there is too much; the message says what to leave out.
    """
    _check(tools, outcomes, least)
    pairs, failed = pairs_of_outcomes(tools, outcomes)
    before = ranking.ndcg(pairs, ranking.order(pairs.base))
    enough = np.bincount(pairs.tool, minlength=len(tools)) >= least
    if not enough.any():
        none = np.zeros(len(tools), np.float32)
        return Refined(tools, tools, none, enough, 0.0, 0.0, _mean(before), _mean(before))
    moves = moves_of(tools, outcomes.queries, pairs, failed, enough)
    step = _choose_step(moves, pairs)
    refined, favours, after = _settle(pairs, moves.left_out(pairs, step), enough, before)
    vectors = np.where(refined[:, None], moves.vectors(step), tools).astype(np.float32)
    return Refined(tools, vectors, favours, refined, *step, _mean(before), _mean(after))


def pairs_of_outcomes(tools: Floats, outcomes: Outcomes) -> tuple[Pairs, tuple[Ints, Ints]]:
    """Queries with the tools that served them, and query and tool of each failure; each once."""
    pairs = ranking.pairs_of(tools, outcomes.queries, _of(outcomes, good=True))
    return pairs, _of(outcomes, good=False)


def _check(tools: Floats, outcomes: Outcomes, least: int) -> None:
    _require_unit("tools", tools)
    if tools.shape[1] != outcomes.queries.shape[1]:
        raise ValueError(
            f"tools have {tools.shape[1]} numbers each and queries {outcomes.queries.shape[1]}: "
            "embed both by one encoder"
        )
    if len(tools) > MAX_TOOLS:
        raise ValueError(f"{len(tools)} tools: at most {MAX_TOOLS} are refined together")
    if least < 2:
        raise ValueError(f"least is {least}: a tool needs 2 successes for one to be left out")
    if len(outcomes.tool) and not 0 <= outcomes.tool.min() <= outcomes.tool.max() < len(tools):
        raise ValueError(
            f"tool goes from {outcomes.tool.min()} to {outcomes.tool.max()}: there are "
            f"{len(tools)} tools, counted from 0"
        )
    cells = int(outcomes.success.sum()) * len(tools)
    if cells > MAX_CELLS:
        raise ValueError(
            f"{int(outcomes.success.sum())} successes for {len(tools)} tools: give the newest "
            f"{MAX_CELLS // len(tools)}"
        )


def _require_unit(name: str, vectors: Floats) -> None:
    if vectors.ndim != 2:
        raise ValueError(f"{name} has the shape {vectors.shape}: give one row for each")
    lengths = np.linalg.norm(vectors, axis=1)
    if not (np.abs(lengths - 1.0) <= UNIT_SLACK).all():  # NaN is not either
        row = int(np.argmin(np.abs(lengths - 1.0) <= UNIT_SLACK))
        raise ValueError(f"{name}, row {row} has the length {lengths[row]:g}: scale it to 1")


def _of(outcomes: Outcomes, *, good: bool) -> tuple[Ints, Ints]:
    """Pairs of query and tool, each once."""
    rows = np.stack([outcomes.query, outcomes.tool], axis=1)[outcomes.success == good]
    query, tool = np.unique(rows, axis=0).T.astype(np.int64).reshape(2, -1)
    return query, tool


def _choose_step(moves: Moves, pairs: Pairs) -> Step:
    """Pull and push by which left-out queries rank best; the first wins a tie."""
    steps = [(pull, push) for push in PUSHES for pull in PULLS]
    told = []
    for step in steps:
        order = ranking.placed(pairs.base, moves.left_out(pairs, step), moves.enough)
        told.append(_mean(ranking.ndcg(pairs, order)))
    return steps[int(np.argmax(told))]


def _settle(
    pairs: Pairs, scores: Floats, enough: Flags, before: Floats
) -> tuple[Flags, Floats, Floats]:
    """Favour tools whose left-out queries rank worse than by descriptions, else give places back.

    Returns:
        Which tools are refined, the favour of each, and the NDCG@5 of each pair as they then
        rank. No tool's mean is below what it was by descriptions.
    """
    base = ranking.by_tool(before, pairs.tool, len(enough))
    refined, favours = enough.copy(), np.zeros(len(enough), np.float32)
    rounds = 0
    while True:
        order = ranking.placed(pairs.base, scores + favours, refined)
        after = ranking.ndcg(pairs, order)
        told = ranking.by_tool(after, pairs.tool, len(enough))
        worse = refined & (told < base - ranking.SLACK)
        if not worse.any():
            return refined, np.where(refined, favours, 0.0).astype(np.float32), after
        rounds += 1
        if rounds <= ROUNDS:
            favours[worse] += FAVOUR
        else:
            refined &= ~worse


def _mean(values: Floats) -> float:
    return float(values.mean()) if len(values) else 0.0
