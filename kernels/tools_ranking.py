"""How tools rank for queries that succeeded: NDCG@5 pair by pair, and the offsets that guard it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]
DEPTH = 5
"""Tools that are offered; a tool that ranks below counts as not found."""
SLACK = 1e-9


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """Queries with a tool that served each.

    Args:
        query: ``(m,)``, the row of the query.
        tool: ``(m,)``.
        vectors: ``(m, d)``, the queries'.
        base: ``(m, t)``, scores by descriptions.
        own_base: ``(m,)``, that of the pair's tool.
        other: ``(m, t)``, tools that are not ranked against the pair's: itself, and
            others that served the query too.
    """

    query: Ints
    tool: Ints
    vectors: Floats
    base: Floats
    own_base: Floats
    other: Flags

    def rows(self, which: Flags) -> "Pairs":
        """Some of the pairs."""
        return Pairs(
            self.query[which],
            self.tool[which],
            self.vectors[which],
            self.base[which],
            self.own_base[which],
            self.other[which],
        )


def pairs_of(tools: Floats, queries: Floats, served: tuple[Ints, Ints]) -> Pairs:
    """The pairs of query and tool, with their scores by descriptions."""
    query, tool = served
    vectors = queries[query]
    base: Floats = vectors @ tools.T
    rights = np.zeros((len(queries), len(tools)), np.bool_)
    rights[query, tool] = True
    return Pairs(query, tool, vectors, base, base[np.arange(len(tool)), tool], rights[query])


def own(pairs: Pairs, scores: Floats) -> Floats:
    """The score ``(m,)`` of each pair's own tool."""
    found: Floats = scores[np.arange(len(pairs.tool)), pairs.tool]
    return found


def ndcg(pairs: Pairs, scores: Floats, own: Floats) -> Floats:
    """NDCG@5 ``(m,)`` of each pair by itself: 1 for the first place, 0 below the fifth.

    Järvelin and Kekäläinen 2002, with one relevant tool; others that served the query too are left
    out of the ranking.
    """
    rank = ((scores > own[:, None]) & ~pairs.other).sum(axis=1)
    found: Floats = np.where(rank < DEPTH, 1.0 / np.log2(rank + 2.0), 0.0)
    return found


def by_tool(values: NDArray[np.floating], tool: Ints, tools: int) -> NDArray[np.float64]:
    """Mean ``(t,)`` of the values of each tool's pairs; 0 where it has none."""
    many = np.bincount(tool, minlength=tools)
    found: NDArray[np.float64] = np.bincount(tool, values, minlength=tools) / np.maximum(many, 1)
    return found


def offsets(pairs: Pairs, scores: Floats, rows: Ints, shares: Sequence[float]) -> Floats:
    """Offsets ``(s, t)`` that leave a tool a share of the queries that it took by its description.

    A tool takes a query of another tool where it outranks that tool's description. Queries weigh
    so that every tool that loses some weighs the same, however many it has.

    Args:
        pairs: the queries.
        scores: ``(m, t)``, by the vectors that get offsets.
        rows: the pairs that count.
        shares: each at least 0.
    """
    tool = pairs.tool[rows]
    weight = 1.0 / np.bincount(tool, minlength=1)[tool]
    foreign = ~pairs.other[rows]
    level = pairs.own_base[rows][:, None]
    taken = (weight[:, None] * (foreign & (pairs.base[rows] > level))).sum(axis=0)
    margins = np.where(foreign, scores[rows] - level, -np.inf)
    order = np.argsort(-margins, axis=0)
    sums = np.cumsum(weight[order], axis=0)
    ranked = np.take_along_axis(margins, order, axis=0)
    found = [_at(ranked, (sums <= share * taken).sum(axis=0)) for share in shares]
    return np.array(found, dtype=np.float32)


def _at(ranked: Floats, place: Ints) -> Floats:
    """The margin ``(t,)`` of the first query that a tool may not take."""
    last = np.minimum(place, len(ranked) - 1)
    found: Floats = ranked[last, np.arange(ranked.shape[1])]
    return np.where(np.isfinite(found), found, 0.0).astype(np.float32)


def unit(vectors: NDArray[np.floating]) -> Floats:
    """Rows scaled to Euclidean length 1; a row of zeros stays."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    found: Floats = (vectors / np.maximum(lengths, SLACK)).astype(np.float32)
    return found
