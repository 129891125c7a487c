"""Outcome-aware tool selection: vectors of tools, moved offline by what came of using them.

A tool starts as the vector of its description. Queries that succeeded with it pull it towards their
centroid, queries that failed push it away (Outcome-Aware Tool Selection, arXiv:2603.13426).
Serving stays one matrix product: ``queries @ vectors.T - offsets``.

Queries are more like queries than like descriptions, so tools that moved would outrank all that did
not: on MetaTool that costs tools without outcomes a fifth of their NDCG@5. Each refined tool
therefore has an offset, chosen so that it outranks the bare descriptions of other tools on a share
only of the queries on which its own description did. Pull, push and that share are chosen by
leaving out one query, and one tool, at a time; nobody has to tell them. A tool whose own left-out
queries rank worse than by its description gets a lower offset, or its description back.
"""

from dataclasses import dataclass

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
SHARES = (1.0, 0.7, 0.5, 0.35, 0.25, 0.15, 0.08)
"""Of the queries on which a description outranks others': what is left to a refined tool."""
LEAST = 3
"""Queries that succeeded, below which a tool keeps its description."""
TOLERANCE = 0.05
"""Tools that may rank worse, of those that are taken for tools without outcomes."""
RELIEF = 0.3
"""How far an offset may be lowered for a tool's own queries; cosines go from -1 to 1."""
RELIEF_STEP = 0.01
MAX_ROUNDS = 60
FOLDS = 5
MAX_TOOLS = 5_000
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
        vectors: ``(t, d)``; a tool that was not refined has its description's.
        offsets: ``(t,)``; 0 where it was not refined.
        refined: ``(t,)``, which were.
        pull: how many queries a description weighs as much as; 0 where nothing was refined.
        push: what failures weigh beside successes.
        share: what is left to refined tools of the queries of others.
        before: mean NDCG@5 of the successes by descriptions, in [0, 1].
        after: the same by what is served, each query left out of its own tool.
    """

    vectors: Floats
    offsets: Floats
    refined: Flags
    pull: float
    push: float
    share: float
    before: float
    after: float

    def scores(self, queries: Floats) -> Floats:
        """Scores ``(n, t)`` of queries ``(n, d)``: the higher, the likelier the tool serves."""
        found: Floats = queries @ self.vectors.T - self.offsets
        return found


def refine(tools: Floats, outcomes: Outcomes, *, least: int = LEAST, seed: int = 0) -> Refined:
    """Move the vectors of tools by outcomes, as far as left-out queries and tools say it helps.

    Args:
        tools: ``(t, d)``, vectors of descriptions, of Euclidean length 1.
        outcomes: what came of using them.
        least: successes below which a tool keeps its description, at least 2.
        seed: of the division of tools into folds.

    Raises:
        ValueError: Shapes disagree, or there is too much; the message says what to leave out.
    """
    _check(tools, outcomes, least)
    pairs, failed = pairs_of_outcomes(tools, outcomes)
    enough = np.bincount(pairs.tool, minlength=len(tools)) >= least
    if not enough.any():
        return _unmoved(tools, pairs)
    moves = moves_of(tools, outcomes.queries, pairs, failed, enough)
    step = _choose_step(moves, pairs)
    scores = moves.left_out(pairs, step)
    for share in _shares_that_spare(pairs, scores, enough, seed):
        offsets = ranking.offsets(pairs, scores, np.arange(len(pairs.tool)), (share,))[0]
        offsets, refined = _settle(pairs, scores, _raised(pairs, scores, offsets, enough), enough)
        if _spares(pairs, scores, offsets, refined):
            served = np.where(refined, scores - offsets, pairs.base)
            return Refined(
                vectors=np.where(refined[:, None], moves.vectors(step), tools).astype(np.float32),
                offsets=np.where(refined, offsets, 0.0).astype(np.float32),
                refined=refined,
                pull=step[0],
                push=step[1],
                share=share,
                before=_mean(ranking.ndcg(pairs, pairs.base, pairs.own_base)),
                after=_mean(ranking.ndcg(pairs, served, ranking.own(pairs, served))),
            )
    return _unmoved(tools, pairs)


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
        scores = moves.left_out(pairs, step)
        told.append(_mean(ranking.ndcg(pairs, scores, ranking.own(pairs, scores))))
    return steps[int(np.argmax(told))]


def _shares_that_spare(pairs: Pairs, scores: Floats, enough: Flags, seed: int) -> tuple[float, ...]:
    """Shares, the largest first, at which tools taken for ones without outcomes do not lose.

    The first is the largest at which few of them lose anything, else the smallest; on average none
    may cost them anything.

    The tools of a fold fall back on their descriptions one at a time, before offsets that were
    chosen without their queries.
    """
    fold = np.random.default_rng(seed).permutation(len(enough)) % FOLDS
    places = np.arange(len(pairs.tool))
    change = np.zeros((len(SHARES), len(places)))
    before = ranking.ndcg(pairs, pairs.base, pairs.own_base)
    for number in range(FOLDS):
        judged = fold[pairs.tool] == number
        if not judged.any() or judged.all():
            continue
        part = pairs.rows(judged)
        chosen = ranking.offsets(pairs, scores, places[~judged], SHARES)
        for place, offsets in enumerate(chosen):
            served = np.where(enough, scores[judged] - offsets, part.base)
            change[place, judged] = ranking.ndcg(part, served, part.own_base) - before[judged]
    changes = [_by_known_tool(row, pairs.tool) for row in change]
    good = [one.mean() >= 0.0 for one in changes]
    few = [(one < -ranking.SLACK).mean() <= TOLERANCE for one in changes]
    first = next((i for i in range(len(SHARES)) if good[i] and few[i]), len(SHARES) - 1)
    return tuple(share for i, share in enumerate(SHARES) if i >= first and good[i])


def _raised(pairs: Pairs, scores: Floats, offsets: Floats, enough: Flags) -> Floats:
    """Offsets at which no tool newly outranks a success of a tool with too few to be refined."""
    few = ~enough[pairs.tool]
    newly = few[:, None] & ~pairs.other & (pairs.base <= pairs.own_base[:, None])
    margins = np.where(newly, scores - pairs.own_base[:, None], -np.inf)
    found: Floats = np.maximum(offsets, margins.max(axis=0, initial=-np.inf)).astype(np.float32)
    return found


def _settle(pairs: Pairs, scores: Floats, offsets: Floats, enough: Flags) -> tuple[Floats, Flags]:
    """Lower the offsets of tools that rank their own left-out queries worse than by descriptions.

    Returns:
        Offsets, and which tools are refined: where no offset helps, a tool keeps its description.
    """
    tools = len(enough)
    base = ranking.by_tool(ranking.ndcg(pairs, pairs.base, pairs.own_base), pairs.tool, tools)
    refined, floor = enough.copy(), offsets - RELIEF
    for _ in range(MAX_ROUNDS):
        served = np.where(refined, scores - offsets, pairs.base)
        after = ranking.ndcg(pairs, served, ranking.own(pairs, served))
        worse = refined & (ranking.by_tool(after, pairs.tool, tools) < base - ranking.SLACK)
        if not worse.any():
            break
        offsets = np.where(worse, offsets - RELIEF_STEP, offsets).astype(np.float32)
        refined &= offsets >= floor
    return offsets, refined


def _spares(pairs: Pairs, scores: Floats, offsets: Floats, refined: Flags) -> bool:
    """Whether the offsets, as they were settled, still spare tools by their descriptions."""
    served = np.where(refined, scores - offsets, pairs.base)
    before = ranking.ndcg(pairs, pairs.base, pairs.own_base)
    change = ranking.ndcg(pairs, served, pairs.own_base) - before
    return bool(_by_known_tool(change, pairs.tool).mean() >= 0.0)


def _by_known_tool(values: NDArray[np.floating], tool: Ints) -> NDArray[np.float64]:
    """The mean of each tool that has pairs, so that none weighs more for having many."""
    known, place = np.unique(tool, return_inverse=True)
    return ranking.by_tool(values, place, len(known))


def _unmoved(tools: Floats, pairs: Pairs) -> Refined:
    before = _mean(ranking.ndcg(pairs, pairs.base, pairs.own_base))
    none = np.zeros(len(tools))
    return Refined(
        tools, none.astype(np.float32), none.astype(np.bool_), 0.0, 0.0, 0.0, before, before
    )


def _mean(values: NDArray[np.floating]) -> float:
    return float(values.mean()) if len(values) else 0.0
