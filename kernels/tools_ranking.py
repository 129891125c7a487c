"""How tools rank: orders in which some keep their places, and NDCG@5 of queries that succeeded."""

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
        other: ``(m, t)``, tools that are not ranked against the pair's: itself, and
            others that served the query too.
    """

    query: Ints
    tool: Ints
    vectors: Floats
    base: Floats
    other: Flags


def pairs_of(tools: Floats, queries: Floats, served: tuple[Ints, Ints]) -> Pairs:
    """The pairs of query and tool, with their scores by descriptions."""
    query, tool = served
    vectors = queries[query]
    base: Floats = vectors @ tools.T
    rights = np.zeros((len(queries), len(tools)), np.bool_)
    rights[query, tool] = True
    return Pairs(query, tool, vectors, base, rights[query])


def order(scores: Floats) -> Ints:
    """Tools ``(n, t)``, best first, of scores ``(n, t)``; ties as they come."""
    found: Ints = np.argsort(-scores, axis=1, kind="stable")
    return found


def placed(base: Floats, scores: Floats, movable: Flags) -> Ints:
    """Tools ``(n, t)``, best first: movable ones by their scores, on places they had by ``base``.

    Args:
        base: ``(n, t)``, by which the others keep their places.
        scores: ``(n, t)``.
        movable: ``(t,)``.
    """
    first = order(base)
    best = order(np.where(movable, scores, -np.inf).astype(np.float32))
    first[movable[first]] = best[:, : int(movable.sum())].ravel()
    return first


def ndcg(pairs: Pairs, order: Ints) -> Floats:
    """NDCG@5 ``(m,)`` of each pair by itself: 1 for the first place, 0 below the fifth.

    Järvelin and Kekäläinen 2002, with one relevant tool; others that served the query too are left
    out of the ranking.
    """
    place = (order == pairs.tool[:, None]).argmax(axis=1)
    ahead = np.arange(order.shape[1]) < place[:, None]
    others = ahead & np.take_along_axis(pairs.other, order, axis=1)
    rank = place - others.sum(axis=1)
    found: Floats = np.where(rank < DEPTH, 1.0 / np.log2(rank + 2.0), 0.0).astype(np.float32)
    return found


def by_tool(values: NDArray[np.floating], tool: Ints, tools: int) -> NDArray[np.float64]:
    """Mean ``(t,)`` of the values of each tool's pairs; 0 where it has none."""
    many = np.bincount(tool, minlength=tools)
    found: NDArray[np.float64] = np.bincount(tool, values, minlength=tools) / np.maximum(many, 1)
    return found


def unit(vectors: NDArray[np.floating]) -> Floats:
    """Rows scaled to Euclidean length 1; a row of zeros stays."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    found: Floats = (vectors / np.maximum(lengths, SLACK)).astype(np.float32)
    return found
